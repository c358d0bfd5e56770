"""The merged file as a pickle that plain `pickle.load` reads on numpy 1.17 to 2.x, without a warning.

It is one dict, laid out so that rows are written in place and everything else is found without walking the articles:

    'embeddings'    numpy.ndarray(shape, dtype, bytearray)   the one spelling that every numpy loads, in one copy
    the metadata    plain Python values
    'articles'      a list of dicts, last

The number of rows is known last; it and the length of the bytearray are opcodes of fixed width, filled in at the end.
Opcodes as in CPython's Lib/pickletools.py; the dtype as numpy's own `dtype.__reduce__` gives it. What is read back
must be spelled as it is written here: a memo with more in it, say, would give the articles other keys.
"""

import io
import os
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from embmerge.articles import Articles, begins_with_list
from embmerge.atomic import place_name
from embmerge.errors import LocalDataError
from embmerge.mergedfile.jsontext import check_article, check_metadata, damaged
from embmerge.mergedfile.rawrows import BLOCK, RowSink, RowSource, not_as_written, read_back
from embmerge.picklevalues import Array, Refused
from embmerge.picklewalk import walk
from embmerge.plaintext import printable
from embmerge.records import KEYS, LONGEST, decode, encode, record

_METADATA_LIMIT = 4 << 20  # bytes; some thousand shards
_BATCH = 1000  # articles that one APPENDS takes, as in pickle itself
_ARTICLES = "articles"
_CLOSING = b"s."  # SETITEM, STOP: the list of articles becomes the dict's last value, and that is all


class PickleWriter:
    """Writes one .pkl file at `path`."""

    def __init__(self, path: Path, rows: int, dim: int, dtype: "np.dtype[Any]") -> None:
        self._path, self._dim, self._dtype = path, dim, dtype
        self._file = path.open("w+b")
        self._file.write(_head(rows, dim, dtype))
        self._rows = RowSink(self._file, dim, dtype)

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Append rows."""
        self._rows.write(rows)

    @property
    def checksum(self) -> int:
        """Of the rows so far."""
        return self._rows.checksum

    def finish(self, articles: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
        """Append the metadata and the articles, fill in the number of rows, sync, and read it all back."""
        tail = _Tail(self._file)
        tail.write(_between(metadata))
        _write_articles(tail, articles)
        tail.write(_CLOSING)
        self._file.seek(0)
        self._file.write(_head(self._rows.rows, self._dim, self._dtype))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        written = PickleMerged(self._path)
        try:
            read_back(written, self._rows)
            tail.read_back(self._path)
        finally:
            written.close()

    def publish(self, output: Path) -> None:
        """Give the finished file its name."""
        self._path.replace(output)

    def close(self) -> None:
        """Let go of the file, complete or not."""
        self._file.close()


class PickleMerged:
    """A merged .pkl file, opened for reading; it is never unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        name = self.path.name
        if begins_with_list(self.path):
            raise _not_merged(name, "it is a list, such as an articles file")
        try:
            nbytes = os.fstat(self._file.fileno()).st_size
            value = walk(self._file, nbytes, budget=_METADATA_LIMIT, until=_ARTICLES)
        except Refused as error:
            raise damaged(name, str(error)) from None
        self._articles_at = self._file.tell()
        if type(value) is dict and "start_index" in value and "total_articles" not in value:
            raise _not_merged(name, "it is a shard")
        array = value.pop("embeddings", None) if type(value) is dict else None
        if not isinstance(array, Array) or array.dtype is None or array.raw is None:
            raise _not_merged(name, "it has no 'embeddings' array before its metadata")
        if len(array.shape) != 2 or array.dtype.code[1:] not in {"f2", "f4", "f8"}:  # noqa: PLR2004  a table
            raise damaged(name, f"its array of shape {array.shape} and {array.dtype} is not a table of floats")
        self.shape, self.dtype = (array.shape[0], array.shape[1]), np.dtype(array.dtype.code)
        self.metadata = check_metadata(value, self.shape, name)
        start, end = array.raw.offset, array.raw.offset + array.raw.nbytes
        head, between = _head(*self.shape, self.dtype), _between(value)
        if not (self._has(head, 0, start) and self._has(between, end, self._articles_at)):
            raise damaged(name, "its header is not as merge writes it")
        self._rows = RowSource(self._file, start, self.shape, self.dtype, name)

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop), as a new array."""
        return self._rows.read(start, stop)

    def articles(self) -> Iterator[dict[str, Any]]:
        """Title, id and url of every row, in row order."""
        name = self.path.name
        row = 0
        with self.path.open("rb", buffering=1 << 20) as file:
            file.seek(self._articles_at)
            for row, raw in enumerate(_read_records(file, name), 1):
                if row > self.shape[0]:
                    break
                try:
                    yield check_article(decode(raw), name, row - 1)
                except UnicodeDecodeError:
                    raise damaged(name, f"article {row - 1:,} is not text") from None
        if row != self.shape[0]:
            raise damaged(name, f"it has {'more' if row > self.shape[0] else 'fewer'} articles than rows")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _has(self, expected: bytes, start: int, stop: int) -> bool:
        """Whether bytes [start, stop) of the file are those `expected`."""
        return stop - start == len(expected) and os.pread(self._file.fileno(), len(expected), start) == expected


def _not_merged(name: str, why: str) -> LocalDataError:
    return LocalDataError(
        f"{printable(place_name(name))} is no merged file: {why}",
        hint="name one; `invoke inspect` says what a file holds",
    )


def _head(rows: int, dim: int, dtype: "np.dtype[Any]") -> bytes:
    """Everything before the first row; as long for any number of rows."""
    order, code = dtype.str[0], dtype.str[1:]
    return b"".join(
        (
            b"\x80\x05}(",  # PROTO 5, EMPTY_DICT, MARK
            _plain("embeddings"),
            b"cnumpy\nndarray\n",
            _number(rows) + _number(dim) + b"\x86",  # TUPLE2
            b"cnumpy\ndtype\n" + _plain((code, False, True)) + b"R",  # REDUCE
            _plain((3, order, None, None, None, -1, -1, 0)) + b"b",  # BUILD
            b"\x96" + (rows * dim * dtype.itemsize).to_bytes(8, "little"),  # BYTEARRAY8
        )
    )


def _between(metadata: Mapping[str, Any]) -> bytes:
    """Everything between the last row and the articles."""
    items = (_plain(key) + _plain(value) for key, value in metadata.items())
    return b"".join((b"\x87R", *items, b"u", _plain(_ARTICLES)))  # TUPLE3, REDUCE: the array; SETITEMS


def _number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little")  # LONG1 of eight bytes


def _plain(value: object) -> bytes:
    """The opcodes that leave `value` on the stack, without a memo, so that they can stand anywhere."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=3)  # 4 and later would add frames
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()[2:-1]  # without PROTO and STOP


class _Tail:
    """What follows the rows; knows where it begins, and its checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._start, self._checksum = file, file.tell(), 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._checksum = zlib.crc32(data, self._checksum)

    def read_back(self, path: Path) -> None:
        checksum = 0
        with path.open("rb", buffering=0) as file:
            file.seek(self._start)
            while block := file.read(BLOCK):
                checksum = zlib.crc32(block, checksum)
        if checksum != self._checksum:
            raise not_as_written(path)


def _write_articles(file: _Tail, articles: Iterable[Mapping[str, Any]]) -> None:
    """Append the list of `articles`; the keys are put into the memo first, for all records to recall."""
    file.write(_KEYS_AND_LIST)
    batches = articles.records.batches(_BATCH) if isinstance(articles, Articles) else _batches(articles)
    for batch in batches:
        file.write(b"(%be" % batch)  # MARK, APPENDS


def _batches(articles: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    source = map(_record, articles)
    while batch := list(islice(source, _BATCH)):
        yield b"".join(batch)


def _record(article: Mapping[str, Any]) -> bytes:
    return record(*(encode(article[key]) for key in KEYS))


_KEYS_AND_LIST = b"".join(encode(key) + b"\x940" for key in KEYS) + b"]"  # MEMOIZE and POP each; EMPTY_LIST


def _read_records(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The records that `_write_articles` wrote, to the end of the file; anything else there is refused."""
    if file.read(len(_KEYS_AND_LIST)) != _KEYS_AND_LIST:
        raise damaged(name, "its articles are not where merge puts them")
    while (opcode := file.read(1)) == b"(":  # MARK
        while (opcode := file.read(1)) == b"}":  # EMPTY_DICT
            opened = file.read(1)
            values = [_read_value(file, name, place) for place in range(len(KEYS))]
            closed = file.read(1)
            if opened != b"(" or closed != b"u":
                raise damaged(name, "one of its articles is not as merge writes it")
            yield record(*values)
        if opcode != b"e":  # APPENDS
            raise damaged(name, "its list of articles is not as merge writes it")
    if opcode + file.read(2) != _CLOSING:
        raise damaged(name, "it does not end as merge ends it")


_WIDTHS = {b"X": 4, b"\x8c": 1, b"\x8a": 1, b"N": 0}  # BINUNICODE, SHORT_BINUNICODE, LONG1, NONE: bytes of the length


def _read_value(file: BinaryIO, name: str, place: int) -> bytes:
    """The opcodes of the value whose key stands at `place` in the memo."""
    head = file.read(3)
    width = _WIDTHS.get(head[2:])
    if width is None or head[:2] != bytes((ord("h"), place)):
        raise damaged(name, "one of its articles is not as merge writes it")
    length = file.read(width)
    count = int.from_bytes(length, "little")
    if count > LONGEST:
        raise damaged(name, f"one of its articles has a value of {count:,} bytes")
    return head[2:] + length + file.read(count)
