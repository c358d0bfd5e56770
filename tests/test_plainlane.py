"""What paramiko's own threads say when they die."""

import threading

import pytest

from embmerge.remote import plainlane


@pytest.mark.parametrize(("name", "told"), [("_prefetch_thread", 0), ("another", 1)])
def test_a_thread_that_prefetches_dies_in_silence_and_no_other_does(monkeypatch, name, told):
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    plainlane._hush.__wrapped__()  # as it is called once in a process

    def fail():
        raise EOFError

    thread = threading.Thread(target=fail, name=f"Thread-7 ({name})")
    thread.start()
    thread.join()
    assert len(died) == told
