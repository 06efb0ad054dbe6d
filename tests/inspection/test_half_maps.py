"""What speaks against a refinement, and whether its claim is believed."""

from typing import Any

import numpy as np
import pytest

from cryograd.inspection.finding import REASONS, Finding
from cryograd.inspection.half_maps import of_empty
from cryograd.metrics import verdict, verdict_of_halves

FEW = {"share": 0.5, "degrees": 40.0, "rot": 90.0, "tilt": 3.0}
SOUND: dict[str, Any] = {
    "n_particles": 1000,
    "max_probability_mean": 0.5,
    "error_over_expected": 1.0,
    "n_junk": 0,
    "n_strange": 0,
    "mask_too_tight": False,
    "box_size": 64,
    "pixel_size_angstrom": 1.0,
    "resolution_fsc143_angstrom": 3.0,
    "resolution_is_bound": False,
    "local_resolution_quartiles_angstrom": [2.8, 3.0, 3.3],
    "conical_fsc_area_ratio": 0.8,
    "sampling_compensation_factor": 0.95,
    "scarce_directions": {"share": 0.001, "degrees": 4.0, "rot": 0.0, "tilt": 0.0},
}
CTF = Finding("ctf_contradicted", "the Thon rings do not fit", doubts=True)


def judged(changed: dict[str, Any], given: tuple[Finding, ...] = ()) -> dict[str, Any]:
    return verdict_of_halves(SOUND | changed, 0, given)


@pytest.mark.parametrize(
    ("changed", "key", "said"),
    [
        ({"max_probability_mean": 0.01}, "orientations_not_told", "1.0% in the mean"),
        ({"error_over_expected": 1.97}, "half_maps_differ", "2 times as much"),
        ({"n_particles": 20}, "few_particles", "so few particles: of 20"),
        ({"local_resolution_quartiles_angstrom": [2.0, 2.3, 3.0]}, "local_finer", "finer than 2.3 Å"),
        (
            {"sampling_compensation_factor": 0.34, "scarce_directions": FEW},
            "views_uneven",
            "50% of the Fourier directions are hardly seen by any image, the largest gap within 40° of",
        ),
        ({"resolution_fsc143_angstrom": None}, "no_resolution", "agree at no resolution"),
    ],
)
def test_what_speaks_against_a_claim_is_said_and_the_claim_is_not_believed(
    changed: dict[str, Any], key: str, said: str
) -> None:
    found = judged(changed)
    (finding,) = found["findings"]
    assert (finding["key"], finding["doubts"]) == (key, True)
    assert said in finding["text"]
    assert found["believed"] is False
    assert found["why_not"] == REASONS[key]


@pytest.mark.parametrize(
    ("changed", "key", "said"),
    [
        ({"n_junk": 1200}, "junk", "1,200 picks are"),
        ({"n_strange": 25}, "strange_images", "as of beads or dirt: 25;"),
        ({"n_junk": 1}, "junk", "1 pick is"),
        ({"resolution_is_bound": True}, "at_limit", "the finest that was looked at"),
        ({"mask_too_tight": True}, "mask_adds_correlation", "mask makes correlation"),
        ({"conical_fsc_area_ratio": 0.3}, "resolution_uneven", "30% of"),
        ({"sampling_compensation_factor": 0.55}, "views_uneven", "sampling compensation factor 0.55"),
    ],
)
def test_what_deserves_a_look_leaves_the_claim_as_it_is(changed: dict[str, Any], key: str, said: str) -> None:
    found = judged(changed)
    (finding,) = found["findings"]
    assert (finding["key"], finding["doubts"]) == (key, False)
    assert said in finding["text"]
    assert (found["believed"], found["why_not"]) == (True, None)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        # Few shells.
        {
            "resolution_fsc143_angstrom": 30.0,
            "conical_fsc_area_ratio": 0.1,
            "sampling_compensation_factor": 0.1,
            "local_resolution_quartiles_angstrom": [28.0, 30.0, 33.0],
        },
    ],
)
def test_nothing_is_said_of_a_sound_refinement(changed: dict[str, Any]) -> None:
    assert judged(changed) == {"findings": [], "believed": True, "why_not": None}


@pytest.mark.parametrize("why", ["resolution_is_bound", "mask_too_tight"])
def test_parts_may_be_finer_where_limit_or_mask_hold_the_whole_back(why: str) -> None:
    found = judged({why: True, "local_resolution_quartiles_angstrom": [2.0, 2.3, 3.0]})
    assert [finding["key"] for finding in found["findings"]] in (["at_limit"], ["mask_adds_correlation"])


def test_every_class_is_looked_at_and_believed_by_itself() -> None:
    tight, empty = SOUND | {"share": 0.4, "mask_too_tight": True}, SOUND | {"share": 0.0}
    found = judged({"classes": [SOUND | {"share": 0.6}, tight, empty]})
    texts = [finding["text"] for finding in found["findings"]]
    assert [text.split(":")[0] for text in texts] == ["class 3", "class 2"]
    assert "no particles" in texts[0]
    assert found["believed"]
    assert [single["believed"] for single in found["classes"]] == [True, True, False]
    assert found["classes"][2]["why_not"] == REASONS["class_empty"]


def test_what_is_wrong_with_the_images_holds_for_every_class_and_comes_first() -> None:
    found = judged({"n_junk": 3, "classes": [SOUND | {"share": 0.6}, SOUND | {"share": 0.4}]}, (CTF,))
    assert [finding["key"] for finding in found["findings"]] == ["ctf_contradicted", "junk"]
    assert [found["believed"], *(single["believed"] for single in found["classes"])] == [False] * 3


def test_reasons_are_named_once_each() -> None:
    found = verdict([CTF, CTF, Finding("map_empty", "empty", doubts=True)], [])
    assert found["why_not"] == "the images contradict their CTFs, the map is empty"


def test_maps_without_density_are_named() -> None:
    full, empty = np.ones((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.float32)
    assert list(of_empty([full, full])) == []
    assert next(of_empty([empty])).text.startswith("the map is empty")
    assert next(of_empty([full, empty])).text.startswith("the map of class 2 is empty")
