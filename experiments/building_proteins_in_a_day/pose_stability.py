"""How fast the poses of images settle: KL divergence of their viewing directions between passes.

The marginals φ^R over viewing directions of the same images are computed exhaustively, on one quadrature at
one resolution and with the map and the noise that the run had after each pass. Images are compared whole,
without the masks that follow their centres, so that nothing else changes.

    python pose_stability.py DATA -o OUT [--quick]
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from matplotlib import pyplot as plt

from common import SYMMETRY, arguments, begun, save, whitened
from cryograd.engine.run import Run, group_of
from cryograd.engine.searches import FINE_SHIFT_CELLS, SHIFT_SIGMA
from cryograd.engine.state import State
from cryograd.model.noise import Noise
from cryograd.model.projection import slice_points
from cryograd.model.shift import shift_phases
from cryograd.pose.posterior import evaluate_exhaustive
from cryograd.pose.quadrature import RotationGrid, ShiftGrid, angular_spacing
from main_run import MOLECULE, MainRun, Snapshot, load_or_run

# Å. The quadrature over all directions, in-plane angles and shifts is some 10⁶ points there.
RESOLUTION = 30.0
IMAGES = 100
# Least probability of a direction, so that the divergence is finite.
FLOOR = 1e-12


def quadrature(run: Run, radius: float) -> tuple[RotationGrid, ShiftGrid]:
    """All poses that a radius in Fourier pixels can tell apart."""
    rotations = RotationGrid.covering(angular_spacing(radius), group_of(run.symmetries[0]))
    spacing = run.images.extent / radius / FINE_SHIFT_CELLS
    return rotations, ShiftGrid.covering(spacing, run.max_shift, SHIFT_SIGMA * run.max_shift)


def marginals(run: Run, state: State, snapshot: Snapshot) -> np.ndarray:
    """Marginals over viewing directions (images, D) under the map of a time."""
    radius, device = run.images.extent / RESOLUTION, run.images.device
    likelihood = run.likelihood(radius, run.symmetries[0])
    rotations, shifts = quadrature(run, radius)
    state.sides[0] = replace(state.sides[0], noise=Noise(snapshot.noise.to(device)))
    batch = whitened(run, state, np.arange(len(run.images.particles)), likelihood.disc)
    matrices = torch.as_tensor(rotations.matrices, dtype=torch.float32, device=device)
    grid = likelihood.transform(snapshot.volume.to(device))
    slices = likelihood.projector.sample(grid, matrices, slice_points(likelihood.disc, device))
    frequencies = torch.as_tensor(likelihood.disc.frequencies / run.images.extent, device=device)
    phases = shift_phases(frequencies, torch.as_tensor(shifts.shifts, device=device)).to(slices.dtype)
    log_shift = torch.as_tensor(shifts.log_weights, dtype=torch.float32, device=device)
    found = evaluate_exhaustive(batch, slices, phases, log_shift, "highest", statistics=False)
    in_plane = int(np.ceil(2.0 * np.pi / angular_spacing(radius)))
    by_rotation = found.rotation_marginal.double().cpu().numpy()
    return by_rotation.reshape(len(by_rotation), -1, in_plane).sum(axis=2)


def divergence(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """KL(new ‖ old) in nats of distributions (n, D), whose probabilities are no less than the floor."""
    p, q = (np.maximum(x, FLOOR) for x in (new, old))
    p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    return (p * np.log(p / q)).sum(axis=1)


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in nats of distributions (n, D)."""
    return -(p * np.log(np.maximum(p, FLOOR))).sum(axis=1)


def after_passes(run: MainRun) -> list[Snapshot]:
    """The start, and the first snapshot after each full pass."""
    whole = {}
    for snapshot in run.snapshots:
        whole.setdefault(int(snapshot.passes), snapshot)
    return list(whole.values())


def main() -> None:
    """Draw the divergence between passes and the entropy after each."""
    options = arguments(__doc__)
    run = load_or_run(options)
    first = run.particles.select(np.arange(min(IMAGES, len(run.particles))))
    # The run on these images alone, before its first iteration.
    few, start = begun(first, run.config)
    snapshots = after_passes(run)
    found = [marginals(few, start, snapshot) for snapshot in snapshots]
    moved = np.array([divergence(new, old) for old, new in pairwise(found)])
    spread = np.array([entropy(p) for p in found])
    passes = [int(snapshot.passes) for snapshot in snapshots]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.5), layout="constrained")
    for axes, x, values in ((left, passes[1:], moved), (right, passes, spread)):
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
        axes.fill_between(x, low, high, alpha=0.3, label="quartiles")
        axes.plot(x, median, "o-", label="median")
        axes.plot(x, values.mean(axis=1), "s--", label="mean")
        axes.set_xlabel("passes over the images")
    left.set_yscale("log")
    left.set_ylabel("KL divergence from the pass before (nat)")
    right.axhline(np.log(found[0].shape[1]), color="0.6", linestyle=":", label="uniform")
    # A molecule of this symmetry looks the same from as many directions.
    equivalent = len(group_of(SYMMETRY[MOLECULE])) / len(group_of(few.symmetries[0]))
    right.axhline(np.log(equivalent), color="0.6", linestyle="--", label=f"{equivalent:.0f} equivalent views")
    right.set_ylabel("entropy of the direction (nat)")
    right.legend()
    record = {
        "resolution_angstrom": RESOLUTION,
        "images": found[0].shape[0],
        "directions": found[0].shape[1],
        "floor": FLOOR,
        "equivalent_views": equivalent,
        "passes": passes,
        "radius": [snapshot.radius for snapshot in snapshots],
        "kl_median": np.median(moved, axis=1).tolist(),
        "kl_mean": moved.mean(axis=1).tolist(),
        "kl_quartiles": np.quantile(moved, [0.25, 0.75], axis=1).T.tolist(),
        "entropy_median": np.median(spread, axis=1).tolist(),
        "entropy_mean": spread.mean(axis=1).tolist(),
    }
    save(options, "pose_stability", figure, record)


if __name__ == "__main__":
    main()
