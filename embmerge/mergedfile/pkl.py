"""The merged file as a pickle that plain `pickle.load` reads on numpy 1.17 to 2.x, without a warning.

It is one dict, laid out so that rows are written in place and everything else is found without walking the articles:

    'embeddings'    numpy.ndarray(shape, dtype, bytearray)   the one spelling that every numpy loads, in one copy
    the metadata    plain Python values
    'articles'      a list of dicts, last

The number of rows is known last; it and the length of the bytearray are opcodes of fixed width, filled in at the end.
Opcodes as in CPython's Lib/pickletools.py; the dtype as numpy's own `dtype.__reduce__` gives it.
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

from embmerge.articlewalk import walk_articles
from embmerge.mergedfile.jsontext import check_article, check_metadata, damaged
from embmerge.mergedfile.rawrows import BLOCK, RowSink, RowSource, not_as_written, read_back
from embmerge.picklewalk import Array, Refused, walk
from embmerge.plaintext import printable

_METADATA_LIMIT = 4 << 20  # bytes; some thousand shards
_BATCH = 1000  # articles that one APPENDS takes, as in pickle itself
_KEYS = ("title", "id", "url")
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

    def finish(self, articles: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
        """Append the metadata and the articles, fill in the number of rows, sync, and read it all back."""
        tail = _Tail(self._file)
        tail.write(b"\x87R")  # TUPLE3, REDUCE: the array
        for key, value in metadata.items():
            tail.write(_plain(key) + _plain(value))
        tail.write(b"u" + _plain(_ARTICLES))  # SETITEMS
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
        try:
            nbytes = os.fstat(self._file.fileno()).st_size
            value = walk(self._file, nbytes, budget=_METADATA_LIMIT, until=_ARTICLES)
        except Refused as error:
            raise damaged(name, str(error)) from None
        self._articles_at = self._file.tell()
        array = value.pop("embeddings", None) if type(value) is dict else None
        if not isinstance(array, Array) or array.dtype is None or array.raw is None:
            raise damaged(name, "it has no 'embeddings' array before its metadata: it is not a merged file of embmerge")
        plain = len(array.shape) == 2 and array.order == "C" and not array.raw.text and array.raw.offset > 0  # noqa: PLR2004  a table
        if not plain or array.dtype.str[1:] not in {"f2", "f4", "f8"}:
            raise damaged(name, f"its array of shape {array.shape} and {array.dtype} is not a table of floats")
        self.shape, self.dtype = (array.shape[0], array.shape[1]), array.dtype
        self.metadata = check_metadata(value, self.shape, name)
        self._rows = RowSource(self._file, array.raw.offset, self.shape, self.dtype, name)

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop), as a new array."""
        return self._rows.read(start, stop)

    def articles(self) -> Iterator[dict[str, Any]]:
        """Title, id and url of every row, in row order."""
        name, row = self.path.name, 0
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._articles_at)
            try:
                for batch in walk_articles(file, closing=_CLOSING):
                    for article in batch:
                        yield check_article(dict(zip(_KEYS, article, strict=True)), name, row)
                        row += 1
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise damaged(name, f"its articles cannot be read ({printable(str(error), 80)})") from None
        if row != self.shape[0]:
            raise damaged(name, f"it has {row:,} articles for {self.shape[0]:,} rows")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _head(rows: int, dim: int, dtype: "np.dtype[Any]") -> bytes:
    """Everything before the first row; as long for any number of rows."""
    reduced: Any = dtype.__reduce__()
    _function, arguments, state = reduced
    return b"".join(
        (
            b"\x80\x05}(",  # PROTO 5, EMPTY_DICT, MARK
            _plain("embeddings"),
            b"cnumpy\nndarray\n",
            _number(rows) + _number(dim) + b"\x86",  # TUPLE2
            b"cnumpy\ndtype\n" + _plain(arguments) + b"R" + _plain(state) + b"b",  # REDUCE, BUILD
            b"\x96" + (rows * dim * dtype.itemsize).to_bytes(8, "little"),  # BYTEARRAY8
        )
    )


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
    """Append the list of `articles`; the three keys are written once and remembered, as pickle would."""
    file.write(b"]")  # EMPTY_LIST
    source = iter(articles)
    title, key, url = (_plain(name) + b"\x94" for name in _KEYS)  # MEMOIZE, as 0, 1 and 2
    while batch := list(islice(source, _BATCH)):
        pieces = [b"("]  # MARK
        for article in batch:
            values = _scalar(article["title"]), _scalar(article["id"]), _scalar(article["url"])
            pieces.append(b"}(%b%b%b%b%b%bu" % (title, values[0], key, values[1], url, values[2]))  # SETITEMS
            title, key, url = b"h\x00", b"h\x01", b"h\x02"  # BINGET
        pieces.append(b"e")  # APPENDS
        file.write(b"".join(pieces))


def _scalar(value: object) -> bytes:
    if type(value) is str:
        text = value.encode("utf-8", "surrogatepass")
        return b"X%b%b" % (len(text).to_bytes(4, "little"), text)  # BINUNICODE
    return b"N" if value is None else _plain(value)
