"""What a merge would ask of the shards on the clusters: known before anything is downloaded."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial

from embmerge.errors import LocalDataError
from embmerge.remote import manifest
from embmerge.settings import Settings
from embmerge.shard import ShardHeader, local_shards, read_header


@dataclass(frozen=True)
class Terms:
    """What a merge would ask for.

    `articles`: how many rows there must be, if known; `max_extra_rows` more are left out. `any_dtype`: the merge
    converts. `others`: configured clusters that are not asked. `local`: shards that are here and not of clusters that
    are asked, which count. `ours`: those that are; where they are not on their cluster any more, they are in the way.
    """

    articles: int | None = None
    max_extra_rows: int = 10
    any_dtype: bool = False
    others: tuple[str, ...] = ()
    local: tuple[ShardHeader, ...] = field(default=(), repr=False)
    ours: tuple[ShardHeader, ...] = field(default=(), repr=False)


def terms(settings: Settings, others: tuple[str, ...], *, merging: bool, named: bool = False) -> Terms:
    """What a merge of the fleet's shards would ask for.

    `merging`: a merge is to follow. Then there must be an articles file, and what the folder holds of the clusters that
    are not asked counts. Otherwise the articles are counted if they are here, or must be if they were `named`. Raises
    `LocalDataError`.
    """
    articles = expected = settings.expected_articles
    if merging or named or settings.articles.exists():
        from embmerge.articles import count_articles  # noqa: PLC0415  needs numpy, as nothing else here does

        articles = count_articles(settings.articles)
        if expected is not None and articles != expected:
            raise LocalDataError(
                f"{settings.articles} holds {articles:,} articles, but {expected:,} are expected",
                hint="name another file with --articles, or set `expected_articles` in invoke.yaml",
            )
    here = _here(settings) if merging else ()
    local = tuple(header for header in here if others and header.cluster in {None, *others})
    return Terms(
        articles=articles,
        max_extra_rows=settings.max_extra_rows,
        any_dtype=settings.dtype is not None,
        others=() if merging else others,
        local=local,
        ours=tuple(header for header in here if header not in local),
    )


def counting(settings: Settings, others: tuple[str, ...], *, merging: bool, named: bool = False) -> Callable[[], Terms]:
    """How to find the `terms`, which takes seconds; once they are found, they are at hand.

    Raises `LocalDataError` at once if there is no articles file, or what is there is none.
    """
    if merging or named or settings.articles.exists():
        from embmerge.articles import first_article  # noqa: PLC0415  as above

        first_article(settings.articles)
    return cache(partial(terms, settings, others, merging=merging, named=named))


def _here(settings: Settings) -> tuple[ShardHeader, ...]:
    """The headers of the shards that are here; of one that has none the merge will speak."""
    known = manifest.origins(settings.embeddings)
    headers, paths = [], []
    with suppress(LocalDataError):  # no folder yet
        paths = local_shards(settings.embeddings)
    for path in paths:
        origin = known.get(path.name)
        with suppress(LocalDataError, OSError), path.open("rb") as file:
            cluster = origin.cluster if origin else None
            headers.append(read_header(file, path.stat().st_size, path.name, cluster=cluster))
    return tuple(headers)
