"""What the iterations of each run do."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cryograd.engine.held_out import PATIENCE
from cryograd.engine.program import HOTTEST, LARGEST_POSE_BATCH, March, Program, apart
from cryograd.solvers import registry

RADII = (4.0, 15.0)


@pytest.fixture
def march() -> March:
    return March(5.0, 8.0, 28.0, tracks=4, minibatch=200, select=24, march=32, settle=14)


def moving(program: Program) -> list[str]:
    """The stages of the steps that change maps."""
    return [step.stage for step in program.steps if step.changes_maps]


def test_the_radius_never_falls_and_ends_at_the_last(march: March) -> None:
    radii = [step.radius for step in march.program(1000).steps]
    assert None not in radii
    assert radii == sorted(radii)  # type: ignore[type-var]
    assert radii[0] == 5.0
    assert radii[march.select - 1] == 8.0
    assert radii[march.moves - 1] == 28.0


def test_starts_are_halved_and_then_one_is_left(march: March) -> None:
    kept = [step.tracks for step in march.program(1000).steps]
    assert kept[: march.select] == [4] * 15 + [2] * 8 + [1]
    assert set(kept[march.select :]) == {1}


def test_classes_cool_down_and_are_all_kept() -> None:
    march = March(5.0, 8.0, 28.0, tracks=3, classes=3)
    steps = march.program(1000).steps
    assert {step.tracks for step in steps} == {3}
    temperatures = [step.temperature for step in steps]
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] == HOTTEST
    assert set(temperatures[march.select + march.march // 2 :]) == {1.0}
    assert [step.even for step in steps].index(False) == march.select + march.march
    assert sum(step.even for step in steps) == march.select + march.march


def test_the_last_pass_covers_every_particle(march: March) -> None:
    program = march.program(1001)
    stages = [step.stage for step in program.steps]
    assert stages == sorted(stages, key=["starts", "march", "settle", "poses"].index)
    last = program.steps[march.moves :]
    assert [step.number for step in last] == list(range(6))
    assert {(step.stage, step.chunks, step.radius, step.rate) for step in last} == {("poses", 6, 28.0, 0.0)}
    assert moving(march.program(1001, poses=False)) == moving(program) == stages[: march.moves]


def test_the_last_pass_takes_few_images_at_a_time_however_large_the_minibatches() -> None:
    program = March(5.0, 8.0, 28.0, minibatch=5000).program(5000)
    assert program.count("poses") == math.ceil(5000 / LARGEST_POSE_BATCH)


def test_the_step_falls_only_while_the_map_settles(march: March) -> None:
    rates = [step.rate for step in march.program(1000).steps[: march.moves]]
    settling = rates[-march.settle :]
    assert set(rates[: -march.settle]) == {march.rate}
    assert settling == sorted(settling, reverse=True)
    assert settling[-1] == pytest.approx(march.last_rate)


def test_steps_that_do_the_same_are_counted(march: March) -> None:
    for program in (march.program(1000), apart((2.0, 2.0), 4, 3, RADII, ctf=True)):
        for kind in ({"starts", "march", "settle", "refine"}, {"ctf"}, {"poses"}):
            numbers = [step.number for step in program.steps if step.stage in kind]
            assert numbers == list(range(len(numbers)))


def test_what_is_passed_over_ends_where_the_last_pass_begins(march: March) -> None:
    program = march.program(1000)
    assert program.after("settle") == march.moves
    assert program.steps[program.after("settle")].stage == "poses"
    assert march.program(1000, poses=False).after("settle") == march.moves


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("iterations", [3, 10, 333])
def test_a_march_has_the_iterations_that_were_asked_for(name: str, iterations: int) -> None:
    march = March.of(registry.get(name).needs, 500, 200, (5.0, 8.0, 28.0), iterations)
    assert march.moves == iterations
    assert min(march.select, march.march, march.settle) >= 1
    assert march.program(500).moves == iterations


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("n", [20, 500, 4000, 40_000, 10**6])
def test_held_out_images_are_judged_often_enough_to_end_a_run(name: str, n: int) -> None:
    march = March.of(registry.get(name).needs, n, min(200, n), (5.0, 8.0, 28.0), None)
    every = march.program(n).judged_every
    settling = range(march.select + march.march + 1, march.moves + 1)
    judged = sum(i % every == 0 for i in settling)
    # Where the last stage is shorter than that it is judged at each of its iterations.
    assert judged > PATIENCE or judged == march.settle <= PATIENCE


def test_a_march_draws_what_its_steps_draw(march: March) -> None:
    halved = replace(march, start_minibatch=100)
    assert halved.draws == sum(step.images for step in halved.program(1000).steps)


@pytest.mark.parametrize(("passes", "first"), [(0.5, 2), (1.0, 4), (1.5, 4), (2.0, 4), (3.0, 8)])
def test_a_whole_pass_is_made_with_the_ctfs_that_were_found(passes: float, first: int) -> None:
    program = apart((passes, passes), 4, 3, RADII, ctf=True)
    names = ["refine", "ctf", "refine", "ctf", "poses"]
    lengths = [first, 3, 4, 3, 3]
    assert [step.stage for step in program.steps] == np.repeat(names, lengths).tolist()
    plain = apart((passes, passes), 4, 3, RADII)
    assert [step.stage for step in plain.steps] == ["refine"] * round(4 * passes) + ["poses"] * 3


def test_a_step_falls_in_the_last_pass_alone() -> None:
    def rates(passes: float, minibatches: int, **options: bool) -> list[float]:
        steps = apart((passes, passes), minibatches, 3, RADII, **options).steps
        return [step.rate for step in steps if step.stage == "refine"]

    falling = rates(2.0, 5, falling=True)
    assert rates(2.0, 5, falling=True, ctf=True) == falling
    assert falling[:6] == [1.0] * 6
    assert falling[9] == pytest.approx(1.0 / 2.2)
    assert falling == sorted(falling, reverse=True)
    assert rates(0.5, 10, falling=True)[0] == 1.0
    assert rates(2.0, 5)[9] == 1.0


@pytest.mark.parametrize(("ctf", "falling", "tail"), [(False, False, 0), (True, False, 4), (False, True, 4)])
def test_what_follows_convergence_is_never_passed_over(ctf: bool, falling: bool, tail: int) -> None:
    """The first two passes, the pass after CTFs were found or in which steps fall, and the last poses."""
    program = apart((2.0, 20.0), 4, 3, RADII, ctf=ctf, falling=falling)
    moves = [step for step in program.steps if step.stage == "refine"]
    assert [step.number for step in moves] == list(range(80))
    assert sum(step.spare for step in moves) == 80 - (4 if tail else 8) - tail
    assert not any(step.spare for step in moves[80 - tail :])
    first = next(place for place, step in enumerate(program.steps) if step.spare)
    assert first == (4 if tail else 8)
    there = program.after_spare(first)
    assert program.steps[there].stage == ("ctf" if ctf else "refine" if falling else "poses")
    assert program.after_spare(there) == there
    assert program.ahead(0) == len(program) - sum(step.spare for step in moves)


def test_half_sets_open_by_a_margin_or_a_factor_and_do_not_close_again() -> None:
    program = apart((1.0, 1.0), 4, 2, (4.0, 60.0))
    assert program.step(0, reached=4.0, radius=4.0).radius == pytest.approx(14.0)
    assert program.step(1, reached=20.0, radius=14.0).radius == pytest.approx(30.0)
    assert program.step(2, reached=40.0, radius=30.0).radius == pytest.approx(52.0)
    assert program.step(2, reached=10.0, radius=30.0).radius == pytest.approx(30.0)
    assert program.step(3, reached=55.0, radius=30.0).radius == pytest.approx(60.0)
    # The last pass is at the last radius whatever was reached.
    assert program.step(4, reached=4.0, radius=4.0).radius == pytest.approx(60.0)


def test_there_is_nothing_after_the_end(march: March) -> None:
    program = march.program(1000)
    with pytest.raises(IndexError):
        program.step(len(program), 5.0, 5.0)
