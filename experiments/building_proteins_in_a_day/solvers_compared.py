"""Solvers from the same random starts: error on held-out images against passes over the data.

The error is the mean of −log p of held-out images under the map of the moment, always at the final radius,
with the noise of the start and on one grid of poses, so that solvers and times can be compared. All solvers
march through the same radii in about as many passes; those that use all images at a time take one step a
pass.

    python solvers_compared.py DATA -o OUT [--quick]
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from common import (
    agreement,
    aligned,
    arguments,
    begun,
    configuration,
    map_of,
    particles_of,
    reconstruct,
    save,
    whitened,
)
from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.engine.searches import search_at
from cryograd.engine.state import State
from cryograd.maps import Map

SOLVERS = ("preconditioned", "sagd", "sgd", "em", "projection-matching")
BATCH_SOLVERS = ("em", "projection-matching")
SEEDS = {"paper": 5, "small": 5, "quick": 1}
# Images held out, at most a quarter; judgements in a pass.
HELD_OUT, JUDGEMENTS = 100, 4


def held_out_error(particles: Particles, config: Abinitio) -> tuple[Callable[[State], float], int]:
    """The error of a state on the held-out images of a run, and the number of the others."""
    run, start = begun(particles, config)
    assert run.held_out is not None
    likelihood = run.likelihood(run.program.final_radius, run.symmetries[0])
    batch = whitened(run, start, run.held_out, likelihood.disc)
    search = search_at(run, likelihood.radius, 0, likelihood.symmetry)

    def error(state: State) -> float:
        poses = likelihood.poses(state.volume, batch, search)
        return -float(poses.log_evidence.double().mean())

    return error, len(run.sides[0].train)


def run(
    options: argparse.Namespace, particles: Particles, truth: Map, solver: str, seed: int
) -> dict[str, Any]:
    """One run: errors at some passes, the radii then, and the agreement of the last map with the truth."""
    size, held_out = options.size, min(HELD_OUT, options.size.particles // 4)
    if solver in BATCH_SOLVERS:
        iterations = max(3, math.ceil(size.passes))
    else:
        trained = replace(size, particles=size.particles - held_out)
        # Only this solver begins with half minibatches.
        share = 1.0 if solver == "preconditioned" else 1.0 / 1.2
        iterations = math.ceil(share * trained.iterations)
    config = configuration(
        size,
        options.output / "solvers",
        truth,
        solver=solver,
        iterations=iterations,
        held_out=held_out,
        seed=seed,
        device=options.device,
    )
    error, images = held_out_error(particles, config)
    rows: list[dict[str, float]] = []

    def judge(state: State) -> None:
        passes = state.sides[0].images_drawn / images
        due = not rows or passes >= rows[-1]["passes"] + 1.0 / JUDGEMENTS
        if state.stage != "poses" and due:
            rows.append({"passes": passes, "error": error(state), "radius": state.radius})

    last = reconstruct(particles, config, judge)
    # The map does not change any more while the last poses are found.
    passes = last.sides[0].images_drawn / images
    rows.append({"passes": passes, "error": error(last), "radius": last.radius})
    found = agreement(aligned(map_of(last, particles), truth), truth)
    return {"solver": solver, "seed": seed, "rows": rows} | found


def main() -> None:
    """Draw errors and radii of all solvers and starts, and the resolutions that they end with."""
    options = arguments(__doc__)
    if options.quick:
        options.size = replace(options.size, particles=150, passes=4.0)
    size = options.size
    particles, truth = particles_of(
        "groel-groes", size, options.data, options.output / "solvers", seed=options.seed
    )
    seeds = range(options.seed, options.seed + SEEDS[size.name])
    runs = []
    for seed in seeds:
        for solver in SOLVERS:
            runs.append(run(options, particles, truth, solver, seed))
            print(solver, seed, runs[-1]["rows"][-1]["error"], runs[-1]["fsc05_angstrom"], flush=True)

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.0, 3.8), layout="constrained")
    for number, solver in enumerate(SOLVERS):
        mine = [r for r in runs if r["solver"] == solver]
        for r in mine:
            passes = [row["passes"] for row in r["rows"]]
            faint = {"alpha": 0.35} if r is not mine[0] else {"label": solver}
            style = {"color": f"C{number}"} | faint
            left.plot(passes, [row["error"] for row in r["rows"]], **style)
            middle.plot(passes, [row["radius"] / size.extent for row in r["rows"]], **style)
        # A map that agrees with the truth nowhere is drawn at zero.
        reached = [1.0 / (r["fsc05_angstrom"] or np.inf) for r in mine]
        right.plot([number] * len(reached), reached, "o", color=f"C{number}")
    left.set(xlabel="passes over the images", ylabel="held-out error: −log p an image (nats)")
    left.legend(fontsize=8)
    middle.set(xlabel="passes over the images", ylabel="frequencies used (1/Å)")
    right.set_xticks(range(len(SOLVERS)), SOLVERS, rotation=20, fontsize=8)
    right.set_ylabel("where the FSC falls to 0.5 (1/Å)")
    save(options, "solvers_compared", figure, {"runs": runs})


if __name__ == "__main__":
    main()
