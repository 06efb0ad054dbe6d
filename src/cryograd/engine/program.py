"""What each iteration of a run does, as data: a program is a list of steps.

`March.program` makes the program of a run from a random start, `apart` that of a refinement in two half-sets.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from cryograd.steps.protocol import Needs

Stage = Literal["starts", "march", "settle", "refine", "ctf", "poses"]
# What a march makes: a map, a start that half-sets cut and go on from, or the best of several such starts.
Goal = Literal["map", "start", "contest"]

# Temperature of the posterior over classes at the start.
HOTTEST = 20.0
# Images that the last pass of a run from a random start takes at a time, however large the minibatches.
LARGEST_POSE_BATCH = 400
# Iterations that are spent at the final radius, at least and at most, where these take every image once.
SETTLE = (14, 50)
# Iterations of the march and at the final radius of a map that a refinement goes on with: it cuts the map to
# less than this radius, and makes it anew with all images. Those in which starts are compared follow.
BRIEF, CONTEST = (16, 0), 6
# Shells beyond the last one that is resolved are open too, for so many Fourier pixels and up to so many times
# its radius: what they hold is shrunk to what it is worth.
MARGIN, GROWTH = 10.0, 1.3


@dataclass(frozen=True)
class Step:
    """One iteration.

    Parameters
    ----------
    stage
        ``starts``, ``march`` and ``settle`` change maps from a random start, ``refine`` maps of half-sets;
        ``ctf`` finds defocus, ``poses`` the last poses.
    number
        Steps before this one that did the same: change maps, find CTFs or find poses.
    radius
        Fourier pixels; None for as far as the half maps allow.
    rate
        Step size.
    images
        Size of the minibatch, where it is drawn from a shuffled sequence; 0 for that of a part of the side's
        partition.
    chunks
        Chunks that all particles are divided into, of which the step takes one; 0 for a minibatch.
    tracks
        Number of starts, or classes, that are kept after the iteration.
    temperature
        Of the posterior over classes.
    even
        Whether classes are kept equally large.
    spare
        Whether it is passed over once the maps have converged.
    """

    stage: Stage
    number: int
    radius: float | None
    rate: float = 0.0
    images: int = 0
    chunks: int = 0
    tracks: int = 1
    temperature: float = 1.0
    even: bool = False
    spare: bool = False

    @property
    def changes_maps(self) -> bool:
        """Whether maps move in it."""
        return self.stage not in ("ctf", "poses")


@dataclass(frozen=True)
class Program:
    """The steps of a run.

    Parameters
    ----------
    steps
        One an iteration.
    start_radius, final_radius
        Fourier pixels at the start, and the last ones.
    judged_every
        Iterations between judgements on held-out images.
    """

    steps: tuple[Step, ...]
    start_radius: float
    final_radius: float
    judged_every: int = 1

    def __len__(self) -> int:
        return len(self.steps)

    def count(self, *stages: Stage) -> int:
        """Number of steps of some stages."""
        return sum(step.stage in stages for step in self.steps)

    @property
    def moves(self) -> int:
        """Steps that change maps."""
        return sum(step.changes_maps for step in self.steps)

    def after(self, stage: Stage) -> int:
        """Place of the first step after the last one of a stage."""
        return max(place for place, step in enumerate(self.steps, 1) if step.stage == stage)

    def after_spare(self, place: int) -> int:
        """The first place from one on whose step is not spare."""
        return next(p for p in range(place, len(self.steps) + 1) if p == len(self) or not self.steps[p].spare)

    def ahead(self, place: int) -> int:
        """Steps from a place on that are still to be done, as far as is known: spare ones may not be."""
        return sum(not step.spare for step in self.steps[place:])

    def step(self, place: int, reached: float, radius: float) -> Step:
        """The step at a place.

        Parameters
        ----------
        place
            From 0.
        reached
            Fourier pixels to which half maps agree.
        radius
            Of the step before: the spectrum does not close again.
        """
        step = self.steps[place]
        if step.radius is not None:
            return step
        opened = max(reached + MARGIN, GROWTH * reached, radius)
        return replace(step, radius=min(opened, self.final_radius))


@dataclass(frozen=True)
class March:
    """How long each stage of a run from a random start is, and how its radius grows.

    A random start may lead to a wrong map whose evidence is clearly less. Several starts are therefore
    followed on the same minibatches at low resolution, where an iteration is cheap, and halved in number
    until few are left, or the one of most evidence. Classes all go on to the end.

    Parameters
    ----------
    start_radius, select_radius, final_radius
        Fourier pixels at the start, when starts have been selected, and at the end.
    tracks, kept, classes
        Number of random starts, of those that are followed to the end, and of classes.
    minibatch, start_minibatch
        Images in an iteration of the march, and of the starts.
    select, march, settle
        Iterations until starts have been selected, then to the final radius, then at the final radius.
    rate, last_rate
        Step size, and what it falls to while the map settles: harmonically, so that the last map is an
        average over as many images as it has seen there.
    """

    start_radius: float
    select_radius: float
    final_radius: float
    tracks: int = 4
    kept: int = 1
    classes: int = 1
    minibatch: int = 200
    start_minibatch: int = 100
    select: int = 24
    march: int = 32
    settle: int = 14
    rate: float = 1.0
    last_rate: float = 0.2

    @staticmethod
    def of(
        needs: Needs,
        images: int,
        minibatch: int,
        radii: tuple[float, float, float],
        iterations: int | None,
        goal: Goal = "map",
    ) -> "March":
        """The lengths that a solver needs.

        Parameters
        ----------
        needs
            What the solver asks for.
        images
            Number of images that the maps are made from.
        minibatch
            Images in an iteration.
        radii
            `start_radius`, `select_radius` and `final_radius`.
        iterations
            All that change maps; None for the solver's own number.
        goal
            What is made.
        """
        select, march, settle = needs.stages
        if goal == "contest":
            select, march, settle = 0, 0, CONTEST
        elif settle is None and goal == "start":
            march, settle = BRIEF
        elif settle is None:
            settle = min(max(math.ceil(images / minibatch), SETTLE[0]), SETTLE[1])
        if iterations is not None:
            select, march, settle = _divided(iterations, (select, march, settle))
        return March(
            *radii,
            minibatch=minibatch,
            start_minibatch=math.ceil(minibatch / 2) if needs.half_start else minibatch,
            select=select,
            march=march,
            settle=settle,
            # The longer it settles, the more images the last map averages.
            last_rate=0.2 * SETTLE[0] / max(settle, 1) if needs.falling else 1.0,
        )

    @property
    def moves(self) -> int:
        """Iterations that change maps."""
        return self.select + self.march + self.settle

    @property
    def draws(self) -> int:
        """Images that all iterations draw, one after the other."""
        return self.select * self.start_minibatch + (self.march + self.settle) * self.minibatch

    def program(self, particles: int, poses: bool = True) -> Program:
        """The steps, and with poses those of a last pass over so many particles."""
        steps = [self._step(iteration) for iteration in range(self.moves)]
        if poses:
            chunks = math.ceil(particles / min(self.minibatch, LARGEST_POSE_BATCH))
            steps += [
                Step("poses", number, self.final_radius, chunks=chunks, tracks=self.classes)
                for number in range(chunks)
            ]
        # A pass over the images, within bounds. Some judgements are made at the final radius, or none could
        # end the run.
        judged = min(max(particles // self.minibatch, 5), 25, max(1, self.settle // 9))
        return Program(tuple(steps), self.start_radius, self.final_radius, judged)

    def _step(self, iteration: int) -> Step:
        """What an iteration that changes maps does."""
        if iteration < self.select:
            # The last third is at the radius of selection.
            fraction = min(1.0, iteration / (2 * self.select / 3))
            radius = self.start_radius + fraction * (self.select_radius - self.start_radius)
            step = Step("starts", iteration, radius, self.rate, self.start_minibatch)
            step = replace(step, tracks=self._survivors(iteration))
        elif iteration < self.select + self.march:
            fraction = (iteration - self.select + 1) / self.march
            radius = self.select_radius + fraction * (self.final_radius - self.select_radius)
            step = Step("march", iteration, radius, self.rate, self.minibatch, tracks=self._last)
        else:
            fraction = (iteration - self.select - self.march + 1) / self.settle
            rate = self.rate / (1.0 + fraction * (self.rate / self.last_rate - 1.0))
            return Step("settle", iteration, self.final_radius, rate, self.minibatch, tracks=self._last)
        # Classes are equally large until the march is done: at each radius the map that is a little ahead
        # would fit all images a little better, and take them.
        return replace(step, temperature=self._temperature(iteration), even=True)

    def _survivors(self, iteration: int) -> int:
        """Half are dropped when half, and the rest when all, of the iterations before selection are done."""
        if iteration + 1 >= self.select:
            return self._last
        if iteration + 1 < 2 * self.select // 3:
            return self.tracks
        return max(self._last, math.ceil(self.tracks / 2))

    @property
    def _last(self) -> int:
        """Tracks that are left in the end."""
        return max(self.classes, self.kept)

    def _temperature(self, iteration: int) -> float:
        """Falls geometrically until half the march is done."""
        return HOTTEST ** max(0.0, 1.0 - iteration / (self.select + 0.5 * self.march))


def _divided(iterations: int, stages: tuple[int, int, int]) -> tuple[int, int, int]:
    """So many iterations, at least three, in the proportions of some stages, at least one of each."""
    ends = [sum(stages[: k + 1]) / sum(stages) for k in range(3)]
    first, second, third = (max(round(iterations * end), k) for k, end in enumerate(ends, 1))
    return first, second - first, third - second


def apart(
    passes: tuple[float, float],
    minibatches: int,
    chunks: int,
    radii: tuple[float, float],
    tracks: int = 1,
    ctf: bool = False,
    falling: bool = False,
) -> Program:
    """The program of a refinement in two half-sets.

    A map that was made with wrong CTFs hides some of what is wrong with them. With what it shows
    the map is made anew, in a whole pass, and they are found again.

    Parameters
    ----------
    passes
        Times that every image is used to change the maps, at least and at most: in between it ends when the
        maps have converged.
    minibatches, chunks
        Iterations of such a pass, and of one for the CTFs, and of the last for the poses and unfiltered maps.
    radii
        Fourier pixels: what the start is cut to, and the last radius.
    tracks
        Number of classes.
    ctf
        Whether CTFs are looked for.
    falling
        Whether the step size falls harmonically in the last pass, for steps that are no averages themselves.
    """
    least, most = (math.ceil(times * minibatches - 1e-9) for times in passes)
    open_ended = most > least
    # The last pass may have a task of its own: CTFs that were found, or steps that fall.
    tail = minibatches if ctf or (falling and open_ended) else 0
    first = max(most - tail, min(most, minibatches)) if tail else most
    least = max(least - tail, min(least, minibatches)) if tail else least
    total = first + tail

    def rate(number: int) -> float:
        late = number - max(0, total - minibatches)
        return 1.0 / (1.0 + 0.3 * max(0, late)) if falling else 1.0

    changes = [
        Step("refine", number, None, rate(number), tracks=tracks, spare=least <= number < first)
        for number in range(total)
    ]
    ctfs = [
        Step("ctf", number, None, chunks=chunks, tracks=tracks) for number in range(2 * chunks if ctf else 0)
    ]
    last = [Step("poses", number, radii[1], chunks=chunks, tracks=tracks) for number in range(chunks)]
    steps = [*changes[:first], *ctfs[:chunks], *changes[first:], *ctfs[chunks:], *last]
    return Program(tuple(steps), *radii)
