import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from embmerge.errors import LocalDataError, ShardError
from embmerge.inspection import ArticlesInspection, FolderInspection, MergedInspection, ShardInspection, inspect
from embmerge.mergedfile import SUFFIXES
from tests.mergedsets import articles_of, metadata_of, rows_of, write_set


def shard(folder, start=0, rows=50, gpu=0, name=None):
    path = folder / (name or f"cluster1_gpu{gpu}.pkl")
    fields = {"start_index": start, "end_index": start + rows, "cluster_id": 1, "gpu_id": gpu}
    more = {"model": "all-tests-v1", "timestamp": "2026-01-15T01:00:00", "rate": 310.0, "processing_time": 0.2}
    path.write_bytes(pickle.dumps({"embeddings": rows_of(rows), **fields, **more}, protocol=4))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_merged_file_of_any_format_is_described(tmp_path, suffix):
    path = write_set(tmp_path / f"set{suffix}", rows_of())
    found = inspect(path)
    assert isinstance(found, MergedInspection)
    assert (found.kind, found.shape, found.dtype, found.nbytes) == ("merged", (500, 24), "float32", path.stat().st_size)
    assert (found.model, found.timestamp) == ("all-tests-v1", "2026-01-15T01:02:03")
    assert found.first_article == articles_of()[0]
    assert found.quality == metadata_of(rows_of())["quality_metrics"]
    assert [source["gpu_id"] for source in found.sources] == [0, 1]


@pytest.mark.parametrize("name", ["cluster1_gpu0.pkl", "copy of a shard.pkl", "shard"])
def test_a_shard_is_described_whatever_its_name(tmp_path, name):
    found = inspect(shard(tmp_path, start=100, name=name))
    assert isinstance(found, ShardInspection)
    assert (found.shape, found.dtype, found.start, found.end) == ((50, 24), "float32", 100, 150)
    assert (found.cluster_id, found.gpu_id, found.model, found.rate) == (1, 0, "all-tests-v1", 310.0)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_articles_file_is_described(tmp_path, protocol):
    path = tmp_path / "wikipedia.pkl"
    path.write_bytes(pickle.dumps([{**article, "text": "x" * 5000} for article in articles_of(20)], protocol=protocol))
    found = inspect(path)
    assert isinstance(found, ArticlesInspection)
    assert found.articles == 20
    assert found.first_article == articles_of()[0]


def test_a_large_articles_file_is_not_counted(tmp_path):
    path = tmp_path / "wikipedia.pkl"
    path.write_bytes(pickle.dumps([{**article, "text": "x" * (30 << 20)} for article in articles_of(3)]))
    found = inspect(path)
    assert found.articles is None
    assert found.first_article == articles_of()[0]


def test_the_shards_of_a_folder_are_described_in_row_order(tmp_path):
    shard(tmp_path, start=50, gpu=0)
    shard(tmp_path, start=0, gpu=1)
    found = inspect(tmp_path)
    assert isinstance(found, FolderInspection)
    assert [each.start for each in found.shards] == [0, 50]
    assert found.ok


def test_a_gap_and_a_broken_shard_in_a_folder_are_told(tmp_path):
    shard(tmp_path, start=0, gpu=0)
    shard(tmp_path, start=60, gpu=1)
    (tmp_path / "cluster1_gpu2.pkl").write_bytes(b"nothing")
    found = inspect(tmp_path)
    assert not found.ok
    assert "cluster1_gpu2.pkl" in found.problems[0]
    assert "rows 50 - 60 are missing" in found.problems[1]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LocalDataError, match=r"none\.pkl does not exist"):
        inspect(tmp_path / "none.pkl")


def test_a_name_that_is_too_long_is_told(tmp_path):
    with pytest.raises(LocalDataError, match="File name too long") as caught:
        inspect(tmp_path / ("x" * 300))
    assert caught.value.hint


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(LocalDataError, match=str(tmp_path)):
        inspect(tmp_path)


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(LocalDataError, match="is no regular file"):
        inspect(tmp_path / "pipe.pkl")


def test_a_broken_shard_is_a_shard_error(tmp_path):
    path = shard(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ShardError, match=r"cluster1_gpu0\.pkl is cut short"):
        inspect(path)


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello", b"\x80\x04N.", b"\x80\x04}.", b"\x80\x04cos\nsystem\n."])
def test_what_is_none_of_all_is_refused_with_the_reasons(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(LocalDataError, match=r"^x\.pkl is neither a shard \(.*\) nor a merged file \(.*\)$"):
        inspect(path)


def test_escapes_in_the_name_and_the_content_do_not_reach_the_message(tmp_path):
    path = tmp_path / "x\x1b[2J\x9b.pkl"
    for content in (b"\x80\x04}.", b"\x80\x04c\x1b[2J\nx\n.", b"\x80\x04]K\x01a."):
        path.write_bytes(content)
        with pytest.raises(LocalDataError) as caught:
            inspect(path)
        assert caught.value.message.isprintable()


@pytest.mark.parametrize("content", [b"]", b"\x80\x04].", b"\x80\x04]K\x01a.", b"\x80\x04]}a."])
def test_a_list_of_something_else_is_no_articles_file(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    if content == b"\x80\x04].":
        assert inspect(path).articles == 0
    else:
        with pytest.raises(LocalDataError, match=r"^x\.pkl is not an articles file"):
            inspect(path)


PEAK = """
import resource, sys
from pathlib import Path
from embmerge.inspection import inspect
inspect(Path(sys.argv[1]))
status = Path("/proc/self/status")  # getrusage would count what this process was before exec, too
if status.exists():
    print(next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if "VmHWM" in line))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_neither_rows_nor_articles_are_loaded(tmp_path, suffix):
    rows = np.broadcast_to(np.float32(1), (30_000, 1000))  # 120 MB
    metadata = metadata_of(rows[:2]) | {"total_articles": 30_000, "shape": rows.shape}
    path = write_set(tmp_path / f"set{suffix}", rows, metadata=metadata, block=2000)
    run = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 100 << 20
