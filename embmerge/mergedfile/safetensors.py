"""The merged file as .safetensors: `embeddings`, and `articles_jsonl`, the articles as JSON lines in bytes.

The format is eight bytes of header length, a JSON header (may end in spaces) and the tensors, little-endian and one
after another without a hole. The header comes first but is known last, so room is left for it; should that not do,
the tensors are moved. Articles are a tensor because libraries refuse headers of more than 100 MB.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from embmerge.mergedfile.jsontext import (
    METADATA_LIMIT,
    Lines,
    check_metadata,
    damaged,
    encode,
    from_strings,
    load,
    read_lines,
    to_strings,
)
from embmerge.mergedfile.rawrows import BLOCK, Region, RowSink, RowSource, not_as_written, read_back

_ROOM = 64 << 10  # some hundred shards' chunk_info
_HEADER_LIMIT = 2 * METADATA_LIMIT  # JSON within JSON doubles every quote
_LENGTH = 8  # bytes, little-endian, before the header
_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class SafetensorsWriter:
    """Writes one .safetensors file at `path`."""

    def __init__(self, path: Path, rows: int, dim: int, dtype: np.dtype[Any]) -> None:  # noqa: ARG002  as the protocol has it
        self._path = path
        self._dim = dim
        self._dtype = dtype.newbyteorder("<")
        self._file = path.open("w+b")
        self._file.seek(_ROOM)
        self._rows = RowSink(self._file, dim, self._dtype)

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Append rows."""
        self._rows.write(rows)

    @property
    def checksum(self) -> int:
        """Of the rows so far."""
        return self._rows.checksum

    def finish(self, articles: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
        """Append the articles, fill in the header, sync, and read it all back."""
        lines = Lines(self._file)
        lines.write(articles)
        header = self._header(lines.nbytes, metadata)
        if len(header) > _ROOM:
            _move(self._file, _ROOM, self._rows.nbytes + lines.nbytes, len(header) - _ROOM)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        written = SafetensorsMerged(self._path)
        try:
            read_back(written, self._rows)
            if lines.count != written.shape[0] or not lines.stand_in(written.lines()):
                raise not_as_written(self._path)
        finally:
            written.close()

    def publish(self, output: Path) -> None:
        """Give the finished file its name."""
        self._path.replace(output)

    def close(self) -> None:
        """Let go of the file, complete or not."""
        self._file.close()

    def _header(self, articles_nbytes: int, metadata: Mapping[str, Any]) -> bytes:
        between = self._rows.nbytes
        tensors = {
            "__metadata__": to_strings(metadata),
            "embeddings": _tensor(_NAMES[self._dtype], [self._rows.rows, self._dim], 0, between),
            "articles_jsonl": _tensor("U8", [articles_nbytes], between, between + articles_nbytes),
        }
        text = encode(tensors)
        room = max(_ROOM, -(-(_LENGTH + len(text)) // _LENGTH) * _LENGTH) - _LENGTH  # keeps the rows aligned
        return room.to_bytes(_LENGTH, "little") + text.ljust(room)


class SafetensorsMerged:
    """A merged .safetensors file, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as files:
            self._file = files.enter_context(path.open("rb"))
            header, data, nbytes = _read_header(self._file, path.name)
            texts = header.pop("__metadata__", None)
            self.shape, self.dtype = _embeddings(header, path.name)
            between = self.shape[0] * self.shape[1] * self.dtype.itemsize
            expected = {
                "embeddings": _tensor(_NAMES[self.dtype], list(self.shape), 0, between),
                "articles_jsonl": _tensor("U8", [nbytes - between], between, nbytes),
            }
            if between > nbytes or header != expected:
                raise damaged(path.name, "its tensors are not `embeddings` and `articles_jsonl`, one after the other")
            self.metadata = check_metadata(from_strings(texts, path.name), self.shape, path.name)
            self._rows = RowSource(self._file, data, self.shape, self.dtype, path.name)
            self._articles = (data + between, nbytes - between)
            self._open = files.pop_all()

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop), as a new array."""
        return self._rows.read(start, stop)

    def articles(self) -> Iterator[dict[str, Any]]:
        """Title, id and url of every row, in row order."""
        yield from read_lines(self.lines(), self.shape[0], self.path.name)

    def lines(self) -> io.BufferedReader:
        """The articles as JSON lines."""
        return io.BufferedReader(Region(self._file, *self._articles))

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()


def _tensor(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def _read_header(file: BinaryIO, name: str) -> tuple[dict[str, Any], int, int]:
    """The header, where the tensors begin, and how many bytes they have."""
    nbytes = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(_LENGTH), "little")
    if nbytes < _LENGTH or length > nbytes - _LENGTH:
        raise damaged(name, "it is cut short or no .safetensors file")
    if length > _HEADER_LIMIT:
        raise damaged(name, f"its header is longer than {_HEADER_LIMIT:,} bytes")
    header = load(file.read(length), name, _HEADER_LIMIT)
    return header, _LENGTH + length, nbytes - _LENGTH - length


def _embeddings(header: dict[str, Any], name: str) -> tuple[tuple[int, int], np.dtype[Any]]:
    match header.get("embeddings"):
        case {"dtype": str(dtype), "shape": [int(rows), int(dim)]} if dtype in _DTYPES and rows >= 0 < dim:
            return (rows, dim), _DTYPES[dtype]
    raise damaged(name, "its `embeddings` are no table of float16, float32 or float64")


def _move(file: BinaryIO, start: int, nbytes: int, by: int) -> None:
    """Move `nbytes` of `file` from `start` on towards its end, the last ones first."""
    at = start + nbytes
    while at > start:
        step = min(BLOCK, at - start)
        at -= step
        file.seek(at)
        block = file.read(step)
        file.seek(at + by)
        file.write(block)
