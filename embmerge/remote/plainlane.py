"""A connection at work through paramiko's own SFTP client: slower, but on nothing that paramiko does not promise."""

import errno
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import paramiko

from embmerge.errors import ConnectionLost
from embmerge.plaintext import printable
from embmerge.remote.files import RemoteStat
from embmerge.remote.lane import LOOK_AROUND, file_problem
from embmerge.remote.pace import Pace
from embmerge.remote.session import beginning, is_over
from embmerge.remote.work import Download, Stretch, Work

_BLOCK = 128 * 1024  # bytes that count as here at once; paramiko asks for 32 KB at a time
_GROUP = 8  # blocks asked for at once; paramiko holds them in memory


@functools.cache
def _hush() -> None:
    """The threads in which paramiko prefetches die with the line, each with a traceback; we tell of it ourselves."""
    others = threading.excepthook

    def hook(died: threading.ExceptHookArgs) -> None:
        if not (died.thread and "_prefetch_thread" in died.thread.name):
            others(died)

    threading.excepthook = hook


class PlainLane:
    """Fetches stretch by stretch over a session of its own on `transport`.

    Raises `ConnectionLost` if the line is gone or silent for `stall_timeout` seconds, and paramiko's
    `ChannelException` if the server takes no further session on this connection.
    """

    def __init__(
        self, transport: paramiko.Transport, work: Work, *, pace: Pace, stop: threading.Event, stall_timeout: float
    ) -> None:
        _hush()
        self._transport, self._work, self._pace, self._stop = transport, work, pace, stop
        self._stall_timeout = stall_timeout
        self.received = 0  # bytes of files
        self._client: Any = None
        with beginning(transport, stall_timeout), self._line():
            self._client = paramiko.SFTPClient.from_transport(transport)
        self._client.get_channel().settimeout(stall_timeout)

    def run(self) -> None:
        """Work until nothing is left. Raises `ConnectionLost`, `DiskError`."""
        try:
            while not self._stop.is_set() and not self._work.over:
                if download := self._work.take_check():
                    self._check(download)
                elif stretch := self._work.take():
                    self._fetch(stretch)
                else:
                    self._work.wait(LOOK_AROUND)
        finally:
            with suppress(OSError, EOFError, paramiko.SSHException):  # the line may be gone
                self._client.close()

    def _check(self, download: Download) -> None:
        try:
            with self._line():
                now = self._client.stat(download.file.path)
        except ConnectionLost:
            self._work.give_back_check(download)
            raise
        except OSError as error:
            self._work.failed(download, file_problem(download.file, error))
        else:
            self._work.checked(download, RemoteStat(now.st_size or 0, int(now.st_mtime or 0), regular=True))

    def _fetch(self, stretch: Stretch) -> None:
        download, at = stretch.download, stretch.start
        try:
            for data in self._blocks(stretch):
                download.write(at, [memoryview(data)])
                download.partial.add(at, at + len(data))
                self._work.arrived(download, len(data))
                at += len(data)
                self.received += len(data)
        except OSError as error:
            self._work.failed(download, file_problem(download.file, error))
        finally:
            self._work.give_back(download, at, stretch.end)

    def _blocks(self, stretch: Stretch) -> Iterator[bytes]:
        """The stretch, block by block, until `stop`; `FileNotFoundError` and the like say what is wrong with a file."""
        length = self._pace.largest(_BLOCK)
        places = [(at, min(length, stretch.end - at)) for at in range(stretch.start, stretch.end, length)]
        at_once = 1 if self._pace.limited else _GROUP
        with self._line(), self._client.open(stretch.download.file.path, "rb") as file:
            for first in range(0, len(places), at_once):
                group = places[first : first + at_once]
                self._stop.wait(self._pace.reserve(sum(asked for _, asked in group)))
                for (_, asked), data in zip(group, file.readv(group), strict=True):
                    if self._stop.is_set():
                        return
                    if len(data) < asked:
                        self._check_length(stretch.download)
                    yield data

    def _check_length(self, download: Download) -> None:
        """Raise what it means that paramiko has found the end of a file: for it, a session's end looks the same."""
        if (self._client.stat(download.file.path).st_size or 0) < download.file.nbytes:
            raise OSError(errno.ENODATA, "the file ends here")
        raise ConnectionLost("the server has sent less than was asked for")

    @contextmanager
    def _line(self) -> Iterator[None]:
        """Tell a line that is gone from a file that cannot be read."""
        try:
            yield
        except TimeoutError:
            self._transport.close()
            raise ConnectionLost(f"no byte for {self._stall_timeout:g} s") from None
        except paramiko.ChannelException:
            raise
        except (OSError, EOFError, paramiko.SSHException) as error:
            if isinstance(error, OSError) and self._client and not is_over(self._client):
                raise
            raise ConnectionLost(f"connection lost: {printable(str(error)) or 'closed by the server'}") from error
