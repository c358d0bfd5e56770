"""Parquet's footer and pages, in the plain form in which we write them: nothing compressed, no dictionaries.

pyarrow ends the whole process over some damaged files, and a page header of a few bytes may announce gigabytes, so
other people's files are not given to it. What is read here is bounded by the bytes that are in the file.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from embmerge.mergedfile.thrift import read_struct, read_varint

_MAGIC = b"PAR1"
_PAGE_HEADER = 128  # bytes; ours have some 30
_PAGE_LIMIT = 16 << 20  # bytes; pyarrow ends a page soon after 1 MiB
_PAGE_LEAST = 4 << 10  # bytes of a page on average, but for a last one; smaller ones only cost time
_GROUP_ROWS = 1 << 16
_LENGTH = np.dtype("<u4").itemsize  # before levels and texts


Kind = tuple[int, "int | None"]  # Parquet's physical type, and the length of values of a fixed one
INT64: Kind = (2, None)
TEXT: Kind = (6, None)
REQUIRED, OPTIONAL, REPEATED = range(3)


@dataclass(frozen=True)
class Column:
    """One element of the schema; groups of others have no kind."""

    name: bytes
    kind: Kind | None
    repetition: int
    children: int | None = None


@dataclass(frozen=True)
class Chunk:
    """One column of a row group: `values` values, in pages in bytes `[start, end)`."""

    kind: Kind
    values: int
    start: int
    end: int


@dataclass(frozen=True)
class Page:
    """`values` values; the page's content, without its header, is bytes `[start, end)` of the file."""

    values: int
    start: int
    end: int


@dataclass(frozen=True)
class Footer:
    """What a file says of itself.

    `columns` are the schema's elements, the first being its root; `groups` are the number of rows and the column chunks
    of each row group; `texts` are the metadata without pyarrow's own.
    """

    columns: tuple[Column, ...]
    groups: tuple[tuple[int, tuple[Chunk, ...]], ...]
    texts: dict[str, str]


def read_footer(file: BinaryIO, limit: int) -> Footer:
    """The footer, at most `limit` bytes long; ValueError, KeyError or TypeError where it is not one of ours."""
    size = os.fstat(file.fileno()).st_size
    tail = _read(file, max(0, size - 8), 8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or not length <= min(limit, size - 8):
        raise ValueError("it is cut short, or its footer is too long")
    fields, _ = read_struct(_read(file, size - 8 - length, length))
    columns = tuple(Column(e[4], (e[1], e.get(2)) if 1 in e else None, e.get(3), e.get(5)) for e in fields[2])
    kinds = [column.kind for column in columns if column.kind]
    groups = tuple(
        (_within(g[3], _GROUP_ROWS), tuple(_chunk(c[3], kind, size) for c, kind in zip(g[1], kinds, strict=True)))
        for g in fields[4]
    )
    if sum(rows for rows, _ in groups) != fields[3]:
        raise ValueError("its row groups do not add up")
    texts = {_text(pair[1]): _text(pair[2]) for pair in fields.get(5, ()) if pair[1] != b"ARROW:schema"}
    return Footer(columns, groups, texts)


def pages(file: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """The pages of `chunk`; `ValueError` unless they are plain and hold together what the chunk says."""
    at, values = chunk.start, chunk.values
    left = 1 + (chunk.end - chunk.start) // _PAGE_LEAST
    while at < chunk.end:
        left = _within(left - 1, left)
        header = os.pread(file.fileno(), min(_PAGE_HEADER, chunk.end - at), at)
        fields, length = read_struct(header)
        match fields:
            case {1: 0, 2: int(size), 3: int(stored), 5: {1: int(count), 2: 0, 3: 3, 4: 3}} if size == stored:
                start = at + length
                at = start + _within(size, min(_PAGE_LIMIT, chunk.end - start))
                values -= _within(count, values)
                yield Page(count, start, at)
            case _:
                raise ValueError("it has a page that is not plain")
    if values:
        raise ValueError("its pages hold less than they should")


def floats_start(file: BinaryIO, page: Page, itemsize: int) -> int:
    """Where the floats of a page of lists begin, behind the levels that say which belong together."""
    at = page.start
    for _ in ("repetition", "definition"):
        at += _LENGTH + int.from_bytes(_read(file, at, _LENGTH), "little")
    if at + page.values * itemsize != page.end:
        raise ValueError("a page of vectors is not as large as they are")
    return at


def scalars(file: BinaryIO, page: Page, *, numbers: bool) -> list[Any]:
    """The values of a page of optional numbers or texts, None where there is none."""
    content = _read(file, page.start, page.end - page.start)
    at = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    present = _levels(content[_LENGTH:at], page.values)
    count = int(present.sum())
    values: Iterator[Any]
    if numbers:
        values = iter(np.frombuffer(content, "<i8", count, at).tolist() if count else [])
    else:
        values = _strings(content, at)
    return [next(values) if there else None for there in present.tolist()]


def _strings(content: bytes, at: int) -> Iterator[str]:
    while True:
        start = at + _LENGTH
        at = start + int.from_bytes(content[at:start], "little")
        if not start <= at <= len(content):
            raise ValueError("a text is cut short")
        yield content[start:at].decode()


def _levels(encoded: bytes, count: int) -> npt.NDArray[np.bool_]:
    """Which of `count` optional values are there: runs of one value, and groups of eight bits."""
    present = np.zeros(count, np.bool_)
    filled = at = 0
    while filled < count:
        head, taken = read_varint(encoded, at)
        at += taken
        if head & 1:
            bits = np.unpackbits(np.frombuffer(encoded, np.uint8, head >> 1, at), bitorder="little")[: count - filled]
            present[filled : filled + len(bits)] = bits
            filled, at = filled + len(bits), at + (head >> 1)
        else:
            present[filled : filled + (head >> 1)] = encoded[at]
            filled, at = filled + (head >> 1), at + 1
        if not head >> 1:
            raise ValueError("a run of nothing")
    return present


def _chunk(fields: dict[int, Any], kind: Kind, size: int) -> Chunk:
    start, nbytes = _within(fields[9], size), fields[7]
    if fields[4] or fields[6] != nbytes or 11 in fields or fields[1] != kind[0]:  # noqa: PLR2004  a dictionary's place
        raise ValueError("a column is compressed, has a dictionary, or is of another kind than the schema says")
    return Chunk(kind, _within(fields[5], 1 << 40), start, start + _within(nbytes, size - start))


def _within(number: Any, most: int) -> int:
    if type(number) is not int or not 0 <= number <= most:
        raise ValueError("a number is not what it can be")
    return number


def _text(raw: Any) -> str:
    return str(raw, "utf-8")  # TypeError where it is no bytes


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    read = os.pread(file.fileno(), count, at)
    if len(read) != count:
        raise ValueError("it is cut short")
    return read
