"""One merged file as another: any known format to any other, a block of rows at a time."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embmerge.atomic import need, same_file
from embmerge.errors import LocalDataError, UsageError
from embmerge.events import Observer, RowsWritten, Saved, Saving, ignore
from embmerge.mergedfile import Merged, check_output, open_merged, open_writer, readable, room_needed
from embmerge.mergedfile.rawrows import blocks, checksum
from embmerge.quality import CHECKSUM, Quality, unlike

_DAMAGED = "it has been damaged since: take a copy of it, or merge the shards again"


@dataclass(frozen=True)
class ConvertResult:
    """What was converted: `rows` rows of `dim` values of `dtype` from `path`, now also in `output` (`nbytes`)."""

    path: Path
    output: Path
    rows: int
    dim: int
    dtype: str
    nbytes: int
    seconds: float


def convert(path: Path, output: Path, *, observer: Observer = ignore) -> ConvertResult:
    """Write the merged file `path` again as `output`, whose suffix picks the format.

    Rows, articles and metadata stay as they are, but for what a format cannot say: .safetensors and .parquet are
    little-endian, and .parquet has ids of one type. `output` is replaced only when the new file is complete. Memory
    does not grow with the number of rows.

    Raises `UsageError` (both are the same file, or an `output` that merge would refuse), `LocalDataError` (no merged
    file, or a damaged one: norms and checksum must be those of its `quality_metrics`), `DiskError` (full or not
    writable).
    """
    began = time.monotonic()
    output = check_output(output)
    if path.resolve() == output.resolve() or same_file(path, output):
        raise UsageError(f"{output} is the file to convert itself", hint="choose another --output")
    with closing(open_merged(path)) as merged:
        rows, dim = merged.shape
        row_nbytes = dim * merged.dtype.itemsize
        need(output.parent, room_needed(output, rows, row_nbytes))
        with open_writer(output, rows, dim, merged.dtype) as writer:
            quality, found = Quality(), 0
            for start, stop in blocks(rows, row_nbytes):
                with readable(path):
                    block = merged.rows(start, stop)
                quality.add(block, start)
                found = checksum(block, found)
                writer.write(block)
                observer(RowsWritten(stop, rows))
            metrics = merged.metadata["quality_metrics"]
            _check(quality, found, metrics, path)
            if CHECKSUM in metrics:
                metrics[CHECKSUM] = writer.checksum  # another one if the order of bytes is
            observer(Saving(output))
            writer.finish(_articles(merged), merged.metadata)
    nbytes = output.stat().st_size
    observer(Saved(output, rows, nbytes))
    return ConvertResult(path, output, rows, dim, str(merged.dtype), nbytes, time.monotonic() - began)


def _check(quality: Quality, found: int, merged: Mapping[str, Any], path: Path) -> None:
    """Raise `LocalDataError` if the rows are not what their merge says of them."""
    bad = quality.bad_rows and not (merged.get("has_nan") or merged.get("has_inf"))
    odd = f"NaN or Inf in row {quality.first_bad[0]:,}" if bad else unlike(quality.figures(), found, merged)
    if odd:
        raise LocalDataError(f"the rows of {path} are not those that were merged: {odd}", hint=_DAMAGED)


def _articles(merged: Merged) -> Iterator[dict[str, Any]]:
    with readable(merged.path):
        yield from merged.articles()
