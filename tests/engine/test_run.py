"""What a run derives from its data and options."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.engine.run import Run, group_of
from cryograd.recipe import abinitio, refine
from refinement import BOX, PIXEL, before, configuration, simulated


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated")).select(np.arange(40))


@pytest.fixture(scope="module")
def folder(particles: Particles) -> Path:
    return particles.source.parent


def in_halves(particles: Particles, folder: Path, **options: object) -> Run:
    return before(refine(particles, configuration(folder, **options))).run


def test_half_sets_stand_apart_and_all_images_together_do_not(particles: Particles, folder: Path) -> None:
    together = before(abinitio(particles, Abinitio(particles=particles.source))).run
    apart = in_halves(particles, folder)
    assert (together.apart, apart.apart) == (False, True)
    assert together.sides[0].every.tolist() == list(range(40))
    both = [members.every for members in apart.sides]
    assert sorted(np.concatenate(both)) == list(range(40))
    # Images are looked up by bisection in their half-set.
    assert all((np.diff(members) > 0).all() for members in both)
    # Images have scales of their own in half-sets alone.
    assert together.scale_width == 0.0 < apart.scale_width


def test_there_are_as_many_classes_as_point_groups(particles: Particles, folder: Path) -> None:
    assert in_halves(particles, folder).classes == 1
    two = in_halves(particles, folder, classes=2, volume=(folder / "start.mrc",) * 2, symmetry="D2,C1")
    assert two.classes == 2
    assert two.symmetries == ("D2", "C1")
    assert {step.tracks for step in two.program.steps} == {2}


def test_likelihoods_are_of_the_images_extent_in_any_box(particles: Particles, folder: Path) -> None:
    run = in_halves(particles, folder)
    whole, small = run.likelihood(6.0, "C3"), run.likelihood(6.0, "C3", 18)
    assert (whole.size, small.size) == (run.images.size, 18)
    assert whole.extent == small.extent == BOX * PIXEL
    assert (whole.radius, whole.symmetry) == (6.0, "C3")
    assert whole.precision == run.precision


@pytest.mark.parametrize(
    ("solver", "expected"), [("incremental", torch.bfloat16), ("preconditioned", None), ("em", None)]
)
def test_weights_are_short_where_those_of_all_minibatches_are_kept(
    particles: Particles, folder: Path, solver: str, expected: torch.dtype | None
) -> None:
    assert in_halves(particles, folder, solver=solver).likelihood(6.0, "C1").weight_type is expected


@pytest.mark.parametrize(("name", "order"), [("C1", 1), ("C3", 3), ("D2", 4), ("T", 12)])
def test_a_group_has_all_of_its_elements_and_is_made_once(name: str, order: int) -> None:
    group = group_of(name)
    assert len(group) == order
    assert group_of(name) is group
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 9)
    distance = np.abs(products[:, None] - group.reshape(-1, 9)).max(axis=2).min(axis=1)
    assert distance.max() < 1e-9
