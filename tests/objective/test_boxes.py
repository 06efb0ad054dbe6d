"""One objective in two boxes that hold its radius: the smaller one says what the larger one says."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from cryograd.fourier import fourier_2d, fourier_3d, lowpass_volume, pack_disc, radius_grid, resize_transform
from cryograd.model.projection import slice_points
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.rotations import random_rotations
from cryograd.simulation.molecule import molecule
from cryograd.solvers.incremental import IncrementalState
from cryograd.solvers.preconditioned import Preconditioned
from cryograd.steps.protocol import Local, Spectrum
from cryograd.steps.quadratic import Quadratic
from cryograd.validation.fsc import soft_sphere

SMALL, LARGE, RADIUS, SLICES = 18, 36, 7.0, 300
EXTENT = 6.0 * LARGE
SYMMETRIES = pytest.mark.parametrize("symmetry", ["C1", "D2"])


def likelihood(size: int, symmetry: str) -> MarginalLikelihood:
    return MarginalLikelihood(size, EXTENT, RADIUS, symmetry)


def sphere(size: int) -> Tensor:
    return torch.as_tensor(np.asarray(soft_sphere(size, 0.38 * size, 0.14 * size))).float()


@cache
def start() -> Tensor:
    """A map in the small box, as a step leaves it: masked."""
    blurred = lowpass_volume(torch.as_tensor(molecule(LARGE, EXTENT / LARGE)), RADIUS - 1.0)
    return resize_transform(blurred, SMALL) * sphere(SMALL)


@cache
def rotations() -> Tensor:
    return torch.as_tensor(random_rotations(SLICES, np.random.default_rng(0))).float()


def slices(given: MarginalLikelihood, volume: Tensor) -> Tensor:
    return given.projector.sample(given.transform(volume), rotations(), slice_points(given.disc))


def near(size: int, symmetry: str) -> tuple[Tensor, Local]:
    """The objective at known poses near the start, given images with noise that a mask ends."""
    given = likelihood(size, symmetry)
    volume, points = resize_transform(start(), size), slice_points(given.disc)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(SLICES, LARGE, LARGE, generator=generator)
    mask = sphere(LARGE)[LARGE // 2]
    # The same images whatever the box.
    clean = 2.0 * slices(likelihood(SMALL, symmetry), start())
    noisy = clean + pack_disc(fourier_2d(noise * mask), given.disc) * float(clean.abs().mean()) / LARGE
    ctf = torch.cos(0.1 * points.square().sum(dim=1))
    misfit = ctf * (ctf * slices(given, volume) - noisy)
    power = ctf.square().expand(SLICES, -1).to(noisy.dtype)
    gradient, weights = (given.projector.insert(values, rotations(), points) for values in (misfit, power))
    weights = weights[..., 0] / SLICES
    gradient = given._volume(gradient) * (2.0 / SLICES)
    spectrum = Spectrum.of_voxels(size, RADIUS, volume.device)
    return volume, Local(
        loss=0.0,
        gradient=gradient,
        curvature=given.curvature(weights),
        precision=lambda curvature: 0.2 * curvature,
        weights=weights,
        value=lambda volume: 0.0,
        normal=given.normal,
        spectrum=spectrum,
        radius=RADIUS,
        rate=1.0,
        iteration=0,
        epoch=0,
        minibatch=(0, 1),
    )


def error(found: Tensor, expected: Tensor) -> float:
    """Relative distance of two maps in the large box, in the mask and at open frequencies."""
    open_ = radius_grid(LARGE, 3) <= RADIUS
    a, b = (fourier_3d(volume * sphere(LARGE)) * open_ for volume in (found, expected))
    return float((a - b).norm() / b.norm())


@SYMMETRIES
def test_a_map_has_the_same_slices_in_a_larger_box(symmetry: str) -> None:
    small = slices(likelihood(SMALL, symmetry), start())
    large = slices(likelihood(LARGE, symmetry), resize_transform(start(), LARGE))
    # The gridding correction of a map that is not zero at the box's faces is no smooth periodic function.
    assert float((large - small).norm() / small.norm()) < 2e-3


@SYMMETRIES
def test_sums_of_a_larger_box_are_those_of_the_smaller_one(symmetry: str) -> None:
    (volume, small), (_, large) = near(SMALL, symmetry), near(LARGE, symmetry)
    seen = Quadratic.of(small, volume, 1.0)
    expected = Quadratic.of(large, resize_transform(volume, LARGE), 1.0)
    found = seen.resized(LARGE)
    assert torch.equal(found.weights, expected.weights)
    assert torch.allclose(found.curvature, expected.curvature, rtol=1e-5)
    assert error(found.linear, expected.linear) < 1e-3
    # It is one function at the voxels of either box.
    shared = expected.linear[::2, ::2, ::2]
    assert float((shared - seen.linear).norm() / seen.linear.norm()) < 5e-3


@SYMMETRIES
def test_newton_steps_agree_in_either_box(symmetry: str) -> None:
    """As far as voxels at the faces let them, which are thicker in the smaller box, and beyond any mask."""
    (volume, small), (enlarged, large) = near(SMALL, symmetry), near(LARGE, symmetry)
    seen = Quadratic.of(small, volume, 1.0)
    options = (0.02, 8, 0.0)
    expected = enlarged - Quadratic.of(large, enlarged, 1.0).newton_step(enlarged, large, *options)
    alone = volume - seen.newton_step(volume, small, *options)
    resized = enlarged - seen.resized(LARGE).newton_step(enlarged, large, *options)
    assert error(expected, enlarged) > 1.0
    assert error(resize_transform(alone, LARGE), expected) < 0.1
    assert error(resized, expected) < 0.07


@SYMMETRIES
def test_preconditioned_steps_agree_in_either_box(symmetry: str) -> None:
    """Two steps, of which the second is in the larger box, against two there."""
    (volume, small), (enlarged, large) = near(SMALL, symmetry), near(LARGE, symmetry)
    solver = Preconditioned()
    first = solver.step(solver.init(volume), volume, small)
    second = solver.step(first.state.resized(LARGE), resize_transform(first.volume, LARGE), large)
    there = solver.step(solver.init(enlarged), enlarged, large)
    expected = solver.step(there.state, there.volume, large)
    assert error(expected.volume, there.volume) > 0.5
    assert error(second.volume, expected.volume) < 0.03


def test_states_before_the_first_step_have_the_new_box() -> None:
    volume = torch.zeros(SMALL, SMALL, SMALL)
    assert Preconditioned().init(volume).resized(LARGE).momentum.shape == (LARGE, LARGE, LARGE)
    assert IncrementalState(()).resized(LARGE) == IncrementalState(())
