"""Sums of quadratics of minibatches."""

import torch

from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.steps.quadratic import Quadratic
from quadratic import SIZE


def test_weights_of_a_smaller_radius_fit_into_those_of_a_larger_one() -> None:
    likelihood = MarginalLikelihood(SIZE, 100.0, 6.0)
    small = torch.rand(2 * 7 + 1, 2 * 7 + 1, 7 + 1, generator=torch.Generator().manual_seed(0))
    large = torch.rand(2 * 13 + 1, 2 * 13 + 1, 13 + 1, generator=torch.Generator().manual_seed(1))
    volume = torch.randn(SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    curvature, linear = torch.zeros(1), torch.zeros(1)
    both = Quadratic.mean(
        [
            Quadratic(0.1, small, curvature, linear),
            Quadratic(0.3, large, curvature, linear),
        ]
    )
    apart = 0.25 * likelihood.normal(small, volume) + 0.75 * likelihood.normal(large, volume)
    assert both.weights.shape == large.shape
    assert torch.allclose(
        likelihood.normal(both.weights, volume), apart, atol=1e-4 * float(apart.abs().max())
    )
