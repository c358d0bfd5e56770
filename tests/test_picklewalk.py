"""The walk itself: plain values come back, long ones are passed over, nothing is called."""

import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embmerge.picklevalues import CALLS, Array, Inert, Raw, Refused, Truncated, Unhashed
from embmerge.picklewalk import KEEP, OPCODES, walk
from tests.hostile import text
from tests.shards import dumped, rows_of


def walked(raw, **how):
    return walk(io.BytesIO(raw), len(raw), **how)


def alike(ours, theirs):
    """Whether the walk's value stands for what pickle.load made: sets are inert, dicts keep their text keys only."""
    if type(theirs) in {set, frozenset, complex}:
        return type(ours) is (Unhashed if type(theirs) is set else Inert)
    if type(theirs) in {bytes, bytearray}:
        return type(ours) is Raw and ours.content == bytes(theirs)
    if type(theirs) is dict:
        kept = {key: value for key, value in theirs.items() if type(key) is str}
        return ours.keys() == kept.keys() and all(alike(ours[key], kept[key]) for key in kept)
    if type(theirs) in {list, tuple}:
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(alike, ours, theirs))
    return type(ours) is type(theirs) and (ours == theirs or ours != ours)  # noqa: PLR0124  NaN


KEYS = st.text(max_size=6) | st.integers() | st.tuples(st.integers())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(st.integers(), max_size=3)
        | st.frozensets(st.text(max_size=3), max_size=3)
    ),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=VALUES, protocol=st.integers(2, 5), pure=st.booleans())
def test_plain_values_are_those_of_pickle_load(value, protocol, pure):
    raw = (pickle._dumps if pure else pickle.dumps)(value, protocol=protocol)
    assert alike(walked(raw), value)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_long_bytes_are_passed_over_and_their_place_is_known(protocol):
    content = bytes(range(256)) * 50
    raw = pickle.dumps({"before": 1, "long": content, "after": 2}, protocol)
    found = walked(raw)
    assert raw[found["long"].offset :][: found["long"].nbytes] == content
    assert found["long"].content == b""
    assert (found["before"], found["after"]) == (1, 2)


def test_long_text_is_passed_over_too():
    raw = pickle.dumps("é" * KEEP)
    found = walked(raw)
    assert raw[found.offset :][: found.nbytes].decode() == "é" * KEEP


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_array_is_told_by_its_form_and_its_place(protocol):
    rows = rows_of(300, 20)
    raw = dumped(rows, protocol)
    found = walked(raw)
    assert (type(found), found.shape, found.dtype.code, found.order) == (Array, (300, 20), "<f4", "C")
    if protocol > 2:
        assert raw[found.raw.offset :][: found.raw.nbytes] == rows.tobytes()
    assert found.raw.text == (protocol == 2)


def test_shared_values_are_one_value():
    shared = ["x"]
    found = walked(pickle.dumps([shared, shared]))
    assert found[0] is found[1]


def test_the_walk_may_stop_before_a_keys_value():
    raw = b"\x80\x04}" + text("model") + text("m") + b"s" + text("articles") + b"\xffwhatever follows"
    file = io.BytesIO(raw)
    assert walk(file, len(raw), until="articles") == {"model": "m"}
    assert raw[: file.tell()].endswith(b"articles")


def test_a_key_of_that_name_further_in_does_not_stop_it():
    raw = pickle.dumps({"chunk_info": [{"articles": 1}], "n": 1}, 4)
    assert walked(raw, until="articles") == {"chunk_info": [{"articles": 1}], "n": 1}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_end_that_comes_too_early_is_told_apart_anywhere(protocol):
    raw = dumped({"rows": rows_of(30, 50), "model": "m"}, protocol)
    for end in range(2, len(raw)):
        with pytest.raises(Truncated):
            walked(raw[:end])


def test_bytes_after_the_end_are_counted():
    with pytest.raises(Refused, match="3 bytes follow the end"):
        walked(pickle.dumps(1) + b"abc")


def test_small_values_are_read_up_to_the_budget():
    raw = pickle.dumps(list(range(300)))
    assert walked(raw, budget=len(raw)) == list(range(300))
    with pytest.raises(Refused, match="too much beside arrays"):
        walked(raw, budget=len(raw) // 2)


def test_a_long_value_costs_its_share_of_the_budget():
    raw = pickle.dumps([bytes(KEEP + 1) for _ in range(40)])
    assert len(walked(raw, budget=41 * KEEP)) == 40
    with pytest.raises(Refused, match="too much beside arrays"):
        walked(raw, budget=39 * KEEP)


@pytest.mark.parametrize("opcodes", [b"]", b"N\x94", b"C\0", b"\x8f", b")\x85"])
def test_no_more_opcodes_are_followed_than_memory_is_there_for(opcodes):
    raw = b"\x80\x04(" + opcodes * (OPCODES // (1 if opcodes == b"C\0" else len(opcodes))) + b"t."
    with pytest.raises(Refused, match="too much beside arrays"):
        walked(raw + b"." * 9)
    assert walked(pickle.dumps([None] * (OPCODES - 500), 4)) == [None] * (OPCODES - 500)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\x80\x04cos\nsystem\n.", "it names os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "it names os.system"),
        (b"\x80\x04\x8c\x04\x1b[2J\x8c\x01x\x93.", r"it names \\x1b"),
        (b"\x80\x04(ios\nsystem\n.", "unexpected opcode: INST"),
        (b"\x80\x04N\x82\x01.", "unexpected opcode: EXT1"),
        (b"\x80\x04Nr\xff\xff\xff\xff2.", "unexpected opcode: DUP"),
        (b"\x80\x04h\x05.", "not a pickle"),
        (b"\x80\x04\xfe.", "not a pickle"),
        (b"\x80\x04NN.", "values left at the end"),
        (b"\x80\x04K\x01K\x01R.", "unexpected call"),
        (b"\x80\x04(.", "unexpected mark"),
    ],
)
def test_a_refusal_names_what_it_found(raw, said):
    with pytest.raises(Refused, match=said) as caught:
        walked(raw)
    assert str(caught.value).isprintable()


def test_a_frame_that_lies_about_its_length_changes_nothing():
    raw = pickle.dumps(["a", 1], 4)
    assert raw[2:3] == pickle.FRAME
    for length in (0, 1, 1 << 62, (1 << 64) - 1):
        assert walked(raw[:3] + struct.pack("<Q", length) + raw[11:]) == ["a", 1]


@pytest.mark.parametrize("opcode", [b"B" + struct.pack("<I", 1 << 31), b"\x8e" + struct.pack("<Q", 1 << 62)])
def test_a_length_beyond_the_file_is_known_without_reading(opcode):
    with pytest.raises(Truncated, match=r"a value of [\d,]+ bytes begins at"):
        walked(b"\x80\x04" + opcode + b"x.")


CODES = ["f2", "f4", "f8", "f16", "i1", "i8", "u2", "b1", "S7", "U3", "V5", "c8", "M8[D]", "m8[ns]"]


@pytest.mark.parametrize("code", [order + code for code in CODES for order in "<>"])
def test_a_dtype_is_what_numpy_takes_it_for(code):
    theirs = np.dtype(code)
    ours = walked(pickle.dumps(theirs)).dtype
    assert (ours.kind, ours.itemsize) == (theirs.kind, theirs.itemsize)
    if theirs.kind in "fiu":
        assert (np.dtype(ours.code), ours.name, str(ours)) == (theirs, theirs.name, str(theirs))


@pytest.mark.parametrize(
    "code", ["<f4", ">f8", "<f2", "i1", ">i2", "i4", "i8", "u1", "u2", "<u4", "u8", "?", "<U3", ">U3"]
)
def test_a_scalar_is_the_value_that_numpy_makes_of_it(code):
    raw = np.array([-1]).astype(code).tobytes()  # of unsigned ones the greatest; a text shorter than its room
    ours = CALLS["numpy.core.multiarray.scalar"](walked(pickle.dumps(np.dtype(code))), Raw(raw, 0, len(raw)))
    assert (ours, type(ours)) == (np.frombuffer(raw, code)[0].item(), type(np.frombuffer(raw, code)[0].item()))
