"""Importance sampling of poses with three independent samplers an image (CVPR 2015).

What an image's posterior was at its last visit, as sparse marginals over directions, in-plane angles and
shifts, says where its posterior will be now. Each marginal is tempered, spread by a kernel onto the present
quadrature and mixed with a uniform distribution; the points that are drawn from it, weighted by one over the
probability that they are, estimate the sum over all of them without bias.
"""

from dataclasses import dataclass

import numpy as np

from cryograd.pose.kernels import fisher_spread, grouped
from cryograd.pose.quadrature import PoseGrid
from cryograd.rotations import FloatArray, in_plane_angle, transported

# Points of a marginal that are remembered, and the width of the kernels in cells of the coarser quadrature.
# Seven equivalent views of a noisy image need more than a hundred.
REMEMBERED, WIDTH = 128, 0.5
# Rotations of a posterior that its marginals are made of, and the angle in spacings within which their
# directions are one.
CONSIDERED, SAME_DIRECTION = 768, 0.5


@dataclass(frozen=True)
class Annealing:
    """How far a proposal trusts a marginal computed at iteration m.

    Parameters
    ----------
    period
        Iterations after which trust grows; 0 for full trust from the start, as where runs start from a map.
    least_uniform, least_temperature
        Bounds of the share of the uniform distribution and of the temperature.
    """

    period: int = 50
    least_uniform: float = 0.05
    least_temperature: float = 1.25

    def _stage(self, iteration: int) -> float:
        return iteration // self.period if self.period else np.inf

    def uniform(self, iteration: int) -> float:
        """Share of the uniform distribution, α = max(0.05, 2^(−⌊m/50⌋/4))."""
        return max(self.least_uniform, 2.0 ** (-0.25 * self._stage(iteration)))

    def temperature(self, iteration: int) -> float:
        """T = max(1.25, 2^(10/⌊m/50⌋)), infinite in the first period."""
        stage = self._stage(iteration)
        return max(self.least_temperature, 2.0 ** (10.0 / stage)) if stage else np.inf


@dataclass(frozen=True)
class Marginal:
    """Sparse distribution: points (M, ...) and their probabilities (M,), of sum 1."""

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
    anchors
        Marginal over directions, each with its most probable in-plane angle: rotations (M, 3, 3).
    in_plane
        Marginal over angles (M,) in radians, counted from the anchors.
    shifts
        Marginal over shifts (M, 2) in Å.
    angle, length
        Spacing of the quadrature then, in radians and Å.
    iteration
        When it was.
    """

    anchors: Marginal
    in_plane: Marginal
    shifts: Marginal
    angle: float
    length: float
    iteration: int


def remember(
    rotations: FloatArray,
    shifts: FloatArray,
    by_rotation: FloatArray,
    by_shift: FloatArray,
    sides: tuple[float, float],
    iteration: int,
) -> Remembered:
    """The marginals of one image over any rotations (M, 3, 3) and shifts (S, 2) with their probabilities.

    In-plane angles are counted from the most probable one at each direction. Counted from anything that all
    directions share they would be as far apart as the directions' frames are, and more so for each equivalent
    view of a symmetric particle; the product of three marginals would then cover mostly poses that no
    image has.
    """
    best = np.argsort(-by_rotation, kind="stable")[:CONSIDERED]
    rotations, weights = rotations[best], by_rotation[best]
    # Each rotation belongs to the first, which is the most probable, of its own direction.
    firsts, anchor = grouped(
        np.ascontiguousarray(rotations[:, 2]), np.cos(SAME_DIRECTION * sides[0]), REMEMBERED
    )
    owned = anchor >= 0
    frames = transported(rotations[firsts][anchor[owned]], rotations[owned, 2])
    turned = np.round(in_plane_angle(rotations[owned], frames), 6)
    angles, which = np.unique(turned, return_inverse=True)
    by_anchor, by_angle = np.bincount(anchor[owned], weights[owned]), np.bincount(which, weights[owned])
    return Remembered(
        Marginal.largest(rotations[firsts], by_anchor.astype(np.float64)),
        Marginal.largest(angles, by_angle.astype(np.float64)),
        Marginal.largest(shifts, by_shift),
        *sides,
        iteration,
    )


@dataclass(frozen=True)
class Draw:
    """Distinct points that were drawn from a quadrature: indices and log importance weights (n,)."""

    indices: np.ndarray
    log_weights: FloatArray


def proposal(spread: FloatArray, uniform: float) -> FloatArray:
    """q_j = (1 − α) φ̃_j / Σ φ̃ + α / J.

    Parameters
    ----------
    spread
        φ̃_j = Σ_i φ_i^{1/T} K_ij, shape (J,).
    uniform
        α.
    """
    total = spread.sum()
    if total <= 0.0:
        return np.full(len(spread), 1.0 / len(spread))
    return (1.0 - uniform) * spread / total + uniform / len(spread)


def effective_size(q: FloatArray) -> float:
    """ESS = 1 / Σ q²."""
    return 1.0 / float(np.square(q).sum())


def draw(q: FloatArray, samples_per_effective: float, rng: np.random.Generator) -> Draw:
    """About N = s₀ · ESS points, each at most once, with weights; all points where N would not be fewer.

    Systematic sampling: a point is taken with probability π = min(1, N q) and weighs 1/π. Points that would
    be drawn more than once weigh 1, where the count of independent draws would scatter by its square root.
    """
    n = int(np.ceil(samples_per_effective * effective_size(q)))
    if n >= len(q):
        return Draw(np.arange(len(q)), np.zeros(len(q)))
    inclusion = np.minimum(n * q / q.sum(), 1.0)
    certain = inclusion >= 1.0
    ticks = np.floor(np.cumsum(np.where(certain, 0.0, inclusion)) + rng.random())
    indices = np.flatnonzero(certain | (np.diff(ticks, prepend=0.0) > 0))
    return Draw(indices, -np.log(inclusion[indices]))


def gaussian_kernel(points: FloatArray, centres: FloatArray, width: float) -> FloatArray:
    """exp(−|t − t′|²/2w²) between shifts (J, 2) and (M, 2), shape (J, M)."""
    squares = (
        np.square(points).sum(axis=1)[:, None] + np.square(centres).sum(axis=1) - 2.0 * points @ centres.T
    )
    return np.exp(-0.5 * np.maximum(squares, 0.0) / width**2)


def on_circle(angles: FloatArray) -> FloatArray:
    """Unit vectors (n, 2) of angles (n,) in radians."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


@dataclass(frozen=True)
class Proposal:
    """Distributions over directions, in-plane angles and shifts of a quadrature, and anchors (D, 3, 3)."""

    directions: FloatArray
    in_plane: FloatArray
    shifts: FloatArray
    anchors: FloatArray


def propose(remembered: Remembered, grid: PoseGrid, group: FloatArray, annealing: Annealing) -> Proposal:
    """What an image's last posterior, and its equivalents under a point group (|G|, 3, 3), propose."""
    uniform = annealing.uniform(remembered.iteration)
    temperature = annealing.temperature(remembered.iteration)
    angle = WIDTH * max(remembered.angle, grid.angle)
    length = WIDTH * max(remembered.length, grid.shifts.spacing)
    anchors = (remembered.anchors.points[:, None] @ group.swapaxes(1, 2)).reshape(-1, 3, 3)
    weights = np.repeat(remembered.anchors.probabilities, len(group))

    def tempered(probabilities: FloatArray) -> FloatArray:
        return probabilities ** (1.0 / temperature)

    directions, nearest = fisher_spread(
        grid.directions, np.ascontiguousarray(anchors[:, 2]), tempered(weights), angle
    )
    in_plane, _ = fisher_spread(
        on_circle(grid.in_plane),
        on_circle(remembered.in_plane.points),
        tempered(remembered.in_plane.probabilities),
        angle,
    )
    shifts = gaussian_kernel(grid.shifts.shifts, remembered.shifts.points, length)
    return Proposal(
        proposal(directions, uniform),
        proposal(in_plane, uniform),
        proposal(shifts @ tempered(remembered.shifts.probabilities), uniform),
        anchors[nearest],
    )
