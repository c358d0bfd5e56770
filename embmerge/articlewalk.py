"""Walk the opcodes of a pickled list of articles, keeping titles, ids and urls.

`pickletools` takes a call an opcode, which is well for a shard's header and slow for millions; this is one loop made
for one shape, and it leaves articles that look like the first one to `articletemplate`. It knows no global, so nothing
that a file names is ever looked at. What is kept is bounded by what the articles themselves need.
"""

import io
import pickle
import pickletools
from array import array
from collections.abc import Iterator
from typing import Any

from embmerge.articletemplate import CONSTANTS, NO_TEXT, PLACES, SPARE, Run, Template
from embmerge.pages import PAGE, placed
from embmerge.records import KEYS, LONGEST, LONGEST_NUMBER, NUMBERS, TEXT, Records, encode, record

_BLOCK = 4 << 20  # bytes read at once
_KEPT = 1 << 17  # bytes of a block that may be kept while the next one is read
_FARTHEST = 1 << 40  # bytes of a text that is passed over: no system seeks much farther
_SHORT = 64  # bytes of a text that is kept before it is known whether it is a key
_STACK = 100_000  # values, and as many dicts, before the list gets them; picklers append batches of 1,000
_HELD = 16 << 20  # bytes of their texts
_MEMO, _MEMO_EACH = 100_000, 8  # memo entries of any file, and bytes of it for each further one
_KNOWN = 30_000  # texts of the memo that need not be read again
_REPEATED = 16  # bytes of records for each byte of the file, beyond `_HELD`
_OUTERMOST, _LIST, _PAST = object(), object(), object()  # the articles' list, any other, and what was passed over


class NotArticles(ValueError):
    """A list of articles that is not what it should be."""


class _Text:
    """A text that was passed over."""

    __slots__ = ()


class _Window:
    """The part of a file that is looked at: `view[at:end]`, of which `at` and `end` are the loop's own."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.offset = 0  # in the file, of `end`
        self.room = placed(_KEPT + PAGE + _BLOCK + SPARE)
        self.room[:] = 0
        self.room[: len(CONSTANTS)] = CONSTANTS
        self.view = self.room.data

    def more(self, at: int, end: int) -> tuple[int, int]:
        """Read the next block behind what is left; returns the new bounds."""
        start = _KEPT + self.offset % PAGE  # as far into a page as it is in the file, see `pages`
        left = end - at
        self.view[start - left : start] = self.view[at:end]
        stop = start
        while stop - start < _BLOCK and (got := self._file.readinto(self.view[stop : start + _BLOCK])):
            stop += got
        self.offset += stop - start
        return start - left, stop

    def skip(self, nbytes: int) -> None:
        """Pass over `nbytes` that were not read yet."""
        self._file.seek(nbytes, io.SEEK_CUR)
        self.offset += nbytes

    def text(self, offset: int, longest: int) -> str | None:
        """The text whose opcode is byte `offset` of the file; None if it has more than `longest` bytes."""
        self._file.seek(offset)
        head = self._file.read(1 + max(TEXT.values())) or b""
        width = TEXT[head[0]]
        length = int.from_bytes(head[1 : 1 + width], "little")
        text = None
        if length <= longest:
            self._file.seek(offset + 1 + width)
            text = str(self._file.read(length) or b"", "utf-8", "surrogatepass")
        self._file.seek(self.offset)
        return text


class _Memo:
    """What a pickle remembers: of a text where it stands in the file, since few are recalled and all would be many."""

    def __init__(self, window: _Window) -> None:
        self._window = window
        self.texts = array("q")  # by place: byte of the file, or `NO_TEXT`
        self.dicts: dict[int, dict[Any, Any]] = {}  # by place: those that may still become articles
        self.known: dict[int, str] = {}  # by place: short texts that were recalled, most often keys

    def recall(self, place: int, *, wanted: bool) -> Any:
        """What stands at `place`: a text if that is short or `wanted`, an open dict, or what was passed over."""
        if self.texts[place] == NO_TEXT:
            return self.dicts.get(place, _PAST)
        text = self._window.text(self.texts[place], LONGEST if wanted else _SHORT)
        if text is None and wanted:
            raise NotArticles(f"it has a title, id or url of more than {LONGEST:,} bytes")
        if text is not None and len(text) <= _SHORT:
            if len(self.known) >= _KNOWN:
                self.known.clear()
            self.known[place] = text
        return _Text() if text is None else text


def walk_articles(file: io.RawIOBase) -> Iterator[Records]:  # noqa: C901, PLR0912, PLR0915  one loop, because a call an opcode would double the time
    """The articles of the pickled list in `file`, which has no buffer of its own, some at a time.

    Raises `NotArticles`, or one of the errors that damaged input brings about (ValueError, LookupError, TypeError),
    where the list is not what it should be.
    """
    stack: list[Any] = []
    marks: list[int] = []
    template: Template | None = None
    searched = False  # for a template
    alike: dict[int, Run] | None = None  # the articles of this block that look like the first one
    count = size = held = 0  # articles so far, bytes of their records, and of texts since then
    text, text_at = object(), 0  # the last one, and where in the file it stands
    window = _Window(file)
    memo = _Memo(window)
    texts, known = memo.texts, memo.known
    buffer, at, end = window.view, 0, 0
    while True:
        if end - at < 16:  # noqa: PLR2004  the longest opcode with its number
            at, end = window.more(at, end)
            alike = None
            if at >= end:  # beyond it where the last opcode is cut short
                raise NotArticles("it is cut short")
            if len(stack) > _STACK or len(texts) > _MEMO + window.offset // _MEMO_EACH:
                raise NotArticles(_TOO_MANY)
        opcode = buffer[at]
        at += 1
        if opcode in _PUTS:
            width = _PUTS[opcode]
            if width and int.from_bytes(buffer[at : at + width], "little") != len(texts):  # picklers count up
                raise NotArticles(_NUMBERED)
            at += width
            top = stack[-1]
            if top is text:
                texts.append(text_at)
            elif type(top) is str or type(top) is _Text:
                raise NotArticles(_NUMBERED)
            else:
                if type(top) is dict:
                    memo.dicts[len(texts)] = top
                    if len(memo.dicts) > _STACK:
                        raise NotArticles(_TOO_MANY)
                texts.append(NO_TEXT)
        elif opcode in (_BINGET, _LONG_BINGET):
            width = 1 if opcode == _BINGET else 4
            place = int.from_bytes(buffer[at : at + width], "little")
            at += width
            value = known.get(place)
            if value is None:
                value = memo.recall(place, wanted=stack[-1] in KEYS)
                held += len(value) if type(value) is str else 0
                if held > _HELD:
                    raise NotArticles(_TOO_MANY)
            stack.append(value)
        elif opcode in _COUNTED:  # text and bytes after their length
            text_at = window.offset - (end - at) - 1 if opcode in TEXT else NO_TEXT
            width = _COUNTED[opcode]
            length = int.from_bytes(buffer[at : at + width], "little")
            at += width
            text = _Text() if opcode in TEXT else _PAST
            if opcode in TEXT and (length <= _SHORT or (stack and stack[-1] in KEYS)):
                held += length
                if length > LONGEST:
                    raise NotArticles(f"article {count:,} has a title, id or url of {length:,} bytes")
                if held > _HELD or len(stack) > _STACK:
                    raise NotArticles(_TOO_MANY)
                if length > end - at:
                    at, end = window.more(at, end)
                    alike = None
                    if length > end - at:
                        raise NotArticles("it is cut short")
                text = str(buffer[at : at + length], "utf-8", "surrogatepass")
            elif length > end - at:
                if length > _FARTHEST:
                    raise NotArticles(f"it has a text of {length:,} bytes")
                window.skip(length - (end - at))
                at, length = end, 0
            at += length
            stack.append(text)
        elif opcode == _MARK:
            if not stack:
                raise NotArticles(_NO_LIST)
            marks.append(len(stack))
            if len(marks) > _STACK:
                raise NotArticles(_TOO_MANY)
        elif opcode == _EMPTY_DICT:
            if template and alike is None:
                alike = template.runs(window.room, at - 1, end, window.offset)
            run = alike.get(at - 1) if alike else None
            if run:
                at = run.end
                stack += [run] * len(run.records)
                texts.frombytes(run.memo.tobytes())
            else:
                stack.append({})
                if len(stack) > _STACK:
                    raise NotArticles(_TOO_MANY)
        elif opcode in (_SETITEMS, _SETITEM):
            start = marks.pop() if opcode == _SETITEMS else len(stack) - 2
            if start < 1 or type(stack[start - 1]) is not dict:
                raise NotArticles("an article is changed after its end")
            if (len(stack) - start) % 2:
                raise NotArticles("a key has no value")
            article = stack[start - 1]
            for position in range(start, len(stack), 2):
                key = stack[position]
                if type(key) is str and key in KEYS:
                    article[key] = stack[position + 1]
            if not searched and len(article) == len(KEYS):
                searched = True
                places = range(min(PLACES, len(texts)))
                template = Template.of(stack[start::2], [memo.recall(place, wanted=False) for place in places])
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
                else _PAST
            )
            at += 1 + width
        elif opcode == _NONE:
            stack.append(None)
        elif opcode in (_APPENDS, _APPEND):
            start = marks.pop() if opcode == _APPENDS else len(stack) - 1
            if stack[start - 1] is _OUTERMOST:
                for records in _appended(stack[start:], count):
                    count += len(records)
                    size += len(records.blob)
                    yield records
                if size > _HELD + _REPEATED * window.offset:
                    raise NotArticles("its articles repeat more than it holds")
                held = 0
                memo.dicts.clear()  # so that they are let go of, and none is changed any more
            elif stack[start - 1] is not _LIST:
                raise NotArticles("it appends to something that is no list")
            del stack[start:]
        elif opcode == _EMPTY_LIST:
            stack.append(_LIST if stack else _OUTERMOST)
        elif opcode == _FRAME:
            at += 8
        elif opcode == _PROTO:
            at += 1
        elif opcode in _OTHERS:  # values that nobody wants: True, a float, a tuple, a set
            width, taken = _OTHERS[opcode]
            at += width
            start = marks.pop() if taken < 0 else len(stack) - taken
            del stack[start:]
            stack.append(_PAST)
        elif opcode == _ADDITEMS:
            start = marks.pop()
            if stack[start - 1] is not _PAST:
                raise NotArticles("it adds to something that is no set")
            del stack[start:]
        elif opcode == _STOP:
            if len(stack) != 1 or stack[0] is not _OUTERMOST:
                raise NotArticles(_NO_LIST)
            if at != end or window.more(at, end)[1] != end:
                raise NotArticles("something follows its end")
            return
        else:
            raise NotArticles(f"it has {_NAMES.get(opcode, f'the byte {opcode:#x}')}, which no list of articles needs")


def _appended(items: list[Any], count: int) -> Iterator[Records]:
    """The articles that the list gets after its first `count`."""
    singles: list[bytes] = []
    at = 0
    while at < len(items):
        run = items[at]
        if type(run) is not Run:
            singles.append(_article(run, count + at))
            at += 1
            continue
        if items[at : at + len(run.records)].count(run) != len(run.records):
            raise NotArticles(f"item {count + at:,} is not a dict")
        if singles:
            yield Records.of(singles)
            singles = []
        yield run.records
        at += len(run.records)
    if singles:
        yield Records.of(singles)


def _article(item: Any, row: int) -> bytes:
    """The record of one article."""
    if type(item) is not dict:
        raise NotArticles(f"item {row:,} is no dict of its own; is an article in it twice? then put in a copy")
    if type(item.get("title")) is not str:
        raise NotArticles(f"article {row:,} has no title")
    url = item.get("url")
    return record(encode(item["title"]), encode(item.get("id")), encode(url if type(url) is str else None))


_TOO_MANY = "it holds too many values that belong to no article"
_NUMBERED = "its memo is not numbered as picklers do"
_NO_LIST = "it is not a list"
_PROTO, _FRAME, _MARK, _STOP = (opcode[0] for opcode in (pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.STOP))
_BINGET, _LONG_BINGET = pickle.BINGET[0], pickle.LONG_BINGET[0]
_EMPTY_DICT, _SETITEM, _SETITEMS = pickle.EMPTY_DICT[0], pickle.SETITEM[0], pickle.SETITEMS[0]
_EMPTY_LIST, _APPEND, _APPENDS = pickle.EMPTY_LIST[0], pickle.APPEND[0], pickle.APPENDS[0]
_NONE, _LONG1, _BININT, _ADDITEMS = (
    opcode[0] for opcode in (pickle.NONE, pickle.LONG1, pickle.BININT, pickle.ADDITEMS)
)
# opcode → bytes of the place that comes after it
_PUTS = {pickle.MEMOIZE[0]: 0, pickle.BINPUT[0]: 1, pickle.LONG_BINPUT[0]: 4}
# opcode → bytes of the length that comes before its value
_COUNTED = {
    **TEXT,
    pickle.SHORT_BINBYTES[0]: 1,
    pickle.BINBYTES[0]: 4,
    pickle.BINBYTES8[0]: 8,
    pickle.BYTEARRAY8[0]: 8,
    pickle.LONG4[0]: 4,
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
