"""Articles that look like the first one, all those of a block at once.

`pickle` writes dicts with the same keys in the same order as the same opcodes, but for the texts. So where one such
article begins, where its values stand and where it ends follows from a few lengths; numpy computes that for all places
of a block that look like a beginning. Those whose end is the next one's beginning are a run of articles.

An article that differs in any way (a text used twice, a longer one, a block's end) is left to `articlewalk`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embmerge.records import KEYS, LONGEST_NUMBER, NUMBERS, Records

_ID = KEYS.index("id")  # the one that may be a number
_LONGEST = 1000  # bytes of a title, id or url
_HEAD = b"}\x94("  # EMPTY_DICT, MEMOIZE, MARK
_FRAME, _MEMOIZE, _SETITEMS, _BINGET = 0x95, 0x94, ord("u"), ord("h")
_SHORT_TEXT, _TEXT = 0x8C, ord("X")
CONSTANTS = np.frombuffer(b"}(h\0h\1h\2u" + bytes(LONGEST_NUMBER), np.uint8)  # what stands between a record's values
_BETWEEN = ((0, 4), (4, 6), (6, 8), (8, 9))  # bounds of each in `CONSTANTS`, before which numbers are filled in
_ENCODED = 2 + LONGEST_NUMBER  # bytes of a number in a record: LONG1, its length, itself
PLACES = 256  # of the memo: those whose number is one byte
_MANY = 250_000  # places of a block that may be the beginning of an article, before a closer look
_MOST = 50_000  # articles that are looked for in a block; the smallest that make sense take some 80 bytes
_FEWEST = 8  # articles of a run; fewer are walked as quickly
SPARE = 32 + _LONGEST  # bytes that may be looked at beyond the end of a block
_AT_ONCE = 1 << 18  # bytes of records that are made at once, while the processor has them at hand
NO_TEXT, _ABSENT = -1, -2  # what stands in a memo for anything but a text; what does not stand there
_Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Run:
    """Articles one after another."""

    records: Records
    memo: _Places  # what they put there: where in the file each text stands, `NO_TEXT` for a dict
    end: int  # where the last one ends in its block


class Template:
    """What every article looks like if it has the keys of the first one, in their order, as `pickle` writes them."""

    def __init__(self, keys: list[int], columns: list[int | None]) -> None:
        """`keys`: the place of each key in the memo; `columns`: which of KEYS it is, None to pass it over."""
        self._slots = list(zip(keys, columns, strict=True))
        self._head = np.frombuffer(_HEAD + bytes((_BINGET, keys[0])), np.uint8)
        self._memoized = np.empty(0, np.bool_)  # kept, since memory of this size is new pages each time

    @classmethod
    def of(cls, keys: list[Any], memo: list[Any]) -> "Template | None":
        """The template of articles with `keys`, given the first `PLACES` of the memo; None if that cannot be."""
        once = len(set(keys)) == len(keys) and set(KEYS) <= set(keys)
        if not once or not all(type(key) is str and key in memo for key in keys):
            return None
        return cls([memo.index(key) for key in keys], [KEYS.index(key) if key in KEYS else None for key in keys])

    def runs(self, room: npt.NDArray[np.uint8], at: int, end: int, offset: int) -> dict[int, Run]:
        """The runs of articles in `room[at:end]`, by where each begins; none if a text there is not UTF-8.

        `room` begins with `CONSTANTS`, `SPARE` bytes after `end` may be looked at, and `end` is byte `offset` of the
        file.
        """
        found = self._found(room, at, end)
        lasts = np.flatnonzero(np.append(found.ends[:-1] != found.starts[1:], True)[: len(found.starts)])
        counts = np.diff(lasts, prepend=-1)
        found = found.only(np.repeat(counts >= _FEWEST, counts))
        records = _records(room, found) if len(found.starts) else None
        if records is None:
            return {}
        memo = np.where(found.texts < 0, found.texts, found.texts + (offset - end))
        runs, low = {}, 0
        for count in counts[counts >= _FEWEST].tolist():
            high = low + count
            put = memo[low:high].reshape(-1)
            runs[int(found.starts[low])] = Run(records.some(low, high), put[put != _ABSENT], int(found.ends[high - 1]))
            low = high
        return runs

    def _found(self, room: npt.NDArray[np.uint8], at: int, end: int) -> "_Found":
        """All that looks like an article."""
        starts = position = self._beginnings(room, at, end)
        position = position + len(_HEAD)
        fits, numbered = np.ones(len(starts), np.bool_), np.zeros(len(starts), np.bool_)
        values: list[Any] = [None] * len(KEYS)
        texts = [np.full(len(starts), NO_TEXT)]
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
            bare = numbered if column == _ID else np.zeros_like(numbered)  # a number is not memoized
            fits &= (text | bare) & (stop < end)
            if column is not None:
                fits &= stop - position <= _LONGEST
                values[column] = (position, stop)
            texts.append(np.where(bare, _ABSENT, position))
            stop = np.where(fits, stop, at)
            fits &= bare | (room[stop] == _MEMOIZE)
            position = stop + ~bare
        position = position + 9 * (room[position] == _FRAME)
        fits &= room[position] == _SETITEMS
        position = position + 1 + 9 * (room[position + 1] == _FRAME)
        fits &= position <= end
        return _Found(starts, position, values, numbered, np.stack(texts, axis=1)).only(fits)

    def _beginnings(self, room: npt.NDArray[np.uint8], at: int, end: int) -> _Places:
        if len(self._memoized) < len(room):
            self._memoized = np.empty(len(room), np.bool_)
        looked_at = room[at + 1 : max(at + 1, end - len(self._head))]
        hits = np.equal(looked_at, _MEMOIZE, out=self._memoized[: len(looked_at)])
        if np.count_nonzero(hits) > _MANY:  # few files have so many, and those shall take no more memory
            hits &= room[at : at + len(hits)] == _HEAD[0]
        position = np.flatnonzero(hits) + at
        for ahead in (0, 2, 3, 4):
            position = position[room[position + ahead] == self._head[ahead]]
        return position[:_MOST]


@dataclass(frozen=True, eq=False)
class _Found:
    """What looks like articles: their bounds, and of each what a memo would remember: a text's place, or `NO_TEXT`."""

    starts: _Places
    ends: _Places
    values: list[tuple[_Places, _Places]]  # bounds of each column of KEYS
    numbered: npt.NDArray[np.bool_]  # whether the id is a number
    texts: _Places

    def only(self, rows: npt.NDArray[np.bool_]) -> "_Found":
        values = [(start[rows], stop[rows]) for start, stop in self.values]
        return _Found(self.starts[rows], self.ends[rows], values, self.numbered[rows], self.texts[rows])


def _records(room: npt.NDArray[np.uint8], found: _Found) -> Records | None:
    """The records of articles; None unless all their texts are UTF-8."""
    bounds = [(np.full(len(found.starts), start), np.full(len(found.starts), stop)) for start, stop in _BETWEEN]
    title, number, url = found.values
    number = (np.where(found.numbered, 0, number[0]), np.where(found.numbered, _ENCODED, number[1]))  # filled in below
    pieces = [bounds[0], title, bounds[1], number, bounds[2], url, bounds[3]]
    starts = np.stack([start for start, _ in pieces], axis=1)
    lengths = np.stack([stop for _, stop in pieces], axis=1) - starts
    ends = np.cumsum(lengths).reshape(lengths.shape)
    blob = _gathered(room, starts, lengths)
    if not _is_text(blob, (ends - lengths)[:, 1::2]):
        return None
    if found.numbered.any():
        place = ends[found.numbered, 3] - _ENCODED
        blob[place[:, np.newaxis] + np.arange(_ENCODED)] = _encoded(room, found.values[_ID][0][found.numbered])
    return Records(blob.tobytes(), ends[:, -1])


def _gathered(room: npt.NDArray[np.uint8], starts: _Places, lengths: _Places) -> npt.NDArray[np.uint8]:
    """The pieces of `room` at `starts` (rows, columns), one after another."""
    widths = lengths.max(axis=0).tolist()
    some = max(1, _AT_ONCE // sum(widths))
    if len(starts) > some:
        parts = (slice(row, row + some) for row in range(0, len(starts), some))
        return np.concatenate([_gathered(room, starts[part], lengths[part]) for part in parts])
    wide, taken = np.empty((len(starts), sum(widths)), np.uint8), np.ones((len(starts), sum(widths)), np.bool_)
    at = 0
    for column, width in enumerate(widths):
        windows = np.ndarray(len(room) - width, f"V{width}", room.data, strides=(1,))
        wide[:, at : at + width] = windows[starts[:, column]].view(np.uint8).reshape(-1, width)
        if lengths[:, column].min() < width:
            np.less(np.arange(width), lengths[:, column, np.newaxis], out=taken[:, at : at + width])
        at += width
    return wide[taken]


def _is_text(blob: npt.NDArray[np.uint8], at: _Places) -> bool:
    """Whether the texts whose opcodes stand `at` places of `blob` are UTF-8; all else there is ASCII."""
    bare = blob.copy()
    long = at[blob[at] == _TEXT]
    for ahead in (0, 1):
        bare[at + ahead] = 0
    for ahead in (2, 3, 4):
        bare[long + ahead] = 0
    try:
        str(bare.data, "utf-8")
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
    return encoded
