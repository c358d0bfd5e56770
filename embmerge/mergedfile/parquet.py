"""The merged file as .parquet: columns title, id, url and embedding, the latter a fixed-size list of floats.

Rows come before the articles, but a row group holds both, so rows wait in an unnamed temporary file beside the output.
Nothing is compressed or dictionary-encoded: embeddings hardly shrink, and what we read back cannot be larger than the
file. Ids are 64-bit numbers if all of them are, else text.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import accumulate, islice, pairwise, zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from embmerge.errors import UsageError
from embmerge.mergedfile.jsontext import (
    METADATA_LIMIT,
    check_article,
    check_metadata,
    damaged,
    from_strings,
    to_strings,
)
from embmerge.mergedfile.parquetpages import (
    INT64,
    OPTIONAL,
    REPEATED,
    REQUIRED,
    TEXT,
    Chunk,
    Column,
    Footer,
    Kind,
    floats_start,
    pages,
    read_footer,
    scalars,
)
from embmerge.mergedfile.rawrows import RowSink, RowSource, fill, not_as_written, read_back
from embmerge.pages import as_bytes
from embmerge.plaintext import printable

_TEXTS = ["title", "id", "url"]
_ROWS = "embedding"
_GROUP_ROWS = 1 << 16
_GROUP_NBYTES = 8 << 20  # of rows in one row group, which is what a writer holds at a time
_FOOTER_LIMIT = 8 * METADATA_LIMIT  # it holds the metadata twice, once as base64
_INT64 = range(-(2**63), 2**63)
_FLOATS: dict[np.dtype[Any], Kind] = {np.dtype("<f2"): (7, 2), np.dtype("<f4"): (4, None), np.dtype("<f8"): (5, None)}


class ParquetWriter:
    """Writes one .parquet file at `path`."""

    def __init__(self, path: Path, rows: int, dim: int, dtype: np.dtype[Any]) -> None:  # noqa: ARG002  as the protocol has it
        _pyarrow()  # that it is missing is said now, not when the rows are in
        self._path = path
        self._dim = dim
        self._dtype = dtype.newbyteorder("<")
        self._spool: BinaryIO = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  it lives as long as the writer
        self._rows = RowSink(self._spool, dim, self._dtype)

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Append rows."""
        self._rows.write(rows)

    @property
    def checksum(self) -> int:
        """Of the rows so far."""
        return self._rows.checksum

    def finish(self, articles: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
        """Write rows and articles together, sync, and read it all back."""
        pa, pq = _pyarrow()
        self._spool.flush()
        shape = (self._rows.rows, self._dim)
        rows = RowSource(self._spool, 0, shape, self._dtype, self._path.name)
        step = max(1, min(_GROUP_ROWS, _GROUP_NBYTES // rows.row_nbytes))
        texts = _texts(articles, step)
        vector = pa.list_(pa.field("element", pa.from_numpy_dtype(self._dtype), nullable=False), self._dim)
        fields = [pa.field(name, texts[0].column(name).type) for name in _TEXTS]
        schema = pa.schema([*fields, pa.field(_ROWS, vector, nullable=False)], to_strings(metadata))
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        with self._path.open("wb") as file:
            with pq.ParquetWriter(file, schema, **plain) as out:
                for number, text in enumerate(texts):
                    flat = rows.read(number * step, (number + 1) * step).reshape(-1)
                    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=vector)
                    out.write_table(pa.table([*text.columns, vectors], schema=schema), row_group_size=step)
            file.flush()
            os.fsync(file.fileno())
        self._spool.close()
        written = ParquetMerged(self._path)
        try:
            read_back(written, self._rows)
            given = (article for text in texts for article in text.to_pylist())
            if any(there != article for there, article in zip_longest(written.articles(), given)):
                raise not_as_written(self._path)
        finally:
            written.close()

    def publish(self, output: Path) -> None:
        """Give the finished file its name."""
        self._path.replace(output)

    def close(self) -> None:
        """Let go of the files, complete or not."""
        self._spool.close()


class ParquetMerged:
    """A merged .parquet file, opened for reading; pyarrow is not needed for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as files, _refusals(path.name):
            self._file = files.enter_context(path.open("rb"))
            footer = read_footer(self._file, _FOOTER_LIMIT)
            self.dtype = _dtype(footer)
            metadata = from_strings(footer.texts, path.name)
            self._starts = [0, *accumulate(rows for rows, _ in footer.groups)]
            self.shape = (self._starts[-1], metadata["embedding_dim"])
            self.metadata = check_metadata(metadata, self.shape, path.name)
            self._chunks = [chunks for _, chunks in footer.groups]
            for rows, chunks in footer.groups:
                if [chunk.values for chunk in chunks] != [rows, rows, rows, rows * self.shape[1]]:
                    raise ValueError("the columns of a row group differ in length")
            self._open = files.pop_all()
        self._float_pages: dict[int, list[tuple[int, int]]] = {}  # of each row group: where, and how many bytes

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop), as a new array."""
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        rows = np.empty((max(0, stop - start), self.shape[1]), self.dtype)
        room, nbytes = as_bytes(rows), self.shape[1] * self.dtype.itemsize
        for group, (first, end) in enumerate(pairwise(self._starts)):
            low, high = max(first, start), min(end, stop)
            if low < high:
                self._fill(room[(low - start) * nbytes : (high - start) * nbytes], group, (low - first) * nbytes)
        return rows

    def articles(self) -> Iterator[dict[str, Any]]:
        """Title, id and url of every row, in row order."""
        row = 0
        with _refusals(self.path.name):
            for chunks in self._chunks:
                columns = (self._scalars(chunk) for chunk in chunks[: len(_TEXTS)])
                for title, key, url in zip(*columns, strict=True):
                    yield check_article({"title": title, "id": key, "url": url}, self.path.name, row)
                    row += 1

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()

    def _scalars(self, chunk: Chunk) -> Iterator[Any]:
        for page in pages(self._file, chunk):
            yield from scalars(self._file, page, numbers=chunk.kind == INT64)

    def _fill(self, room: memoryview, group: int, skip: int) -> None:
        """Read the floats of a row group into `room`, from its byte `skip` on."""
        if group not in self._float_pages:
            size = self.dtype.itemsize
            with _refusals(self.path.name):
                found = [
                    (floats_start(self._file, p, size), p.values * size)
                    for p in pages(self._file, self._chunks[group][-1])
                ]
            self._float_pages[group] = found
        for at, nbytes in self._float_pages[group]:
            part = room[: max(0, nbytes - skip)]
            fill(part, self._file, at + skip, self.path.name)
            room, skip = room[len(part) :], max(0, skip - nbytes)


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow as pa  # noqa: PLC0415  an extra, and slow to load
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise UsageError(".parquet files need pyarrow, which is not installed", hint="pip install pyarrow") from None
    return pa, pq


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """What cannot be read, as a `LocalDataError`."""
    try:
        yield
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        why = str(error) if type(error) is ValueError else "it is damaged"
        raise damaged(name, f"it is not a .parquet file as merge writes it: {printable(why)}") from None


def _texts(articles: Iterable[Mapping[str, Any]], step: int) -> list[Any]:
    """Title, id and url as pyarrow tables of `step` articles each: a fifth of what Python's objects would need."""
    pa, _ = _pyarrow()
    source = iter(articles)
    tables: list[Any] = []
    while (some := list(islice(source, step))) or not tables:  # none at all is a table, too
        ids = [article["id"] for article in some]
        numbers = all(isinstance(key, int) and key in _INT64 for key in ids)
        columns = {
            "title": [_utf8(article["title"]) for article in some],
            "id": ids if numbers else [None if key is None else _utf8(str(key)) for key in ids],
            "url": [None if article["url"] is None else _utf8(article["url"]) for article in some],
        }
        types = {"title": pa.string(), "id": pa.int64() if numbers else pa.string(), "url": pa.string()}
        tables.append(pa.table(columns, schema=pa.schema(types)))
    if len({table.schema.field("id").type for table in tables}) > 1:  # numbers in some, text in others
        tables = [table.cast(pa.schema(dict.fromkeys(_TEXTS, pa.string()))) for table in tables]
    return tables


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")  # half a surrogate pair, which no Parquet reader would take


def _dtype(footer: Footer) -> np.dtype[Any]:
    for dtype, kind in _FLOATS.items():
        if footer.columns[1:] in (_columns(INT64, kind), _columns(TEXT, kind)):
            return dtype
    raise ValueError(f"its columns are not title, id, url and {_ROWS}, a list of floats")


def _columns(ids: Kind, floats: Kind) -> tuple[Column, ...]:
    scalars = [Column(name.encode(), ids if name == "id" else TEXT, OPTIONAL) for name in _TEXTS]
    lists = [Column(_ROWS.encode(), None, REQUIRED, 1), Column(b"list", None, REPEATED, 1)]
    return (*scalars, *lists, Column(b"element", floats, REQUIRED))
