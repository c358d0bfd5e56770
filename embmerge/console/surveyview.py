"""What `verify-remote` found: a table a cluster, then what they hold together."""

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from embmerge.console.table import Column, minute, table
from embmerge.plaintext import printable, size

if TYPE_CHECKING:
    from embmerge.coverage import Coverage
    from embmerge.remote.survey import ClusterSurvey, Finding, Survey

_NAMES_SHOWN = 5
_COLUMNS = (
    Column("file"),
    Column("size", right=True),
    Column("rows", right=True, goes=1),
    Column("range"),
    Column("dim", right=True, once=True, goes=4),
    Column("dtype", once=True, goes=3),
    Column("model", once=True, least=12, goes=5),
    Column("written at", goes=2),
    Column("ok?", least=11),
)


def survey_lines(survey: "Survey", width: int | None) -> list[str]:
    """The tables, the coverage, and whether a merge of what was asked would succeed."""
    lines = [line for each in survey.clusters for line in _cluster(each, width)]
    missing = ", ".join(each.cluster for each in survey.clusters if each.unseen)
    lines += ["", "COVERAGE", *_coverage(survey, missing)]
    if survey.ok:
        rows = f"{survey.coverage.rows:,} rows in {_shards(survey.coverage)}"
        if survey.coverage.left:
            verdict = f"✓ All is well with {rows}; the rest is for the clusters that were not asked"
        else:
            verdict = f"✓ A merge would succeed: {rows}"
    elif missing:
        verdict = f"✗ Nobody can tell whether a merge would succeed: {missing} could not be looked into"
    else:
        verdict = "✗ A merge would fail"
    return [*lines, verdict]


def _cluster(each: "ClusterSurvey", width: int | None) -> list[str]:
    if each.unseen:
        return ["", f"{each.cluster.upper()}  not looked into"]
    lines = ["", f"{each.cluster.upper()}  {printable(each.remote_dir)}"]
    rows = [_row(finding) for finding in each.findings]
    lines += table(_COLUMNS, rows, width) if rows else ["  no shard is there"]
    whole = {finding.file.name.removesuffix(".pkl") for finding in each.findings if finding.header}
    left: list[str] = []
    live: list[str] = []
    for file in each.checkpoints:
        (left if file.name.partition("_checkpoint_")[0] in whole else live).append(file.name)
    if live:
        lines.append(f"  being written, it seems: {_some(live)} (wait for it: --wait 30)")
    if left:
        lines.append(f"  also there: {_some(left)} (checkpoints, no shards)")
    if each.others:
        lines.append(f"  also there: {_some(each.others)}")
    return lines


def _row(finding: "Finding") -> list[str]:
    file, header = finding.file, finding.header
    verdict = "✓" if finding.verdict == "ok" else f"✗ {finding.verdict}"
    if finding.verdict == "odd":
        verdict += f": {finding.problem}"
    if header is None:
        return [printable(file.name), size(file.nbytes), "?", "?", "?", "?", "?", _when(None, file.mtime), verdict]
    return [
        printable(file.name),
        size(file.nbytes),
        f"{header.rows:,}",
        f"{header.start:,} - {header.end:,}",
        str(header.dim),
        str(header.dtype),
        header.model or "",
        _when(header.timestamp, file.mtime),
        verdict,
    ]


def _when(timestamp: str | None, mtime: int) -> str:
    """The worker's own time stamp if it has a form that is known, else the file's, to the minute."""
    try:
        return (timestamp and minute(timestamp)) or f"{datetime.fromtimestamp(mtime, timezone.utc):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # a server may say anything
        return "?"


def _coverage(survey: "Survey", missing: str) -> list[str]:
    coverage = survey.coverage
    lines = [f"  ✗ {problem}" for problem in survey.problems]
    if coverage.shards:
        held = f"rows {coverage.start:,} - {coverage.end:,}"
        mark, once = ("✓", "each held once") if coverage.ok else ("·", f"{coverage.rows:,} of them are held")
        lines.insert(0, f"  {mark} {held}: {once}, by {_shards(coverage)}")
    elif not lines:
        lines.append("  · no shard was seen")
    for start, end in coverage.left:
        rows = f"rows {start:,} - {end:,}" if end is not None else f"rows from {start:,} on, if there are any,"
        lines.append(
            f"  · {rows} are left{f'; {missing} could not be looked into' if missing else ' for other clusters'}"
        )
    if survey.articles is not None and coverage.end > survey.articles:
        extra = coverage.end - survey.articles
        fate = "are left out" if survey.ok else "come after them"
        lines.append(f"  · {survey.articles:,} articles; the last {extra:,} rows {fate}")
    elif survey.articles is not None:
        lines.append(f"  · {survey.articles:,} articles")
    else:
        lines.append("  · no articles file is here: nobody checked how many rows there should be")
    return lines


def _shards(coverage: "Coverage") -> str:
    count = len(coverage.shards)
    return f"{count} shard{'s' * (count != 1)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(printable(name, 60) for name in names[:_NAMES_SHOWN]) + more
