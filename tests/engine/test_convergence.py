"""When a refinement ends."""

from typing import Any

import pytest

from cryograd.engine.convergence import ENTROPY_FALL, FEWEST, FLAT, SURE, improving


def rows(
    agreement: list[float], entropy: float | list[float] = 2.0, radius: float | list[float] = 20.0
) -> list[dict[str, Any]]:
    """A history with these figures."""
    n = len(agreement)
    entropies = entropy if isinstance(entropy, list) else [entropy] * n
    radii = radius if isinstance(radius, list) else [radius] * n
    return [
        {"stage": "refine", "agreement": a, "entropy": h, "radius": r}
        for a, h, r in zip(agreement, entropies, radii, strict=True)
    ]


def test_a_refinement_that_stays_as_it_is_has_converged() -> None:
    assert improving(rows([10.0] * 8), 1) == ()
    # A gain within the noise of the curve is none.
    assert improving(rows([10.0, 10.05, 9.9, 10.02, 10.06, 9.95]), 1) == ()


def test_too_few_iterations_say_nothing() -> None:
    assert improving(rows([10.0] * FEWEST), 1) == ("resolution", "half maps", "poses")
    # Half a pass has to go by without a gain.
    assert improving(rows([10.0] * 8), 20) == ("resolution", "half maps", "poses")
    assert improving(rows([10.0] * 11), 20) == ()


def test_what_improves_is_named() -> None:
    assert improving(rows([10.0, 10.1, 10.2, 10.3, 10.4, 10.5]), 1) == ("half maps",)
    falling = [5.0 - 0.5 * ENTROPY_FALL * k for k in range(6)]
    assert improving(rows([10.0] * 6, falling), 1) == ("poses",)
    assert improving(rows([10.0] * 6, radius=[20.0] * 5 + [25.0]), 1) == ("resolution",)


def test_poses_that_are_sure_need_not_become_surer() -> None:
    falling = [SURE * 0.5**k for k in range(8)]
    assert improving(rows([10.0] * 8, falling), 1) == ()


def test_poses_that_are_all_alike_take_patience() -> None:
    """A map from which no image tells its pose stays for some passes before it moves."""
    assert improving(rows([10.0] * 12, FLAT + 0.1), 4) == ("resolution", "half maps", "poses")
    assert improving(rows([10.0] * 13, FLAT + 0.1), 4) == ()
    assert improving(rows([10.0] * 12, FLAT - 0.1), 4) == ()


def test_other_stages_are_not_looked_at() -> None:
    others = [{"stage": "march", "entropy": 9.0, "radius": 1.0}] * 5
    assert improving(others + rows([10.0] * 8), 1) == ()


@pytest.mark.parametrize("lately", [9.0, 5.0])
def test_a_loss_is_no_gain(lately: float) -> None:
    assert improving(rows([10.0] * 4 + [lately] * 3), 1) == ()
