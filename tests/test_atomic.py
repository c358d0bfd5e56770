import errno
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from embmerge import atomic
from embmerge.errors import DiskError
from tests.disktrace import DiskTrace


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def dead_process():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


@contextmanager
def open_files_unchanged():
    """Fails unless as many files are open in the end as before."""
    before = len(list(Path("/dev/fd").iterdir()))
    yield
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    atomic.write_bytes(tmp_path / "f", b"old")
    atomic.write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert names(tmp_path) == ["f"]


def test_the_old_content_stands_until_the_end(tmp_path):
    atomic.write_bytes(tmp_path / "f", b"old")
    with atomic.replacing(tmp_path / "f") as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_goes_wrong_leaves_the_old_content_alone(tmp_path, error):
    atomic.write_bytes(tmp_path / "f", b"old")
    with pytest.raises(error), atomic.replacing(tmp_path / "f") as temporary:  # noqa: PT012  it is the block that fails
        temporary.write_bytes(b"half")
        raise error
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_the_folder_is_made(tmp_path):
    atomic.write_bytes(tmp_path / "a" / "b" / "f", b"new")
    assert names(tmp_path / "a" / "b") == ["f"]


def leave(tmp_path, pid, host=None):
    with atomic.temporary_for(tmp_path / "f") as mine:
        name = mine.name.replace(f"-{os.getpid()}-", f"-{pid}-")
    left = tmp_path / (name.replace(atomic._here(), host) if host else name)
    left.write_bytes(b"half")
    return left


def test_what_a_dead_process_left_is_removed(tmp_path):
    left = leave(tmp_path, dead_process())
    atomic.write_bytes(tmp_path / "f", b"new")
    assert not left.exists()


def test_what_an_earlier_process_of_the_same_number_left_is_removed(tmp_path):
    left = leave(tmp_path, os.getpid())  # in a container each run may have it
    atomic.write_bytes(tmp_path / "f", b"new")
    assert not left.exists()


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    left = leave(tmp_path, os.getppid())
    atomic.write_bytes(tmp_path / "f", b"new")
    assert left.exists()


def test_what_another_machine_writes_is_left_alone(tmp_path):
    left = leave(tmp_path, dead_process(), host="elsewhere")
    atomic.write_bytes(tmp_path / "f", b"new")
    assert left.exists()


def test_other_files_that_look_alike_are_left_alone(tmp_path):
    here, pid = atomic._here(), dead_process()
    others = [f".f.{here}-x.tmp", f".g.{here}-{pid}-1.tmp", f".f.{here}-x.{here}-{pid}-1.tmp", ".f.tmp", "f.tmp"]
    for name in others:
        (tmp_path / name).touch()
    atomic.write_bytes(tmp_path / "f", b"new")
    assert names(tmp_path) == sorted([*others, "f"])


def test_two_at_once_in_one_process_do_not_meet(tmp_path):
    with atomic.replacing(tmp_path / "f") as one, atomic.replacing(tmp_path / "f") as other:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert (tmp_path / "f").read_bytes() == b"one"
    assert names(tmp_path) == ["f"]


def test_too_little_room_is_told_with_figures(tmp_path):
    with pytest.raises(DiskError, match=r"free, but .* are needed") as caught:
        atomic.need(tmp_path / "not" / "there", 1 << 60)
    assert str(tmp_path) in caught.value.message
    atomic.need(tmp_path / "not" / "there", 1)


def test_only_what_is_free_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1000, 900, 100))
    atomic.need(tmp_path, 100)
    with pytest.raises(DiskError, match="has 100 B free, but 101 B are needed"):
        atomic.need(tmp_path, 101)


def test_a_file_where_the_folder_should_be_is_a_disk_error(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(DiskError, match="cannot write"):
        atomic.write_bytes(tmp_path / "a" / "f", b"new")


def test_a_folder_that_is_a_link_to_nothing_is_told_as_that(tmp_path):
    (tmp_path / "merged").symlink_to("unmounted")
    with pytest.raises(DiskError, match=r"merged is a link to what is not there$"):
        atomic.write_bytes(tmp_path / "merged" / "f", b"new")


def test_a_folder_that_goes_meanwhile_is_a_disk_error(tmp_path):
    folder = tmp_path / "a"
    with pytest.raises(DiskError, match="cannot write"), atomic.replacing(folder / "f") as temporary:  # noqa: PT012  it goes in the block
        temporary.write_bytes(b"new")
        temporary.unlink()
        folder.rmdir()


def test_what_went_wrong_is_told_even_if_the_folder_is_a_file_by_then(tmp_path):
    folder = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt), atomic.replacing(folder / "f"):  # noqa: PT012  it goes in the block
        folder.rmdir()
        folder.touch()
        raise KeyboardInterrupt


def test_what_was_replaced_is_freed_before_long(tmp_path):
    place, other = tmp_path / "x", tmp_path / "y"
    place.write_text("old")
    other.write_text("new")
    before = set(threading.enumerate())
    with open_files_unchanged():
        with atomic.outliving_its_name(place):
            other.replace(place)
        for thread in set(threading.enumerate()) - before:
            thread.join()
    assert place.read_text() == "new"


def test_nothing_need_stand_where_a_file_is_put(tmp_path):
    with open_files_unchanged(), atomic.outliving_its_name(tmp_path / "x"):
        (tmp_path / "x").write_text("new")


def test_a_pipe_that_is_replaced_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x")
    with atomic.outliving_its_name(tmp_path / "x"):
        (tmp_path / "x").unlink()


def test_what_cannot_be_opened_may_be_replaced(tmp_path):
    (tmp_path / "x").symlink_to("x")
    with atomic.outliving_its_name(tmp_path / "x"):
        (tmp_path / "x").unlink()


@pytest.mark.parametrize("name", ["f.pkl", ".f", "a.tmp", "two\nlines", "a.b-1-2.tmp.x"])
def test_a_temporary_is_known_by_the_name_of_its_place(tmp_path, name):
    with atomic.temporary_for(tmp_path / name) as temporary:
        assert atomic.place_name(temporary.name) == name
    assert atomic.place_name(name) == name


@pytest.mark.parametrize("name", ["folder", "x" * 230, "x" * 300, "file/f", "x" * 300 + "/f"], ids=lambda n: n[-9:])
def test_a_place_where_no_file_can_be_is_told(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(DiskError) as caught:
        atomic.check_place(tmp_path / name)
    assert caught.value.message.startswith(f"cannot write {tmp_path / name}: ")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["file", "none", "no/folder/yet"])
def test_a_place_where_a_file_can_be_is_fine(tmp_path, name):
    (tmp_path / "file").touch()
    atomic.check_place(tmp_path / name)


def test_names_of_one_file_are_the_same_file(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert atomic.same_file(tmp_path / "link", tmp_path / "file")
    assert not atomic.same_file(tmp_path / "none", tmp_path / "none")
    assert not atomic.same_file(tmp_path / "file", tmp_path / ("x" * 300))


def test_content_is_on_the_disk_before_it_has_its_name_and_the_name_after_that(tmp_path, monkeypatch):
    trace = DiskTrace(monkeypatch)
    atomic.write_bytes(tmp_path / "f", b"new")
    (content, temporary, synced), (name, renamed, _), (folder, where, _) = trace.steps
    assert (content, synced, name, folder, where) == ("sync", b"new", "rename", "sync", tmp_path)
    assert temporary == renamed


def test_whoever_reads_the_old_content_goes_on_reading_it(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    with (tmp_path / "f").open("rb") as held:
        atomic.write_bytes(tmp_path / "f", b"new")
        assert held.read() == b"old"


def test_content_that_cannot_be_synced_takes_no_place(tmp_path, monkeypatch):
    atomic.write_bytes(tmp_path / "f", b"old")

    def fails(_file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(DiskError):
        atomic.write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_is_written_to(tmp_path, monkeypatch, number):
    def fails(_file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    atomic.write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_nothing_stays_open_once_it_is_on_the_disk(tmp_path):
    with open_files_unchanged():
        atomic.write_bytes(tmp_path / "f", b"new")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_called_full(tmp_path, number):
    with pytest.raises(DiskError, match=f"^the disk is full: {tmp_path} "), atomic.disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM])
def test_what_the_disk_says_is_a_disk_error(tmp_path, number):
    with pytest.raises(DiskError, match=f"^cannot write {tmp_path}: "), atomic.disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_what_this_process_is_writing_is_not_removed_by_another_writer_in_it(tmp_path):
    with atomic.replacing(tmp_path / "f") as one:
        one.write_bytes(b"one")
        with atomic.replacing(tmp_path / "f") as other:
            other.write_bytes(b"other")
            assert one.exists()


def test_what_a_process_of_somebody_else_is_writing_is_not_removed(tmp_path, monkeypatch):
    left = leave(tmp_path, os.getppid())

    def forbidden(_pid, _signal):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", forbidden)
    atomic.write_bytes(tmp_path / "f", b"new")
    assert left.exists()
