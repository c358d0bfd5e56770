"""Merged files of every format: the suffix says which one.

`open_writer` makes one that appears whole or not at all, `open_merged` reads one without ever unpickling it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from embmerge.articles import begins_with_list
from embmerge.atomic import check_place, outliving_its_name, sync, temporary_for
from embmerge.errors import LocalDataError, UsageError
from embmerge.plaintext import printable
from embmerge.shard import SHARD_NAME

# suffix → module of this package with a Writer and a Merged; imported when first used
_FORMATS = {
    ".pkl": ("pkl", "PickleWriter", "PickleMerged"),
    ".npy": ("npy", "NpyWriter", "NpyMerged"),
    ".safetensors": ("safetensors", "SafetensorsWriter", "SafetensorsMerged"),
    ".parquet": ("parquet", "ParquetWriter", "ParquetMerged"),
}
SUFFIXES = tuple(_FORMATS)
_ANOTHER = "choose another --output"
_ARTICLE_NBYTES = 200  # that a title, an id and a url usually take


class Writer(Protocol):
    """Writes one merged file under a temporary name; made with (path, rows, dim, dtype), `rows` an upper bound."""

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Append `rows`, (n, dim) of the file's dtype, in row order."""

    @property
    def checksum(self) -> int:
        """Of the rows so far, as `rawrows.checksum` has it."""

    def finish(self, articles: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
        """Complete the file, sync it, read it back; `DiskError` if the disk holds something else than was written."""

    def publish(self, output: Path) -> None:
        """Give the finished file its name; whoever calls syncs the folder."""

    def close(self) -> None:
        """Let go of the file, complete or not."""


class Merged(Protocol):
    """A merged file, opened for reading.

    `metadata` has total_articles, embedding_dim, shape, model, timestamp, quality_metrics and chunk_info.
    """

    path: Path
    shape: tuple[int, int]
    dtype: "np.dtype[Any]"
    metadata: dict[str, Any]

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `[start, stop)` as a new (n, dim) array."""

    def articles(self) -> Iterator[dict[str, Any]]:
        """`{'title', 'id', 'url'}` of every row, in row order, read as they are asked for."""

    def close(self) -> None:
        """Let go of the file."""


@contextmanager
def open_writer(output: Path, rows: int, dim: int, dtype: "np.dtype[Any]") -> Iterator[Writer]:
    """A writer whose file takes the place of `output` when the block ends well, and is gone when it does not.

    `rows` is an upper bound; what is written counts. The folder is made. Raises `UsageError` for an unknown suffix,
    `DiskError` where the disk is full or not writable.
    """
    make = _format(output, 1)
    with temporary_for(output) as hidden:
        writer: Writer = make(hidden, rows, dim, dtype)
        try:
            yield writer
            with outliving_its_name(output):
                writer.publish(output)
            sync(output.parent)
        finally:
            writer.close()


def open_merged(path: Path) -> Merged:
    """The merged file at `path`; close it after use. Raises `LocalDataError` if it is none, or damaged."""
    with readable(path):
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise LocalDataError(f"{path} is no regular file", hint="name a merged file")
        if path.suffix not in SUFFIXES:
            path.stat()  # that it is not there is said before anything about its name
        merged: Merged = _format(path, 2)(path)
    return merged


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the local disk says about the merged file `path`, which is only read, into a `LocalDataError`."""
    try:
        yield
    except FileNotFoundError:
        raise LocalDataError(f"{path} does not exist", hint="make it with `invoke merge`, or name another") from None
    except OSError as error:
        raise LocalDataError(f"cannot read {path}: {error.strerror}", hint="name a merged file") from None


def check_output(path: Path) -> Path:
    """Where a merged file for `path` is to be written: there, or where that links to.

    Raises, before there is anything to lose, what would keep it from being written: `UsageError` if its suffix names no
    format that can be had here (listing those that can), or if the file would be taken for a shard or replace the
    articles; `DiskError` if a folder lies there, or the name is too long.
    """
    _format(path, 1)
    check_place(path)
    path = _followed(path)
    check_place(path)
    if SHARD_NAME.fullmatch(path.name):
        raise UsageError(f"{path} would be taken for a shard", hint=_ANOTHER)
    with suppress(OSError):  # there is none, or one that may not be read
        if path.suffix == ".pkl" and path.is_file() and begins_with_list(path):
            raise UsageError(f"{path} holds a list, such as the articles: it would be lost", hint=_ANOTHER)
    return path


def _followed(path: Path) -> Path:
    """What the link `path` leads to, if a file of one kind lies there and all of it; else `path`, to be replaced."""
    with suppress(OSError, RuntimeError):  # no link, or links in a circle
        target = path.resolve()
        if path.is_symlink() and target.suffix == path.suffix != ".npy":  # which has two files beside it
            return target
    return path


def room_needed(output: Path, rows: int, row_nbytes: int) -> int:
    """The bytes of disk that writing `output` takes, roughly: what is there is only replaced in the end."""
    copies = 2 if output.suffix == ".parquet" else 1  # its rows wait on the disk for the articles
    return rows * (copies * row_nbytes + _ARTICLE_NBYTES)


def _format(path: Path, part: int) -> Any:
    names = _FORMATS.get(path.suffix)
    if names is None:
        what = f"{printable(path.suffix)} is no known format" if path.suffix else "its name says no format"
        raise UsageError(f"{path}: {what}", hint=f"end it in one of {', '.join(SUFFIXES)}")
    return getattr(import_module(f"{__name__}.{names[0]}"), names[part])
