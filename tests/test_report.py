"""The report against planted faults: figures and findings here, the page in a browser in test_report_page."""

import errno
import os
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest

from embmerge.errors import DiskError, LocalDataError, UsageError
from embmerge.events import RowsMeasured
from embmerge.merge import merge
from embmerge.mergedfile import open_writer
from embmerge.report import _check_width, examine, figures, report
from embmerge.report.findings import Finding, judge, verdict
from tests.mergedsets import articles_of, damage, metadata_of, write_set
from tests.shards import make_dataset

ROWS, DIM, SHARDS = 1200, 24, 6
METADATA = {"quality_metrics": {}, "chunk_info": []}  # as far as findings look at it


def merged(tmp_path, rows, shards=SHARDS, name="m.pkl", articles=None):
    path = tmp_path / name
    articles = articles or articles_of(len(rows))
    with open_writer(path, len(rows), rows.shape[1], rows.dtype) as writer:
        writer.write(rows)
        writer.finish(articles, metadata_of(rows, shards))
    return path


def rows_of(seed=0, count=ROWS):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype("f4")


def texts(done, severity=None):
    return " | ".join(f.text for f in done.findings if severity in (None, f.severity))


def test_healthy_rows_may_be_used(tmp_path):
    done = examine(merged(tmp_path, rows_of()))
    assert done.ok
    assert done.findings == ()


def test_a_planted_nan_speaks_against_the_file_and_is_named_by_its_title(tmp_path):
    rows = rows_of()
    rows[137, 5] = np.nan
    done = examine(merged(tmp_path, rows))
    assert not done.ok
    assert done.statistics.nan_rows == (137,)
    assert articles_of(ROWS)[137]["title"] in texts(done, "error")


def test_what_speaks_against_a_file_is_what_the_task_ends_with(tmp_path):
    rows = rows_of()
    rows[137, 5] = np.nan
    error = examine(merged(tmp_path, rows)).error
    assert isinstance(error, LocalDataError)
    assert "is not to be used: 1 finding against it" in error.message
    assert "m.report.html" in error.hint


def test_rows_that_are_not_those_that_were_merged_speak_against_the_file(tmp_path):
    path = merged(tmp_path, rows_of())
    damage(path, 137, 1e3, rows=rows_of())
    assert "the rows are not those that were merged" in texts(examine(path), "error")


def test_articles_without_an_id_are_counted(tmp_path):
    ids = [*[None] * 7, 0, "", *range(9, ROWS)]  # of which two are odd, but there
    articles = [{**each, "id": ids[row]} for row, each in enumerate(articles_of(ROWS))]
    done = examine(merged(tmp_path, rows_of(), articles=articles))
    assert "7 of 1,200 articles have no id" in texts(done, "warning")


def test_titles_that_repeat_are_noted(tmp_path):
    articles = [{**each, "title": "same" if row < 7 else each["title"]} for row, each in enumerate(articles_of(ROWS))]
    articles[1100]["title"] = articles[1000]["title"]
    done = examine(merged(tmp_path, rows_of(), articles=articles))
    assert "7 titles repeat an earlier one, such as same" in texts(done, "note")


def test_a_norm_beyond_all_use_is_told_once(tmp_path):
    rows = rows_of()
    rows[7] *= 1e17
    assert "are not those that were merged" not in texts(examine(merged(tmp_path, rows)))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return examine(merged(tmp_path_factory.mktemp("healthy"), rows_of()))


@pytest.mark.parametrize(
    ("change", "severity", "said"),
    [
        ({"zero_count": 12, "zero_rows": (5,)}, "warning", "12 rows of zeros only"),
        ({"zero_count": 13, "zero_rows": (5,)}, "error", "13 rows of zeros only"),
        ({"zero_count": 3, "zero_rows": (5, 6, 7)}, "warning", "3 rows of zeros only: 5 (two), 6 (three), 7 (four)$"),
        ({"zero_count": 9, "zero_rows": (5, 6, 7, 8)}, "warning", ", 7 (four) and 6 more$"),
        ({"outlier_count": 1, "outliers": ((7, 9.0),)}, "warning", "1 row with a norm far from most: 7 (four)"),
        (
            {"duplicate_count": 1, "duplicates": ((5, 7),)},
            "warning",
            "equal to an earlier one, such as rows 5 (two) and 7",
        ),
        ({"alike_shards": ((0, 1),)}, "error", "hold nearly the same rows: one shard"),
        ({"alike_shards": ((0, 1), (0, 2))}, "error", "hold nearly the same rows (and 1 more such pair): one shard"),
        ({"alike_shards": ((0, 1), (0, 2), (0, 3))}, "error", "(and 2 more such pairs): one shard"),
        ({"alike_shards": ((0, 1),)}, "error", "a.pkl (tensor01) and b.pkl (unknown cluster) hold"),
    ],
    ids=repr,
)
def test_a_finding_says_what_it_is_and_how_bad(healthy, change, severity, said):
    titles = ["p", "q", "r", "s", "t", "two", "three", "four", "five"]
    chunks = [{"filepath": "x/a.pkl", "cluster": "tensor01"}, {"filepath": "x/b.pkl", "cluster": None}]
    (finding,) = judge(replace(healthy.statistics, **change), {**METADATA, "chunk_info": chunks}, titles, 0)
    assert finding.severity == severity
    assert said in f"{finding.text}$"


@pytest.mark.parametrize(
    ("severities", "said"),
    [
        ([], "Usable: nothing speaks against it."),
        (["note"], "Usable: nothing speaks against it."),
        (["warning", "note"], "Usable, but look at 1 finding first."),
        (["warning", "warning"], "Usable, but look at 2 findings first."),
        (["error", "warning"], "Do not use this file: 1 finding speaks against it."),
        (["error", "error"], "Do not use this file: 2 findings speak against it."),
    ],
)
def test_the_verdict_is_that_of_the_worst_findings(severities, said):
    assert verdict(tuple(Finding(severity, "x") for severity in severities)) == said


@pytest.mark.parametrize(("cosine", "count"), [(0.89, 0), (0.91, 1)])
def test_vectors_huddle_from_a_mean_cosine_of_nine_tenths_on(healthy, cosine, count):
    space = replace(healthy.statistics.space, mean_cosine=cosine)
    assert len(judge(replace(healthy.statistics, space=space), METADATA, [], 0)) == count


def test_a_file_that_may_be_used_is_no_error(tmp_path):
    assert examine(merged(tmp_path, rows_of())).error is None


def test_a_planted_duplicate_is_found_with_both_rows(tmp_path):
    rows = rows_of()
    rows[900] = rows[33]
    done = examine(merged(tmp_path, rows))
    assert done.statistics.duplicates == ((33, 900),)
    assert "equal to an earlier one" in texts(done, "warning")


def test_rows_that_are_equal_are_named_with_the_first_of_them(tmp_path):
    rows = rows_of()
    rows[900] = rows[1000] = rows[33]
    assert examine(merged(tmp_path, rows)).statistics.duplicates == ((33, 900), (33, 1000))


def test_rows_beyond_all_use_are_no_duplicates(tmp_path):
    rows = rows_of()
    rows[100:103] = 1e30
    rows[900] = rows[33]
    assert examine(merged(tmp_path, rows)).statistics.duplicate_count == 1


def test_rows_that_only_have_the_same_fingerprint_are_no_duplicates(tmp_path, monkeypatch):
    same = lambda block, _weights: np.zeros(len(block), np.uint64)  # noqa: E731
    monkeypatch.setattr("embmerge.report.statistics._fingerprints", same)
    statistics = examine(merged(tmp_path, rows_of())).statistics
    assert (statistics.duplicates, statistics.duplicate_count) == ((), 0)


def test_what_somebody_should_look_at_does_not_speak_against_the_file(tmp_path):
    rows = rows_of()
    rows[900] = rows[33]
    done = examine(merged(tmp_path, rows))
    assert [finding.severity for finding in done.findings] == ["warning"]
    assert done.ok
    assert done.verdict.startswith("Usable, but look at 1 finding")


def test_all_bad_rows_are_counted_though_few_are_listed(tmp_path):
    rows = rows_of()
    rows[100:130] = np.nan
    rows[300:330] = 0
    done = examine(merged(tmp_path, rows))
    s = done.statistics
    assert (s.nan_count, s.nan_rows) == (30, tuple(range(100, 120)))
    assert (s.zero_count, s.zero_rows) == (30, tuple(range(300, 320)))
    assert texts(done, "error").count(" and 27 more") == 2


def test_an_odd_shard_stands_out_by_its_norms(tmp_path):
    rows = rows_of()
    rows[400:600] *= 1.5
    assert "is unlike the others: its median norm" in texts(examine(merged(tmp_path, rows)), "warning")


def test_a_shard_of_extra_rows_alone_is_no_odd_one(tmp_path):
    rows = rows_of()
    metadata = metadata_of(rows, 6)
    metadata["chunk_info"].append(metadata["chunk_info"][-1] | {"start_index": len(rows), "end_index": len(rows) + 9})
    assert "is unlike the others" not in texts(examine(write_set(tmp_path / "m.pkl", rows, metadata=metadata)))


@pytest.mark.parametrize("change", ["a sign", "the order"])
def test_rows_that_are_not_those_that_were_merged_are_known_though_their_norms_are(tmp_path, change):
    shards, articles, rows = make_dataset(tmp_path)
    path = merge(shards, articles, tmp_path / "m.pkl").output
    assert examine(path).ok
    data, at = bytearray(path.read_bytes()), path.read_bytes().index(rows.tobytes())
    if change == "a sign":
        data[at + 3] ^= 0x80
    else:
        width = rows.strides[0]
        data[at : at + 2 * width] = data[at + width : at + 2 * width] + data[at : at + width]
    path.write_bytes(data)
    assert "the rows are not those that were merged: their checksum is" in texts(examine(path), "error")


def test_where_one_shard_is_odd_the_others_do_not_disagree(tmp_path):
    rows = rows_of()
    rows[400:600] *= 1.5
    assert "the shards disagree" not in texts(examine(merged(tmp_path, rows)))


def test_an_odd_shard_stands_out_by_where_it_lies(tmp_path):
    rows = rows_of()
    rows[400:600] += 3
    rows[400:600] *= np.median(np.linalg.norm(rows, axis=1)) / np.linalg.norm(rows[400:600], axis=1)[:, None]
    assert "is unlike the others" in texts(examine(merged(tmp_path, rows)), "warning")


def test_a_shard_written_twice_speaks_against_the_file(tmp_path):
    rows = rows_of()
    rows[200:400] = rows[0:200] * np.float32(1.0001)
    assert "nearly the same rows" in texts(examine(merged(tmp_path, rows)), "error")


def test_a_shard_written_twice_but_for_a_row_speaks_against_the_file(tmp_path):
    rows = rows_of()
    rows[201:400] = rows[1:200]
    assert examine(merged(tmp_path, rows)).statistics.alike_shards == ((0, 1),)


@pytest.mark.parametrize("at_once", [2, 64])
def test_each_repeated_shard_is_named_with_the_first_of_its_group(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("embmerge.report.statistics._COMPARED", at_once)
    rows = rows_of()
    rows[400:600] = rows[800:1000] = rows[0:200]
    rows[1000:] = rows[200:400]
    assert examine(merged(tmp_path, rows)).statistics.alike_shards == ((0, 2), (0, 4), (1, 5))


def test_shards_that_share_a_few_rows_are_not_taken_for_the_same(tmp_path):
    rows = rows_of()
    rows[200:250] = rows[0:50]
    assert examine(merged(tmp_path, rows)).statistics.alike_shards == ()


def test_shards_of_zeros_are_not_taken_for_the_same(tmp_path):
    rows = rows_of()
    rows[:400] = 0
    assert examine(merged(tmp_path, rows)).statistics.alike_shards == ()


def test_huddled_shards_that_are_the_same_are_found(tmp_path):
    rows = rows_of() * np.float32(1e-3) + 5
    rows[600:800] = rows[200:400]
    assert examine(merged(tmp_path, rows)).statistics.alike_shards == ((1, 3),)


def test_two_camps_of_shards_are_called_out_though_none_of_them_is_odd(tmp_path):
    rows = rows_of()
    rows[:600] *= 1.5
    assert "the shards disagree" in texts(examine(merged(tmp_path, rows)), "warning")


def test_two_camps_of_shards_are_called_out_by_where_they_lie(tmp_path):
    rows = rows_of()
    rows[:600, 0] += 5
    rows[600:, 0] -= 5
    assert "their mean vectors lie 0.7" in texts(examine(merged(tmp_path, rows)), "warning")


def test_a_shard_of_zeros_is_no_camp(tmp_path):
    rows = rows_of()
    rows[:600] = 0
    assert "the shards disagree" not in texts(examine(merged(tmp_path, rows, shards=2)))


def test_the_figures_of_a_shard_are_numpys(tmp_path):
    rows = rows_of()
    shard = examine(merged(tmp_path, rows)).statistics.shards[1]
    norms = np.linalg.norm(rows[200:400].astype("f8"), axis=1)
    low, median, high = np.quantile(norms, (0.25, 0.5, 0.75))
    expected = (norms.mean(), norms.std(), median, high - low)
    assert (shard.start, shard.end) == (200, 400)
    assert (shard.mean_norm, shard.std_norm, shard.median_norm, shard.middle_half) == pytest.approx(expected, rel=1e-5)


def test_shards_of_huddled_rows_are_not_taken_for_the_same(tmp_path):
    assert examine(merged(tmp_path, rows_of() * np.float32(0.1) + 5)).statistics.alike_shards == ()


def test_many_zero_rows_speak_against_the_file(tmp_path):
    rows = rows_of()
    rows[:100] = 0
    assert "100 rows of zeros only" in texts(examine(merged(tmp_path, rows)), "error")


@pytest.mark.filterwarnings("error")
def test_values_beyond_all_use_count_as_bad_and_upset_nothing(tmp_path):
    rows = rows_of()
    rows[5, 3] = 1e30
    done = examine(merged(tmp_path, rows))
    assert done.statistics.nan_rows == (5,)
    assert np.isfinite(done.statistics.space.effective_dimension)


def test_a_far_norm_does_not_squeeze_the_histogram(tmp_path):
    rows = rows_of()
    rows[77] *= 1000
    statistics = examine(merged(tmp_path, rows)).statistics
    assert sum(count > 0 for count in statistics.histogram) > 20
    assert sum(statistics.histogram) == ROWS


def test_norms_that_are_one_to_the_last_bit_have_a_histogram(tmp_path):
    rows = rows_of().astype("f8")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert sum(examine(merged(tmp_path, rows)).statistics.histogram) == ROWS


def test_all_outliers_are_counted_though_few_are_listed(tmp_path):
    rows = rows_of()
    rows[::40] *= 50
    statistics = examine(merged(tmp_path, rows)).statistics
    assert (len(statistics.outliers), statistics.outlier_count) == (10, 30)


def test_zero_rows_are_counted_and_are_no_duplicates(tmp_path):
    rows = rows_of()
    rows[[3, 4, 5]] = 0
    done = examine(merged(tmp_path, rows))
    assert done.statistics.zero_count == 3
    assert done.statistics.duplicate_count == 0


def test_a_row_with_a_far_norm_is_an_outlier(tmp_path):
    rows = rows_of()
    rows[77] *= 50
    done = examine(merged(tmp_path, rows))
    assert [row for row, _ in done.statistics.outliers] == [77]
    assert "unlike the others" not in texts(done)  # one row does not make its shard an odd one


def test_a_norm_three_times_the_others_is_an_outlier(tmp_path):
    rows = rows_of()
    rows[77] *= 3 * np.median(np.linalg.norm(rows, axis=1)) / np.linalg.norm(rows[77])
    assert [row for row, _ in examine(merged(tmp_path, rows)).statistics.outliers] == [77]


def test_of_unit_vectors_a_norm_a_little_off_is_no_outlier(tmp_path):
    rows = rows_of()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[7] *= 1.002
    assert examine(merged(tmp_path, rows)).statistics.outlier_count == 0


def test_rows_of_zeros_are_no_outliers(tmp_path):
    rows = rows_of() + 100
    rows[[3, 4, 5]] = 0
    assert examine(merged(tmp_path, rows)).statistics.outlier_count == 0


def test_one_unit_vector_makes_no_model_of_them(tmp_path):
    rows = rows_of()
    rows[7] /= np.linalg.norm(rows[7])
    assert not examine(merged(tmp_path, rows)).statistics.unit_norm


def test_unit_norm_models_are_recognised(tmp_path):
    rows = rows_of()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    done = examine(merged(tmp_path, rows))
    assert done.statistics.unit_norm
    assert "unit vectors" in texts(done, "note")


def test_vectors_that_huddle_together_are_called_out(tmp_path):
    assert "point the same way" in texts(examine(merged(tmp_path, rows_of() * np.float32(0.1) + 5)), "warning")


def test_the_mean_cosine_of_random_pairs_is_numpys(tmp_path):
    rows = rows_of(count=200) + 1
    done = examine(merged(tmp_path, rows))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (units @ units.T)[~np.eye(200, dtype=bool)]
    assert done.statistics.space.mean_cosine == pytest.approx(cosines.mean(), abs=1e-5)


def test_the_effective_dimension_of_equal_directions_is_their_number(tmp_path):
    rows = np.zeros((4000, DIM), "f4")
    rows[:, :3] = np.random.default_rng(1).standard_normal((4000, 3))
    assert examine(merged(tmp_path, rows)).statistics.space.effective_dimension == pytest.approx(3, rel=0.05)


def test_rows_longer_than_they_are_many_have_the_space_that_numpy_finds(tmp_path):
    rows = np.random.default_rng(2).standard_normal((60, 3000)).astype("f4") * np.geomspace(1, 0.01, 3000)
    space = examine(merged(tmp_path, rows.astype("f4"), shards=1)).statistics.space
    along, strengths, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    variances = strengths**2
    assert space.spectrum == pytest.approx(variances / variances.sum(), abs=1e-5)
    assert space.effective_dimension == pytest.approx(variances.sum() ** 2 / (variances**2).sum(), rel=1e-4)
    assert np.abs(space.points) == pytest.approx(np.abs(along * strengths)[:, :2], abs=1e-3)


def test_a_sample_of_long_rows_is_smaller(tmp_path):
    rows = np.zeros((200, 60_000), "f2")
    assert len(examine(merged(tmp_path, rows, shards=1)).statistics.space.rows) == (5 << 20) // 60_000


@pytest.mark.parametrize(("dim", "shards"), [(65_537, 1), (2000, 600)])
def test_more_columns_than_can_be_compared_are_refused(tmp_path, dim, shards):
    with pytest.raises(LocalDataError, match=f"has {dim:,} columns from {shards:,} shards") as caught:
        examine(merged(tmp_path, np.zeros((2, dim), "f2"), shards=shards))
    assert "up to 65,536 columns" in caught.value.hint


def test_as_many_columns_as_are_said_to_be_compared_are(tmp_path):
    _check_width(65_536, 16, tmp_path)


def test_only_the_first_of_many_shards_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "SMALL", 2)
    page = report(merged(tmp_path, rows_of())).output.read_text()
    assert "on the same axis (the first 2 of 6)" in page
    assert page.count("Norms of ") == 2


def test_neighbours_are_the_nearest_by_cosine_over_all_rows(tmp_path):
    rows = rows_of()
    done = examine(merged(tmp_path, rows), article=articles_of(ROWS)[10]["title"])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [row for row in np.argsort(-(units @ units[10])) if row != 10][:5]
    assert [row for row, _, _ in done.neighbours[0].nearest] == expected


@pytest.mark.parametrize("size", [1000, 9600, 20_000])
def test_rows_looked_at_in_blocks_of_any_size_give_the_same_report(tmp_path, monkeypatch, size):
    path = merged(tmp_path, np.round(rows_of() * 8))  # whose sums are exact in any order
    whole = examine(path)
    for module in ("statistics", "neighbours"):
        monkeypatch.setattr(sys.modules[f"embmerge.report.{module}"], "_BLOCK", size)
    parts = examine(path)
    assert parts.statistics == whole.statistics
    for one, other in zip(parts.neighbours, whole.neighbours, strict=True):
        assert sorted(row for row, _, _ in one.nearest) == sorted(row for row, _, _ in other.nearest)


def test_of_few_articles_each_has_the_others_as_neighbours(tmp_path):
    done = examine(merged(tmp_path, rows_of(count=4), shards=1))
    assert [{row for row, _, _ in each.nearest} for each in done.neighbours] == [{0, 1, 2, 3} - {n} for n in range(4)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_article_with_nan_or_inf_has_no_neighbours_and_is_none(tmp_path, value):
    path, rows = merged(tmp_path, rows_of(count=5), shards=1), rows_of(count=5)
    damage(path, 2, value, rows=rows)
    nearest = {each.row: {row for row, _, _ in each.nearest} for each in examine(path).neighbours}
    assert nearest == {0: {1, 3, 4}, 1: {0, 3, 4}, 2: set(), 3: {0, 1, 4}, 4: {0, 1, 3}}


def test_an_unknown_article_is_an_error_that_suggests_similar_titles(tmp_path):
    with pytest.raises(LocalDataError) as caught:
        examine(merged(tmp_path, rows_of()), article=articles_of(ROWS)[0]["title"] + "x")
    assert "did you mean" in caught.value.hint


def test_the_same_seed_asks_for_the_same_articles(tmp_path):
    path = merged(tmp_path, rows_of())
    assert examine(path).neighbours == examine(path).neighbours


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_every_dtype_gives_the_same_norms(tmp_path, dtype):
    rows = rows_of().astype(dtype)
    expected = np.linalg.norm(rows.astype("f8"), axis=1).mean()
    assert examine(merged(tmp_path, rows)).statistics.mean_norm == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 10])
def test_few_rows_of_one_shard_are_no_trouble(tmp_path, count):
    assert report(merged(tmp_path, rows_of(count=count), shards=1)).output.exists()


def test_rows_are_told_as_they_are_measured(tmp_path):
    seen = []
    examine(merged(tmp_path, rows_of()), observer=seen.append)
    assert seen[-1] == RowsMeasured(ROWS, ROWS)


@pytest.mark.parametrize("name", ["m.npy", "m.safetensors", "m.parquet"])
def test_every_format_can_be_reported_on(tmp_path, name):
    assert examine(merged(tmp_path, rows_of(count=100), name=name)).statistics.shape == (100, DIM)


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(LocalDataError, match=r"m\.pkl holds no rows$"):
        examine(merged(tmp_path, rows_of(count=0), shards=1))


def described(tmp_path, rows, articles=None, **chunk):
    """A merged file whose one shard says `chunk`."""
    metadata = metadata_of(rows, 1)
    metadata["chunk_info"][0] |= chunk
    return write_set(tmp_path / "m.pkl", rows, articles, metadata | {"model": EVIL, "timestamp": EVIL})


EVIL = "<img src=x>\"'\x1b[2J\x9b\u202e\n"


def test_no_text_of_a_file_acts_on_a_terminal_or_is_markup(tmp_path):
    rows = rows_of()
    rows[5], rows[6], rows[7], rows[900] = np.nan, 0, rows[7] * 100, rows[33]
    articles = [{"title": EVIL, "id": EVIL, "url": EVIL}] * ROWS
    chunk = dict.fromkeys(("filepath", "cluster", "timestamp", "sha256"), EVIL)
    done = report(described(tmp_path, rows, articles, **chunk))
    assert len(done.findings) >= 4
    assert all(finding.text.isprintable() for finding in done.findings)
    page = done.output.read_text()
    assert "<img src=x" not in page
    assert page.replace("\n", "").isprintable()


@pytest.mark.parametrize(("start", "end"), [(None, 60), (0, None)])
def test_a_shard_without_a_range_is_refused(tmp_path, start, end):
    with pytest.raises(LocalDataError, match="its chunk_info has no row ranges"):
        examine(described(tmp_path, rows_of(count=60), start_index=start, end_index=end))


@pytest.mark.parametrize(
    "chunk",
    [
        {"mtime": -1},
        {"mtime": 253_402_300_800},
        {"mtime": 1 << 100},
        {"nbytes": 1 << 100},
        {"nbytes": -5},
        {"rate": float("nan")},
        {"start_index": 50, "end_index": 1 << 100},
        {"start_index": 1 << 99, "end_index": 1 << 100},
        {"cluster": None, "cluster_id": 1 << 100, "filepath": None},
    ],
    ids=str,
)
def test_a_shard_may_say_odd_things_of_itself(tmp_path, chunk):
    assert report(described(tmp_path, rows_of(count=60), **chunk)).ok


def test_the_file_itself_is_left_as_it_was(tmp_path):
    path = merged(tmp_path, rows_of())
    before = path.read_bytes()
    report(path)
    assert path.read_bytes() == before
    assert pickle.loads(before)["total_articles"] == ROWS


def test_a_file_that_the_disk_cannot_read_is_named(tmp_path, monkeypatch):
    path = merged(tmp_path, rows_of(count=50))

    def fails(*_args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(LocalDataError, match=rf"^cannot read {path}: Input/output error$"):
        report(path)


def test_a_page_that_no_file_can_be_is_told_before_anything_is_read(tmp_path):
    (tmp_path / "m.report.html").mkdir()
    with pytest.raises(DiskError, match=r"m\.report\.html: is a directory"):
        report(tmp_path / "m.pkl")


@pytest.mark.parametrize("name", ["page.html", "PAGE.HTM"])
def test_the_page_is_written_where_it_was_asked_for(tmp_path, name):
    done = report(merged(tmp_path, rows_of(count=20)), output=tmp_path / name)
    assert done.output == tmp_path / name
    assert [path.name for path in tmp_path.glob("*.[hH]*")] == [name]


def test_the_page_of_before_stays_whole_until_the_new_one_is(tmp_path):
    path = merged(tmp_path, rows_of(count=20))
    before = report(path).output
    (tmp_path / "kept.html").hardlink_to(before)
    before.write_text("before")
    report(path)
    assert (tmp_path / "kept.html").read_text() == "before"


def test_the_page_does_not_take_the_place_of_the_file(tmp_path):
    path = merged(tmp_path, rows_of())
    with pytest.raises(UsageError, match=r"would be no page"):
        report(path, output=path)
