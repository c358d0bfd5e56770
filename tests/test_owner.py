"""Whose a partial download is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embmerge.remote import owner

NAME = "from embmerge.remote import owner; print(owner.this_process(), flush=True); input()"


def other_process():
    return subprocess.Popen([sys.executable, "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_this_process_is_not_gone():
    assert owner.is_gone(owner.this_process()) is False


def test_two_owners_of_one_process_have_two_names():
    assert owner.this_process() != owner.this_process()


def test_another_process_is_gone_when_it_has_ended():
    with other_process() as process:
        name = process.stdout.readline().strip()
        assert owner.is_gone(name) is False
        process.stdin.close()
    assert owner.is_gone(name) is True


def test_a_process_that_has_ended_and_was_not_waited_for_is_gone():
    with other_process() as process:
        name = process.stdout.readline().strip()
        process.stdin.close()
        process.stdout.read()  # ends when the process does; it is a zombie until the block ends
        assert owner.is_gone(name) in (True, False)
    assert owner.is_gone(name) is True


def test_a_number_that_was_given_again_is_another_process():
    machine, pid, born, number = owner.this_process().split("-")
    assert owner.is_gone(f"{machine}-{pid}-{born}0-{number}") is True


def test_nobody_is_gone():
    assert owner.is_gone(owner.nobody()) is True


def test_of_another_machine_nothing_is_known():
    _, pid, born, number = owner.this_process().split("-")
    assert owner.is_gone(f"{'0' * 12}-{pid}-{born}-{number}") is None


def test_of_a_name_that_is_none_nothing_is_known():
    assert owner.is_gone("../x") is None


def test_a_process_that_the_system_does_not_show_may_live(monkeypatch):
    def hidden(*_args, **_how):
        raise FileNotFoundError

    name = owner.this_process()
    monkeypatch.setattr(owner.Path, "read_text", hidden)  # as where /proc is mounted with hidepid
    assert owner.is_gone(name) is None


def test_a_process_of_somebody_else_that_the_system_does_not_show_may_live(monkeypatch):
    def hidden(*_args, **_how):
        raise FileNotFoundError

    def denied(_pid, _signal):
        raise PermissionError

    name = owner.this_process()
    monkeypatch.setattr(owner.Path, "read_text", hidden)
    monkeypatch.setattr(os, "kill", denied)
    assert owner.is_gone(name) is None


def test_what_this_process_wrote_is_of_this_boot():
    assert owner.is_of_this_boot(owner.this_process())
    assert owner.is_of_this_boot(owner.nobody())


def test_what_another_boot_left_is_not_of_this_one():
    assert not owner.is_of_this_boot(f"{owner.NOBODY}-{'0' * 12}-01234567")
    assert not owner.is_of_this_boot(f"{owner.NOBODY}-01234567")


@pytest.mark.parametrize("other", ["boot", "container"])
def test_of_another_boot_or_container_nothing_is_known(monkeypatch, other):
    name = owner.this_process()
    read = Path.read_text
    if other == "boot":
        monkeypatch.setattr(Path, "read_text", lambda path: "other" if path.name == "boot_id" else read(path))
    else:
        monkeypatch.setattr(Path, "readlink", lambda _path: Path("pid:[1]"))
    owner._machine.cache_clear()
    try:
        assert owner.is_gone(name) is None
    finally:
        owner._machine.cache_clear()


def test_two_processes_began_at_two_times():
    with other_process() as process:
        process.stdout.readline()
        assert owner._born(process.pid) not in {owner._born(os.getpid()), "", None}
        process.stdin.close()


def test_a_zombie_has_ended():
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner._born(process.pid) == ""


def test_two_machines_that_do_not_tell_their_boot_are_not_the_same(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda _path: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(owner, "_first_line", lambda _command: "")
    names = set()
    try:
        for _ in range(2):
            owner._machine.cache_clear()
            names.add(owner._machine())
    finally:
        owner._machine.cache_clear()
    assert len(names) == 2
