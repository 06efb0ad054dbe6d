"""The preconditioned solver on quadratics whose minimum is known."""

import torch

from cryograd.fourier import fourier_3d, inverse_fourier_3d, lowpass_volume, radius_grid
from cryograd.solvers.preconditioned import Preconditioned

SIZE, RADIUS = 16, 6.0


def _quadratic(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A random minimum within the radius, and a curvature that varies by a factor ``spread``."""
    generator = torch.Generator().manual_seed(1)
    target = lowpass_volume(torch.randn(SIZE, SIZE, SIZE, generator=generator), RADIUS - 1.5, 1.0)
    k = radius_grid(SIZE, 3)
    return target, spread ** (-k / RADIUS).float()


def _solve(solver: Preconditioned, spread: float, steps: int, rate: float) -> float:
    """Relative distance to the minimum after some steps from zero."""
    target, curvature = _quadratic(spread)
    volume = torch.zeros_like(target)
    state = solver.init(volume)
    for _ in range(steps):
        gradient = inverse_fourier_3d(curvature * fourier_3d(volume - target), SIZE)
        volume, state = solver.step(state, volume, gradient, curvature, RADIUS, rate)
    return float((volume - target).norm() / target.norm())


def test_one_full_step_without_momentum_is_newtons() -> None:
    assert _solve(Preconditioned(momentum=0.0, floor=1e-6), 50.0, steps=1, rate=1.0) < 1e-5


def test_the_first_step_does_not_suffer_from_empty_running_means() -> None:
    assert _solve(Preconditioned(momentum=0.9, memory=0.99, floor=1e-6), 50.0, 1, 1.0) < 1e-5


def test_converges_with_the_defaults() -> None:
    assert _solve(Preconditioned(), 20.0, steps=60, rate=0.5) < 1e-3


def test_the_floor_slows_starved_frequencies_only() -> None:
    fast = _solve(Preconditioned(momentum=0.0, floor=1e-6), 500.0, steps=4, rate=1.0)
    slow = _solve(Preconditioned(momentum=0.0, floor=0.5), 500.0, steps=4, rate=1.0)
    assert fast < 0.5 * slow


def test_frequencies_beyond_the_radius_are_left_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    volume = torch.randn(SIZE, SIZE, SIZE, generator=generator)
    solver = Preconditioned()
    curvature = torch.ones(SIZE, SIZE, SIZE // 2 + 1)
    moved, _ = solver.step(solver.init(volume), volume, torch.randn_like(volume), curvature, 3.0, 1.0)
    change = fourier_3d(moved - volume).abs()
    k = radius_grid(SIZE, 3)
    assert change[k > 3.0].max() < 1e-4 * change[k <= 3.0].max()


def test_newly_opened_frequencies_get_their_own_mean() -> None:
    solver = Preconditioned(momentum=0.0, floor=1e-6)
    target, curvature = _quadratic(5.0)
    volume = torch.zeros_like(target)
    state = solver.init(volume)
    for radius in (2.0, 2.0, 2.0, RADIUS):
        open_ = radius_grid(SIZE, 3) <= radius
        gradient = inverse_fourier_3d(curvature * open_ * fourier_3d(volume - target), SIZE)
        volume, state = solver.step(state, volume, gradient, curvature * open_, radius, 1.0)
    assert float((volume - target).norm() / target.norm()) < 1e-4
