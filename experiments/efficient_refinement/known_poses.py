"""Solvers at known poses: gap to the minimum and shell correlations against epochs.

An epoch is the work of one gradient of all images. Evaluations of line searches, probes and sums are counted
by their time, measured in the same run; visits of images are given beside.

    python known_poses.py DATA -o OUT [--quick]
"""

import argparse
import bisect
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from contestants import (
    Arena,
    Steps,
    averaged,
    full_batch,
    momentum,
    published,
    published_by_sums,
    quotient,
    statistics,
)
from cryograd.objective.known_poses import KnownSums
from cryograd.solvers.armijo_sgd import ArmijoSGD
from cryograd.solvers.hutchinson import PRECONDITIONED, Hutchinson
from cryograd.threads import set_threads
from known_setting import Meter, Quadratic, Shells, loss_of, measured_costs

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated import particles_of, save

CHECKPOINTS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
# Of the published solvers, and of ours with momentum.
PASSES, MOMENTUM_PASSES = 10, 5
# Iterations of conjugate gradients after a minibatch of ours, and steps after the pass.
ITERATIONS, POLISH = 3, 4
# The same where a minibatch is a quarter of all images.
QUARTER_ITERATIONS = 6
# Of conjugate gradients on all images.
ITERATES = 12


@dataclass(frozen=True)
class Size:
    """Pixels, pixel size in Å, images, signal-to-noise ratio inside the particle's circle, and minibatch."""

    name: str
    box: int
    pixel_size: float
    particles: int
    snr: float
    minibatch: int


PAPER = Size("paper", 128, 2.8, 10_000, 0.05, 1000)
QUICK = Size("quick", 32, 11.2, 600, 0.05, 60)


def arguments() -> argparse.Namespace:
    """Options of the command line, with the `Size` they ask for as ``size``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder that holds structures/*.pdb.gz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for figures and particles")
    parser.add_argument("--quick", action="store_true", help="a size that takes seconds")
    parser.add_argument("--particles", type=int, help="images, in place of the size's own number")
    parser.add_argument("--minibatch", type=int, help="images in one, in place of the size's own number")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contestants and no others")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    size = QUICK if options.quick else PAPER
    given = {key: getattr(options, key) for key in ("particles", "minibatch") if getattr(options, key)}
    options.size = replace(size, **given)
    set_threads(options.threads)
    return options


@dataclass(frozen=True)
class Judge:
    """Gap to the minimum and correlation with it and with the truth."""

    quadratic: Quadratic
    start: float
    minimum: float
    best: Tensor
    truth: Tensor
    shells: Shells

    def gap(self, values: Tensor) -> float:
        """(F − F*) / (F₀ − F*)."""
        return (self.quadratic(values)[0] - self.minimum) / (self.start - self.minimum)

    def correlations(self, values: Tensor) -> dict[str, list[float]]:
        """Shell by shell, with the minimum and with the truth."""
        values = values.to(torch.complex128)
        return {
            "fsc_minimum": self.shells.correlation(values, self.best).round(4).tolist(),
            "fsc_truth": self.shells.correlation(values, self.truth).round(4).tolist(),
        }


@dataclass
class Run:
    """One contestant on its way; seconds are the processor's, of one thread."""

    name: str
    meter: Meter
    steps: Steps
    judge: Judge
    rows: list[dict[str, float]] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    _values: Tensor | None = None

    def advance(self, visited: int) -> None:
        """Go on until so many images have been visited, or to the end; judging takes no time."""
        while not self.rows or self.rows[-1]["visited"] < visited:
            began = time.process_time()
            step = next(self.steps, None)
            self.seconds += time.process_time() - began
            if step is None:
                return
            self._judge_until(self.meter.epochs)
            self._values = step[0]
            row = {"visited": step[1], "epochs": self.meter.epochs, "seconds": self.seconds}
            self.rows.append(row | {"gap": self.judge.gap(step[0])})

    def finish(self) -> dict[str, Any]:
        """All that has been seen; what ended early stays as it was."""
        self._judge_until(math.inf)
        print(self.name, [(s["epochs"], round(s["gap"], 4)) for s in self.seen], flush=True)
        record = {"name": self.name, "rows": self.rows, "checkpoints": self.seen}
        return record | {"done": dict(self.meter.done)}

    def _judge_until(self, epochs: float) -> None:
        """Judge the last iterate at every checkpoint that the next one comes after."""
        for checkpoint in CHECKPOINTS[len(self.seen) :]:
            if checkpoint >= epochs:
                return
            gap = self.rows[-1]["gap"] if self.rows else 1.0
            found = {} if self._values is None else self.judge.correlations(self._values)
            self.seen.append({"epochs": checkpoint, "gap": gap} | found)


def contestants(arena: Arena, total: KnownSums) -> dict[str, Callable[[Meter], Steps]]:
    """Everyone, as a function of the meter that its work is counted by."""
    voxels, loss, passes = arena.loss.voxels, arena.loss, PASSES
    bound = 1.0 / (4.0 * math.pi * voxels.radius**2)
    diagonal = voxels.diagonal(total.weights).float().clamp(min=bound)
    rows = (voxels.row_sums(total.weights) + loss.regularisation).float()
    exact = (voxels.diagonal(total.weights) + loss.regularisation).float()

    quarters = Arena(loss, torch.cat(arena.minibatches).chunk(4))

    def precomputed(meter: Meter, run: Callable[..., Steps]) -> Steps:
        meter.done["weights"] += arena.images
        return run(arena, ArmijoSGD(diagonal, PRECONDITIONED), meter, passes)

    def short(solver: ArmijoSGD | Hutchinson, **settings: bool) -> Callable[[Meter], Steps]:
        return lambda meter: published(arena, solver, meter, 3, **settings)

    return {
        "SGD": lambda meter: published(arena, ArmijoSGD(), meter, passes),
        "Algorithm 1": lambda meter: published(arena, Hutchinson(), meter, passes),
        "precomputed diagonal": lambda meter: precomputed(meter, published),
        "momentum": lambda meter: momentum(arena, meter, MOMENTUM_PASSES),
        "momentum, averaged": lambda meter: averaged(momentum(arena, meter, MOMENTUM_PASSES), arena.images),
        "momentum, growing": lambda meter: momentum(arena, meter, MOMENTUM_PASSES, growing=True),
        "statistics": lambda meter: statistics(arena, meter, ITERATIONS, False, POLISH),
        "statistics, shrunk": lambda meter: statistics(arena, meter, ITERATIONS, True, POLISH),
        "statistics, quarters": lambda meter: statistics(quarters, meter, QUARTER_ITERATIONS, False, POLISH),
        "quotient": lambda meter: quotient(arena, meter),
        "full batch, row sums": lambda meter: full_batch(arena, meter, rows, ITERATES),
        "full batch, diagonal": lambda meter: full_batch(arena, meter, exact, ITERATES),
        "Algorithm 1, probes by sums": short(Hutchinson(), probes_by_sums=True),
        "SGD, all by sums": lambda meter: published_by_sums(arena, ArmijoSGD(), meter, passes),
        "Algorithm 1, all by sums": lambda meter: published_by_sums(arena, Hutchinson(), meter, passes),
        "precomputed diagonal, all by sums": lambda meter: precomputed(meter, published_by_sums),
    }


def seconds_a_pass(run: dict[str, Any], images: int) -> list[float]:
    """Seconds of each whole pass over the images."""
    visited = [row["visited"] for row in run["rows"]]
    ends = [run["rows"][bisect.bisect_left(visited, n)] for n in range(images, visited[-1] + 1, images)]
    return np.diff([0.0, *(row["seconds"] for row in ends)]).round(3).tolist()


def draw(runs: list[dict[str, Any]], radius: float) -> Figure:
    """Gaps against epochs and against time, and correlations of shells with the minimum."""
    figure, axes = plt.subplots(1, 3, figsize=(14.0, 4.2), layout="constrained")
    shown = [run for run in runs if "by sums" not in run["name"]]
    for number, run in enumerate(shown):
        rows = [row for row in run["rows"] if row["epochs"] <= 1.02 * CHECKPOINTS[-1]]
        style = {"color": f"C{number % 10}", "ls": "-" if number < 10 else "--", "label": run["name"]}
        gaps = [max(row["gap"], 1e-6) for row in rows]
        axes[0].semilogy([row["epochs"] for row in rows], gaps, marker=".", ms=3, **style)
        axes[1].semilogy([row["seconds"] for row in rows], gaps, marker=".", ms=3, **style)
        at_two = next(s for s in run["checkpoints"] if s["epochs"] == 2.0)
        if "fsc_minimum" in at_two:
            axes[2].plot(np.arange(1, int(radius) + 1), at_two["fsc_minimum"][1:], **style)
    axes[0].axhline(0.01, color="0.6", lw=0.8)
    axes[0].set(xlabel="epochs (gradients of all images)", ylabel="gap (F − F*)/(F₀ − F*)", xlim=(0, 10))
    axes[1].set(xlabel="processor seconds, one thread")
    axes[2].set(xlabel="shell (Fourier pixels)", ylabel="FSC with the minimum after 2 epochs", ylim=(0, 1.02))
    axes[0].legend(fontsize=7)
    return figure


def play(arena: Arena, judge: Judge, costs: dict[str, float], only: list[str] | None) -> list[dict[str, Any]]:
    """All contestants, pass after pass in turn, so that the machine's load is the same for all."""
    runs = []
    for name, begin in contestants(arena, judge.quadratic.sums).items():
        if only is not None and name not in only:
            continue
        meter = Meter(costs, arena.images)
        runs.append(Run(name, meter, begin(meter), judge))
    for number in range(1, max(PASSES, ITERATES) + 1):
        for run in runs:
            run.advance(number * arena.images)
    return [run.finish() for run in runs]


def main() -> None:
    """Find the minimum, let all contestants run, and write figures and numbers."""
    options = arguments()
    size = options.size
    particles, truth = particles_of(
        "groel-groes", size, options.data, options.output / "known", views="biased", seed=options.seed
    )
    loss = loss_of(particles, size.box / 2 - 1)
    order = torch.from_numpy(np.random.default_rng(options.seed).permutation(len(loss)))
    arena = Arena(loss, tuple(order.split(size.minibatch)))
    costs = measured_costs(loss, size.minibatch)
    print(costs, flush=True)
    quadratic = Quadratic.of(loss)
    began = time.process_time()
    best, evaluations = quadratic.minimum()
    minimum, gradient = quadratic(best)
    scale = float(quadratic.sums.linear.norm())
    by_images, image_gradient = quadratic.loss.evaluate(best, torch.arange(len(loss)))
    reference = {
        "evaluations": evaluations,
        "seconds": time.process_time() - began,
        "minimum": minimum,
        "minimum_by_images": by_images,
        "start": quadratic(arena.start)[0],
        "relative_gradient": float(gradient.norm()) / scale,
        "relative_gradient_by_images": float(image_gradient.norm()) / scale,
    }
    print(reference, flush=True)
    shells = Shells(loss.voxels)
    judge = Judge(quadratic, reference["start"], minimum, best, shells.of_map(truth.values), shells)
    runs = play(arena, judge, costs, options.only)
    record = {
        "costs": costs,
        "reference": reference | judge.correlations(best),
        "seconds_a_pass": {run["name"]: seconds_a_pass(run, arena.images) for run in runs},
        "runs": runs,
    }
    print(record["seconds_a_pass"], flush=True)
    save(options, "known_poses", draw(runs, loss.voxels.radius), record)


if __name__ == "__main__":
    main()
