"""Average gradients, against the last ones."""

import pytest
import torch

from cryograd.fourier import fourier_3d, radius_grid
from cryograd.solvers.sagd import SAGD, gradient_bytes
from cryograd.solvers.sgd import SGD
from cryograd.steps.decay import StepDecay
from cryograd.steps.line_search import LipschitzSearch
from quadratic import RADIUS, SIZE, Quadratic


def test_average_gradients_forget_which_minibatch_came_last() -> None:
    """Where minibatches disagree SAGD reaches the minimum of their mean, and SGD circles around it."""
    problem = Quadratic.random(4.0, parts=5, disagreement=2.0)
    steady = StepDecay(first=0.5, least=0.5)
    average = problem.error(problem.solve(SAGD(decay=steady), 400))
    last = problem.error(problem.solve(SGD(momentum=0.0, decay=steady), 400))
    assert average < 0.01
    assert last > 10 * average


def test_newly_opened_frequencies_move_by_their_own_mean() -> None:
    """Two of three minibatches were last seen at a smaller radius: they do not count beyond it."""
    problem = Quadratic.random(1.0, parts=3)
    solver = SAGD(decay=StepDecay(first=0.5, least=0.5), search=LipschitzSearch(decay=1.0, start=1.0))
    before = problem.solve(solver, 3, radii=(3.0, 3.0, 3.0))
    after = problem.solve(solver, 4, radii=(3.0, 3.0, 3.0, RADIUS))
    k = radius_grid(SIZE, 3)
    new = (k > 3.0) & (k <= RADIUS - 2.0)
    wanted = 0.5 * fourier_3d(problem.targets[0])
    moved = fourier_3d(after - before)
    assert float((moved - wanted)[new].abs().max()) < 1e-3 * float(wanted[new].abs().max())


def test_the_memory_of_gradients_is_what_it_says() -> None:
    problem = Quadratic.random(4.0, parts=3)
    volume, solver = torch.zeros_like(problem.targets[0]), SAGD()
    state = solver.init(volume)
    for part in range(3):
        state = solver.step(state, volume, problem.local(volume, part, RADIUS, 1.0, part)).state
    for gradient in state.gradients:
        assert gradient.dtype == torch.complex64
        assert gradient.nbytes == pytest.approx(gradient_bytes(RADIUS), rel=0.1)
    assert torch.allclose(state.total, torch.stack(state.gradients).sum(dim=0), atol=1e-4)
    assert (state.count == 3).all()
