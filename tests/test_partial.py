"""A download on disk: what is written, noted and waited for, until it has its own name."""

import errno
import os
import shutil
import threading

import pytest

from embmerge.errors import DiskError
from embmerge.remote import partial
from embmerge.remote.kept import left_behind, tidy
from embmerge.remote.partial import FOLDER, begin
from tests.disktrace import DiskTrace
from tests.partials import FILE, abandoned, read, write


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
