"""What each iteration of an ab initio run does: stage, radius, step size, minibatch, surviving starts."""

import math
from dataclasses import dataclass

# Images that the last pass takes at a time, however large the minibatches.
LARGEST_POSE_BATCH = 400
# Temperature of the posterior over classes at the start.
HOTTEST = 20.0


@dataclass(frozen=True)
class Step:
    """One iteration.

    Parameters
    ----------
    stage
        ``starts``, ``march``, ``settle`` or ``poses``; ``refine`` or ``ctf`` in a refinement.
    number
        Iterations before this one that did the same: change the map, or find CTFs or poses.
    radius
        Fourier pixels.
    rate
        Step size.
    images
        Size of the minibatch.
    candidates
        Number of starts, or classes, that are kept after the iteration.
    temperature
        Of the posterior over classes.
    """

    stage: str
    number: int
    radius: float
    rate: float
    images: int
    candidates: int
    temperature: float = 1.0

    @property
    def even(self) -> bool:
        """Whether classes are kept equally large: until the march is done.

        At each radius the map that is a little ahead would fit all images a little better, and take them.
        """
        return self.stage in ("starts", "march")


@dataclass(frozen=True)
class March:
    """Frequency march from several random starts to one map, and a last pass for all poses.

    A random start may lead to a wrong map whose evidence is clearly less. Several starts are therefore
    followed on the same minibatches at low resolution, where an iteration is cheap, and halved in number
    until the one of most evidence is left. Classes all go on to the end.

    Parameters
    ----------
    particles
        Number of images.
    start_radius, select_radius, final_radius
        Fourier pixels at the start, when one start is left, and at the end.
    candidates
        Number of random starts.
    classes
        Number of candidates that are left after the starts.
    minibatch, start_minibatch
        Images in an iteration of the march, and of the starts.
    select, march, settle
        Iterations until one start is left, then to the final radius, then at the final radius.
    rate, last_rate
        Step size, and what it falls to while the map settles: harmonically, so that the last map is an
        average over as many images as it has seen there.
    """

    particles: int
    start_radius: float
    select_radius: float
    final_radius: float
    candidates: int = 4
    classes: int = 1
    minibatch: int = 200
    start_minibatch: int = 100
    select: int = 24
    march: int = 32
    settle: int = 14
    rate: float = 1.0
    last_rate: float = 0.2

    @property
    def optimisation(self) -> int:
        """Iterations that change the volume."""
        return self.select + self.march + self.settle

    @property
    def total(self) -> int:
        """All iterations, those of the last pass included."""
        return self.optimisation + math.ceil(self.particles / self.pose_batch)

    @property
    def judged_every(self) -> int:
        """Iterations between judgements on held-out images: a pass over the others, within bounds.

        Some judgements are made at the final radius, or none could end the run.
        """
        return min(max(self.particles // self.minibatch, 5), 25, max(1, self.settle // 9))

    @property
    def pose_batch(self) -> int:
        """Images in an iteration of the last pass."""
        return min(self.minibatch, LARGEST_POSE_BATCH)

    def __getitem__(self, iteration: int) -> Step:
        """What iteration number ``iteration``, from 0, does."""
        if not 0 <= iteration < self.total:
            raise IndexError(iteration)
        batch, hot = min(self.minibatch, self.particles), self._temperature(iteration)
        if iteration < self.select:
            # The last third is at the radius of selection.
            fraction = min(1.0, iteration / (2 * self.select / 3))
            radius = self.start_radius + fraction * (self.select_radius - self.start_radius)
            images = min(self.start_minibatch, self.particles)
            return Step("starts", iteration, radius, self.rate, images, self._survivors(iteration), hot)
        if iteration < self.select + self.march:
            fraction = (iteration - self.select + 1) / self.march
            radius = self.select_radius + fraction * (self.final_radius - self.select_radius)
            return Step("march", iteration, radius, self.rate, batch, self.classes, hot)
        if iteration < self.optimisation:
            fraction = (iteration - self.select - self.march + 1) / self.settle
            rate = self.rate / (1.0 + fraction * (self.rate / self.last_rate - 1.0))
            return Step("settle", iteration, self.final_radius, rate, batch, self.classes)
        number = iteration - self.optimisation
        return Step("poses", number, self.final_radius, 0.0, self.pose_batch, self.classes)

    def _survivors(self, iteration: int) -> int:
        """Half are dropped when half, and the rest when all, of the iterations before selection are done."""
        if iteration + 1 >= self.select:
            return self.classes
        if iteration + 1 < 2 * self.select // 3:
            return self.candidates
        return max(self.classes, math.ceil(self.candidates / 2))

    def _temperature(self, iteration: int) -> float:
        """Falls geometrically until half the march is done."""
        return HOTTEST ** max(0.0, 1.0 - iteration / (self.select + 0.5 * self.march))
