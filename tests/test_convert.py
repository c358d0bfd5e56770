import contextlib
import errno
import os
import pickle
import resource
import shutil
from contextlib import closing

import numpy as np
import pytest

from embmerge.convert import convert
from embmerge.errors import DiskError, LocalDataError, UsageError
from embmerge.events import RowsWritten, Saved, Saving
from embmerge.merge import merge
from embmerge.mergedfile import SUFFIXES, open_merged, open_writer
from embmerge.mergedfile.pkl import PickleMerged
from tests.mergedsets import articles_of, damage, metadata_of, rows_of, write_set
from tests.shards import make_dataset


def numbered(count=500):
    return [{**article, "id": row} for row, article in enumerate(articles_of(count))]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("there", SUFFIXES)
@pytest.mark.parametrize("here", SUFFIXES)
def test_any_format_becomes_any_other(tmp_path, here, there):
    path = write_set(tmp_path / f"a{here}", rows_of(), numbered())
    result = convert(path, tmp_path / f"b{there}")
    with closing(open_merged(tmp_path / f"b{there}")) as merged:
        assert merged.dtype == rows_of().dtype
        assert np.array_equal(merged.rows(0, 500), rows_of())
        assert list(merged.articles()) == numbered()
        assert merged.metadata == metadata_of(rows_of())
    assert (result.rows, result.dim, result.dtype) == (500, 24, "float32")
    assert result.nbytes == (tmp_path / f"b{there}").stat().st_size


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN or Inf in row 137"), (1e6, "mean norm is")])
def test_rows_that_were_damaged_since_they_were_merged_are_not_passed_on(tmp_path, value, what):
    path = write_set(tmp_path / "a.pkl", rows_of(), numbered())
    damage(path, 137, value, rows=rows_of())
    with pytest.raises(LocalDataError, match=f"are not those that were merged: .*{what}"):
        convert(path, tmp_path / "b.pkl")
    assert not (tmp_path / "b.pkl").exists()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_a_merge_has_converted_is_what_it_says(tmp_path, dtype):
    shards, articles, _ = make_dataset(tmp_path, 200, 2, 4)
    merge(shards, articles, tmp_path / "m.pkl", dtype=dtype)
    assert convert(tmp_path / "m.pkl", tmp_path / "b.npy").dtype == dtype


def test_float16_rows_that_were_measured_before_they_were_rounded_are_no_damage(tmp_path):
    rows = rows_of(500, 2, "<f2")
    metadata = metadata_of(rows_of(500, 2))  # of the same rows in float32
    metadata["quality_metrics"]["dtype"] = "float16"
    with open_writer(tmp_path / "a.pkl", 500, 2, rows.dtype) as writer:
        writer.write(rows)
        writer.finish(articles_of(500), metadata)
    assert convert(tmp_path / "a.pkl", tmp_path / "b.npy").rows == 500


def test_an_output_that_holds_a_list_is_not_replaced(tmp_path):
    path = write_set(tmp_path / "a.pkl", rows_of(), numbered())
    articles = tmp_path / "wikipedia.pkl"
    articles.write_bytes(before := pickle.dumps(numbered()))
    with pytest.raises(UsageError, match=r"wikipedia\.pkl holds a list"):
        convert(path, articles)
    assert articles.read_bytes() == before


def test_an_output_that_would_be_taken_for_a_shard_is_refused(tmp_path):
    path = write_set(tmp_path / "a.pkl", rows_of(), numbered())
    with pytest.raises(UsageError, match="would be taken for a shard"):
        convert(path, tmp_path / "cluster7_gpu7.pkl")


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_there_and_back_gives_the_same_pickle(tmp_path, suffix):
    path = write_set(tmp_path / "a.pkl", rows_of(), numbered())
    convert(path, tmp_path / f"b{suffix}")
    convert(tmp_path / f"b{suffix}", tmp_path / "c.pkl")
    assert (tmp_path / "c.pkl").read_bytes() == path.read_bytes()


def test_plain_pickle_load_reads_what_came_from_parquet(tmp_path):
    convert(write_set(tmp_path / "a.parquet", rows_of(), numbered()), tmp_path / "b.pkl")
    loaded = pickle.loads((tmp_path / "b.pkl").read_bytes())
    assert np.array_equal(loaded["embeddings"], rows_of())
    assert loaded["articles"] == numbered()


def test_it_tells_how_far_it_is(tmp_path):
    events = []
    rows = rows_of(100, 60_000)
    convert(write_set(tmp_path / "a.npy", rows), tmp_path / "b.pkl", observer=events.append)
    written = [event.done for event in events if isinstance(event, RowsWritten)]
    assert len(written) > 1
    assert written == sorted(written)
    assert [type(event) for event in events[-3:]] == [RowsWritten, Saving, Saved]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_not_converted_into_itself(tmp_path, suffix):
    path = write_set(tmp_path / f"a{suffix}", rows_of())
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="is the file to convert itself"):
        convert(path, tmp_path / "x" / ".." / f"a{suffix}")
    assert contents(tmp_path) == before


def test_a_hard_link_to_the_file_is_the_file(tmp_path):
    path = write_set(tmp_path / "a.pkl", rows_of())
    (tmp_path / "b.pkl").hardlink_to(path)
    with pytest.raises(UsageError, match="is the file to convert itself"):
        convert(path, tmp_path / "b.pkl")


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    path = write_set(tmp_path / "a.pkl", rows_of())
    with pytest.raises(UsageError) as caught:
        convert(path, tmp_path / "b.h5")
    assert all(suffix in caught.value.hint for suffix in SUFFIXES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LocalDataError, match=r"a\.npy"):
        convert(tmp_path / "a.npy", tmp_path / "b.pkl")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pipe_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(LocalDataError, match="is no regular file"):
        convert(tmp_path / f"a{suffix}", tmp_path / "b.pkl")


def test_metadata_that_would_hide_the_rows_of_a_pickle_is_refused_by_the_outputs_name(tmp_path):
    with pytest.raises(LocalDataError, match=r"^a\.pkl is no merged file"):
        write_set(tmp_path / "a.pkl", rows_of(), metadata=metadata_of(rows_of()) | {"embeddings": 5})


@pytest.mark.parametrize("key", ["embeddings", "articles", "files", "ARROW:schema"])
def test_metadata_that_is_called_like_a_part_of_a_file_is_refused_by_the_outputs_name(tmp_path, key):
    with pytest.raises(LocalDataError, match=rf"^a\.safetensors: its metadata has `{key}`"):
        write_set(tmp_path / "a.safetensors", rows_of(), metadata=metadata_of(rows_of()) | {key: 5})
    assert contents(tmp_path) == {}


def test_metadata_that_only_another_format_has_a_place_for_is_refused_by_the_sources_name(tmp_path):
    path = write_set(tmp_path / "a.npy", rows_of())
    side = tmp_path / "a.json"
    side.write_bytes(side.read_bytes().replace(b"{", b'{"embeddings": 5, ', 1))
    with pytest.raises(LocalDataError, match=r"^a\.npy: its metadata has `embeddings`"):
        convert(path, tmp_path / "b.pkl")


def test_metadata_that_has_no_room_in_the_output_is_refused_by_its_name(tmp_path):
    path = write_set(tmp_path / "a.npy", rows_of(), metadata=metadata_of(rows_of()) | {"more": "x" * 5000})
    with pytest.raises(LocalDataError, match=r"^b\.pkl: its metadata holds more than plain values"):
        convert(path, tmp_path / "b.pkl")


@pytest.mark.parametrize(("there", "model"), [(".npy", "\ud800"), (".safetensors", "?"), (".parquet", "?")])
def test_half_a_surrogate_pair_in_the_metadata_is_no_trouble(tmp_path, there, model):
    metadata = metadata_of(rows_of()) | {"model": "\ud800", "\udfff": "\ud800"}
    path = write_set(tmp_path / "a.pkl", rows_of(), metadata=metadata)
    convert(path, tmp_path / f"b{there}")
    with closing(open_merged(tmp_path / f"b{there}")) as merged:
        assert merged.metadata["model"] == model


@pytest.mark.parametrize("there", SUFFIXES)
def test_a_source_with_damaged_articles_leaves_the_old_output(tmp_path, there):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    path = write_set(source / "a.safetensors", rows_of(), numbered())
    output = write_set(target / f"b{there}", rows_of(7))
    before = contents(target)
    path.write_bytes(path.read_bytes().replace(b'"title": "3', b'"title": \xff3').replace(b'{"title"', b'{"tilte"', 1))
    with pytest.raises(LocalDataError, match=r"^a\.safetensors: "):
        convert(path, output)
    assert contents(target) == before


@pytest.mark.parametrize("limit", [40_000, 60_000], ids=["at the rows", "at the articles"])  # the rows take 48,000
@pytest.mark.parametrize("there", SUFFIXES)
def test_a_disk_that_fills_up_leaves_the_old_output(tmp_path, there, limit):
    articles = [{**article, "url": "u" * 90} for article in articles_of()]
    path = write_set(tmp_path / "source" / "a.pkl", rows_of(), articles)
    output = write_set(tmp_path / "target" / f"b{there}", rows_of(7))
    before = contents(output.parent)
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        with pytest.raises(DiskError, match="the disk is full"):
            convert(path, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert contents(output.parent) == before


@pytest.mark.parametrize(("there", "times"), [(".pkl", 1), (".npy", 1), (".safetensors", 1), (".parquet", 2)])
def test_a_disk_without_room_is_known_before_a_row_is_read(tmp_path, monkeypatch, there, times):
    path = write_set(tmp_path / "a.pkl", rows_of())  # 48,000 bytes of rows, 100,000 for the articles
    needed = times * 48_000 + 100_000
    for free in (needed, needed - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: shutil._ntuple_diskusage(1 << 40, 0, free))
        heard = []
        with contextlib.nullcontext() if free == needed else pytest.raises(DiskError, match="free, but"):
            convert(path, tmp_path / f"b{there}", observer=heard.append)
        assert bool(heard) == (free == needed)


@pytest.mark.parametrize("here", SUFFIXES)
def test_a_source_that_the_disk_cannot_read_is_told_by_its_own_name(tmp_path, monkeypatch, here):
    path = write_set(tmp_path / f"a{here}", rows_of())

    def fails(*_args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(LocalDataError, match=rf"^cannot read {path}: Input/output error$"):
        convert(path, tmp_path / "b.pkl")
    assert not list(tmp_path.glob("*b.pkl*"))


def test_articles_that_the_disk_cannot_read_are_told_by_the_sources_name(tmp_path, monkeypatch):
    path = write_set(tmp_path / "a.pkl", rows_of())

    def fails(_merged):
        yield articles_of(1)[0]
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(PickleMerged, "articles", fails)
    with pytest.raises(LocalDataError, match=rf"^cannot read {path}: Input/output error$"):
        convert(path, tmp_path / "b.npy")


@pytest.mark.parametrize("name", ["folder.pkl", "x" * 300 + ".pkl"], ids=["folder", "long"])
def test_an_output_that_no_file_can_be_is_told_before_a_row_is_read(tmp_path, name):
    path = write_set(tmp_path / "a.pkl", rows_of())
    (tmp_path / "folder.pkl").mkdir()
    events = []
    with pytest.raises(DiskError, match="cannot write"):
        convert(path, tmp_path / name, observer=events.append)
    assert events == []


def test_a_name_that_is_too_long_is_told(tmp_path):
    with pytest.raises(LocalDataError, match="File name too long"):
        convert(tmp_path / ("x" * 300 + ".pkl"), tmp_path / "b.pkl")


def test_that_a_file_is_missing_is_told_before_anything_about_its_name(tmp_path):
    with pytest.raises(LocalDataError, match=r"nope does not exist$"):
        convert(tmp_path / "nope", tmp_path / "b.pkl")


def test_a_file_of_an_unknown_suffix_lists_the_known_ones(tmp_path):
    (tmp_path / "a.h5").touch()
    with pytest.raises(UsageError, match=r"\.h5 is no known format"):
        convert(tmp_path / "a.h5", tmp_path / "b.pkl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_output_folder_that_is_read_only_is_a_disk_error(tmp_path):
    path = write_set(tmp_path / "a.pkl", rows_of())
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(DiskError, match="closed"):
        convert(path, tmp_path / "closed" / "b.npy")


@pytest.mark.parametrize("there", SUFFIXES)
def test_an_output_folder_that_is_a_file_is_a_disk_error(tmp_path, there):
    path = write_set(tmp_path / "a.pkl", rows_of())
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="file"):
        convert(path, tmp_path / "file" / f"b{there}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_that_were_swapped_since_the_merge_are_not_passed_on(tmp_path, suffix):
    shards, articles, rows = make_dataset(tmp_path, 3000, 64)
    path = merge(shards, articles, tmp_path / f"m{suffix}").output
    other = tmp_path / f"other{'.npy' if suffix == '.pkl' else '.pkl'}"
    convert(path, other)
    one, two = rows[1500].tobytes(), rows[1501].tobytes()
    data = path.read_bytes()
    assert data.count(one + two) == 1
    path.write_bytes(data.replace(one + two, two + one))
    with pytest.raises(LocalDataError, match="not those that were merged: their checksum is"):
        convert(path, other)
