"""`invoke report`: may this merged file be used, and why? The figures, a verdict on them, and a page with both."""

import platform
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from embmerge import atomic
from embmerge.errors import LocalDataError, UsageError
from embmerge.events import Observer, ignore
from embmerge.mergedfile import open_merged, readable
from embmerge.report.findings import Finding, judge, verdict
from embmerge.report.neighbours import Neighbours, choose, neighbours
from embmerge.report.statistics import Statistics, measure

_PAGES = {".html", ".htm"}
_WIDEST, _MEANS = 1 << 16, 1 << 20  # columns; columns of all shards together, of which means and some rows are held


@dataclass(frozen=True)
class Report:
    """All that the page shows. `titles` are those of rows that findings name; `output` is the page."""

    path: Path
    output: Path
    verdict: str
    findings: tuple[Finding, ...]
    statistics: Statistics
    neighbours: tuple[Neighbours, ...]
    titles: Mapping[int, str]
    metadata: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against using the file."""
        return not self._against

    @property
    def _against(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def error(self) -> LocalDataError | None:
        """The error that the task ends with."""
        if self.ok:
            return None
        return LocalDataError(
            f"{self.path} is not to be used: {self._against} finding{'s' * (self._against > 1)} against it",
            hint=f"read {self.output}; have what it names computed again, then sync and merge",
        )


def report(
    path: Path,
    *,
    output: Path | None = None,
    article: str | None = None,
    observer: Observer = ignore,
) -> Report:
    """`examine` the merged file `path`, and write the page beside it (or to `output`).

    Raises as `examine` does, `UsageError` where matplotlib is missing or `output` is no .html, and `DiskError`.
    """
    from embmerge.report.page import page  # noqa: PLC0415  matplotlib is an extra

    output = output or _page_of(path)
    if output.suffix.lower() not in _PAGES:
        raise UsageError(f"{output} would be no page", hint="end --output in .html")
    atomic.check_place(output)
    done = replace(examine(path, article=article, observer=observer), output=output)
    atomic.write_bytes(output, page(done).encode("utf-8", "replace"))
    return done


def examine(path: Path, *, article: str | None = None, observer: Observer = ignore) -> Report:
    """Measure the merged file `path`, and judge it.

    `article` asks for the neighbours of one title instead of ten random ones, the same each time. Peak memory is some
    200 MB and the titles, whatever the number of rows.

    Raises `LocalDataError` (no merged file, one with too many columns, or no such article).
    """
    with readable(path), closing(open_merged(path)) as merged:
        if not merged.shape[0]:
            raise LocalDataError(f"{path} holds no rows")
        _check_width(merged.shape[1], len(merged.metadata["chunk_info"]), path)
        titles, without_id = [], 0
        for each in merged.articles():
            titles.append(str(each["title"]))
            without_id += each["id"] is None
        ranges = _ranges(merged.metadata, merged.shape[0], path)
        asked = choose(titles, article)
        statistics = measure(merged, ranges, observer=observer)
        nearest = neighbours(merged, titles, asked)
        metadata = merged.metadata
    findings = judge(statistics, metadata, titles, without_id)
    named = {*statistics.nan_rows, *statistics.zero_rows, *(row for row, _ in statistics.outliers)}
    named |= {row for pair in statistics.duplicates for row in pair}
    return Report(
        path=path,
        output=_page_of(path),
        verdict=verdict(findings),
        findings=findings,
        statistics=statistics,
        neighbours=nearest,
        titles={row: titles[row] for row in sorted(named)},
        metadata=metadata,
        versions=_versions(),
    )


def _page_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.report.html")


def _check_width(dim: int, shards: int, path: Path) -> None:
    if dim > _WIDEST or dim * shards > _MEANS:
        raise LocalDataError(
            f"{path} has {dim:,} columns from {shards:,} shards, more than a report can compare",
            hint=f"it takes up to {_WIDEST:,} columns, and {_MEANS:,} of all shards together",
        )


def _ranges(metadata: Mapping[str, Any], rows: int, path: Path) -> list[tuple[int, int]]:
    """The rows of each shard, cut to those in the file."""
    ranges = []
    for chunk in metadata["chunk_info"]:
        start, end = chunk.get("start_index"), chunk.get("end_index")
        if start is None or end is None:
            raise LocalDataError(f"{path}: its chunk_info has no row ranges", hint="merge it again")
        ranges.append((min(start, rows), min(end, rows)))
    return ranges


def _versions() -> dict[str, str]:
    try:
        own = version("embmerge")
    except PackageNotFoundError:
        own = "from a checkout"
    return {"embmerge": own, "Python": platform.python_version(), "numpy": np.__version__}
