"""Every solver on the same problems, and what each promises."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryograd.fourier import fourier_3d, radius_grid
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.solvers.armijo_sgd import ArmijoSGD
from cryograd.solvers.em import EM
from cryograd.solvers.hutchinson import Hutchinson
from cryograd.solvers.incremental import Incremental
from cryograd.solvers.preconditioned import Preconditioned
from cryograd.solvers.sagd import SAGD, gradient_bytes
from cryograd.solvers.sgd import SGD
from cryograd.steps.armijo import ArmijoSearch
from cryograd.steps.decay import StepDecay
from cryograd.steps.line_search import Lipschitz, LipschitzSearch
from cryograd.steps.protocol import DIAGONAL_SHARE, Solver
from cryograd.steps.quadratic import Quadratic as IncrementalQuadratic
from cryograd.steps.state import as_plain, as_record
from quadratic import RADIUS, SIZE, Quadratic

STEADY = StepDecay(first=1.0, least=1.0)
SOLVERS: list[tuple[Solver, int]] = [
    (Preconditioned(), 40),
    (SAGD(decay=STEADY), 150),
    (SGD(decay=STEADY), 150),
    (EM(), 3),
    (Incremental(), 3),
    # The published share of the decrease, 0.99, would need fifty times the steps.
    (ArmijoSGD(search=ArmijoSearch(1.0, 2.0, decrease=0.5)), 150),
    (Hutchinson(search=ArmijoSearch(10.0, 1.2, decrease=0.5)), 150),
]
NAMES = [type(solver).__name__ for solver, _ in SOLVERS]


@pytest.mark.parametrize(("solver", "steps"), SOLVERS, ids=NAMES)
def test_converges_to_the_minimum(solver: Solver, steps: int) -> None:
    problem = Quadratic.random(10.0)
    assert problem.error(problem.solve(solver, steps)) < 0.02


@pytest.mark.parametrize(("solver", "steps"), SOLVERS, ids=NAMES)
def test_frequencies_that_are_not_open_do_not_move(solver: Solver, steps: int) -> None:
    problem = Quadratic(torch.randn(1, SIZE, SIZE, SIZE), torch.ones(SIZE, SIZE, SIZE // 2 + 1))
    change = fourier_3d(problem.solve(solver, 2, radii=(3.0, 3.0))).abs()
    k = radius_grid(SIZE, 3)
    assert change[k <= 3.0].max() > 1.0
    assert change[k > 3.0].max() < 1e-4 * change[k <= 3.0].max()


@pytest.mark.parametrize(("solver", "steps"), SOLVERS, ids=NAMES)
def test_a_step_is_a_function_of_what_it_is_given(solver: Solver, steps: int) -> None:
    problem = Quadratic.random(10.0, parts=2, disagreement=1.0)
    assert torch.equal(problem.solve(solver, 3), problem.solve(solver, 3))


def test_average_gradients_forget_which_minibatch_came_last() -> None:
    """Where minibatches disagree SAGD reaches the minimum of their mean, and SGD circles around it."""
    problem = Quadratic.random(4.0, parts=5, disagreement=2.0)
    steady = StepDecay(first=0.5, least=0.5)
    average = problem.error(problem.solve(SAGD(decay=steady), 400))
    last = problem.error(problem.solve(SGD(momentum=0.0, decay=steady), 400))
    assert average < 0.01
    assert last > 10 * average


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


def test_every_state_survives_a_checkpoint(tmp_path: Path) -> None:
    problem = Quadratic.random(10.0, parts=2, disagreement=1.0)
    for solver, _ in SOLVERS:
        volume = torch.zeros_like(problem.targets[0])
        state = solver.init(volume)
        for part in range(2):
            move = solver.step(state, volume, problem.local(volume, part, RADIUS, 1.0, part))
            volume, state = move.volume, move.state
        torch.save(as_plain(state), tmp_path / "state.pt")
        back = as_record(torch.load(tmp_path / "state.pt", weights_only=True))
        local = problem.local(volume, 2, RADIUS, 1.0, 0)
        assert torch.equal(solver.step(back, volume, local).volume, solver.step(state, volume, local).volume)


def test_weights_of_a_smaller_radius_fit_into_those_of_a_larger_one() -> None:
    likelihood = MarginalLikelihood(SIZE, 100.0, 6.0)
    small = torch.rand(2 * 7 + 1, 2 * 7 + 1, 7 + 1, generator=torch.Generator().manual_seed(0))
    large = torch.rand(2 * 13 + 1, 2 * 13 + 1, 13 + 1, generator=torch.Generator().manual_seed(1))
    volume = torch.randn(SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    curvature, linear = torch.zeros(1), torch.zeros(1)
    both = IncrementalQuadratic.mean(
        [
            IncrementalQuadratic(0.1, small, curvature, linear),
            IncrementalQuadratic(0.3, large, curvature, linear),
        ]
    )
    apart = 0.25 * likelihood.normal(small, volume) + 0.75 * likelihood.normal(large, volume)
    assert both.weights.shape == large.shape
    assert torch.allclose(
        likelihood.normal(both.weights, volume), apart, atol=1e-4 * float(apart.abs().max())
    )


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


@pytest.mark.parametrize("largest", [0.01, 1.0, 300.0])
def test_the_line_search_finds_the_largest_curvature_within_a_factor(largest: float) -> None:
    problem = Quadratic.random(1.0)
    problem = Quadratic(problem.targets, largest * problem.curvature)
    volume, known, search = torch.zeros_like(problem.targets[0]), Lipschitz(), LipschitzSearch(every=1)
    for iteration in range(12):
        known = search(known, volume, problem.local(volume, iteration, RADIUS, 1.0, 0))
    assert 0.69 * largest <= known.constant <= 2.1 * largest


def test_the_line_search_rests_while_nothing_changes() -> None:
    problem, search = Quadratic.random(1.0), LipschitzSearch(every=5)
    volume = torch.zeros_like(problem.targets[0])
    known = search(Lipschitz(), volume, problem.local(volume, 0, RADIUS, 1.0, 0))
    assert search(known, volume, problem.local(volume, 4, RADIUS, 1.0, 0)) is known
    assert search(known, volume, problem.local(volume, 5, RADIUS, 1.0, 0)) is not known
    assert search(known, volume, problem.local(volume, 1, RADIUS - 1.0, 1.0, 0)) is not known


def test_the_step_size_of_the_paper() -> None:
    decay = StepDecay()
    assert [decay(i) for i in (0, 149, 150, 300, 5000)] == [2.0, 2.0, 1.0, 0.5, 1 / 16]


def test_the_m_step_is_exact_where_every_frequency_is_measured() -> None:
    problem = Quadratic.random(30.0)
    assert problem.error(problem.solve(EM(), 1)) < 1e-4


@pytest.mark.parametrize(("solver", "steps"), SOLVERS[1:], ids=NAMES[1:])
def test_without_any_information_the_volume_stays(solver: Solver, steps: int) -> None:
    problem = Quadratic(torch.randn(1, SIZE, SIZE, SIZE), torch.zeros(SIZE, SIZE, SIZE // 2 + 1))
    assert not problem.solve(solver, 2).any()


@pytest.mark.parametrize("known", [Lipschitz(), Lipschitz(3.0, -9, RADIUS)])
def test_a_search_that_finds_nothing_keeps_what_it_began_with(known: Lipschitz) -> None:
    problem = Quadratic.random(1.0)
    volume = torch.zeros_like(problem.targets[0])
    flat = replace(problem.local(volume, 0, RADIUS, 1.0, 0), value=lambda where: float("nan"))
    found = LipschitzSearch(start=0.5)(known, volume, flat)
    assert found.constant == (known.constant or 0.5)
