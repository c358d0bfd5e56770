"""Titles, ids and urls from the articles file, past the texts.

The file is a pickled list of dicts; 250,000 articles of 3 KB are 750 MB, of which some 20 MB are wanted. Nothing is
unpickled: the opcodes are walked by a loop made for this one shape, texts are passed over, and each batch of dicts is
turned into columns as soon as the pickle appends it to the list. No global of any kind is needed, so none is known.
"""

import io
import pickle
import pickletools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from embmerge.errors import LocalDataError
from embmerge.plaintext import printable

Article = tuple[str, "str | int | None", "str | None"]  # title, id, url

_WANTED = ("title", "id", "url")
_BLOCK = 1 << 20  # bytes read at once
_LONGEST = 1 << 16  # bytes of a title, id or url
_SHORT = 64  # bytes of a text that is kept before it is known whether it is a key
_STACK = 100_000  # values; picklers append batches of 1,000
_MEMO, _MEMO_EACH = 100_000, 64  # memo entries that a file, and each of its articles, may have
_PAST = object()  # a value that was passed over


class NotArticles(ValueError):
    """A list of articles that is not what it should be."""


@dataclass(frozen=True)
class Articles(Sequence[dict[str, Any]]):
    """All articles in order, held as columns; each item is `{'title': str, 'id': str | int | None, 'url': str | None}`."""

    titles: list[str] = field(default_factory=list)
    ids: list[str | int | None] = field(default_factory=list)
    urls: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.titles)

    def __getitem__(self, row: Any) -> Any:
        """The article of `row`, or a list of them for a slice."""
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        return {"title": self.titles[row], "id": self.ids[row], "url": self.urls[row]}


def read_articles(path: Path, *, stop: threading.Event | None = None) -> Articles:
    """All articles in the file `path`; only some of them once `stop` is set.

    Raises `LocalDataError` if there is no such file, or if it is not a pickled list of dicts with a title each.
    """
    articles = Articles()
    for batch in _batches(path):
        titles, ids, urls = zip(*batch, strict=True)
        articles.titles.extend(titles)
        articles.ids.extend(ids)
        articles.urls.extend(urls)
        if stop and stop.is_set():
            break
    return articles


def count_articles(path: Path) -> int:
    """How many articles the file `path` holds; raises as `read_articles` does."""
    return sum(len(batch) for batch in _batches(path))


def first_article(path: Path) -> dict[str, Any] | None:
    """The first article in the file `path`, None if it holds none; raises as `read_articles` does."""
    for batch in _batches(path):
        return dict(zip(_WANTED, batch[0], strict=True))
    return None


def _batches(path: Path) -> Iterator[list[Article]]:
    try:
        with path.open("rb", buffering=0) as file:
            yield from walk_articles(file)
    except FileNotFoundError:
        raise LocalDataError(
            f"articles file missing: {path}", hint="name it with --articles, or set `articles` in invoke.yaml"
        ) from None
    except OSError as error:
        raise LocalDataError(f"cannot read the articles file {path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, NotArticles) else "it is damaged or cut short"
        raise LocalDataError(
            f"{printable(path.name)} is not an articles file: {why}",
            hint="it must be a pickled list of dicts with 'title', 'id' and 'url'; if it was copied, copy it again",
        ) from None


def walk_articles(file: io.RawIOBase | BinaryIO, closing: bytes = pickle.STOP) -> Iterator[list[Article]]:  # noqa: C901, PLR0912, PLR0915  one loop, because a call an opcode would double the time
    """The articles of the pickled list at the present place of `file`, a batch at a time.

    `closing` are the opcodes that follow the list and end the file. Raises `NotArticles`, or one of the errors that
    damaged input brings about (ValueError, LookupError, TypeError), where the list is not what it should be.
    """
    memo: list[Any] = []  # lets go of an article once that was yielded
    stack: list[Any] = []
    marks: list[int] = []
    outermost: list[Any] | None = None
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
        if opcode == 0x94:  # MEMOIZE
            top = stack[-1]
            if type(top) is dict:
                top[None] = len(memo)  # so that the memo can let go of it
            memo.append(top)
        elif opcode in (0x68, 0x6A):  # BINGET, LONG_BINGET
            width = 1 if opcode == 0x68 else 4  # noqa: PLR2004
            stack.append(memo[int.from_bytes(buffer[at : at + width], "little")])
            at += width
        elif opcode in _COUNTED:  # text and bytes after their length
            width = _COUNTED[opcode]
            length = int.from_bytes(buffer[at : at + width], "little")
            at += width
            wanted = opcode in _TEXT and (length <= _SHORT or (stack and stack[-1] in _WANTED))
            if wanted and length > _LONGEST:
                raise NotArticles(f"article {count:,} has a title, id or url of {length:,} bytes")
            if length > end - at and wanted:
                buffer = buffer[at:] + (file.read(_BLOCK) or b"")
                at, end = 0, len(buffer)
                if length > end:
                    raise NotArticles("it is cut short")
            if length > end - at:
                file.seek(length - (end - at), io.SEEK_CUR)
                buffer, at, end = b"", 0, 0
                stack.append(_PAST)
            else:
                stack.append(str(buffer[at : at + length], "utf-8", "surrogatepass") if wanted else _PAST)
                at += length
        elif opcode == 0x28:  # MARK
            marks.append(len(stack))
        elif opcode == 0x7D:  # EMPTY_DICT
            stack.append({})
        elif opcode in (0x75, 0x73) and len(stack) > 1:  # SETITEMS, SETITEM
            start = marks.pop() if opcode == 0x75 else len(stack) - 2  # noqa: PLR2004
            article = stack[start - 1]
            for position in range(start, len(stack), 2):
                key = stack[position]
                if type(article) is dict and type(key) is str and key in _WANTED:
                    article[key] = stack[position + 1]
            del stack[start:]
        elif opcode in _NUMBERS:
            width = _NUMBERS[opcode]
            stack.append(int.from_bytes(buffer[at : at + width], "little", signed=opcode == 0x4A))  # noqa: PLR2004
            at += width
        elif opcode == 0x8A:  # LONG1
            width = buffer[at]
            if end - at < width + 1:
                buffer = buffer[at:] + (file.read(_BLOCK) or b"")
                at, end = 0, len(buffer)
            stack.append(
                int.from_bytes(buffer[at + 1 : at + 1 + width], "little", signed=True) if width <= 16 else _PAST
            )  # noqa: PLR2004
            at += 1 + width
        elif opcode == 0x4E:  # NONE
            stack.append(None)
        elif opcode in (0x65, 0x61):  # APPENDS, APPEND
            start = marks.pop() if opcode == 0x65 else len(stack) - 1  # noqa: PLR2004
            if stack[start - 1] is outermost and outermost is not None:
                batch = [_article(item, memo, count + n) for n, item in enumerate(stack[start:])]
                count += len(batch)
                if batch:
                    yield batch
            elif type(stack[start - 1]) is not list:
                raise NotArticles("it appends to something that is no list")
            del stack[start:]
        elif opcode == 0x5D:  # EMPTY_LIST
            stack.append([])
            if outermost is None:
                outermost = stack[0]
        elif opcode == 0x95:  # FRAME
            at += 8
        elif opcode == 0x80:  # PROTO
            at += 1
        elif opcode in (0x71, 0x72):  # BINPUT, LONG_BINPUT: picklers count up
            width = 1 if opcode == 0x71 else 4  # noqa: PLR2004
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
        elif opcode == 0x90:  # ADDITEMS
            del stack[marks.pop() :]
        elif opcode == closing[0] and len(stack) == 1:
            _check_end(buffer[at - 1 :] + (file.read(_BLOCK) or b""), closing, outermost)
            return
        else:
            raise NotArticles(f"it has {_NAMES.get(opcode, f'the byte {opcode:#x}')}, which no list of articles needs")


def _article(item: Any, memo: list[Any], row: int) -> Article:
    """The columns of one dict, whose place in the memo then only knows its row."""
    if type(item) is not dict:
        raise NotArticles(f"item {row:,} is not a dict")
    title, key, url = (item.get(name) for name in _WANTED)
    if type(title) is not str:
        raise NotArticles(f"article {row:,} has no title")
    place = item.get(None)
    if place is not None:
        memo[place] = _PAST
    return title, key if type(key) in {str, int} else None, url if type(url) is str else None


def _check_end(rest: bytes, closing: bytes, outermost: list[Any] | None) -> None:
    if outermost is None:
        raise NotArticles("it is not a list")
    if rest != closing:
        raise NotArticles("something follows its end" if rest.startswith(closing) else "its end is damaged")


# opcode → bytes of the length, the number, or (bytes to pass, values to take)
_TEXT = {0x8C, 0x58, 0x8D}  # SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
_COUNTED = {0x8C: 1, 0x58: 4, 0x8D: 8, 0x43: 1, 0x42: 4, 0x8E: 8, 0x96: 8}  # and the four kinds of bytes
_NUMBERS = {0x4B: 1, 0x4D: 2, 0x4A: 4}  # BININT1, BININT2, BININT
_OTHERS = {
    0x88: (0, 0),  # NEWTRUE
    0x89: (0, 0),  # NEWFALSE
    0x47: (8, 0),  # BINFLOAT
    0x29: (0, 0),  # EMPTY_TUPLE
    0x85: (0, 1),  # TUPLE1, 2, 3, TUPLE
    0x86: (0, 2),
    0x87: (0, 3),
    0x74: (0, -1),
    0x8F: (0, 0),  # EMPTY_SET
    0x91: (0, -1),  # FROZENSET
}
_NAMES = {ord(opcode.code): f"the opcode {opcode.name}" for opcode in pickletools.opcodes}
