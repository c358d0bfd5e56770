"""Where the bytes that one connection brings come down: written and hashed at once, noted in the journal by and by."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from embmerge.remote.sftp import Sink
from embmerge.remote.work import Download


class Landing:
    """Takes what arrives, in the transport's thread, and tells whoever asks how much of it is here for good.

    Of what was taken, no more than `unnoted()` bytes are not noted: they are fetched twice if the process is killed.
    """

    def __init__(self, unnoted: Callable[[], int]) -> None:
        self._unnoted = unnoted
        self._busy = threading.Lock()
        self._download: Download | None = None
        self._start = self._end = 0  # of its bytes that are written and not noted
        self._news: list[tuple[Download, int]] = []

    def sink(self, download: Download) -> Sink:
        """Where the bytes of `download` go."""
        return partial(self._take, download)

    def settle(self) -> list[tuple[Download, int]]:
        """Note what is here; returns of which downloads how many bytes were noted since the last time.

        Raises `DiskError`.
        """
        with self._busy:
            self._note(self._end)
            news, self._news = self._news, []
            return news

    def _take(self, download: Download, offset: int, parts: Sequence[memoryview]) -> None:
        """If it raises, these bytes count as not here; those before them are noted by whoever asks next."""
        end = offset + sum(map(len, parts))
        with self._busy:
            if download is not self._download or offset != self._end:
                self._note(self._end)
                self._download, self._start, self._end = download, offset, offset
            download.write(offset, parts)
            if end - self._start > self._unnoted():
                self._note(end)
            self._end = end

    def _note(self, end: int) -> None:
        if self._download and self._start < end:
            self._download.partial.add(self._start, end)
            self._news.append((self._download, end - self._start))
            self._start = end
