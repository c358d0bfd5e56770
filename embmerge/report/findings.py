"""What the figures of a merged file mean: findings, and a verdict on them. Pure functions: nothing is read here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embmerge.plaintext import printable
from embmerge.quality import unlike
from embmerge.report.statistics import MAD, ShardFigures, Statistics

_HUDDLED = 0.9  # mean cosine of random pairs above which a space tells little apart
_ZEROS = 0.01  # share of rows of zeros above which a worker has failed
_NAMED = 3  # rows in a finding
_CAMPS = 1.1  # ratio of shards' median norms that one model does not show
_APART = 0.5  # distance of most shards' mean vectors from the common one, in the rows' spread

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: an error means that the file should not be used, a warning that somebody should look."""

    severity: Severity
    text: str


def judge(
    statistics: Statistics, metadata: Mapping[str, Any], titles: Sequence[str], without_id: int
) -> tuple[Finding, ...]:
    """What `statistics` mean for a file with this `metadata`.

    `titles` are those of its articles by row, of which `without_id` have no id.
    """

    def some(rows: tuple[int, ...], count: int) -> str:
        named = ", ".join(f"{row:,} ({printable(titles[row], 60)})" for row in rows[:_NAMED])
        return named + (f" and {count - _NAMED:,} more" if count > _NAMED else "")

    def shard(number: int) -> str:
        chunk = metadata["chunk_info"][number]
        where = printable(chunk.get("cluster"), 40) if isinstance(chunk.get("cluster"), str) else "unknown cluster"
        return f"{printable(Path(str(chunk.get('filepath', ''))).name, 60)} ({where})"

    s = statistics
    found = []
    odd = "" if s.nan_count else unlike(s, s.checksum, metadata["quality_metrics"])  # which leave those rows out
    if odd:
        found.append(Finding("error", f"the rows are not those that were merged: {odd}"))
    if s.nan_count:
        what = f"{counted(s.nan_count)} with NaN, Inf or a norm beyond all use"
        found.append(Finding("error", f"{what}: {some(s.nan_rows, s.nan_count)}"))
    found += _of_shards(s, shard)
    if s.zero_count:
        many = s.zero_count > _ZEROS * s.shape[0]
        found.append(
            Finding(
                "error" if many else "warning",
                f"{counted(s.zero_count)} of zeros only: {some(s.zero_rows, s.zero_count)}",
            )
        )
    if s.duplicate_count:
        a, b = s.duplicates[0]
        pair = f"rows {a:,} ({printable(titles[a], 60)}) and {b:,} ({printable(titles[b], 60)})"
        found.append(Finding("warning", f"{counted(s.duplicate_count)} equal to an earlier one, such as {pair}"))
    if s.outliers:
        rows = tuple(row for row, _ in s.outliers)
        found.append(
            Finding("warning", f"{counted(s.outlier_count)} with a norm far from most: {some(rows, s.outlier_count)}")
        )
    if s.space.mean_cosine > _HUDDLED:
        text = f"all vectors point the same way: random pairs have a mean cosine of {s.space.mean_cosine:.3f}"
        found.append(Finding("warning", text))
    if s.unit_norm:
        found.append(Finding("note", "all norms are 1: this model writes unit vectors, so dot products are cosines"))
    return (*found, *_of_articles(titles, without_id))


def _of_articles(titles: Sequence[str], without_id: int) -> list[Finding]:
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
    return found


def _of_shards(s: Statistics, shard: Callable[[int], str]) -> list[Finding]:
    """What whole shards give reason to say; `shard` names one."""
    found = []
    if s.alike_shards:
        a, b = s.alike_shards[0]
        others = len(s.alike_shards) - 1
        more = f" (and {others} more such pair{'s' * (others > 1)})" if others else ""
        text = f"{shard(a)} and {shard(b)} hold nearly the same rows{more}: one shard was probably written twice"
        found.append(Finding("error", text))
    some = [(number, each) for number, each in enumerate(s.shards) if each.start < each.end]  # not of extra rows alone
    odd = _odd_shards(some)
    found += [Finding("warning", f"{shard(number)} is unlike the others: {why}") for number, why in odd]
    camps = None if odd else _disagreement([each for _, each in some])
    if camps:
        found.append(Finding("warning", f"the shards disagree: {camps}; were all written by the same model?"))
    return found


def _odd_shards(numbered: Sequence[tuple[int, ShardFigures]]) -> list[tuple[int, str]]:
    """(number, why) of shards whose norms or mean vector are unlike all others'; needs three to compare."""
    odd: dict[int, str] = {}
    shards = [shard for _, shard in numbered]
    if len(shards) < 3:  # noqa: PLR2004  of two, nobody knows which is the odd one
        return []
    medians, halves = [shard.median_norm for shard in shards], [shard.middle_half for shard in shards]
    for what, values, least in (
        ("median norm", medians, 0.02 * float(np.median(medians))),
        ("spread of norms", halves, 0.35 * float(np.median(halves))),
        ("mean vector's distance", [shard.shift for shard in shards], 0.1),
    ):
        middle = float(np.median(values))
        spread = max(MAD * float(np.median(np.abs(np.array(values) - middle))), least / 3, 1e-9)
        for (number, _), value in zip(numbered, values, strict=True):
            if abs(value - middle) > max(6 * spread, least):
                odd.setdefault(number, f"its {what} is {value:.4g}, that of most shards {middle:.4g}")
    return sorted(odd.items())


def _disagreement(shards: Sequence[ShardFigures]) -> str | None:
    """How shards differ that fall into camps, such as two clusters with two models: then none is the odd one."""
    norms = [shard.median_norm for shard in shards if shard.median_norm > 0]
    if len(norms) > 1 and max(norms) > _CAMPS * min(norms):
        return f"their median norms go from {min(norms):.4g} to {max(norms):.4g}"
    apart = float(np.median([shard.shift for shard in shards])) if shards else 0.0
    if apart > _APART:
        return f"their mean vectors lie {apart:.2f} standard deviations from the common one"
    return None


def verdict(findings: Sequence[Finding]) -> str:
    """Whether the file may be used, in a sentence."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    if errors:
        return f"Do not use this file: {errors} finding{'s' * (errors > 1)} speak{'s' * (errors == 1)} against it."
    if warnings:
        return f"Usable, but look at {warnings} finding{'s' * (warnings > 1)} first."
    return "Usable: nothing speaks against it."


def counted(rows: int) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{rows:,} row" + "s" * (rows != 1)
