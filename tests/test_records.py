"""Articles as bytes, and back."""

import pickle

import pytest

from embmerge.records import decode, encode, record


def again(value):
    return decode(record(encode("a title"), encode(value), encode("u/1")))["id"]


@pytest.mark.parametrize("value", ["", "Zürich", "\ud800", "x" * 70_000, 0, -1, 2**127 - 1, 1 - 2**127], ids=ascii)
def test_a_text_or_a_number_of_16_bytes_comes_back_as_it_was(value):
    assert (again(value), type(again(value))) == (value, type(value))


@pytest.mark.parametrize("value", [None, True, 1.0, b"x", 2**127, -(2**127) - 1, [], {}], ids=ascii)
def test_anything_else_comes_back_as_none(value):
    assert again(value) is None


@pytest.mark.parametrize("value", ["東京", 7, -(2**100), None])
def test_a_record_is_the_opcodes_of_its_dict(value):
    keys = b"\x80\4" + b"".join(b"X" + bytes((len(key), 0, 0, 0)) + key + b"\x940" for key in (b"title", b"id", b"url"))
    raw = keys + record(encode("T"), encode(value), encode("u")) + b"."
    assert pickle.loads(raw) == {"title": "T", "id": value, "url": "u"}
