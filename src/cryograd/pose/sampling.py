"""Posterior of one image over poses drawn by importance sampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryograd.model.projection import Projector
from cryograd.pose.offsets import offsets
from cryograd.pose.posterior import (
    Batch,
    Cells,
    LocalPosterior,
    Poses,
    evaluate_local,
    most_probable,
    rotation_entropy,
)
from cryograd.pose.proposal import Annealing, Draw, Remembered, draw, propose, remember
from cryograd.pose.quadrature import PoseGrid, shift_spread
from cryograd.rotations import FloatArray


@dataclass(frozen=True)
class PoseDraw:
    """What the three samplers of an image drew from the factors of a quadrature.

    ``anchors`` (d, 3, 3) are the rotations from which each direction's in-plane angles count.
    """

    directions: Draw
    in_plane: Draw
    shifts: Draw
    anchors: FloatArray

    @property
    def slices(self) -> int:
        """Slices of the volume that are evaluated."""
        return len(self.directions.indices) * len(self.in_plane.indices)

    def __len__(self) -> int:
        """Poses that are evaluated."""
        return self.slices * len(self.shifts.indices)


@dataclass(frozen=True)
class Sampler:
    """Settings of the importance sampling.

    Parameters
    ----------
    annealing
        Trust in an image's last posterior.
    samples
        Draws as a multiple s₀ of the effective size of a proposal.
    group
        Matrices of the point group, (|G|, 3, 3).
    only
        Whether poses are drawn even where searching for them would cost less.
    """

    annealing: Annealing
    samples: float
    group: FloatArray
    only: bool = False

    @staticmethod
    def over(iterations: int, samples: float, group: FloatArray) -> "Sampler":
        """Annealing in a hundred periods, as 50 iterations are in the CVPR 2015 paper's 5,000."""
        return Sampler(Annealing(period=max(1, iterations // 100)), samples, group)

    def draw(self, remembered: Remembered, grid: PoseGrid, rng: np.random.Generator) -> PoseDraw:
        """Draw directions, in-plane angles and shifts for one image."""
        q = propose(remembered, grid, self.group, self.annealing)
        directions = draw(q.directions, self.samples, rng)
        in_plane, shifts = draw(q.in_plane, self.samples, rng), draw(q.shifts, self.samples, rng)
        return PoseDraw(directions, in_plane, shifts, q.anchors[directions.indices])


@dataclass(frozen=True)
class Sampling:
    """Poses drawn for every image of a batch from one quadrature, at an iteration."""

    quadrature: PoseGrid
    draws: Sequence[PoseDraw]
    iteration: int

    @property
    def slices(self) -> int:
        """Slices of the volume that all images take."""
        return sum(d.slices for d in self.draws)

    @property
    def most(self) -> int:
        """Slices of the volume that one image takes, at most."""
        return max(d.slices for d in self.draws)

    def part(self, images: slice) -> "Sampling":
        """The draws of some of the images."""
        return replace(self, draws=self.draws[images])


@dataclass(frozen=True)
class Sampled:
    """Posterior of one image over drawn poses.

    Parameters
    ----------
    cells, local
        The candidates, rotations (1, D · P, 3, 3) with the in-plane angle running fastest, and the posterior.
    poses
        What it says of the image.
    """

    cells: Cells
    local: LocalPosterior
    poses: Poses


def evaluate_sampled(
    batch: Batch,
    drawn: PoseDraw,
    quadrature: PoseGrid,
    grid: Tensor,
    projector: Projector,
    points: Tensor,
    frequencies: Tensor,
) -> Sampled:
    """Evaluate one image at its drawn poses.

    Σ w p(X | pose) over all poses is estimated by Σ w p(X | pose) / π over the drawn ones, π being the
    product of the probabilities that direction, in-plane angle and shift are drawn.

    Parameters
    ----------
    batch
        One whitened image on K coefficients.
    drawn, quadrature
        Its drawn poses, of which quadrature.
    grid, projector, points, frequencies
        As in `evaluate_local`.
    """
    like = {"dtype": torch.float32, "device": grid.device}
    rotations = quadrature.rotations(drawn.directions.indices, drawn.in_plane.indices, drawn.anchors)
    log_count = (drawn.directions.log_weights[:, None] + drawn.in_plane.log_weights).reshape(1, -1)
    log_shift = drawn.shifts.log_weights + quadrature.shifts.log_weights[drawn.shifts.indices]
    cells = Cells(
        torch.as_tensor(rotations.reshape(1, -1, 3, 3), **like),
        torch.as_tensor(quadrature.shifts.shifts[drawn.shifts.indices][None], **like),
        quadrature.angle,
        quadrature.shifts.spacing,
    )
    by_count = torch.as_tensor(log_count, **like)
    by_rotation = by_count - math.log(len(quadrature.angles) * len(quadrature.in_plane))
    by_shift = torch.as_tensor(log_shift[None], **like)
    local = evaluate_local(batch, cells, grid, projector, points, frequencies, by_rotation, by_shift)
    return Sampled(cells, local, _poses(batch, cells, local, by_count, frequencies))


def _poses(
    batch: Batch, cells: Cells, local: LocalPosterior, log_count: Tensor, frequencies: Tensor
) -> Poses:
    """Best poses, evidence and entropy of one image.

    ``log_count`` (1, M) is the log of how many rotations of the quadrature each drawn one stands for.
    """
    rotation = local.joint.sum(dim=1)
    probabilities, best = most_probable(rotation * (-log_count).exp())
    return Poses(
        cells.rotations[:, best[0]],
        offsets(local, cells, best, frequencies),
        probabilities,
        local.log_evidence + batch.log_norm,
        rotation_entropy(rotation) + (rotation * log_count).sum(dim=1),
        # Each of the rotations that one stands for has its share.
        1.0 / (rotation.square() * (-log_count).exp()).sum(dim=1),
        # Known once the statistics are made.
        match=torch.zeros_like(local.log_evidence),
        energy=torch.zeros_like(local.log_evidence),
        spread=shift_spread(local.joint.sum(dim=2), cells.shifts),
    )


def remember_drawn(sampled: Sampled, quadrature: PoseGrid, iteration: int) -> Remembered:
    """The marginals of one image over its drawn directions, in-plane angles and shifts."""
    joint = sampled.local.joint[0].double().cpu().numpy()
    return remember(
        sampled.cells.rotations[0].double().cpu().numpy(),
        sampled.cells.shifts[0].double().cpu().numpy(),
        joint.sum(axis=0),
        joint.sum(axis=1),
        (quadrature.angle, quadrature.shifts.spacing),
        iteration,
    )
