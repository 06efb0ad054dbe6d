"""What the summary of a refinement says of its end."""

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
    assert summary(METRICS | {"still_improving": improving}).splitlines()[2] == said


def test_a_class_has_the_share_of_its_particles() -> None:
    """And not of their probability, which is another number where classes are hard to tell apart."""
    classes = [{"share": share, "resolution_fsc143_angstrom": 10.0} for share in (0.2, 0.8)]
    several = {"classes": classes, "class_populations": [0.35, 0.65], "still_improving": []}
    lines = summary(METRICS | several).splitlines()
    assert [line.split(", ")[1] for line in lines if line.startswith("class ")] == [
        "20% of the particles",
        "80% of the particles",
    ]
