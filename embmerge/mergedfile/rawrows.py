"""Rows as plain bytes, one after another: how .npy and .safetensors hold them."""

import io
import os
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from embmerge.atomic import place_name, sync
from embmerge.errors import DiskError
from embmerge.mergedfile.jsontext import damaged
from embmerge.pages import as_bytes, placed
from embmerge.plaintext import printable

if TYPE_CHECKING:
    from embmerge.mergedfile import Merged

BLOCK = 2 << 20  # bytes read or checked at once
_SYNCED = 64 << 20  # bytes written before the disk is asked to begin with them


class RowSink:
    """Writes rows in order to `file` from where it stands; knows how many came and their checksum."""

    def __init__(self, file: BinaryIO, dim: int, dtype: np.dtype[Any]) -> None:
        self._file = file
        self._dim = dim
        self._dtype = dtype
        self.rows = 0
        self.nbytes = 0
        self.checksum = 0
        self._synced = 0
        self._syncing: threading.Thread | None = None

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Append `rows`, (n, dim) of any byte order."""
        if rows.ndim != 2 or rows.shape[1] != self._dim:  # noqa: PLR2004  a table
            raise ValueError(f"rows of shape {rows.shape} do not fit a file of {self._dim} columns")
        rows = np.ascontiguousarray(rows, self._dtype)
        raw = as_bytes(rows)
        self._file.write(raw)
        self.checksum = checksum(rows, self.checksum)
        self.rows += len(rows)
        self.nbytes += len(raw)
        self._sync_behind()

    def _sync_behind(self) -> None:
        """Have the disk begin while rows still come, so that the sync in the end finds little to do.

        The thread has the file open by itself: an error that the disk reports to it is reported to the last sync, too.
        """
        due = self.nbytes - self._synced >= _SYNCED and isinstance(self._file.name, str)
        if due and not (self._syncing and self._syncing.is_alive()):
            self._synced = self.nbytes
            self._syncing = threading.Thread(target=_try_sync, args=(Path(self._file.name),), daemon=True)
            self._syncing.start()


class RowSource:
    """A (rows, dim) table of `dtype` in `file` from byte `offset` on; reading moves no file position."""

    def __init__(self, file: BinaryIO, offset: int, shape: tuple[int, int], dtype: np.dtype[Any], name: str) -> None:
        self._file = file
        self._offset = offset
        self._name = name
        self.shape = shape
        self.dtype = dtype
        self.row_nbytes = shape[1] * dtype.itemsize

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) as a new array; `stop` beyond the last row means up to it, as in slicing."""
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        offset, count = self._offset + start * self.row_nbytes, max(0, stop - start)
        space = placed(count * self.row_nbytes, offset)
        fill(space.data, self._file, offset, self._name)
        return space.view(self.dtype).reshape(count, self.shape[1])


class Region(io.RawIOBase):
    """`nbytes` of `file` from `offset` on, as a file with a position of its own: several can be read at once."""

    def __init__(self, file: BinaryIO, offset: int, nbytes: int) -> None:
        self._fd = file.fileno()
        self._at = offset
        self._end = offset + nbytes

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, room: Any) -> int:
        """Fill `room` as far as the region goes."""
        view = memoryview(room)[: self._end - self._at]
        got = os.preadv(self._fd, [view], self._at) if view else 0
        self._at += got
        return got


def fill(room: memoryview, file: BinaryIO, at: int, name: str) -> None:
    """Fill `room` with the bytes of `file` from `at` on, moving no file position."""
    while room:
        got = os.preadv(file.fileno(), [room], at)
        if not got:
            raise damaged(name, "it became shorter while it was read")
        room, at = room[got:], at + got


def checksum(rows: npt.NDArray[Any], before: int = 0) -> int:
    """A CRC-32 over the sum of each row's words, going on from that of the rows `before`.

    It tells what a disk does wrong: bits that change, pages that are stale, zero or elsewhere. Eight times quicker than
    a CRC-32 of the rows themselves.
    """
    return zlib.crc32(_sums(rows), before)


def _sums(rows: npt.NDArray[Any]) -> bytes:
    """The sum of each row's words, eight bytes a row."""
    raw = rows.reshape(-1).view(np.uint8).reshape(len(rows), rows.shape[1] * rows.itemsize)
    width = next(width for width in (8, 4, 2, 1) if raw.shape[1] % width == 0)
    return bytes(raw.view(f"u{width}").sum(axis=1, dtype=np.uint64))


def read_back(written: "Merged", sink: RowSink) -> None:
    """Read the rows of a finished file again; `DiskError` unless they are what `sink` was given."""
    found = 0
    with ThreadPoolExecutor(1) as beside:  # a second core has nothing else to do by now
        for start, stop in blocks(written.shape[0], written.shape[1] * written.dtype.itemsize, 2 * BLOCK):
            middle = (start + stop) // 2
            second = beside.submit(lambda some: _sums(written.rows(*some)), (middle, stop))
            found = zlib.crc32(_sums(written.rows(start, middle)), found)
            found = zlib.crc32(second.result(), found)
    if written.shape[0] != sink.rows or found != sink.checksum:
        raise not_as_written(written.path)


def _try_sync(path: Path) -> None:
    with suppress(OSError):  # gone, since the merge ended early; or told to the last sync
        sync(path)


def not_as_written(path: Path) -> DiskError:
    """The error for a file that the disk does not give back as it was given."""
    return DiskError(
        f"{printable(str(path.with_name(place_name(path.name))))} does not read back as it was written",
        hint="the disk may be failing; choose an --output on another one",
    )


def blocks(rows: int, row_nbytes: int, nbytes: int = BLOCK) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces of some `nbytes` that together are all `rows`."""
    step = max(1, nbytes // max(1, row_nbytes))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)
