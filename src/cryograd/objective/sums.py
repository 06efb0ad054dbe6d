"""What images say of a map, as sums over them: parts of a minibatch, or of a pass, are added up."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryograd.heap import trim
from cryograd.model.projection import Projector

# Bytes of statistics from which on they are inserted: those of broad posteriors take 30 MB an image.
HELD_BYTES = 128 * 2**20
# Bytes of a real grid from which on memory is short, and insertion takes no longer for fewer at a time.
LARGE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Sums:
    """What some images say of one map at one radius; two such sums of different images add up.

    Parameters
    ----------
    images
        Number of images.
    log_evidence
        Σ w log p(X | V), w being how much an image counts.
    weights
        Pᵀa on the padded grid, shape (G, G, H, 1).
    misfit
        Pᵀ(a ⊙ P V − b) on the padded grid, shape (G, G, H, 2): half the gradient, before the adjoint of the
        volume's transform.
    slope
        Likewise for half the difference of the maps of two halves of the images; None where it is not
        followed.
    """

    images: int
    log_evidence: float
    weights: Tensor
    misfit: Tensor
    slope: Tensor | None = None

    def __add__(self, other: "Sums") -> "Sums":
        """The sums over the images of both; only sums at one map and one radius have a meaning together."""
        slope = None
        if self.slope is not None and other.slope is not None:
            slope = self.slope + other.slope
        return Sums(
            images=self.images + other.images,
            log_evidence=self.log_evidence + other.log_evidence,
            weights=self.weights + other.weights,
            misfit=self.misfit + other.misfit,
            slope=slope,
        )

    @property
    def numbers(self) -> "Sums":
        """The same without its grids, which take GB at high resolution."""
        none = self.misfit.new_zeros(0)
        return Sums(self.images, self.log_evidence, none, none)


class Insertion:
    """Sums of back-projections, of as many slices at a time as memory allows.

    Each insertion may clear and add up whole grids: a few large ones cost less than many small ones.

    Parameters
    ----------
    projector
        Whose adjoint inserts.
    points
        Points of a slice, shape (K, 3).
    """

    def __init__(self, projector: Projector, points: Tensor) -> None:
        self._projector, self._points = projector, points
        self._held: list[tuple[Sequence[Tensor], Tensor]] = []
        self._sums: list[Tensor] = []

    def add(self, slices: Sequence[Tensor], rotations: Tensor) -> None:
        """Add slices (J, K) at rotations (J, 3, 3) to each of the sums, which are always the same number."""
        self._held.append((slices, rotations))
        held = sum(s.nbytes for slices, _ in self._held for s in slices)
        if held > HELD_BYTES or (self._sums and self._sums[0].nbytes > LARGE_BYTES):
            self._insert()

    def total(self) -> list[Tensor]:
        """The sums on the padded grid; nothing can be added after this."""
        if self._held:
            self._insert()
        return self._sums

    def _insert(self) -> None:
        slices, rotations = zip(*self._held, strict=True)
        self._held = []
        where = torch.cat(rotations)
        for number, part in enumerate(zip(*slices, strict=True)):
            values = part[0] if len(part) == 1 else torch.cat(part)
            if number == len(self._sums):
                self._sums.append(self._projector.empty(values))
            self._projector.add(self._sums[number], values, where, self._points)
        if self._sums[0].nbytes > LARGE_BYTES:
            # What each part of the images leaves behind lies between the arrays of the next.
            trim()
