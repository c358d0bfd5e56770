"""Where the bytes that one connection brings come down: written, hashed, and noted in the journal."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from embmerge.errors import DiskError
from embmerge.remote.sftp import Sink
from embmerge.remote.work import Download

# Bytes that are written at once, from one multiple of it to the next: Linux keeps those in one piece of that length. Of
# 255 KB, which is what OpenSSH gives at once, it makes seven, and takes 1.25 of the time for it (ext4, Linux 6.18).
BLOCK = 256 << 10


class Landing:
    """Takes what arrives, in the transport's thread, and tells whoever asks how much of it is here for good.

    No more than `unnoted()` bytes are here and not noted between two answers: they are fetched twice if the process is
    killed.
    """

    def __init__(self, unnoted: Callable[[], int]) -> None:
        self._unnoted = unnoted
        self._busy = threading.Lock()
        self._download: Download | None = None
        self._noted = self._written = self._end = 0  # of the bytes that are here, where those end
        self._parts: list[memoryview] = []  # from `_written` to `_end`
        self._news: list[tuple[Download, int]] = []

    def sink(self, download: Download) -> Sink:
        """Where the bytes of `download` go."""
        return partial(self._take, download)

    def settle(self, *, more_to_come: bool = False) -> list[tuple[Download, int]]:
        """Note what is here; returns of which downloads how many bytes were noted since the last time.

        Where more is to come, what is less than a block waits for it. Raises `DiskError`.
        """
        with self._busy:
            if more_to_come:
                self._note()
            else:
                self._finish()
            news, self._news = self._news, []
            return news

    def _take(self, download: Download, offset: int, parts: Sequence[memoryview]) -> None:
        with self._busy:
            if download is not self._download or offset != self._end:
                self._finish()
                self._download = download
                self._noted = self._written = self._end = offset
            self._parts += parts
            self._end += sum(map(len, parts))
            self._write(self._end - self._end % BLOCK)
            if self._end - self._noted > self._unnoted():
                self._note()
            if self._end - self._noted > self._unnoted():
                self._finish()

    def _finish(self) -> None:
        self._write(self._end)
        self._note()

    def _write(self, end: int) -> None:
        """Write up to `end`."""
        if self._download and end > self._written:
            parts, self._parts = _split(self._parts, end - self._written)
            try:
                self._download.write(self._written, parts)
            except DiskError:
                self._parts, self._end = [], self._written  # those are not here
                raise
            self._written = end

    def _note(self) -> None:
        if self._download and self._written > self._noted:
            self._download.partial.add(self._noted, self._written)
            self._news.append((self._download, self._written - self._noted))
            self._noted = self._written


def _split(parts: list[memoryview], nbytes: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first `nbytes` of `parts`, and the rest."""
    for index, part in enumerate(parts):
        if nbytes < len(part):
            return [*parts[:index], part[:nbytes]], [part[nbytes:], *parts[index + 1 :]]
        nbytes -= len(part)
    return parts, []
