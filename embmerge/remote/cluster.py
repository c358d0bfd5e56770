"""One cluster: its connection, what lies in its remote directory, and the headers of the shards there."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TypeVar

import fabric
import paramiko

from embmerge.errors import ConnectError, ConnectionLost, RemoteDataError, ShardError, Unreached
from embmerge.events import Connected, Connecting, Observer, ignore
from embmerge.plaintext import printable
from embmerge.remote import directory, headers
from embmerge.remote.credentials import Credentials
from embmerge.remote.door import Door
from embmerge.remote.files import Listing, RemoteFile, RemoteStat, sorted_out
from embmerge.remote.login import Ask
from embmerge.remote.retry import persistently
from embmerge.remote.session import beginning, is_over, no_session
from embmerge.remote.sftp import MOST_ENTRIES, SftpChannel, WireError
from embmerge.settings import Settings
from embmerge.shard import ShardHeader

_FREED_WITHIN, _SOON = 1.0, 0.05  # seconds
_AT_FIRST = 1  # retries of a host that was never reached

Outcome = TypeVar("Outcome")


class Cluster:
    """One configured cluster. Nothing is connected before `connect`.

    `stop` ends waits between tries. `ask` shows a prompt for a second factor and returns the answer; None where nobody
    could answer.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: Settings,
        *,
        observer: Observer = ignore,
        stop: threading.Event,
        ask: Ask | None = None,
    ) -> None:
        self.name = credentials.name
        self._settings, self._observer, self._stop = settings, observer, stop
        self._door = Door(credentials, settings, observer, ask)
        directory = credentials.remote_dir or settings.remote_dir
        # SFTP begins at home, and knows no ~
        self._configured_dir = "." if directory == "~" else directory.removeprefix("~/") or "."
        self._connection: fabric.Connection | None = None
        self._reached = self._had_session = False
        self._kept: SftpChannel | None = None
        self.round_trip = math.inf  # seconds, the shortest that was seen

    @property
    def connection(self) -> fabric.Connection:
        """The first connection; `connect` has opened it, but the line may have dropped since."""
        if self._connection is None:
            raise ConnectError(f"{self.name} is not connected")
        return self._connection

    @property
    def single(self) -> bool:
        """Whether a second factor was asked: then this connection is the only one."""
        return self._door.asked

    def connect(self) -> None:
        """Log in, unless that is done; lines that drop are tried again.

        Raises `ConnectError` (`LoginError`, `HostKeyError`, `ConnectionLost` after the last try) or `CredentialsError`.
        """
        self.working(lambda: None)

    def working(self, work: Callable[[], Outcome]) -> Outcome:
        """What `work` returns, which needs the connection; where the line drops, we log in and do it again.

        Raises as `connect` and `work`.
        """

        def attempt() -> Outcome:
            self._log_in()
            return work()

        if not self._stands:
            self._observer(Connecting(self.name, self._door.address, self._configured_dir))
        return persistently(
            attempt,
            cluster=self.name,
            retries=self._settings.retries,
            stop=self._stop,
            observer=self._observer,
            worth=self._worth,
        )

    @property
    def _stands(self) -> bool:
        return self._connection is not None and self._connection.is_connected

    def _log_in(self) -> None:
        if not self._stands:
            self._connection = self._door.connect()
            self._reached = True
            self._observer(Connected(self.name, self._configured_dir))

    def _worth(self, error: ConnectionLost) -> int:
        """How many retries: nobody should wait for minutes to learn of a typo."""
        return _AT_FIRST if isinstance(error, Unreached) and not self._reached else self._settings.retries

    def another(self) -> fabric.Connection:
        """One more authenticated connection; the caller hangs it up. Raises as `connect`, without trying again."""
        if self.single:
            raise ConnectError(f"{self.name}: another connection would need another code")
        return self._door.connect()

    def close(self) -> None:
        """Hang up, also where we came through."""
        if self._connection is not None:
            self._door.hang_up(self._connection)
        self._door.close()

    def hang_up(self, connection: fabric.Connection) -> None:
        """Close a connection that `another` gave."""
        self._door.hang_up(connection)

    def begun(self, begin: Callable[[], Outcome]) -> Outcome:
        """What `begin` gives, which opens a session on this connection.

        Where there was one before, a refusal is not believed at once: OpenSSH counts a session that we have closed
        until its program has ended.
        """
        deadline = time.monotonic() + _FREED_WITHIN
        while True:
            try:
                session = begin()
            except paramiko.ChannelException:  # noqa: PERF203  it waits anyway
                if not self._had_session or time.monotonic() > deadline or self._stop.wait(_SOON):
                    raise
            else:
                self._had_session = True
                return session

    @contextmanager
    def sftp(self) -> Iterator[paramiko.SFTPClient]:
        """A client of paramiko's own on a session of its own, with every wait bounded.

        Raises `ConnectError` if the server opens no session, `ConnectionLost`, and what `OSError` the client tells of.
        """
        self._let_go()  # a server may grant one session at a time
        try:
            client = self.begun(self._own_client)
            client.get_channel().settimeout(self._settings.stall_timeout)
            with client:
                try:
                    yield client
                except OSError as error:
                    if is_over(client):
                        raise EOFError(str(error)) from error
                    raise
        except paramiko.ChannelException as error:
            raise no_session(self.name, error) from error
        except (TimeoutError, EOFError, ConnectionError, paramiko.SSHException) as error:
            text = printable(str(error)) or "closed by the server"
            raise ConnectionLost(f"{self.name}: connection lost: {text}", hint="run it again") from error

    def _own_client(self) -> paramiko.SFTPClient:
        transport = self.connection.transport
        with beginning(transport, self._settings.stall_timeout):
            client = paramiko.SFTPClient.from_transport(transport)
        if client is None:
            raise ConnectionLost(f"{self.name}: the connection was lost")
        return client

    def listing(self) -> Listing:
        """What lies in the remote directory.

        Raises `RemoteDataError` if it is missing (naming the nearest parent that exists) or cannot be read, and
        `ConnectionLost`.
        """
        path, entries = self._entries()
        if len(entries) > MOST_ENTRIES:
            raise RemoteDataError(
                f"{self.name}: {printable(path)} holds more than {MOST_ENTRIES:,} files",
                hint="set remote_dir to a folder for the shards alone",
            )
        return sorted_out(self.name, path, entries)

    def _entries(self) -> tuple[str, list[tuple[str, RemoteStat | OSError]]]:
        """The directory and what is in it, in few round trips; else as paramiko does it, with words for what fails."""
        if self._settings.transfer == "fast":
            with suppress(WireError, OSError), self._channel() as channel:
                path, entries = channel.listing(self._configured_dir)
                return path, [entry for entry in entries if entry[0] not in (".", "..")]
        with self.sftp() as sftp:
            return directory.entries(sftp, self._configured_dir, self.name)

    def look_again(self, files: Sequence[RemoteFile]) -> list[RemoteFile | OSError]:
        """The same files as they are now, or what the server has against it. Raises `ConnectError`."""
        if self._settings.transfer == "fast":
            with suppress(WireError), self._channel() as channel:
                answers = zip(files, channel.stats([file.path for file in files]), strict=True)
                return [
                    answer if isinstance(answer, OSError) else replace(file, nbytes=answer.nbytes, mtime=answer.mtime)
                    for file, answer in answers
                ]
        with self.sftp() as sftp:
            now: list[RemoteFile | OSError] = []
            for file in files:
                try:
                    facts = sftp.stat(file.path)
                    now.append(replace(file, nbytes=facts.st_size or 0, mtime=int(facts.st_mtime or 0)))
                except OSError as error:  # noqa: PERF203  each file has its own fate
                    if isinstance(error, TimeoutError | ConnectionError) or is_over(sftp):
                        raise
                    now.append(error)
        return now

    @contextmanager
    def one_session(self) -> Iterator[None]:
        """Ask everything in the body over one session where that can be: opening one takes three round trips."""
        if self._settings.transfer != "fast":
            yield
            return
        with suppress(WireError):
            self._kept = self._open_channel()
        try:
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        kept, self._kept = self._kept, None
        if kept:
            kept.close()

    @contextmanager
    def _channel(self) -> Iterator[SftpChannel]:
        with nullcontext(self._kept) if self._kept else closing(self._open_channel()) as channel:
            yield channel
            self.round_trip = min(self.round_trip, channel.round_trip)

    def _open_channel(self) -> SftpChannel:
        try:
            timeout = self._settings.stall_timeout
            return self.begun(lambda: SftpChannel(self.connection.transport, stall_timeout=timeout))
        except paramiko.ChannelException as error:
            raise no_session(self.name, error) from error

    def headers(self, files: Sequence[RemoteFile]) -> Iterator[tuple[RemoteFile, ShardHeader | ShardError]]:
        """The header of each file, or why it has none; some 16 KB of each cross the network, all at once.

        `files` are shards, or checkpoints, whose rows may be fewer than their range. Raises `ConnectError`.
        """
        if self._settings.transfer == "fast":
            try:
                with self._channel() as channel:
                    yield from headers.at_once(channel, files)
            except WireError:
                pass
            else:
                return
        with self.sftp() as sftp:
            yield from headers.one_by_one(sftp, files)
