"""Several pieces of work at the same time, in threads that an interrupted main thread may leave behind."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from embmerge.errors import EmbmergeError, Interrupted

LEAVE_WITHIN = 1.6  # seconds for the work to end after `stop`; two are promised
_LOOK_AROUND = 0.05

Outcome = TypeVar("Outcome")


def together(
    work: Mapping[str, Callable[[], Outcome]], *, stop: threading.Event, halt: threading.Event
) -> dict[str, Outcome | EmbmergeError]:
    """What each piece of work returns, or the `EmbmergeError` that it raises; any other exception is raised here.

    Waits in such a way that signals are seen. When `stop` is set, or Ctrl-C comes, `halt` is set for the work to end.
    Raises `Interrupted` then, when all have ended or time is up.
    """
    outcomes: dict[str, Outcome | EmbmergeError] = {}
    bugs: list[BaseException] = []

    def run(name: str, piece: Callable[[], Outcome]) -> None:
        try:
            outcomes[name] = piece()
        except EmbmergeError as error:
            outcomes[name] = error
        except BaseException as error:  # noqa: BLE001  raised below
            bugs.append(error)

    threads = [threading.Thread(target=run, args=item, name=item[0], daemon=True) for item in work.items()]
    for thread in threads:
        thread.start()
    try:
        _join(threads, stop)
    except KeyboardInterrupt:
        stop.set()
    if stop.is_set():
        halt.set()
        deadline = time.monotonic() + LEAVE_WITHIN
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise Interrupted("stopped")
    if bugs:
        raise bugs[0]
    return {name: outcomes[name] for name in work}


def _join(threads: list[threading.Thread], stop: threading.Event) -> None:
    for thread in threads:
        while thread.is_alive() and not stop.is_set():
            thread.join(_LOOK_AROUND)
