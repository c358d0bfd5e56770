"""Results as lines; the last line is the verdict."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from embmerge.console.inspectview import articles_lines, folder_lines, merged_lines, shard_lines
from embmerge.console.surveyview import survey_lines
from embmerge.console.syncview import sync_lines
from embmerge.plaintext import duration, size

if TYPE_CHECKING:
    from embmerge.convert import ConvertResult
    from embmerge.merge import MergeResult
    from embmerge.remote.ladder import DoctorResult
    from embmerge.report import Report


def render(result: object, width: int | None) -> list[str]:
    """The lines that show `result` within `width` columns (None: as wide as it needs).

    A view is found by the name of the result's type, so that showing a merge does not import SSH.
    """
    return _VIEWS[type(result).__name__](result, width)


def _merged(result: "MergeResult", width: int | None) -> list[str]:  # noqa: ARG001  the common shape of all views
    rows = f"{result.articles:,} × {result.dim} {result.dtype}"
    return [
        f"Merged {result.shards} shards into {result.output}: {rows}, {size(result.nbytes)}, {duration(result.seconds)}"
    ]


def _converted(result: "ConvertResult", width: int | None) -> list[str]:  # noqa: ARG001
    rows = f"{result.rows:,} × {result.dim} {result.dtype}"
    return [f"Converted {result.path} to {result.output}: {rows}, {size(result.nbytes)}, {duration(result.seconds)}"]


def _climbed(result: "DoctorResult", width: int | None) -> list[str]:  # noqa: ARG001
    """The rungs themselves were shown as they were climbed."""
    broken = [f"{rung.cluster or 'this machine'} at {rung.name}" for rung in result.rungs if rung.ok is False]
    if broken:
        return [f"✗ Here it breaks: {', '.join(broken)}"]
    return [f"✓ All {len(result.rungs)} rungs hold"]


def _reported(result: "Report", width: int | None) -> list[str]:  # noqa: ARG001
    marks = {"error": "✗", "warning": "!", "note": "·"}
    return [
        f"REPORT ON {result.path}",
        *(f"  {marks[finding.severity]} {finding.text}" for finding in result.findings),
        f"Page: {result.output}",
        f"{'✓' if result.ok else '✗'} {result.verdict}",
    ]


_VIEWS: dict[str, Callable[[Any, int | None], list[str]]] = {
    "ArticlesInspection": articles_lines,
    "ConvertResult": _converted,
    "DoctorResult": _climbed,
    "FolderInspection": folder_lines,
    "MergedInspection": merged_lines,
    "MergeResult": _merged,
    "Report": _reported,
    "ShardInspection": shard_lines,
    "Survey": survey_lines,
    "SyncResult": sync_lines,
}
