"""What is in a shard, an articles file, a merged file or a folder of shards, said from the headers alone."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embmerge.articles import begins_with_list, first_article, read_articles
from embmerge.coverage import check_coverage
from embmerge.errors import LocalDataError, ShardError
from embmerge.mergedfile import SUFFIXES, open_merged
from embmerge.plaintext import printable
from embmerge.shard import SHARD_NAME, ShardHeader, local_shards, read_header

_COUNTED = 64 << 20  # bytes of an articles file up to which counting is quick
_PICKLE = ".pkl"
_HINT = "name a shard, an articles file, a merged file or a folder of shards"


@dataclass(frozen=True)
class Inspection:
    """Base of what was found: `kind` is 'shard', 'articles', 'merged' or 'folder', `nbytes` the size on disk."""

    path: Path
    kind: str
    nbytes: int


@dataclass(frozen=True)
class ShardInspection(Inspection):
    """A shard: rows `[start, end)`, `shape` (rows, dim); `processing_time` in seconds, `rate` in rows a second."""

    shape: tuple[int, int]
    dtype: str
    start: int
    end: int
    cluster_id: int
    gpu_id: int
    model: str | None
    timestamp: str | None
    processing_time: float | None
    rate: float | None


@dataclass(frozen=True)
class ArticlesInspection(Inspection):
    """An articles file; `articles` is None where the file is too large to be counted quickly."""

    articles: int | None
    first_article: Mapping[str, Any] | None


@dataclass(frozen=True)
class MergedInspection(Inspection):
    """A merged file: `quality` are its quality_metrics, `sources` its chunk_info."""

    shape: tuple[int, int]
    dtype: str
    model: str | None
    timestamp: str | None
    first_article: Mapping[str, Any] | None
    quality: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class FolderInspection(Inspection):
    """The shards of a folder in row order, and in one line each whatever keeps them from being one dataset."""

    shards: tuple[ShardInspection, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether these shards make one dataset."""
        return not self.problems


def inspect(path: Path) -> Inspection:
    """Say what `path` holds; neither rows nor texts are read, whatever its size.

    Raises `LocalDataError` if it is missing, damaged, or nothing that embmerge knows.
    """
    try:
        if path.is_dir():
            return _folder(path)
        if not path.is_file():
            what = "is no regular file" if path.exists() else "does not exist"
            raise LocalDataError(f"{path} {what}", hint=_HINT)
        if path.suffix in SUFFIXES and path.suffix != _PICKLE:
            return _merged(path)
        if SHARD_NAME.fullmatch(path.name):
            return _shard(path, _header(path))
        return _articles(path) if begins_with_list(path) else _shard_or_merged(path)
    except OSError as error:
        raise LocalDataError(f"cannot read {error.filename or path}: {error.strerror}", hint=_HINT) from None


def _folder(path: Path) -> FolderInspection:
    headers: list[ShardHeader] = []
    problems: list[str] = []
    for each in local_shards(path):
        try:
            headers.append(_header(each))
        except ShardError as error:  # noqa: PERF203  every problem is wanted, and sixteen are no loop
            problems.append(error.message)
    coverage = check_coverage(headers)
    shards = tuple(_shard(path / header.name, header) for header in coverage.shards)
    problems += [str(problem) for problem in coverage.problems]
    return FolderInspection(path, "folder", sum(shard.nbytes for shard in shards), shards, tuple(problems))


def _header(path: Path) -> ShardHeader:
    with path.open("rb") as file:
        return read_header(file, path.stat().st_size, path.name)


def _shard(path: Path, header: ShardHeader) -> ShardInspection:
    return ShardInspection(
        path=path,
        kind="shard",
        nbytes=header.nbytes,
        shape=(header.rows, header.dim),
        dtype=str(header.dtype),
        start=header.start,
        end=header.end,
        cluster_id=header.cluster_id,
        gpu_id=header.gpu_id,
        model=header.model,
        timestamp=header.timestamp,
        processing_time=header.processing_time,
        rate=header.rate,
    )


def _articles(path: Path) -> ArticlesInspection:
    nbytes = path.stat().st_size
    if nbytes > _COUNTED:
        return ArticlesInspection(path, "articles", nbytes, None, first_article(path))
    articles = read_articles(path)
    return ArticlesInspection(path, "articles", nbytes, len(articles), articles[0] if articles else None)


def _merged(path: Path) -> MergedInspection:
    with closing(open_merged(path)) as merged:
        metadata = merged.metadata
        return MergedInspection(
            path=path,
            kind="merged",
            nbytes=path.stat().st_size,
            shape=merged.shape,
            dtype=str(merged.dtype),
            model=metadata["model"],
            timestamp=metadata["timestamp"],
            first_article=next(merged.articles(), None),
            quality=metadata["quality_metrics"],
            sources=tuple(metadata["chunk_info"]),
        )


def _shard_or_merged(path: Path) -> Inspection:
    """A pickled dict under whatever name: a shard costs least to try."""
    try:
        return _shard(path, _header(path))
    except ShardError as error:
        no_shard = error
    try:
        return _merged(path)
    except LocalDataError as error:
        raise LocalDataError(
            f"{printable(path.name)} is neither a shard ({no_shard}) nor a merged file ({error})",
            hint=_HINT,
        ) from None
