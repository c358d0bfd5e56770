"""The rows of a shard whose header is known, read from their place in the file."""

import codecs
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from embmerge.errors import ShardError, TruncatedShard
from embmerge.pages import as_bytes, placed
from embmerge.picklevalues import Raw
from embmerge.plaintext import printable
from embmerge.shard import ShardHeader

_BLOCK = 1 << 20  # bytes decoded at once


@contextmanager
def addressable(file: BinaryIO, header: ShardHeader) -> Iterator[tuple[BinaryIO, ShardHeader]]:
    """`file` and `header` such that rows can be read from an offset, whatever way the shard stores them.

    Protocol 2 stores bytes as text, and short arrays lie within the pickle; both are written out once, to a file
    without a name.
    """
    raw = header.array.raw
    assert raw is not None
    if not raw.text and raw.offset >= 0:
        yield file, header
        return
    with tempfile.TemporaryFile() as plain:
        if bytes.__len__(raw):
            plain.write(bytes(raw))
        else:
            _decode(file, raw, plain, header)
        plain.flush()
        placed = replace(header.array, raw=Raw(b"", 0, plain.tell()))
        yield plain, replace(header, array=placed)


def _decode(file: BinaryIO, raw: Raw, plain: BinaryIO, header: ShardHeader) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    file.seek(raw.offset)
    left = raw.nbytes
    try:
        while left:
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
    if header.array.order == "C":
        offset = raw.offset + start * header.dim * itemsize
        space = placed((stop - start) * header.dim * itemsize, offset)
        _fill(file, offset, space.data, header)
        return space.view(header.dtype.code).reshape(stop - start, header.dim)
    columns = np.empty((header.dim, stop - start), header.dtype.code)
    for column in range(header.dim):
        _fill(file, raw.offset + (column * header.rows + start) * itemsize, as_bytes(columns[column]), header)
    return np.ascontiguousarray(columns.T)


def _fill(file: Any, offset: int, view: memoryview, header: ShardHeader) -> None:
    file.seek(offset)
    while view:
        got = file.readinto(view)
        if not got:
            raise TruncatedShard(f"{printable(header.name)} became shorter while it was read", hint="sync it again")
        view = view[got:]
