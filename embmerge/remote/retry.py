"""Try again when the line drops: growing, jittered pauses that `stop` ends. Nothing but the line is worth a retry."""

import threading
from collections.abc import Callable
from typing import TypeVar

import tenacity

from embmerge.errors import ConnectionLost, Interrupted
from embmerge.events import Observer, Retrying

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds

Outcome = TypeVar("Outcome")


def persistently(
    work: Callable[[], Outcome], *, cluster: str, retries: int, stop: threading.Event, observer: Observer
) -> Outcome:
    """What `work` returns; `ConnectionLost` is tried again up to `retries` times, any other error is raised at once.

    Raises `Interrupted` when `stop` is set during a pause.
    """

    def told(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0.0
        observer(Retrying(cluster, state.attempt_number, retries, pause, str(error)))

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise Interrupted("stopped")

    trying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConnectionLost),
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE, min=FIRST_PAUSE / 2),
        before_sleep=told,
        sleep=sleep,
        reraise=True,
    )
    return trying(work)
