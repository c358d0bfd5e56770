"""Shards in a row: what is missing, what is there twice, what does not belong."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embmerge.coverage import Disagreement, Gap, Overlap, advice, check_coverage
from embmerge.picklevalues import Array, Dtype
from embmerge.shard import ShardHeader


def shard(start, end, name="", **fields):
    """The header of a shard that holds rows `[start, end)`."""
    header = ShardHeader(
        name=name or f"cluster1_gpu{start}.pkl",
        nbytes=1000,
        start=start,
        end=end,
        rows=end - start,
        dim=4,
        dtype=Dtype("f", 4, "<"),
        array=Array(),
        cluster_id=1,
        gpu_id=0,
        model="m",
    )
    return replace(header, **fields)


def problems(*shards, **how):
    return check_coverage(shards, **how).problems


def said(*shards, **how):
    return "; ".join(map(str, problems(*shards, **how)))


def test_shards_that_follow_one_another_are_one_dataset():
    found = check_coverage([shard(50, 100), shard(0, 50), shard(100, 130)])
    assert found.ok
    assert (found.start, found.end, found.rows, found.left) == (0, 130, 130, ())
    assert [each.start for each in found.shards] == [0, 50, 100]


def test_a_gap_names_its_neighbours():
    (gap,) = problems(shard(0, 50), shard(80, 100))
    assert (type(gap), gap.start, gap.end) == (Gap, 50, 80)
    assert str(gap) == "gap: rows 50 - 80 are missing (between cluster1_gpu0.pkl and cluster1_gpu80.pkl)"


def test_a_gap_before_the_first_shard_names_it():
    assert said(shard(10, 20)) == "gap: rows 0 - 10 are missing (before cluster1_gpu10.pkl)"


def test_a_gap_after_the_last_shard_is_known_by_the_articles():
    assert said(shard(0, 20)) == ""
    assert said(shard(0, 20), articles=25) == "gap: rows 20 - 25 are missing (after cluster1_gpu0.pkl)"


def test_more_rows_than_articles_are_no_gap():
    assert said(shard(0, 20), articles=10) == ""


def test_a_name_cannot_write_on_the_terminal():
    assert "\x1b" not in said(shard(10, 20, "x\x1b[2J", cluster="\x1b[31mred"))


def test_no_shard_at_all_lacks_every_row():
    assert said(articles=1234) == "gap: rows 0 - 1,234 are missing (no shard at all)"


def test_every_gap_is_told():
    assert [(gap.start, gap.end) for gap in problems(shard(5, 10), shard(20, 30), shard(40, 50), articles=60)] == [
        (0, 5),
        (10, 20),
        (30, 40),
        (50, 60),
    ]


def test_an_overlap_names_both_and_the_doubled_rows():
    (overlap,) = problems(shard(0, 60), shard(50, 100))
    assert (type(overlap), overlap.start, overlap.end) == (Overlap, 50, 60)
    assert str(overlap) == "overlap: rows 50 - 60 are held by both cluster1_gpu0.pkl and cluster1_gpu50.pkl"


def test_a_shard_within_another_is_an_overlap_and_leaves_no_gap():
    found = check_coverage([shard(0, 100), shard(20, 40), shard(100, 120)])
    assert [(each.start, each.end) for each in found.problems] == [(20, 40)]
    assert found.rows == 120


def test_after_a_shard_within_another_the_longer_one_is_the_neighbour():
    assert "between cluster1_gpu0.pkl and cluster1_gpu110.pkl" in said(shard(0, 100), shard(20, 40), shard(110, 120))


def test_the_same_rows_twice_are_called_a_duplicate():
    text = said(shard(0, 50, "a", cluster="tensor01"), shard(0, 50, "b", cluster="tensor02"))
    assert text == "duplicate: rows 0 - 50 are held twice, by a (tensor01) and b (tensor02)"


def test_three_times_the_same_rows_are_two_duplicates():
    assert len(problems(shard(0, 5, "a"), shard(0, 5, "b"), shard(0, 5, "c"))) == 2


def test_rows_at_either_end_are_left_for_others_who_were_not_asked():
    found = check_coverage([shard(50, 100), shard(100, 130)], others=True, articles=200)
    assert found.ok
    assert found.left == ((0, 50), (130, 200))


def test_without_articles_nobody_knows_where_the_others_end():
    assert check_coverage([shard(0, 50)], others=True).left == ((50, None),)


def test_a_hole_in_the_middle_is_a_gap_whoever_else_there_is():
    assert said(shard(10, 20), shard(30, 40), others=True, articles=40).startswith("gap: rows 20 - 30")


@pytest.mark.parametrize(
    ("field", "odd", "shown"),
    [("dim", 8, "8"), ("dtype", Dtype("f", 8, "<"), "float64"), ("model", "other", "other")],
)
def test_the_odd_ones_are_named(field, odd, shown):
    (problem,) = problems(shard(0, 10), shard(10, 20), shard(20, 30, **{field: odd}))
    assert (type(problem), problem.field) == (Disagreement, field)
    assert f"in 2 shards, but {shown} in cluster1_gpu20.pkl" in str(problem)


def test_many_odd_ones_are_counted_after_the_first_four():
    shards = [shard(row, row + 1, dim=4 if row < 7 else 8) for row in range(13)]
    assert str(problems(*shards)[0]).endswith("cluster1_gpu10.pkl and 2 more")


def test_dtypes_may_differ_where_the_merge_converts():
    assert said(shard(0, 10), shard(10, 20, dtype=Dtype("f", 8, "<")), any_dtype=True) == ""


def test_byte_order_is_no_other_dtype():
    assert said(shard(0, 10), shard(10, 20, dtype=Dtype("f", 4, ">"))) == ""


def test_a_shard_without_a_model_contradicts_nobody():
    assert said(shard(0, 10), shard(10, 20, model=None)) == ""


def test_a_models_escapes_do_not_reach_the_line():
    evil = "\x1b[2J\x9b\n"
    assert said(shard(0, 10), shard(10, 20, model=evil)).isprintable()
    assert said(shard(0, 10, model=evil), shard(10, 20, model=evil), shard(20, 30)).isprintable()


RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=7)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ranges=RANGES, articles=st.none() | st.integers(0, 45))
def test_any_ranges_are_judged_as_by_counting_each_row(ranges, articles):
    shards = [shard(start, start + count, f"s{number}") for number, (start, count) in enumerate(ranges)]
    held = [sum(each.start <= row < each.end for each in shards) for row in range(60)]
    reach = max([each.end for each in shards], default=0)
    found = check_coverage(shards, articles=articles)
    assert (found.end, found.rows) == (reach, sum(count > 0 for count in held))
    missing = {row for row in range(max(reach, articles or 0)) if not held[row]}
    doubled = {row for row in range(60) if held[row] > 1}
    gaps, overlaps = ([each for each in found.problems if type(each) is kind] for kind in (Gap, Overlap))
    assert {row for gap in gaps for row in range(gap.start, gap.end)} == missing
    assert {row for each in overlaps for row in range(each.start, each.end)} == doubled
    assert found.ok == (not missing and not doubled)
    for each in overlaps:
        assert max(each.first.start, each.second.start) <= each.start < each.end <= min(each.first.end, each.second.end)


HALF = Dtype("f", 2, "<")


@pytest.mark.parametrize(
    ("shards", "what"),
    [
        ([shard(0, 9)], ""),
        ([shard(0, 9), shard(10, 20)], "look"),
        ([shard(0, 9), shard(8, 20)], "move away the shard that does not belong"),
        ([shard(0, 9), shard(9, 20, dtype=HALF)], "choose one with --dtype float32, or compute the odd ones again"),
        ([shard(0, 9), shard(9, 20, model="o", dtype=HALF)], "compute the odd ones again, or move them away"),
        ([shard(0, 9), shard(10, 20, dim=5)], "look; compute the odd ones again, or move them away"),
    ],
)
def test_what_to_do_depends_on_what_is_wrong(shards, what):
    assert advice(problems(*shards), "look") == what
