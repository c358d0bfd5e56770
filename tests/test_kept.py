"""Downloads that other runs have begun: what is believed of them, and that no two runs share one."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from embmerge.errors import DiskError
from embmerge.remote import owner, partial
from embmerge.remote.files import RemoteFile
from embmerge.remote.kept import FORGOTTEN, left_behind, sweep
from embmerge.remote.partial import FOLDER, begin
from tests.partials import ELSEWHERE, FILE, abandoned, read, write

ODD = [{"nbytes": 100.5}, {"nbytes": "100"}, {"mtime": "x"}, {"name": ["a"]}, {"mtime": 1e40}]


def test_what_was_left_is_taken_up_where_it_stopped(tmp_path):
    abandoned(tmp_path, (0, 10), (50, 60))
    (kept,) = left_behind(tmp_path)
    assert (kept.file, kept.nbytes) == (FILE, 20)
    part = kept.resume()
    assert part.done.missing(100) == [(10, 50), (60, 100)]
    assert read(part, 50, 10) == bytes(range(50, 60))


def test_what_this_process_is_at_is_no_ones_else(tmp_path):
    begin(tmp_path, FILE)
    assert left_behind(tmp_path) == []


def test_of_two_runs_that_take_one_up_only_one_gets_it(tmp_path):
    abandoned(tmp_path, (0, 10))
    (first,), (second,) = left_behind(tmp_path), left_behind(tmp_path)
    assert first.resume() is not None
    assert second.resume() is None


def test_what_a_killed_process_had_is_taken_up(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from tests.test_partial import *\n"
        "part = begin(Path(sys.argv[1]), FILE); write(part, 0, 30); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    (kept,) = left_behind(tmp_path)
    assert kept.done == ((0, 30),)


def test_of_another_machine_only_what_is_on_its_disk_is_copied(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    part.sync()
    write(part, 10, 20)
    theirs = part.folder.rename(part.folder.with_suffix(f".{ELSEWHERE}"))
    (kept,) = left_behind(tmp_path)
    assert (kept.gone, kept.done) == (False, ((0, 10),))
    copy = kept.copied(threading.Event()).resume()
    assert read(copy, 0, 10) == bytes(range(10))
    assert (copy.folder / "data").stat().st_ino != (theirs / "data").stat().st_ino
    assert theirs.exists()


def test_what_a_power_cut_may_have_taken_is_not_believed_after_it_was_taken_over_either(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    part.sync()
    write(part, 50, 60)
    part.leave()
    (folder,) = (tmp_path / FOLDER).iterdir()
    folder.rename(folder.with_name(f"{FILE.name}.left-{'0' * 12}-01234567"))  # another boot since
    for _ in range(2):
        (kept,) = left_behind(tmp_path)
        assert kept.done == ((0, 10),)
        kept.resume().leave()


def test_a_run_of_another_machine_that_may_live_is_never_removed(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    (kept,) = left_behind(tmp_path)
    kept.discard()
    assert len(left_behind(tmp_path)) == 1


def test_one_that_was_silent_for_a_day_is_removed(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    journal = tmp_path / FOLDER / f"{FILE.name}.{ELSEWHERE}" / "journal"
    os.utime(journal, (time.time() - 2 * FORGOTTEN,) * 2)
    (kept,) = left_behind(tmp_path)
    kept.discard()
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_line_that_was_being_written_is_no_line(tmp_path):
    abandoned(tmp_path, (0, 10))
    journal = next((tmp_path / FOLDER).glob("*/journal"))
    with journal.open("a") as file:
        file.write("[10, 2")
    (kept,) = left_behind(tmp_path)
    write(kept.resume(), 40, 50)
    assert kept.done == ((0, 10),)
    lines = [json.loads(line) for line in next((tmp_path / FOLDER).glob("*/journal")).read_text().split("\n")[3:-1]]
    assert lines[-1] == [40, 50]


@pytest.mark.parametrize("wrong", ODD)
def test_a_journal_whose_origin_is_of_other_types_is_not_believed(tmp_path, wrong):
    abandoned(tmp_path, (0, 10))
    journal = next((tmp_path / FOLDER).glob("*/journal"))
    origin, *lines = journal.read_text().splitlines()
    journal.write_text("\n".join([json.dumps(json.loads(origin) | wrong), *lines]))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("line", ["[0.5, 10]", "[5]", "[0, 5, 7]", '["a", "b"]', "[-5, 2]"])
def test_a_range_that_is_none_is_not_believed(tmp_path, line):
    abandoned(tmp_path, (0, 10))
    with next((tmp_path / FOLDER).glob("*/journal")).open("a") as file:
        file.write(f"{line}\n")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("name", ["journal", "data"])
def test_a_pipe_in_a_partial_is_not_waited_for(tmp_path, name):
    abandoned(tmp_path)
    place = next((tmp_path / FOLDER).glob(f"*/{name}"))
    place.unlink()
    os.mkfifo(place)
    assert left_behind(tmp_path) == []


def test_a_journal_of_very_many_ranges_is_read_at_once(tmp_path):
    abandoned(tmp_path)
    with next((tmp_path / FOLDER).glob("*/journal")).open("a") as file:
        file.writelines(f"[{at}, {at + 1}]\n" for at in range(0, 200_000, 2))
    began = time.process_time()
    assert left_behind(tmp_path) == []
    assert time.process_time() - began < 5  # each range among all others would take an hour


@pytest.mark.parametrize("text", ["", "nonsense", "[1, 2]", '{"cluster": 1}', "[" * 100_000])
def test_what_cannot_be_understood_is_removed(tmp_path, text):
    abandoned(tmp_path, (0, 10))
    next((tmp_path / FOLDER).glob("*/journal")).write_text(text)
    sweep(tmp_path)
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_what_cannot_be_understood_is_not_removed_by_looking(tmp_path):
    (tmp_path / FOLDER / f"x.{owner.nobody()}").mkdir(parents=True)
    assert left_behind(tmp_path) == []
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_what_can_be_understood_is_not_swept_away(tmp_path):
    abandoned(tmp_path, (0, 10))
    sweep(tmp_path)
    assert len(left_behind(tmp_path)) == 1


def test_what_another_machine_has_begun_a_moment_ago_is_not_swept_away(tmp_path):
    (tmp_path / FOLDER / f"x.{ELSEWHERE}").mkdir(parents=True)
    sweep(tmp_path)
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_of_what_was_left_before_the_last_boot_only_what_is_on_the_disk_is_believed(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    part.sync()
    write(part, 10, 20)
    part.leave()
    part.folder.rename(part.folder.with_suffix(f".{owner.NOBODY}-{'0' * 12}-01234567"))
    (kept,) = left_behind(tmp_path)
    assert (kept.gone, kept.done) == (True, ((0, 10),))


def test_a_copy_ends_when_it_is_asked_to(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    (kept,) = left_behind(tmp_path)
    stop = threading.Event()
    stop.set()
    assert kept.copied(stop) is kept


def test_ranges_that_the_data_do_not_have_are_not_believed(tmp_path):
    abandoned(tmp_path, (0, 10))
    with next((tmp_path / FOLDER).glob("*/journal")).open("a") as file:
        file.write("[10, 90]\n")
    assert left_behind(tmp_path) == []


def test_the_best_comes_first(tmp_path):
    abandoned(tmp_path, (0, 10))
    abandoned(tmp_path, (0, 50))
    assert [kept.nbytes for kept in left_behind(tmp_path)] == [50, 10]


def test_a_taken_over_partial_is_named_for_its_new_owner(tmp_path):
    abandoned(tmp_path, (0, 10))
    part = left_behind(tmp_path)[0].resume()
    assert owner.is_gone(part.folder.suffix[1:]) is False
    shutil.rmtree(part.folder)


def test_of_what_became_shorter_while_it_was_copied_no_more_is_believed(tmp_path):
    big = RemoteFile("a", "cluster0_gpu0.pkl", "/x", 3 << 20, 5)
    part = begin(tmp_path, big)
    part.write(0, [memoryview(bytes(3 << 20))])
    part.add(0, 3 << 20)
    part.sync()
    part.folder.rename(part.folder.with_suffix(f".{ELSEWHERE}"))
    (kept,) = left_behind(tmp_path)
    os.truncate(kept.folder / "data", 20)
    assert kept.copied(threading.Event()).done == ((0, 20),)


def test_ranges_beyond_the_remote_file_are_not_believed(tmp_path):
    abandoned(tmp_path, (0, 10))
    journal = next((tmp_path / FOLDER).glob("*/journal"))
    with journal.open("a") as file:
        file.write("[90, 200]\n")
    os.truncate(journal.parent / "data", 300)
    assert left_behind(tmp_path) == []


def test_what_is_thrown_away_is_ours_first(tmp_path, monkeypatch):
    abandoned(tmp_path, (0, 10))
    (kept,) = left_behind(tmp_path)
    removed = []
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_how: removed.append(folder))
    kept.discard()
    assert owner.is_gone(removed[0].suffix[1:]) is False


def test_after_a_restart_what_the_last_sync_noted_is_believed(tmp_path):
    part = begin(tmp_path, FILE)
    for start in (0, 10):
        write(part, start, start + 10)
        part.sync()
    part.folder.rename(part.folder.with_suffix(f".{ELSEWHERE}"))
    (kept,) = left_behind(tmp_path)
    assert kept.done == ((0, 20),)


def test_what_a_run_that_may_live_has_is_not_taken_over(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    (kept,) = left_behind(tmp_path)
    assert kept.resume() is None
    assert kept.folder.exists()


def test_what_a_run_that_has_ended_left_is_not_copied(tmp_path):
    abandoned(tmp_path, (0, 10))
    (kept,) = left_behind(tmp_path)
    assert kept.copied(threading.Event()) is kept


def test_of_what_was_silent_for_a_day_the_copy_is_all_that_remains(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    journal = tmp_path / FOLDER / f"{FILE.name}.{ELSEWHERE}" / "journal"
    os.utime(journal, (time.time() - 2 * FORGOTTEN,) * 2)
    (kept,) = left_behind(tmp_path)
    copy = kept.copied(threading.Event())
    assert list((tmp_path / FOLDER).iterdir()) == [copy.folder]


def test_what_cannot_be_understood_and_was_silent_for_a_day_is_swept_away(tmp_path):
    folder = tmp_path / FOLDER / f"x.{ELSEWHERE}"
    folder.mkdir(parents=True)
    os.utime(folder, (time.time() - 2 * FORGOTTEN,) * 2)
    sweep(tmp_path)
    assert not folder.exists()


def test_what_could_not_be_copied_is_not_noted(tmp_path, monkeypatch):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    (kept,) = left_behind(tmp_path)

    def full(*_written):
        raise DiskError("No space left on device")

    monkeypatch.setattr(partial.Partial, "write", full)
    with pytest.raises(DiskError):
        kept.copied(threading.Event())
    assert [each.nbytes for each in left_behind(tmp_path) if each.gone] == [0]


@pytest.mark.parametrize("line", ["{}", '{"synced": 5}'])
def test_a_journal_with_a_line_that_is_none_is_not_believed_after_a_restart(tmp_path, line):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    with next((tmp_path / FOLDER).glob("*/journal")).open("a") as file:
        file.write(f"{line}\n")
    assert left_behind(tmp_path) == []


def test_of_another_machine_what_was_never_synced_is_not_believed(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    part.folder.rename(part.folder.with_suffix(f".{ELSEWHERE}"))
    assert [kept.done for kept in left_behind(tmp_path)] == [()]


def test_bytes_that_may_not_be_on_the_disk_are_not_copied_with_those_before_them(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    part.sync()
    write(part, 10, 20)
    part.folder.rename(part.folder.with_suffix(f".{ELSEWHERE}"))
    (kept,) = left_behind(tmp_path)
    assert kept.copied(threading.Event()).done == ((0, 10),)


def test_of_what_is_gone_when_it_is_copied_nothing_is_here(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    (kept,) = left_behind(tmp_path)
    (kept.folder / "data").unlink()
    assert kept.copied(threading.Event()).done == ()


def test_a_copy_that_is_stopped_does_not_take_the_place_of_what_it_is_of(tmp_path, monkeypatch):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    os.utime(next((tmp_path / FOLDER).glob("*/journal")), (time.time() - 2 * FORGOTTEN,) * 2)
    (kept,) = left_behind(tmp_path)
    stop, pread = threading.Event(), os.pread
    monkeypatch.setattr(os, "pread", lambda *request: (stop.set(), pread(*request))[1])
    assert kept.copied(stop).done == ()
    assert kept.folder.exists()


def test_one_that_was_silent_for_a_night_is_kept(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    os.utime(next((tmp_path / FOLDER).glob("*/journal")), (time.time() - 12 * 3600,) * 2)
    (kept,) = left_behind(tmp_path)
    kept.discard()
    assert kept.folder.exists()


def test_of_two_runs_that_throw_one_away_the_second_finds_nothing_to_do(tmp_path):
    abandoned(tmp_path, (0, 10))
    (first,), (second,) = left_behind(tmp_path), left_behind(tmp_path)
    first.discard()
    second.discard()
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_what_a_living_run_has_just_begun_is_not_swept_away_however_old_it_looks(tmp_path):
    folder = tmp_path / FOLDER / f"x.{owner.this_process()}"
    folder.mkdir(parents=True)
    os.utime(folder, (time.time() - 2 * FORGOTTEN,) * 2)
    sweep(tmp_path)
    assert folder.exists()


def test_a_file_that_somebody_has_put_among_them_is_not_touched(tmp_path):
    place = tmp_path / FOLDER / "notes"
    place.parent.mkdir()
    place.touch()
    os.utime(place, (time.time() - 2 * FORGOTTEN,) * 2)
    sweep(tmp_path)
    assert place.exists()


def test_a_journal_that_the_disk_cannot_read_is_not_believed(tmp_path, monkeypatch):
    abandoned(tmp_path, (0, 10))

    def fails(_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(type(tmp_path), "read_bytes", fails)
    assert left_behind(tmp_path) == []
