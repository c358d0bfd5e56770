"""Partial downloads on disk: what is kept, who may take it up, and that no two runs share one."""

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
from embmerge.remote.partial import FOLDER, begin, left_behind, sweep, tidy
from tests.disktrace import DiskTrace

FILE = RemoteFile("a", "cluster0_gpu0.pkl", "/out/cluster0_gpu0.pkl", 100, 1_700_000_000)
ELSEWHERE = "0" * 12 + "-1-1-0"  # an owner on another machine


def write(part, start, end):
    part.write(start, [memoryview(bytes(range(start, end)))])
    part.add(start, end)


def read(part, start, length):
    buffer = bytearray(length)
    assert part.read(start, memoryview(buffer)) == length
    return bytes(buffer)


def abandoned(directory, *ranges, by=None):
    """A partial whose run has ended (or, `by` an owner, may not have)."""
    part = begin(directory, FILE)
    for start, end in ranges:
        write(part, start, end)
    if by:
        part.sync()
        part.folder.rename(part.folder.with_suffix(f".{by}"))
    else:
        part.leave()


def test_what_could_not_be_noted_does_not_count(tmp_path, monkeypatch):
    part = begin(tmp_path, FILE)
    part.write(0, [memoryview(b"abc")])

    def full(*_lines):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(part, "_note", full)
    with pytest.raises(DiskError):
        part.add(0, 3)
    assert part.done.nbytes == 0


def test_bytes_that_come_in_tiny_pieces_are_written(tmp_path):
    part = begin(tmp_path, FILE)
    part.write(0, [memoryview(bytes([n % 256])) for n in range(3000)])  # more than the system takes at once
    assert part.path.read_bytes() == bytes(n % 256 for n in range(3000))


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


def test_a_run_of_another_machine_that_may_live_is_never_removed(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    (kept,) = left_behind(tmp_path)
    kept.discard()
    assert len(left_behind(tmp_path)) == 1


def test_one_that_was_silent_for_a_day_is_removed(tmp_path):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    journal = tmp_path / FOLDER / f"{FILE.name}.{ELSEWHERE}" / "journal"
    os.utime(journal, (time.time() - 2 * partial.FORGOTTEN,) * 2)
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


ODD = [{"nbytes": 100.5}, {"nbytes": "100"}, {"mtime": "x"}, {"name": ["a"]}, {"mtime": 1e40}]


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


def test_the_folder_may_be_tidied_away_while_a_partial_is_made_in_it(tmp_path, monkeypatch):
    real, tidied = type(tmp_path).mkdir, []

    def mkdir(path, *args, **how):
        if path.parent.name == FOLDER and path.parent.exists() and not tidied:
            tidied.append(path)
            tidy(tmp_path)
        real(path, *args, **how)

    monkeypatch.setattr(type(tmp_path), "mkdir", mkdir)
    for _ in range(2):
        begin(tmp_path, FILE)
    assert tidied


def test_what_is_synced_is_noted_in_no_other_journal(tmp_path, monkeypatch):
    one = begin(tmp_path, FILE)
    write(one, 0, 10)
    other = []

    def leave_and_begin(file):
        os.fsync(file)
        one.leave()
        other.append(begin(tmp_path, FILE))  # which gets the numbers of the files that were closed

    monkeypatch.setattr(partial, "_sync_data", leave_and_begin)
    with pytest.raises(DiskError):
        one.sync()
    assert "synced" not in (other[0].folder / "journal").read_text()


def test_ranges_that_the_data_do_not_have_are_not_believed(tmp_path):
    abandoned(tmp_path, (0, 10))
    with next((tmp_path / FOLDER).glob("*/journal")).open("a") as file:
        file.write("[10, 90]\n")
    assert left_behind(tmp_path) == []


def test_a_whole_one_gets_its_own_name_and_mtime(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 100)
    part.promote(tmp_path / FILE.name)
    assert (tmp_path / FILE.name).read_bytes() == bytes(range(100))
    assert (tmp_path / FILE.name).stat().st_mtime == FILE.mtime
    assert not part.folder.exists()


def test_parts_are_written_one_after_the_other(tmp_path):
    part = begin(tmp_path, FILE)
    part.write(5, [memoryview(b"ab"), memoryview(b"cd")])
    assert read(part, 5, 4) == b"abcd"


def test_the_best_comes_first(tmp_path):
    abandoned(tmp_path, (0, 10))
    abandoned(tmp_path, (0, 50))
    assert [kept.nbytes for kept in left_behind(tmp_path)] == [50, 10]


def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path):
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(DiskError, match="cannot write"):
        begin(tmp_path, FILE)


def test_a_number_that_was_closed_is_not_written_to(tmp_path):
    part = begin(tmp_path, FILE)
    part.leave()
    with (tmp_path / "other").open("wb"), pytest.raises(DiskError):
        part.write(0, [memoryview(b"x")])
    assert (tmp_path / "other").read_bytes() == b""


def test_a_taken_over_partial_is_named_for_its_new_owner(tmp_path):
    abandoned(tmp_path, (0, 10))
    part = left_behind(tmp_path)[0].resume()
    assert owner.is_gone(part.folder.suffix[1:]) is False
    shutil.rmtree(part.folder)


def test_what_the_system_writes_in_pieces_is_whole(tmp_path, monkeypatch):
    part = begin(tmp_path, FILE)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda file, parts, at: pwrite(file, b"".join(parts)[:7], at))
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, bytes(data)[:7], at))
    part.write(0, [memoryview(bytes(range(60))), memoryview(bytes(range(60, 100)))])
    assert part.path.read_bytes() == bytes(range(100))


def test_what_is_noted_as_synced_was_here_before_the_sync(tmp_path, monkeypatch):
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    journal = part.folder / "journal"
    noted = []

    def sync(_file):
        noted.append("synced" in journal.read_text())
        write(part, 10, 20)

    monkeypatch.setattr(partial, "_sync_data", sync)
    part.sync()
    assert noted == [False]
    assert '{"synced": [[0, 10]]}' in journal.read_text()


def test_a_folder_that_is_a_link_to_nothing_is_told_as_that(tmp_path):
    (tmp_path / "embeddings").symlink_to("unmounted")
    with pytest.raises(DiskError, match=r"embeddings is a link to what is not there$"):
        begin(tmp_path / "embeddings", FILE)


def test_a_sync_waits_for_the_disk(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(os, "fdatasync", waited.append)
    part = begin(tmp_path, FILE)
    part.sync()
    assert waited


def test_a_whole_one_is_on_the_disk_before_it_has_its_own_name_and_the_name_after_that(tmp_path, monkeypatch):
    part = begin(tmp_path, FILE)
    write(part, 0, 100)
    trace = DiskTrace(monkeypatch)
    part.promote(tmp_path / FILE.name)
    assert [(what, path.name) for what, path, _ in trace.steps] == [
        ("sync", "data"),
        ("rename", "data"),
        ("sync", tmp_path.name),
    ]


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


def test_what_lies_behind_the_end_of_a_whole_one_is_cut_off(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 100)
    with part.path.open("ab") as data:
        data.write(b"of a longer version")
    part.promote(tmp_path / FILE.name)
    assert (tmp_path / FILE.name).read_bytes() == bytes(range(100))


def test_a_whole_one_has_its_mtime_before_it_is_on_the_disk(tmp_path, monkeypatch):
    part = begin(tmp_path, FILE)
    write(part, 0, 100)
    fsync, seen = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append(os.fstat(file).st_mtime), fsync(file)))
    part.promote(tmp_path / FILE.name)
    assert seen[0] == FILE.mtime


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
    os.utime(journal, (time.time() - 2 * partial.FORGOTTEN,) * 2)
    (kept,) = left_behind(tmp_path)
    copy = kept.copied(threading.Event())
    assert list((tmp_path / FOLDER).iterdir()) == [copy.folder]


def test_what_cannot_be_understood_and_was_silent_for_a_day_is_swept_away(tmp_path):
    folder = tmp_path / FOLDER / f"x.{ELSEWHERE}"
    folder.mkdir(parents=True)
    os.utime(folder, (time.time() - 2 * partial.FORGOTTEN,) * 2)
    sweep(tmp_path)
    assert not folder.exists()


def test_a_disk_that_hangs_is_not_waited_for_when_all_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "_PATIENCE", 0.01)
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    left = []
    with part._lock:  # as while something is noted, on a disk that hangs
        thread = threading.Thread(target=lambda: left.append(part.leave()), daemon=True)
        thread.start()
        thread.join(5)
        assert left == [10]


def test_what_could_not_be_copied_is_not_noted(tmp_path, monkeypatch):
    abandoned(tmp_path, (0, 10), by=ELSEWHERE)
    (kept,) = left_behind(tmp_path)

    def full(*_written):
        raise DiskError("No space left on device")

    monkeypatch.setattr(partial.Partial, "write", full)
    with pytest.raises(DiskError):
        kept.copied(threading.Event())
    assert [each.nbytes for each in left_behind(tmp_path) if each.gone] == [0]


def test_what_was_thrown_away_is_not_written_to(tmp_path):
    part = begin(tmp_path, FILE)
    part.discard()
    with pytest.raises(DiskError):
        part.write(0, [memoryview(b"x")])


def test_what_was_thrown_away_is_gone(tmp_path):
    part = begin(tmp_path, FILE)
    part.discard()
    assert not part.folder.exists()


def test_what_has_its_own_name_is_not_written_to(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 100)
    part.promote(tmp_path / FILE.name)
    with pytest.raises(DiskError):
        part.write(0, [memoryview(b"x")])
    assert (tmp_path / FILE.name).read_bytes() == bytes(range(100))


def test_a_whole_one_may_be_read_by_whoever_may_read_any_new_file(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 100)
    part.promote(tmp_path / FILE.name)
    (tmp_path / "other").touch()
    assert (tmp_path / FILE.name).stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("close", ["leave", "discard"])
@pytest.mark.parametrize(("call", "of_the_disk"), [("add", "write"), ("sync", "write"), ("promote", "fsync")])
def test_what_is_at_its_last_step_is_waited_for_before_all_is_closed(tmp_path, monkeypatch, call, of_the_disk, close):
    monkeypatch.setattr(partial, "_PATIENCE", 5.0)
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    really = getattr(os, of_the_disk)
    closing = threading.Thread(target=getattr(part, close), daemon=True)

    def slow(*request):
        if not closing.ident:
            closing.start()
            closing.join(0.1)
        return really(*request)

    monkeypatch.setattr(os, of_the_disk, slow)
    getattr(part, call)(*{"add": (10, 20), "sync": (), "promote": (tmp_path / FILE.name,)}[call])
    closing.join(5)
    assert not closing.is_alive()


def test_what_could_not_get_its_own_name_is_left_for_the_next_run(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 100)
    (tmp_path / FILE.name).mkdir()
    with pytest.raises(DiskError):
        part.promote(tmp_path / FILE.name)
    assert part.leave() == 100
    assert [kept.nbytes for kept in left_behind(tmp_path)] == [100]


def test_what_somebody_has_removed_is_left_all_the_same(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    shutil.rmtree(part.folder)
    assert part.leave() == 10


def test_bytes_that_were_noted_and_are_gone_are_a_disk_error(tmp_path):
    part = begin(tmp_path, FILE)
    part.add(0, 10)
    with pytest.raises(DiskError, match="what was written there is gone"):
        part.read(0, memoryview(bytearray(10)))


def test_a_disk_error_says_how_much_is_still_to_come(tmp_path):
    part = begin(tmp_path, FILE)
    write(part, 0, 10)
    part.leave()
    with pytest.raises(DiskError, match="90 B of this shard are still to come"):
        part.write(10, [memoryview(b"x")])


def test_what_it_is_part_of_is_noted_once(tmp_path):
    abandoned(tmp_path, (0, 10))
    journal = left_behind(tmp_path)[0].resume().folder / "journal"
    assert journal.read_text().count(FILE.path) == 1


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
    os.utime(next((tmp_path / FOLDER).glob("*/journal")), (time.time() - 2 * partial.FORGOTTEN,) * 2)
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
    os.utime(folder, (time.time() - 2 * partial.FORGOTTEN,) * 2)
    sweep(tmp_path)
    assert folder.exists()


def test_a_file_that_somebody_has_put_among_them_is_not_touched(tmp_path):
    place = tmp_path / FOLDER / "notes"
    place.parent.mkdir()
    place.touch()
    os.utime(place, (time.time() - 2 * partial.FORGOTTEN,) * 2)
    sweep(tmp_path)
    assert place.exists()


def test_a_journal_that_the_disk_cannot_read_is_not_believed(tmp_path, monkeypatch):
    abandoned(tmp_path, (0, 10))

    def fails(_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(type(tmp_path), "read_bytes", fails)
    assert left_behind(tmp_path) == []


def test_a_system_without_fdatasync_waits_for_the_disk_too(tmp_path, monkeypatch):
    waited = []
    monkeypatch.delattr(os, "fdatasync", raising=False)
    monkeypatch.setattr(os, "fsync", waited.append)
    begin(tmp_path, FILE).sync()
    assert waited


def test_a_disk_that_fails_while_it_is_waited_for_is_a_disk_error(tmp_path, monkeypatch):
    part = begin(tmp_path, FILE)

    def fails(_file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(partial, "_sync_data", fails)
    with pytest.raises(DiskError, match="Input/output error"):
        part.sync()
