"""The rows of a shard whose header is known, read from their place in the file."""

import codecs
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from embmerge.atomic import disk_errors
from embmerge.errors import ShardError, TruncatedShard
from embmerge.pages import as_bytes, placed
from embmerge.picklevalues import Raw
from embmerge.plaintext import printable
from embmerge.shard import ShardHeader, readable

_BLOCK = 1 << 20  # bytes decoded at once
_TILE = 16 << 20  # bytes of rows in memory that are made of columns
_BAND = 1 << 20  # bytes of columns turned at once: they stay in the processor's cache
_JUMP = 8 << 10  # bytes that are read through as quickly as two reads are called


@contextmanager
def addressable(file: BinaryIO, header: ShardHeader) -> Iterator[tuple[Any, ShardHeader]]:
    """`file` and `header` such that rows can be read from an offset, whatever way the shard stores them.

    Protocol 2 stores bytes as text, and short arrays lie within the pickle; both are written out once, to a file
    without a name. Arrays in Fortran's order are turned, a tile at a time.
    """
    raw = header.array.raw
    assert raw is not None
    if not raw.text and raw.offset >= 0:
        yield _in_rows(file, header)
        return
    with tempfile.TemporaryFile() as plain:
        with disk_errors(Path(tempfile.gettempdir())):
            if raw.content:
                plain.write(raw.content)
            else:
                _decode(file, raw, plain, header)
            plain.flush()
        array = replace(header.array, raw=Raw(b"", 0, plain.tell()))
        yield _in_rows(plain, replace(header, array=array))


def _decode(file: BinaryIO, raw: Raw, plain: BinaryIO, header: ShardHeader) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    file.seek(raw.offset)
    left = raw.nbytes
    try:
        while left:
            with readable(printable(header.name)):
                block = file.read(min(left, _BLOCK))
            if not block:
                break
            left -= len(block)
            plain.write(decoder.decode(block, final=not left).encode("latin-1"))
    except UnicodeError:
        left = -1
    if left or plain.tell() != header.rows * header.dim * header.dtype.itemsize:
        raise ShardError(f"{printable(header.name)}: its rows, stored as text, are damaged", hint="sync it again")


def read_rows(file: BinaryIO, header: ShardHeader, start: int, stop: int) -> npt.NDArray[Any]:
    """Rows `[start, stop)` of the shard, counted from its own first row, as a new C-ordered `(n, dim)` array.

    `file` and `header` are those that `addressable` gave. Raises `TruncatedShard` if the file has become shorter.
    """
    raw, itemsize = header.array.raw, header.dtype.itemsize
    assert raw is not None
    offset = raw.offset + start * header.dim * itemsize
    space = placed((stop - start) * header.dim * itemsize, offset)
    _fill(file, offset, space.data, header)
    return space.view(header.dtype.code).reshape(stop - start, header.dim)


class _Rows:
    """A file of columns, read as if it were one of rows; a tile of them is in memory."""

    def __init__(self, file: BinaryIO, header: ShardHeader, offset: int) -> None:
        self._file, self._header, self._offset = file, header, offset
        self._itemsize = header.dtype.itemsize
        self._row_nbytes = header.dim * self._itemsize
        self._step = max(1, _TILE // self._row_nbytes)
        self._tile = np.empty((0, header.dim), header.dtype.code)
        self._first = 0  # row of the tile
        self._at = 0

    def seek(self, offset: int) -> int:
        """Move to a byte, counted as if the rows followed each other."""
        self._at = offset
        return offset

    def readinto(self, view: memoryview) -> int:
        """Fill `view` as far as the tile goes."""
        row = self._at // self._row_nbytes
        if not 0 <= row - self._first < len(self._tile):
            self._load(row - row % self._step)
        content = as_bytes(self._tile)[self._at - self._first * self._row_nbytes :][: len(view)]
        view[: len(content)] = content
        self._at += len(content)
        return len(content)

    def _load(self, first: int) -> None:
        """Make the tile of rows from `first` on: of whole columns if these are short, else of a piece of each."""
        header = self._header
        count = min(self._step, header.rows - first)
        through = header.rows * self._itemsize <= _JUMP
        start, length = (0, header.rows) if through else (first, count)
        self._tile = self._tile if len(self._tile) == count else np.empty((count, header.dim), header.dtype.code)
        self._first = first
        band = np.empty((max(1, _BAND // (length * self._itemsize)), length), header.dtype.code)
        for column in range(0, header.dim, len(band)):
            part = band[: header.dim - column]
            if through:
                self._fill(part, column, start)
            else:
                for number in range(len(part)):
                    self._fill(part[number], column + number, start)
            self._tile[:, column : column + len(part)] = part[:, first - start :][:, :count].T

    def _fill(self, columns: npt.NDArray[Any], column: int, start: int) -> None:
        at = self._offset + (column * self._header.rows + start) * self._itemsize
        _fill(self._file, at, as_bytes(columns), self._header)


def _in_rows(file: BinaryIO, header: ShardHeader) -> tuple[Any, ShardHeader]:
    raw = header.array.raw
    assert raw is not None
    if header.array.order == "C":
        return file, header
    turned = replace(header.array, order="C", raw=Raw(b"", 0, raw.nbytes))
    return _Rows(file, header, raw.offset), replace(header, array=turned)


def _fill(file: Any, offset: int, view: memoryview, header: ShardHeader) -> None:
    file.seek(offset)
    while view:
        with readable(printable(header.name)):
            got = file.readinto(view)
        if not got:
            raise TruncatedShard(f"{printable(header.name)} became shorter while it was read", hint="sync it again")
        view = view[got:]
