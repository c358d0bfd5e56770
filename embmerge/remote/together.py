"""Several pieces of work at the same time, in threads that an interrupted main thread may leave behind."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from embmerge.errors import EmbmergeError, Interrupted

LEAVE_WITHIN = 1.6  # seconds for the work to end after `stop`; two are promised
_LOOK_AROUND = 0.05

Outcome = TypeVar("Outcome")


def together(
    work: Mapping[str, Callable[[], Outcome]],
    *,
    stop: threading.Event,
    halt: threading.Event,
    deciding: str | None = None,
) -> dict[str, Outcome | EmbmergeError]:
    """What each piece of work returns, or the `EmbmergeError` that it raises; any other exception is raised here.

    Waits in such a way that signals are seen. When `stop` is set, or Ctrl-C comes, `halt` is set for the work to end.
    Raises `Interrupted` then, when all have ended or time is up.

    An error of the piece called `deciding` stops the others, and is raised whatever became of them. After `stop` nobody
    waits for that piece: it only reads.
    """
    outcomes: dict[str, Outcome | EmbmergeError] = {}
    bugs: list[BaseException] = []
    decided: list[EmbmergeError] = []

    def run(name: str, piece: Callable[[], Outcome]) -> None:
        try:
            outcomes[name] = piece()
        except EmbmergeError as error:
            outcomes[name] = error
            if name == deciding:
                decided.append(error)
        except BaseException as error:  # noqa: BLE001  raised below
            bugs.append(error)
        finally:
            ended[name].set()

    ended = {name: threading.Event() for name in work}  # Python 3.11 takes a thread whose join is interrupted for dead
    for item in work.items():
        threading.Thread(target=run, args=item, name=item[0], daemon=True).start()
    try:
        _wait(ended.values(), lambda: bool(decided) or stop.is_set())
    except KeyboardInterrupt:
        stop.set()
    if decided or stop.is_set():
        stop.set()
        halt.set()
        _let_end(each for name, each in ended.items() if name != deciding)
        raise decided[0] if decided else Interrupted("stopped")
    if bugs:
        raise bugs[0]
    return {name: outcomes[name] for name in work}


def _let_end(ended: Iterable[threading.Event]) -> None:
    deadline = time.monotonic() + LEAVE_WITHIN
    for each in ended:
        each.wait(max(0.0, deadline - time.monotonic()))


def _wait(ended: Iterable[threading.Event], over: Callable[[], bool]) -> None:
    for each in ended:
        while not over() and not each.wait(_LOOK_AROUND):
            pass
