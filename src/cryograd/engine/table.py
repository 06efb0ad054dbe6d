"""What is known of every particle: its best poses and how sure they are, its half-set and its class."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryograd.objective.ctf_refinement import best_scale
from cryograd.objective.picks import Cues
from cryograd.pose.posterior import Poses


@dataclass(frozen=True)
class PosteriorTable:
    """The latest posterior of every particle.

    The arrays belong to the run: each iteration writes the rows of its images into them, so that the table of
    a state is the table of all later states. Whoever wants to keep one takes `state_dict`, which copies.

    Parameters
    ----------
    top_rotations, top_shifts, top_probabilities
        The R most probable rotations (n, R, 3, 3), best first, the origin offsets (n, R, 2) in Å at each, and
        their responsibilities (n, R).
    log_evidence, entropy, effective_size, match, energy, spread
        Shape (n,), as in `Poses`.
    visited
        Whether the particle has been in a minibatch, shape (n,).
    defocus_change
        Å that were found to be missing from its underfocus, shape (n,).
    classes
        Probability of each class, shape (n, C).
    half
        Half-set of each particle, 1 or 2, shape (n,); 0 where all images make one map.
    """

    top_rotations: np.ndarray
    top_shifts: np.ndarray
    top_probabilities: np.ndarray
    log_evidence: np.ndarray
    entropy: np.ndarray
    effective_size: np.ndarray
    match: np.ndarray
    energy: np.ndarray
    spread: np.ndarray
    visited: np.ndarray
    defocus_change: np.ndarray
    classes: np.ndarray
    half: np.ndarray

    @staticmethod
    def empty(n: int, ranked: int = 1, classes: int = 1) -> "PosteriorTable":
        """Table of particles that have not been visited, with so many poses of each, and classes."""
        return PosteriorTable(
            top_rotations=np.broadcast_to(np.eye(3), (n, ranked, 3, 3)).copy(),
            top_shifts=np.zeros((n, ranked, 2)),
            top_probabilities=np.zeros((n, ranked)),
            log_evidence=np.zeros(n),
            entropy=np.zeros(n),
            effective_size=np.zeros(n),
            match=np.zeros(n),
            energy=np.zeros(n),
            spread=np.zeros(n),
            visited=np.zeros(n, dtype=bool),
            defocus_change=np.zeros(n),
            classes=np.full((n, classes), 1.0 / classes),
            half=np.zeros(n, dtype=np.int8),
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

    def scales(self, members: np.ndarray, width: float, group: np.ndarray | None = None) -> np.ndarray:
        """Scale of some images' signal at their last visit, in the mean 1; 1 before the first.

        Parameters
        ----------
        members
            The particles, shape (m,), which are looked at alone: those of one half-set say nothing of the
            other.
        width
            Standard deviation of the scale's prior, and of the one of its group's; 0 for no scales.
        group
            Group of each particle of the table, from 0, shape (n,): the prior is around the scale of the
            group; None for 1.

        Returns
        -------
        np.ndarray
            Shape (m,).
        """
        matches, energies = self.match[members], self.energy[members]
        seen = energies > 0.0
        found = np.ones(len(members))
        if width and seen.any():
            match, energy = torch.from_numpy(matches[seen]), torch.from_numpy(energies[seen])
            centre = torch.ones_like(match)
            if group is not None:
                of_group = group[members][seen]
                matches, energies = (
                    torch.from_numpy(np.bincount(of_group, value)) for value in (match, energy)
                )
                centre = best_scale(matches, energies, width)[0][of_group]
            best = best_scale(match, energy, width, centre)[0].numpy()
            # The scale of all is the map's.
            found[seen] = best / best.mean()
        return found

    def cues(self, members: np.ndarray, width: float, group: np.ndarray | None = None) -> Cues:
        """What is known of some particles' images that says whether they belong, as `scales` takes them."""
        scales = self.scales(members, width, group)
        return Cues(scales, self.rotations[members], self.shifts[members], self.spread[members])

    def update(self, indices: np.ndarray, poses: Poses, probabilities: Tensor | None = None) -> None:
        """Write new rows for some particles, and their classes' probabilities (C, B) if given."""
        ranked = self.top_rotations.shape[1]
        for name, values in vars(poses).items():
            kept = values[:, :ranked] if name.startswith("top_") else values
            getattr(self, name)[indices] = kept.double().cpu().numpy()
        self.visited[indices] = True
        if probabilities is not None:
            self.classes[indices] = probabilities.T.cpu().numpy()

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of all columns."""
        return {name: torch.from_numpy(values.copy()) for name, values in vars(self).items()}

    @staticmethod
    def from_state_dict(saved: dict[str, Any]) -> "PosteriorTable":
        """Undo `state_dict`."""
        return PosteriorTable(**{name: values.numpy().copy() for name, values in saved.items()})
