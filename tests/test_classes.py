"""Several maps at once, from images of two molecules."""

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryograd import reconstruct
from cryograd.cli import molecule as made_up
from cryograd.config import Abinitio
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.data.simulate import Simulation, simulate
from cryograd.errors import CryogradError
from cryograd.objective.mixture import Mixture, mixture
from cryograd.prepare import prepare
from cryograd.reconstruct import abinitio
from cryograd.state import State, full_volume
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at

BOX, PIXEL = 32, 6.0
EACH = 120


def _molecules() -> list[np.ndarray]:
    """Two made-up molecules of the same size and symmetry."""
    with pytest.MonkeyPatch.context() as patch:
        other = made_up.molecule(BOX, PIXEL)
        patch.setattr(made_up, "_SEED", 11)
        return [other, made_up.molecule(BOX, PIXEL)]


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    """Images of two molecules, one after the other in one stack."""
    folder = tmp_path_factory.mktemp("simulated")
    optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    simulate(_molecules()[0], PIXEL, Simulation(2 * EACH, (optics,), snr=0.5, seed=5), folder)
    # The second half of the images is replaced by images of the other molecule at the same poses.
    simulate(_molecules()[1], PIXEL, Simulation(2 * EACH, (optics,), snr=0.5, seed=5), folder / "other")
    with (
        mrcfile.open(folder / "particles.mrcs", "r+") as stack,
        mrcfile.open(folder / "other" / "particles.mrcs") as other,
    ):
        assert stack.data is not None
        assert other.data is not None
        stack.data[EACH:] = other.data[EACH:]
    return read_particles(folder / "particles.star")


def _config(**options) -> Abinitio:
    paths = {"particles": Path("particles.star"), "output": Path("out")}
    settings = {"classes": 2, "max_shift": 12.0, "symmetry": made_up.SYMMETRY} | options
    return Abinitio(**paths, **settings)


def _run(
    particles: Particles, config: Abinitio, stop: int | None = None, resume: State | None = None
) -> State:
    state = None
    for state in abinitio(particles, config, resume):
        if state.iteration == stop:
            break
    assert state is not None
    return state


@pytest.mark.slow
def test_two_molecules_are_told_apart(particles: Particles) -> None:
    state = _run(particles, _config(minibatch=100, max_resolution=18.0))
    probabilities = state.posterior.classes
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    of_second = np.arange(2 * EACH) >= EACH
    agree = np.mean((probabilities.argmax(axis=1) == 1) == of_second)
    assert max(agree, 1.0 - agree) > 0.9
    order = (0, 1) if agree > 0.5 else (1, 0)
    for single, truth in zip(state.classes, (_molecules()[i] for i in order), strict=True):
        density, pixel = full_volume(single, particles)
        _, values = fsc(align(density, truth, pixel, PIXEL).volume, truth)
        resolution = resolution_at(values, 0.5, BOX, PIXEL)
        assert resolution is not None
        assert resolution < 20.0


@pytest.mark.parametrize("solver", ["preconditioned", "em", "sagd", "sgd"])
def test_a_resumed_run_ends_with_the_same_bytes(particles: Particles, tmp_path: Path, solver: str) -> None:
    config = _config(
        solver=solver,
        iterations=7,
        minibatch=40,
        held_out=20,
        max_resolution=38.0,
        start_resolution=40.0,
    )
    whole = _run(particles, config, stop=7)
    torch.save(_run(particles, config, stop=3).state_dict(), tmp_path / "state.pt")
    saved = State.from_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed = _run(particles, config, stop=7, resume=saved)
    assert len(whole.classes) == 2
    for one, other in zip(whole.candidates, resumed.candidates, strict=True):
        assert torch.equal(one.volume, other.volume)
        assert one.share == other.share
    assert np.array_equal(whole.posterior.classes, resumed.posterior.classes)
    assert sum(whole.history[-1]["shares"]) == pytest.approx(1.0)


def test_every_particle_gets_its_probabilities_in_the_last_pass(particles: Particles) -> None:
    config = _config(classes=3, iterations=3, minibatch=20, max_resolution=38.0, start_resolution=40.0)
    state = _run(particles, config)
    assert state.posterior.classes.shape == (2 * EACH, 3)
    np.testing.assert_allclose(state.posterior.classes.sum(axis=1), 1.0)
    assert state.posterior.visited.all()
    assert state.best.share == max(single.best.share for single in state.classes)
    assert torch.equal(state.volume, state.best.volume)


def test_a_class_without_images_stays_a_map(particles: Particles) -> None:
    """No division by what it lacks: it follows the images that are the nearest to it."""
    config = _config(iterations=30, minibatch=40, max_resolution=38.0, start_resolution=40.0)
    state = _run(particles, config, stop=25)
    first, second = state.candidates
    hopeless = replace(second, volume=-10.0 * first.volume, share=1e-6)
    state = _run(particles, config, stop=30, resume=replace(state, candidates=(first, hopeless)))
    assert state.candidates[1].share < 0.2
    for candidate in state.candidates:
        assert candidate.volume.isfinite().all()


def test_the_step_of_a_class_does_not_depend_on_its_share(
    particles: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data and prior have the same weights in it: a class that loses images loses no density for that."""
    config = _config(minibatch=40)
    _, start = prepare(particles, config)

    def moved(share: float) -> torch.Tensor:
        def fixed(*args) -> Mixture:
            found = mixture(*args)
            shares = torch.tensor([[share], [1.0 - share]]).expand_as(found.probabilities)
            return replace(found, probabilities=shares)

        monkeypatch.setattr(reconstruct, "mixture", fixed)
        first, second = start.candidates
        candidates = (replace(first, share=share), replace(second, share=1.0 - share))
        state = _run(particles, config, stop=1, resume=replace(start, candidates=candidates))
        return state.candidates[0].volume

    expected = moved(0.5)
    assert (moved(0.05) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 2}, "--starts does not go with classes"),
        ({"proposal": "importance"}, "--proposal importance does not go with classes"),
        ({"solver": "projection-matching"}, "--solver projection-matching does not go with classes"),
    ],
)
def test_what_does_not_go_with_classes_is_refused(
    particles: Particles, options: dict[str, object], message: str
) -> None:
    with pytest.raises(CryogradError, match=message):
        prepare(particles, _config(**options))
