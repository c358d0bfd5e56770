"""Ctrl-C and SIGTERM: how a task is asked to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals(stop: threading.Event) -> Iterator[list[int]]:
    """Turn the first Ctrl-C or SIGTERM into `stop` and a KeyboardInterrupt in the main thread; a second one kills.

    Yields the list of the signals that came.
    """
    caught: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        caught.append(number)
        stop.set()
        for each, before in former.items():
            signal.signal(each, before)
        raise KeyboardInterrupt

    former = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, before in former.items():
            signal.signal(number, before)
