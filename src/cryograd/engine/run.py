"""What a run derives from its data and options, and never changes."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cryograd.engine.program import Program
from cryograd.images.store import ImageStore
from cryograd.model.symmetry import group_matrices
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.objective.prior import Prior
from cryograd.pose.known import Known
from cryograd.pose.sampling import Sampler
from cryograd.rotations import FloatArray
from cryograd.steps.protocol import Solver


@dataclass(frozen=True)
class Members:
    """The images of one side.

    Parameters
    ----------
    every
        All of them, shape (m,).
    train
        Those that change its maps: not those that are held out.
    partition
        Minibatches of these, for solvers that want fixed ones.
    """

    every: np.ndarray
    train: np.ndarray
    partition: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Run:
    """What a run never changes.

    Parameters
    ----------
    images
        Images at the working sampling.
    mask
        Solvent mask (W, W, W) of the images' box.
    max_shift
        Å.
    solver, prior, seed
        As chosen.
    symmetries
        Point group of each class.
    sides
        All images, or two half-sets that stand apart.
    program
        What each iteration does.
    precision
        Of the exhaustive products.
    sampler
        How poses are drawn; None where they are searched.
    known
        The pose of every particle, where these are not looked for.
    scale_width
        Standard deviation of the prior of an image's scale around 1; 0 where all have the scale 1.
    held_out
        Particles whose evidence says when the map is done, and that do not change it.
    noise_halves
        Half of each particle for the noise of one map, shape (n,), bool; None where it is not measured so.
    divided
        Whether images are divided at random among the classes at their first visit: where all start from one
        map.
    """

    images: ImageStore
    mask: Tensor
    max_shift: float
    solver: Solver
    prior: Prior
    seed: int
    symmetries: tuple[str, ...]
    sides: tuple[Members, ...]
    program: Program
    precision: str
    sampler: Sampler | None = None
    known: Known | None = None
    scale_width: float = 0.0
    held_out: np.ndarray | None = None
    noise_halves: np.ndarray | None = None
    divided: bool = False

    @property
    def apart(self) -> bool:
        """Whether two half-sets stand apart."""
        return len(self.sides) == 2

    @property
    def classes(self) -> int:
        """Maps that each side ends with."""
        return len(self.symmetries)

    def likelihood(self, radius: float, symmetry: str, size: int | None = None) -> MarginalLikelihood:
        """The likelihood at a radius, of maps in the images' box or in another of the same extent."""
        return MarginalLikelihood(
            size=size or self.images.size,
            extent=self.images.extent,
            radius=radius,
            symmetry=symmetry,
            precision=self.precision,
            # Three digits are enough for how the gradient of each minibatch ages, where all are kept.
            weight_type=torch.bfloat16 if self.solver.needs.takes == "parts" else None,
        )


@lru_cache
def group_of(symmetry: str) -> FloatArray:
    """Matrices (|G|, 3, 3) of a point group."""
    return group_matrices(symmetry)
