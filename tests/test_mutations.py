"""Honest files, damaged at random: a fixed budget on every run; `tests/fuzz` goes on for as long as one likes."""

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.readers import feed, seeds

SEEDS = seeds()
OPCODES = b"(.0123FNTIJKLMQRSUVXabcdeghijlopqrstu})]\x80\x82\x85\x86\x87\x88\x8a\x8c\x8d\x8e\x90\x93\x94\x95\x96\x97"
PLACE = st.floats(0, 1, exclude_max=True)
CHANGE = st.one_of(
    st.tuples(st.just("replace"), PLACE, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("replace"), PLACE, st.sampled_from(OPCODES).map(lambda byte: bytes((byte,)))),
    st.tuples(st.just("insert"), PLACE, st.sampled_from(OPCODES).map(lambda byte: bytes((byte,)))),
    st.tuples(st.just("insert"), PLACE, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("delete"), PLACE, st.integers(1, 40)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 200)),
    st.tuples(st.just("cut"), PLACE, st.none()),
)


def mutate(content, changes):
    for kind, place, what in changes:
        at = int(place * len(content))
        if kind == "replace":
            content = content[:at] + what + content[at + len(what) :]
        elif kind == "insert":
            content = content[:at] + what + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + what :]
        elif kind == "repeat":
            content = content[: at + what] + content[at:]
        else:
            content = content[:at]
    return content


@settings(max_examples=1500, deadline=2000, derandomize=True)
@given(seed=st.sampled_from(SEEDS), changes=st.lists(CHANGE, min_size=1, max_size=6))
def test_a_damaged_file_is_refused_or_read_but_never_more(seed, changes):
    with tempfile.TemporaryDirectory() as folder:
        feed(mutate(seed, changes), Path(folder))


@settings(max_examples=300, deadline=2000, derandomize=True)
@given(content=st.binary(max_size=300))
@example(content=b"")
def test_any_bytes_are_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        assert len(feed(b"\x80\x04" + content, Path(folder))) == 3


def test_each_honest_file_is_refused_by_two_readers_and_read_by_one():
    with tempfile.TemporaryDirectory() as folder:
        assert [len(feed(seed, Path(folder))) for seed in SEEDS] == [2] * len(SEEDS)
