"""The sha256 of a file, computed while it arrives in any order."""

import hashlib
import threading

from embmerge.remote.partial import Partial

STEP = 256 << 10  # bytes taken in at once: few enough to be in the processor's cache still


class Digest:
    """A sha256 that follows the point of a partial file before which nothing is missing."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.nbytes = 0

    def follow(self, partial: Partial, halt: threading.Event) -> None:
        """Take in what is here by now, from the page cache, until `halt`."""
        buffer = memoryview(bytearray(STEP))
        while self.nbytes < (front := partial.done.front) and not halt.is_set():
            read = partial.read(self.nbytes, buffer[: min(STEP, front - self.nbytes)])
            self._sha256.update(buffer[:read])
            self.nbytes += read

    def hexdigest(self) -> str:
        """Of what was taken in."""
        return self._sha256.hexdigest()
