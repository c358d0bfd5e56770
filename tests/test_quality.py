import warnings

import numpy as np
import pytest

from embmerge.quality import Quality, row_norms
from tests.shards import rows_of


def measured(rows, step=7):
    quality = Quality()
    for start in range(0, len(rows), step):
        quality.add(rows[start : start + step], start)
    return quality


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_block_by_block_is_as_good_as_all_at_once(dtype):
    rows = rows_of(100, 40, dtype) * 3
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    figures = measured(rows).figures()
    assert figures.rows == 100
    assert figures.min_norm == pytest.approx(norms.min(), rel=1e-5)
    assert figures.max_norm == pytest.approx(norms.max(), rel=1e-5)
    assert figures.mean_norm == pytest.approx(norms.mean(), rel=1e-5)
    assert figures.std_norm == pytest.approx(norms.std(), rel=1e-4)


def test_parts_add_up_to_the_whole():
    rows = rows_of(90, 12)
    parts, whole = measured(rows[:31]) + measured(rows[31:]), measured(rows)
    assert parts.figures().mean_norm == pytest.approx(whole.figures().mean_norm)
    assert parts.figures().std_norm == pytest.approx(whole.figures().std_norm)


def test_bad_rows_of_parts_add_up_and_the_first_are_named():
    rows = rows_of(100, 5)
    rows[[3, 8, 20, 50, 60, 99], 4] = np.nan
    parts = []
    for start in (50, 0):
        parts.append(Quality())
        parts[-1].add(rows[start : start + 50], start)
    assert (parts[0] + parts[1]).bad_rows == 6
    assert (parts[0] + parts[1]).first_bad == [3, 8, 20, 50, 60]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_rows_are_remembered_by_their_number(bad):
    rows = rows_of(100, 5)
    rows[[3, 8, 20, 21, 22, 50, 99], 4] = bad
    quality = measured(rows)
    assert quality.bad_rows == 7
    assert quality.first_bad == [3, 8, 20, 21, 22]
    assert np.isfinite(quality.figures().mean_norm)


def test_nan_and_infinity_in_one_row_are_one_bad_row():
    rows = rows_of(4, 5)
    rows[2, :2] = np.nan, np.inf
    assert measured(rows).bad_rows == 1


def test_rows_of_zeros_are_counted():
    rows = rows_of(50, 5)
    rows[[0, 49]] = 0
    assert measured(rows).zero_rows == 2


def test_a_row_next_to_zero_is_no_row_of_zeros():
    assert measured(np.full((3, 5), 1e-300)).zero_rows == 0


@pytest.mark.parametrize(
    ("value", "dtype"), [(60000, "f2"), (3e38, "f4"), (1e200, "f8"), (1e-30, "f4"), (1e-44, "f4"), (1e-200, "f8")]
)
@pytest.mark.parametrize("order", "<>")
def test_norms_neither_overflow_nor_vanish(value, dtype, order):
    dtype = order + dtype
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norms = row_norms(np.full((2, 4), value, dtype))
    assert norms == pytest.approx(np.full(2, 2 * float(np.dtype(dtype).type(value))), rel=1e-3, abs=0)


def test_figures_beyond_a_float_are_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = measured(np.full((20, 1), 1e308)).figures()
    assert (figures.rows, figures.min_norm, figures.max_norm) == (20, 1e308, 1e308)


def test_no_rows_have_figures_of_zero():
    figures = Quality().figures()
    assert (figures.rows, figures.min_norm, figures.max_norm, figures.std_norm) == (0, 0.0, 0.0, 0.0)
