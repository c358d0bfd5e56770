"""All downloads of one cluster, over as many connections as it grants, through lines that drop.

A round lasts as long as a connection is at work. One that drops while others go on is opened again at once; when none
is left, the next round starts after a pause. Pauses grow, and tries count, for as long as rounds bring nothing.
On near lines a `Gate` says which connections are at work.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import paramiko

from embmerge.errors import ConnectError, ConnectionLost, EmbmergeError, HostKeyError
from embmerge.events import Detail, Observer, Queued, Retrying, Warned
from embmerge.remote import retry
from embmerge.remote.cluster import Cluster
from embmerge.remote.gate import NEAR, Gate
from embmerge.remote.lane import LOOK_AROUND, ON_THE_WAY, FastLane
from embmerge.remote.pace import Pace
from embmerge.remote.plainlane import PlainLane
from embmerge.remote.session import no_session
from embmerge.remote.sftp import SftpChannel, WireError
from embmerge.remote.transport import without_gcm
from embmerge.remote.verification import Expected, finish_all
from embmerge.remote.work import Work
from embmerge.settings import Settings

_BYTES_A_LANE = 8 << 20  # below that, a further login costs more than it brings
_FILES_A_LANE = 16
_SECOND_CHANCE = 0.5  # seconds until a refused connection is asked for again: sshd refuses at random when it is busy
_GO_ON = "run the same command again when the network is back: what is here is kept"
_END_WITHIN = 1.0  # seconds that connections get to end after `halt`; those that hang in a system call are left


class Transfer:
    """The downloads of `work` from `cluster`, which is connected.

    `halt` ends everything within two seconds, whoever sets it.
    """

    def __init__(
        self,
        cluster: Cluster,
        work: Work,
        settings: Settings,
        *,
        pace: Pace,
        gate: Gate,
        observer: Observer,
        halt: threading.Event,
    ) -> None:
        self._cluster, self._work, self._settings = cluster, work, settings
        self._pace, self._gate, self._observer, self._halt = pace, gate, observer, halt
        self._count = 1 if cluster.single else work.lanes
        self._plain = settings.transfer == "plain"
        self._lock = threading.Lock()
        self._at_work = 0  # connections
        self._begun_with = False  # whether the first connection of a round may still be at work, or come to it
        self._problems: list[EmbmergeError] = []
        self._fatal: BaseException | None = None
        self._warned: set[str] = set()

    def run(self, directory: Path, expected: Expected) -> None:
        """Fetch, verify and rename everything into `directory`; returns early if `halt` is set.

        What is wrong with single files is in `work.failures` then. Raises what stopped all of it: `ConnectError` if the
        line does not come back, `DiskError`, which sets `halt`.
        """
        ended = threading.Event()
        finisher = self._thread(lambda: finish_all(self._work, directory, expected, halt=ended))
        finisher.start()
        try:
            while not self._over():
                retry.persistently(
                    self._round,
                    cluster=self._cluster.name,
                    retries=self._settings.retries,
                    stop=self._halt,
                    observer=self._observer,
                )
        finally:
            ended.set()
            finisher.join(_END_WITHIN)
            if self._fatal:
                raise self._fatal

    def _over(self) -> bool:
        return self._work.over or self._halt.is_set()

    def _round(self) -> None:
        """Have connections at work until all are done or lost. Raises `ConnectError` if they brought nothing."""
        self._problems.clear()
        self._begun_with = True
        before = self._work.received
        main = self._cluster.connection if self._cluster.connection.is_connected else None
        threads = [
            self._thread(partial(self._lane, main)),
            *map(self._thread, [partial(self._lane, further=True)] * (self._count - 1)),
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not self._over():
            self._work.wait(LOOK_AROUND)
        deadline = time.monotonic() + _END_WITHIN
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._over() or not self._problems:
            return
        nothing = self._work.received == before
        for problem in self._problems:
            if isinstance(problem, HostKeyError) or (nothing and not isinstance(problem, ConnectionLost)):
                raise problem  # another try would end in the same way
        lost = self._problems[-1]
        if self._cluster.single:
            raise ConnectError(f"{lost.message}; another connection needs another code", hint=_GO_ON)
        if nothing:
            raise ConnectionLost(lost.message, hint=_GO_ON)
        pause = retry.FIRST_PAUSE * random.uniform(0.5, 1.0)  # noqa: S311  no secret
        self._observer(Retrying(self._cluster.name, 1, self._settings.retries, pause, lost.message))
        self._halt.wait(pause)

    def _lane(self, connection: Any = None, *, further: bool = False) -> None:
        """One connection after the other; on a near line, when it may be at work there.

        A plain listing measures no round trip, and its line counts as far; a login that cannot be repeated never waits.
        """
        if self._cluster.single or self._cluster.round_trip >= NEAR:
            self._connections(connection)
            return
        wait_no_more = self._is_deserted if further else self._over
        queued = partial(self._observer, Queued(self._cluster.name))
        with self._gate.opened(wait_no_more, further=further, queued=queued):
            self._connections(connection)
            if not further:
                self._begun_with = False

    def _is_deserted(self) -> bool:
        """Whether the connection that the round began with is gone for good, and nobody else is at work."""
        return self._over() or not (self._begun_with or self._at_work)

    def _connections(self, connection: Any) -> None:
        """One after the other, for as long as each brings something while others are at work."""
        refused = False
        while not self._over():
            try:
                connection = connection or self._cluster.another()
                lane = self._open(connection)
            except EmbmergeError as error:
                if connection is self._cluster.connection and not self._cluster.single:
                    connection = None  # all its sessions may be taken, or it was lost since
                    continue
                self._close(connection)
                connection = None
                if self._is_refused(error, again=refused):
                    return
                refused = True
                continue
            once_more = self._fetch(lane)
            if not self._cluster.single:
                self._close(connection)
                connection = None
            if not once_more:
                return

    def _fetch(self, lane: FastLane | PlainLane) -> bool:
        """Whether another connection should follow at once."""
        try:
            with self._one_more_at_work():
                lane.run()
        except ConnectionLost as error:
            self._lost(error)
            once_more = lane.received > 0 and self._at_work > 0
            if once_more:
                self._warn(f"a connection dropped, and another takes its place: {error.message}")
            return once_more
        except WireError as error:
            self._be_plain(error)
            return True
        return False

    def _open(self, connection: Any) -> FastLane | PlainLane:
        """A session on `connection`, ready to fetch. Raises `ConnectError`."""
        transport = connection.transport
        if not transport:
            raise ConnectionLost(f"{self._cluster.name}: the connection was lost")
        if cipher := without_gcm(transport):
            self._warn(f"the server offers no AES-GCM; {cipher} is slower")
        begin = partial(self._begin, transport)
        try:
            return self._cluster.begun(begin) if connection is self._cluster.connection else begin()
        except paramiko.ChannelException as error:
            raise no_session(self._cluster.name, error) from error

    def _begin(self, transport: Any) -> FastLane | PlainLane:
        timeout = self._settings.stall_timeout
        if not self._plain:
            try:
                channel = SftpChannel(transport, stall_timeout=timeout)
                depth = ON_THE_WAY * (self._settings.connections if self._cluster.single else 1)
                return FastLane(channel, self._work, pace=self._pace, stop=self._halt, on_the_way=depth)
            except WireError as error:
                self._be_plain(error)
        return PlainLane(transport, self._work, pace=self._pace, stop=self._halt, stall_timeout=timeout)

    def _close(self, connection: Any) -> None:
        if connection and connection is not self._cluster.connection:
            self._cluster.hang_up(connection)

    @contextmanager
    def _one_more_at_work(self) -> Iterator[None]:
        self._come_and_go(1)
        try:
            yield
        finally:
            self._come_and_go(-1)

    def _come_and_go(self, how_many: int) -> None:
        with self._lock:
            self._at_work += how_many
            self._work.lanes = max(1, self._at_work)

    def _lost(self, error: EmbmergeError) -> None:
        name = f"{self._cluster.name}: "
        self._problems.append(error if error.message.startswith(name) else type(error)(name + error.message))
        self._observer(Detail(error.message, self._cluster.name))

    def _is_refused(self, error: EmbmergeError, *, again: bool) -> bool:
        """Whether there is no point in another try: nothing else works, or the server does not want so many."""
        self._lost(error)
        final = again or not isinstance(error, ConnectionLost)  # only a line may be better the next time
        if final and self._at_work:
            self._warn(f"goes on with fewer connections than the {self._count} asked for: {error.message}")
        elif not final:
            self._halt.wait(_SECOND_CHANCE)
        return final or not self._at_work

    def _be_plain(self, error: WireError) -> None:
        self._plain = True
        self._warn(f"goes on with paramiko's own SFTP client, which is slower: {error}")

    def _warn(self, text: str) -> None:
        """Say it once."""
        kind = text.partition(":")[0]
        with self._lock:
            if kind in self._warned:
                return
            self._warned.add(kind)
        self._observer(Warned(text, self._cluster.name))

    def _thread(self, target: Callable[[], None]) -> threading.Thread:
        """A thread whose error, other than of the line, stops everything; it never keeps the process alive."""

        def run() -> None:
            try:
                target()
            except BaseException as error:  # noqa: BLE001  raised again by `run` of the transfer
                self._fatal = self._fatal or error
                self._halt.set()

        return threading.Thread(target=run, name=f"transfer {self._cluster.name}", daemon=True)


def lanes(missing: int, files: int, connections: int) -> int:
    """How many connections are worth their login for so many bytes and files."""
    return max(1, min(connections, max(math.ceil(missing / _BYTES_A_LANE), files // _FILES_A_LANE)))
