"""The published stochastic solver, its probes and its line search, against steps worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid
from cryograd.solvers import registry
from cryograd.solvers.armijo_sgd import ArmijoSGD
from cryograd.solvers.hutchinson import Hutchinson, random_signs
from cryograd.steps.armijo import ArmijoSearch, ArmijoState
from cryograd.steps.protocol import Local, Spectrum
from quadratic import RADIUS, SIZE, Quadratic

IDENTITY = Spectrum(lambda v: v, lambda v: v, torch.ones(4, dtype=torch.bool))


def a_quadratic(curvature: torch.Tensor, volume: torch.Tensor, iteration: int = 0, epoch: int = 0) -> Local:
    """½ Σ h |v|² in four complex unknowns."""

    def value(where: torch.Tensor) -> float:
        return 0.5 * float((curvature * where.abs().square()).sum())

    return Local(
        loss=value(volume),
        gradient=curvature * volume,
        curvature=curvature,
        precision=torch.zeros_like,
        weights=curvature,
        value=value,
        normal=lambda weights, v: weights * v,
        spectrum=IDENTITY,
        radius=RADIUS,
        rate=1.0,
        iteration=iteration,
        epoch=epoch,
        minibatch=(0, 1),
    )


CURVATURE = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
START = torch.tensor([1.0 + 1.0j, 2.0, -1.0j, 5.0], dtype=torch.complex128)


def test_plain_steps_are_halved_until_enough_is_gained() -> None:
    """On ½ |v|² a step η gains η (1 − η/2) of the squared slope, enough for η ≤ 2 (1 − c)."""
    solver = ArmijoSGD(search=ArmijoSearch(first=1.0, growth=2.0, decrease=0.9))
    ones = torch.ones(4, dtype=torch.float64)
    move = solver.step(solver.init(START), START, a_quadratic(ones, START))
    assert move.state.search.step == 0.125
    assert torch.allclose(move.volume, 0.875 * START)


def test_the_step_grows_within_an_epoch_and_starts_anew_with_the_next() -> None:
    search = ArmijoSearch(first=1.0, growth=1.2, decrease=0.5)
    flat = a_quadratic(0.01 * CURVATURE, START)
    one = torch.ones(())
    for known, wanted in ((ArmijoState(3.0, 0), 3.6), (ArmijoState(3.0, -1), 1.2)):
        _, found, _ = search.descend(known, START, one, flat)
        assert found.step == pytest.approx(wanted)
        assert found.epoch == 0


def test_the_condition_holds_at_the_step_and_not_at_its_double() -> None:
    problem = Quadratic.random(30.0)
    volume = torch.zeros_like(problem.targets[0])
    local, search = problem.local(volume, 0, RADIUS, 1.0, 0), ArmijoSearch(10.0, 1.2)
    moved, found, _ = search.descend(ArmijoState(), volume, torch.ones(()), local)
    slope = float(local.gradient.double().square().sum())
    assert local.value(moved) <= local.loss - 0.99 * found.step * slope
    twice = volume - 2.0 * found.step * local.gradient
    assert local.value(twice) > local.loss - 0.99 * 2.0 * found.step * slope


def test_a_search_that_gains_nothing_leaves_the_volume() -> None:
    local = replace(a_quadratic(CURVATURE, START), value=lambda where: float("nan"))
    moved, found, taken = ArmijoSearch(8.0, 2.0).descend(ArmijoState(), START, torch.ones(()), local)
    assert moved is START
    assert found == ArmijoState(8.0, 0)
    assert taken == 0.0


@pytest.mark.parametrize("name", ["armijo-sgd", "em", "hutchinson", "incremental", "preconditioned"])
def test_unknowns_may_be_complex_numbers_of_any_shape(name: str) -> None:
    """Those at known poses are Fourier voxels in a row."""
    solver, local = registry.get(name), a_quadratic(CURVATURE, START)
    move = solver.step(solver.init(START), START, local)
    assert move.volume.dtype == torch.complex128
    assert move.volume.shape == START.shape
    assert local.value(move.volume) < local.loss
    assert move.volume[3] == START[3]


def test_the_exact_diagonal_makes_a_newton_step() -> None:
    solver = ArmijoSGD(CURVATURE.clamp(min=1e-3), ArmijoSearch(first=0.5, growth=2.0, decrease=0.5))
    moved = solver.step(solver.init(START), START, a_quadratic(CURVATURE, START)).volume
    assert moved[:3].abs().max() < 1e-12
    assert moved[3] == START[3]


def test_one_probe_of_a_diagonal_hessian_is_exact_in_real_voxels() -> None:
    problem = Quadratic.random(10.0)
    volume, solver = torch.zeros_like(problem.targets[0]), Hutchinson()
    state = solver.step(solver.init(volume), volume, problem.local(volume, 0, RADIUS, 1.0, 0)).state
    open_ = radius_grid(SIZE, 3) <= RADIUS
    assert torch.allclose(state.mean, problem.curvature * open_, atol=1e-5)


def test_three_steps_of_algorithm_1_by_hand() -> None:
    """H is diagonal and differs from step to step, so that D̄ and D are plain arithmetic."""
    solver, volume = Hutchinson(memory=0.9), START
    state = solver.init(volume)
    diagonal, seen = np.ones(4), []
    for iteration, factor in enumerate((1.0, 3.0, 0.5)):
        seen.append(factor * CURVATURE.numpy())
        diagonal = 0.9 * diagonal + 0.1 * np.mean(seen, axis=0)
        bounded = np.maximum(np.abs(diagonal), 1.0 / (4.0 * np.pi * RADIUS**2))
        local = a_quadratic(factor * CURVATURE, volume, iteration)
        move = solver.step(state, volume, local)
        expected = volume.numpy() * (1.0 - move.state.search.step * factor * CURVATURE.numpy() / bounded)
        assert np.allclose(move.volume.numpy(), expected)
        assert np.allclose(move.state.diagonal.numpy(), diagonal)
        state, volume = move.state, move.volume


def test_the_diagonal_is_bounded_from_below() -> None:
    """Beyond the open frequencies D fades, and a step there would grow without end."""
    solver, volume, state = Hutchinson(memory=0.5), START, Hutchinson().init(START)
    tiny = torch.full((4,), 1e-9, dtype=torch.float64)
    for iteration in range(20):
        local = a_quadratic(tiny, volume, iteration)
        move = solver.step(state, volume, local)
        state = move.state
    bound = 1.0 / (4.0 * np.pi * RADIUS**2)
    assert float(state.diagonal.max()) < 1e-5 < bound
    step = (volume - move.volume) / (tiny * volume)
    assert torch.allclose(step.real, torch.full((4,), state.search.step / bound, dtype=torch.float64))


def test_signs_are_those_of_a_real_volume_and_a_function_of_seed_and_iteration() -> None:
    volume = torch.zeros(SIZE, SIZE, SIZE)
    spectrum = Spectrum.of_voxels(SIZE, RADIUS, volume.device)
    signs = random_signs(volume, spectrum, 0, 3)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert torch.allclose(fourier_3d(inverse_fourier_3d(signs + 0j, SIZE)).real, signs, atol=1e-4)
    assert abs(float(signs.mean())) < 0.05
    assert torch.equal(signs, random_signs(volume, spectrum, 0, 3))
    for other in (random_signs(volume, spectrum, 0, 4), random_signs(volume, spectrum, 1, 3)):
        assert abs(float((signs * other).mean())) < 0.05
