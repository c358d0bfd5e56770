import pytest

from embmerge.pages import PAGE, placed


@pytest.mark.parametrize("offset", [0, 1, 153, 2201, 4032, 4033, 4095, 10**9 + 7])
def test_memory_never_lies_a_few_bytes_ahead_of_the_file_in_a_page(offset):
    address = placed(100_000, offset).__array_interface__["data"][0]
    assert not 0 < (address - offset) % PAGE < 64


def test_memory_is_as_large_as_asked_for_and_aligned_for_any_float():
    memory = placed(3001, 7)
    assert memory.nbytes == 3001
    assert memory.__array_interface__["data"][0] % 64 == 0
