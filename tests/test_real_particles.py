"""Real β-galactosidase particles (EMPIAR-10204), scored against the density of the atomic model."""

from pathlib import Path

import numpy as np
import pytest

from cryograd.config import Abinitio, Refine
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.engine.frame import taken_out
from cryograd.engine.state import State
from cryograd.maps import Map
from cryograd.recipe import abinitio, refine
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere
from refinement import last


@pytest.fixture(scope="module")
def started(shared_data: Path) -> tuple[Particles, State]:
    """The particles, and an ab initio run to 14 Å."""
    particles = read_particles(shared_data / "bgal-10204" / "particles_clean_1268.star")
    config = Abinitio(particles=particles.source, output=Path("unused"), symmetry="D2", max_resolution=14.0)
    return particles, last(abinitio(particles, config)).state


def correlation(found: Map, folder: Path) -> tuple[np.ndarray, float]:
    """FSC of a map and the model's after alignment, inside a soft sphere; and where it is one half, in Å."""
    model = Map.read(folder / "bgal-10204" / "reference_5a1a_64px.mrc")
    reference, voxel = model.values, model.pixel_size
    mask = soft_sphere(64, 27.0, 4.0)
    _, values = fsc(align(found.values, reference, found.pixel_size, voxel).volume * mask, reference * mask)
    resolution = resolution_at(values, 0.5, 64, voxel)
    assert resolution is not None
    return values, resolution


@pytest.mark.realdata
@pytest.mark.slow
def test_a_random_start_reaches_the_molecule(started: tuple[Particles, State], shared_data: Path) -> None:
    particles, state = started
    values, resolution = correlation(taken_out(state, particles, "D2", state.volume), shared_data)
    # The march ends at 14 Å; the map agrees with the model up to there.
    assert resolution < 14.5
    assert values[3:12].mean() > 0.9
    assert state.table.visited.all()
    # The picks are badly centred: their offsets have a median of 14 Å.
    assert 8.0 < float(np.median(np.hypot(*state.table.shifts.T))) < 22.0


@pytest.mark.realdata
@pytest.mark.slow
def test_half_sets_go_on_to_high_resolution(
    started: tuple[Particles, State], shared_data: Path, tmp_path: Path
) -> None:
    """One pass; two give 8.1 Å for the map and 8.4 Å for the mean of the unfiltered halves."""
    particles, state = started
    taken_out(state, particles, "D2", state.volume).write(tmp_path / "start.mrc")
    config = Refine(
        particles=particles.source,
        output=tmp_path / "unused",
        volume=(tmp_path / "start.mrc",),
        symmetry="D2",
        passes=1.0,
        minibatch=80,
    )
    halves = last(refine(particles, config)).state
    values, resolution = correlation(taken_out(halves, particles, "D2", halves.volume), shared_data)
    assert resolution < 8.6
    assert values[6:26].mean() > 0.84
    first, second = (taken_out(halves, particles, "D2", side.best.shown).values for side in halves.sides)
    mean = Map(0.5 * (first + second), particles.optics[0].pixel_size)
    values, resolution = correlation(mean, shared_data)
    assert resolution < 9.0
    assert values[6:26].mean() > 0.8
