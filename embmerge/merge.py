"""Make one dataset of local shards: plan → stream → finish.

The plan is made of headers alone. Rows are then streamed, a block at a time, to their place in an output that appears
only when it is complete and was read back. Meanwhile two threads read the articles and hash the shards: the number of
articles is needed only before the last rows are written.
"""

import hashlib
import os
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
from embmerge.coverage import Coverage, check_coverage
from embmerge.errors import LocalDataError, ShardError, UsageError
from embmerge.events import (
    ArticlesRead,
    MergeStarted,
    Observer,
    QualityMeasured,
    RangesVerified,
    RowsWritten,
    Saved,
    Saving,
    ShardLoaded,
    Warned,
    ignore,
)
from embmerge.mergedfile import Writer, check_suffix, open_writer, room_needed
from embmerge.plaintext import printable
from embmerge.quality import NormFigures, Quality
from embmerge.shard import ShardHeader, addressable, read_header, read_rows

_HASHED = 8 << 20  # bytes hashed at once, likewise
_BLOCK = 8 << 20  # bytes of rows in memory at once; smaller ones wait more often for the thread that reads articles


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


@dataclass(frozen=True)
class _Shard:
    """A shard that takes part: where it lies, what it says, and the file as it was when it said so."""

    path: Path
    header: ShardHeader
    seen: tuple[int, int, int]  # size, time of last change (ns), inode


def merge(
    shards: Sequence[Path],
    articles: Path,
    output: Path,
    *,
    expected_articles: int | None = None,
    max_extra_rows: int = 10,
    dtype: str | None = None,
    clusters: Mapping[str, str] | None = None,
    observer: Observer = ignore,
) -> MergeResult:
    """Merge `shards` into `output`, one row an article of the file `articles`, in row order.

    The suffix of `output` picks the format (`embmerge.mergedfile.SUFFIXES`); an existing file is replaced only when
    the new one is complete. `expected_articles`: another number of articles is an error. `max_extra_rows`: so many
    rows after the last article are left out, more are an error. `dtype` ('float16', 'float32' or 'float64') converts;
    without it all shards must have the same. `clusters` says which cluster a shard's file name came from. `observer`
    is told what happens (`embmerge.events`). Peak memory is some 150 MB and the titles, whatever the number of rows.

    Raises `LocalDataError` (shards that do not fit together, articles, NaN or Inf), `ShardError` (a shard that cannot
    be read), `DiskError` (full, not writable), `UsageError` (an unknown suffix). A KeyboardInterrupt leaves nothing.
    """
    began = time.monotonic()
    check_suffix(output)
    _check_apart(output, (articles, *shards))
    observer(MergeStarted(len(shards)))
    with _working() as (pool, stop):
        reading = pool.submit(read_articles, articles, stop=stop)
        sources = _read_headers(shards, clusters or {}, observer)
        coverage = _judge([source.header for source in sources], any_dtype=dtype is not None, observer=observer)
        target = np.dtype(dtype) if dtype else coverage.shards[0].dtype.newbyteorder("=")
        plan = _Plan(sorted(sources, key=lambda s: s.header.start), coverage, target, expected_articles, max_extra_rows)
        atomic.need(output.parent, room_needed(output, coverage.rows, plan.row_nbytes))
        hashing = {source.path: pool.submit(_sha256, source.path, stop) for source in plan.sources}
        with open_writer(output, coverage.rows, plan.dim, target) as writer:
            found, qualities = _stream(plan, reading, writer, observer)
            quality = sum(qualities, Quality())
            _check_quality(plan, quality, qualities)
            figures = quality.figures()
            observer(QualityMeasured(figures.mean_norm, figures.std_norm, figures.zero_rows))
            if figures.zero_rows:
                observer(Warned(f"{figures.zero_rows:,} rows are all zeros: {_where(plan, qualities)}"))
            observer(Saving(output))
            chunks = [
                _chunk(source, part, hashing[source.path].result())
                for source, part in zip(plan.sources, qualities, strict=True)
            ]
            for source in plan.sources:
                _check_unchanged(source)
            writer.finish(found, _metadata(plan, len(found), figures, chunks))
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


@dataclass(frozen=True)
class _Plan:
    """What goes where: the shards in row order, and what the articles must be."""

    sources: list[_Shard]
    coverage: Coverage
    dtype: "np.dtype[Any]"
    expected_articles: int | None
    max_extra_rows: int

    @property
    def dim(self) -> int:
        return self.sources[0].header.dim

    @property
    def row_nbytes(self) -> int:
        return self.dim * self.dtype.itemsize

    @property
    def certain(self) -> int:
        """Rows that are written however many articles there turn out to be."""
        return max(0, self.coverage.rows - self.max_extra_rows)


@contextmanager
def _working() -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    """Two threads for what goes on beside the rows; they stop when the block ends, however it ends."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(2, thread_name_prefix="merge")
    try:
        yield pool, stop
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _check_apart(output: Path, inputs: Sequence[Path]) -> None:
    """Raise `UsageError` if `output` would take the place of what it is made of."""
    for each in inputs:
        if output == each or (output.exists() and each.exists() and output.samefile(each)):
            raise UsageError(f"the output {output} is one of the files to merge", hint="choose another --output")


def _read_headers(paths: Sequence[Path], clusters: Mapping[str, str], observer: Observer) -> list[_Shard]:
    """All headers, or one error that names every shard that has none."""
    shards, problems = [], []
    for index, path in enumerate(paths, 1):
        try:
            with path.open("rb") as file:
                seen = _identity(file)
                header = read_header(file, seen[0], path.name, cluster=clusters.get(path.name))
        except ShardError as error:
            problems.append(error)
            continue
        except OSError as error:
            problems.append(ShardError(f"cannot read {path}: {error.strerror}", hint="sync it again"))
            continue
        shards.append(_Shard(path, header, seen))
        observer(ShardLoaded(header.name, index, len(paths), header.rows, header.dim))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ShardError("; ".join(problem.message for problem in problems), hint=problems[0].hint)
    if not shards:
        raise LocalDataError("there are no shards to merge", hint="download them first: invoke sync")
    return shards


def _judge(headers: list[ShardHeader], *, any_dtype: bool, observer: Observer) -> Coverage:
    coverage = check_coverage(headers, any_dtype=any_dtype)
    if not coverage.ok:
        raise LocalDataError(
            "; ".join(str(problem) for problem in coverage.problems),
            hint="sync the missing shards (invoke verify-remote says where they are), move away what does not belong",
        )
    ranges = tuple((s.cluster_id, s.gpu_id, s.start, s.end) for s in coverage.shards)
    observer(RangesVerified(ranges, coverage.rows))
    return coverage


def _stream(
    plan: _Plan, reading: "Future[Articles]", writer: Writer, observer: Observer
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
                if row >= last and articles is None:
                    articles = _counted(plan, reading.result(), observer)
                    last = len(articles)
                if row >= last:
                    break
                stop = min(row + step, header.end, last)
                rows = read_rows(file, header, row - header.start, stop - header.start)
                quality.add(rows, row)
                writer.write(_converted(rows, plan.dtype, source))
                row = stop
                observer(RowsWritten(row, plan.coverage.rows))
    articles = articles or _counted(plan, reading.result(), observer)
    return articles, qualities


def _open(source: _Shard, files: ExitStack) -> tuple[BinaryIO, ShardHeader]:
    try:
        file: Any = files.enter_context(source.path.open("rb", buffering=0))
    except OSError as error:
        raise ShardError(f"cannot read {source.path}: {error.strerror}", hint="sync it again") from None
    return files.enter_context(addressable(file, source.header))


def _converted(rows: Any, dtype: "np.dtype[Any]", source: _Shard) -> Any:
    if rows.dtype == dtype:
        return rows
    with np.errstate(over="ignore"):
        converted = rows.astype(dtype)
    if dtype.itemsize < rows.dtype.itemsize and (np.isinf(converted) & np.isfinite(rows)).any():
        raise LocalDataError(
            f"{printable(source.header.name)} has values too large for {dtype}", hint="choose a wider --dtype"
        )
    return converted


def _counted(plan: _Plan, articles: Articles, observer: Observer) -> Articles:
    """`articles`, if there are as many as there should be."""
    count, rows = len(articles), plan.coverage.rows
    expected = plan.expected_articles
    if not count:
        raise LocalDataError("the articles file holds no articles", hint="name another with --articles")
    if expected is not None and count != expected:
        raise LocalDataError(
            f"the articles file holds {count:,} articles, but {expected:,} are expected",
            hint="name another file with --articles, or set `expected_articles` in invoke.yaml",
        )
    if rows < count:
        raise LocalDataError(
            f"the shards hold {rows:,} rows, but there are {count:,} articles: "
            f"rows {rows:,} - {count:,} are missing at the end",
            hint="sync the missing shards (invoke verify-remote says where they are)",
        )
    extra = rows - count
    if extra > plan.max_extra_rows:
        raise LocalDataError(
            f"the shards hold {rows:,} rows, {extra:,} more than there are articles ({count:,})",
            hint=f"at most {plan.max_extra_rows:,} are left out; if these are questions, set `max_extra_rows`",
        )
    observer(ArticlesRead(count, extra, (count, plan.dim)))
    return articles


def _check_quality(plan: _Plan, quality: Quality, parts: list[Quality]) -> None:
    if not quality.bad_rows:
        return
    bad = [(source.header, part) for source, part in zip(plan.sources, parts, strict=True) if part.bad_rows]
    named = "; ".join(
        f"{printable(header.name)} ({header.cluster or f'cluster {header.cluster_id}'}): "
        f"{_rows(part.bad_rows)} {', '.join(f'{row:,}' for row in part.first_bad)}"
        for header, part in bad
    )
    raise LocalDataError(f"NaN or Inf in {named}", hint="have these shards computed again, then sync and merge")


def _rows(count: int) -> str:
    return f"{count:,} rows, the first are" if count > 1 else "1 row, the first is"


def _where(plan: _Plan, parts: list[Quality]) -> str:
    zero = [(source.header.name, part.zero_rows) for source, part in zip(plan.sources, parts, strict=True)]
    return ", ".join(f"{count:,} in {name}" for name, count in zero if count)


def _chunk(source: _Shard, quality: Quality, sha256: str) -> dict[str, Any]:
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


def _metadata(plan: _Plan, articles: int, figures: NormFigures, chunks: list[dict[str, Any]]) -> dict[str, Any]:
    models = [source.header.model for source in plan.sources if source.header.model is not None]
    shape = (articles, plan.dim)
    return {
        "total_articles": articles,
        "embedding_dim": plan.dim,
        "shape": shape,
        "model": models[0] if models else None,
        "timestamp": _timestamp(),
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
        },
        "chunk_info": chunks,
    }


def _timestamp() -> str:
    """Now, or `SOURCE_DATE_EPOCH` (seconds since 1970), as https://reproducible-builds.org asks for."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(fixed) if fixed.isdigit() else time.time()
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _identity(file: BinaryIO) -> tuple[int, int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _check_unchanged(source: _Shard) -> None:
    try:
        with source.path.open("rb") as file:
            same = _identity(file) == source.seen
    except OSError:
        same = False
    if not same:
        raise ShardError(
            f"{printable(source.header.name)} changed while it was read", hint="wait for the sync to end, merge again"
        )


def _sha256(path: Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while not stop.is_set() and (block := file.read(_HASHED)):
                digest.update(block)
    except OSError as error:
        raise ShardError(f"cannot read {path}: {error.strerror}", hint="sync it again") from None
    return digest.hexdigest()
