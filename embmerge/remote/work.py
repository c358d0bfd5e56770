"""Which bytes are fetched next: the downloads of one cluster, handed out stretch by stretch to its connections.

Nothing here knows a network. A connection takes a stretch, says what of it has arrived, gives back what has not. A
large file is so spread over all connections, and of many small ones each connection takes several at once.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embmerge.errors import EmbmergeError, RemoteChanged
from embmerge.events import Observer, ShardFailed, ShardFetched, ShardProgress, ShardStarted, ignore
from embmerge.remote.digest import STEP, Digest
from embmerge.remote.files import RemoteFile, RemoteStat
from embmerge.remote.kept import Kept
from embmerge.remote.partial import Partial, begin

LONGEST = 4 << 20  # of a stretch: long enough for the server's disk to read in one go,
SHORTEST = 256 << 10  # shorter near the end, so that all connections are done at the same time
AT_ONCE = 32  # downloads with open files, of all clusters together; macOS allows a process 256
_TELL_EVERY = 0.1  # seconds between two reports on the same shard
_SYNC_EVERY = 10.0  # seconds between two waits for the disk: what a power cut may cost


@dataclass(eq=False)
class Download:
    """One shard to be fetched, the `index`th (from 1) of `total` on its cluster; `kept` is what is here already."""

    file: RemoteFile
    index: int
    total: int
    kept: Kept | None = None
    free: list[tuple[int, int]] = field(default_factory=list)  # ranges that no connection has taken
    lent: int = 0  # bytes that connections have taken and not yet accounted for
    now: RemoteStat | None = None  # what the server said about it once it was whole
    error: EmbmergeError | None = None
    keep: bool = True  # whether what is here is worth keeping after an error
    ended: bool = False  # finished or failed
    digest: Digest = field(default_factory=Digest)
    began: float = 0.0
    told: float = 0.0  # when its progress was last reported
    synced: float = 0.0  # when it was last waited for the disk
    _partial: Partial | None = None

    @property
    def partial(self) -> Partial:
        """Its bytes on disk; there from `begin` on."""
        assert self._partial
        return self._partial

    @property
    def whole(self) -> bool:
        """Whether every byte is here."""
        return self.missing == 0

    @property
    def missing(self) -> int:
        """How many bytes are to come."""
        here = self._partial.done.nbytes if self._partial else self.kept.nbytes if self.kept else 0
        return self.file.nbytes - here

    @property
    def due_for_sync(self) -> bool:
        """Whether it is time to wait for the disk again."""
        return time.monotonic() - self.synced > _SYNC_EVERY

    def begin(self, directory: Path) -> None:
        """Open its partial file: the one that was kept, if nobody else has taken that, or a new one."""
        self._partial = (self.kept and self.kept.resume()) or begin(directory, self.file)
        self.free = self._partial.done.missing(self.file.nbytes)
        self.began = self.synced = time.monotonic()

    def write(self, offset: int, parts: Sequence[memoryview]) -> None:
        """Put bytes that came at their place. Raises `DiskError`."""
        self.partial.write(offset, parts)
        self.digest.add(offset, parts)

    def close(self) -> int:
        """Close its partial file; returns how many bytes are kept."""
        if self.keep:
            return self.partial.leave()
        self.partial.discard()
        return 0

    def facts(self) -> tuple[str, str, int, int, int]:
        """What every event about it begins with."""
        return self.file.cluster, self.file.name, self.index, self.total, self.file.nbytes


@dataclass(frozen=True)
class Stretch:
    """The bytes `[start, end)` of a download, for one connection to fetch."""

    download: Download
    start: int
    end: int


class Work:
    """All that is to be fetched from one cluster. Every function may be called from any thread.

    A download goes through `take` and `arrived` until it is whole, then through `take_check` and `checked`, and ends by
    `finished` or `failed`. `news` names the downloads that whoever hashes, syncs and finishes them should look at.
    """

    def __init__(
        self,
        downloads: Iterable[Download],
        directory: Path,
        *,
        lanes: int = 1,
        at_once: int = AT_ONCE,
        observer: Observer = ignore,
    ) -> None:
        self._changed = threading.Condition()
        self.lanes = lanes  # connections at work, or soon to be
        self._directory, self._at_once, self._observer = directory, at_once, observer
        self._waiting = deque(downloads)
        self._unended = len(self._waiting)
        self._missing = sum(download.missing for download in self._waiting)  # bytes that are to come, about
        self._active: dict[Download, None] = {}  # in order
        self._unchecked: deque[Download] = deque()
        self.news: queue.SimpleQueue[Download] = queue.SimpleQueue()
        self.fetched: list[Download] = []
        self.failures: list[Download] = []
        self.received = 0  # bytes that came over the network

    @property
    def over(self) -> bool:
        """Whether every download has ended, one way or the other; waits for nobody who is at work."""
        return self._unended == 0

    def wait(self, seconds: float) -> None:
        """Wait until something has changed."""
        with self._changed:
            self._changed.wait(seconds)

    def take(self, last: Download | None = None) -> Stretch | None:
        """The next stretch to fetch; None if there is nothing to take at the moment. Raises `DiskError`.

        Rather of `last`, and rather of one that nobody else is at: what comes in order need not be read again.
        """
        with self._changed:
            while not (download := self._choose(last)):
                if not self._begin_next():
                    return None
            start, end = download.free[0]
            longest = min(LONGEST, max(SHORTEST, self._missing // (2 * self.lanes)))
            cut = end if end - start < longest + SHORTEST else start + longest
            download.free[:1] = [(cut, end)] if cut < end else []
            download.lent += cut - start
            return Stretch(download, start, cut)

    def _choose(self, last: Download | None) -> Download | None:
        """Whose bytes to fetch next; None if another download should begin."""
        free = [each for each in self._active if each.free]
        if last in free:
            return last
        alone = next((each for each in free if not each.lent), None)
        can_begin = self._waiting and len(self._active) < self._at_once
        return alone or (None if can_begin or not free else free[0])

    def arrived(self, download: Download, nbytes: int) -> None:
        """`nbytes` more of what was taken are in the partial file, and noted there."""
        now = time.monotonic()
        with self._changed:
            self.received += nbytes
            self._missing -= nbytes
            self._account(download, nbytes)
            if download.error:
                return
            done = download.partial.done
            whole = download.whole and not download.lent  # the last of all connections that have brought some of it
            if whole:
                self._unchecked.append(download)
                self._changed.notify_all()
            behind = download.digest.nbytes + STEP <= done.front
            if whole or behind or download.due_for_sync:
                self.news.put(download)
            if now - download.told < _TELL_EVERY and not whole:
                return
            download.told = now
        self._observer(ShardProgress(*download.facts(), done=done.nbytes))

    def give_back(self, download: Download, start: int, end: int) -> None:
        """Nobody fetches the bytes `[start, end)` any more."""
        with self._changed:
            if start < end:
                download.free.append((start, end))
                download.free.sort()
                self._account(download, end - start)
                self._changed.notify_all()

    def take_check(self) -> Download | None:
        """A whole download about which the server should be asked again."""
        with self._changed:
            return self._unchecked.popleft() if self._unchecked else None

    def give_back_check(self, download: Download) -> None:
        """Nobody asks the server about it any more."""
        with self._changed:
            self._unchecked.append(download)
            self._changed.notify_all()

    def checked(self, download: Download, now: RemoteStat) -> None:
        """The server says that the whole download's file is this `now`."""
        download.now = now
        self.news.put(download)

    def finished(self, download: Download) -> None:
        """It is under its own name."""
        with self._changed:
            download.ended = True
            del self._active[download]
            self.fetched.append(download)
            self._unended -= 1  # last: whoever sees that all is over looks at the rest
            self._changed.notify_all()
        self._observer(ShardFetched(*download.facts(), seconds=time.monotonic() - download.began))

    def failed(self, download: Download, error: EmbmergeError, *, keep: bool = True) -> None:
        """It is given up; the others go on. What is here of it is kept, unless the remote file is another one now."""
        with self._changed:
            if download.ended:
                return
            download.ended, download.error = True, error
            download.keep = keep and not isinstance(error, RemoteChanged)
            del self._active[download]
            self.failures.append(download)
            self._account(download, 0)
            self._unended -= 1
            self._changed.notify_all()
        self._observer(ShardFailed(*download.facts(), message=error.message))

    def leave(self) -> int:
        """Close what is unfinished, for a later run to go on with; returns how many bytes are kept.

        What a connection has not given back stays open, since it may still be written to.
        """
        with self._changed:
            kept = sum(download.kept.nbytes for download in self._waiting if download.kept)
            kept += sum(d.partial.done.nbytes if d.lent else d.close() for d in self._active)
            self._waiting.clear()
            self._active.clear()
            self._unended = 0
            return kept

    def _account(self, download: Download, nbytes: int) -> None:
        """A connection is done with `nbytes` that it had taken; what has failed is closed when all are."""
        download.lent -= nbytes
        if download.error and not download.lent:
            download.close()

    def _begin_next(self) -> bool:
        if not self._waiting or len(self._active) >= self._at_once:
            return False
        download = self._waiting.popleft()
        expected = download.missing
        download.begin(self._directory)
        self._missing += download.missing - expected
        self._active[download] = None
        self._observer(ShardStarted(*download.facts(), resumed=download.partial.done.nbytes))
        self.news.put(download)
        if download.whole:
            self._unchecked.append(download)
        return True
