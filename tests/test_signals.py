"""What is left of Ctrl-C and SIGTERM when a task has heard one, or has ended."""

import signal
import threading

import pytest

from embmerge.signals import signals

BOTH = (signal.SIGINT, signal.SIGTERM)


def handlers():
    return [signal.getsignal(each) for each in BOTH]


@pytest.mark.parametrize("number", BOTH)
def test_after_the_first_signal_either_one_does_what_it_did_before(number):
    before, meanwhile = handlers(), []
    with signals(threading.Event()):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        meanwhile = handlers()
    assert meanwhile == before


@pytest.mark.parametrize("error", [None, ValueError])
def test_when_a_task_has_ended_signals_do_what_they_did_before(error):
    before = handlers()
    try:
        with signals(threading.Event()) as caught:
            assert handlers() != before
            if error:
                raise error
    except ValueError:
        pass
    assert (handlers(), caught) == (before, [])
