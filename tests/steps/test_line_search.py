"""The line search for the gradient's Lipschitz constant, and how steps fall."""

from dataclasses import replace

import pytest
import torch

from cryograd.steps.decay import StepDecay
from cryograd.steps.line_search import Lipschitz, LipschitzSearch
from quadratic import RADIUS, Quadratic


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


@pytest.mark.parametrize("known", [Lipschitz(), Lipschitz(3.0, -9, RADIUS)])
def test_a_search_that_finds_nothing_keeps_what_it_began_with(known: Lipschitz) -> None:
    problem = Quadratic.random(1.0)
    volume = torch.zeros_like(problem.targets[0])
    flat = replace(problem.local(volume, 0, RADIUS, 1.0, 0), value=lambda where: float("nan"))
    found = LipschitzSearch(start=0.5)(known, volume, flat)
    assert found.constant == (known.constant or 0.5)


def test_the_step_size_of_the_paper() -> None:
    decay = StepDecay()
    assert [decay(i) for i in (0, 149, 150, 300, 5000)] == [2.0, 2.0, 1.0, 0.5, 1 / 16]
