"""Which rows are held by which shard, and everything that keeps them from being one dataset.

`check_coverage` is the one judge: `verify-remote` asks it before a byte is downloaded, `merge` before the first row
is written. It looks at headers only and does no I/O.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embmerge.plaintext import printable
from embmerge.shard import ShardHeader


@dataclass(frozen=True)
class Gap:
    """Rows `[start, end)` that no shard holds; `before` and `after` are the shards on either side, if any."""

    start: int
    end: int
    before: ShardHeader | None
    after: ShardHeader | None

    def __str__(self) -> str:
        """The missing range and its neighbours, in one line."""
        if self.before and self.after:
            where = f"between {_who(self.before)} and {_who(self.after)}"
        elif self.after:
            where = f"before {_who(self.after)}"
        else:
            where = f"after {_who(self.before)}" if self.before else "no shard at all"
        return f"gap: rows {self.start:,} - {self.end:,} are missing ({where})"


@dataclass(frozen=True)
class Overlap:
    """Rows `[start, end)` that both `first` and `second` hold."""

    start: int
    end: int
    first: ShardHeader
    second: ShardHeader

    def __str__(self) -> str:
        """The doubled range and who holds it, in one line."""
        pair = f"{_who(self.first)} and {_who(self.second)}"
        if (self.first.start, self.first.end) == (self.second.start, self.second.end):
            return f"duplicate: rows {self.start:,} - {self.end:,} are held twice, by {pair}"
        return f"overlap: rows {self.start:,} - {self.end:,} are held by both {pair}"


@dataclass(frozen=True)
class Disagreement:
    """Shards that differ in `field` ('dim', 'dtype' or 'model'): for each value, the shards that have it.

    The value of most shards comes first.
    """

    field: str
    values: tuple[tuple[str, tuple[ShardHeader, ...]], ...]

    def __str__(self) -> str:
        """Each value with the shards that have it, the odd ones named."""
        (usual, most), *odd = self.values
        named = "; ".join(f"{printable(value, 60)} in {_some(shards)}" for value, shards in odd)
        many = f"{len(most)} shard{'s' * (len(most) != 1)}"
        return f"different {self.field}: {printable(usual, 60)} in {many}, but {named}"


Problem = Gap | Overlap | Disagreement


@dataclass(frozen=True)
class Coverage:
    """What a set of shards holds together.

    `shards` are in row order; `start` and `end` bound the rows held; `rows` counts each held row once; `problems`
    is empty if and only if they make one dataset; `left` are ranges that were not asked for and are left for other
    clusters (only when `check_coverage` was told that there are others).
    """

    shards: tuple[ShardHeader, ...]
    start: int
    end: int
    rows: int
    problems: tuple[Problem, ...]
    left: tuple[tuple[int, int | None], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether these shards make one dataset."""
        return not self.problems


def check_coverage(
    headers: Iterable[ShardHeader],
    *,
    articles: int | None = None,
    others: bool = False,
    any_dtype: bool = False,
) -> Coverage:
    """Judge `headers` (of any number of clusters) together.

    `articles`: how many rows there must be at least, if known; fewer is a gap at the end.
    `others`: only some of the configured clusters were asked, so rows before the first and after the last are left
    for the others; a hole between two of the shards asked for is still a gap.
    `any_dtype`: differing dtypes are no problem, the merge converts.
    """
    shards = tuple(sorted(headers, key=lambda s: (s.start, s.end, s.name)))
    gaps: list[Problem] = []
    overlaps: list[Problem] = []
    left: list[tuple[int, int | None]] = []
    reach, before, rows = 0, None, 0
    for shard in shards:
        if shard.start > reach:
            if others and before is None:
                left.append((reach, shard.start))
            else:
                gaps.append(Gap(reach, shard.start, before, shard))
        elif before is not None and shard.start < reach:
            overlaps.append(Overlap(shard.start, min(reach, shard.end), before, shard))
        rows += max(0, shard.end - max(reach, shard.start))
        if shard.end > reach or before is None:
            reach, before = max(reach, shard.end), shard
    if articles is not None and reach < articles:
        if others:
            left.append((reach, articles))
        else:
            gaps.append(Gap(reach, articles, before, None))
    elif others and articles is None and shards:
        left.append((reach, None))
    fields = ["dim", "model"] if any_dtype else ["dim", "dtype", "model"]
    differing = [d for field in fields if (d := _disagreement(field, shards))]
    start = shards[0].start if shards else 0
    return Coverage(shards, start, reach, rows, (*gaps, *overlaps, *differing), tuple(left))


def advice(problems: Sequence[Problem], gap: str) -> str:
    """What to do about `problems`; `gap` is what to do where rows are missing."""
    fields = {problem.field for problem in problems if isinstance(problem, Disagreement)}
    what = [
        (any(isinstance(problem, Gap) for problem in problems), gap),
        (any(isinstance(problem, Overlap) for problem in problems), "move away the shard that does not belong"),
        (fields == {"dtype"}, "choose one with --dtype float32, or compute the odd ones again"),
        (bool(fields - {"dtype"}), "compute the odd ones again, or move them away"),
    ]
    return "; ".join(text for there, text in what if there)


def _disagreement(field: str, shards: Sequence[ShardHeader]) -> Disagreement | None:
    by_value: dict[str, list[ShardHeader]] = defaultdict(list)
    for shard in shards:
        value = getattr(shard, field)
        if value is not None:  # a worker that wrote no model contradicts nobody
            by_value[str(getattr(value, "name", value))].append(shard)  # a dtype's name is the same in any byte order
    if len(by_value) < 2:  # noqa: PLR2004  one value is agreement
        return None
    ordered = sorted(by_value.items(), key=lambda item: -len(item[1]))
    return Disagreement(field, tuple((value, tuple(those)) for value, those in ordered))


def _who(shard: ShardHeader) -> str:
    return printable(f"{shard.name} ({shard.cluster})" if shard.cluster else shard.name)


def _some(shards: Sequence[ShardHeader], shown: int = 4) -> str:
    more = f" and {len(shards) - shown} more" if len(shards) > shown else ""
    return ", ".join(map(_who, shards[:shown])) + more
