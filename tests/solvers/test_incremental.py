"""What carried gradients promise, and the normal equations that they share with expectation maximisation."""

from dataclasses import replace

import torch

from cryograd.solvers.em import EM
from cryograd.solvers.incremental import Incremental
from cryograd.steps.protocol import DIAGONAL_SHARE, Solver
from quadratic import RADIUS, Quadratic


def test_carried_gradients_are_exact_after_one_pass_over_a_quadratic() -> None:
    """Nothing of the swings that other gradients of minibatches that disagree have."""
    problem = Quadratic.random(30.0, parts=5, disagreement=2.0)
    solver = Incremental(iterations=30, tolerance=1e-4)
    assert problem.error(problem.solve(solver, 4)) > 0.1
    assert problem.error(problem.solve(solver, 5)) < 1e-3
    assert problem.error(problem.solve(solver, 8)) < 1e-3


def test_weights_that_are_kept_in_three_digits_do_not_move_the_minimum() -> None:
    problem = Quadratic.random(30.0, parts=5, disagreement=2.0)
    solver = Incremental(iterations=60, tolerance=1e-6)
    volume = torch.zeros_like(problem.targets[0])
    state = solver.init(volume)
    for iteration in range(25):
        local = problem.local(volume, iteration, RADIUS, 1.0, iteration % 5)
        move = solver.step(state, volume, replace(local, weights=local.weights.bfloat16()))
        volume, state = move.volume, move.state
        if iteration == 4:
            assert problem.error(volume) > 1e-4
    assert problem.error(volume) < 1e-5


def test_the_prior_on_the_spectrum_is_a_wiener_filter() -> None:
    """Its gradient is that of a Gaussian, so that both solvers of normal equations find its maximum."""
    problem = Quadratic.random(4.0)
    solvers: tuple[Solver, ...] = (EM(), Incremental())
    for solver in solvers:
        volume = torch.zeros_like(problem.targets[0])
        local = problem.local(volume, 0, RADIUS, 1.0, 0)
        local = replace(local, precision=lambda curvature: 0.5 / DIAGONAL_SHARE * curvature)
        moved = solver.step(solver.init(volume), volume, local).volume
        assert torch.allclose(moved, problem.targets[0] / 1.5, atol=1e-3)


def test_the_m_step_is_exact_where_every_frequency_is_measured() -> None:
    problem = Quadratic.random(30.0)
    assert problem.error(problem.solve(EM(), 1)) < 1e-4
