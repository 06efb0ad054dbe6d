"""The loss at known poses against its definition, finite differences, and itself by way of sums."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.projection import slice_points
from cryograd.model.voxels import FourierVoxels
from cryograd.objective.known_poses import KnownPoses, Turn
from cryograd.rotations import random_rotations
from cryograd.solvers.em import EM
from cryograd.solvers.hutchinson import random_signs
from cryograd.solvers.incremental import Incremental
from cryograd.steps.protocol import dot

RADIUS, IMAGES, LAMBDA = 4.0, 30, 0.02
TURN = Turn(0, 0, (0, 1))


@pytest.fixture(params=["nearest", "linear"])
def interpolation(request):
    return request.param


def complex_noise(rng, *shape):
    return torch.complex(*(torch.from_numpy(rng.normal(size=shape)) for _ in range(2)))


def a_loss(interpolation="linear"):
    """The loss, what it was made of, and some unknowns."""
    rng, voxels = np.random.default_rng(0), FourierVoxels(RADIUS, interpolation)
    rotations = torch.from_numpy(random_rotations(IMAGES, rng))
    shape = (IMAGES, len(HalfDisc(RADIUS)))
    ctfs, images = torch.from_numpy(rng.normal(size=shape)), complex_noise(rng, *shape)
    loss = replace(KnownPoses.of_images(voxels, rotations, ctfs, images), regularisation=LAMBDA, block=7)
    return loss, ctfs, images, complex_noise(rng, len(voxels))


EVERY = torch.arange(IMAGES)


def test_the_value_is_its_definition(interpolation):
    loss, ctfs, images, v = a_loss(interpolation)
    slices = loss.voxels.slices(v, loss.rotations, slice_points(HalfDisc(RADIUS), dtype=torch.float64))
    some = torch.tensor([3, 11, 20, 5, 7, 8, 1, 0, 29])
    misfit = (ctfs * slices - images)[some].abs().square().sum(dim=1).mean()
    expected = 0.5 * float(misfit) + 0.5 * LAMBDA * float(v.abs().square().sum())
    assert loss.value(v, some) == pytest.approx(expected, rel=1e-12)
    assert loss.evaluate(v, some)[0] == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_the_finite_difference(interpolation):
    loss, _, _, v = a_loss(interpolation)
    d = complex_noise(np.random.default_rng(1), len(v))
    _, gradient = loss.evaluate(v, EVERY)
    difference = (loss.value(v + 1e-5 * d, EVERY) - loss.value(v - 1e-5 * d, EVERY)) / 2e-5
    assert dot(gradient, d) == pytest.approx(difference, rel=1e-8)


def test_the_product_is_the_second_difference_and_symmetric(interpolation):
    loss, _, _, v = a_loss(interpolation)
    d, e = (complex_noise(np.random.default_rng(seed), len(v)) for seed in (1, 2))
    local = loss.local(v, EVERY, torch.ones(()), TURN)
    image = local.normal(local.weights, d)
    second = local.value(v + d) - 2.0 * local.loss + local.value(v - d)
    assert dot(d, image) == pytest.approx(second, rel=1e-10)
    assert dot(e, image) == pytest.approx(dot(d, local.normal(local.weights, e)), rel=1e-10)
    ones = torch.ones(len(v), dtype=torch.complex128)
    assert torch.allclose(loss.row_sums(EVERY), loss.product(ones, EVERY).real)


def test_images_and_their_sums_give_the_same(interpolation):
    loss, _, _, v = a_loss(interpolation)
    d = complex_noise(np.random.default_rng(1), len(v))
    some = torch.arange(0, IMAGES, 2)
    through = loss.local(v, some, loss.row_sums(some), TURN)
    summed = loss.local_of(loss.sums(some), v, TURN)
    assert summed.loss == pytest.approx(through.loss, rel=1e-10)
    assert summed.value(d) == pytest.approx(through.value(d), rel=1e-10)
    assert torch.allclose(summed.gradient, through.gradient)
    assert torch.allclose(summed.curvature, through.curvature)
    assert torch.allclose(summed.normal(summed.weights, d), through.normal(through.weights, d))


def test_one_step_of_the_normal_equations_reaches_the_minimum():
    loss, _, _, v = a_loss()
    for solver, local in (
        (EM(iterations=300), loss.local(v, EVERY, loss.row_sums(EVERY), TURN)),
        (Incremental(iterations=300, tolerance=1e-9), loss.local_of(loss.sums(EVERY), v, TURN)),
    ):
        moved = solver.step(solver.init(v), v, local).volume
        assert float(loss.evaluate(moved, EVERY)[1].norm()) < 1e-7 * float(local.gradient.norm())


def test_incremental_steps_over_minibatches_end_at_the_minimum_of_all():
    loss, _, _, v = a_loss()
    solver, first = Incremental(iterations=300, tolerance=1e-9), v
    state = solver.init(v)
    for number, part in enumerate(EVERY.chunk(3)):
        turn = Turn(number, 0, (number, 3))
        move = solver.step(state, v, loss.local_of(loss.sums(part), v, turn))
        state, v = move.state, move.volume
    size = float(loss.evaluate(first, EVERY)[1].norm())
    assert float(loss.evaluate(v, EVERY)[1].norm()) < 1e-7 * size


def test_probes_of_complex_unknowns_have_the_diagonal_as_their_mean():
    loss, _, _, v = a_loss()
    local = loss.local(v, EVERY, torch.ones(()), TURN)
    units = torch.eye(len(v), dtype=torch.complex128)
    exact = torch.stack([loss.product(unit, EVERY)[i].real for i, unit in enumerate(units)])
    total = torch.zeros_like(exact)
    for iteration in range(400):
        signs = random_signs(v, local.spectrum, 0, iteration)
        total += signs * local.normal(local.weights, signs + 0j).real
    assert float((total / 400 - exact).norm() / exact.norm()) < 0.1
