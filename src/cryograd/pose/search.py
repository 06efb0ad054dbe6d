"""How poses are searched: a shared grid, and cells of each image that are split where they matter."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cryograd.pose.posterior import Cells
from cryograd.pose.quadrature import RotationGrid, ShiftGrid

# Part of the best candidate's probability below which one does not hold the best pose.
UNLIKELY = 1e-4
# Rotations, before they are split, of the images that are refined at a time: what is made for all their
# candidates together is to stay in cache.
BLOCK_ROTATIONS = 384


@dataclass(frozen=True)
class Level:
    """One refinement of the pose search.

    Parameters
    ----------
    rotations, shifts
        Cells that are split at most.
    radius
        Fourier pixels at which what they are split into is scored.
    least
        Rotations that are split at least, of those that may hold the best pose: the centre of a cell says
        less than what is found inside.
    """

    rotations: int
    shifts: int
    radius: float
    least: int = 1


@dataclass(frozen=True)
class Search:
    """How poses are inferred at one resolution.

    Parameters
    ----------
    coarse_radius
        Radius in Fourier pixels at which the shared grid is evaluated exhaustively.
    rotations, shifts
        The shared grid.
    levels
        Refinements after it, the last one at the full radius; none means that the shared grid is all.
    iteration
        Number under which the marginals are to be remembered; None where they need not be.
    hard
        Whether each image counts at its best pose alone; the search must have levels.
    lost
        Part of an image's probability that a refinement may leave behind: so many of the likeliest cells are
        split that the others hold less, within what the level allows.
    """

    coarse_radius: float
    rotations: RotationGrid
    shifts: ShiftGrid
    levels: tuple[Level, ...] = ()
    iteration: int | None = None
    hard: bool = False
    lost: float = 0.0

    def slices(self, images: int) -> int:
        """Slices of the volume that so many images take."""
        return len(self.rotations.matrices) + images * sum(8 * level.rotations for level in self.levels)


@dataclass(frozen=True)
class Refined:
    """The candidates that a search ended with, of some images at a time: the same poses at another volume.

    Parameters
    ----------
    search
        The search.
    blocks
        Numbers of images, and their candidates.
    """

    search: Search
    blocks: tuple[tuple[Tensor, Cells], ...]


def needed(marginal: Tensor, level: Level, lost: float) -> Tensor:
    """Rotations of each image that a level splits, by marginals (B, J); shape (B,)."""
    most = min(level.rotations, marginal.shape[1])
    if lost == 0.0:
        return torch.full((len(marginal),), most, device=marginal.device)
    best = marginal.topk(most, dim=1).values
    holding = (best.cumsum(dim=1) < 1.0 - lost).sum(dim=1) + 1
    likely = (best > UNLIKELY * best[:, :1]).sum(dim=1)
    return torch.maximum(holding, likely.clamp(max=level.least)).clamp(max=most)


def blocks_of(rotations: Tensor, most: int) -> Iterator[Tensor]:
    """Numbers of the images that are refined at a time: of those that split about as many rotations.

    Parameters
    ----------
    rotations
        How many each image splits, shape (B,).
    most
        Images at a time.
    """
    order, start = rotations.argsort(stable=True), 0
    ascending = rotations[order].tolist()
    while start < len(order):
        end = start + 1
        while end < min(start + most, len(order)) and (end + 1 - start) * ascending[end] <= BLOCK_ROTATIONS:
            end += 1
        yield order[start:end]
        start = end
