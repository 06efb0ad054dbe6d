"""Importance sampling of poses with three independent samplers an image (CVPR 2015).

What an image's posterior was at its last visit, as sparse marginals over directions, in-plane angles and
shifts, says where its posterior will be now. Each marginal is tempered, spread by a kernel onto the present
quadrature and mixed with a uniform distribution; the points that are drawn from it, weighted by count / N q,
estimate the sum over all of them without bias.
"""

from dataclasses import dataclass

import numpy as np

from cryograd.pose.quadrature import PoseGrid
from cryograd.rotations import FloatArray

# Points of a marginal that are remembered, and the width of the kernels in cells of the coarser quadrature.
REMEMBERED, WIDTH = 48, 0.5


@dataclass(frozen=True)
class Annealing:
    """How far a proposal trusts a marginal computed at iteration m.

    Parameters
    ----------
    period
        Iterations after which trust grows.
    least_uniform, least_temperature
        Bounds of the share of the uniform distribution and of the temperature.
    """

    period: int = 50
    least_uniform: float = 0.05
    least_temperature: float = 1.25

    def uniform(self, iteration: int) -> float:
        """Share of the uniform distribution, α = max(0.05, 2^(−⌊m/50⌋/4))."""
        return max(self.least_uniform, 2.0 ** (-0.25 * (iteration // self.period)))

    def temperature(self, iteration: int) -> float:
        """T = max(1.25, 2^(10/⌊m/50⌋)), infinite in the first period."""
        stage = iteration // self.period
        return max(self.least_temperature, 2.0 ** (10.0 / stage)) if stage else np.inf


@dataclass(frozen=True)
class Marginal:
    """Sparse distribution: points (M, d) and their probabilities (M,), of sum 1."""

    points: FloatArray
    probabilities: FloatArray

    @staticmethod
    def largest(points: FloatArray, probabilities: FloatArray) -> "Marginal":
        """The most probable points, renormalised."""
        kept = np.argsort(-probabilities, kind="stable")[:REMEMBERED]
        total = probabilities[kept].sum()
        return Marginal(points[kept], probabilities[kept] / total)


@dataclass(frozen=True)
class Remembered:
    """An image's posterior at its last visit.

    Parameters
    ----------
    directions, in_plane, shifts
        Marginals over viewing directions (M, 3), angles ψ (M, 1) in radians and shifts (M, 2) in Å.
    angle, length
        Spacing of the quadrature then, in radians and Å.
    iteration
        When it was.
    """

    directions: Marginal
    in_plane: Marginal
    shifts: Marginal
    angle: float
    length: float
    iteration: int


@dataclass(frozen=True)
class Draw:
    """Distinct points that were drawn from a quadrature of J: indices and log importance weights (n,)."""

    indices: np.ndarray
    log_weights: FloatArray


def proposal(kernel: FloatArray, probabilities: FloatArray, uniform: float, temperature: float) -> FloatArray:
    """q_j = (1 − α) Σ_i φ_i^{1/T} K_ij / Z + α / J.

    Parameters
    ----------
    kernel
        K, shape (J, M).
    probabilities
        φ, shape (M,).
    uniform, temperature
        α and T.
    """
    spread = kernel @ probabilities ** (1.0 / temperature)
    total = spread.sum()
    if total <= 0.0:
        return np.full(len(kernel), 1.0 / len(kernel))
    return (1.0 - uniform) * spread / total + uniform / len(kernel)


def effective_size(q: FloatArray) -> float:
    """ESS = 1 / Σ q²."""
    return 1.0 / float(np.square(q).sum())


def draw(q: FloatArray, samples_per_effective: float, rng: np.random.Generator) -> Draw:
    """N = s₀ · ESS points with their weights; all points, of weight one, where N would not be fewer."""
    n = int(np.ceil(samples_per_effective * effective_size(q)))
    if n >= len(q):
        return Draw(np.arange(len(q)), np.zeros(len(q)))
    counts = rng.multinomial(n, q / q.sum())
    indices = np.flatnonzero(counts)
    return Draw(indices, np.log(counts[indices] / (n * q[indices])))


def fisher_kernel(points: FloatArray, centres: FloatArray, width: float) -> FloatArray:
    """exp((cos δ − 1)/w²) between unit vectors (J, d) and (M, d), shape (J, M)."""
    return np.exp((points @ centres.T - 1.0) / width**2)


def gaussian_kernel(points: FloatArray, centres: FloatArray, width: float) -> FloatArray:
    """exp(−|t − t′|²/2w²) between shifts (J, 2) and (M, 2), shape (J, M)."""
    squares = (
        np.square(points).sum(axis=1)[:, None] + np.square(centres).sum(axis=1) - 2.0 * points @ centres.T
    )
    return np.exp(-0.5 * np.maximum(squares, 0.0) / width**2)


def on_circle(angles: FloatArray) -> FloatArray:
    """Unit vectors (n, 2) of angles (n,) or (n, 1) in radians."""
    flat = angles.reshape(-1)
    return np.stack([np.cos(flat), np.sin(flat)], axis=-1)


def propose(remembered: Remembered, grid: PoseGrid, annealing: Annealing) -> tuple[FloatArray, ...]:
    """Distributions over the directions, in-plane angles and shifts of a quadrature."""
    uniform = annealing.uniform(remembered.iteration)
    temperature = annealing.temperature(remembered.iteration)
    angle = WIDTH * max(remembered.angle, grid.angle)
    length = WIDTH * max(remembered.length, grid.shifts.spacing)
    kernels = (
        fisher_kernel(grid.directions, remembered.directions.points, angle),
        fisher_kernel(on_circle(grid.in_plane), on_circle(remembered.in_plane.points), angle),
        gaussian_kernel(grid.shifts.shifts, remembered.shifts.points, length),
    )
    marginals = (remembered.directions, remembered.in_plane, remembered.shifts)
    return tuple(
        proposal(kernel, marginal.probabilities, uniform, temperature)
        for kernel, marginal in zip(kernels, marginals, strict=True)
    )
