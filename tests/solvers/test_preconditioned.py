"""The preconditioned solver on quadratics whose minimum is known."""

import torch

from cryograd.fourier import fourier_3d, radius_grid
from cryograd.solvers.preconditioned import Preconditioned
from quadratic import RADIUS, SIZE, Quadratic


def _error(solver: Preconditioned, spread: float, steps: int, rate: float) -> float:
    problem = Quadratic.random(spread)
    return problem.error(problem.solve(solver, steps, rate))


def test_one_full_step_without_momentum_is_newtons() -> None:
    assert _error(Preconditioned(momentum=0.0, floor=1e-6), 50.0, steps=1, rate=1.0) < 1e-5


def test_the_first_step_does_not_suffer_from_empty_running_means() -> None:
    assert _error(Preconditioned(momentum=0.9, memory=0.99, floor=1e-6), 50.0, 1, 1.0) < 1e-5


def test_converges_with_the_defaults() -> None:
    assert _error(Preconditioned(), 20.0, steps=60, rate=0.5) < 1e-3


def test_the_floor_slows_starved_frequencies_only() -> None:
    fast = _error(Preconditioned(momentum=0.0, floor=1e-6), 500.0, steps=4, rate=1.0)
    slow = _error(Preconditioned(momentum=0.0, floor=0.5), 500.0, steps=4, rate=1.0)
    assert fast < 0.5 * slow


def test_frequencies_beyond_the_radius_are_left_alone() -> None:
    problem = Quadratic(torch.randn(1, SIZE, SIZE, SIZE), torch.ones(SIZE, SIZE, SIZE // 2 + 1))
    change = fourier_3d(problem.solve(Preconditioned(), 1, radii=(3.0,))).abs()
    k = radius_grid(SIZE, 3)
    assert change[k > 3.0].max() < 1e-4 * change[k <= 3.0].max()


def test_newly_opened_frequencies_get_their_own_mean() -> None:
    problem = Quadratic.random(5.0)
    solver = Preconditioned(momentum=0.0, floor=1e-6)
    assert problem.error(problem.solve(solver, 4, radii=(2.0, 2.0, 2.0, RADIUS))) < 1e-4
