"""Which bytes of a file are here: disjoint, sorted half-open ranges."""

from collections.abc import Iterable, Iterator


class Ranges:
    """A set of bytes as ranges `[start, end)`; ranges that touch are one.

    One thread at a time may add; others may look at the same time, and see it before or after.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []  # replaced, never changed
        for start, end in sorted(ranges):
            if self._ranges and start <= self._ranges[-1][1]:
                self._ranges[-1] = (self._ranges[-1][0], max(end, self._ranges[-1][1]))
            elif start < end:
                self._ranges.append((start, end))

    def add(self, start: int, end: int) -> None:
        """Add `[start, end)`; it may overlap what is there."""
        if start >= end:
            return
        ranges = self._ranges
        before = [each for each in ranges if each[1] < start]
        after = [each for each in ranges if each[0] > end]
        touched = [(start, end), *ranges[len(before) : len(ranges) - len(after)]]
        self._ranges = [*before, (min(each[0] for each in touched), max(each[1] for each in touched)), *after]

    def missing(self, nbytes: int) -> list[tuple[int, int]]:
        """The ranges of `[0, nbytes)` that are not here."""
        edges = [0, *(edge for pair in self._ranges for edge in pair), nbytes]
        return [(start, min(end, nbytes)) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]

    @property
    def nbytes(self) -> int:
        """How many bytes are here."""
        return sum(end - start for start, end in self._ranges)

    @property
    def front(self) -> int:
        """Every byte before this one is here."""
        first = self._ranges[:1]
        return first[0][1] if first and first[0][0] == 0 else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)
