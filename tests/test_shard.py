import errno
import io
import os
import pickle
import warnings
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embmerge import shardrows
from embmerge.errors import DiskError, LocalDataError, ShardError, TruncatedShard
from embmerge.shard import SHARD_NAME, local_shards, read_header, readable
from embmerge.shardrows import addressable, read_rows
from tests.hostile import ROWS, call, number, plain, shard
from tests.shards import dumped, make_shard, rows_of, shard_of

NAME = "cluster1_gpu0.pkl"
pytestmark = pytest.mark.filterwarnings("ignore:numpy.core")  # numpy 2 loading what numpy 1 wrote


def header_of(raw, **how):
    return read_header(io.BytesIO(raw), len(raw), NAME, **how)


def rows_in(raw, start=0, stop=None):
    file = io.BytesIO(raw)
    with addressable(file, header_of(raw)) as (plain, header):
        return read_rows(plain, header, start, header.rows if stop is None else stop)


def same(ours, theirs):
    """Whether two arrays are alike bit for bit, NaN or not; pickle.load makes some byte orders this machine's."""
    ours, theirs = (rows.astype(rows.dtype.newbyteorder("=")) for rows in (ours, theirs))
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


def test_a_header_says_what_the_worker_wrote():
    header = header_of(dumped(shard_of(rows_of(40, 6), start=100, cluster=2, gpu=7)), cluster="tensor02")
    assert (header.name, header.start, header.end, header.rows, header.dim) == (NAME, 100, 140, 40, 6)
    assert (header.cluster_id, header.gpu_id, header.cluster) == (2, 7, "tensor02")
    assert (header.model, header.timestamp) == ("all-tests-v1", "2026-01-15T01:02:03")
    assert (header.processing_time, header.rate, header.dtype.code) == (12.5, 310.0, "<f4")


@pytest.mark.parametrize("old_numpy", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_rows_are_those_of_pickle_load(protocol, dtype, order, old_numpy):
    rows = np.asarray(rows_of(50, 9, dtype), order=order)
    raw = dumped(shard_of(rows), protocol, old_numpy=old_numpy)
    assert same(rows_in(raw), pickle.loads(raw)["embeddings"])
    assert same(rows_in(raw, 7, 31), pickle.loads(raw)["embeddings"][7:31])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_long_arrays_are_those_of_pickle_load(protocol, order):
    rows = np.asarray(rows_of(3000, 31), order=order)  # more than one frame holds
    raw = dumped(shard_of(rows), protocol)
    assert same(rows_in(raw), rows)
    assert same(rows_in(raw, 1234, 1300), rows[1234:1300])


@pytest.mark.parametrize("jump", [0, 1 << 20])
@pytest.mark.parametrize("tile", [1, 150, 1000])
def test_columns_are_turned_into_rows_tile_by_tile(monkeypatch, tile, jump):
    monkeypatch.setattr(shardrows, "_TILE", tile)
    monkeypatch.setattr(shardrows, "_BAND", 100)
    monkeypatch.setattr(shardrows, "_JUMP", jump)
    rows = np.asfortranarray(rows_of(50, 9))
    raw = dumped(shard_of(rows), 3)
    with addressable(io.BytesIO(raw), header_of(raw)) as (plain, header):
        for start, stop in ((0, 50), (0, 1), (49, 50), (7, 31), (3, 8), (8, 9), (20, 20)):
            assert same(read_rows(plain, header, start, stop), rows[start:stop])


@pytest.mark.parametrize("shape", [(20, 100_000), (100_000, 20), (1, 100_000)])
def test_columns_are_read_in_few_pieces(shape):
    class Counted(io.BytesIO):
        reads = 0

        def readinto(self, view):
            self.reads += 1
            return super().readinto(view)

    rows = np.ones(shape, "f2").T.copy().T
    raw = dumped(shard_of(rows)).replace(b"\x89B", b"\x88B")  # a single row is spelled in order of rows
    file = Counted(raw)
    with addressable(file, header_of(raw)) as (plain, header):
        assert header_of(raw).array.order == "F"
        for row in range(shape[0])[:50]:
            assert same(read_rows(plain, header, row, row + 1), rows[row : row + 1])
    assert file.reads <= 100


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_slices_and_memory_maps_are_read(tmp_path, protocol):
    mapped = np.memmap(tmp_path / "rows", "<f4", "w+", shape=(60, 8))
    mapped[:] = rows_of(60, 8)
    for rows in (mapped, rows_of(60, 8)[::2], rows_of(60, 8)[::-1], rows_of(60, 8)[:, 2:5], rows_of(8, 60).T):
        raw = dumped(shard_of(rows), protocol)
        assert same(rows_in(raw), np.asarray(pickle.loads(raw)["embeddings"]))


@pytest.mark.parametrize("module", [b"numpy.core.memmap", b"numpy._core.memmap"])
def test_a_memory_map_of_any_numpy_is_read(tmp_path, module):
    mapped = np.memmap(tmp_path / "rows", "<f4", "w+", shape=(60, 8))
    mapped[:] = rows_of(60, 8)
    raw = dumped(shard_of(mapped), 3).replace(b"cnumpy\nmemmap\n", b"c" + module + b"\nmemmap\n")
    assert module in raw
    assert same(rows_in(raw), rows_of(60, 8))


def test_bytes_that_are_all_beyond_ascii_are_read_from_protocol_2():
    rows = np.frombuffer(b"\x81" * 5000 * 8 * 4, "<f4").reshape(5000, 8)
    assert same(rows_in(dumped(shard_of(rows), 2)), rows)


def test_an_array_made_of_its_shape_dtype_and_bytes_is_read_row_by_row():
    made = (
        b"(" + plain(ROWS.shape) + plain(ROWS.dtype) + b"B" + ROWS.nbytes.to_bytes(4, "little") + ROWS.tobytes() + b"t"
    )
    raw = shard(embeddings=call("numpy ndarray", made))
    assert same(rows_in(raw), pickle.loads(raw)["embeddings"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16, np.int8, int])
def test_indices_may_be_numpy_scalars(kind, protocol):
    header = header_of(
        dumped(shard_of(rows_of(20), start_index=kind(100), end_index=kind(120), gpu_id=kind(3)), protocol)
    )
    assert (header.start, header.end, header.gpu_id) == (100, 120, 3)
    assert type(header.start) is int


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_key_may_be_a_text_of_numpy(protocol):
    rows = rows_of(20)
    raw = dumped({np.str_(key): value for key, value in shard_of(rows, model=np.str_("東")).items()}, protocol)
    assert same(rows_in(raw), rows)
    assert header_of(raw).model == "東"


def test_a_key_of_numpy_counts_as_the_text_that_it_equals():
    raw = shard()[:-2] + plain(np.str_("gpu_id")) + number(9) + b"u."
    assert header_of(raw).gpu_id == pickle.loads(raw)["gpu_id"] == 9


def test_a_dtype_may_be_shared_by_arrays_and_numbers():
    dtype = np.dtype("<f8")
    rows = rows_of(20, dtype=dtype)
    raw = dumped(shard_of(rows, rate=rows[0, 0], more=np.arange(3, dtype=dtype), dtype=dtype))
    assert same(rows_in(raw), rows)
    assert header_of(raw).rate == rows[0, 0]


@pytest.mark.parametrize("old_numpy", [False, True])
def test_figures_may_be_numpy_scalars(old_numpy):
    raw = dumped(shard_of(rows_of(), rate=np.float32(1.5), processing_time=np.float64(2.5)), old_numpy=old_numpy)
    assert (header_of(raw).rate, header_of(raw).processing_time) == (1.5, 2.5)


EXTRA = {
    "none": None,
    "flags": (True, False),
    "numbers": [0, -1, 255, 256, 65536, -(2**31), 2**31, 2**63, 2**200, 1e300, 2j],
    "texts": ["", "東京", "x" * 300, "\ud800", b"", b"abc" * 200, bytearray(b"abc")],
    "nested": {"a": [{"b": ({"c": 1},)}]},
    "sets": [set(), {1, 2}, frozenset(), frozenset({"a"})],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "dates": [datetime(2026, 1, 15, tzinfo=timezone.utc), date(2026, 1, 15), timedelta(1)],
    "ordered": OrderedDict(a=1, b=2),
    "texts of numpy": [np.str_("東京"), np.str_("\ud800"), np.str_("")],
    "arrays": [np.arange(4), np.zeros((2, 3), "f4"), np.array(["a", "b"]), np.float32(1), np.bool_(1)],
    "by number": {1: 2, 2.5: 3},
    "long text": "x" * 10_000,
    "long bytes": b"x" * 10_000,
    "long number": 1 << 40_000,
    "titles": [f"Title {row}" for row in range(15_000)],
    "long titles": [f"Title {row} " * 400 for row in range(20)],
    "ids": list(range(1_000_000, 1_020_000)),
    "turned cube": np.zeros((2, 3, 4)).transpose(1, 0, 2),
    "ways to count": [time(1, 2), range(3), slice(1, None)],
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("field", EXTRA)
def test_more_fields_of_plain_types_do_no_harm(field, protocol):
    raw = dumped({"before": EXTRA[field], **shard_of(rows_of()), field: EXTRA[field]}, protocol)
    assert same(rows_in(raw), rows_of())


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=hnp.arrays(
        st.sampled_from(["<f2", ">f4", "<f4", "<f8", ">f8"]), st.tuples(st.integers(1, 30), st.integers(1, 30))
    ),
    order=st.sampled_from("CF"),
    protocol=st.integers(2, 5),
    old_numpy=st.booleans(),
    extra=st.dictionaries(st.text(max_size=8).map("x{}".format), PLAIN, max_size=4),
    start=st.integers(0, 10**9),
)
def test_any_shard_is_read_as_pickle_load_reads_it(rows, order, protocol, old_numpy, extra, start):
    raw = dumped(shard_of(np.asarray(rows, order=order), start, **extra), protocol, old_numpy=old_numpy)
    loaded = pickle.loads(raw)
    header = header_of(raw)
    assert same(rows_in(raw), loaded["embeddings"])
    assert (header.start, header.end) == (loaded["start_index"], loaded["end_index"])


def test_a_usual_shard_costs_its_first_and_last_eight_kib(tmp_path):
    class Watched(io.FileIO):
        touched: ClassVar = set()

        def read(self, size=-1):
            at = self.tell()
            got = super().read(size)
            self.touched |= {place // 8192 for place in range(at, at + len(got))}
            return got

    path = make_shard(tmp_path, rows_of(4000, 64))
    with Watched(path) as file:
        read_header(file, path.stat().st_size, path.name)
    assert Watched.touched <= {0, (path.stat().st_size - 1) // 8192, (path.stat().st_size - 8192) // 8192}


def test_a_checkpoint_may_hold_fewer_rows_than_its_range():
    raw = dumped(shard_of(rows_of(10), end_index=40))
    assert (header_of(raw, prefix=True).rows, header_of(raw, prefix=True).end) == (10, 40)
    with pytest.raises(ShardError, match="40"):
        header_of(raw)


def test_a_checkpoint_holds_no_more_rows_than_its_range():
    raw = dumped(shard_of(rows_of(40), end_index=10))
    with pytest.raises(ShardError, match="covers rows 0 - 10, which are 10, but it holds 40"):
        header_of(raw, prefix=True)


@pytest.mark.parametrize(
    ("said", "kept"),
    [(310, 310.0), (float("nan"), None), (float("inf"), None), (-1e301, None), (10**400, None), ("310", None)],
    ids=lambda value: str(value)[:9],
)
def test_a_figure_is_a_float_that_is_of_use_or_none(said, kept):
    header = header_of(dumped(shard_of(rows_of(), rate=said, processing_time=said)))
    assert (header.rate, header.processing_time) == (kept, kept)
    assert type(header.rate) in {float, type(None)}


def test_texts_of_a_shard_are_short_and_act_on_no_terminal():
    evil = "\x1b[2J\x9b\u202e\n" * 100
    header = header_of(dumped(shard_of(rows_of(), model=evil, timestamp=evil)))
    assert (len(header.model), len(header.timestamp)) == (200, 200)
    assert (header.model + header.timestamp).isprintable()


def test_a_header_is_read_from_the_beginning_wherever_the_file_stands():
    file = io.BytesIO(dumped(shard_of(rows_of(40))))
    nbytes = file.seek(0, io.SEEK_END)
    assert read_header(file, nbytes, NAME).rows == 40


def test_rows_that_disagree_with_the_range_are_named():
    with pytest.raises(ShardError, match=r"covers rows 0 - 41, which are 41, but it holds 40"):
        header_of(dumped(shard_of(rows_of(40), end_index=41)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"embeddings": [[1.0, 2.0]]}, "a list, not a numpy array"),
        ({"embeddings": np.zeros((40, 6), int)}, "not of float16"),
        ({"embeddings": np.zeros(40, "f4")}, "not \\(rows, dim\\)"),
        ({"embeddings": np.zeros((1, 1 << 24), "f2")}, "its rows have 16,777,216 values each"),
        ({"start_index": -1}, "start_index"),
        ({"cluster_id": "1"}, "its 'cluster_id' is '1', not a whole number"),
        ({"cluster_id": -1}, "its 'cluster_id' is -1, not a whole number"),
        ({"gpu_id": 1 << 40}, "its 'gpu_id' is 1099511627776, not a whole number"),
        ({"start_index": 1 << 40, "end_index": (1 << 40) + 40}, "its 'start_index' is 1099511627776"),
        ({"embeddings": np.zeros((40, 0), "f4")}, r"the shape \(40, 0\), not \(rows, dim\)"),
        ({"titles": ["t"] * 210_000}, "too much beside arrays"),
        ({"extra": Path("x")}, "pathlib"),
    ],
)
def test_a_refusal_says_why(fields, said):
    with pytest.raises(ShardError, match=said):
        header_of(dumped(shard_of(rows_of(40), **fields)))


def test_a_pickle_of_something_else_says_what_it_is():
    with pytest.raises(ShardError, match="it holds a list, not a dict"):
        header_of(dumped([1, 2]))


@pytest.mark.parametrize("junk", [b"PK\x03\x04 a zip file", b"V a text", b"I 12345"])
def test_a_long_line_without_an_end_is_no_shard_cut_short(junk):
    with pytest.raises(ShardError, match="is not a usable shard") as caught:
        header_of(junk * 900)
    assert not isinstance(caught.value, TruncatedShard)


def test_a_shard_that_is_cut_short_is_told_apart():
    raw = dumped(shard_of(rows_of(4000, 64)))
    for end in (10, 1000, len(raw) // 2, len(raw) - 1):
        with pytest.raises(TruncatedShard):
            header_of(raw[:end])


@pytest.mark.parametrize("order", "CF")
def test_a_shard_that_shrinks_while_it_is_read_is_noticed(tmp_path, order):
    path = make_shard(tmp_path, np.asarray(rows_of(4000, 64), order=order))
    with path.open("r+b", buffering=0) as file:
        header = read_header(file, path.stat().st_size, path.name)
        file.truncate(5000)
        with addressable(file, header) as (plain, placed), pytest.raises(TruncatedShard, match="shorter"):
            read_rows(plain, placed, 0, 4000)


class Failing(io.BytesIO):
    """A file that the disk does not give back."""

    def read(self, _size=-1):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    readinto = read


@pytest.mark.parametrize(("protocol", "order"), [(2, "C"), (4, "C"), (4, "F")])
def test_rows_that_the_disk_cannot_read_are_told_with_their_shard(protocol, order):
    raw = dumped(shard_of(np.asarray(rows_of(3000, 8), order=order)), protocol)
    header = header_of(raw)
    with (
        pytest.raises(ShardError, match=r"^cannot read cluster1_gpu0\.pkl: Input/output error$"),
        addressable(Failing(raw), header) as (plain, placed),
    ):
        read_rows(plain, placed, 0, 3000)


def test_a_full_disk_under_the_rows_that_are_written_out_is_told_by_its_folder(monkeypatch):
    raw = dumped(shard_of(rows_of(3000, 8)), 2)
    monkeypatch.setattr(shardrows.tempfile, "TemporaryFile", partial(Path("/dev/full").open, "r+b", buffering=0))
    with pytest.raises(DiskError, match=f"^the disk is full: {shardrows.tempfile.gettempdir()} "):
        rows_in(raw)


def test_damaged_text_of_protocol_2_is_refused():
    raw = dumped(shard_of(rows_of(3000, 8)), 2)
    middle = len(raw) // 2
    with pytest.raises(ShardError, match="damaged"):
        rows_in(raw[:middle] + b"\xff\xff" + raw[middle + 2 :])


@pytest.mark.parametrize("character", ["x", "é"], ids=["more", "fewer"])
def test_text_of_protocol_2_that_is_another_number_of_bytes_than_the_rows_is_refused(character):
    raw = dumped(shard_of(rows_of(3000, 8)), 2)
    at, nbytes = header_of(raw).array.raw.offset, header_of(raw).array.raw.nbytes
    content = (character * nbytes).encode()[: nbytes // 2 * 2].ljust(nbytes, b"x")
    with pytest.raises(ShardError, match="its rows, stored as text, are damaged"):
        rows_in(raw[:at] + content + raw[at + nbytes :])


def test_reading_rows_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows_in(dumped(shard_of(rows_of()), old_numpy=True))


@pytest.mark.parametrize(
    "name",
    [
        "cluster1_gpu0.pkl.part",
        "xcluster1_gpu0.pkl",
        "cluster_gpu0.pkl",
        "cluster1_gpu0_checkpoint_5000.pkl",
        "cluster1_gpu0.pkl\n",
        "Cluster1_gpu0.pkl",
        "cluster1_gpu0.PKL",
        "cluster" + "1" * 99 + "_gpu0.pkl",
    ],
)
def test_names_that_only_look_like_a_shards_do_not_match(name):
    assert not SHARD_NAME.fullmatch(name)


def test_local_shards_come_in_order_of_their_numbers(tmp_path):
    for gpu in (10, 2, 1):
        make_shard(tmp_path, rows_of(), gpu=gpu)
    (tmp_path / "cluster1_gpu3.pkl").mkdir()
    (tmp_path / "progress.json").touch()
    assert [path.name for path in local_shards(tmp_path)] == [f"cluster1_gpu{gpu}.pkl" for gpu in (1, 2, 10)]


def test_a_folder_without_shards_says_how_to_get_them(tmp_path):
    with pytest.raises(LocalDataError) as caught:
        local_shards(tmp_path)
    assert "invoke sync" in caught.value.hint
    with pytest.raises(LocalDataError, match="cannot list"):
        local_shards(tmp_path / "missing")


@pytest.mark.parametrize("fields", [{"end_index": 9}, {"end_index": 11}, {"start_index": True, "end_index": 11}])
def test_a_range_that_is_not_that_of_the_rows_is_refused(fields):
    raw = pickle.dumps(shard_of(rows_of(10, 3), **fields))
    with pytest.raises(ShardError):
        read_header(io.BytesIO(raw), len(raw), NAME)


def test_a_shard_without_rows_is_refused():
    raw = pickle.dumps(shard_of(rows_of(0, 3)))
    with pytest.raises(ShardError, match="shape"):
        read_header(io.BytesIO(raw), len(raw), NAME)


def test_a_download_that_is_not_whole_is_no_shard(tmp_path):
    make_shard(tmp_path, rows_of(), gpu=0)
    (tmp_path / "cluster1_gpu3.pkl.part").write_bytes(b"x")
    assert [path.name for path in local_shards(tmp_path)] == ["cluster1_gpu0.pkl"]


@pytest.mark.parametrize(("kind", "hint"), [(errno.EACCES, "chmod u+r"), (errno.EIO, "invoke sync")])
def test_a_shard_that_cannot_be_read_says_what_helps(kind, hint):
    with pytest.raises(ShardError, match="cannot read x: so it is") as caught, readable("x"):
        raise OSError(kind, "so it is")
    assert hint in caught.value.hint
