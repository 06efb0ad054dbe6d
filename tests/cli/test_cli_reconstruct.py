"""What `cryograd reconstruct` refuses, and what it hands to its ab initio stage, which is a stand-in."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.simulate import Simulation, simulate
from cryograd.data.star import read_star, write_star

from .conftest import BOX, PIXEL_SIZE, FakeEngine, ball


@pytest.fixture
def untouched(engine: FakeEngine, refused: Callable, tmp_path: Path) -> Callable[..., str]:
    """Run a reconstruction that must be refused before its first iteration: the message."""

    def run(particles: Path, *options: object) -> str:
        message = refused("reconstruct", particles, "-o", tmp_path / "run", *options)
        assert not (tmp_path / "run").exists()
        return message

    return run


def test_what_the_refinement_refuses_is_refused_at_once(untouched: Callable, simulated: Path) -> None:
    assert "Nyquist" in untouched(simulated / "particles.star", "--max-resolution", 3)


@pytest.mark.parametrize("halves", ["1", "0"])
def test_bad_half_sets_are_refused_at_once(
    untouched: Callable, simulated: Path, tmp_path: Path, halves: str
) -> None:
    """All particles in the first, or in none."""
    tables = read_star(simulated / "particles.star")
    tables["particles"]["rlnRandomSubset"] = int(halves)
    names = tables["particles"]["rlnImageName"].astype(str)
    tables["particles"]["rlnImageName"] = names.str.replace("@", f"@{simulated}/")
    write_star(tmp_path / "changed.star", tables)
    assert "rlnRandomSubset" in untouched(tmp_path / "changed.star")


def test_the_ctf_of_corrected_images_is_not_refined(untouched: Callable, tmp_path: Path) -> None:
    optics = Optics("flipped", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL_SIZE, BOX, phase_flipped=True)
    simulate(ball(), PIXEL_SIZE, Simulation(24, (optics,), snr=1.0), tmp_path / "in")
    message = untouched(tmp_path / "in/particles.star", "--refine-ctf")
    assert message.startswith("the images of optics group flipped were corrected for their CTF")
