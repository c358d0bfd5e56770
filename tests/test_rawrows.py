import io

import numpy as np
import pytest

from embmerge.mergedfile.rawrows import RowSink, checksum


@pytest.mark.parametrize(("dtype", "dim"), [("<f4", 768), (">f8", 3), ("<f2", 5), ("<f2", 3)])
def test_the_checksum_does_not_depend_on_how_rows_come(dtype, dim):
    rows = np.random.default_rng(0).standard_normal((100, dim)).astype(dtype)
    assert checksum(rows[30:], checksum(rows[:30])) == checksum(rows)


def test_the_checksum_tells_a_flipped_bit_and_rows_that_changed_places():
    rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    flipped, swapped = rows.copy(), rows.copy()
    flipped.view(np.uint32)[50, 3] ^= 1
    swapped[[2, 9]] = swapped[[9, 2]]
    assert len({checksum(rows), checksum(flipped), checksum(swapped)}) == 3


@pytest.mark.parametrize("shape", [(4, 7), (4, 9), (8,), (2, 2, 8)])
def test_rows_that_do_not_fit_the_file_are_not_written(shape):
    file = io.BytesIO()
    with pytest.raises(ValueError, match="do not fit a file of 8 columns"):
        RowSink(file, 8, np.dtype("<f4")).write(np.zeros(shape, "<f4"))
    assert file.getvalue() == b""
