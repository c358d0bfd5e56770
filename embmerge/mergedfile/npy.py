"""The merged file as NAME.npy, with NAME.articles.jsonl and NAME.json (the metadata) beside it.

`np.load(path, mmap_mode="r")` opens the rows. No rename moves three files at once, so a set gets its names in steps:
the new files are laid down hidden, the hidden NAME.json last. From then on the set counts as replaced; whoever comes
upon that hidden file, reader or writer, finishes the renames. NAME.json knows the other two by size and edges, so
that files which somebody copied from two sets are not taken for one.
"""

import errno
import fcntl
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from embmerge.atomic import place_name, sync
from embmerge.errors import LocalDataError, UsageError
from embmerge.mergedfile.jsontext import METADATA_LIMIT, Lines, check_metadata, damaged, dump, load, read_lines
from embmerge.mergedfile.rawrows import Region, RowSink, RowSource, not_as_written, read_back
from embmerge.plaintext import printable

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = 128  # bytes in all: room for any number of rows
_USUAL = re.compile(rb"\{'descr': '([<>]f[248])', 'fortran_order': False, 'shape': \((\d{1,18}), (\d{1,18})\), \} *\n")
_EDGE = 64 << 10  # bytes at either end of a file that tell it from another one


class NpyWriter:
    """Writes one set of files, the rows at `path` and the rest beside it; `publish` gives them their names."""

    def __init__(self, path: Path, rows: int, dim: int, dtype: np.dtype[Any]) -> None:  # noqa: ARG002  as the protocol has it
        self._paths = _set_of(path)
        self._dim = dim
        self._dtype = dtype
        self._file = path.open("w+b")
        self._file.seek(_HEADER)
        self._rows = RowSink(self._file, dim, dtype)

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Append rows."""
        self._rows.write(rows)

    @property
    def checksum(self) -> int:
        """Of the rows so far."""
        return self._rows.checksum

    def finish(self, articles: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
        """Fill in the header, write the side files, sync, and read it all back."""
        self._file.seek(0)
        self._file.write(_header((self._rows.rows, self._dim), self._dtype))
        with self._paths.articles.open("w+b") as file:
            lines = Lines(file)
            lines.write(articles)
            files = {"npy": _edges(self._file), "articles.jsonl": _edges(file)}
            _sync(file)
        _sync(self._file)
        self._file.close()
        with self._paths.metadata.open("wb") as file:
            file.write(dump({**metadata, "files": files}))
            _sync(file)
        written = NpyMerged(self._paths.rows)
        try:
            read_back(written, self._rows)
            if lines.count != written.shape[0] or not lines.stand_in(written.lines()):
                raise not_as_written(self._paths.rows)
        finally:
            written.close()

    def publish(self, output: Path) -> None:
        """Give the finished set the names that belong to `output`: the old set or the new one, never some of each."""
        final = _set_of(output)
        with _folder_locked(output.parent):
            _finish_renames(final)
            _check_replaceable(final)
            for here, there in zip(self._paths, _hidden(final), strict=True):
                here.replace(there)
            sync(output.parent)
            _finish_renames(final)

    def close(self) -> None:
        """Let go of the file, complete or not."""
        self._file.close()


class NpyMerged:
    """A merged set of files, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        name = place_name(path.name)
        beside = [printable(each.name) for each in _set_of(path.with_name(name))[1:]]
        with ExitStack() as files:
            self._file, self._lines, side = _open_set(path, files)
            self.shape, self.dtype = _read_header(self._file, name)
            metadata = load(side.read(METADATA_LIMIT + 1), beside[1])
            if metadata.pop("files", None) != {"npy": _edges(self._file), "articles.jsonl": _edges(self._lines)}:
                raise damaged(name, f"{' and '.join(beside)} belong to another file")
            self.metadata = check_metadata(metadata, self.shape, name)
            self._rows = RowSource(self._file, _HEADER, self.shape, self.dtype, name)
            self._open = files.pop_all()

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop), as a new array."""
        return self._rows.read(start, stop)

    def articles(self) -> Iterator[dict[str, Any]]:
        """Title, id and url of every row, in row order."""
        yield from read_lines(self.lines(), self.shape[0], self.path.name)

    def lines(self) -> io.BufferedReader:
        """The articles as JSON lines."""
        return io.BufferedReader(Region(self._lines, 0, os.fstat(self._lines.fileno()).st_size))

    def close(self) -> None:
        """Let go of the files."""
        self._open.close()


class _Set(NamedTuple):
    """The three files, in the order in which they are renamed."""

    rows: Path
    articles: Path
    metadata: Path


def _set_of(path: Path) -> _Set:
    stem = path.name.removesuffix(".npy")
    return _Set(path, path.with_name(f"{stem}.articles.jsonl"), path.with_name(f"{stem}.json"))


def _hidden(final: _Set) -> _Set:
    return _Set(*(path.with_name(f".{path.name}.next") for path in final))


def _open_set(path: Path, files: ExitStack) -> tuple[BinaryIO, BinaryIO, BinaryIO]:
    """The three files, all of one set, also where a merge into it was killed or ends at this moment."""
    names = _set_of(path)
    with _folder_locked(path.parent):
        try:
            if _hidden(names).metadata.exists():
                _finish_renames(names)
        except OSError:
            raise damaged(path.name, "its replacement was interrupted and cannot be completed in this folder") from None
        if not names.rows.is_file():
            raise FileNotFoundError(path)
        missing = [printable(each.name) for each in names if not each.is_file()]
        if missing:
            raise damaged(path.name, f"{' and '.join(missing)} should lie beside it and cannot be found")
        rows, articles, metadata = (files.enter_context(each.open("rb")) for each in names)
    return rows, articles, metadata


def _finish_renames(final: _Set) -> None:
    """Complete a replacement that was decided, forget one that was not."""
    hidden = _hidden(final)
    decided = hidden.metadata.is_file()
    for here, there in zip(hidden, final, strict=True):
        with suppress(FileNotFoundError):
            here.replace(there) if decided else here.unlink()
    if decided:
        sync(final.rows.parent)


def _check_replaceable(final: _Set) -> None:
    """Refuse, before anything is decided, what could not be replaced or is somebody else's."""
    for path in final:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    beside = next((path for path in (final.metadata, final.articles) if path.exists()), None)
    if not beside:
        return
    ours = False
    with suppress(LocalDataError, FileNotFoundError), final.metadata.open("rb") as file:
        ours = "files" in load(file.read(METADATA_LIMIT + 1), final.metadata.name)
    if not ours:
        raise UsageError(
            f"{printable(str(beside))} would be overwritten, and is no side file of a merged .npy",
            hint="move it away, or choose another --output",
        )


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """Nobody else renames a set in `folder` meanwhile; where locks are not supported (some NFS), go without."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _edges(file: BinaryIO) -> dict[str, int]:
    """What tells this file from another one, without reading all of it."""
    file.flush()
    nbytes = os.fstat(file.fileno()).st_size
    first = os.pread(file.fileno(), _EDGE, 0)
    last = os.pread(file.fileno(), _EDGE, max(0, nbytes - _EDGE))
    return {"bytes": nbytes, "edges_crc32": zlib.crc32(last, zlib.crc32(first))}


def _header(shape: tuple[int, int], dtype: np.dtype[Any]) -> bytes:
    described = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    text = described.encode().ljust(_HEADER - len(_MAGIC) - 3) + b"\n"
    return _MAGIC + len(text).to_bytes(2, "little") + text


def _read_header(file: BinaryIO, name: str) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Shape and dtype; a header of another length or spelling than ours is refused, not evaluated."""
    header = os.pread(file.fileno(), _HEADER, 0)
    length = len(_MAGIC) + 2
    usual = _USUAL.fullmatch(header[length:])
    if header[:length] != _MAGIC + (_HEADER - length).to_bytes(2, "little") or not usual:
        raise damaged(name, "it is no .npy file of float16, float32 or float64 rows as merge writes it")
    shape, dtype = (int(usual[2]), int(usual[3])), np.dtype(usual[1].decode())
    nbytes = os.fstat(file.fileno()).st_size
    if not shape[1] or nbytes != _HEADER + shape[0] * shape[1] * dtype.itemsize:
        raise damaged(name, f"its size of {nbytes:,} bytes is not that of {shape[0]:,} rows of {shape[1]:,}")
    return shape, dtype
