"""Who is let in on near lines, and when."""

import queue
import threading

import pytest

from embmerge.errors import DiskError
from embmerge.remote import gate
from embmerge.remote.gate import Gate
from embmerge.remote.pace import Pace


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(gate, "_PROBE", 0.001)


class Processor:
    """The processor time of a Python that takes `share` cores; each look at it is noted in `looks`."""

    def __init__(self, share):
        self.share, self.time, self.looks = share, 0.0, queue.SimpleQueue()

    def __call__(self):
        self.looks.put(self.time)
        self.time += self.share
        return self.time

    def was_looked_at(self):
        """So often from now on that somebody has made up his mind."""
        while not self.looks.empty():
            self.looks.get()
        return [self.looks.get(timeout=10) for _ in range(10)]


BUSY, IDLE = 1000.0, 0.0


@pytest.fixture
def arrived():
    return queue.SimpleQueue()


@pytest.fixture
def come(arrived):
    """Makes threads that go through a gate, are noted in `arrived`, and stay inside until they may leave."""
    comers = []

    class Comer:
        def __init__(self, through, **how):
            self.queued, self.over, self.may_leave = threading.Event(), threading.Event(), threading.Event()
            comers.append(self)

            def go():
                with through.opened(self.over.is_set, queued=self.queued.set, **how):
                    arrived.put(self)
                    self.may_leave.wait(10)

            self.thread = threading.Thread(target=go, daemon=True)
            self.thread.start()

        def leave(self):
            self.over.set()
            self.may_leave.set()
            self.thread.join(10)

    yield Comer
    for comer in comers:
        comer.leave()


def test_the_first_connection_begins_at_once(come, arrived):
    alone = come(Gate(Pace(None), used=Processor(BUSY)))
    assert arrived.get(timeout=10) is alone
    assert not alone.queued.is_set()


def test_another_cluster_waits_while_python_is_busy_and_begins_when_the_first_has_ended(come, arrived):
    processor = Processor(BUSY)
    through = Gate(Pace(None), used=processor)
    first = come(through)
    assert arrived.get(timeout=10) is first
    second = come(through)
    assert second.queued.wait(10)
    assert processor.was_looked_at()
    assert arrived.empty()
    first.leave()
    assert arrived.get(timeout=10) is second


def test_of_two_that_wait_one_begins_when_the_first_has_ended(come, arrived):
    processor = Processor(BUSY)
    through = Gate(Pace(None), used=processor)
    first = come(through)
    assert arrived.get(timeout=10) is first
    others = [come(through), come(through)]
    assert all(each.queued.wait(10) for each in others)
    first.leave()
    second = arrived.get(timeout=10)
    assert processor.was_looked_at()
    assert arrived.empty()
    second.leave()
    assert {second, arrived.get(timeout=10)} == set(others)


def test_another_cluster_begins_when_the_first_leaves_python_idle(come, arrived):
    through = Gate(Pace(None), used=Processor(IDLE))
    come(through)
    arrived.get(timeout=10)
    second = come(through)
    assert arrived.get(timeout=10) is second


@pytest.mark.parametrize(("share", "waits"), [(0.6, False), (0.8, True)])
def test_python_is_busy_when_it_takes_most_of_a_core_for_a_while(share, waits):
    now = 0.0

    def is_over():  # a second passes whenever somebody asks
        nonlocal now
        now += 1
        return now > 20

    through = Gate(Pace(None), clock=lambda: now, used=lambda: share * now)
    with through.opened(lambda: False), through.opened(is_over):
        assert (now > 20) is waits


def test_another_cluster_waits_while_a_limit_is_used_up(come, arrived):
    pace, processor = Pace(1000), Processor(IDLE)
    pace.reserve(1_000_000)
    through = Gate(pace, used=processor)
    come(through)
    arrived.get(timeout=10)
    come(through)
    assert processor.was_looked_at()
    assert arrived.empty()


def test_another_cluster_begins_when_the_first_leaves_something_of_a_limit(come, arrived):
    through = Gate(Pace(1000), used=Processor(IDLE))
    come(through)
    arrived.get(timeout=10)
    second = come(through)
    assert arrived.get(timeout=10) is second


def test_a_further_connection_waits_while_python_is_busy(come, arrived):
    processor = Processor(BUSY)
    come(Gate(Pace(None), used=processor), further=True)
    assert processor.was_looked_at()
    assert arrived.empty()


def test_a_further_connection_begins_where_python_is_idle_and_never_says_that_it_is_queued(come, arrived):
    through = Gate(Pace(None), used=Processor(IDLE))
    come(through)
    arrived.get(timeout=10)
    further = come(through, further=True)
    assert arrived.get(timeout=10) is further
    assert not further.queued.is_set()


def test_whoever_waits_sees_that_all_is_over(come, arrived):
    through = Gate(Pace(None), used=Processor(BUSY))
    come(through)
    arrived.get(timeout=10)
    second = come(through)
    assert second.queued.wait(10)
    second.over.set()
    assert arrived.get(timeout=10) is second


def test_whoever_ends_with_an_error_is_not_waited_for(come, arrived):
    through = Gate(Pace(None), used=Processor(BUSY))
    with pytest.raises(DiskError), through.opened(lambda: False):
        raise DiskError("full")
    second = come(through)
    assert arrived.get(timeout=10) is second
    assert not second.queued.is_set()
