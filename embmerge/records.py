"""An article as bytes: the opcodes of `{'title': …, 'id': …, 'url': …}` as they will stand in a merged .pkl.

Places 0 to 2 of the memo hold the keys. That is half the memory of a dict's values, and nothing to encode later.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

KEYS = ("title", "id", "url")  # of an article that are kept
LONGEST = 1 << 16  # bytes of a title, id or url
LONGEST_NUMBER = 16  # bytes of an id that is a number
_LONG1 = pickle.LONG1[0]
# opcode → bytes of the length that comes before a text
TEXT = {pickle.SHORT_BINUNICODE[0]: 1, pickle.BINUNICODE[0]: 4, pickle.BINUNICODE8[0]: 8}
# opcode → bytes of the number
NUMBERS = {pickle.BININT1[0]: 1, pickle.BININT2[0]: 2, pickle.BININT[0]: 4}


@dataclass(frozen=True)
class Records:
    """Records one after another in `blob`; `ends` (n,) says where each ends."""

    blob: bytes
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, records: list[bytes]) -> "Records":
        """Those of a list."""
        return cls(b"".join(records), np.cumsum([len(each) for each in records], dtype=np.int64))

    @classmethod
    def joined(cls, several: list["Records"]) -> "Records":
        """All of `several`."""
        before, ends = 0, [np.empty(0, np.int64)]
        for each in several:
            ends.append(each.ends + before)
            before += len(each.blob)
        return cls(b"".join(each.blob for each in several), np.concatenate(ends))

    def some(self, start: int, stop: int) -> "Records":
        """Those of the rows `[start, stop)`."""
        before = int(self.ends[start - 1]) if start else 0
        ends = self.ends[start:stop] - before
        return Records(self.blob[before : before + int(ends[-1])], ends)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes:
        """The record of `row`, counted from 0."""
        end = int(self.ends[row])
        return self.blob[int(self.ends[row - 1]) if row else 0 : end]

    def batches(self, count: int) -> Iterator[bytes]:
        """All of them, up to `count` together."""
        before = 0
        for row in range(0, len(self), count):
            end = int(self.ends[min(row + count, len(self)) - 1])
            yield self.blob[before:end]
            before = end


def record(title: bytes, key: bytes, url: bytes) -> bytes:
    """The opcodes of one article's dict, given those of its values; the keys are recalled from places 0 to 2."""
    return b"}(h\0%bh\1%bh\2%bu" % (title, key, url)


def encode(value: object) -> bytes:
    """The opcodes of a text (BINUNICODE), a number of up to 16 bytes (LONG1), or of None for anything else."""
    if type(value) is str:
        text = value.encode("utf-8", "surrogatepass")
        return b"X%b%b" % (len(text).to_bytes(4, "little"), text)
    if type(value) is int and value.bit_length() < 8 * LONGEST_NUMBER:
        return b"\x8a\x10" + value.to_bytes(LONGEST_NUMBER, "little", signed=True)
    return b"N"


def decode(article: bytes) -> dict[str, Any]:
    """`{'title', 'id', 'url'}` of a record."""
    at = 2
    values: list[str | int | None] = []
    for _ in KEYS:
        opcode = article[at + 2]
        width = TEXT.get(opcode, 0) or (opcode == _LONG1)
        start = at + 3 + width
        at = start + int.from_bytes(article[start - width : start], "little")
        raw = article[start:at]
        if opcode == _LONG1:
            values.append(int.from_bytes(raw, "little", signed=True))
        else:
            values.append(str(raw, "utf-8", "surrogatepass") if width else None)
    return dict(zip(KEYS, values, strict=True))
