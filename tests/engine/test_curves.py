"""What a curve of half maps says of the resolution."""

import numpy as np
import pytest

from cryograd.engine.curves import last_resolved

SHELLS = np.arange(33)
# All coefficients are independent.
INDEPENDENT = 1.0


def falling(until: int) -> np.ndarray:
    """A curve that falls from 1 and crosses 0.143 just beyond a shell."""
    return 1.0 / (1.0 + 6.0 * (SHELLS / (until + 0.5)) ** 8)


@pytest.mark.parametrize("until", [5, 12, 20])
def test_a_curve_is_resolved_up_to_where_it_crosses(until: int) -> None:
    assert last_resolved(falling(until), INDEPENDENT) == until


def test_a_curve_that_never_crosses_is_resolved_to_its_end() -> None:
    assert last_resolved(np.ones(33), INDEPENDENT) == 32


def test_a_lonely_shell_is_not_believed() -> None:
    curve = falling(10)
    curve[11:] = 0.0
    curve[20] = 0.6
    assert last_resolved(curve, INDEPENDENT) == 10


@pytest.mark.parametrize("order", [1, 24])
def test_noise_beyond_what_is_resolved_is_seldom_believed(order: int) -> None:
    rng, believed = np.random.default_rng(0), 0
    independent = INDEPENDENT / order
    deviation = 1.0 / np.sqrt(np.maximum(independent * 4.0 * np.pi * SHELLS**2, 1.0))
    for _ in range(400):
        noise = np.clip(deviation * rng.standard_normal(33), -1.0, 1.0)
        curve = np.where(SHELLS <= 10, 0.9, noise)
        believed += last_resolved(curve, independent) > 13
    assert believed <= 8


@pytest.mark.parametrize(("dip", "after", "until"), [(1, 2, 20), (2, 2, 20), (3, 9, 10), (2, 1, 10)])
def test_a_dip_is_passed_where_the_shells_after_it_are_resolved(dip: int, after: int, until: int) -> None:
    """As at the nodes of a hollow molecule; not one that is wide, nor for the sake of one shell."""
    curve = falling(20)
    curve[11 : 11 + dip] = 0.05
    curve[11 + dip + after :] = 0.0
    last = 10 + dip + after
    assert last_resolved(curve, INDEPENDENT) == (last if until == 20 else until)
