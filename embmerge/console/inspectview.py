"""What `inspect` found: a field a line, the sources as a table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embmerge.console.table import Column, minute, table
from embmerge.plaintext import duration, printable, size

if TYPE_CHECKING:
    from embmerge.inspection import ArticlesInspection, FolderInspection, MergedInspection, ShardInspection

_SHARDS = (
    Column("file"),
    Column("size", right=True),
    Column("range"),
    Column("rows", right=True),
    Column("dim", right=True, once=True, goes=2),
    Column("dtype", once=True, goes=3),
    Column("model", once=True, least=12, goes=4),
    Column("written at", goes=1),
)
_SOURCES = (
    Column("shard"),
    Column("cluster", once=True, goes=3),
    Column("range"),
    Column("mean norm", right=True, goes=4),
    Column("zero rows", right=True, once=True, goes=5),
    Column("written at", goes=2),
    Column("sha256", least=12, goes=1),
)


def shard_lines(found: "ShardInspection", width: int | None) -> list[str]:  # noqa: ARG001  the common shape of all views
    """One shard."""
    took = duration(found.processing_time) if found.processing_time is not None else None
    return [
        f"SHARD {found.path}",
        *_fields(
            {
                "Size": size(found.nbytes),
                "Shape": str(found.shape),
                "Dtype": found.dtype,
                "Rows": f"{found.start:,} - {found.end:,}",
                "Worker": f"cluster {found.cluster_id}, GPU {found.gpu_id}",
                "Model": found.model,
                "Timestamp": found.timestamp,
                "Took": took and (f"{took}, {found.rate:.1f} rows/s" if found.rate is not None else took),
            }
        ),
    ]


def articles_lines(found: "ArticlesInspection", width: int | None) -> list[str]:  # noqa: ARG001
    """An articles file."""
    count = f"{found.articles:,}" if found.articles is not None else "not counted (a large file; merge counts them)"
    fields = {"Size": size(found.nbytes), "Articles": count, "First article": _article(found.first_article)}
    return [f"ARTICLES {found.path}", *_fields(fields)]


def merged_lines(found: "MergedInspection", width: int | None) -> list[str]:
    """A merged file, with its figures and where its rows came from."""
    quality = {name: _figure(value) for name, value in found.quality.items() if name not in {"shape", "dtype"}}
    return [
        f"MERGED {found.path}",
        *_fields(
            {
                "Size": size(found.nbytes),
                "Shape": str(found.shape),
                "Dtype": found.dtype,
                "Model": found.model,
                "Timestamp": found.timestamp,
                "First article": _article(found.first_article),
            }
        ),
        "QUALITY",
        *_fields({printable(name, 40).replace("_", " "): text for name, text in quality.items()}),
        "SOURCES",
        *table(_SOURCES, [_source(each) for each in found.sources], width),
    ]


def folder_lines(found: "FolderInspection", width: int | None) -> list[str]:
    """A folder of shards, and whether they are one dataset."""
    rows = [
        [
            printable(each.path.name),
            size(each.nbytes),
            f"{each.start:,} - {each.end:,}",
            f"{each.end - each.start:,}",
            str(each.shape[1]),
            each.dtype,
            each.model or "",
            minute(each.timestamp or ""),
        ]
        for each in found.shards
    ]
    verdict = "✓ Together they are one dataset" if found.ok else "✗ They are not one dataset yet"
    return [f"SHARDS IN {found.path}", *table(_SHARDS, rows, width), *(f"  ✗ {p}" for p in found.problems), verdict]


def _fields(fields: Mapping[str, str | None]) -> list[str]:
    return [f"  {name}: {printable(text)}" for name, text in fields.items() if text is not None]


def _article(article: Mapping[str, Any] | None) -> str | None:
    if article is None:
        return None
    title, url = printable(article.get("title"), 80), article.get("url")
    return f"{title} ({printable(url, 100)})" if isinstance(url, str) and url else title


def _figure(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else printable(value)


def _source(chunk: Mapping[str, Any]) -> Sequence[str]:
    """One row of the table; a file of another tool's making may lack any of it."""
    name = printable(str(chunk.get("filepath", "?")).rpartition("/")[2], 60)
    texts = [_figure(chunk[key]) if chunk.get(key) is not None else "" for key in ("mean_norm", "zero_rows")]
    start, end = (f"{v:,}" if isinstance(v := chunk.get(key), int) else "?" for key in ("start_index", "end_index"))
    cluster, when, digest = (_text(chunk.get(key)) for key in ("cluster", "timestamp", "sha256"))
    return [name, cluster, f"{start} - {end}", *texts, minute(when), digest]


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""
