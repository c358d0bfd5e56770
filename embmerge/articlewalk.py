"""Walk the opcodes of a pickled list of articles, keeping titles, ids and urls.

`pickletools` takes a call an opcode, which is well for a shard's header and slow for millions; this is one loop made
for one shape, and it leaves articles that look like the first one to `articletemplate`. It knows no global, so nothing
that a file names is ever looked at. What is kept is bounded by what the articles themselves need.
"""

import io
import pickle
import pickletools
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from embmerge.articletemplate import CONSTANTS, SPARE, Block, Run, Template
from embmerge.pages import PAGE, placed
from embmerge.records import KEYS, LONGEST_NUMBER, NUMBERS, PAST, TEXT, Records, encode, record

_BLOCK = 4 << 20  # bytes read at once
_KEPT = 1 << 17  # bytes of a block that may be kept while the next one is read
_FARTHEST = 1 << 40  # bytes of a text that is passed over: no system seeks much farther
_LONGEST = 1 << 16  # bytes of a title, id or url
_SHORT = 64  # bytes of a text that is kept before it is known whether it is a key
_STACK = 100_000  # values; picklers append batches of 1,000
_MEMO, _MEMO_EACH = 100_000, 64  # memo entries that a file, and each of its articles, may have


class NotArticles(ValueError):
    """A list of articles that is not what it should be."""


class _Window:
    """The part of a file that is looked at: `view[at:end]`, of which `at` and `end` are the loop's own."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file, self._offset = file, 0
        self.room = placed(_KEPT + PAGE + _BLOCK + SPARE)
        self.room[:] = 0
        self.room[: len(CONSTANTS)] = CONSTANTS
        self.view = self.room.data

    def more(self, at: int, end: int) -> tuple[int, int]:
        """Read the next block behind what is left; returns the new bounds."""
        start = _KEPT + self._offset % PAGE  # as far into a page as it is in the file, see `pages`
        left = end - at
        self.view[start - left : start] = self.view[at:end]
        stop = start
        while stop - start < _BLOCK and (got := self._file.readinto(self.view[stop : start + _BLOCK])):
            stop += got
        self._offset += stop - start
        return start - left, stop

    def skip(self, nbytes: int) -> None:
        """Pass over `nbytes` that were not read yet."""
        self._file.seek(nbytes, io.SEEK_CUR)
        self._offset += nbytes


def walk_articles(file: io.RawIOBase) -> Iterator[Records]:  # noqa: C901, PLR0912, PLR0915  one loop, because a call an opcode would double the time
    """The articles of the pickled list in `file`, which has no buffer of its own, some at a time.

    Raises `NotArticles`, or one of the errors that damaged input brings about (ValueError, LookupError, TypeError),
    where the list is not what it should be.
    """
    memo: list[Any] = []  # lets go of an article once that was yielded
    stack: list[Any] = []
    marks: list[int] = []
    outermost: list[Any] | None = None
    template: Template | None = None
    alike: Block | None = None  # the articles of this block that look like the first one
    count = 0
    window = _Window(file)
    buffer, at, end = window.view, 0, 0
    while True:
        if end - at < 16:  # noqa: PLR2004  the longest opcode with its number
            at, end = window.more(at, end)
            alike = None
            if at >= end:  # beyond it where the last opcode is cut short
                raise NotArticles("it is cut short")
            if len(stack) > _STACK or len(memo) > _MEMO + _MEMO_EACH * count:
                raise NotArticles("it holds too many values that belong to no article")
        opcode = buffer[at]
        at += 1
        if opcode == _MEMOIZE:
            top = stack[-1]
            if type(top) is dict:
                top[None] = len(memo)  # so that the memo can let go of it
            memo.append(top)
        elif opcode in (_BINGET, _LONG_BINGET):
            width = 1 if opcode == _BINGET else 4
            place = int.from_bytes(buffer[at : at + width], "little")
            value = memo[place]
            stack.append(value if type(value) is not Run else value.value(place))
            at += width
        elif opcode in _COUNTED:  # text and bytes after their length
            width = _COUNTED[opcode]
            length = int.from_bytes(buffer[at : at + width], "little")
            at += width
            wanted = opcode in TEXT and (length <= _SHORT or (stack and stack[-1] in KEYS))
            if wanted and length > _LONGEST:
                raise NotArticles(f"article {count:,} has a title, id or url of {length:,} bytes")
            if length > end - at and wanted:
                at, end = window.more(at, end)
                alike = None
                if length > end - at:
                    raise NotArticles("it is cut short")
            if length > end - at:
                if length > _FARTHEST:
                    raise NotArticles(f"it has a text of {length:,} bytes")
                window.skip(length - (end - at))
                at = end
                stack.append(PAST)
            else:
                stack.append(str(buffer[at : at + length], "utf-8", "surrogatepass") if wanted else PAST)
                at += length
        elif opcode == _MARK:
            marks.append(len(stack))
        elif opcode == _EMPTY_DICT:
            if template and not alike:
                alike = template.find(window.room, at - 1, end)
            found = template.run(alike, window.room, at - 1, len(memo)) if template and alike else None
            if found:
                run, at = found
                stack += [run] * len(run.records)
                memo += [run] * (len(run.records) * len(run.remembered))
            else:
                stack.append({})
        elif opcode in (_SETITEMS, _SETITEM):
            start = marks.pop() if opcode == _SETITEMS else len(stack) - 2
            article = stack[start - 1]
            if type(article) is Run:
                raise NotArticles("an article is changed after its end")
            if not template and count == 0:
                template = Template.of(stack[start::2], memo)
            for position in range(start, len(stack), 2):
                key = stack[position]
                if type(article) is dict and type(key) is str and key in KEYS:
                    article[key] = stack[position + 1]
            del stack[start:]
        elif opcode in NUMBERS:
            width = NUMBERS[opcode]
            stack.append(int.from_bytes(buffer[at : at + width], "little", signed=opcode == _BININT))
            at += width
        elif opcode == _LONG1:
            width = buffer[at]
            if end - at < width + 1:
                at, end = window.more(at, end)
                alike = None
            stack.append(
                int.from_bytes(buffer[at + 1 : at + 1 + width], "little", signed=True)
                if width <= LONGEST_NUMBER
                else PAST
            )
            at += 1 + width
        elif opcode == _NONE:
            stack.append(None)
        elif opcode in (_APPENDS, _APPEND):
            start = marks.pop() if opcode == _APPENDS else len(stack) - 1
            if stack[start - 1] is outermost and outermost is not None:
                for records in _appended(stack[start:], memo, count):
                    count += len(records)
                    yield records
            elif type(stack[start - 1]) is not list:
                raise NotArticles("it appends to something that is no list")
            del stack[start:]
        elif opcode == _EMPTY_LIST:
            stack.append([])
            if outermost is None:
                outermost = stack[0]
        elif opcode == _FRAME:
            at += 8
        elif opcode == _PROTO:
            at += 1
        elif opcode in (_BINPUT, _LONG_BINPUT):  # picklers count up
            width = 1 if opcode == _BINPUT else 4
            if int.from_bytes(buffer[at : at + width], "little") != len(memo):
                raise NotArticles("its memo is not numbered as picklers do")
            at += width
            top = stack[-1]
            if type(top) is dict:
                top[None] = len(memo)
            memo.append(top)
        elif opcode in _OTHERS:  # values that nobody wants: True, a float, a tuple, a set
            width, taken = _OTHERS[opcode]
            at += width
            start = marks.pop() if taken < 0 else len(stack) - taken
            del stack[start:]
            stack.append(PAST)
        elif opcode == _ADDITEMS:
            del stack[marks.pop() :]
        elif opcode == _STOP and len(stack) == 1:
            if outermost is None:
                raise NotArticles("it is not a list")
            if at != end or window.more(at, end)[1] != end:
                raise NotArticles("something follows its end")
            return
        else:
            raise NotArticles(f"it has {_NAMES.get(opcode, f'the byte {opcode:#x}')}, which no list of articles needs")


def _appended(items: list[Any], memo: list[Any], count: int) -> Iterator[Records]:
    """The articles that the list gets after its first `count`."""
    singles: list[bytes] = []
    for _, same in groupby(items, key=id):
        some = list(same)
        if type(some[0]) is Run:
            if len(some) != len(some[0].records):
                raise NotArticles(f"item {count:,} is not a dict")
            if singles:
                yield Records.of(singles)
                singles = []
            yield some[0].records
        else:
            singles += [_article(item, memo, count) for item in some]
        count += len(some)
    if singles:
        yield Records.of(singles)


def _article(item: Any, memo: list[Any], row: int) -> bytes:
    """The record of one article, which the memo then lets go of."""
    if type(item) is not dict:
        raise NotArticles(f"item {row:,} is not a dict")
    if type(item.get("title")) is not str:
        raise NotArticles(f"article {row:,} has no title")
    place = item.get(None)
    if place is not None:
        memo[place] = PAST
    url = item.get("url")
    return record(encode(item["title"]), encode(item.get("id")), encode(url if type(url) is str else None))


_PROTO, _FRAME, _MARK, _STOP = (opcode[0] for opcode in (pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.STOP))
_MEMOIZE = pickle.MEMOIZE[0]
_BINGET, _LONG_BINGET = pickle.BINGET[0], pickle.LONG_BINGET[0]
_BINPUT, _LONG_BINPUT = pickle.BINPUT[0], pickle.LONG_BINPUT[0]
_EMPTY_DICT, _SETITEM, _SETITEMS = pickle.EMPTY_DICT[0], pickle.SETITEM[0], pickle.SETITEMS[0]
_EMPTY_LIST, _APPEND, _APPENDS = pickle.EMPTY_LIST[0], pickle.APPEND[0], pickle.APPENDS[0]
_NONE, _LONG1, _BININT, _ADDITEMS = (
    opcode[0] for opcode in (pickle.NONE, pickle.LONG1, pickle.BININT, pickle.ADDITEMS)
)
# opcode → bytes of the length that comes before its value
_COUNTED = {
    **TEXT,
    pickle.SHORT_BINBYTES[0]: 1,
    pickle.BINBYTES[0]: 4,
    pickle.BINBYTES8[0]: 8,
    pickle.BYTEARRAY8[0]: 8,
}
# opcode → bytes to pass over, values that it takes (-1: all since the mark)
_OTHERS = {
    pickle.NEWTRUE[0]: (0, 0),
    pickle.NEWFALSE[0]: (0, 0),
    pickle.BINFLOAT[0]: (8, 0),
    pickle.EMPTY_TUPLE[0]: (0, 0),
    pickle.TUPLE1[0]: (0, 1),
    pickle.TUPLE2[0]: (0, 2),
    pickle.TUPLE3[0]: (0, 3),
    pickle.TUPLE[0]: (0, -1),
    pickle.EMPTY_SET[0]: (0, 0),
    pickle.FROZENSET[0]: (0, -1),
}
_NAMES = {ord(opcode.code): f"the opcode {opcode.name}" for opcode in pickletools.opcodes}
