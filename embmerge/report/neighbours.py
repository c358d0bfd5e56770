"""Do the vectors make sense? Some articles with those that are nearest to them, over all rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from embmerge.errors import LocalDataError
from embmerge.mergedfile import Merged
from embmerge.mergedfile.rawrows import blocks
from embmerge.plaintext import printable
from embmerge.report.statistics import unit

NEAREST = 5
_ASKED = 10  # articles whose neighbours are shown
_BLOCK = 8 << 20  # bytes of rows compared at once
_NARROW = 64  # columns; of fewer, their cosines take more room than the rows


@dataclass(frozen=True)
class Neighbours:
    """An article (its row and title) and the rows, titles and cosines of those nearest to it, nearest first."""

    row: int
    title: str
    nearest: tuple[tuple[int, str, float], ...]


def choose(titles: Sequence[str], article: str | None) -> list[int]:
    """The rows to ask about: that of `article` if it is given, else ten that are drawn, the same each time.

    Raises `LocalDataError`, naming similar titles, if there is no such article.
    """
    if article is None:
        return sorted(np.random.default_rng(0).choice(len(titles), min(_ASKED, len(titles)), replace=False).tolist())
    if article in titles:
        return [titles.index(article)]
    close = get_close_matches(article, titles, 3, 0.6) if len(titles) < 1_000_000 else []  # noqa: PLR2004  seconds
    hint = f"did you mean {', '.join(ascii(printable(title, 60)) for title in close)}?" if close else "titles are exact"
    raise LocalDataError(f"there is no article {printable(article, 80)!a}", hint=hint)


def neighbours(merged: Merged, titles: Sequence[str], rows: Sequence[int]) -> tuple[Neighbours, ...]:
    """The `NEAREST` articles to each of `rows` by cosine, compared with all rows, a block at a time."""
    asked = unit(np.concatenate([merged.rows(row, row + 1) for row in rows]))
    best = np.full((len(rows), NEAREST), -np.inf, np.float32)
    where = np.zeros((len(rows), NEAREST), np.int64)
    for start, stop in blocks(merged.shape[0], 4 * max(merged.shape[1], _NARROW), _BLOCK):
        cosines = asked @ unit(merged.rows(start, stop)).T  # NaN of rows with NaN or Inf, which sorts last
        for number, row in enumerate(rows):
            if start <= row < stop:
                cosines[number, row - start] = -np.inf
        both = np.concatenate((best, cosines), axis=1)
        places = np.concatenate((where, np.broadcast_to(np.arange(start, stop), cosines.shape)), axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :NEAREST]
        best, where = np.take_along_axis(both, order, 1), np.take_along_axis(places, order, 1)
    return tuple(
        Neighbours(
            row,
            titles[row],
            tuple((int(w), titles[w], float(b)) for w, b in zip(where[n], best[n], strict=True) if np.isfinite(b)),
        )
        for n, row in enumerate(rows)
    )
