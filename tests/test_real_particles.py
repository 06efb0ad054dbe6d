"""Real β-galactosidase particles (EMPIAR-10204), scored against the density of the atomic model."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest

from cryograd.config import Abinitio, Refine
from cryograd.data.mrc import read_map, write_map
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.reconstruct import abinitio
from cryograd.refine import refine
from cryograd.state import State, full_volume
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere


@pytest.fixture(scope="module")
def started(shared_data: Path) -> tuple[Particles, State]:
    """The particles, and an ab initio run to 14 Å."""
    particles = read_particles(shared_data / "bgal-10204" / "particles_clean_1268.star")
    config = Abinitio(particles=particles.source, output=Path("unused"), symmetry="D2", max_resolution=14.0)
    (state,) = deque(abinitio(particles, config), maxlen=1)
    return particles, state


def correlation(density: np.ndarray, pixel: float, folder: Path) -> tuple[np.ndarray, float]:
    """FSC of a map and the model's after alignment, inside a soft sphere; and where it is one half, in Å."""
    reference, voxel = read_map(folder / "bgal-10204" / "reference_5a1a_64px.mrc")
    mask = soft_sphere(64, 27.0, 4.0)
    _, values = fsc(align(density, reference, pixel, voxel).volume * mask, reference * mask)
    resolution = resolution_at(values, 0.5, 64, voxel)
    assert resolution is not None
    return values, resolution


@pytest.mark.realdata
@pytest.mark.slow
def test_a_random_start_reaches_the_molecule(started: tuple[Particles, State], shared_data: Path) -> None:
    particles, state = started
    values, resolution = correlation(*full_volume(state, particles), shared_data)
    # The march ends at 14 Å; the map agrees with the model up to there.
    assert resolution < 14.5
    assert values[3:12].mean() > 0.9
    assert state.posterior.visited.all()
    # The picks are badly centred: their offsets have a median of 14 Å.
    assert 8.0 < float(np.median(np.hypot(*state.posterior.shifts.T))) < 22.0


@pytest.mark.realdata
@pytest.mark.slow
def test_half_sets_go_on_to_high_resolution(
    started: tuple[Particles, State], shared_data: Path, tmp_path: Path
) -> None:
    """One pass; two give 8.1 Å for the map and 8.4 Å for the mean of the unfiltered halves."""
    particles, state = started
    write_map(tmp_path / "start.mrc", *full_volume(state, particles))
    config = Refine(
        particles=particles.source,
        output=tmp_path / "unused",
        volume=tmp_path / "start.mrc",
        symmetry="D2",
        passes=1.0,
        minibatch=80,
    )
    (halves,) = deque(refine(particles, config), maxlen=1)
    density, pixel = full_volume(halves.states[0], particles, halves.volume)
    values, resolution = correlation(density, pixel, shared_data)
    assert resolution < 8.6
    assert values[6:26].mean() > 0.84
    unfiltered = [half.candidates[0].unfiltered for half in halves.states]
    pairs = zip(halves.states, unfiltered, strict=True)
    first, second = (full_volume(half, particles, volume)[0] for half, volume in pairs)
    mean = 0.5 * (first + second)
    values, resolution = correlation(mean, pixel, shared_data)
    assert resolution < 9.0
    assert values[6:26].mean() > 0.8
