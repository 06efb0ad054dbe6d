"""Priors against finite differences and their definitions."""

import math

import pytest
import torch

from cryograd.objective.prior import Prior
from cryograd.objective.priors import registry
from cryograd.objective.priors.car import ConditionalAutoregressive
from cryograd.objective.priors.exponential import Exponential
from cryograd.objective.priors.gaussian import Gaussian
from cryograd.objective.priors.none import Improper
from cryograd.objective.priors.nonnegative import Nonnegative

NAMES = registry.names()
PRIORS = [registry.get(name).scaled(0.05, 0.9) for name in NAMES]


@pytest.mark.parametrize("prior", PRIORS, ids=NAMES)
def test_gradient_is_the_values_derivative(prior: Prior) -> None:
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(5, 5, 5, generator=generator, dtype=torch.float64) + 0.5
    direction = torch.randn(5, 5, 5, generator=generator, dtype=torch.float64)
    h = 1e-4
    slope = (prior.value(volume + h * direction) - prior.value(volume - h * direction)) / (2 * h)
    assert slope == pytest.approx(float((prior.gradient(volume) * direction).sum()), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("prior", PRIORS, ids=NAMES)
def test_what_is_allowed_has_a_probability_and_stays(prior: Prior) -> None:
    volume = torch.randn(5, 5, 5, generator=torch.Generator().manual_seed(0))
    allowed = prior.project(volume)
    assert math.isfinite(prior.value(allowed))
    assert torch.equal(prior.project(allowed), allowed)
    assert torch.equal(allowed[volume >= 0], volume[volume >= 0])


@pytest.mark.parametrize("name", NAMES)
def test_a_prior_is_found_by_its_name(name: str) -> None:
    prior = registry.resolved(name, 0.3, 0.5)
    assert registry.name_of(prior) == name
    assert registry.resolved(prior, 2.0, 2.0) is prior


def test_the_slope_of_the_exponential_prior_makes_the_difference_to_the_nonnegative_one() -> None:
    volume, flat = torch.rand(3, 4, 5), Exponential(scale=1.0, weight=0.0)
    assert flat.value(volume) == Nonnegative().value(volume) == 0.0
    assert torch.equal(flat.gradient(volume), Nonnegative().gradient(volume))
    assert flat.value(volume - 1.0) == Nonnegative().value(volume - 1.0) == math.inf


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


def test_gaussian_is_minus_log_density() -> None:
    volume = torch.tensor([[[0.0, -0.6]]])
    assert Gaussian(scale=0.3, weight=0.5).value(volume) == pytest.approx(0.5 * 0.5 * 0.36 / 0.09)


def test_waves_cost_what_their_neighbours_differ_from_them() -> None:
    prior = ConditionalAutoregressive(1.0, 75.0**2)
    x = torch.arange(48, dtype=torch.float64)
    line = torch.exp(-0.5 * (torch.arange(-2.0, 3.0, dtype=torch.float64) / 0.5) ** 2)
    for period in (24.0, 6.0, 2.0):
        wave = torch.cos(2 * math.pi * x / period)[:, None, None].expand(48, 48, 48)
        gain = float((line * torch.cos(2 * math.pi * torch.arange(-2.0, 3.0) / period)).sum())
        # W of a plane wave: the other two axes see a constant, and the centre counts nothing.
        mean = (gain * line.sum() ** 2 - 1.0) / (line.sum() ** 3 - 1.0)
        inside = (slice(2, -2),) * 3
        expected = (1.0 - mean) * wave[inside]
        assert torch.allclose(prior.gradient(wave)[inside], expected, atol=1e-9)


def test_the_neighbours_of_a_voxel_have_weight_one_together() -> None:
    volume = torch.zeros(9, 9, 9)
    volume[4, 4, 4] = 1.0
    gradient = ConditionalAutoregressive(1.0, 75.0**2).gradient(volume)
    assert gradient[4, 4, 4] == pytest.approx(1.0)
    assert float(gradient.sum()) == pytest.approx(0.0, abs=1e-6)
    # exp(−1 / 2 w²) : exp(−2 / 2 w²) for a face's and an edge's neighbour at w = 0.5.
    assert float(gradient[4, 4, 5] / gradient[4, 5, 5]) == pytest.approx(float(torch.exp(torch.tensor(2.0))))
