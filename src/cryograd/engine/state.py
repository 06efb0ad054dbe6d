"""A run after an iteration: all that a checkpoint needs, and nothing that the run's settings say already."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryograd.engine.table import PosteriorTable
from cryograd.fourier import resize_transform, resize_volume
from cryograd.model.noise import Noise
from cryograd.objective.picks import Picks
from cryograd.objective.sums import Sums
from cryograd.pose.memory import Memory
from cryograd.rotations import FloatArray
from cryograd.steps.protocol import SolverState
from cryograd.steps.state import as_plain, as_record, on_device, resized, tensors


@dataclass(frozen=True)
class Track:
    """One map on its way: a start, or a class, of all images or of one half-set.

    Parameters
    ----------
    symmetry
        Point group.
    volume, difference
        V, and half the difference of the maps of two halves of the images, which has V's noise: (L, L, L);
        None where it is not measured.
    solver, difference_solver
        What the solver remembers of each.
    evidence
        Running mean log evidence per coefficient.
    share
        Fraction of the images that belongs to it; starts do not share them.
    unfiltered
        Of a half-set the map that the latest step made, with the prior on the spectrum, before it was masked,
        constrained and cut to become V; after the last iteration the likeliest map at the last poses, without
        the prior too. (L, L, L); None before the first step, and where all images make one map.
    sums
        What the images of the last pass have said so far; None before it.
    curvature
        Row sums of the Hessian of the mean over the images of the last pass, (L, L, L//2 + 1); None before
        its end.
    """

    symmetry: str
    volume: Tensor
    solver: SolverState
    difference: Tensor | None = None
    difference_solver: SolverState | None = None
    evidence: float = -float("inf")
    share: float = 1.0
    unfiltered: Tensor | None = None
    sums: Sums | None = None
    curvature: Tensor | None = None

    @property
    def shown(self) -> Tensor:
        """The map to show: the unfiltered one where there is one."""
        return self.volume if self.unfiltered is None else self.unfiltered

    @property
    def solver_bytes(self) -> int:
        """Memory that the solver's states take."""
        return sum(
            tensor.nbytes for state in (self.solver, self.difference_solver) for tensor in tensors(state)
        )

    def in_box(self, size: int) -> "Track":
        """The track with its maps and solver in another box of the same extent."""
        unfiltered = self.unfiltered
        return replace(
            self,
            volume=resize_transform(self.volume, size),
            solver=resized(self.solver, size),
            unfiltered=None if unfiltered is None else resize_transform(unfiltered, size),
        )


@dataclass(frozen=True)
class Side:
    """Images that make maps of their own, all of them or one half-set, and what these maps are.

    Parameters
    ----------
    tracks
        The starts that are left, the one of most evidence first; or the classes.
    noise
        Noise variance.
    images_drawn
        Images that the minibatches have drawn so far: the place in the endless shuffled sequence.
    picks
        How particles lie in their images; None where it is not known.
    """

    tracks: tuple[Track, ...]
    noise: Noise
    images_drawn: int = 0
    picks: Picks | None = None

    @property
    def best(self) -> Track:
        """The best start, or the class with most images."""
        return max(self.tracks, key=lambda track: track.share)


@dataclass
class State:
    """A run after an iteration; the loop changes it, and yields the same object again and again.

    One state at a time is in memory, whoever holds on to it. Whoever wants to keep one takes `state_dict`,
    which copies.

    Parameters
    ----------
    iteration, place
        Iterations done, and steps of the program that are behind: done, or passed over.
    total_iterations
        Iterations to be done in all, as far as is known.
    stage
        What the last iteration did, see `program.Step`.
    radius
        Fourier pixels up to which images were compared.
    sides
        All images, or the two half-sets.
    mask
        Solvent mask of the maps' box, which may be smaller than the images'.
    extent
        Side of the box in Å.
    size
        Side of the images in pixels, W.
    start_radius
        Fourier pixels up to which the half-sets started from the same maps.
    scale
        Root mean square density in the mask of the first maps, which priors are scaled by.
    curves
        Correlation of the half maps by shell of the images' box, all that half-sets share: (C, W // 2 + 1)
        for C classes. None where all images make one map.
    table
        The latest posterior of every particle.
    memory
        What the sampler remembers; of no particle where poses are searched.
    history
        One row an iteration, JSON-able.
    """

    iteration: int
    place: int
    total_iterations: int
    stage: str
    radius: float
    sides: list[Side]
    mask: Tensor
    extent: float
    size: int
    start_radius: float
    scale: float
    curves: FloatArray | None
    table: PosteriorTable
    memory: Memory
    history: list[dict[str, Any]]

    @property
    def shares(self) -> tuple[float, ...]:
        """Fraction of the images that belongs to each track."""
        return tuple(float(np.mean([track.share for track in tracks])) for tracks in self.tracks)

    @property
    def tracks(self) -> tuple[tuple[Track, ...], ...]:
        """The tracks of each start, or class, one for each side."""
        return tuple(zip(*(side.tracks for side in self.sides), strict=True))

    @property
    def best(self) -> int:
        """Number of the track to show: the best start, or the class with most images."""
        shares = self.shares
        return max(range(len(shares)), key=shares.__getitem__)

    @property
    def volume(self) -> Tensor:
        """The best track's volume, the mean over the sides, (L, L, L)."""
        return torch.stack([track.volume for track in self.tracks[self.best]]).mean(dim=0)

    @property
    def resolution(self) -> float:
        """Å up to which maps are sound: of the radius, or of what half maps have reached."""
        return float(self.history[-1]["resolution"]) if self.history else self.extent / self.radius

    def fit_box(self, size: int, mask: Tensor) -> None:
        """Bring the maps into another box of the same extent, and there the solvent mask of any box."""
        if size != len(self.mask):
            for number, side in enumerate(self.sides):
                self.sides[number] = replace(side, tracks=tuple(t.in_box(size) for t in side.tracks))
            self.mask = resize_volume(mask, size).clamp(0.0, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """A copy as tensors on the CPU and plain data, for `torch.save`."""
        curves = self.curves
        return vars(self) | {
            "sides": as_plain(on_device(tuple(self.sides), "cpu")),
            "mask": self.mask.cpu(),
            "curves": None if curves is None else torch.from_numpy(curves.copy()),
            "table": self.table.state_dict(),
            "memory": {name: torch.from_numpy(values) for name, values in self.memory.state_dict().items()},
            "history": list(self.history),
        }

    @staticmethod
    def from_state_dict(saved: dict[str, Any], device: torch.device | str = "cpu") -> "State":
        """Undo `state_dict`, on a device."""
        curves = saved["curves"]
        restored = {
            "sides": list(on_device(as_record(saved["sides"]), device)),
            "mask": saved["mask"].to(device),
            "curves": None if curves is None else curves.numpy().copy(),
            "table": PosteriorTable.from_state_dict(saved["table"]),
            "memory": Memory.from_state_dict({k: v.numpy() for k, v in saved["memory"].items()}),
            "history": list(saved["history"]),
        }
        return State(**(saved | restored))
