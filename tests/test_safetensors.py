import contextlib
import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from embmerge.errors import DiskError, LocalDataError
from embmerge.mergedfile.safetensors import SafetensorsMerged
from tests.mergedsets import articles_of, metadata_of, rows_of, write_set


def written(folder, rows=None, shards=2):
    rows = rows_of() if rows is None else rows
    return write_set(folder / "set.safetensors", rows, metadata=metadata_of(rows, shards))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_the_safetensors_library_reads_what_was_written(tmp_path, dtype):
    rows = rows_of(dtype=dtype)
    with safe_open(written(tmp_path, rows), framework="numpy") as file:
        assert file.get_tensor("embeddings").dtype == rows.dtype
        assert np.array_equal(file.get_tensor("embeddings"), rows)
        assert file.metadata()["model"] == "all-tests-v1"
        assert json.loads(file.metadata()["chunk_info"])[1]["end_index"] == 500


def test_big_endian_rows_are_turned_around(tmp_path):
    tensors = load_file(written(tmp_path, rows_of(dtype=">f4")))
    assert np.array_equal(tensors["embeddings"], rows_of())


def test_the_articles_are_a_tensor_of_json_lines(tmp_path):
    lines = load_file(written(tmp_path))["articles_jsonl"].tobytes().decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == articles_of()


def test_the_rows_lie_at_a_multiple_of_64_bytes(tmp_path):
    assert int.from_bytes(written(tmp_path).read_bytes()[:8], "little") % 64 == 56


def test_it_reads_back_what_it_was_given(tmp_path):
    merged = SafetensorsMerged(written(tmp_path))
    assert merged.shape == (500, 24)
    assert np.array_equal(merged.rows(123, 456), rows_of()[123:456])
    assert list(merged.articles()) == articles_of()
    assert merged.metadata == metadata_of(rows_of())


def test_metadata_beyond_the_room_left_moves_the_tensors(tmp_path):
    path = written(tmp_path, rows_of(3000, 1024), shards=400)
    with safe_open(path, framework="numpy") as file:
        assert np.array_equal(file.get_tensor("embeddings"), rows_of(3000, 1024))
        assert len(json.loads(file.metadata()["chunk_info"])) == 400
    assert sum(1 for _ in SafetensorsMerged(path).articles()) == 3000


@pytest.mark.parametrize("shards", range(400, 404))
def test_rows_that_were_moved_are_aligned_as_the_format_asks(tmp_path, shards):
    length = int.from_bytes(written(tmp_path, rows_of(5), shards).read_bytes()[:8], "little")
    assert length > 65_536
    assert length % 8 == 0


def test_more_metadata_than_a_reader_would_take_is_not_written(tmp_path):
    with pytest.raises(LocalDataError, match="metadata would be longer"):
        written(tmp_path, shards=20_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [4, 6])
def test_another_number_of_articles_than_rows_gets_no_name(tmp_path, count):
    with pytest.raises(DiskError, match=r"set\.safetensors does not read back as it was written$"):
        write_set(tmp_path / "set.safetensors", rows_of(5), articles_of(count), metadata_of(rows_of(5)))
    assert list(tmp_path.iterdir()) == []


def test_no_rows_at_all_are_a_file_too(tmp_path):
    assert load_file(written(tmp_path, rows_of(0)))["embeddings"].shape == (0, 24)


def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path):
    before = written(tmp_path).read_bytes()
    with pytest.raises(AttributeError):
        write_set(tmp_path / "set.safetensors", rows_of(5), [None])
    assert (tmp_path / "set.safetensors").read_bytes() == before


EMBEDDINGS = {"dtype": "F32", "shape": [500, 24], "data_offsets": [0, 48000]}
CHANGES = {
    "lying offsets": {"data_offsets": [0, 47999]},
    "overlapping tensors": {"data_offsets": [100, 48100]},
    "offsets beyond the end": {"data_offsets": [0, 10**18]},
    "a negative offset": {"data_offsets": [-48000, 0]},
    "another shape": {"shape": [501, 24]},
    "a huge shape": {"shape": [10**18, 10**18]},
    "no columns": {"shape": [500, 0]},
    "a negative shape": {"shape": [-500, -24]},
    "a shape of text": {"shape": ["500", "24"]},
    "one dimension": {"shape": [12000]},
    "integers": {"dtype": "I32"},
    "an unknown dtype": {"dtype": ["F32"]},
    "more than a tensor has": {"extra": 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_lying_header_is_refused(tmp_path, change):
    path = written(tmp_path)
    forge(path, lambda header: header["embeddings"].update(change))
    with pytest.raises(LocalDataError, match=r"^set\.safetensors: its "):
        SafetensorsMerged(path)


HEADERS = {
    "another tensor": lambda header: header.update(x=EMBEDDINGS),
    "no articles": lambda header: header.pop("articles_jsonl"),
    "no embeddings": lambda header: header.pop("embeddings"),
    "no metadata": lambda header: header.pop("__metadata__"),
    "metadata that is a list": lambda header: header.update(__metadata__=[]),
    "metadata that is not text": lambda header: header["__metadata__"].update(total_articles=500),
    "metadata that is not JSON": lambda header: header["__metadata__"].update(shape="{"),
    "metadata that is nested deeply": lambda header: header["__metadata__"].update(chunk_info="[" * 9999),
    "another number of rows": lambda header: header["__metadata__"].update(total_articles="501"),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_a_header_of_something_else_is_refused(tmp_path, change):
    path = written(tmp_path)
    forge(path, change)
    with pytest.raises(LocalDataError, match=r"^set\.safetensors: its "):
        SafetensorsMerged(path)


def test_rows_that_end_beyond_the_file_are_refused_though_the_header_agrees(tmp_path):
    path = written(tmp_path)
    forge(
        path,
        lambda header: header.update(articles_jsonl={"dtype": "U8", "shape": [-9], "data_offsets": [48000, 47991]}),
    )
    os.truncate(path, 65_536 + 47_991)
    with pytest.raises(LocalDataError, match=r"^set\.safetensors: its tensors are not"):
        SafetensorsMerged(path)


def test_fewer_rows_than_none_are_refused_though_all_agrees(tmp_path):
    path = written(tmp_path)
    tensors = path.stat().st_size - 65_536
    forge(
        path,
        lambda header: header.update(
            embeddings={"dtype": "F32", "shape": [-1, 24], "data_offsets": [0, -96]},
            articles_jsonl={"dtype": "U8", "shape": [tensors + 96], "data_offsets": [-96, tensors]},
            __metadata__={**header["__metadata__"], "total_articles": "-1"},
        ),
    )
    with pytest.raises(LocalDataError, match=r"^set\.safetensors: its `embeddings` are no table"):
        SafetensorsMerged(path)


@pytest.mark.parametrize("length", [0, 1, 10**10, 2**63, 2**64 - 1])
def test_a_forged_header_length_is_refused(tmp_path, length):
    path = written(tmp_path)
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(LocalDataError, match=r"^set\.safetensors: its? "):
        SafetensorsMerged(path)


def test_a_header_of_many_megabytes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "set.safetensors"
    with path.open("wb") as file:
        file.write((10**10).to_bytes(8, "little") + b"{")
        file.truncate(2 * 10**10)  # sparse
    with pytest.raises(LocalDataError, match="header is longer than"):
        SafetensorsMerged(path)


@pytest.mark.parametrize("kept", [0, 7, 8, 65_000, 65_536, 100_000])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LocalDataError, match=r"^set\.safetensors: its? "):
        SafetensorsMerged(path)


def test_no_change_of_a_bit_does_more_than_an_error(tmp_path):
    path = write_set(tmp_path / "set.safetensors", rows_of(5, 3), articles_of(5))
    content = path.read_bytes()
    unpadded = [at for at in range(len(content)) if at < 2500 or at > 65_500]
    for at in unpadded:
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << at % 8
        path.write_bytes(spoilt)
        with contextlib.suppress(LocalDataError), contextlib.closing(SafetensorsMerged(path)) as merged:
            assert merged.rows(0, 99).shape == merged.shape
            assert len(list(merged.articles())) == merged.shape[0]


def forge(path, change):
    """Let `change` edit the header, as a dict, in place."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    path.write_bytes(content[:8] + json.dumps(header).encode().ljust(length) + content[8 + length :])
