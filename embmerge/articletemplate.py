"""Articles that look like the first one, all those of a block at once.

`pickle` writes dicts with the same keys in the same order as the same opcodes, but for the texts. So where one such
article begins, where its values stand and where it ends follows from a few lengths; numpy computes that for all places
of a block that look like a beginning. Those whose end is the next one's beginning are a run of articles.

An article that differs in any way (a text used twice, a longer one, a block's end) is left to `articlewalk`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from embmerge.records import KEYS, LONGEST_NUMBER, NUMBERS, PAST, Records, decode

_ID = KEYS.index("id")  # the one that may be a number
_LONGEST = 2000  # bytes of a title, id or url
_HEAD = b"}\x94("  # EMPTY_DICT, MEMOIZE, MARK
_FRAME, _MEMOIZE, _SETITEMS, _BINGET = 0x95, 0x94, ord("u"), ord("h")
_SHORT_TEXT, _TEXT = 0x8C, ord("X")
CONSTANTS = np.frombuffer(b"}(h\0h\1h\2u\n", np.uint8)  # what stands between the values of a record; a line's end
_ENCODED = 2 + LONGEST_NUMBER  # bytes of a number in a record: LONG1, its length, itself
_MANY = 250_000  # places of a block that may be the beginning of an article, before a closer look
_MOST = 50_000  # articles that are looked for in a block; the smallest that make sense take some 80 bytes
SPARE = 32  # bytes that may be looked at beyond the end of a block
_Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """Some articles as records, and what a memo needs to know of them."""

    records: Records
    first: int  # place in the memo of the first article's dict
    remembered: tuple[int | None, ...]  # what each article puts into the memo: a column of KEYS, None for anything else

    def value(self, place: int) -> Any:
        """What stands at `place` of the memo: a text, or `PAST`; IndexError if that is no place of this run."""
        row, entry = divmod(place - self.first, len(self.remembered))
        column = self.remembered[entry]
        return PAST if column is None else decode(self.records[row])[KEYS[column]]


@dataclass(frozen=True)
class Block:
    """The articles of a block that were found: bounds, and bounds of their wanted values."""

    starts: _Places
    ends: _Places
    values: list[tuple[_Places, _Places]]  # of each column of KEYS
    numbered: npt.NDArray[np.bool_]  # whether the id is a number

    @cached_property
    def lasts(self) -> _Places:
        """The indices of articles after which a run ends."""
        joined = (self.ends[:-1] == self.starts[1:]) & (self.numbered[:-1] == self.numbered[1:])
        return np.append(np.flatnonzero(~joined), len(self.starts) - 1)


class Template:
    """What every article looks like if it has the keys of the first one, in their order, as `pickle` writes them."""

    def __init__(self, keys: list[int], columns: list[int | None]) -> None:
        """`keys`: the place of each key in the memo; `columns`: which of KEYS it is, None to pass it over."""
        self._slots = list(zip(keys, columns, strict=True))
        self._head = np.frombuffer(_HEAD + bytes((_BINGET, keys[0])), np.uint8)
        self._memoized = np.empty(0, np.bool_)  # kept, since memory of this size is new pages each time

    @classmethod
    def of(cls, keys: list[Any], memo: list[Any]) -> "Template | None":
        """The template of articles with `keys`, which stand in `memo`; None if that cannot be."""
        places: list[int] = []
        for key in keys:
            if type(key) is not str or key not in memo[:256]:  # a place is one byte
                return None
            places.append(memo.index(key))
        columns = [KEYS.index(key) if key in KEYS else None for key in keys]
        return cls(places, columns) if len(set(columns) - {None}) == len(KEYS) else None

    def find(self, room: npt.NDArray[np.uint8], at: int, end: int) -> Block:
        """All that looks like an article in `room[at:end]`.

        `room` begins with `CONSTANTS`, and `SPARE` bytes after `end` may be looked at.
        """
        if len(self._memoized) < len(room):
            self._memoized = np.empty(len(room), np.bool_)
        looked_at = room[at + 1 : max(at + 1, end - len(self._head))]
        hits = np.equal(looked_at, _MEMOIZE, out=self._memoized[: len(looked_at)])
        if np.count_nonzero(hits) > _MANY:  # few files have so many, and those shall take no more memory
            hits &= room[at : at + len(hits)] == _HEAD[0]
        position = np.flatnonzero(hits) + at
        for ahead in (0, 2, 3, 4):
            position = position[room[position + ahead] == self._head[ahead]]
        position = position[:_MOST]
        starts, fits = position, np.ones(len(position), np.bool_)
        position = position + len(_HEAD)
        numbered = np.zeros(len(position), np.bool_)
        values: list[Any] = [None] * len(KEYS)
        words = np.ndarray(len(room) - 4, "<u4", room.data, strides=(1,))  # the four bytes from every place on
        for key, column in self._slots:
            position = position + 9 * (room[position] == _FRAME)
            fits &= (room[position] == _BINGET) & (room[position + 1] == key)
            position = position + 2
            position = position + 9 * (room[position] == _FRAME)
            opcode, after = room[position], words[position + 1].astype(np.int64)
            short = opcode == _SHORT_TEXT
            text = short | (opcode == _TEXT)
            stop = position + np.where(short, 2 + (after & 0xFF), 5 + after)
            if column == _ID:
                for number, width in NUMBERS.items():
                    here = opcode == number
                    stop[here] = position[here] + 1 + width
                    numbered |= here
                text |= numbered
            fits &= text & (stop < end)
            if column is None:  # Python keeps one text of each single character: such a one may be a title, too
                fits &= stop - position > np.where(short, 4, 7)
            else:
                fits &= stop - position <= _LONGEST
                values[column] = (position, stop)
            stop = np.where(fits, stop, at)
            bare = numbered if column == _ID else np.zeros_like(numbered)  # a number is not memoized
            fits &= bare | (room[stop] == _MEMOIZE)
            position = stop + ~bare
        position = position + 9 * (room[position] == _FRAME)
        fits &= room[position] == _SETITEMS
        position = position + 1 + 9 * (room[position + 1] == _FRAME)
        fits &= position <= end
        kept = [(low[fits], high[fits]) for low, high in values]
        return Block(starts[fits], position[fits], kept, numbered[fits])

    def run(self, block: Block, room: npt.NDArray[np.uint8], at: int, first: int) -> tuple[Run, int] | None:
        """The run of articles of `block` that begins at `at`, and where it ends; None if none does.

        `first` is the place in the memo of what it puts there.
        """
        low = int(np.searchsorted(block.starts, at))
        if low == len(block.starts) or block.starts[low] != at:
            return None
        last = int(block.lasts[np.searchsorted(block.lasts, low)])
        numbered = bool(block.numbered[low])
        values = [(start[low : last + 1], stop[low : last + 1]) for start, stop in block.values]
        records = _records(room, values, numbered=numbered)
        if records is None:
            return None
        remembered = [column for _, column in self._slots if not (numbered and column == _ID)]
        return Run(records, first, (None, *remembered)), int(block.ends[last])


def _records(room: npt.NDArray[np.uint8], values: list[tuple[_Places, _Places]], *, numbered: bool) -> Records | None:
    """The records of articles with `values`; None unless all texts are UTF-8."""
    texts = [bounds for column, bounds in enumerate(values) if not (numbered and column == _ID)]
    count = len(values[0][0])
    numbers = _encoded(room, values[_ID][0]) if numbered else np.empty(0, np.uint8)
    source = np.concatenate((room, numbers)) if numbered else room

    def constant(start: int, length: int) -> tuple[_Places, _Places]:
        return np.full(count, start), np.full(count, length)

    pieces = [(start, stop - start) for start, stop in values]
    if numbered:
        pieces[_ID] = (len(room) + _ENCODED * np.arange(count), np.full(count, _ENCODED))
    blob, ends = _gathered(
        source, [constant(0, 4), pieces[0], constant(4, 2), pieces[1], constant(6, 2), pieces[2], constant(8, 1)]
    )
    return Records(blob.tobytes(), ends) if _are_texts(room, texts, blob, numbers) else None


def _are_texts(
    room: npt.NDArray[np.uint8],
    bounds: list[tuple[_Places, _Places]],
    blob: npt.NDArray[np.uint8],
    numbers: npt.NDArray[np.uint8],
) -> bool:
    """Whether all texts at `bounds` of `room` are UTF-8; `blob` holds nothing but them, `numbers` and ASCII."""
    high = np.count_nonzero(numbers & 0x80)
    for start, _ in bounds:
        short = room[start] == _SHORT_TEXT
        heads = [room[start], room[start + 1], *(room[start[~short] + ahead] for ahead in (2, 3, 4))]
        high += sum(np.count_nonzero(head & 0x80) for head in heads)
    if np.count_nonzero(blob & 0x80) == high:
        return True
    lines = []  # a line's end between texts keeps the end of one from making sense with the beginning of the next
    for start, stop in bounds:
        width = np.where(room[start] == _SHORT_TEXT, 2, 5)
        lines += [(start + width, stop - start - width), (np.full(len(start), 9), np.ones(len(start), np.int64))]
    try:
        str(_gathered(room, lines)[0].data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _encoded(room: npt.NDArray[np.uint8], at: _Places) -> npt.NDArray[np.uint8]:
    """The numbers whose opcodes stand at `at`, each as `records.encode` writes it."""
    opcode = room[at]
    words = np.ndarray(len(room) - 4, "<u4", room.data, strides=(1,))[at + 1]
    for number, width in NUMBERS.items():
        words = np.where(opcode == number, words & (1 << 8 * width) - 1, words)
    signed = np.where(opcode == ord("J"), words.astype(np.uint32).view(np.int32), words).astype("<i8")
    encoded = np.empty((len(at), _ENCODED), np.uint8)
    encoded[:, 0], encoded[:, 1] = 0x8A, LONGEST_NUMBER  # LONG1, its length
    encoded[:, 2:10] = signed.view(np.uint8).reshape(-1, 8)
    encoded[:, 10:] = np.where(signed < 0, 0xFF, 0)[:, np.newaxis]
    return encoded.reshape(-1)


def _gathered(
    source: npt.NDArray[np.uint8], pieces: list[tuple[_Places, _Places]]
) -> tuple[npt.NDArray[np.uint8], _Places]:
    """Row after row of `pieces` (starts and lengths in `source`), one after another, and where each row ends."""
    starts = np.stack([start for start, _ in pieces], axis=1).reshape(-1)
    lengths = np.stack([length for _, length in pieces], axis=1).reshape(-1)
    ends = np.cumsum(lengths)
    index = np.repeat(starts - ends + lengths, lengths)
    index += np.arange(len(index))
    return source[index], ends[len(pieces) - 1 :: len(pieces)]
