"""What an iteration looks at: which images, whitened, at which poses, and the objective there."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cryograd.data.cache import Loaded, delocalisation
from cryograd.fourier import HalfDisc
from cryograd.model.noise import Noise
from cryograd.objective.likelihood import Evaluation, Images, MarginalLikelihood
from cryograd.pose.inference import Level, Search
from cryograd.pose.posterior import Batch, Poses
from cryograd.pose.quadrature import PoseGrid, RotationGrid, ShiftGrid, angular_spacing
from cryograd.pose.sampling import Sampling
from cryograd.setup import Setup
from cryograd.solvers.schedule import Step
from cryograd.state import State
from cryograd.steps.protocol import Local, Spectrum

# Radius in Fourier pixels up to which the pose search is exhaustive.
COARSE_RADIUS = 8.0
# Radii up to which one refinement is enough, and two, three, ...: each halves the cells.
MIDDLE_RADIUS, FINE_RADII = 14.0, (32.0, 64.0, 128.0, 256.0)
# Side of the shared grid's cells in angles atan(1/r), and shift spacings per resolution element; beyond the
# middle radius, where two refinements have to reach the angles that the final radius needs, they are finer.
ANGLE_CELLS, SHIFT_CELLS = 1.5, 2.5
FINE_ANGLE_CELLS, FINE_SHIFT_CELLS = 1.25, 3.2
# Width of the shifts' prior as a fraction of the largest shift.
SHIFT_SIGMA = 0.45
# Slices that the drawn poses of one image may take, since they are in memory together.
MOST_SLICES = 4096
# Weight of a minibatch in the running noise variance, and in the classes' shares.
RUNNING_RATE = 0.2
# Å by which the mask of an image is wider than the particle once its centre is known, at least; and the share
# of the finest signal's delocalisation that it is, where that is more: only what comes from the particle's
# edge moves beyond it by all of that.
MASK_MARGIN, SPREAD_KEPT = 10.0, 0.5


def minibatch(setup: Setup, state: State, step: Step) -> tuple[np.ndarray, tuple[int, int]]:
    """The next images, and the number of their minibatch in the partition, of how many.

    Parts at random come in order once: steps along average gradients that are all about as old as each other
    swing. Where no parts are wanted, the images come from an endless sequence in which every epoch is a new
    shuffle.
    """
    if setup.solver.needs.takes == "all":
        return setup.train, (0, 1)
    if setup.solver.needs.takes in ("parts", "random parts"):
        count = len(setup.partition)
        number = step.number % count
        if setup.solver.needs.takes == "random parts" and step.number >= count:
            number = int(np.random.default_rng([setup.seed, 1, step.number]).integers(count))
        return setup.partition[number], (number, count)
    n, drawn, images = len(setup.train), state.images_drawn, step.images
    epochs = range(drawn // n, (drawn + images - 1) // n + 1)
    order = np.concatenate([np.random.default_rng([setup.seed, 1, e]).permutation(n) for e in epochs])
    first = drawn - epochs[0] * n
    return setup.train[np.unique(order[first : first + images])], (0, 1)


def whitened(
    setup: Setup, state: State, indices: np.ndarray, disc: HalfDisc, masked: bool = True
) -> tuple[Batch, Loaded]:
    """Load a minibatch and divide it by the noise.

    Masks follow the particles' centres once these are known, and CTFs have the images' scales and what was
    found of their defocus.
    """
    table = state.posterior
    change = table.defocus_change[indices]
    spread = delocalisation(setup.images.particles, indices, disc.radius / setup.images.extent, change)
    margins = np.maximum(MASK_MARGIN, SPREAD_KEPT * spread)
    margins = np.where(table.visited[indices] & masked, margins, np.inf)
    loaded = setup.images.load(indices, disc, table.shifts[indices], margins, change)
    variance = state.noise.on_disc(disc, loaded.group)
    images = loaded.images * variance.rsqrt()
    log_norm = -images.abs().square().sum(dim=1) - torch.log(torch.pi * variance).sum(dim=1)
    scale = image_scales(setup, state, indices)[:, None]
    return Batch(images, loaded.ctf * scale * variance.rsqrt(), log_norm), loaded


@dataclass(frozen=True)
class Reading:
    """A minibatch of B images that are read and whitened a part at a time: all may be more than fits."""

    setup: Setup
    state: State
    indices: np.ndarray
    disc: HalfDisc

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def weights(self) -> Tensor:
        """How much each image counts, shape (B,)."""
        return torch.ones_like(self.area)

    @cached_property
    def group(self) -> Tensor:
        """Optics group of each image, shape (B,)."""
        numbers = self.setup.images.particles.optics_index[self.indices]
        return torch.as_tensor(numbers, device=self.setup.images.device)

    @cached_property
    def area(self) -> Tensor:
        """Fraction of the box inside each image's mask, shape (B,); 1 for those that were not read yet."""
        return torch.ones(len(self), device=self.setup.images.device)

    def part(self, images: slice) -> Batch:
        """Some of the images."""
        batch, loaded = whitened(self.setup, self.state, self.indices[images], self.disc)
        self.area[images] = loaded.area
        return batch


def image_scales(setup: Setup, state: State, indices: np.ndarray) -> Tensor:
    """Scale of the signal of some images, shape (B,)."""
    scale = state.posterior.scales(setup.scale_width, setup.images.particles.scale_group)[indices]
    return torch.as_tensor(scale, dtype=torch.float32, device=state.mask.device)


def at_scale_one(setup: Setup, state: State, indices: np.ndarray, poses: Poses) -> Poses:
    """Poses whose match and energy are those of CTFs without the scales that they were found with."""
    scale = image_scales(setup, state, indices)
    return replace(poses, match=poses.match / scale, energy=poses.energy / scale.square())


def near(
    setup: Setup,
    state: State,
    step: Step,
    likelihood: MarginalLikelihood,
    found: Evaluation,
    batch: Images,
    number: tuple[int, int],
) -> Local:
    """The objective near a map that it was evaluated at, without a prior."""
    return Local(
        loss=found.value,
        gradient=found.gradient,
        curvature=found.curvature,
        precision=torch.zeros_like,
        weights=found.weights,
        value=lambda volume: likelihood.value(volume, batch, found.support),
        normal=likelihood.normal,
        spectrum=Spectrum.of_voxels(likelihood.size, step.radius, state.mask.device),
        radius=step.radius,
        rate=step.rate,
        iteration=state.iteration,
        epoch=state.images_drawn // len(setup.train),
        minibatch=number,
    )


def renoised(
    setup: Setup, state: State, residual: Tensor | None, loaded: Loaded | Reading, disc: HalfDisc
) -> Noise:
    """The noise variance after an evaluation; where no poses were refined it stays as it is."""
    if residual is None:
        return state.noise
    return state.noise.updated(residual, disc, loaded.group, loaded.area, running_rate(setup))


def running_rate(setup: Setup) -> float:
    """Weight of a minibatch in running means over the images."""
    return 1.0 if setup.solver.needs.takes == "all" else RUNNING_RATE


def search_at(
    setup: Setup, radius: float, iteration: int, hard: bool = False, remembered: bool = False
) -> Search:
    """How poses are searched at a radius: exhaustively up to a point, from there on by refining cells.

    Parameters
    ----------
    setup, radius, iteration
        The run, the radius in Fourier pixels, and the number that grids are turned by.
    hard
        Whether each image is to count at its best pose alone.
    remembered
        Whether a sampler is to remember the posterior; what is lost here it cannot find: more is kept.
    """
    rng = np.random.default_rng([setup.seed, 2, iteration])
    coarse, fine = min(radius, COARSE_RADIUS), radius > MIDDLE_RADIUS
    angle_cells, shift_cells = (FINE_ANGLE_CELLS, FINE_SHIFT_CELLS) if fine else (ANGLE_CELLS, SHIFT_CELLS)
    rotations = RotationGrid.covering(angle_cells * angular_spacing(coarse), setup.group).turned(rng)
    shifts = _shifts(setup, coarse, shift_cells, rng.uniform(-0.5, 0.5, 2))
    first, second = (192, 48) if remembered else (48, 12)
    if radius <= COARSE_RADIUS and not hard:
        levels = ()
    elif fine:
        between = (Level(second, 8, r) for r in FINE_RADII if r < radius)
        levels = (Level(first, 8, MIDDLE_RADIUS), *between, Level(second, 8, radius))
    else:
        levels = (Level(first, 8, radius),)
    return Search(coarse, rotations, shifts, levels, iteration if remembered else None, hard)


def poses_at(setup: Setup, state: State, indices: np.ndarray, radius: float) -> Search | Sampling:
    """The poses of the next minibatch: drawn where that slices the volume less often than a search."""
    # While starts compete their posteriors differ: what one leaves is of no use to another.
    alone = len(state.candidates) == 1
    search = search_at(setup, radius, state.iteration, setup.hard, setup.sampler is not None and alone)
    drawn = drawn_poses(setup, state, indices, radius) if alone else None
    if drawn is not None and setup.sampler is not None and setup.sampler.only:
        return drawn
    if drawn is None or drawn.slices > search.slices(len(indices)) or drawn.most > MOST_SLICES:
        return search
    return drawn


def drawn_poses(setup: Setup, state: State, indices: np.ndarray, radius: float) -> Sampling | None:
    """Poses drawn for each image of a minibatch.

    None if an image has not been visited before, and as long as proposals are uniform, since a sample would
    save nothing.
    """
    if setup.sampler is None:
        return None
    sampler = setup.sampler
    remembered = [state.memory.recall(i) for i in indices]
    trusted = [seen for seen in remembered if seen is not None and seen.iteration >= sampler.annealing.period]
    if len(trusted) < len(remembered):
        return None
    quadrature = PoseGrid.covering(
        angular_spacing(radius), setup.group, _shifts(setup, radius, FINE_SHIFT_CELLS)
    )
    draws = [
        sampler.draw(seen, quadrature, np.random.default_rng([setup.seed, 4, state.iteration, int(index)]))
        for index, seen in zip(indices, trusted, strict=True)
    ]
    return Sampling(quadrature, draws, state.iteration)


def _shifts(setup: Setup, radius: float, cells: float, offset: np.ndarray | None = None) -> ShiftGrid:
    """Shifts with so many spacings per resolution element of a radius."""
    sigma = max(SHIFT_SIGMA * setup.max_shift, setup.images.extent / setup.images.size)
    return ShiftGrid.covering(setup.images.extent / radius / cells, setup.max_shift, sigma, offset)
