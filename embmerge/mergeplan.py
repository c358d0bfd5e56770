"""What a merge is going to do, decided before the first row is written: which rows come from where.

Headers and the number of articles are all that is looked at; `check_coverage` is the judge.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from embmerge.articles import Articles
from embmerge.coverage import Coverage, advice, check_coverage
from embmerge.errors import LocalDataError, ShardError
from embmerge.events import ArticlesRead, Observer, RangesVerified, ShardLoaded
from embmerge.plaintext import printable
from embmerge.shard import Origin, ShardHeader, read_header, readable

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Source:
    """A shard that takes part: where it lies, what it says, and the file as it was when it said so."""

    path: Path
    header: ShardHeader
    seen: tuple[int, int, int]  # size, time of last change (ns), inode
    sha256: str | None = None  # when it came, if that must still hold


@dataclass(frozen=True)
class Plan:
    """What goes where: the shards in row order, and what the articles must be."""

    sources: list[Source]
    coverage: Coverage
    dtype: "np.dtype[Any]"
    expected_articles: int | None
    max_extra_rows: int

    @property
    def dim(self) -> int:
        """Values a row."""
        return self.sources[0].header.dim

    @property
    def row_nbytes(self) -> int:
        """Bytes a row in the output."""
        return self.dim * self.dtype.itemsize

    @property
    def certain(self) -> int:
        """Rows that are written however many articles there turn out to be."""
        return max(0, self.coverage.rows - self.max_extra_rows)


def read_sources(paths: Sequence[Path], origins: Mapping[str, Origin], observer: Observer) -> list[Source]:
    """All shards with their headers, in the order of `paths`; `origins` are those of file names.

    Raises one `ShardError` that names every shard without a header, and `LocalDataError` if there are no shards.
    """
    shards, problems = [], []
    for index, path in enumerate(paths, 1):
        if path.exists() and not path.is_file():  # a pipe would be waited for
            problems.append(ShardError(f"cannot read {path}: it is no regular file", hint="move it away"))
            continue
        origin = origins.get(path.name)
        try:
            with readable(path), path.open("rb") as file:
                seen = _identity(file)
                header = read_header(file, seen[0], path.name, cluster=origin.cluster if origin else None)
        except ShardError as error:
            problems.append(error)
            continue
        shards.append(Source(path, header, seen, origin.sha256 if origin else None))
        observer(ShardLoaded(header.name, index, len(paths), header.rows, header.dim))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ShardError("; ".join(problem.message for problem in problems), hint=problems[0].hint)
    if not shards:
        raise LocalDataError("there are no shards to merge", hint="download them first: invoke sync")
    return shards


def judge(headers: list[ShardHeader], *, any_dtype: bool, observer: Observer) -> Coverage:
    """What `headers` hold together. Raises `LocalDataError` that lists everything that keeps them from one dataset."""
    coverage = check_coverage(headers, any_dtype=any_dtype)
    if not coverage.ok:
        raise LocalDataError(
            "; ".join(str(problem) for problem in coverage.problems),
            hint=advice(coverage.problems, "sync the missing shards (invoke verify-remote says where they are)"),
        )
    ranges = tuple((s.cluster_id, s.gpu_id, s.start, s.end) for s in coverage.shards)
    observer(RangesVerified(ranges, coverage.rows))
    return coverage


def counted(plan: Plan, articles: Articles, observer: Observer) -> Articles:
    """`articles`, if there are as many as there should be. Raises `LocalDataError`, which says what does not fit."""
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


def _identity(file: BinaryIO) -> tuple[int, int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def check_unchanged(source: Source, sha256: str) -> None:
    """Raise `ShardError` unless the shard, which has this `sha256`, is the file of the plan, and as it came."""
    try:
        with source.path.open("rb") as file:
            same = _identity(file) == source.seen
    except OSError:
        same = False
    if not same:
        raise ShardError(
            f"{printable(source.header.name)} changed while it was read", hint="wait for the sync to end, merge again"
        )
    if source.sha256 not in {None, sha256}:
        whose = f"{printable(source.header.name)} is not what came from {source.header.cluster}"
        raise ShardError(
            f"{whose}: by its sha256, bytes of it have changed on this disk",
            hint="is the disk failing? move the file away, then run invoke sync, which fetches it again",
        )
