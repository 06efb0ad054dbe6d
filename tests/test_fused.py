import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from cryograd.fused import fma


@njit
def fused(a, b, c):
    return fma(a, b, c)


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_is_a_product_and_a_sum(real):
    a, b, c = real(3), real(-2.5), real(0.75)
    found = fused(a, b, c)
    assert found == -6.75


def test_rounds_once_or_twice():
    a = np.float32(1 + 2**-12)
    # The square is 1 + 2⁻¹¹ + 2⁻²⁴: rounded, it loses the last term.
    assert fused(a, a, np.float32(-1)) in (np.float32(2**-11 + 2**-24), np.float32(2**-11))


def test_numbers_of_two_types_are_refused():
    with pytest.raises(TypingError, match="three numbers of one type"):
        fused(np.float32(1), np.float64(1), np.float32(1))
