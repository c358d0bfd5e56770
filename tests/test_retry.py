"""What is tried again, how often, and what ends it."""

import threading

import pytest

from embmerge.errors import ConnectionLost, HostKeyError, Interrupted, LoginError, RemoteDataError, Unreached
from embmerge.events import Retrying
from embmerge.remote import retry
from embmerge.remote.retry import persistently
from tests.servers import Login, embedded, free_port


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)


class Work:
    """Raises `errors`, one a call, then returns 'done'."""

    def __init__(self, *errors):
        self.errors, self.calls, self.events = list(errors), 0, []

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    def go(self, retries=3, stop=None, **how):
        stop = stop or threading.Event()
        return persistently(self, cluster="a", retries=retries, stop=stop, observer=self.events.append, **how)


def test_a_line_that_drops_is_tried_again():
    work = Work(ConnectionLost("one"), ConnectionLost("two"))
    assert work.go() == "done"
    assert work.calls == 3


def test_each_retry_is_told_with_its_reason():
    work = Work(ConnectionLost("one"), ConnectionLost("two"))
    work.go(retries=3)
    assert [(event.attempt, event.retries, event.reason) for event in work.events] == [(1, 3, "one"), (2, 3, "two")]
    assert all(isinstance(event, Retrying) for event in work.events)


def test_the_last_error_is_raised_when_retries_are_used_up():
    work = Work(*(ConnectionLost(str(number)) for number in range(9)))
    with pytest.raises(ConnectionLost, match="2"):
        work.go(retries=2)
    assert work.calls == 3


@pytest.mark.parametrize("error", [LoginError("x"), HostKeyError("x"), RemoteDataError("x"), OSError(28, "full")])
def test_what_is_not_the_line_is_never_tried_again(error):
    work = Work(error)
    with pytest.raises(type(error)):
        work.go()
    assert work.calls == 1


def test_an_error_may_be_worth_fewer_retries():
    work = Work(*(Unreached("x") for _ in range(9)))
    with pytest.raises(Unreached):
        work.go(retries=5, worth=lambda error: 1 if isinstance(error, Unreached) else 5)
    assert work.calls == 2


def test_no_error_is_worth_more_retries_than_are_set():
    work = Work(*(Unreached("x") for _ in range(9)))
    with pytest.raises(Unreached):
        work.go(retries=0, worth=lambda _error: 1)
    assert work.calls == 1


def test_stop_ends_a_pause(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 60.0)
    stop = threading.Event()
    work = Work(ConnectionLost("x"))
    with pytest.raises(Interrupted):
        persistently(work, cluster="a", retries=3, stop=stop, observer=lambda _event: stop.set())


def test_pauses_grow_and_vary(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 60.0)
    pauses = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return False

    Work(*(ConnectionLost("x") for _ in range(8))).go(retries=8, stop=Clock())
    assert all(0.5 <= pause <= 60 for pause in pauses)
    assert len(set(pauses)) > 3
    assert sum(pauses[4:]) > sum(pauses[:4])


def test_nobody_waits_long_to_learn_of_a_typo(desk):
    desk.write(port=free_port(), username="me", password="pw")
    with pytest.raises(Unreached):
        desk.cluster(retries=8).connect()
    assert len(desk.seen(Retrying)) == 1


def test_a_server_that_restarts_is_waited_for(tmp_path, desk):
    with embedded(tmp_path / "home", lambda: Login(passwords={"me": "pw"})) as server:
        desk.write(port=server.port, username="me", password="pw")
        cluster = desk.connected(retries=200)
        server.stop()
        cluster.close()

        def see(event):
            desk.events.append(event)
            if isinstance(event, Retrying) and event.attempt == 3:
                server.start()

        cluster._observer = see
        cluster.connect()
        assert len(desk.seen(Retrying)) >= 3


def test_what_was_begun_on_a_line_that_drops_is_done_again(tmp_path, desk):
    with embedded(tmp_path / "home", lambda: Login(passwords={"me": "pw"})) as server:
        desk.write(port=server.port, username="me", password="pw")
        cluster = desk.cluster(retries=3)
        calls = []

        def work():
            calls.append(1)
            if len(calls) == 1:
                cluster.connection.transport.close()
            with cluster.sftp() as sftp:
                return sftp.normalize(".")

        assert cluster.working(work) == "/"
        assert len(calls) == 2
