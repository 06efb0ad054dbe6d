"""Which images an iteration looks at, and these images whitened."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cryograd.data.ctfs import delocalisation
from cryograd.draws import Stream, generator
from cryograd.engine.program import Step
from cryograd.engine.run import Members, Run
from cryograd.engine.state import State
from cryograd.fourier import HalfDisc
from cryograd.images.store import Loaded, load
from cryograd.pose.posterior import Batch, Poses

# Å by which the mask of an image is wider than the particle once its centre is known, at least; and the share
# of the finest signal's delocalisation that it is, where that is more: only what comes from the particle's
# edge moves beyond it by all of that.
MASK_MARGIN, SPREAD_KEPT = 10.0, 0.5
# Bytes that a whole minibatch may take in memory; a larger one is read a part at a time.
_HELD_BYTES = 256 * 2**20


def drawn(run: Run, state: State, number: int, step: Step) -> tuple[np.ndarray, tuple[int, int]]:
    """The images of a step in one side, and the number of their minibatch in a partition, of how many.

    Parts at random come in order once: steps along average gradients that are all about as old as each other
    swing. Where no parts are wanted, the images come from an endless sequence in which every epoch is a new
    shuffle.
    """
    members, takes = run.sides[number], run.solver.needs.takes
    if step.chunks:
        part = step.number % step.chunks
        return np.array_split(members.every, step.chunks)[part], (part, step.chunks)
    if takes == "all":
        return members.train, (0, 1)
    if takes in ("parts", "random parts"):
        count = len(members.partition)
        part = step.number % count
        if takes == "random parts" and step.number >= count:
            part = int(generator(run.seed, Stream.ORDER, step.number).integers(count))
        return members.partition[part], (part, count)
    # A half-set of any size has as many minibatches as the other.
    images = step.images or len(members.partition[0])
    return _shuffled(run.seed, members, state.sides[number].images_drawn, images), (0, 1)


def _shuffled(seed: int, members: Members, before: int, images: int) -> np.ndarray:
    """The next images of the shuffled sequence, after so many."""
    n = len(members.train)
    epochs = range(before // n, (before + images - 1) // n + 1)
    order = np.concatenate([generator(seed, Stream.ORDER, epoch).permutation(n) for epoch in epochs])
    first = before - epochs[0] * n
    return members.train[np.unique(order[first : first + images])]


@dataclass(frozen=True)
class Minibatch:
    """Images of one side, which are read and whitened a part at a time: all may be more than fits.

    Masks follow the particles' centres once these are known, and CTFs have the images' scales and what was
    found of their defocus.

    Parameters
    ----------
    run, state, number
        The run, its state and the side.
    indices
        Particles, shape (B,).
    disc
        Coefficients.
    masked
        Whether images are masked around their particles.
    count
        How much each image counts, shape (B,); None where each counts once.
    """

    run: Run
    state: State
    number: int
    indices: np.ndarray
    disc: HalfDisc
    masked: bool = True
    count: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def counts(self) -> Tensor:
        """How much each image counts, shape (B,)."""
        return torch.ones(len(self), device=self.run.images.device) if self.count is None else self.count

    @property
    def group(self) -> Tensor:
        """Optics group of each image, shape (B,)."""
        groups = self.run.images.particles.optics_index[self.indices]
        return torch.as_tensor(groups, device=self.run.images.device)

    @cached_property
    def scale(self) -> Tensor:
        """Scale of each image's signal, shape (B,)."""
        run, members = self.run, self.run.sides[self.number].every
        found = self.state.table.scales(members, run.scale_width, run.images.particles.scale_group)
        # Members are sorted.
        mine = found[np.searchsorted(members, self.indices)]
        return torch.as_tensor(mine, dtype=torch.float32, device=run.images.device)

    def loaded(self, images: slice) -> Loaded:
        """Some of the images as they are, and their CTFs at scale one."""
        indices, table = self.indices[images], self.state.table
        change, store = table.defocus_change[indices], self.run.images
        spread = delocalisation(store.particles, indices, self.disc.radius / store.extent, change)
        margins = np.maximum(MASK_MARGIN, SPREAD_KEPT * spread)
        margins = np.where(table.visited[indices] & self.masked, margins, np.inf)
        return load(store, indices, self.disc, table.shifts[indices], margins, change)

    def part(self, images: slice) -> Batch:
        """Some of the images, divided by the noise."""
        return self._whitened(self.loaded(images), images)

    def _whitened(self, loaded: Loaded, images: slice) -> Batch:
        variance = self.state.sides[self.number].noise.on_disc(self.disc, loaded.group)
        values = loaded.images * variance.rsqrt()
        return Batch(
            images=values,
            ctf=loaded.ctf * self.scale[images, None] * variance.rsqrt(),
            log_norm=-values.abs().square().sum(dim=1) - torch.log(torch.pi * variance).sum(dim=1),
            count=None if self.count is None else self.count[images],
            area=loaded.area,
        )

    def counted(self, counts: Tensor, images: Tensor) -> "Minibatch":
        """Some of the images, (B,) bool, each counting as much as it is told, (B,)."""
        return replace(self, indices=self.indices[images.cpu().numpy()], count=counts.float()[images])

    def at_hand(self) -> "Minibatch | Batch":
        """The whole minibatch in memory where it fits, so that it is read once however often it is used."""
        fits = 12 * len(self.disc) * len(self) <= _HELD_BYTES
        return self.part(slice(0, len(self))) if fits else self

    def at_scale_one(self, poses: Poses) -> Poses:
        """Poses whose match and energy are those of CTFs without the scales that they were found with."""
        return replace(poses, match=poses.match / self.scale, energy=poses.energy / self.scale.square())
