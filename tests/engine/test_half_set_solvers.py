"""Every solver and prior in half-sets: the same bytes after a resume, and maps of the molecule."""

from pathlib import Path

import numpy as np
import pytest

from cryograd.data.particles import Particles
from cryograd.recipe import refine
from cryograd.simulation.molecule import molecule
from cryograd.validation.fsc import fsc
from refinement import BOX, PIXEL, configuration, differences, last, saving, simulated


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated")).select(np.arange(60))


@pytest.fixture(scope="module")
def folder(particles: Particles) -> Path:
    return particles.source.parent


@pytest.mark.parametrize(
    ("solver", "prior"),
    [
        ("preconditioned", "nonnegative"),
        ("sgd", "gaussian"),
        ("sagd", "exponential"),
        ("projection-matching", "none"),
        ("em", "exponential"),
        ("incremental", "car"),
    ],
)
def test_every_solver_refines_and_resumes_with_the_same_bytes(
    particles: Particles, folder: Path, solver: str, prior: str
) -> None:
    passes = 2.0 if solver in ("em", "projection-matching") else 1.0
    config, saved = configuration(folder, solver=solver, prior=prior, minibatch=10, passes=passes), {}
    whole = last(saving(refine(particles, config), saved, 1))
    assert differences(last(refine(particles, config, resume=saved[1])), whole) == []
    state = whole.state
    assert state.table.visited.all()
    half_maps = [side.best for side in state.sides]
    for track in half_maps:
        assert track.unfiltered is not None
        assert track.unfiltered.isfinite().all()
        # Density is allowed to be negative where no prior forbids it.
        assert (float(track.volume.min()) < 0.0) == (prior in ("none", "car", "gaussian"))
        _, values = fsc(track.unfiltered.numpy(), molecule(BOX, PIXEL))
        assert values[1:6].mean() > 0.75
    # Every image of a half-set is drawn as many times as there are passes, and once more for the last poses.
    drawn = sum(side.images_drawn for side in state.sides)
    assert drawn == pytest.approx((passes + 1.0) * 60, rel=0.03)
