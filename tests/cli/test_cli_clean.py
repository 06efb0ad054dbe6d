"""Particles without the faults that `inspect` finds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryograd.data.read import read_particles
from cryograd.data.star_text import read_text, write_star

from .conftest import tree


@pytest.fixture
def inspect(cryograd_command: Callable) -> Callable[..., dict[str, Any]]:
    def run(*arguments: object) -> dict[str, Any]:
        outcome = cryograd_command("inspect", *arguments, "--json")
        assert outcome.status == 0, outcome.err
        return json.loads(outcome.out)

    return run


@pytest.fixture
def star(simulated: Path, tmp_path: Path) -> Path:
    """The simulated particles with a fault of every kind, and a column of their owner's."""
    (tmp_path / "particles.mrcs").write_bytes((simulated / "particles.mrcs").read_bytes())
    with mrcfile.open(tmp_path / "particles.mrcs", "r+") as mrc:
        assert mrc.data is not None
        mrc.data[3, 2, 1] = np.nan
        # Over the edge of the micrograph, which is no fault.
        mrc.data[5, :, 12:] = mrc.data[5, :, 12:13]
    blocks = read_text(simulated / "particles.star")
    table = blocks["particles"].copy()
    table["ownText"] = [f"it's {row}" for row in range(24)]
    table["rlnMicrographName"] = "m.mrc"
    table["rlnCoordinateX"] = [f"{300 * row}" for row in range(24)]
    table["rlnCoordinateY"] = "5"
    table.loc[7, ["rlnDefocusU", "rlnDefocusV"]] = "-12000"
    table.loc[8, ["rlnDefocusU", "rlnDefocusV"]] = "5E5"
    # The image of the broken one, of the one before, and a pick beside that.
    table.loc[10, "rlnImageName"] = table.loc[9, "rlnImageName"]
    table.loc[11, "rlnCoordinateX"] = "2709"
    table.loc[12, "rlnCoordinateX"] = "905"
    write_star(tmp_path / "particles.star", blocks | {"particles": table})
    return tmp_path / "particles.star"


def test_particles_without_faults_are_written(
    star: Path, inspect: Callable, cryograd_command: Callable
) -> None:
    output = star.parent / "clean.star"
    facts = inspect(star, "--write-clean", output)["clean"]
    assert facts == {
        "output": str(output),
        "n_kept": 19,
        "left_out": {"broken": 1, "not_positive": 1, "outliers": 1, "duplicates": 1, "same_noise": 1},
    }
    before, after = read_text(star), read_text(output)
    # Particle 12 lies beside the broken one, which is not there to be the first.
    kept = [row for row in range(24) if row not in (3, 7, 8, 10, 11)]
    assert after["particles"].equals(before["particles"].iloc[kept].reset_index(drop=True))
    assert after["optics"].equals(before["optics"])
    again = inspect(output, "--write-clean", star.parent / "cleaner.star")
    assert (star.parent / "cleaner.star").read_bytes() == output.read_bytes()
    assert again["images"]["at_edge"] == 1
    outcome = cryograd_command("inspect", star, "--write-clean", output, "--overwrite")
    assert (
        "\n19 particles without such faults; left out are 1 with images that cannot be used, " in outcome.out
    )
    assert outcome.out.endswith(f"\nparticles  {output}\n")


def test_without_the_option_nothing_is_written(star: Path, inspect: Callable) -> None:
    before = tree(star.parent)
    assert inspect(star)["clean"] is None
    assert tree(star.parent) == before


def test_where_all_have_faults_nothing_is_written(star: Path, refused: Callable) -> None:
    blocks = read_text(star)
    blocks["particles"][["rlnDefocusU", "rlnDefocusV"]] = "-5000"
    write_star(star, blocks)
    before = tree(star.parent)
    command = ("inspect", star, "--write-clean", star.parent / "clean.star", "-o", star.parent / "page.html")
    assert "no particle would be left" in refused(*command)
    assert tree(star.parent) == before


def test_outputs_that_are_there_are_kept(star: Path, refused: Callable) -> None:
    output = star.parent / "clean.star"
    output.write_text("precious")
    assert refused("inspect", star, "--write-clean", output).startswith("the output file is there already")
    assert refused("inspect", star, "--write-clean", star, "--overwrite").startswith(
        "the output file is an input"
    )
    stack = star.parent / "particles.mrcs"
    assert "by its name" in refused("inspect", star, "--write-clean", stack, "--overwrite")
    assert output.read_text() == "precious"


def test_images_of_one_noise_are_found_where_no_coordinates_are(
    star: Path, inspect: Callable, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    images = rng.standard_normal((24, 32, 32)).astype(np.float32)
    images[20:] = 3.0 * images[:4] + 1.0
    with mrcfile.new(star.parent / "particles.mrcs", overwrite=True) as mrc:
        mrc.set_data(images)
    blocks = read_text(star)
    table = blocks["particles"].assign(rlnDefocusU="10000", rlnDefocusV="10000")
    table["rlnImageName"] = [f"{row + 1}@particles.mrcs" for row in range(24)]
    optics = blocks["optics"].assign(rlnImageSize="32")
    write_star(star, {"optics": optics, "particles": table})
    # The coordinates say that all but two are apart, and are believed.
    assert inspect(star)["images"]["alike"] == 0
    write_star(star, {"optics": optics, "particles": table.drop(columns=["rlnCoordinateX"])})
    facts = inspect(star, "--write-clean", tmp_path / "clean.star")
    assert facts["images"]["alike"] == 4
    assert any(text.startswith("4 images have the noise of another one") for text in facts["findings"])
    assert facts["clean"]["left_out"]["same_noise"] == 4
    assert read_particles(tmp_path / "clean.star").image_index.tolist() == list(range(20))
