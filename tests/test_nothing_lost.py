"""Whatever ends a merge, and whenever: the old output is as it was, or the new one is complete."""

import contextlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from embmerge import events
from embmerge.errors import DiskError, LocalDataError, ShardError
from embmerge.merge import merge
from tests.shards import make_articles, make_dataset, make_shards, rows_of

ROOT = Path(__file__).resolve().parent.parent
OLD = b"the old output"
# merges `folder`; stops before event `moment` until a line comes, as `invoke merge` would be stopped by a signal
DRIVER = """
import os, select, sys, threading
from pathlib import Path
from embmerge.errors import EmbmergeError
from embmerge.merge import merge
from embmerge.signals import signals

folder, output, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def wait(_=None):
    print(moment, flush=True)
    while not select.select([sys.stdin], [], [], 0.05)[0]:  # a signal just before a read that waits would wait with it
        pass

def observer(event):
    if type(event).__name__ == moment:
        wait()

if moment == "fsync":
    os.fsync = wait

try:
    with signals(threading.Event()):
        merge(sorted((folder / "embeddings").iterdir()), folder / "a.pkl", output, observer=observer)
except EmbmergeError as error:
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""
MOMENTS = ["ShardLoaded", "RowsWritten", "Saving", "fsync", "Saved"]


@contextlib.contextmanager
def merging(folder, output, moment="", **how):
    """A merge in a process of its own that waits at `moment`."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, folder, output, moment],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )
    with process:
        if moment:
            assert process.stdout.readline().strip() == moment, process.stderr.read()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture
def dataset(tmp_path):
    make_dataset(tmp_path / "in", 400, 32, 4)
    output = tmp_path / "out" / "m.pkl"
    output.parent.mkdir()
    output.write_bytes(OLD)
    return tmp_path / "in", output


def whole(output, folder):
    """Whether `output` is the complete merge of `folder`."""
    merged = pickle.loads(output.read_bytes())
    shards = [pickle.loads(path.read_bytes())["embeddings"] for path in sorted((folder / "embeddings").iterdir())]
    return np.array_equal(merged["embeddings"], np.concatenate(shards)) and len(merged["articles"]) == 400


def again(folder, output):
    return merge(sorted((folder / "embeddings").iterdir()), folder / "a.pkl", output)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_one_signal_is_enough_and_leaves_nothing_behind(dataset, moment, number):
    folder, output = dataset
    with merging(folder, output, moment) as process:
        process.send_signal(number)
        assert process.wait(timeout=20) == 130
    assert [path.name for path in output.parent.iterdir()] == ["m.pkl"]
    assert whole(output, folder) if moment == "Saved" else output.read_bytes() == OLD


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_merge_is_cleaned_up_by_the_next(dataset, moment):
    folder, output = dataset
    with merging(folder, output, moment) as process:
        process.kill()
        process.wait(timeout=20)
    assert whole(output, folder) if moment == "Saved" else output.read_bytes() == OLD
    again(folder, output)
    assert [path.name for path in output.parent.iterdir()] == ["m.pkl"]
    assert whole(output, folder)


def test_two_merges_into_one_output_leave_one_of_the_two(dataset, tmp_path):
    folder, output = dataset
    make_shards(tmp_path / "other" / "embeddings", rows_of(400, 32, seed=1))
    make_articles(tmp_path / "other" / "a.pkl", 400)
    with (
        merging(folder, output, "RowsWritten") as one,
        merging(tmp_path / "other", output, "Saving") as other,
    ):
        for process in (one, other):
            process.communicate("\n" * 99, timeout=60)
            assert process.returncode == 0
    assert [path.name for path in output.parent.iterdir()] == ["m.pkl"]
    assert whole(output, tmp_path / "other") or whole(output, folder)


def test_a_file_that_may_not_grow_is_a_disk_error(dataset):
    folder, output = dataset

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    with merging(folder, output, preexec_fn=limit) as process:
        assert process.wait(timeout=60) == DiskError.exit_code
    assert [path.name for path in output.parent.iterdir()] == ["m.pkl"]
    assert output.read_bytes() == OLD


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte, where it may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None or os.geteuid() or not sys.platform.startswith("linux"):
        pytest.skip("only root on Linux may mount a small disk; the RLIMIT_FSIZE test stands in for it")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk may not be mounted here; the RLIMIT_FSIZE test stands in for it")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_loses_nothing(tmp_path, small_disk):
    shards, articles, _ = make_dataset(tmp_path / "in", 1500, 100, 4)
    output = small_disk / "m.pkl"
    output.write_bytes(OLD)

    def fill(event):
        if isinstance(event, events.RowsWritten):
            with contextlib.suppress(OSError):
                (small_disk / "filler").write_bytes(bytes(900_000))

    with pytest.raises(DiskError, match="disk is full"):
        merge(shards, articles, output, observer=fill)
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "m.pkl"]
    assert output.read_bytes() == OLD


def test_a_full_disk_is_known_beforehand(tmp_path, small_disk):
    shards, articles, _ = make_dataset(tmp_path / "in", 4000, 100, 4)
    with pytest.raises(DiskError, match="free, but"):
        merge(shards, articles, small_disk / "m.pkl")
    assert not list(small_disk.iterdir())


@contextlib.contextmanager
def not_root():
    """Permissions count for root's tests, too."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_is_a_disk_error(dataset):
    folder, _ = dataset
    with tempfile.TemporaryDirectory() as shared:
        place = Path(shared)
        shutil.copytree(folder, place / "in")
        (place / "out").mkdir()
        (place / "out" / "m.pkl").write_bytes(OLD)
        (place / "out").chmod(0o555)
        place.chmod(0o755)
        with pytest.raises(DiskError, match="permission denied") as caught, not_root():
            again(place / "in", place / "out" / "m.pkl")
        assert str(place / "out" / "m.pkl") in caught.value.message
        assert (place / "out" / "m.pkl").read_bytes() == OLD
        assert len(list((place / "out").iterdir())) == 1
        (place / "out").chmod(0o755)


def during(dataset, act, moment=events.RangesVerified, error=ShardError):
    """The error of a merge during which `act(path of the last shard)` is done."""
    folder, output = dataset
    last = max((folder / "embeddings").iterdir())

    def observer(event):
        if isinstance(event, moment) and not done:
            done.append(act(last))

    done = []
    with pytest.raises(error) as caught:
        merge(sorted((folder / "embeddings").iterdir()), folder / "a.pkl", output, observer=observer)
    assert output.read_bytes() == OLD
    assert [path.name for path in output.parent.iterdir()] == ["m.pkl"]
    return caught.value


def replace(last):
    other = last.with_suffix(".new")
    other.write_bytes(last.read_bytes())
    other.replace(last)


def touch(last):
    with last.open("r+b") as file:
        file.seek(2000)
        file.write(b"x")
    os.utime(last, ns=(1, 1))


def loop(last):
    last.unlink()
    last.symlink_to(last)


@pytest.mark.parametrize("act", [Path.unlink, lambda last: os.truncate(last, 3000), replace, touch, loop])
@pytest.mark.parametrize("moment", [events.RangesVerified, events.RowsWritten, events.QualityMeasured])
def test_a_shard_that_goes_or_changes_midway_is_named(dataset, act, moment):
    assert "cluster2_gpu1.pkl" in during(dataset, act, moment).message


def test_articles_that_go_before_they_are_read_are_named(dataset):
    folder, _ = dataset
    (folder / "a.pkl").unlink()
    assert "a.pkl" in during(dataset, lambda _last: None, error=LocalDataError).message


def test_a_disk_that_gives_back_something_else_is_noticed(dataset, monkeypatch):
    folder, output = dataset
    real = os.fsync

    def failing(descriptor):
        real(descriptor)
        (temporary,) = [path for path in output.parent.iterdir() if path.name.endswith(".tmp")] or [None]
        if temporary:
            with temporary.open("r+b") as file:
                file.seek(9000)
                file.write(b"\xff")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DiskError, match="does not read back"):
        again(folder, output)
    assert output.read_bytes() == OLD


def test_an_interrupt_in_the_observer_leaves_no_thread_behind(dataset):
    folder, output = dataset

    def observer(event):
        if isinstance(event, events.RowsWritten):
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        merge(sorted((folder / "embeddings").iterdir()), folder / "a.pkl", output, observer=observer)
    assert threading.active_count() == before


@pytest.mark.parametrize("suffix", [".pkl", ".npy", ".safetensors"])
def test_an_output_folder_that_goes_midway_is_a_disk_error(dataset, suffix):
    folder, output = dataset

    def observer(event):
        if isinstance(event, events.Saving):
            shutil.rmtree(output.parent)

    with pytest.raises(DiskError, match="cannot write"):
        merge(
            sorted((folder / "embeddings").iterdir()),
            folder / "a.pkl",
            output.with_suffix(suffix),
            observer=observer,
        )
    assert not output.parent.exists()


def test_what_went_wrong_is_told_even_if_the_output_folder_is_gone(dataset):
    folder, output = dataset

    def observer(event):
        if isinstance(event, events.Saving):
            shutil.rmtree(output.parent)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(sorted((folder / "embeddings").iterdir()), folder / "a.pkl", output, observer=observer)
