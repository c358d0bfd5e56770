"""Which bytes of a file are here: disjoint, sorted half-open ranges."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of bytes as ranges `[start, end)`; ranges that touch are one."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Add `[start, end)`; it may overlap what is there."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)  # the first range that reaches as far as `start`,
        last = bisect_right(self._starts, end)  # and the first one that begins after `end`
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def missing(self, nbytes: int) -> list[tuple[int, int]]:
        """The ranges of `[0, nbytes)` that are not here."""
        edges = [0, *(edge for pair in self for edge in pair), nbytes]
        return [(start, min(end, nbytes)) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]

    @property
    def nbytes(self) -> int:
        """How many bytes are here."""
        return sum(self._ends) - sum(self._starts)

    @property
    def front(self) -> int:
        """Every byte before this one is here."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)
