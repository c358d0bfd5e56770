import contextlib
import errno
import hashlib
import os
import pickle
import shutil
import sys
import threading
import time
import warnings
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embmerge import events
from embmerge.articles import read_articles
from embmerge.errors import DiskError, LocalDataError, ShardError, UsageError
from embmerge.merge import merge
from embmerge.mergedfile import open_merged
from embmerge.shard import Origin
from tests.disktrace import DiskTrace
from tests.shards import articles_of, make_articles, make_dataset, make_shard, make_shards, rows_of

KEYS = {"title", "id", "url"}


def load(path):
    """What plain pickle.load says, with warnings as errors."""
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("error")
        return pickle.load(file)


def naive(shards, articles):
    """The rows and articles as most people merge them."""
    loaded = sorted((pickle.loads(path.read_bytes()) for path in shards), key=lambda shard: shard["start_index"])
    texts = pickle.loads(articles.read_bytes())
    rows = np.concatenate([shard["embeddings"] for shard in loaded])[: len(texts)]
    return rows, [{key: article[key] for key in ("title", "id", "url")} for article in texts]


def test_the_merged_file_is_what_the_naive_way_makes(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 500, 24, 8, extra=10)
    result = merge(shards, articles, tmp_path / "out" / "m.pkl")
    merged, (rows, those) = load(result.output), naive(shards, articles)
    assert np.array_equal(merged["embeddings"], rows)
    assert merged["embeddings"].flags.writeable
    assert merged["embeddings"].dtype == rows.dtype
    assert merged["articles"] == those
    assert (merged["total_articles"], merged["embedding_dim"], merged["shape"]) == (500, 24, (500, 24))
    assert merged["model"] == "all-tests-v1"
    assert (result.articles, result.extra_rows, result.shards, result.dim) == (500, 10, 8, 24)


def test_a_shard_whose_bytes_have_changed_since_it_came_is_not_merged(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    right = {path.name: Origin("a", hashlib.sha256(path.read_bytes()).hexdigest()) for path in shards}
    merge(shards, articles, tmp_path / "m.pkl", origins=right)
    wrong = right | {shards[1].name: Origin("a", "0" * 64)}
    error = refused(tmp_path, shards, articles, ShardError, "n.pkl", origins=wrong)
    assert error.message.startswith(f"{shards[1].name} is not what came from a")
    assert "invoke sync" in error.hint


def test_everything_besides_the_array_is_plain_python(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    merged = load(merge(shards, articles, tmp_path / "m.pkl").output)
    plain = {str, int, float, bool, type(None)}

    def check(value):
        if type(value) in {list, tuple}:
            [check(item) for item in value]
        elif type(value) is dict:
            [check(item) for pair in value.items() for item in pair]
        else:
            assert type(value) in plain

    del merged["embeddings"]
    check(merged)


def test_the_figures_are_those_of_numpy(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 300, 16, 4)
    merged = load(merge(shards, articles, tmp_path / "m.pkl").output)
    norms = np.linalg.norm(merged["embeddings"].astype(np.float64), axis=1)
    metrics = merged["quality_metrics"]
    assert metrics["shape"] == (300, 16)
    assert metrics["dtype"] == "float32"
    assert metrics["mean_norm"] == pytest.approx(norms.mean())
    assert metrics["std_norm"] == pytest.approx(norms.std())
    assert (metrics["min_norm"], metrics["max_norm"]) == (pytest.approx(norms.min()), pytest.approx(norms.max()))
    assert (metrics["has_nan"], metrics["has_inf"]) == (False, False)
    first = merged["chunk_info"][0]
    assert first["mean_norm"] == pytest.approx(norms[: first["end_index"]].mean())


def test_every_source_is_told_with_its_sum_and_cluster(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 100, 6, 4)
    merged = load(merge(shards, articles, tmp_path / "m.pkl", origins={shards[0].name: Origin("tensor01")}).output)
    chunks = merged["chunk_info"]
    assert [(c["start_index"], c["end_index"]) for c in chunks] == [(0, 25), (25, 50), (50, 75), (75, 100)]
    assert [(c["cluster_id"], c["gpu_id"]) for c in chunks] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [c["filepath"] for c in chunks] == list(map(str, shards))
    assert [c["sha256"] for c in chunks] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards]
    assert [c["cluster"] for c in chunks] == ["tensor01", None, None, None]


def test_what_a_shard_says_of_itself_and_its_rows_is_kept(tmp_path):
    rows = rows_of(40, 6)
    rows[[3, 4]] = 0
    shards = [
        make_shard(tmp_path, rows[:20], model=None, timestamp="2026-01-15T01:02:03", processing_time=12.5, rate=310.0),
        make_shard(tmp_path, rows[20:], 20, gpu=1, timestamp=None, processing_time=None, rate=7),
    ]
    os.utime(shards[0], ns=(5, 1_700_000_000_999_999_999))
    merged = load(merge(shards, make_articles(tmp_path / "a.pkl", 40), tmp_path / "m.pkl").output)
    norms = np.linalg.norm(rows[:20].astype("f8"), axis=1)
    assert merged["model"] == "all-tests-v1"
    assert merged["quality_metrics"]["zero_rows"] == 2
    assert merged["chunk_info"][0] == {
        "cluster_id": 1,
        "gpu_id": 0,
        "start_index": 0,
        "end_index": 20,
        "filepath": str(shards[0]),
        "cluster": None,
        "sha256": hashlib.sha256(shards[0].read_bytes()).hexdigest(),
        "nbytes": shards[0].stat().st_size,
        "mtime": 1_700_000_000,
        "timestamp": "2026-01-15T01:02:03",
        "processing_time": 12.5,
        "rate": 310.0,
        "min_norm": 0.0,
        "max_norm": pytest.approx(norms.max()),
        "mean_norm": pytest.approx(norms.mean()),
        "std_norm": pytest.approx(norms.std()),
        "zero_rows": 2,
    }
    second = merged["chunk_info"][1]
    assert [second[key] for key in ("timestamp", "processing_time", "rate", "zero_rows")] == [None, None, 7.0, 0]


def test_the_observer_hears_what_happens_in_order(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 100, 6, 4, extra=3)
    heard = []
    merge(shards, articles, tmp_path / "m.pkl", observer=heard.append)
    kinds = list(dict.fromkeys(type(event) for event in heard))
    assert set(kinds) == {
        events.MergeStarted, events.ShardLoaded, events.RangesVerified, events.ArticlesRead, events.RowsWritten,
        events.QualityMeasured, events.Saving, events.Saved,
    }  # fmt: skip
    assert kinds[:3] == [events.MergeStarted, events.ShardLoaded, events.RangesVerified]
    assert kinds[-3:] == [events.QualityMeasured, events.Saving, events.Saved]
    assert next(e for e in heard if isinstance(e, events.ArticlesRead)) == events.ArticlesRead(100, 3, (100, 6))
    assert [e.index for e in heard if isinstance(e, events.ShardLoaded)] == [1, 2, 3, 4]


def test_the_same_inputs_make_the_same_bytes(tmp_path, monkeypatch):
    shards, articles, _ = make_dataset(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    one, other = (
        merge(order, articles, tmp_path / name).output for order, name in ((shards, "1.pkl"), (shards[::-1], "2.pkl"))
    )
    assert one.read_bytes() == other.read_bytes()
    assert load(one)["timestamp"] == "2023-11-14T22:13:20+00:00"


def test_the_same_bytes_come_out_however_soon_the_articles_are_known(tmp_path, monkeypatch):
    shards, articles, _ = make_dataset(tmp_path / "in", 100, 24, 4, extra=3)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    known, wanted = threading.Event(), threading.Event()

    def reading(path, *, stop):
        wanted.wait(10)
        found = read_articles(path, stop=stop)
        known.set()
        return found

    def soon(event):
        if isinstance(event, events.RangesVerified):
            wanted.set()
            known.wait(10)
            time.sleep(0.05)  # until whoever asks is told, too

    def late(event):
        if event == events.RowsWritten(93, 103):  # all that are written in any case
            wanted.set()

    monkeypatch.setattr("embmerge.merge.read_articles", reading)
    first = merge(shards, articles, tmp_path / "1.pkl", observer=soon).output.read_bytes()
    wanted.clear()
    assert merge(shards, articles, tmp_path / "2.pkl", observer=late).output.read_bytes() == first


@pytest.mark.parametrize(
    "date",
    ["1767225600000", "253402300800", "\u00b2", "9" * 5000, "-1", "1.5", " 1", "\u0661", "now"],
    ids=lambda date: ascii(date[:15]),
)
def test_a_fixed_date_that_is_none_is_refused_before_anything_is_read(tmp_path, monkeypatch, date):
    shards, articles, _ = make_dataset(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    heard = []
    error = refused(tmp_path, shards, articles, UsageError, observer=heard.append)
    assert error.message.startswith("SOURCE_DATE_EPOCH is '")
    assert len(error.message) < 200
    assert error.hint
    assert not heard


@pytest.mark.parametrize(("date", "said"), [("0", "1970-01-01T00:00:00"), ("253402300799", "9999-12-31T23:59:59")])
def test_a_fixed_date_may_be_any_that_a_timestamp_can_say(tmp_path, monkeypatch, date, said):
    shards, articles, _ = make_dataset(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    assert load(merge(shards, articles, tmp_path / "m.pkl").output)["timestamp"] == f"{said}+00:00"


def test_an_empty_fixed_date_is_none(tmp_path, monkeypatch):
    shards, articles, _ = make_dataset(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert load(merge(shards, articles, tmp_path / "m.pkl").output)["timestamp"] > "2026"


def test_without_a_fixed_date_only_the_timestamp_differs(tmp_path, monkeypatch):
    shards, articles, _ = make_dataset(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    clock = iter((1_700_000_000.0, 1_800_000_000.0))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    one, other = (merge(shards, articles, tmp_path / name).output.read_bytes() for name in ("1.pkl", "2.pkl"))
    assert len(one) == len(other)
    differing = [place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
    assert differing[-1] - differing[0] < 25


@pytest.mark.parametrize("suffix", [".pkl", ".npy", ".safetensors"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_any_float_can_be_merged_into_any_format(tmp_path, suffix, dtype):
    shards, articles, rows = make_dataset(tmp_path, 60, 5, 3, dtype=dtype)
    merged = open_merged(merge(shards, articles, tmp_path / f"m{suffix}").output)
    assert np.array_equal(merged.rows(0, 60), rows)
    assert merged.dtype == rows.dtype.newbyteorder("=")
    assert [article["title"] for article in merged.articles()] == [article["title"] for article in articles_of(60)]
    merged.close()


SPELLINGS = st.tuples(
    st.lists(st.integers(2, 5), min_size=6, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6), st.booleans()
)
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 60), st.integers(1, 20))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=SHAPES,
    extra=st.integers(0, 10),
    dtype=st.sampled_from(["<f2", "<f4", ">f4", "<f8"]),
    spelling=SPELLINGS,
)
def test_random_shards_merge_as_the_naive_way_merges_them(tmp_path_factory, shape, extra, dtype, spelling):
    count, rows, dim = shape
    protocols, fortran, old_numpy = spelling
    folder = tmp_path_factory.mktemp("random")
    table = rows_of(max(count, rows), dim, dtype, seed=count)
    rows = len(table)
    articles = make_articles(folder / "a.pkl", max(1, rows - extra), protocols[0])
    edges = np.linspace(0, rows, count + 1).astype(int).tolist()
    shards = [
        make_shard(
            folder,
            np.asarray(table[start:end], order="F" if fortran[number] else "C"),
            start,
            gpu=number,
            protocol=protocols[number],
            old_numpy=old_numpy,
        )
        for number, (start, end) in enumerate(pairwise(edges))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, those = naive(shards, articles)
    merged = load(merge(shards, articles, folder / "m.pkl").output)
    assert merged["embeddings"].tobytes() == expected.astype(expected.dtype.newbyteorder("=")).tobytes()
    assert merged["articles"] == those


def test_shards_of_either_byte_order_are_one_dataset(tmp_path):
    rows = rows_of(40, 4)
    shards = [make_shard(tmp_path, rows[:20].astype(">f4"), gpu=0), make_shard(tmp_path, rows[20:], 20, gpu=1)]
    merged = load(merge(shards, make_articles(tmp_path / "a.pkl", 40), tmp_path / "m.pkl").output)
    assert np.array_equal(merged["embeddings"], rows)


def test_shards_of_different_dtype_are_named(tmp_path):
    shards = [make_shard(tmp_path, rows_of(20)), make_shard(tmp_path, rows_of(20, dtype="<f8"), 20, gpu=1)]
    articles = make_articles(tmp_path / "a.pkl", 40)
    with pytest.raises(LocalDataError, match=r"dtype.*in cluster1_gpu\d\.pkl"):
        merge(shards, articles, tmp_path / "m.pkl")
    merged = load(merge(shards, articles, tmp_path / "m.pkl", dtype="float32").output)
    assert merged["embeddings"].dtype == np.float32


@pytest.mark.filterwarnings("error")
def test_values_too_large_for_the_chosen_dtype_are_an_error(tmp_path):
    shard = make_shard(tmp_path, np.full((4, 3), 1e30, "<f8"))
    with pytest.raises(LocalDataError, match=r"cluster1_gpu0\.pkl has values too large for float16"):
        merge([shard], make_articles(tmp_path / "a.pkl", 4), tmp_path / "m.pkl", dtype="float16")


@pytest.mark.parametrize("missing", [0, 1])
def test_threads_of_the_caller_take_turns_as_before(tmp_path, missing):
    shards, articles, _ = make_dataset(tmp_path)
    before = sys.getswitchinterval()
    with contextlib.suppress(LocalDataError):
        merge(shards[missing:], articles, tmp_path / "m.pkl")
    assert sys.getswitchinterval() == before


# --- what is refused, leaving nothing ---


def refused(tmp_path, shards, articles, error=LocalDataError, output="m.pkl", **how):
    """The error of a merge that must leave no file behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error) as caught:
        merge(shards, articles, tmp_path / output, **how)
    assert sorted(tmp_path.rglob("*")) == before
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_gap_names_the_rows_and_its_neighbours(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 100, 6, 4)
    error = refused(tmp_path, [*shards[:1], *shards[2:]], articles)
    assert "25 - 50" in error.message
    assert shards[0].name in error.message
    assert shards[2].name in error.message
    assert error.exit_code == 5


def test_every_problem_is_said_at_once(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 100, 6, 4)
    odd = make_shard(tmp_path / "odd", rows_of(50, 6), 50, 9, 9, model="other")
    error = refused(tmp_path, [shards[0], *shards[2:], odd], articles)
    assert all(word in error.message for word in ("gap", "overlap", "different model"))


def test_the_same_rows_twice_are_refused(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    twin = tmp_path / "embeddings" / "cluster9_gpu9.pkl"
    twin.write_bytes(shards[0].read_bytes())
    assert "held twice" in refused(tmp_path, [*shards, twin], articles).message


def test_every_unreadable_shard_is_named(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    shards[0].write_bytes(b"nothing")
    shards[2].write_bytes(shards[2].read_bytes()[:-3])
    error = refused(tmp_path, shards, articles, ShardError)
    assert shards[0].name in error.message
    assert shards[2].name in error.message


def test_a_missing_shard_is_named(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    shards[1].unlink()
    assert shards[1].name in refused(tmp_path, shards, articles, ShardError).message


def test_a_link_that_leads_to_itself_is_named(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    loop = tmp_path / "loop.pkl"
    loop.symlink_to(loop)
    assert f"cannot read {loop}: " in refused(tmp_path, [*shards, loop], articles, ShardError).message
    assert f"cannot read the articles file {loop}: " in refused(tmp_path, shards, loop).message


def test_a_pipe_is_not_waited_for(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path, shards, tmp_path / "pipe").message
    assert "no regular file" in refused(tmp_path, [*shards, tmp_path / "pipe"], articles, ShardError).message


def test_a_dtype_that_is_no_float_is_refused(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    assert "int8" in refused(tmp_path, shards, articles, UsageError, dtype="int8").message


def test_no_shards_at_all(tmp_path):
    assert "no shards" in refused(tmp_path, [], make_articles(tmp_path / "a.pkl", 3)).message


def test_too_few_rows_for_the_articles(tmp_path):
    shards, _, _ = make_dataset(tmp_path, 100)
    error = refused(tmp_path, shards, make_articles(tmp_path / "b.pkl", 120))
    assert "rows 100 - 120 are missing at the end" in error.message


def test_more_extra_rows_than_allowed(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 100, extra=11)
    assert "11 more" in refused(tmp_path, shards, articles).message
    assert merge(shards, articles, tmp_path / "m.pkl", max_extra_rows=11).extra_rows == 11


def test_another_number_of_articles_than_expected(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 100)
    assert "100 articles, but 101 are expected" in refused(tmp_path, shards, articles, expected_articles=101).message


def test_a_missing_articles_file(tmp_path):
    shards, _, _ = make_dataset(tmp_path)
    error = refused(tmp_path, shards, tmp_path / "nothing.pkl")
    assert "articles file missing" in error.message
    assert "--articles" in error.hint


def test_an_articles_file_that_is_no_list(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    articles.write_bytes(pickle.dumps({"title": "t"}))
    assert "a.pkl is not an articles file" in refused(tmp_path, shards, articles).message


def test_an_empty_articles_file(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    articles.write_bytes(pickle.dumps([]))
    assert "no articles" in refused(tmp_path, shards, articles).message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_name_shard_cluster_and_rows(tmp_path, bad):
    rows = rows_of(100, 6)
    rows[[31, 40, 77], 2] = bad
    shards = make_shards(tmp_path / "embeddings", rows)
    origins = {shards[1].name: Origin("tensor01")}
    error = refused(tmp_path, shards, make_articles(tmp_path / "a.pkl", 100), origins=origins)
    assert f"{shards[1].name} (tensor01): rows 31, 40" in error.message
    assert f"{shards[3].name} (cluster 2): row 77" in error.message


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_called_so_whatever_they_are_converted_to(tmp_path, bad):
    rows = rows_of(100, 6, "<f8")
    rows[31, 2] = bad
    shards = make_shards(tmp_path / "embeddings", rows)
    error = refused(tmp_path, shards, make_articles(tmp_path / "a.pkl", 100), dtype="float16")
    assert error.message == f"NaN or Inf in {shards[1].name} (cluster 1): row 31"


def test_nan_in_rows_that_are_left_out_does_no_harm(tmp_path):
    rows = rows_of(103, 6)
    rows[100:] = np.nan
    shards = make_shards(tmp_path / "embeddings", rows)
    assert merge(shards, make_articles(tmp_path / "a.pkl", 100), tmp_path / "m.pkl").extra_rows == 3


def test_rows_of_zeros_are_counted_and_warned_of(tmp_path):
    rows = rows_of(100, 6)
    rows[[3, 60, 61]] = 0
    shards = make_shards(tmp_path / "embeddings", rows)
    heard = []
    result = merge(shards, make_articles(tmp_path / "a.pkl", 100), tmp_path / "m.pkl", observer=heard.append)
    (warned,) = [event for event in heard if isinstance(event, events.Warned)]
    assert result.quality.zero_rows == 3
    assert "3 rows" in warned.text
    assert shards[0].name in warned.text


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    error = refused(tmp_path, shards, articles, UsageError, output="m.h5")
    assert ".safetensors" in error.hint


@pytest.mark.parametrize("there", [True, False])
def test_an_output_that_is_a_link_stays_one(tmp_path, there):
    shards, articles, _ = make_dataset(tmp_path)
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "x.pkl", tmp_path / "link.pkl"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(target)
    result = merge(shards, articles, link)
    assert link.is_symlink()
    assert result.output == target
    assert pickle.loads(target.read_bytes())["total_articles"] == result.articles


def test_an_output_that_links_to_itself_is_replaced(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    link = tmp_path / "link.pkl"
    link.symlink_to(link)
    merge(shards, articles, link)
    assert not link.is_symlink()


@pytest.mark.parametrize(("name", "target"), [("x.pkl", "d41d8cd9"), ("x.pkl", "x.npy"), ("x.npy", "y.npy")])
def test_an_output_that_links_to_what_could_not_be_read_through_it_is_replaced(tmp_path, name, target):
    shards, articles, _ = make_dataset(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / target).write_bytes(b"old")
    link = tmp_path / name
    link.symlink_to(tmp_path / "store" / target)
    merge(shards, articles, link)
    assert not link.is_symlink()
    assert (tmp_path / "store" / target).read_bytes() == b"old"
    open_merged(link).close()


def test_an_output_that_is_a_folder(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    (tmp_path / "m.pkl").mkdir()
    heard = []
    assert "m.pkl" in refused(tmp_path, shards, articles, DiskError, observer=heard.append).message
    assert not heard


def test_an_output_whose_name_is_too_long(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    heard = []
    error = refused(tmp_path, shards, articles, DiskError, output="x" * 300 + ".pkl", observer=heard.append)
    assert "file name too long" in error.message
    assert error.hint
    assert not heard


def test_an_output_folder_that_is_a_file(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    (tmp_path / "out").touch()
    assert "out" in refused(tmp_path, shards, articles, DiskError, output="out/m.pkl").message


def test_a_disk_without_room_is_known_before_the_first_row(tmp_path, monkeypatch):
    shards, articles, _ = make_dataset(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 1))
    heard = []
    assert "free" in refused(tmp_path, shards, articles, DiskError, observer=heard.append).message
    assert not [event for event in heard if isinstance(event, events.RowsWritten)]


@pytest.mark.parametrize("which", ["articles", "shard", "link"])
def test_an_output_in_the_place_of_an_input_is_refused(tmp_path, which):
    shards, articles, _ = make_dataset(tmp_path)
    (tmp_path / "link.pkl").symlink_to(shards[1])
    output = {"articles": articles, "shard": shards[1], "link": tmp_path / "link.pkl"}[which]
    assert "one of the files to merge" in refused(tmp_path, shards, articles, UsageError, output=output).message


def test_the_old_output_stays_when_the_new_one_is_refused(tmp_path):
    shards, articles, _ = make_dataset(tmp_path)
    before = merge(shards, articles, tmp_path / "m.pkl").output.read_bytes()
    refused(tmp_path, shards[1:], articles)
    assert (tmp_path / "m.pkl").read_bytes() == before


SUFFIXES = [".pkl", ".npy", ".safetensors", ".parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_file_is_on_the_disk_before_it_has_its_name_and_the_name_after_that(tmp_path, monkeypatch, suffix):
    shards, articles, _ = make_dataset(tmp_path / "in", 60, 5, 3, extra=4)
    (tmp_path / "out").mkdir()
    trace = DiskTrace(monkeypatch)
    merge(shards, articles, tmp_path / "out" / f"m{suffix}")
    renames = [at for at, step in enumerate(trace.steps) if step[0] == "rename"]
    for path in (tmp_path / "out").iterdir():
        named = {path}
        for at in reversed(renames):
            if trace.steps[at][2] in named:
                named.add(trace.steps[at][1])
        first = min(at for at in renames if trace.steps[at][1] in named)
        content = path.read_bytes()
        assert any(step[0] == "sync" and step[1] in named and step[2] == content for step in trace.steps[:first])
    assert any(step[:2] == ("sync", tmp_path / "out") for step in trace.steps[renames[-1] :])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whoever_reads_the_old_file_goes_on_reading_it(tmp_path, suffix):
    shards, articles, _ = make_dataset(tmp_path / "in", 60, 5, 3)
    output = tmp_path / f"m{suffix}"
    output.write_bytes(b"old")
    with output.open("rb") as held:
        merge(shards, articles, output)
        assert held.read() == b"old"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full: "),
        (errno.EDQUOT, "the disk is full: "),
        (errno.EFBIG, "the disk is full: "),
        (errno.EIO, "cannot write "),
        (errno.EROFS, "cannot write "),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_does_not_keep_the_new_file_is_told_and_the_old_one_stays(
    tmp_path, monkeypatch, suffix, number, said
):
    shards, articles, _ = make_dataset(tmp_path / "in", 60, 5, 3)
    output = merge(shards, articles, tmp_path / "out" / f"m{suffix}").output
    before = {path.name: path.read_bytes() for path in output.parent.iterdir()}

    def fails(_file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(DiskError, match=f"^{said}{output}") as caught:
        merge(shards, articles, output)
    assert caught.value.exit_code == 6
    assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == before


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", ["rows", "articles"])
def test_what_the_disk_changes_is_noticed_before_the_file_has_its_name(tmp_path, monkeypatch, suffix, part):
    shards, articles, rows = make_dataset(tmp_path / "in", 4000, 32, 4)
    output = tmp_path / "out" / f"m{suffix}"
    needle = rows[2000].tobytes() if part == "rows" else articles_of(4000)[2000]["title"].encode()
    fsync, changed = os.fsync, []

    def failing(file):
        fsync(file)
        for path in output.parent.glob(".*.tmp*"):
            content = path.read_bytes()
            at = content.find(needle) + len(needle) - 1
            if needle in content and not changed:
                changed.append(path)
                with path.open("r+b") as damaged:
                    damaged.seek(at)
                    damaged.write(bytes([content[at] ^ 1]))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises((DiskError, LocalDataError)):
        merge(shards, articles, output)
    assert changed
    assert not output.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_merged_file_that_becomes_shorter_while_it_is_read_is_no_rows_from_nowhere(tmp_path, suffix):
    shards, articles, _ = make_dataset(tmp_path / "in", 4000, 64, 4)
    with closing(open_merged(merge(shards, articles, tmp_path / f"m{suffix}").output)) as merged:
        merged.rows(0, 1)
        os.truncate(merged.path, merged.path.stat().st_size // 3)
        with pytest.raises(LocalDataError):
            merged.rows(0, 4000)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_that_the_system_reads_in_pieces_are_whole(tmp_path, monkeypatch, suffix):
    shards, articles, rows = make_dataset(tmp_path / "in", 400, 64, 4)
    with closing(open_merged(merge(shards, articles, tmp_path / f"m{suffix}").output)) as merged:
        preadv = os.preadv
        monkeypatch.setattr(os, "preadv", lambda file, rooms, at: preadv(file, [rooms[0][:1000]], at))
        assert np.array_equal(merged.rows(0, 400), rows)


def put_in_its_place(shard):
    """Another file of the same size, time and content."""
    facts = shard.stat()
    other = shard.with_suffix(".new")
    other.write_bytes(shard.read_bytes())
    os.utime(other, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    other.replace(shard)


def touch_within_the_second(shard):
    nanoseconds = shard.stat().st_mtime_ns
    later = nanoseconds // 10**9 * 10**9 + (nanoseconds + 1000) % 10**9
    os.utime(shard, ns=(later, later))


@pytest.mark.parametrize("change", [put_in_its_place, touch_within_the_second])
def test_a_shard_that_is_another_one_in_the_end_is_refused(tmp_path, change):
    shards, articles, _ = make_dataset(tmp_path / "in", 400, 32, 4)
    changed = []

    def observer(event):
        if isinstance(event, events.RowsWritten) and not changed:
            changed.append(change(shards[-1]))

    with pytest.raises(ShardError, match="changed"):
        merge(shards, articles, tmp_path / "m.pkl", observer=observer)


def test_more_articles_than_expected_are_refused(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 100)
    with pytest.raises(LocalDataError, match="99 are expected"):
        merge(shards, articles, tmp_path / "m.pkl", expected_articles=99)


def test_a_single_row_that_is_missing_is_missed(tmp_path):
    shards, _, _ = make_dataset(tmp_path, 100)
    with pytest.raises(LocalDataError, match="missing at the end"):
        merge(shards, make_articles(tmp_path / "more.pkl", 101), tmp_path / "m.pkl")
