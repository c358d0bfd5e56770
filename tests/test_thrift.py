import pytest

from embmerge.mergedfile.thrift import read_struct, read_varint


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"\x00", {}),
        (b"\x15\x02\x15\x03\x00", {1: 1, 2: -2}),  # i32, zigzag
        (b"\x11\x12\x00", {1: True, 2: False}),
        (b"\x18\x03abc\x00", {1: b"abc"}),
        (b"\x19\x25\x02\x04\x00", {1: [1, 2]}),
        (b"\x1c\x15\x02\x00\x00", {1: {1: 1}}),
        (b"\x05\xc8\x01\x02\x00", {100: 1}),  # a field's number in full
        (b"\x17" + b"\x00" * 8 + b"\x00", {1: None}),  # a double is passed over
    ],
)
def test_values_of_every_kind_are_read(data, fields):
    assert read_struct(data + b"more") == (fields, len(data))


EVIL = {
    "nothing": b"",
    "no end": b"\x15\x02",
    "a text beyond the end": b"\x18\xff\xff\xff\xff\x0f",
    "a number without end": b"\x15" + b"\xff" * 50,
    "a list of billions": b"\x19\xf5\xff\xff\xff\xff\x0f" + b"\x02" * 100,
    "more values than allowed": b"\x19\xfc\xff\xff\xff\x0f" + b"\x00" * 600_000,
    "more truths than allowed": b"\x11" * 600_000 + b"\x00",
    "structs in structs": b"\x1c" * 10_000,
    "lists in lists": b"\x19" * 10_000,
    "a map": b"\x1b\x00\x00",
    "an unknown kind": b"\x1f\x00",
}


@pytest.mark.parametrize("data", EVIL.values(), ids=EVIL)
def test_what_is_damaged_or_too_much_is_refused(data):
    with pytest.raises(ValueError, match="it "):
        read_struct(data)


def test_a_varint_ends_where_its_top_bit_says():
    assert read_varint(b"x\xac\x02y", 1) == (300, 2)
