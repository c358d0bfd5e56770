import os
import pickle
from contextlib import closing

import numpy as np
import pytest

from embmerge.errors import DiskError, LocalDataError
from embmerge.mergedfile import open_merged, pkl
from tests.hostile import array
from tests.mergedsets import metadata_of, rows_of, write_set
from tests.shards import dumped

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
        [(START, START.replace(b"}(", b"}0"))],
        [(b"u}(h", b"0}(h")],
        [(b"ues.", b"u0s.")],
    ],
    ids=[
        "no MARK",
        "two MARKs",
        "MARK between",
        "APPENDS between",
        "no APPENDS",
        "no end",
        "MARK at the end",
        "POP for MARK",
        "POP for SETITEMS",
        "POP for APPENDS",
    ],
)
def test_a_list_of_articles_that_pickle_would_not_load_is_refused(tmp_path, changes):
    path = spoilt(tmp_path, *changes)
    with pytest.raises((pickle.UnpicklingError, EOFError, IndexError, TypeError, AttributeError)):
        pickle.loads(path.read_bytes())
    with pytest.raises(LocalDataError, match=r"^m\.pkl: "):
        read(path)


@pytest.mark.parametrize(("count", "which"), [(0, "fewer"), (2, "fewer"), (4, "more"), (7, "more")])
def test_another_number_of_articles_than_rows_is_refused(tmp_path, count, which):
    path = write_set(tmp_path / "m.pkl", rows_of(3), (ARTICLES * 3)[:count])
    with pytest.raises(LocalDataError, match=rf"^m\.pkl: it has {which} articles than rows$"):
        read(path)


def test_no_article_beyond_the_rows_is_given(tmp_path):
    given = []
    with (
        closing(open_merged(write_set(tmp_path / "m.pkl", rows_of(3), ARTICLES * 2))) as merged,
        pytest.raises(LocalDataError),
    ):
        given.extend(merged.articles())  # keeps what came before the error
    assert given == ARTICLES


def test_a_title_that_is_not_utf8_is_refused(tmp_path):
    path = spoilt(tmp_path, (b"X\2\0\0\0t1", b"X\2\0\0\0\xff1"))
    with pytest.raises(LocalDataError, match=r"^m\.pkl: article 1 is not text$"):
        read(path)


def test_an_array_that_is_never_filled_is_none(tmp_path):
    path = tmp_path / "m.pkl"
    unfinished = array().rpartition(b"(K\1")[0]  # before its state
    path.write_bytes(b"\x80\4}(" + text("embeddings") + unfinished + text("articles") + b"]u.")
    with pytest.raises(LocalDataError, match=r"^m\.pkl is no merged file: it has no 'embeddings' array"):
        read(path)


def test_metadata_that_only_shards_have_makes_no_shard(tmp_path):
    path = write_set(tmp_path / "m.pkl", rows_of(3), ARTICLES, metadata_of(rows_of(3)) | {"start_index": 0})
    assert read(path) == ARTICLES


def test_rows_that_are_no_floats_are_refused(tmp_path):
    path = spoilt(tmp_path, (text("f4").replace(b"\x8c\2", b"X\2\0\0\0"), b"X\2\0\0\0i4"))
    with pytest.raises(
        LocalDataError, match=r"^m\.pkl: its array of shape \(3, 24\) and int32 is not a table of floats$"
    ):
        read(path)


@pytest.mark.parametrize("shape", [(), (3,), (3, 4, 2)])
def test_rows_that_are_no_table_are_refused(tmp_path, shape):
    path = tmp_path / "m.pkl"
    path.write_bytes(dumped({"embeddings": np.zeros(shape, "<f4"), **metadata_of(rows_of(3)), "articles": ARTICLES}))
    with pytest.raises(LocalDataError, match=r"^m\.pkl: its array of shape .* is not a table of floats$"):
        read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((START, START.replace(b"h\0", b"h\2")), "one of its articles is not as merge writes it"),
        ((START, START.replace(b"h\0", b"\x8c\0")), "one of its articles is not as merge writes it"),
        ((b"X\5\0\0\0title\x94", b"X\5\0\0\0titel\x94"), "its articles are not where merge puts them"),
        ((b"X\2\0\0\0t1", b"X\1\0\1\0t1"), "one of its articles has a value of 65,537 bytes"),
    ],
    ids=["another key", "a key of its own", "other keys in the memo", "a long title"],
)
def test_articles_that_are_spelled_otherwise_are_refused(tmp_path, change, said):
    with pytest.raises(LocalDataError, match=rf"^m\.pkl: {said}$"):
        read(spoilt(tmp_path, change))


def test_the_longest_title_that_merge_takes_is_read(tmp_path):
    articles = [{"title": "t" * 65_536, "id": 1, "url": None}]
    assert read(write_set(tmp_path / "m.pkl", rows_of(1), articles)) == articles


@pytest.mark.parametrize("more", [b"x", b".", pickle.dumps(1)])
def test_what_follows_the_end_is_refused(tmp_path, more):
    with pytest.raises(LocalDataError, match=r"^m\.pkl: it does not end as merge ends it$"):
        read(spoilt(tmp_path, (b"ues.", b"ues." + more)))


def test_articles_in_several_batches_are_read(tmp_path):
    articles = [{"title": str(row), "id": row, "url": None} for row in range(2500)]
    path = write_set(tmp_path / "m.pkl", rows_of(2500, 4), articles)
    assert read(path) == articles == pickle.loads(path.read_bytes())["articles"]


def test_articles_are_read_back_to_the_last_block(tmp_path, monkeypatch):
    fsync = os.fsync

    def failing(file):
        fsync(file)
        (temporary,) = tmp_path.glob(".*.tmp")
        temporary.write_bytes(temporary.read_bytes().replace(b"t2", b"t3"))

    monkeypatch.setattr(pkl, "BLOCK", 100)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DiskError, match=r"m\.pkl does not read back as it was written$"):
        write_set(tmp_path / "m.pkl", rows_of(3), ARTICLES)


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
