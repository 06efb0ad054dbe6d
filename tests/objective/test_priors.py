"""Priors against finite differences and their definitions."""

import math

import pytest
import torch

from cryograd.objective.priors import Exponential, Improper, Prior


@pytest.mark.parametrize("prior", [Exponential(0.3, 0.9), Improper()])
def test_gradient_is_the_values_derivative(prior: Prior) -> None:
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(5, 5, 5, generator=generator, dtype=torch.float64) + 0.5
    direction = torch.randn(5, 5, 5, generator=generator, dtype=torch.float64)
    h = 1e-4
    slope = (prior.value(volume + h * direction) - prior.value(volume - h * direction)) / (2 * h)
    assert slope == pytest.approx(float((prior.gradient(volume) * direction).sum()), abs=1e-6)


def test_exponential_is_minus_log_density() -> None:
    volume = torch.tensor([[[0.0, 0.6]]])
    assert Exponential(scale=0.3, weight=0.5).value(volume) == pytest.approx(0.5 * 0.6 / 0.3)


def test_exponential_forbids_negative_density() -> None:
    prior = Exponential(1.0)
    volume = torch.tensor([[[-1.0, 2.0]]])
    assert prior.value(volume) == math.inf
    assert prior.project(volume).tolist() == [[[0.0, 2.0]]]


def test_improper_allows_everything() -> None:
    volume = torch.tensor([[[-1.0, 2.0]]])
    assert Improper().project(volume) is volume
