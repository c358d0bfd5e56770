import pickle
from contextlib import closing

import numpy as np
import pytest

from embmerge.errors import LocalDataError
from embmerge.mergedfile import open_merged
from tests.mergedsets import metadata_of, rows_of, write_set

ARTICLES = [{"title": f"t{row}", "id": row, "url": None} for row in range(3)]
START = b"](}(h\0"  # of the list of articles


def text(value):
    return b"\x8c" + bytes((len(value),)) + value.encode()


def spoilt(folder, *changes):
    """A merged file of three rows with some bytes replaced by others, once each."""
    path = write_set(folder / "m.pkl", rows_of(3), ARTICLES)
    content = path.read_bytes()
    for old, new in changes:
        assert old in content
        content = content.replace(old, new, 1)
    path.write_bytes(content)
    return path


def read(path):
    with closing(open_merged(path)) as merged:
        return list(merged.articles())


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_the_dtype_is_spelled_as_numpy_spells_it(tmp_path, dtype):
    path = write_set(tmp_path / "m.pkl", rows_of(3, dtype=dtype))
    assert pickle.loads(path.read_bytes())["embeddings"].dtype == np.dtype(dtype)
    assert np.dtype(dtype).__reduce__()[1:] == ((dtype[1:], False, True), (3, dtype[0], None, None, None, -1, -1, 0))


EARLY = b"".join(text(key) + b"\x94N" for key in ("url", "id", "title"))  # these take the places of our keys


@pytest.mark.parametrize(
    "change",
    [
        (b"X\x0a\0\0\0embeddings", EARLY + b"X\x0a\0\0\0embeddings"),
        (b"X\x05\0\0\0model", EARLY + b"X\x05\0\0\0model"),
        (b"X\x05\0\0\0model", b"X\x05\0\0\0modelq\x07"),
        (b"X\x05\0\0\0model", b"X\x05\0\0\0modelNX\x05\0\0\0model"),
        (b"\x80\x05", b"\x80\x04"),
    ],
    ids=["memo before the rows", "memo before the articles", "a far place in the memo", "a key twice", "protocol"],
)
def test_a_header_that_is_spelled_otherwise_is_refused(tmp_path, change):
    with pytest.raises(LocalDataError, match=r"^m\.pkl: its header is not as merge writes it$"):
        read(spoilt(tmp_path, change))


@pytest.mark.parametrize(
    "changes",
    [
        [(START, START[:1] + START[2:])],
        [(START, START[:1] + b"((" + START[2:])],
        [(b"u}(h", b"u(}(h")],
        [(b"u}(h", b"ue}(h")],
        [(b"ues.", b"us.")],
        [(b"ues.", b"ue")],
        [(b"ues.", b"ue(s.")],
    ],
    ids=["no MARK", "two MARKs", "MARK between", "APPENDS between", "no APPENDS", "no end", "MARK at the end"],
)
def test_a_list_of_articles_that_pickle_would_not_load_is_refused(tmp_path, changes):
    path = spoilt(tmp_path, *changes)
    with pytest.raises((pickle.UnpicklingError, EOFError, IndexError, TypeError, AttributeError)):
        pickle.loads(path.read_bytes())
    with pytest.raises(LocalDataError, match=r"^m\.pkl: "):
        read(path)


def test_articles_in_several_batches_are_read(tmp_path):
    articles = [{"title": str(row), "id": row, "url": None} for row in range(2500)]
    path = write_set(tmp_path / "m.pkl", rows_of(2500, 4), articles)
    assert read(path) == articles == pickle.loads(path.read_bytes())["articles"]


def test_an_id_that_has_no_room_in_every_format_is_refused(tmp_path):
    path = spoilt(tmp_path, (b"h\x01\x8a\x10" + bytes(16), b"h\x01\x8a\x11" + bytes(16) + b"\1"))
    with pytest.raises(LocalDataError, match=r"^m\.pkl: article 0 is not a title, an id and a url$"):
        read(path)


def test_what_merge_says_of_no_rows_is_read(tmp_path):
    path = write_set(tmp_path / "m.pkl", rows_of(0), [])
    with closing(open_merged(path)) as merged:
        assert merged.metadata == metadata_of(rows_of(0))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        (ARTICLES * 20_000, "it is a list, such as an articles file"),
        ({"embeddings": rows_of(3), "start_index": 0, "end_index": 3, "cluster_id": 1, "gpu_id": 0}, "it is a shard"),
        ({"more": 1}, "it has no 'embeddings' array before its metadata"),
        (5, "it has no 'embeddings' array before its metadata"),
    ],
    ids=["articles", "shard", "dict", "number"],
)
def test_a_pickle_of_something_else_is_told_what_it_is(tmp_path, value, what, protocol):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(LocalDataError) as caught:
        open_merged(path)
    assert caught.value.message == f"m.pkl is no merged file: {what}"
    assert "invoke inspect" in caught.value.hint
