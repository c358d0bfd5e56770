"""Walk the opcodes of a pickled list of articles, keeping titles, ids and urls.

`pickletools` takes a call an opcode, which is well for a shard's header and slow for millions; this is one loop made
for one shape. It knows no global, so nothing that a file names is ever looked at. What is kept is bounded by what the
articles themselves need.

An article is kept as its record: the opcodes of `{'title': …, 'id': …, 'url': …}` as they will stand in a merged .pkl,
where places 0 to 2 of the memo hold the keys. That is half the memory of a dict's values, and nothing to encode later.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

KEYS = ("title", "id", "url")  # of an article that are kept
_ID = 1  # the place of the one that may be a number
_BLOCK = 1 << 20  # bytes read at once
_FARTHEST = 1 << 40  # bytes of a text that is passed over: no system seeks much farther
_LONGEST = 1 << 16  # bytes of a title, id or url
_LONGEST_NUMBER = 16  # bytes of an id
_SHORT = 64  # bytes of a text that is kept before it is known whether it is a key
_STACK = 100_000  # values; picklers append batches of 1,000
_MEMO, _MEMO_EACH = 100_000, 64  # memo entries that a file, and each of its articles, may have
_MISSES = 10_000  # articles that do not fit the template before that is given up
_NEVER = re.compile(rb"(?!)").match
_Match = Callable[[bytes, int], "re.Match[bytes] | None"]
_PAST = object()  # a value that was passed over


class NotArticles(ValueError):
    """A list of articles that is not what it should be."""


def walk_articles(file: io.RawIOBase | BinaryIO) -> Iterator[list[bytes]]:  # noqa: C901, PLR0912, PLR0915  one loop, because a call an opcode would double the time
    """The articles of the pickled list in `file`, a batch at a time, each as its record.

    Raises `NotArticles`, or one of the errors that damaged input brings about (ValueError, LookupError, TypeError),
    where the list is not what it should be.
    """
    memo: list[Any] = []  # lets go of an article once that was yielded
    stack: list[Any] = []
    marks: list[int] = []
    outermost: list[Any] | None = None
    template: _Template | None = None
    count = 0
    buffer, at, end = b"", 0, 0
    while True:
        if end - at < 16:  # noqa: PLR2004  the longest opcode with its number
            buffer = buffer[at:] + (file.read(_BLOCK) or b"")
            at, end = 0, len(buffer)
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
            value = memo[int.from_bytes(buffer[at : at + width], "little")]
            stack.append(value if type(value) is not bytes else _text(value))
            at += width
        elif opcode in _COUNTED:  # text and bytes after their length
            width = _COUNTED[opcode]
            length = int.from_bytes(buffer[at : at + width], "little")
            at += width
            wanted = opcode in _TEXT and (length <= _SHORT or (stack and stack[-1] in KEYS))
            if wanted and length > _LONGEST:
                raise NotArticles(f"article {count:,} has a title, id or url of {length:,} bytes")
            if length > end - at and wanted:
                buffer = buffer[at:] + (file.read(_BLOCK) or b"")
                at, end = 0, len(buffer)
                if length > end:
                    raise NotArticles("it is cut short")
            if length > end - at:
                if length > _FARTHEST:
                    raise NotArticles(f"it has a text of {length:,} bytes")
                file.seek(length - (end - at), io.SEEK_CUR)
                buffer, at, end = b"", 0, 0
                stack.append(_PAST)
            else:
                stack.append(str(buffer[at : at + length], "utf-8", "surrogatepass") if wanted else _PAST)
                at += length
        elif opcode == _MARK:
            marks.append(len(stack))
        elif opcode == _EMPTY_DICT:
            after = template.read(buffer, at, end, memo, stack) if template else 0
            at = after or at
            if not after:
                stack.append({})
        elif opcode in (_SETITEMS, _SETITEM):
            start = marks.pop() if opcode == _SETITEMS else len(stack) - 2
            article = stack[start - 1]
            if not template and count == 0:
                template = _Template.of(stack[start::2], memo)
            for position in range(start, len(stack), 2):
                key = stack[position]
                if type(article) is dict and type(key) is str and key in KEYS:
                    article[key] = stack[position + 1]
            del stack[start:]
        elif opcode in _NUMBERS:
            width = _NUMBERS[opcode]
            stack.append(int.from_bytes(buffer[at : at + width], "little", signed=opcode == _BININT))
            at += width
        elif opcode == _LONG1:
            width = buffer[at]
            if end - at < width + 1:
                buffer = buffer[at:] + (file.read(_BLOCK) or b"")
                at, end = 0, len(buffer)
            stack.append(
                int.from_bytes(buffer[at + 1 : at + 1 + width], "little", signed=True)
                if width <= _LONGEST_NUMBER
                else _PAST
            )
            at += 1 + width
        elif opcode == _NONE:
            stack.append(None)
        elif opcode in (_APPENDS, _APPEND):
            start = marks.pop() if opcode == _APPENDS else len(stack) - 1
            if stack[start - 1] is outermost and outermost is not None:
                batch = [_article(item, memo, count + n) for n, item in enumerate(stack[start:])]
                count += len(batch)
                if batch:
                    yield batch
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
            stack.append(_PAST)
        elif opcode == _ADDITEMS:
            del stack[marks.pop() :]
        elif opcode == _STOP and len(stack) == 1:
            _check_end(buffer[at - 1 :] + (file.read(_BLOCK) or b""), outermost)
            return
        else:
            raise NotArticles(f"it has {_NAMES.get(opcode, f'the byte {opcode:#x}')}, which no list of articles needs")


class _Template:
    """What every article looks like if it has the keys of the first one, in their order, as `pickle` writes them.

    One match an article takes a third of the time that walking its opcodes does. A text's end is told by its length;
    that a MEMOIZE stands there, and not earlier, is checked. An article that does not fit is walked.
    """

    # a text's opcode and length, its bytes and MEMOIZE, or a number
    _WANTED = rb"(?:(\x8c.|X.{4})([^\x94]{0,2000})\x94|(K.|M..|J.{4}))"
    _PASSED = rb"(?:\x8c(.)|X(.{4}))"  # a text's length

    def __init__(self, keys: list[bytes], columns: list[int | None]) -> None:
        """`keys`: for each key the opcodes that recall it; `columns`: which column it is, None to pass it over."""
        self._parts: list[tuple[_Match, tuple[int, ...], bool]] = []  # up to a text that is passed over, or the end
        self._balance = _MISSES
        pattern, inside = rb"\x94\(", []  # MEMOIZE, MARK
        for key, column in zip(keys, columns, strict=True):
            pattern += re.escape(key)
            if column is not None:
                pattern += self._WANTED
                inside.append(column)
            else:
                self._parts.append((re.compile(pattern + self._PASSED, re.DOTALL).match, tuple(inside), True))
                pattern, inside = rb"\x94", []
        self._parts.append((re.compile(pattern + rb"u", re.DOTALL).match, tuple(inside), False))  # SETITEMS

    @classmethod
    def of(cls, keys: list[Any], memo: list[Any]) -> "_Template | None":
        """The template of articles with `keys`, which stand in `memo`; None if that cannot be."""
        recalled: list[bytes] = []
        columns: list[int | None] = []
        for key in keys:
            if type(key) is not str or key not in memo or memo.index(key) > 0xFF:  # noqa: PLR2004  a byte
                return None
            recalled.append(bytes((_BINGET, memo.index(key))))
            columns.append(KEYS.index(key) if key in KEYS else None)
        return cls(recalled, columns) if len(set(columns) - {None}) == len(KEYS) else None

    def read(self, buffer: bytes, at: int, end: int, memo: list[Any], stack: list[Any]) -> int:
        """Push the article whose EMPTY_DICT ends at `at`; returns where it ends, 0 if it looks otherwise."""
        values = [b"N", b"N", b"N"]
        remembered: list[Any] = [_PAST]
        for match_at, columns, passes in self._parts:
            match = match_at(buffer, at)
            if not match:
                return self._missed()
            found = match.groups()
            place = 0
            for column in columns:
                opcode, text = found[place], found[place + 1]
                if opcode is None and column != _ID:
                    return self._missed()
                if opcode is None:
                    values[column] = _number(found[place + 2])
                elif len(text) == (opcode[1] if len(opcode) == 2 else int.from_bytes(opcode[1:], "little")):  # noqa: PLR2004  a byte's length
                    if not text.isascii() and not _is_text(text):
                        return self._missed()
                    values[column] = value = opcode + text
                    remembered.append(value)
                else:
                    return self._missed()
                place += 3
            at = match.end()
            if passes:
                at += int.from_bytes(found[-2] or found[-1], "little")
                if at >= end:
                    return 0
                remembered.append(_PAST)
        memo += remembered
        stack.append(b"}(h\0%bh\1%bh\2%bu" % (*values,))
        self._balance += 1
        return at

    def _missed(self) -> int:
        """Articles that do not fit cost time twice: where most are such, no more are tried."""
        self._balance -= 2
        if self._balance < 0:
            self._parts = [(_NEVER, (), False)]
        return 0


def _is_text(text: bytes) -> bool:
    """Whether some bytes are UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(opcode: bytes) -> str:
    return opcode[2 if opcode[0] == _SHORT_TEXT else 5 :].decode()


def _number(opcode: bytes) -> bytes:
    return encode(int.from_bytes(opcode[1:], "little", signed=opcode[0] == _BININT))


def _article(item: Any, memo: list[Any], row: int) -> bytes:
    """The record of one article, which the memo then lets go of."""
    if type(item) is bytes:
        return item  # made by a template
    if type(item) is not dict:
        raise NotArticles(f"item {row:,} is not a dict")
    if type(item.get("title")) is not str:
        raise NotArticles(f"article {row:,} has no title")
    place = item.get(None)
    if place is not None:
        memo[place] = _PAST
    url = item.get("url")
    return record(encode(item["title"]), encode(item.get("id")), encode(url if type(url) is str else None))


def _check_end(rest: bytes, outermost: list[Any] | None) -> None:
    if outermost is None:
        raise NotArticles("it is not a list")
    if len(rest) > 1:
        raise NotArticles("something follows its end")


# --- an article as bytes ----------------------------------------------------------------------------------------------


def record(title: bytes, key: bytes, url: bytes) -> bytes:
    """The opcodes of one article's dict, given those of its values; the keys are recalled from places 0 to 2."""
    return b"}(h\0%bh\1%bh\2%bu" % (title, key, url)


def encode(value: object) -> bytes:
    """The opcodes of a text (BINUNICODE), a number of up to 16 bytes (LONG1), or of None for anything else."""
    if type(value) is str:
        text = value.encode("utf-8", "surrogatepass")
        return b"X%b%b" % (len(text).to_bytes(4, "little"), text)
    if type(value) is int and value.bit_length() < 8 * _LONGEST_NUMBER:
        return b"\x8a\x10" + value.to_bytes(_LONGEST_NUMBER, "little", signed=True)
    return b"N"


def decode(article: bytes) -> dict[str, Any]:
    """`{'title', 'id', 'url'}` of a record."""
    at = 2
    values: list[str | int | None] = []
    for _ in KEYS:
        opcode = article[at + 2]
        width = _TEXT.get(opcode, 0) or (opcode == _LONG1)
        start = at + 3 + width
        at = start + int.from_bytes(article[start - width : start], "little")
        raw = article[start:at]
        if opcode == _LONG1:
            values.append(int.from_bytes(raw, "little", signed=True))
        else:
            values.append(str(raw, "utf-8", "surrogatepass") if width else None)
    return dict(zip(KEYS, values, strict=True))


_PROTO, _FRAME, _MARK, _STOP = (opcode[0] for opcode in (pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.STOP))
_MEMOIZE, _SHORT_TEXT = pickle.MEMOIZE[0], pickle.SHORT_BINUNICODE[0]
_BINGET, _LONG_BINGET = pickle.BINGET[0], pickle.LONG_BINGET[0]
_BINPUT, _LONG_BINPUT = pickle.BINPUT[0], pickle.LONG_BINPUT[0]
_EMPTY_DICT, _SETITEM, _SETITEMS = pickle.EMPTY_DICT[0], pickle.SETITEM[0], pickle.SETITEMS[0]
_EMPTY_LIST, _APPEND, _APPENDS = pickle.EMPTY_LIST[0], pickle.APPEND[0], pickle.APPENDS[0]
_NONE, _LONG1, _BININT, _ADDITEMS = (
    opcode[0] for opcode in (pickle.NONE, pickle.LONG1, pickle.BININT, pickle.ADDITEMS)
)
# opcode → bytes of the length that comes before its value
_TEXT = {pickle.SHORT_BINUNICODE[0]: 1, pickle.BINUNICODE[0]: 4, pickle.BINUNICODE8[0]: 8}
_COUNTED = {
    **_TEXT,
    pickle.SHORT_BINBYTES[0]: 1,
    pickle.BINBYTES[0]: 4,
    pickle.BINBYTES8[0]: 8,
    pickle.BYTEARRAY8[0]: 8,
}
# opcode → bytes of the number
_NUMBERS = {pickle.BININT1[0]: 1, pickle.BININT2[0]: 2, pickle.BININT[0]: 4}
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
