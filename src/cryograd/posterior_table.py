"""What is known of every particle: its best poses, and how sure they are."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryograd.objective.ctf_refinement import best_scale
from cryograd.pose.posterior import Poses


@dataclass(frozen=True)
class PosteriorTable:
    """The latest posterior of every particle.

    Parameters
    ----------
    top_rotations, top_shifts, top_probabilities
        The R most probable rotations (n, R, 3, 3), best first, the origin offsets (n, R, 2) in Å at each, and
        their responsibilities (n, R).
    log_evidence, entropy, effective_size, match, energy
        Shape (n,), as in `Poses`.
    visited
        Whether the particle has been in a minibatch, shape (n,).
    defocus_change
        Å that were found to be missing from its underfocus, shape (n,).
    classes
        Probability of each class, shape (n, C).
    """

    top_rotations: np.ndarray
    top_shifts: np.ndarray
    top_probabilities: np.ndarray
    log_evidence: np.ndarray
    entropy: np.ndarray
    effective_size: np.ndarray
    match: np.ndarray
    energy: np.ndarray
    visited: np.ndarray
    defocus_change: np.ndarray
    classes: np.ndarray

    @staticmethod
    def empty(n: int, ranked: int = 1, classes: int = 1) -> "PosteriorTable":
        """Table of particles that have not been visited, with so many poses of each, and classes."""
        rotations = np.broadcast_to(np.eye(3), (n, ranked, 3, 3)).copy()
        unknown = np.zeros(n)
        return PosteriorTable(
            rotations,
            np.zeros((n, ranked, 2)),
            np.zeros((n, ranked)),
            unknown,
            unknown,
            unknown,
            unknown,
            unknown,
            np.zeros(n, dtype=bool),
            unknown,
            np.full((n, classes), 1.0 / classes),
        )

    @property
    def rotations(self) -> np.ndarray:
        """The best rotation, shape (n, 3, 3)."""
        return self.top_rotations[:, 0]

    @property
    def shifts(self) -> np.ndarray:
        """The origin offset in Å at the best rotation, shape (n, 2)."""
        return self.top_shifts[:, 0]

    @property
    def max_probability(self) -> np.ndarray:
        """The best rotation's responsibility, shape (n,)."""
        return self.top_probabilities[:, 0]

    def scales(self, width: float, group: np.ndarray | None = None) -> np.ndarray:
        """Scale of each image's signal at its last visit, shape (n,), in the mean 1; 1 before the first.

        Parameters
        ----------
        width
            Standard deviation of its prior, and of the one of its group's; 0 for no scales.
        group
            Group of each image, from 0, shape (n,): its prior is around the scale of the group; None for 1.
        """
        seen = self.energy > 0.0
        found = np.ones(len(seen))
        if width and seen.any():
            match, energy = torch.from_numpy(self.match[seen]), torch.from_numpy(self.energy[seen])
            centre = torch.ones_like(match)
            if group is not None:
                member = group[seen]
                matches, energies = (torch.from_numpy(np.bincount(member, v)) for v in (match, energy))
                centre = best_scale(matches, energies, width)[0][member]
            best = best_scale(match, energy, width, centre)[0].numpy()
            # The scale of all is the map's.
            found[seen] = best / best.mean()
        return found

    def updated(
        self, indices: np.ndarray, poses: Poses, probabilities: Tensor | None = None
    ) -> "PosteriorTable":
        """The table with new rows for some particles, and their classes' probabilities (C, B) if given."""
        columns = {name: getattr(self, name).copy() for name in vars(self)}
        ranked = self.top_rotations.shape[1]
        for name, values in vars(poses).items():
            kept = values[:, :ranked] if name.startswith("top_") else values
            columns[name][indices] = kept.double().cpu().numpy()
        columns["visited"][indices] = True
        if probabilities is not None:
            columns["classes"][indices] = probabilities.T.cpu().numpy()
        return PosteriorTable(**columns)
