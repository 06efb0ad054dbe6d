"""What `cryograd reconstruct` refuses, and what it hands to its ab initio stage, which is a stand-in."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryograd import recipe
from cryograd.config import Abinitio
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.star import read_star, write_star
from cryograd.engine import parts
from cryograd.engine.run import Run
from cryograd.engine.state import State
from cryograd.errors import CryogradError
from cryograd.images.store import ImageStore
from cryograd.simulation.simulate import Simulation, simulate

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


@pytest.mark.parametrize(("given", "begun"), [(10.0, None), (30.0, 30.0)])
def test_the_ab_initio_stage_begins_coarser_than_it_ends(
    refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: float, begun: float | None
) -> None:
    """It ends at a tenth of the box, 12.8 Å; the halves go on to 8.5 Å."""
    optics = Optics("fine", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL_SIZE, 2 * BOX)
    simulate(ball(2 * BOX), PIXEL_SIZE, Simulation(24, (optics,), snr=1.0), tmp_path / "in")

    def stage(images: ImageStore, config: Abinitio, finest: float, **options: object) -> Run:
        assert finest == pytest.approx(10.0)
        assert config.max_resolution == pytest.approx(12.8)
        assert config.start_resolution == begun
        raise CryogradError("far enough", "here", "stop")

    monkeypatch.setattr(recipe, "joint_run", stage)
    message = refused(
        "reconstruct", tmp_path / "in/particles.star", "-o", tmp_path / "run", "--start-resolution", given
    )
    assert message.startswith("far enough")


def test_a_mask_does_not_go_with_axes_that_are_to_be_found(untouched: Callable, simulated: Path) -> None:
    message = untouched(simulated / "particles.star", "--symmetry", "auto", "--mask", simulated / "truth.mrc")
    assert message.startswith("--mask does not go with --symmetry auto")


@pytest.mark.parametrize("options", [(), ("--symmetry", "auto"), ("--independent-halves",)])
def test_images_without_particles_are_called_so(
    refused: Callable,
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    """The starts are cut short, and their maps emptied."""

    def emptied(run: Run, state: State, shared: object = None) -> Iterator[State]:
        for number, side in enumerate(state.sides):
            empty = tuple(replace(track, volume=torch.zeros_like(track.volume)) for track in side.tracks)
            state.sides[number] = replace(side, tracks=empty)
        yield from ()

    monkeypatch.setattr(parts, "iterate", emptied)
    message = refused("reconstruct", simulated / "particles.star", "-o", tmp_path / "run", *options)
    assert message.startswith("no particle was found in the images")
    assert "--invert-contrast" in message
