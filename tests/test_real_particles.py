"""Real β-galactosidase particles (EMPIAR-10204), scored against the density of the atomic model."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest

from cryograd.config import Abinitio
from cryograd.data.mrc import read_map
from cryograd.data.particles import read_particles
from cryograd.reconstruct import abinitio
from cryograd.state import full_volume
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere


@pytest.mark.realdata
@pytest.mark.slow
def test_a_random_start_reaches_the_molecule(shared_data: Path) -> None:
    folder = shared_data / "bgal-10204"
    particles = read_particles(folder / "particles_clean_1268.star")
    config = Abinitio(particles=particles.source, output=Path("unused"), symmetry="D2", max_resolution=14.0)
    (state,) = deque(abinitio(particles, config), maxlen=1)
    density, pixel = full_volume(state, particles)
    reference, voxel = read_map(folder / "reference_5a1a_64px.mrc")
    mask = soft_sphere(64, 27.0, 4.0)
    _, values = fsc(align(density, reference, pixel, voxel).volume * mask, reference * mask)
    resolution = resolution_at(values, 0.5, 64, voxel)
    assert resolution is not None
    # The march ends at 14 Å; the map agrees with the model up to there.
    assert resolution < 14.5
    assert values[3:12].mean() > 0.9
    assert state.posterior.visited.all()
    # The picks are badly centred: their offsets have a median of 14 Å.
    assert 8.0 < float(np.median(np.hypot(*state.posterior.shifts.T))) < 22.0
