"""One limit on the rate of everything that is downloaded at the same time."""

import threading
import time
from collections.abc import Callable


class Pace:
    """Lets `rate` bytes a second pass, whoever asks for them; None: as many as there are."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limited = rate is not None
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock()

    @property
    def used_up(self) -> bool:
        """Whether whoever asks now has to wait."""
        return self._rate is not None and self._free_at > self._clock()

    def reserve(self, nbytes: int) -> float:
        """Take the next turn for `nbytes`; returns how many seconds to wait before they are asked for."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = self._clock()
            turn = max(now, self._free_at)
            self._free_at = turn + nbytes / self._rate
            return turn - now

    def largest(self, nbytes: int) -> int:
        """How much to ask for at once: less than `nbytes` where that would take long."""
        return nbytes if not self._rate else max(4096, min(nbytes, int(self._rate / 10)))
