"""Who takes part in the comparison at known poses, each as a generator of what it has after every step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from cryograd.objective.known_poses import KnownPoses, KnownSums, Turn
from cryograd.solvers.incremental import Incremental
from cryograd.solvers.preconditioned import Preconditioned
from cryograd.steps.conjugate_gradient import conjugate_gradients
from cryograd.steps.protocol import DIAGONAL_SHARE, Local, Solver
from known_setting import Meter

# The unknowns after a step, and the images visited so far.
Steps = Iterator[tuple[Tensor, int]]


@dataclass(frozen=True)
class Arena:
    """What all contestants are given.

    Parameters
    ----------
    loss
        On all images.
    minibatches
        Numbers of the images of each minibatch of a pass; the same ones, in this order, in every pass.
    """

    loss: KnownPoses
    minibatches: tuple[Tensor, ...]

    @property
    def start(self) -> Tensor:
        """v = 0."""
        return torch.zeros(len(self.loss.voxels), dtype=self.loss.cross.dtype)

    @property
    def images(self) -> int:
        """In all minibatches."""
        return sum(len(m) for m in self.minibatches)

    def turn(self, iteration: int, rate: float = 1.0) -> Turn:
        """Where a run is."""
        epoch, number = divmod(iteration, len(self.minibatches))
        return Turn(iteration, epoch, (number, len(self.minibatches)), rate)


def published(arena: Arena, solver: Solver, meter: Meter, passes: int, probes_by_sums: bool = False) -> Steps:
    """Minibatch after minibatch, looked at through its images; products perhaps through sums."""
    values, visited = arena.start, 0
    state = solver.init(values)
    for iteration in range(passes * len(arena.minibatches)):
        images = arena.minibatches[iteration % len(arena.minibatches)]
        local = meter.by_images(arena.loss, values, images, arena.turn(iteration))
        if probes_by_sums:
            meter.done.update(weights=len(images), normal=1)
            local = replace(local, weights=arena.loss.weights(images), normal=arena.loss.normal)
        move = solver.step(state, values, local)
        values, state, visited = move.volume, move.state, visited + len(images)
        yield values, visited


def published_by_sums(arena: Arena, solver: Solver, meter: Meter, passes: int) -> Steps:
    """The same steps, each minibatch looked at through sums that are made anew at every visit."""
    return _by_sums(arena, solver, meter, passes, lambda iteration: arena.minibatches, 1.0)


def momentum(arena: Arena, meter: Meter, passes: int, rate: float = 1.0, growing: bool = False) -> Steps:
    """Our momentum solver, on minibatches of one size or on ones that double with every pass."""

    def minibatches(epoch: int) -> tuple[Tensor, ...]:
        every = torch.cat(arena.minibatches)
        return every.chunk(max(1, len(arena.minibatches) // 2**epoch)) if growing else arena.minibatches

    return _by_sums(arena, Preconditioned(), meter, passes, minibatches, rate)


def _by_sums(
    arena: Arena,
    solver: Solver,
    meter: Meter,
    passes: int,
    minibatches: Callable[[int], tuple[Tensor, ...]],
    rate: float,
) -> Steps:
    values, visited, iteration = arena.start, 0, 0
    state = solver.init(values)
    for epoch in range(passes):
        parts = minibatches(epoch)
        for number, images in enumerate(parts):
            meter.done["sums"] += len(images)
            turn = Turn(iteration, epoch, (number, len(parts)), rate)
            local = meter.by_sums(arena.loss, arena.loss.sums(images), values, turn)
            move = solver.step(state, values, local)
            values, state = move.volume, move.state
            visited, iteration = visited + len(images), iteration + 1
            yield values, visited


def averaged(steps: Steps, after: int) -> Steps:
    """The mean of all iterates after some images (Polyak & Ruppert); before that the iterates."""
    mean, count = torch.zeros(()), 0
    for values, visited in steps:
        if visited > after:
            mean, count = (mean * count + values) / (count + 1), count + 1
        yield (mean if count else values), visited


def statistics(arena: Arena, meter: Meter, iterations: int, shrunk: bool, polish: int) -> Steps:
    """Ours: Newton steps on the sum of all minibatches' sums; no image is visited twice.

    Parameters
    ----------
    arena, meter
        As everywhere.
    iterations
        Of conjugate gradients after each minibatch.
    shrunk
        Whether shells that are mostly noise are shrunk as long as not all images are seen.
    polish
        Steps on the sums of all images after the pass.
    """
    values, visited, solver = arena.start, 0, newton(iterations)
    state, signal = solver.init(values), Signal(arena)
    remembered: list[KnownSums] = []
    parts = len(arena.minibatches)
    for iteration in range(parts + polish):
        if iteration < parts:
            images = arena.minibatches[iteration]
            meter.done["sums"] += len(images)
            remembered.append(arena.loss.sums(images))
            visited += len(images)
        sums = remembered[iteration % parts]
        local = meter.by_sums(arena.loss, sums, values, arena.turn(iteration))
        if shrunk and iteration < parts:
            local = replace(local, precision=signal.precision(local, sums, visited))
        move = solver.step(state, values, local)
        values, state = move.volume, move.state
        yield values, visited


def newton(iterations: int) -> Incremental:
    """Our solver; what few images measure is not floored, as the minimum is what is wanted."""
    return Incremental(iterations=iterations, tolerance=0.0, floor=1e-6)


class Signal:
    """Power of the signal in shells, from what two halves of the minibatches have in common."""

    def __init__(self, arena: Arena) -> None:
        k = torch.as_tensor(arena.loss.voxels.frequencies)
        self.shells = k.double().norm(dim=1).round().long()
        self.images = arena.images
        self.linear = [arena.start, arena.start]
        self.rows = [arena.start.real, arena.start.real]

    def _mean(self, values: Tensor) -> Tensor:
        """Mean in the shell of each unknown."""
        total = torch.bincount(self.shells, values.double()) / torch.bincount(self.shells)
        return total[self.shells].to(values.dtype)

    def precision(self, local: Local, sums: KnownSums, visited: int) -> Callable[[Tensor], Tensor]:
        """Precision of a prior under which the map is the best guess of the one that all images will give.

        With S the power of the signal, N that of the noise of a map of a share s of the images, the map of
        all has S + s N, and this one differs from it by noise of (1 − s) N: their Wiener filter has the ratio
        (1 − s) N / (S + s N), and shrinks nothing in the end. White noise has N = 1 / (n h), h being the
        diagonal; S is the product of two halves' Pᵀb, whose noises have nothing in common, over that of their
        Pᵀa.
        """
        half = local.minibatch[0] % 2
        self.linear[half] = self.linear[half] + sums.linear
        self.rows[half] = self.rows[half] + local.curvature
        common = (self.linear[0].conj() * self.linear[1]).real
        signal = self._mean(common) / self._mean(self.rows[0] * self.rows[1]).clamp(min=1e-20)
        signal, share = signal.clamp(min=0.0), visited / self.images

        def precision(curvature: Tensor) -> Tensor:
            mean = self._mean(curvature)
            noise = 1.0 / (visited * DIAGONAL_SHARE * mean)
            return (1.0 - share) * noise / (signal + share * noise) * mean

        return precision


def quotient(arena: Arena, meter: Meter) -> Steps:
    """Pᵀb / (Pᵀa + λ) of the images so far."""
    linear, rows, visited = arena.start, arena.start.real, 0
    for images in arena.minibatches:
        # Both in one back-projection.
        meter.done["linear"] += len(images)
        linear = linear + len(images) * arena.loss.linear(images)
        rows = rows + len(images) * (arena.loss.row_sums(images) - arena.loss.regularisation)
        visited += len(images)
        values = linear / (rows + visited * arena.loss.regularisation)
        yield values, visited


def full_batch(arena: Arena, meter: Meter, curvature: Tensor, iterations: int) -> Steps:
    """EM at known poses: conjugate gradients on all images, from zero.

    Pᵀb and the preconditioner, which is given, are counted as one back-projection.
    """
    every = torch.cat(arena.minibatches)

    def product(values: Tensor) -> Tensor:
        meter.done["product"] += arena.images
        return arena.loss.product(values, every)

    meter.done["linear"] += arena.images
    solutions = conjugate_gradients(product, arena.loss.linear(every), lambda residual: residual / curvature)
    for number, values in enumerate(islice(solutions, iterations), start=1):
        yield values, number * arena.images
