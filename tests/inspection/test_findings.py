from typing import Any

import pytest

from cryograd.inspection.findings import findings

GROUP = {
    "name": "a",
    "voltage_kv": 300.0,
    "pixel_size": 1.0,
    "box_size": 64,
    "premultiplied": False,
    "phase_flipped": False,
}
FACTS = {
    "optics_groups": [GROUP],
    "defocus": {
        "median": 1e4,
        "max": 2e4,
        "astigmatism_median": 100.0,
        "outliers": 0,
        "not_positive": 0,
    },
    "contradicting_headers": [],
    "duplicates": 0,
    "picked_twice": 0,
    "half_sets": None,
    "inverted": False,
    "images": {
        "broken": 0,
        "at_edge": 0,
        "hot": 0,
        "alike": 0,
        "masked": 0,
        "sampled": 9,
        "contrast": "bright",
        "normalised": True,
    },
    "ctf": [
        {
            "visible": True,
            "images": 1000,
            "reliability": 0.9,
            "agreement": 0.8,
            "best_factor": 1.0,
            "best_agreement": 0.8,
        }
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The facts with one of them changed; a number in the path is a place in a list."""

    def replaced(old: Any, keys: list[str]) -> Any:
        if not keys:
            return value
        if isinstance(old, list):
            return [replaced(old[0], keys[1:])]
        return {**old, keys[0]: replaced(old[keys[0]], keys[1:])}

    return replaced(FACTS, path.split("."))


def test_nothing_is_found_where_all_is_well() -> None:
    assert findings(FACTS) == []


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("optics_groups.0.premultiplied", True, "multiplied by their CTF"),
        ("optics_groups.0.phase_flipped", True, "phase-flipped"),
        ("optics_groups.0.voltage_kv", 3e5, "voltage"),
        ("optics_groups.0.pixel_size", 100.0, "is it in Å?"),
        ("defocus.not_positive", 3, "3 particles have no underfocus"),
        ("defocus.max", 2.5, "is it in µm"),
        ("defocus.outliers", 2, "2 particles is far"),
        ("defocus.astigmatism_median", 3000.0, "astigmatism is large"),
        ("duplicates", 5, "5 particles have the same image"),
        ("picked_twice", 5, "5 particles were picked within 20 Å of another"),
        ("half_sets", {"0": 3, "1": 4}, "instead of 1 and 2"),
        ("half_sets", {"1": 10, "2": 90}, "uneven: 10 and 90"),
        (
            "contradicting_headers",
            [{"header": 3.54, "file": 7.08, "stacks": 2, "first": "a.mrcs"}],
            "2 stack headers such as that of a.mrcs say 3.54 Å per pixel, and the particle file 7.08 Å",
        ),
        ("images.at_edge", 4, "4 images reach over the edge"),
        ("images.masked", 5, "5 of 9 sampled images have no noise outside the particle"),
        ("images.contrast", "dark", "add --invert-contrast"),
        ("images.contrast", "unclear", "contrast is unclear"),
        ("ctf.0.agreement", 0.1, "do not fit the CTF (correlation 0.10)"),
    ],
)
def test_each_fault_is_found_alone(path: str, value: Any, what: str) -> None:
    (found,) = findings(changed(path, value))
    assert what in found


def test_a_factor_on_the_defocus_is_named() -> None:
    rings = FACTS["ctf"][0] | {"agreement": 0.1, "best_factor": 0.5, "best_agreement": 0.9}
    (found,) = findings(changed("ctf", [rings]))
    assert "if the defocus were 0.50 times as large (0.90)" in found


def test_rings_that_are_not_seen_are_not_judged() -> None:
    rings = {
        "visible": False,
        "agreement": 0.0,
        "reliability": 0.2,
        "best_factor": 0.5,
        "best_agreement": 0.9,
    }
    assert findings(changed("ctf", [rings])) == []


def test_hot_pixels_are_said() -> None:
    (found,) = findings(changed("images", FACTS["images"] | {"hot": 3}))
    assert "hot pixels" in found
    assert ": 3;" in found
