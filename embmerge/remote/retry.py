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
    work: Callable[[], Outcome],
    *,
    cluster: str,
    retries: int,
    stop: threading.Event,
    observer: Observer,
    worth: Callable[[ConnectionLost], int] | None = None,
) -> Outcome:
    """What `work` returns; `ConnectionLost` is tried again up to `retries` times, any other error is raised at once.

    `worth`: fewer retries that a certain error is worth. Raises `Interrupted` when `stop` is set during a pause.
    """

    def most(state: tenacity.RetryCallState) -> int:
        error = state.outcome.exception() if state.outcome else None
        return min(retries, worth(error)) if worth and isinstance(error, ConnectionLost) else retries

    def told(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0.0
        observer(Retrying(cluster, state.attempt_number, most(state), pause, str(error)))

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise Interrupted("stopped")

    trying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConnectionLost),
        stop=lambda state: state.attempt_number > most(state),
        wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE, min=FIRST_PAUSE / 2),
        before_sleep=told,
        sleep=sleep,
        reraise=True,
    )
    return trying(work)
