"""What speaks against a refinement."""

from typing import Any

import numpy as np
import pytest

from cryograd.inspection.half_maps import of_empty, of_half_maps

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
        ({"n_junk": 1200}, "1,200 picks are"),
        ({"n_junk": 1}, "1 pick is"),
        ({"resolution_fsc143_angstrom": None, "conical_fsc_area_ratio": 0.1}, "agree at no resolution"),
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
        # Few shells.
        {"resolution_fsc143_angstrom": 30.0, "conical_fsc_area_ratio": 0.1},
    ],
)
def test_nothing_is_said_of_a_sound_refinement(changed: dict[str, Any]) -> None:
    assert list(of_half_maps(SOUND | changed)) == []


def test_every_class_is_looked_at() -> None:
    tight, empty = SOUND | {"share": 0.4, "mask_too_tight": True}, SOUND | {"share": 0.0}
    found = list(of_half_maps(SOUND | {"classes": [SOUND | {"share": 0.6}, tight, empty]}))
    assert [finding.split(":")[0] for finding in found] == ["class 2", "class 3"]
    assert "no particles" in found[1]


def test_maps_without_density_are_named() -> None:
    full, empty = np.ones((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.float32)
    assert list(of_empty([full, full])) == []
    assert next(of_empty([empty])).startswith("the map is empty")
    assert next(of_empty([full, empty])).startswith("the map of class 2 is empty")
