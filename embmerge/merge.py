"""Make one dataset of local shards: plan → stream → finish.

The plan is made of headers alone. Rows are then streamed, a block at a time, to their place in an output that appears
only when it is complete and was read back. Meanwhile two threads read the articles and hash the shards: the number of
articles is needed only before the last rows are written.
"""

import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from embmerge import atomic
from embmerge.articles import Articles, read_articles
from embmerge.errors import LocalDataError, UsageError
from embmerge.events import (
    MergeStarted,
    Observer,
    QualityMeasured,
    RowsWritten,
    Saved,
    Saving,
    Warned,
    ignore,
)
from embmerge.mergedfile import Writer, check_output, open_writer, room_needed
from embmerge.mergeplan import Plan, Source, check_unchanged, counted, judge, read_sources
from embmerge.pages import placed
from embmerge.plaintext import printable
from embmerge.quality import CHECKSUM, NormFigures, Quality
from embmerge.shard import Origin, ShardHeader, readable
from embmerge.shardrows import addressable, read_rows

_BLOCK = 2 << 20  # bytes of rows in memory at once; larger ones are new pages from the system each time
_DTYPES = ("float16", "float32", "float64")
_HASHED = 1 << 20  # bytes hashed at once
_LAST_SECOND = 253_402_300_799  # of the year 9999
_SWITCH = 0.0002  # seconds that the thread which reads articles keeps Python's lock while others want it


@dataclass(frozen=True)
class MergeResult:
    """What a merge made: `articles` rows of `dim` values of `dtype` in `output` (`nbytes`), from `shards`.

    `extra_rows` rows after the last article were left out. `quality` is over all rows written.
    """

    output: Path
    articles: int
    dim: int
    dtype: str
    nbytes: int
    extra_rows: int
    shards: int
    quality: NormFigures
    seconds: float


def merge(
    shards: Sequence[Path],
    articles: Path,
    output: Path,
    *,
    expected_articles: int | None = None,
    max_extra_rows: int = 10,
    dtype: str | None = None,
    origins: Mapping[str, Origin] | None = None,
    observer: Observer = ignore,
) -> MergeResult:
    """Merge `shards` into `output`, one row an article of the file `articles`, in row order.

    The suffix of `output` picks the format (`embmerge.mergedfile.SUFFIXES`); an existing file, or that which a link
    leads to, is replaced only when the new one is complete. `expected_articles`: another number of articles is an
    error. `max_extra_rows`: so many rows after the last article are left out, more are an error. `dtype` ('float16',
    'float32' or 'float64') converts; without it all shards must have the same. `origins` has what is known of where
    a shard of that file name came from, and of its sha256. `observer` is told what happens (`embmerge.events`). Peak
    memory is some 80 MB (95 for Fortran's order), and 0.3 KB an article.

    Raises `LocalDataError` (shards that do not fit together, articles, NaN or Inf), `ShardError` (a shard that cannot
    be read, or has another sha256), `DiskError` (full, not writable), `UsageError` (an unknown suffix or dtype, an
    `output` that is one of the inputs, or holds a list, or has a shard's name, a `SOURCE_DATE_EPOCH` that is no time).
    A KeyboardInterrupt leaves nothing.
    """
    began = time.monotonic()
    _check_apart(output, (articles, *shards))
    output = check_output(output)
    if dtype not in {None, *_DTYPES}:
        raise UsageError(f"{printable(dtype)} is no dtype to convert to", hint=f"choose one of {', '.join(_DTYPES)}")
    timestamp = _timestamp()
    observer(MergeStarted(len(shards)))
    with _working() as (pool, stop):
        reading = pool.submit(read_articles, articles, stop=stop)
        sources = read_sources(shards, origins or {}, observer)
        coverage = judge([source.header for source in sources], any_dtype=dtype is not None, observer=observer)
        target = np.dtype(dtype or coverage.shards[0].dtype.name)
        plan = Plan(sorted(sources, key=lambda s: s.header.start), coverage, target, expected_articles, max_extra_rows)
        atomic.need(output.parent, room_needed(output, coverage.rows, plan.row_nbytes))
        hashing = {source.path: pool.submit(_sha256, source.path, stop) for source in plan.sources}
        with open_writer(output, coverage.rows, plan.dim, target) as writer:
            found, qualities = _stream(plan, reading, writer, observer)
            quality = sum(qualities, Quality())
            _check_quality(plan, quality, qualities)
            figures = quality.figures()
            observer(QualityMeasured(figures.mean_norm, figures.std_norm))
            if figures.zero_rows:
                observer(Warned(f"{figures.zero_rows:,} rows are all zeros: {_where(plan, qualities)}"))
            observer(Saving(output))
            chunks = [
                _chunk(source, part, hashing[source.path].result())
                for source, part in zip(plan.sources, qualities, strict=True)
            ]
            for source, chunk in zip(plan.sources, chunks, strict=True):
                check_unchanged(source, chunk["sha256"])
            writer.finish(found, _metadata(plan, len(found), timestamp, figures, writer.checksum, chunks))
    nbytes = output.stat().st_size
    observer(Saved(output, len(found), nbytes))
    return MergeResult(
        output=output,
        articles=len(found),
        dim=plan.dim,
        dtype=target.name,
        nbytes=nbytes,
        extra_rows=coverage.rows - len(found),
        shards=len(shards),
        quality=figures,
        seconds=time.monotonic() - began,
    )


@contextmanager
def _working() -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    """Two threads for what goes on beside the rows; they stop when the block ends, however it ends."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(2, thread_name_prefix="merge")
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)  # the rows need the lock often and briefly: at 5 ms each they would wait for seconds
    try:
        yield pool, stop
    finally:
        sys.setswitchinterval(usual)
        stop.set()
        pool.shutdown(cancel_futures=True)


def _check_apart(output: Path, inputs: Sequence[Path]) -> None:
    """Raise `UsageError` if `output` would take the place of what it is made of."""
    for each in inputs:
        if output == each or atomic.same_file(output, each):
            raise UsageError(f"the output {output} is one of the files to merge", hint="choose another --output")


def _stream(
    plan: Plan, reading: "Future[Articles]", writer: Writer, observer: Observer
) -> tuple[Articles, list[Quality]]:
    """Write the rows; wait for the articles only when it matters which row is the last."""
    qualities: list[Quality] = []
    articles: Articles | None = None
    last, step = plan.certain, max(1, _BLOCK // plan.row_nbytes)
    for source in plan.sources:
        quality = Quality()
        qualities.append(quality)
        with ExitStack() as files:
            file, header = _open(source, files)
            row = header.start
            while row < header.end:
                if articles is None and (row >= last or reading.done()):
                    articles = counted(plan, reading.result(), observer)
                    last = len(articles)
                if row >= last:
                    break
                # blocks end alike however soon the articles are known: figures depend on them in the last digit
                stop = min(row + step, header.end, plan.certain if row < plan.certain else last)
                rows = read_rows(file, header, row - header.start, stop - header.start)
                rows = _converted(rows, plan.dtype, source)
                quality.add(rows, row)
                writer.write(rows)
                del rows  # else the next ones get other memory, and free() gives this back: a page fault every 4 KB
                row = stop
                observer(RowsWritten(row, plan.coverage.rows))
    articles = articles or counted(plan, reading.result(), observer)
    return articles, qualities


def _open(source: Source, files: ExitStack) -> tuple[BinaryIO, ShardHeader]:
    with readable(source.path):
        file: Any = files.enter_context(source.path.open("rb", buffering=0))
    return files.enter_context(addressable(file, source.header))


def _converted(rows: Any, dtype: "np.dtype[Any]", source: Source) -> Any:
    if rows.dtype == dtype:
        return rows
    with np.errstate(over="ignore"):
        converted = rows.astype(dtype)
    if dtype.itemsize < rows.dtype.itemsize and (np.isinf(converted) & np.isfinite(rows)).any():
        raise LocalDataError(
            f"{printable(source.header.name)} has values too large for {dtype}", hint="choose a wider --dtype"
        )
    return converted


def _check_quality(plan: Plan, quality: Quality, parts: list[Quality]) -> None:
    if not quality.bad_rows:
        return
    bad = [(source.header, part) for source, part in zip(plan.sources, parts, strict=True) if part.bad_rows]
    named = "; ".join(
        f"{printable(header.name)} ({printable(header.cluster or f'cluster {header.cluster_id}')}): "
        f"{_rows(part)} {', '.join(f'{row:,}' for row in part.first_bad)}"
        for header, part in bad
    )
    raise LocalDataError(f"NaN or Inf in {named}", hint="have these shards computed again, then sync and merge")


def _rows(part: Quality) -> str:
    if part.bad_rows > len(part.first_bad):
        return f"{part.bad_rows:,} rows, the first are"
    return "rows" if part.bad_rows > 1 else "row"


def _where(plan: Plan, parts: list[Quality]) -> str:
    zero = [(source.header.name, part.zero_rows) for source, part in zip(plan.sources, parts, strict=True)]
    return ", ".join(f"{count:,} in {name}" for name, count in zero if count)


def _chunk(source: Source, quality: Quality, sha256: str) -> dict[str, Any]:
    header, figures = source.header, quality.figures()
    return {
        "cluster_id": header.cluster_id,
        "gpu_id": header.gpu_id,
        "start_index": header.start,
        "end_index": header.end,
        "filepath": str(source.path),
        "cluster": header.cluster,
        "sha256": sha256,
        "nbytes": source.seen[0],
        "mtime": source.seen[1] // 1_000_000_000,
        "timestamp": header.timestamp,
        "processing_time": header.processing_time,
        "rate": header.rate,
        **{name: value for name, value in asdict(figures).items() if name != "rows"},
    }


def _metadata(
    plan: Plan, articles: int, timestamp: str, figures: NormFigures, checksum: int, chunks: list[dict[str, Any]]
) -> dict[str, Any]:
    models = [source.header.model for source in plan.sources if source.header.model is not None]
    shape = (articles, plan.dim)
    return {
        "total_articles": articles,
        "embedding_dim": plan.dim,
        "shape": shape,
        "model": models[0] if models else None,
        "timestamp": timestamp,
        "quality_metrics": {
            "shape": shape,
            "dtype": plan.dtype.name,
            "min_norm": figures.min_norm,
            "max_norm": figures.max_norm,
            "mean_norm": figures.mean_norm,
            "std_norm": figures.std_norm,
            "has_nan": False,
            "has_inf": False,
            "zero_rows": figures.zero_rows,
            CHECKSUM: checksum,
        },
        "chunk_info": chunks,
    }


def _timestamp() -> str:
    """Now, or `SOURCE_DATE_EPOCH` (seconds since 1970), as https://reproducible-builds.org asks for.

    Raises `UsageError` where that is no such number, or one beyond the year 9999.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not re.fullmatch("[0-9]{0,12}", fixed) or int(fixed or 0) > _LAST_SECOND:
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {printable(fixed, 40)!a}, no number of seconds since 1970 up to the year 9999",
            hint="unset it, or set it to one: export SOURCE_DATE_EPOCH=$(date +%s)",
        )
    seconds = int(fixed) if fixed else time.time()
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _sha256(path: Path, stop: threading.Event) -> str:
    digest, room = hashlib.sha256(), placed(_HASHED).data
    with readable(path), path.open("rb", buffering=0) as file:
        while not stop.is_set() and (got := file.readinto(room)):
            digest.update(room[:got])
    return digest.hexdigest()
