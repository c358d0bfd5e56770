"""What a merged file's rows say about themselves, gathered in one pass over blocks of rows.

Nothing here knows titles or pages. The whole array is never held: of each row its norm and a 64-bit fingerprint stay
(16 bytes), of each shard its mean and a few rows, and of all rows a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embmerge.events import Observer, RowsMeasured, ignore
from embmerge.mergedfile import Merged
from embmerge.mergedfile.rawrows import blocks, checksum
from embmerge.quality import row_norms

Floats = npt.NDArray[np.float64]

PROBES = 16  # rows of each shard, at equal relative places, that tell two shards apart
_MATCH = 15  # of them that are nearly the same in two shards that hold nearly the same rows
_BLOCK = 4 << 20  # bytes of rows looked at at once
_SAMPLED = 5000  # rows in the sample, at most,
_SAMPLED_VALUES = 5 << 20  # and values: so many rows have up to 1,048 columns
_PAIRS = 20  # duplicate pairs that are confirmed and named
_OUTLIERS = 10
_ODD = 8.0  # robust standard deviations beyond which a norm is called an outlier
MAD = 1.4826  # median absolute deviation to standard deviation, for normal data
_COMPARED = 64  # shards compared with all others at once
_ROUNDING = 1e-12  # squared distance of unit vectors that float32 does not tell apart
_ALIKE = 0.01  # squared distance of two rows that count as the same, in that of random rows
_BEYOND = 1e15  # a norm that no model writes, and whose square float32 could not hold
_EDGE = 0.001  # share of the rows at either end that does not widen the histogram's axis
_UNIT = 1e-3  # how far from 1 the norms of a unit-norm model may be


@dataclass(frozen=True)
class ShardFigures:
    """One shard's rows `[start, end)`: its norms, and how far its mean vector lies from all rows' (in their spread).

    `middle_half` is the width of the middle half of the norms; one far row moves neither it nor the median.
    """

    start: int
    end: int
    mean_norm: float
    std_norm: float
    median_norm: float
    middle_half: float
    shift: float
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """The shape of the space, on a sample of rows: `spectrum` are shares of the variance, greatest first.

    `mean_cosine` is that of random pairs. `points` are the sample's two principal components, `rows` their rows.
    """

    mean_cosine: float
    effective_dimension: float
    spectrum: tuple[float, ...]
    rows: tuple[int, ...]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Statistics:
    """All figures. Rows are counted in the whole file; `duplicates` are pairs of rows, a group's first row first.

    `nan_rows` are those with NaN, Inf or a norm beyond 1e15, which all other figures leave out. A histogram's outermost
    bins hold also what lies beyond them. Lists of rows are cut; their counts are not. `alike_shards` are pairs of them,
    the first of a group first.
    """

    shape: tuple[int, int]
    dtype: str
    checksum: int
    min_norm: float
    max_norm: float
    mean_norm: float
    std_norm: float
    unit_norm: bool
    nan_rows: tuple[int, ...]
    nan_count: int
    zero_rows: tuple[int, ...]
    zero_count: int
    duplicates: tuple[tuple[int, int], ...]
    duplicate_count: int
    outliers: tuple[tuple[int, float], ...]
    outlier_count: int
    edges: tuple[float, ...]
    histogram: tuple[int, ...]
    shards: tuple[ShardFigures, ...]
    alike_shards: tuple[tuple[int, int], ...]
    space: Space


def measure(merged: Merged, ranges: Sequence[tuple[int, int]], *, observer: Observer = ignore) -> Statistics:
    """The statistics of `merged`, whose shards hold the row `ranges`.

    The space is that of a sample of rows, the same each time; fewer where they are long.
    """
    rows, dim = merged.shape
    norms, prints = np.empty(rows), np.empty(rows, np.uint64)
    random = np.random.default_rng(0)
    chosen = np.sort(random.choice(rows, min(_SAMPLED, rows, _SAMPLED_VALUES // dim), replace=False))
    drawn = np.empty((len(chosen), dim), np.float32)
    probes = [_probe_rows(start, end) for start, end in ranges]
    probed = np.zeros((len(ranges), PROBES, dim), np.float32)
    sums = np.zeros((len(ranges), dim))
    weights = random.integers(1, 1 << 63, dim, dtype=np.uint64) | np.uint64(1)
    found = 0
    for start, stop in blocks(rows, dim * 8, _BLOCK):
        block = merged.rows(start, stop)
        found = checksum(block, found)
        prints[start:stop] = _fingerprints(block, weights)
        with np.errstate(over="ignore", invalid="ignore"):
            norms[start:stop] = row_norms(block)
            floats = block.astype(np.float32)
        norms[start:stop][norms[start:stop] > _BEYOND] = np.inf
        floats[~np.isfinite(norms[start:stop])] = 0
        _gather(drawn, chosen, floats, start)
        for number, (first, end) in enumerate(ranges):
            if first < stop and end > start:
                sums[number] += floats[max(first - start, 0) : end - start].sum(axis=0, dtype=np.float64)
                _gather(probed[number], probes[number], floats, start)
        observer(RowsMeasured(stop, rows))
    good = np.isfinite(norms)
    sound = norms[good]
    edges = _edges(sound)
    outliers, outlier_count = _outliers(norms)
    pairs, pair_count = _duplicates(merged, prints, norms)
    zero = np.flatnonzero(norms == 0)
    bad = np.flatnonzero(~good)
    return Statistics(
        shape=merged.shape,
        dtype=merged.dtype.name,
        checksum=found,
        min_norm=float(sound.min(initial=np.inf)) if len(sound) else 0.0,
        max_norm=float(sound.max(initial=0.0)),
        mean_norm=float(sound.mean()) if len(sound) else 0.0,
        std_norm=float(sound.std()) if len(sound) else 0.0,
        unit_norm=bool(len(sound)) and bool((np.abs(sound - 1) < _UNIT).all()),
        nan_rows=tuple(bad[:_PAIRS].tolist()),
        nan_count=len(bad),
        zero_rows=tuple(zero[:_PAIRS].tolist()),
        zero_count=len(zero),
        duplicates=pairs,
        duplicate_count=pair_count,
        outliers=outliers,
        outlier_count=outlier_count,
        edges=tuple(edges.tolist()),
        histogram=_histogram(sound, edges),
        shards=_shards(ranges, norms, sums, edges, drawn),
        alike_shards=_alike(probed, np.array([len(each) == PROBES for each in probes], np.bool_), drawn),
        space=_space(drawn, chosen),
    )


def unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """`rows` scaled to length 1; a row of zeros stays one, and one with NaN or Inf keeps a NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = row_norms(rows)
        return (rows / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)


def _probe_rows(start: int, end: int) -> npt.NDArray[np.int64]:
    return (
        np.unique(np.linspace(start, max(start, end - 1), PROBES).astype(np.int64))
        if end > start
        else np.empty(0, np.int64)
    )


def _gather(
    into: npt.NDArray[np.float32], wanted: npt.NDArray[Any], block: npt.NDArray[np.float32], start: int
) -> None:
    """Put those rows of `wanted` (sorted) that are in `block`, which begins with row `start`, to their place."""
    first, last = np.searchsorted(wanted, (start, start + len(block)))
    into[first:last] = block[wanted[first:last] - start]


def _fingerprints(block: npt.NDArray[Any], weights: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A multilinear hash of every row's bits: equal rows have equal ones, others next to never."""
    words = block.view(f"u{block.itemsize}").astype(np.uint64)
    words ^= words >> np.uint64(29)
    return np.asarray((words * weights).sum(axis=1, dtype=np.uint64))


def _duplicates(
    merged: Merged, prints: npt.NDArray[np.uint64], norms: Floats
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Pairs of equal rows (the first of a group, another of it), the first few of them confirmed, and how many."""
    order = np.argsort(prints, kind="stable")
    same = prints[order[1:]] == prints[order[:-1]]
    heads = order[np.maximum.accumulate(np.where(np.r_[True, ~same], np.arange(len(order)), 0))]
    repeats = np.flatnonzero(np.r_[False, same])
    repeats = repeats[(norms[order[repeats]] > 0) & np.isfinite(norms[order[repeats]])]  # zeros are counted elsewhere
    pairs = sorted((int(heads[at]), int(order[at])) for at in repeats[: 10 * _PAIRS])
    confirmed = [(a, b) for a, b in pairs[:_PAIRS] if (merged.rows(a, a + 1) == merged.rows(b, b + 1)).all()]
    return tuple(confirmed), len(repeats) if confirmed else 0


def _edges(sound: Floats) -> Floats:
    """Of 60 bins over nearly all norms: a single far one must not squeeze the others into one bin."""
    if not len(sound):
        return np.linspace(0, 1, 61)
    low, high = np.quantile(sound, (_EDGE, 1 - _EDGE))
    room = max((high - low) / 2, 1e-6 * high, 1e-12)  # norms that are all equal need an axis too
    low, high = max(low - room, sound.min() - room / 10), min(high + room, sound.max() + room / 10)
    return np.linspace(low, high, 61)


def _histogram(norms: Floats, edges: Floats) -> tuple[int, ...]:
    return tuple(np.histogram(np.clip(norms, edges[0], edges[-1]), edges)[0].tolist())


def _outliers(norms: Floats) -> tuple[tuple[tuple[int, float], ...], int]:
    """Rows whose norm is far from the others', farthest first and not all, and how many there are."""
    sound = norms[np.isfinite(norms)]
    if not len(sound):
        return (), 0
    middle = np.median(sound)
    spread = max(MAD * float(np.median(np.abs(sound - middle))), 1e-3 * float(middle), 1e-12)
    distance = np.where(np.isfinite(norms), np.abs(norms - middle) / spread, 0)
    distance[norms == 0] = 0
    far = np.argsort(-distance)[:_OUTLIERS]
    named = tuple((int(row), float(norms[row])) for row in far if distance[row] > _ODD)
    return named, int((distance > _ODD).sum())


def _shards(
    ranges: Sequence[tuple[int, int]], norms: Floats, sums: Floats, edges: Floats, drawn: npt.NDArray[np.float32]
) -> tuple[ShardFigures, ...]:
    centre = sums.sum(axis=0) / max(1, len(norms))
    spread = float(np.sqrt(drawn.var(axis=0, dtype=np.float64).sum())) or 1.0
    figures = []
    for number, (start, end) in enumerate(ranges):
        own = norms[start:end]
        own = own[np.isfinite(own)]
        apart = float(np.linalg.norm(sums[number] / max(1, len(own)) - centre)) / spread if len(own) else 0.0
        mean, std = (float(own.mean()), float(own.std())) if len(own) else (0.0, 0.0)
        low, median, high = np.quantile(own, (0.25, 0.5, 0.75)).tolist() if len(own) else (0.0, 0.0, 0.0)
        histogram = _histogram(own, edges)
        figures.append(ShardFigures(start, end, mean, std, median, high - low, apart, histogram))
    return tuple(figures)


def _alike(
    probed: npt.NDArray[np.float32], whole: npt.NDArray[np.bool_], drawn: npt.NDArray[np.float32]
) -> tuple[tuple[int, int], ...]:
    """Pairs of shards that hold nearly the same rows at the same relative places: (a group's first, another of it).

    Nearly is by the distance of random rows: where all vectors huddle, different rows have a cosine near 1 too.
    `probed` (shards, PROBES, dim) are the rows to compare, and are changed; `whole` says which shards have so many.
    """
    units = unit(drawn)
    near = max(_ALIKE * 2 * float(units.var(axis=0, dtype=np.float64).sum()), _ROUNDING)
    middle = units.mean(axis=0)  # seen from there, products of rows lose no digits of their distance
    filled = whole & probed.any(axis=(1, 2))
    for rows in probed:
        rows[:] = unit(rows) - middle
    by_place = probed.transpose(1, 0, 2)
    squares = np.einsum("psd,psd->ps", by_place, by_place)
    first_of: dict[int, int] = {}
    for start in range(0, len(whole), _COMPARED):
        some = slice(start, start + _COMPARED)
        products = by_place[:, some] @ by_place[:, start:].transpose(0, 2, 1)
        distances = squares[:, some, None] + squares[:, None, start:] - 2 * products
        alike = np.triu((distances <= near).sum(axis=0) >= _MATCH, 1) & filled[some, None] & whole[None, start:]
        for other in np.flatnonzero(alike.any(axis=0)).tolist():
            first_of.setdefault(start + other, start + int(alike[:, other].argmax()))
    return tuple(sorted((first, other) for other, first in first_of.items()))


def _space(drawn: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> Space:
    lengths = unit(drawn)
    total, count = lengths.sum(axis=0, dtype=np.float64), max(2, len(lengths))
    cosine = (float(total @ total) - float((lengths * lengths).sum())) / (count * (count - 1))
    centred = drawn - drawn.mean(axis=0)
    wide = centred.shape[1] > len(centred)  # then there are fewer products of rows, and their variances are the same
    products = (centred @ centred.T if wide else centred.T @ centred).astype(np.float64)
    values, vectors = np.linalg.eigh(products / max(1, len(drawn) - 1))
    values, axes = np.clip(values[::-1], 0, None), vectors[:, ::-1][:, :2]
    whole = float(values.sum()) or 1.0
    points = np.zeros((len(drawn), 2))
    lengths_along = np.sqrt(values[:2] * (len(drawn) - 1))
    points[:, : axes.shape[1]] = axes * lengths_along if wide else centred @ axes.astype(np.float32)
    return Space(
        mean_cosine=cosine,
        effective_dimension=whole**2 / (float((values**2).sum()) or 1.0),
        spectrum=tuple((values / whole).tolist()),
        rows=tuple(rows.tolist()),
        points=tuple((x, y) for x, y in points.tolist()),
    )
