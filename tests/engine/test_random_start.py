"""The whole loop on simulated particles, scored against the truth."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryograd.config import Abinitio
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.engine import held_out
from cryograd.engine.frame import taken_out
from cryograd.engine.state import State
from cryograd.maps import Map
from cryograd.model.symmetry import group_matrices
from cryograd.recipe import Moment, abinitio
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate
from cryograd.solvers.sagd import gradient_bytes
from cryograd.threads import set_threads
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at
from cryograd.validation.pose_error import pose_error
from refinement import before, differences, differences_after, last, saving

BOX, PIXEL = 32, 6.0


def _simulated(folder: Path, n: int, optics: tuple[Optics, ...] | None = None, **settings) -> Particles:
    group = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    simulation = Simulation(n, optics or (group,), snr=0.3, seed=5, **settings)
    return simulate(molecule(BOX, PIXEL), PIXEL, simulation, folder)


def _config(**options) -> Abinitio:
    paths = {"particles": Path("particles.star"), "output": Path("out")}
    return Abinitio(**paths, symmetry=SYMMETRY, **options)


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return _simulated(tmp_path_factory.mktemp("simulated"), 240)


def _run(particles: Particles, config: Abinitio, stop: int | None = None) -> State:
    """The state at the end, or after some iterations."""
    return last(islice(abinitio(particles, config), stop)).state


def _map(state: State, particles: Particles) -> Map:
    """The best track's map, at the sampling of the particles."""
    track = state.sides[0].best
    return taken_out(state, particles, track.symmetry, track.volume)


def _resolution(state: State, particles: Particles) -> float | None:
    """Where in Å the FSC of a state's map with the truth falls to one half."""
    found, truth = _map(state, particles), molecule(BOX, PIXEL)
    _, values = fsc(align(found.values, truth, found.pixel_size, PIXEL).volume, truth)
    return resolution_at(values, 0.5, BOX, PIXEL)


@pytest.mark.slow
def test_recovers_map_and_poses(particles: Particles) -> None:
    state = _run(particles, _config(minibatch=80, max_resolution=16.0))
    resolution = _resolution(state, particles)
    assert resolution is not None
    assert resolution < 18.0
    found = state.table
    assert found.visited.all()
    assert particles.rotations is not None
    assert particles.shifts is not None
    error = pose_error(
        particles.rotations, found.rotations, particles.shifts, found.shifts, group_matrices(SYMMETRY)
    )
    assert np.rad2deg(error.median_angle) < 6.0
    assert error.median_shift < 0.6 * PIXEL


@pytest.mark.slow
def test_importance_sampling_recovers_the_map_and_resumes_with_the_same_bytes(
    particles: Particles,
) -> None:
    config = _config(minibatch=80, max_resolution=16.0, proposal="importance", samples=5.0)
    saved = {}
    whole = last(saving(abinitio(particles, config), saved, 68, 72))
    state = whole.state
    resolution = _resolution(state, particles)
    assert resolution is not None
    assert resolution < 18.0
    # All images were visited late in the run, and most of them drawn for, not searched.
    assert min(row.iteration if row is not None else -1 for row in state.memory.rows) > 50
    points = [row["points"] for row in state.history if row["stage"] == "settle"]
    assert np.median(points) < 0.2 * max(row["points"] for row in state.history if "points" in row)

    def resumed(one: dict[str, Any]) -> Iterator[Moment]:
        return abinitio(particles, config, resume=one)

    assert differences_after(resumed, saved, whole, (68, 72)) == []


def test_the_map_is_on_the_scale_of_the_images(particles: Particles) -> None:
    """The final map's projections have the images' contrast, so that a fit of one to the other is near 1."""
    state = _run(particles, _config(minibatch=40, starts=1), stop=20)
    found = _map(state, particles)
    density = found.values
    assert density.shape == (BOX, BOX, BOX)
    assert found.pixel_size == PIXEL
    images = particles.images(np.arange(len(particles)))
    # Signal power: what the images have inside the particle beyond the unit variance of their noise.
    axis = np.arange(BOX) - BOX // 2
    inside = np.hypot(*np.meshgrid(axis, axis)) < 10
    signal = images[:, inside].var() - 1.0
    model = np.mean([density.sum(axis=k)[inside].var() for k in range(3)])
    assert 0.3 < model / signal < 10.0


def test_the_same_seed_gives_the_same_bytes(particles: Particles) -> None:
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 1, 2):
            set_threads(threads)
            runs.append(_run(particles, _config(minibatch=40, starts=2), stop=5))
    finally:
        set_threads(before)
    assert torch.equal(runs[0].volume, runs[1].volume)
    assert runs[0].table.shifts.tobytes() == runs[1].table.shifts.tobytes()
    # Another number of threads may split the matrix products otherwise: equal up to their rounding.
    difference = (runs[0].volume - runs[2].volume).norm() / runs[0].volume.norm()
    assert difference < 0.01
    other = _run(particles, _config(minibatch=40, starts=2, seed=1), stop=5)
    assert (runs[0].volume - other.volume).norm() / runs[0].volume.norm() > 0.1


def test_a_resumed_run_ends_with_the_same_bytes(particles: Particles) -> None:
    config, saved = _config(minibatch=40), {}
    whole = last(islice(saving(abinitio(particles, config), saved, 3), 6))
    resumed = last(islice(abinitio(particles, config, resume=saved[3]), 3))
    assert differences(resumed, whole) == []


def test_optics_groups_of_different_sampling_go_together(tmp_path: Path) -> None:
    groups = tuple(
        Optics(f"group{pixel}", electron_wavelength(300.0), 2.7e7, 0.1, pixel, BOX) for pixel in (6.0, 6.4)
    )
    particles = _simulated(tmp_path, 60, groups)
    state = _run(particles, _config(minibatch=30), stop=2)
    assert state.sides[0].noise.variance.shape[0] == 2
    assert state.extent == pytest.approx(6.4 * BOX)
    found = _map(state, particles)
    assert found.values.shape == (BOX, BOX, BOX)
    assert found.pixel_size == 6.0


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["sagd", "sgd"])
def test_the_average_and_the_last_gradients_find_the_molecule(particles: Particles, solver: str) -> None:
    state = _run(
        particles,
        _config(solver=solver, iterations=60, minibatch=40, starts=1, held_out=0, max_resolution=16.0),
    )
    resolution = _resolution(state, particles)
    assert resolution is not None
    assert resolution < 20.0


@pytest.mark.parametrize("solver", ["em", "projection-matching"])
def test_an_iteration_over_all_images_raises_their_evidence(particles: Particles, solver: str) -> None:
    config = _config(solver=solver, iterations=7, starts=1, max_resolution=29.0, start_resolution=30.0)
    state = _run(particles, config, stop=7)
    # After the first iteration images are masked around their particles.
    evidence = np.array([row["log_evidence"] for row in state.history])[1:]
    assert {row["images_drawn"] for row in state.history} == {240 * (i + 1) for i in range(7)}
    # The grid of poses is turned every time, and its errors with it.
    assert np.diff(evidence).min() > -0.5
    assert evidence[-1] > evidence[0] + 5.0


@pytest.mark.parametrize("solver", ["sagd", "sgd", "em", "incremental"])
def test_every_solver_resumes_with_the_same_bytes(particles: Particles, solver: str) -> None:
    config = _config(solver=solver, iterations=8, minibatch=20, starts=1, held_out=20, max_resolution=24.0)
    some, saved = particles.select(np.arange(80)), {}
    whole = last(islice(saving(abinitio(some, config), saved, 3), 7))
    assert differences(last(islice(abinitio(some, config, resume=saved[3]), 4)), whole) == []
    track = whole.state.sides[0].best
    least = {"sagd": 4 * gradient_bytes(whole.state.radius), "sgd": track.volume.nbytes, "em": 0}
    assert track.solver_bytes >= 0.9 * least.get(solver, 4 * track.volume.nbytes)


def test_newton_steps_lead_from_a_random_start_to_a_map_of_the_molecule(particles: Particles) -> None:
    """At low resolution, which is all that few iterations reach."""
    config = _config(
        solver="incremental",
        iterations=16,
        minibatch=60,
        starts=2,
        max_resolution=29.0,
        start_resolution=38.0,
    )
    state = _run(particles, config)
    assert state.stage == "poses"
    assert state.table.visited.all()
    truth, correlations = molecule(BOX, PIXEL), []
    for found in (_map(before(abinitio(particles, config)).state, particles), _map(state, particles)):
        _, values = fsc(align(found.values, truth, found.pixel_size, PIXEL).volume, truth)
        correlations.append(values[1:5].mean())
    # Any density of that size and symmetry agrees with the molecule to some extent.
    assert correlations[1] > max(0.7, correlations[0] + 0.15)


def test_a_run_ends_when_the_held_out_error_stalls(
    particles: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "PATIENCE", 1)
    config = _config(
        solver="sagd",
        iterations=300,
        minibatch=60,
        starts=1,
        held_out=30,
        max_resolution=38.0,
        start_resolution=40.0,
    )
    state = _run(particles, config)
    assert state.iteration == state.total_iterations < state.place
    rows = [row for row in state.history if row["stage"] != "poses"]
    assert len(rows) < 300
    errors = [row["held_out_error"] for row in rows if row["stage"] == "settle" and "held_out_error" in row]
    assert errors[-1] >= min(errors[:-1])
    # Held-out images have poses, and no part in the map.
    assert state.table.visited.all()
    assert len(rows) * 52 <= max(row["images_drawn"] for row in rows) <= len(rows) * 53
