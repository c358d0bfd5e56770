"""`invoke report`: may this merged file be used, and why? The figures, a verdict on them, and a page with both."""

import platform
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embmerge import atomic
from embmerge.errors import LocalDataError, UsageError
from embmerge.events import Observer, ignore
from embmerge.mergedfile import open_merged, readable
from embmerge.plaintext import printable
from embmerge.quality import unlike
from embmerge.report.neighbours import Neighbours, choose, neighbours
from embmerge.report.statistics import Statistics, disagreement, measure, odd_shards

_PAGES = {".html", ".htm"}
_ASKED = 10  # articles whose neighbours are shown
_HUDDLED = 0.9  # mean cosine of random pairs above which a space tells little apart
_ZEROS = 0.01  # share of rows of zeros above which a worker has failed
_WIDEST, _MEANS = 1 << 16, 1 << 20  # columns; columns of all shards together, of which means and some rows are held
_NAMED = 3  # rows in a finding

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: an error means that the file should not be used, a warning that somebody should look."""

    severity: Severity
    text: str


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
    seed: int = 0,
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
    done = replace(examine(path, article=article, seed=seed, observer=observer), output=output)
    atomic.write_bytes(output, page(done).encode("utf-8", "replace"))
    return done


def examine(
    path: Path, *, article: str | None = None, sample: int = 5000, seed: int = 0, observer: Observer = ignore
) -> Report:
    """Measure the merged file `path`, and judge it.

    `article` asks for the neighbours of one title instead of ten random ones. `sample` rows, drawn by `seed`, show the
    shape of the space. Peak memory is some 200 MB and the titles, whatever the number of rows.

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
        asked = choose(titles, count=_ASKED, seed=seed, article=article)
        statistics = measure(merged, ranges, sample=sample, seed=seed, observer=observer)
        nearest = neighbours(merged, titles, asked)
        metadata = merged.metadata
    findings = judge(statistics, titles, metadata["chunk_info"])
    odd = "" if statistics.nan_count else unlike(statistics, metadata["quality_metrics"])  # which leave those rows out
    if odd:
        findings = (Finding("error", f"the rows are not those that were merged: {odd}"), *findings)
    findings += _of_articles(titles, without_id)
    named = {*statistics.nan_rows, *statistics.zero_rows, *(row for row, _ in statistics.outliers)}
    named |= {row for pair in statistics.duplicates for row in pair}
    return Report(
        path=path,
        output=_page_of(path),
        verdict=_verdict(findings),
        findings=findings,
        statistics=statistics,
        neighbours=nearest,
        titles={row: titles[row] for row in sorted(named)},
        metadata=metadata,
        versions=_versions(),
    )


def judge(statistics: Statistics, titles: list[str], chunks: list[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """What `statistics` mean; a pure function. `titles` by row, `chunks` as many as its shards."""

    def some(rows: tuple[int, ...], count: int) -> str:
        named = ", ".join(f"{row:,} ({printable(titles[row], 60)})" for row in rows[:_NAMED])
        return named + (f" and {count - _NAMED:,} more" if count > _NAMED else "")

    def shard(number: int) -> str:
        chunk = chunks[number]
        where = printable(chunk.get("cluster"), 40) if isinstance(chunk.get("cluster"), str) else "unknown cluster"
        return f"{printable(Path(str(chunk.get('filepath', ''))).name, 60)} ({where})"

    s = statistics
    found = []
    if s.nan_count:
        what = f"{_rows(s.nan_count)} with NaN, Inf or a norm beyond all use"
        found.append(Finding("error", f"{what}: {some(s.nan_rows, s.nan_count)}"))
    found += _of_shards(s, shard)
    if s.zero_count:
        many = s.zero_count > _ZEROS * s.shape[0]
        found.append(
            Finding(
                "error" if many else "warning",
                f"{_rows(s.zero_count)} of zeros only: {some(s.zero_rows, s.zero_count)}",
            )
        )
    if s.duplicate_count:
        a, b = s.duplicates[0]
        pair = f"rows {a:,} ({printable(titles[a], 60)}) and {b:,} ({printable(titles[b], 60)})"
        found.append(Finding("warning", f"{_rows(s.duplicate_count)} equal to an earlier one, such as {pair}"))
    if s.outliers:
        rows = tuple(row for row, _ in s.outliers)
        found.append(
            Finding("warning", f"{_rows(s.outlier_count)} with a norm far from most: {some(rows, s.outlier_count)}")
        )
    if s.space.mean_cosine > _HUDDLED:
        text = f"all vectors point the same way: random pairs have a mean cosine of {s.space.mean_cosine:.3f}"
        found.append(Finding("warning", text))
    if s.unit_norm:
        found.append(Finding("note", "all norms are 1: this model writes unit vectors, so dot products are cosines"))
    return tuple(found)


def _of_articles(titles: list[str], without_id: int) -> tuple[Finding, ...]:
    """What the articles give reason to say."""
    found = []
    if without_id:
        found.append(Finding("warning", f"{without_id:,} of {len(titles):,} articles have no id"))
    seen: set[str] = set()
    repeated = []
    for title in titles:
        if title in seen:
            repeated.append(title)
        seen.add(title)
    if repeated:
        named = printable(repeated[0], 60)
        found.append(Finding("note", f"{len(repeated):,} titles repeat an earlier one, such as {named}"))
    return tuple(found)


def _of_shards(s: Statistics, shard: Callable[[int], str]) -> list[Finding]:
    """What whole shards give reason to say; `shard` names one."""
    found = []
    if s.alike_shards:
        a, b = s.alike_shards[0]
        more = f" (and {len(s.alike_shards) - 1} more such pairs)" if len(s.alike_shards) > 1 else ""
        text = f"{shard(a)} and {shard(b)} hold nearly the same rows{more}: one shard was probably written twice"
        found.append(Finding("error", text))
    odd = odd_shards(s.shards)
    found += [Finding("warning", f"{shard(number)} is unlike the others: {why}") for number, why in odd]
    camps = None if odd else disagreement(s.shards)
    if camps:
        found.append(Finding("warning", f"the shards disagree: {camps}; were all written by the same model?"))
    return found


def _page_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.report.html")


def _rows(count: int) -> str:
    return f"{count:,} row" + "s" * (count != 1)


def _verdict(findings: tuple[Finding, ...]) -> str:
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    if errors:
        return f"Do not use this file: {errors} finding{'s' * (errors > 1)} speak{'s' * (errors == 1)} against it."
    if warnings:
        return f"Usable, but look at {warnings} finding{'s' * (warnings > 1)} first."
    return "Usable: nothing speaks against it."


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
