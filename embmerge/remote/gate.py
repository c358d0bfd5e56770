"""Which connections are at work on near lines, all clusters together: no more than bring something.

On a near line one connection brings what Python can take, or what a limit lets through, or soon shows that it does not.
Until then a further one, to the same cluster or to another, would only take the processor from it: two clusters one
after the other take 0.88 of the time that they take at once (loopback, two cores).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embmerge.remote.pace import Pace

NEAR = 0.005  # seconds of a round trip
_PROBE = 0.3  # seconds of which is measured whether those at work leave something over
_BUSY = 0.7  # of a processor core: above that, it is Python and not the line that limits


class Gate:
    """Lets in the connections of near lines; `used` is the processor time of this process, in seconds."""

    def __init__(
        self,
        pace: Pace,
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        self._pace, self._clock, self._used = pace, clock, used
        self._changed = threading.Condition()
        self._inside = 0

    @contextmanager
    def opened(
        self, over: Callable[[], bool], *, further: bool = False, queued: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Be at work in the block; waits for it until those at work leave something over, or `over()`.

        The first connection of a cluster also gets in when nobody is at work; it calls `queued` if it has to wait.
        """

        def may_begin() -> bool:
            return over() or not (self._inside or further)

        with self._changed:
            if not (further or may_begin()):
                queued()
            while not may_begin() and self._is_enough(may_begin):
                pass
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _is_enough(self, done: Callable[[], bool]) -> bool:
        """Whether those at work use up Python or the limit."""
        began, used = self._clock(), self._used()
        self._changed.wait_for(done, _PROBE)
        return self._pace.used_up or self._used() - used > _BUSY * (self._clock() - began)
