"""One connection at work on the downloads of a cluster.

It takes stretches from a `Work` until that is over, `stop` is set or the line is gone, and gives back what it has not
fetched. A problem with one file fails that file; a problem with the line is raised.
"""

import errno
import threading
import time
from dataclasses import dataclass
from functools import partial

from embmerge.errors import RemoteChanged, RemoteDataError
from embmerge.plaintext import printable
from embmerge.remote.files import RemoteFile, RemoteStat
from embmerge.remote.gate import NEAR
from embmerge.remote.landing import Landing
from embmerge.remote.pace import Pace
from embmerge.remote.sftp import Read, SftpChannel
from embmerge.remote.work import Download, Stretch, Work

# Bytes asked for and not here: 40 MB/s at a round trip of 50 ms. On loopback, 2 MB take 1.06 of the time, and 8 MB 1.1:
# OpenSSH's server holds all answers in one buffer, and moves them about in it.
ON_THE_WAY = 4 << 20
REQUESTS = 64  # of the same, for small files
_TOGETHER = 4  # reads that are asked for at once: a megabyte
_ENOUGH, _ENOUGH_NEARBY = 4, 8  # answers worth waking up for: a near line does not run dry meanwhile, a far one may
UNNOTED = 1 << 20  # bytes of a cluster that are here and not noted: fetched twice when the process is killed
LOOK_AROUND = 0.2  # seconds after which `stop` is seen


@dataclass(eq=False)
class _Reading:
    """A stretch that is being fetched: everything before `at` was asked for."""

    stretch: Stretch
    at: int

    @property
    def left(self) -> int:
        return self.stretch.end - self.at


@dataclass(eq=False)
class _Batch:
    """Reads of one stretch, one after the other, that are asked for together."""

    download: Download
    reads: list[Read]
    nbytes: int


@dataclass
class _Turn:
    """Bytes of a stretch that may be asked for from the time `at` on, all at once."""

    reading: _Reading
    nbytes: int
    at: float


class FastLane:
    """Fetches over an `SftpChannel`, with up to `on_the_way` bytes asked for ahead.

    Stretches are taken before they are needed, so that their file is open by the time that it is read.
    """

    def __init__(
        self, channel: SftpChannel, work: Work, *, pace: Pace, stop: threading.Event, on_the_way: int = ON_THE_WAY
    ) -> None:
        self._channel, self._work, self._pace, self._stop, self._depth = channel, work, pace, stop, on_the_way
        self._handles: dict[Download, bytes | None] = {}  # None: asked for
        self._readings: list[_Reading] = []
        self._batches: set[_Batch] = set()  # not yet answered
        self._landing = Landing(self._unnoted)
        self._checks: set[Download] = set()
        self.received = 0  # bytes of files
        self._last: Download | None = None
        self._turn: _Turn | None = None  # reserved for the next batch

    def run(self) -> None:
        """Work until nothing is left. Raises `ConnectionLost`, `WireError`, `DiskError`."""
        try:
            while not self._stop.is_set() and not self._work.over:
                self._take()
                self._request()
                pause = min(LOOK_AROUND, max(0.001, self._turn.at - time.monotonic())) if self._turn else LOOK_AROUND
                if self._channel.waiting_for:
                    self._channel.wait(pause, _ENOUGH_NEARBY if self._channel.round_trip < NEAR else _ENOUGH)
                    self._account()
                else:
                    self._work.wait(pause)
        finally:
            self._channel.close()
            self._give_all_back()

    def _take(self) -> None:
        while download := self._work.take_check():
            self._checks.add(download)
            self._channel.stat(download.file.path, partial(self._checked, download))
        while len(self._readings) < REQUESTS and sum(reading.left for reading in self._readings) < self._depth:
            stretch = self._work.take(self._last)
            if not stretch:
                break
            self._last = stretch.download
            self._readings.append(_Reading(stretch, stretch.start))
            if stretch.download not in self._handles:
                self._handles[stretch.download] = None
                self._channel.open(stretch.download.file.path, partial(self._opened, stretch.download))

    def _request(self) -> None:
        """Ask for what may be asked for now, then let go of what is asked for or has failed."""
        for reading in self._readings:
            download = reading.stretch.download
            while reading.left and self._handles.get(download) and not download.error and self._may_ask(reading):
                self._read(reading)
        over = [reading for reading in self._readings if not reading.left or reading.stretch.download.error]
        for reading in over:
            self._readings.remove(reading)
            self._work.give_back(reading.stretch.download, reading.at, reading.stretch.end)
        self._close_files()

    def _may_ask(self, reading: _Reading) -> bool:
        if len(self._batches) >= REQUESTS or sum(batch.nbytes for batch in self._batches) >= self._depth:
            return False
        now = time.monotonic()
        if not self._turn:
            nbytes = min(self._pace.largest(_TOGETHER * self._channel.largest_read), reading.left)
            self._turn = _Turn(reading, nbytes, now + self._pace.reserve(nbytes))
        elif self._turn.reading not in self._readings:  # it has failed
            self._turn.reading = reading
        return now >= self._turn.at and self._turn.reading is reading

    def _read(self, reading: _Reading) -> None:
        download, start, block = reading.stretch.download, reading.at, self._channel.largest_read
        handle, turn, self._turn = self._handles[download], self._turn, None
        assert handle
        assert turn
        end = min(start + turn.nbytes, reading.stretch.end)
        sink = self._landing.sink(download)
        reads = [Read(at, min(block, end - at), sink) for at in range(start, end, block)]
        batch = _Batch(download, reads, end - start)
        self._batches.add(batch)
        self._channel.read(handle, reads, partial(self._answered, batch))
        reading.at = end

    def _close_files(self) -> None:
        busy = {reading.stretch.download for reading in self._readings} | {batch.download for batch in self._batches}
        for download in [each for each in self._handles if each not in busy and (each.error or not each.free)]:
            if handle := self._handles[download]:
                del self._handles[download]
                self._channel.close_file(handle)

    def _opened(self, download: Download, answer: bytes | OSError) -> None:
        if isinstance(answer, bytes):
            self._handles[download] = answer
        else:
            del self._handles[download]
            self._work.failed(download, file_problem(download.file, answer))

    def _answered(self, batch: _Batch, error: OSError | None) -> None:
        self._batches.remove(batch)
        if error:
            self._give_rest_back(batch)
            self._work.failed(batch.download, file_problem(batch.download.file, error))

    def _account(self) -> None:
        """Note what is here, and say so."""
        for download, nbytes in self._landing.settle():
            self.received += nbytes
            self._work.arrived(download, nbytes)

    def _checked(self, download: Download, answer: RemoteStat | OSError) -> None:
        self._checks.discard(download)
        if isinstance(answer, OSError):
            self._work.failed(download, file_problem(download.file, answer))
        else:
            self._work.checked(download, answer)

    def _give_rest_back(self, batch: _Batch) -> None:
        """Give back what of its reads has not come."""
        for read in batch.reads:
            self._work.give_back(batch.download, read.offset + read.received, read.offset + read.length)

    def _give_all_back(self) -> None:
        for batch in self._batches:
            self._give_rest_back(batch)
        for reading in self._readings:
            self._work.give_back(reading.stretch.download, reading.at, reading.stretch.end)
        for download in self._checks:
            self._work.give_back_check(download)
        self._account()

    def _unnoted(self) -> int:
        """Bytes that may be here and not noted, besides those of the answer that is coming in."""
        return UNNOTED // self._work.lanes - self._channel.largest_read


def file_problem(file: RemoteFile, error: OSError) -> RemoteDataError:
    """What the server's answer about one file means."""
    where = f"{file.cluster}: {printable(file.path)}"
    if error.errno == errno.ENODATA:
        return RemoteChanged(f"{where} has become shorter", hint="is it being written again? run invoke sync later")
    if error.errno == errno.ENOENT:
        return RemoteChanged(f"{where} is not there any more", hint="was it moved? look with invoke verify-remote")
    if error.errno == errno.EACCES:
        return RemoteDataError(f"{where} may not be read", hint=f"on the cluster: chmod u+r {printable(file.path)}")
    text = printable(error.strerror or str(error))
    return RemoteDataError(f"{where} cannot be read: {text}", hint="ask who runs the cluster about its disk")
