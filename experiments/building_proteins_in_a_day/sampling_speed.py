"""Points and time of an image by importance sampling and by the whole quadrature, at the final radius.

Images remember sharp posteriors of a map that has converged, the truth up to the final resolution. The time
of a sampled image is all of it: proposal, draws, slices, scores and statistics of the map's gradient. The
time of an exhaustive one is that of the shared grid's evaluation by the engine, in the fastest arithmetic
that it uses on the machine, with statistics; slices are shared by the images of a minibatch. Of its rotations
only some are timed, and the time is scaled to all.

    python sampling_speed.py DATA -o FOLDER [--quick]
"""

import time
from collections.abc import Callable
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from common import arguments, save, whitened
from converged import converged, drawn, set_map, visit
from cryograd.engine.run import Run
from cryograd.engine.state import State
from cryograd.fourier import lowpass_volume
from cryograd.model.projection import slice_points
from cryograd.model.shift import shift_phases
from cryograd.pose.posterior import Batch, evaluate_exhaustive
from cryograd.pose.quadrature import PoseGrid

IMAGES, ROUNDS, REPEATS = 60, 3, 3
# Images and directions that the exhaustive evaluation is timed on.
TIMED_IMAGES, TIMED_DIRECTIONS = 2, 40


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Wall time of something, to its end on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def exhaustive(
    run: Run, state: State, batch: Batch, quadrature: PoseGrid
) -> tuple[Callable[[], Tensor], Callable[[], object], float]:
    """What slices some directions, what evaluates images at their slices, and the share of all directions."""
    likelihood, device = run.likelihood(run.program.final_radius, run.symmetries[0]), batch.images.device
    directions = np.arange(min(TIMED_DIRECTIONS, len(quadrature.angles)))
    anchors = np.broadcast_to(np.eye(3), (len(directions), 3, 3))
    rotations = quadrature.rotations(directions, np.arange(len(quadrature.in_plane)), anchors)
    matrices, frequencies, shifts, log_shift = (
        torch.as_tensor(values, dtype=torch.float32, device=device)
        for values in (
            rotations.reshape(-1, 3, 3),
            likelihood.disc.frequencies / likelihood.extent,
            quadrature.shifts.shifts,
            quadrature.shifts.log_weights,
        )
    )
    grid, points = likelihood.transform(state.volume), slice_points(likelihood.disc, device)
    few, phases = batch.part(slice(0, TIMED_IMAGES)), shift_phases(frequencies, shifts)

    def slices() -> Tensor:
        return likelihood.projector.sample(grid, matrices, points)

    sliced = slices()

    def evaluate() -> object:
        return evaluate_exhaustive(few, sliced, phases, log_shift, run.precision, statistics=True)

    return slices, evaluate, len(directions) / len(quadrature.angles)


def main() -> None:
    options = arguments(__doc__)
    options.size = replace(options.size, particles=max(IMAGES, 400))
    # Shifts as far as a run takes them to be unless it is told.
    run, state = converged(options, "speed", max_resolution=options.size.finest, max_shift=None)
    images = np.arange(IMAGES)
    set_map(state, lowpass_volume(state.volume, run.program.final_radius))
    visit(run, state, images, ROUNDS)
    likelihood = run.likelihood(run.program.final_radius, run.symmetries[0])
    batch = whitened(run, state, images, likelihood.disc)
    first = drawn(run, state, images)
    quadrature = first.quadrature
    slices, evaluate, share = exhaustive(run, state, batch, quadrature)
    device, times = batch.images.device, []
    # In turn, so that what else the machine does falls on all alike; the first round compiles.
    for number in range(REPEATS + 1):

        def sample(number: int = number) -> None:
            likelihood.evaluate(state.volume, batch, drawn(run, state, images, number))

        sliced = seconds(device, slices) / options.size.minibatch
        every = (sliced + seconds(device, evaluate) / TIMED_IMAGES) / share
        times.append((every, seconds(device, sample) / IMAGES))
    every, sampled = np.median(times[1:], axis=0)
    points = np.array([len(d) for d in first.draws])
    whole = {
        "directions": len(quadrature.angles),
        "in_plane": len(quadrature.in_plane),
        "shifts": len(quadrature.shifts.shifts),
    }
    factors = {name: float(np.mean([len(getattr(d, name).indices) for d in first.draws])) for name in whole}
    record = {
        "radius": run.program.final_radius,
        "images": IMAGES,
        "exhaustive_points": len(quadrature),
        "sampled_points": {"mean": float(points.mean()), "median": float(np.median(points))},
        "times_fewer_points": float(len(quadrature) / points.mean()),
        "factors": {name: {"of": whole[name], "mean": mean} for name, mean in factors.items()},
        "device": str(batch.images.device),
        "precision": run.precision,
        "exhaustive_share_of_rotations_timed": share,
        "exhaustive_seconds": float(every),
        "sampled_seconds": float(sampled),
        "times_less_time": float(every / sampled),
    }
    print(record, flush=True)

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    axes[0].hist(np.log10(points), bins=20)
    axes[0].axvline(np.log10(len(quadrature)), color="black")
    axes[0].set(xlabel="log₁₀ of points an image; line: the whole quadrature", ylabel="images")
    axes[1].bar(list(whole), list(whole.values()), color="lightgrey", label="quadrature")
    axes[1].bar(list(factors), list(factors.values()), label="drawn")
    axes[1].set(yscale="log", ylabel="points of each factor")
    axes[1].legend()
    axes[2].bar(["exhaustive", "sampled"], [every, sampled])
    axes[2].set(yscale="log", ylabel="seconds an image")
    save(options, "sampling_speed", figure, record)


if __name__ == "__main__":
    main()
