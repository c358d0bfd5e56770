"""Ctrl-C and SIGTERM: how a task is asked to stop. Ctrl-Z: how it is asked to pause."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


def _nothing() -> None:
    pass


@contextmanager
def signals(
    stop: threading.Event, pause: Callable[[], None] = _nothing, resume: Callable[[], None] = _nothing
) -> Iterator[list[int]]:
    """Turn the first Ctrl-C or SIGTERM into `stop` and a KeyboardInterrupt in the main thread; a second one kills.

    Ctrl-Z calls `pause`, then stops the process as ever; `resume` is called when it goes on. Yields the list of the
    signals that asked to stop.
    """
    caught: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        caught.append(number)
        stop.set()
        for each, before in former.items():
            signal.signal(each, before)
        raise KeyboardInterrupt

    def on_pause(number: int, _frame: object) -> None:
        with suppress(
            RuntimeError
        ):  # the main thread is within a write, and no second one may begin: draw nothing then
            pause()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # here the process stands still
        signal.signal(number, on_pause)
        with suppress(RuntimeError):
            resume()

    former = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    pausable = signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL  # a shell without job control has it ignored
    if pausable:
        signal.signal(signal.SIGTSTP, on_pause)
    try:
        yield caught
    finally:
        for number, before in former.items():
            signal.signal(number, before)
        if pausable:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
