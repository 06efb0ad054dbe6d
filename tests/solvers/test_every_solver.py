"""Every solver that can be chosen, on the same problems."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from cryograd.fourier import fourier_3d, radius_grid, resize_transform
from cryograd.solvers import registry
from cryograd.solvers.armijo_sgd import ArmijoSGD
from cryograd.solvers.hutchinson import Hutchinson
from cryograd.solvers.sagd import SAGD
from cryograd.solvers.sgd import SGD
from cryograd.steps.armijo import ArmijoSearch
from cryograd.steps.decay import StepDecay
from cryograd.steps.protocol import Move, Solver
from cryograd.steps.state import as_plain, as_record, on_device, resized, tensors
from quadratic import RADIUS, SIZE, Quadratic

STEADY = StepDecay(first=1.0, least=1.0)
# Settings with which a solver converges in few steps, where its own are for noisy minibatches.
QUICK: dict[str, Solver] = {
    "sagd": SAGD(decay=STEADY),
    "sgd": SGD(decay=STEADY),
    # The published share of the decrease, 0.99, would need fifty times the steps.
    "armijo-sgd": ArmijoSGD(search=ArmijoSearch(1.0, 2.0, decrease=0.5)),
    "hutchinson": Hutchinson(search=ArmijoSearch(10.0, 1.2, decrease=0.5)),
}
NAMES = registry.names()
# Of steps: solvers of normal equations are at the minimum after few, and the others are given many.
FEW, MANY, LARGER = 3, 150, 24
EVERY = pytest.mark.parametrize("solver", [QUICK.get(name, registry.get(name)) for name in NAMES], ids=NAMES)


def steps_of(problem: Quadratic, solver: Solver, steps: int, rate: float = 1.0) -> Move:
    """The last of some steps from zero."""
    move = problem.start(solver)
    for iteration in range(steps):
        move = problem.step(solver, move, iteration, rate)
    return move


@pytest.mark.parametrize("name", NAMES)
def test_a_solver_is_found_by_its_name(name: str) -> None:
    solver = registry.resolved(name)
    assert registry.name_of(solver) == name
    assert registry.resolved(solver) is solver
    assert len({type(registry.get(other)) for other in NAMES}) == len(NAMES)


@EVERY
def test_converges_to_the_minimum(solver: Solver) -> None:
    problem = Quadratic.random(10.0)
    assert (
        problem.error(problem.solve(solver, FEW if solver.needs.takes in ("all", "parts") else MANY)) < 0.02
    )


@EVERY
def test_converges_to_the_minimum_together_with_a_prior_on_the_spectrum(solver: Solver) -> None:
    problem = replace(Quadratic.random(10.0), ratio=3.0)
    found = problem.solve(solver, FEW if solver.needs.takes in ("all", "parts") else MANY)
    assert problem.error(found) < 0.02
    assert replace(problem, ratio=0.0).error(found) > 0.4


@EVERY
def test_frequencies_that_are_not_open_do_not_move(solver: Solver) -> None:
    problem = Quadratic(torch.randn(1, SIZE, SIZE, SIZE), torch.ones(SIZE, SIZE, SIZE // 2 + 1))
    change = fourier_3d(problem.solve(solver, 2, radii=(3.0, 3.0))).abs()
    k = radius_grid(SIZE, 3)
    assert change[k <= 3.0].max() > 1.0
    assert change[k > 3.0].max() < 1e-4 * change[k <= 3.0].max()


@EVERY
def test_a_step_is_a_function_of_what_it_is_given(solver: Solver) -> None:
    problem = Quadratic.random(10.0, parts=2, disagreement=1.0)
    assert torch.equal(problem.solve(solver, 3), problem.solve(solver, 3))


@EVERY
def test_a_state_survives_a_checkpoint(solver: Solver, tmp_path: Path) -> None:
    problem = Quadratic.random(10.0, parts=2, disagreement=1.0)
    move = steps_of(problem, solver, 2)
    for state in (problem.start(solver).state, move.state):
        torch.save(as_plain(state), tmp_path / "state.pt")
        back = as_record(torch.load(tmp_path / "state.pt", weights_only=True))
        assert type(back) is type(state)
        assert all(torch.equal(a, b) for a, b in zip(tensors(back), tensors(state), strict=True))
    again = problem.step(solver, Move(move.volume, back, 0.0), 2)
    assert torch.equal(again.volume, problem.step(solver, move, 2).volume)


@EVERY
def test_a_state_moves_to_a_device(solver: Solver) -> None:
    state = steps_of(Quadratic.random(10.0, parts=2), solver, 2).state
    elsewhere = on_device(state, "meta")
    assert [t.shape for t in tensors(elsewhere)] == [t.shape for t in tensors(state)]
    assert all(tensor.device.type == "meta" for tensor in tensors(elsewhere))


@EVERY
def test_a_step_after_resizing_is_the_resized_step(solver: Solver) -> None:
    """Also where it takes a new search, and after the way back."""
    problem = Quadratic.random(10.0, parts=2, disagreement=1.0)
    larger = problem.resized(LARGER)
    # Half steps: after whole ones some solvers are at the minimum, and no step is left to compare.
    move = steps_of(problem, solver, 5, 0.5)
    expected = resize_transform(problem.step(solver, move, 5).volume, LARGER)
    enlarged = Move(resize_transform(move.volume, LARGER), resized(move.state, LARGER), 0.0)
    found = larger.step(solver, enlarged, 5)
    change = expected - enlarged.volume
    assert float((found.volume - expected).norm() / change.norm()) < 1e-4
    back = Move(resize_transform(found.volume, SIZE), resized(found.state, SIZE), 0.0)
    there = problem.step(solver, problem.step(solver, move, 5), 6).volume
    assert float((problem.step(solver, back, 6).volume - there).norm() / there.norm()) < 1e-4


@EVERY
def test_a_state_before_the_first_step_has_the_new_box(solver: Solver) -> None:
    problem = Quadratic.random(10.0).resized(LARGER)
    state = resized(solver.init(torch.zeros(SIZE, SIZE, SIZE)), LARGER)
    start = problem.start(solver)
    found = problem.step(solver, Move(start.volume, state, 0.0), 0)
    assert torch.equal(found.volume, problem.step(solver, start, 0).volume)


@EVERY
def test_what_is_kept_of_each_minibatch_is_what_it_says(solver: Solver) -> None:
    """Those that say nothing keep as much of two minibatches as of one."""
    two, three = (
        sum(tensor.nbytes for tensor in tensors(steps_of(Quadratic.random(4.0, parts), solver, parts).state))
        for parts in (2, 3)
    )
    assert (three > two) == (solver.minibatch_bytes(SIZE, RADIUS) > 0)


@EVERY
def test_settings_are_frozen(solver: Solver) -> None:
    for field in fields(solver):  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            setattr(solver, field.name, None)
    assert solver.needs.held_out >= 0
    assert all(stage is None or stage > 0 for stage in solver.needs.stages)


@EVERY
def test_without_any_information_the_volume_stays(solver: Solver) -> None:
    problem = Quadratic(torch.randn(1, SIZE, SIZE, SIZE), torch.zeros(SIZE, SIZE, SIZE // 2 + 1))
    assert not problem.solve(solver, 2).any()
