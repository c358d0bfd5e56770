"""The sha256 of a file, computed while it arrives in any order."""

import hashlib
import threading
from collections.abc import Sequence

from embmerge.remote.partial import Partial

STEP = 256 << 10  # bytes taken in at once: few enough to be in the processor's cache still


class Digest:
    """A sha256 that follows the point of a partial file before which nothing is missing.

    Bytes that arrive in order are taken in at once (`add`); the others are read again when their turn comes (`follow`).
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._busy = threading.Lock()
        self.nbytes = 0

    def add(self, offset: int, parts: Sequence[memoryview]) -> None:
        """Take in `parts`, which were written at `offset`, if they come next and nobody is at it."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            if offset == self.nbytes:
                for part in parts:
                    self._sha256.update(part)
                    self.nbytes += len(part)
        finally:
            self._busy.release()

    def follow(self, partial: Partial, halt: threading.Event) -> None:
        """Take in what is here by now, from the page cache, until `halt`."""
        if self.nbytes >= partial.done.front:
            return
        buffer = memoryview(bytearray(STEP))
        with self._busy:
            while self.nbytes < (front := partial.done.front) and not halt.is_set():
                read = partial.read(self.nbytes, buffer[: min(STEP, front - self.nbytes)])
                self._sha256.update(buffer[:read])
                self.nbytes += read

    def hexdigest(self) -> str:
        """Of what was taken in."""
        return self._sha256.hexdigest()
