"""Is what the shards hold usable? Norms, NaN and Inf, rows of zeros: gathered block by block, never all at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

CHECKSUM = "rows_checksum"  # among the `quality_metrics`: what `mergedfile.rawrows.checksum` says of all rows
_COMPARED = ("mean_norm", "min_norm", "max_norm")
# what another processor's sums may differ by; float16 was once measured before it was rounded
_ROUNDING = {"float16": 1e-3}
_USUAL_ROUNDING = 1e-5
_SHOWN = 5  # bad rows that an error names


@dataclass(frozen=True)
class NormFigures:
    """The Euclidean norms of `rows` rows: least, greatest, mean and (population) standard deviation."""

    rows: int
    min_norm: float
    max_norm: float
    mean_norm: float
    std_norm: float
    zero_rows: int


@dataclass
class Quality:
    """Running figures over the blocks that `add` was given; two can be put together with `+`."""

    rows: int = 0
    zero_rows: int = 0
    bad_rows: int = 0
    first_bad: list[int] = field(default_factory=list)  # rows with a NaN or Inf, counted in the whole dataset
    least: float = math.inf
    greatest: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean

    def add(self, rows: npt.NDArray[Any], first: int) -> None:
        """Take in `rows`, (n, dim) floats of any kind, of which the first is row `first` of the dataset."""
        norms = row_norms(rows)
        finite = np.isfinite(norms)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            bad = bad[~np.isfinite(rows[bad]).all(axis=1)]  # a norm too large for a float is no bad row
            self.bad_rows += len(bad)
            self.first_bad = (self.first_bad + (bad[:_SHOWN] + first).tolist())[:_SHOWN]
            norms = norms[finite]
        with np.errstate(over="ignore", invalid="ignore"):
            self._join(
                Quality(
                    rows=len(norms),
                    zero_rows=int(np.count_nonzero(norms == 0)),
                    least=float(norms.min(initial=math.inf)),
                    greatest=float(norms.max(initial=0.0)),
                    mean=float(norms.mean()) if len(norms) else 0.0,
                    squares=float(norms.var() * len(norms)) if len(norms) else 0.0,
                )
            )

    def __add__(self, other: "Quality") -> "Quality":
        """The figures over the rows of both."""
        both = Quality(bad_rows=self.bad_rows, first_bad=list(self.first_bad))
        both._join(self)
        both._join(other)
        both.bad_rows += other.bad_rows
        both.first_bad = sorted(self.first_bad + other.first_bad)[:_SHOWN]
        return both

    def figures(self) -> NormFigures:
        """What was found, as plain numbers; of no rows at all, zeros."""
        std = math.sqrt(self.squares / self.rows) if self.rows else 0.0
        least = self.least if self.rows else 0.0
        return NormFigures(self.rows, least, self.greatest, self.mean, std, self.zero_rows)

    def _join(self, other: "Quality") -> None:
        """Chan, Golub and LeVeque's update of mean and squares by another sample's."""
        rows = self.rows + other.rows
        if not other.rows:
            return
        apart = other.mean - self.mean
        self.mean += apart * other.rows / rows
        self.squares += other.squares + apart * apart * self.rows * other.rows / rows
        self.rows = rows
        self.zero_rows += other.zero_rows
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)


def unlike(now: Any, checksum: int, merged: Mapping[str, Any]) -> str:
    """How rows differ from what the `quality_metrics` of their merge say; '' if they do not.

    `now` are their norms (`NormFigures`, or what has its names). Files from before there was a checksum are known by
    their norms alone.
    """
    rounding = _ROUNDING.get(str(merged.get("dtype")), _USUAL_ROUNDING)
    for name in _COMPARED:
        was, value = merged.get(name), getattr(now, name)
        if isinstance(was, float) and math.isfinite(was) and not math.isclose(was, value, rel_tol=rounding):
            return f"their {name.replace('_norm', '')} norm is {value:.6g}, and was {was:.6g}"
    was = merged.get(CHECKSUM, checksum)
    return f"their checksum is {checksum:08x}, and was {was:08x}" if type(was) is int and was != checksum else ""


def row_norms(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The Euclidean norm of every row, as float64 and without overflow or a warning; NaN or Inf where a row has one."""
    native = rows.astype(np.promote_types(rows.dtype, np.float32), copy=False)  # float16 would overflow
    with np.errstate(over="ignore", invalid="ignore"):
        norms: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", native, native).astype(np.float64))
        odd = np.flatnonzero(~np.isfinite(norms) | (norms < 1e-15))  # noqa: PLR2004  squares beyond or below a float
        if len(odd):
            values = native[odd].astype(np.float64)
            largest = np.abs(values).max(axis=1, initial=0.0)
            scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
            norms[odd] = scale * np.sqrt(np.square(values / scale[:, np.newaxis]).sum(axis=1))
    return norms
