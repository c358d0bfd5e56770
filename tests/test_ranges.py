"""Ranges: sorted, disjoint, and what is missing between them."""

from hypothesis import given
from hypothesis import strategies as st

from embmerge.remote.ranges import Ranges

some_ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted).map(tuple), max_size=12)


def test_ranges_that_touch_are_one():
    assert list(Ranges([(0, 5), (10, 12), (5, 10)])) == [(0, 12)]


def test_an_empty_range_is_none():
    assert list(Ranges([(3, 3)])) == []


def test_the_front_is_where_the_first_byte_is_missing():
    assert Ranges([(0, 5), (7, 9)]).front == 5
    assert Ranges([(1, 5)]).front == 0


@given(some_ranges)
def test_they_hold_exactly_the_bytes_that_were_added(pairs):
    bytes_ = {byte for start, end in pairs for byte in range(start, end)}
    ranges = Ranges(pairs)
    assert {byte for start, end in ranges for byte in range(start, end)} == bytes_
    assert ranges.nbytes == len(bytes_)


@given(some_ranges)
def test_what_is_missing_is_the_rest(pairs):
    ranges = Ranges(pairs)
    missing = {byte for start, end in ranges.missing(60) for byte in range(start, end)}
    assert missing == set(range(60)) - {byte for start, end in pairs for byte in range(start, end)}
