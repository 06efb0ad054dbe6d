"""What the summary of a refinement says of its end."""

from typing import Any

import pytest

from cryograd.cli.runs import summary

METRICS = {
    "command": "refine",
    "output": "run",
    "n_particles": 100,
    "box_size": 32,
    "pixel_size_angstrom": 6.0,
    "symmetry": "C1",
    "wall_seconds": 3.0,
    "device": "cpu",
    "resolution_fsc143_angstrom": 14.0,
    "findings": [],
    "believed": True,
    "why_not": None,
    "resolution_is_bound": False,
    "limited_by": "images",
    "passes": 2.75,
}


@pytest.mark.parametrize(
    ("improving", "said"),
    [
        ([], "converged after 2.75 passes over the images"),
        (["half maps", "poses"], "after 2.75 passes over the images still improving: half maps, poses"),
        (None, "2.75 passes over the images, as asked for"),
    ],
)
def test_the_summary_says_whether_a_refinement_has_converged(improving: list[str] | None, said: str) -> None:
    assert summary(METRICS | {"still_improving": improving}).splitlines()[2] == f"{said}, 3 s on cpu"


def test_a_class_has_the_share_of_its_particles() -> None:
    """And not of their probability, which is another number where classes are hard to tell apart."""
    classes = [METRICS | {"share": share, "resolution_fsc143_angstrom": 10.0} for share in (0.2, 0.8)]
    several = {"classes": classes, "class_populations": [0.35, 0.65], "still_improving": []}
    lines = summary(METRICS | several).splitlines()
    assert [line.split(", ")[1] for line in lines if line.startswith("class ")] == [
        "20% of the particles",
        "80% of the particles",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "14.00 Å by the half maps (FSC 0.143)"),
        (
            {"believed": False, "why_not": "views are missing"},
            "14.00 Å by the half maps (FSC 0.143), not believed: views are missing",
        ),
        (
            {"resolution_is_bound": True},
            "14.00 Å or finer (the limit of the images) by the half maps (FSC 0.143)",
        ),
        (
            {"resolution_is_bound": True, "limited_by": "--max-resolution"},
            "14.00 Å or finer (the limit of --max-resolution) by the half maps (FSC 0.143)",
        ),
        ({"resolution_fsc143_angstrom": None}, "no resolution by the half maps (FSC 0.143)"),
    ],
)
def test_a_claim_says_what_it_is(changed: dict[str, Any], said: str) -> None:
    assert summary(METRICS | {"still_improving": []} | changed).splitlines()[1] == said


def test_a_class_is_not_believed_for_reasons_of_its_own() -> None:
    sound, empty = METRICS | {"share": 0.9}, METRICS | {"share": 0.1, "believed": False, "why_not": "few"}
    several = {"classes": [sound, empty], "class_populations": [0.9, 0.1], "still_improving": []}
    lines = summary(METRICS | several).splitlines()
    assert [line.endswith(", not believed: few") for line in lines if line.startswith("class ")] == [
        False,
        True,
    ]
