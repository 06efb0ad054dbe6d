"""What speaks against a refinement."""

from typing import Any

import pytest

from cryograd.inspection.half_maps import of_half_maps

SOUND: dict[str, Any] = {
    "max_probability_mean": 0.5,
    "error_over_expected": 1.0,
    "n_junk": 0,
    "mask_too_tight": False,
    "box_size": 64,
    "pixel_size_angstrom": 1.0,
    "resolution_fsc143_angstrom": 3.0,
    "resolution_limit_angstrom": 2.0,
    "conical_fsc_area_ratio": 0.8,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_probability_mean": 0.01}, "1.0% in the mean"),
        ({"error_over_expected": 1.97}, "2 times as much"),
        ({"n_junk": 1200}, "1,200 picks"),
        ({"resolution_limit_angstrom": 3.0}, "the finest that was looked at"),
        ({"mask_too_tight": True}, "mask makes correlation"),
        ({"conical_fsc_area_ratio": 0.3}, "30% of"),
    ],
)
def test_what_looks_wrong_is_said(changed: dict[str, Any], said: str) -> None:
    (finding,) = of_half_maps(SOUND | changed)
    assert said in finding


@pytest.mark.parametrize(
    "changed",
    [
        {},
        # Few shells, or none.
        {"resolution_fsc143_angstrom": 30.0, "conical_fsc_area_ratio": 0.1},
        {"resolution_fsc143_angstrom": None, "conical_fsc_area_ratio": 0.1},
    ],
)
def test_nothing_is_said_of_a_sound_refinement(changed: dict[str, Any]) -> None:
    assert list(of_half_maps(SOUND | changed)) == []
