"""The sha256 of a file, computed while it arrives in any order."""

import hashlib
import threading

from embmerge.remote.partial import Partial

STEP = 1 << 20  # bytes taken in at once


class Digest:
    """A sha256 that follows the point of a partial file before which nothing is missing."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.nbytes = 0

    def follow(self, partial: Partial, halt: threading.Event) -> None:
        """Take in what is here by now, from the page cache, until `halt`."""
        while self.nbytes < (front := partial.done.front) and not halt.is_set():
            data = partial.read(self.nbytes, min(STEP, front - self.nbytes))
            self._sha256.update(data)
            self.nbytes += len(data)

    def hexdigest(self) -> str:
        """Of what was taken in."""
        return self._sha256.hexdigest()
