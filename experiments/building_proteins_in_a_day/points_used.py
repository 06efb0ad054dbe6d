"""How few poses an image is compared at, as a fraction of an exhaustive quadrature, and how long it takes.

Quadrature and radius grow together as the resolution does. What the run evaluated is counted, images that are
searched on a shared grid and refined cells included. Poses are drawn from the dotted line on, in minibatches
whose images have all been visited.

    python points_used.py DATA -o OUT [--quick]
"""

from functools import cache

import numpy as np
from matplotlib import pyplot as plt

from common import MAX_SHIFT, arguments, save
from cryograd.engine.searches import FINE_SHIFT_CELLS
from cryograd.model.symmetry import group_matrices
from cryograd.pose.quadrature import PoseGrid, ShiftGrid, angular_spacing
from main_run import load_or_run


@cache
def exhaustive(radius: float, extent: float, symmetry: str) -> int:
    """Points of the quadrature from which poses at a radius in Fourier pixels are drawn."""
    shifts = ShiftGrid.covering(extent / radius / FINE_SHIFT_CELLS, MAX_SHIFT, MAX_SHIFT)
    return len(PoseGrid.covering(angular_spacing(radius), group_matrices(symmetry), shifts))


def main() -> None:
    """Draw the fraction of points that was evaluated, and the time an image took."""
    options = arguments(__doc__)
    run = load_or_run(options)
    rows = run.optimisation
    drawn = np.array([row["images_drawn"] for row in rows])
    passes = drawn / len(run.particles)
    points = np.array([row["points"] for row in rows])
    every = np.array([exhaustive(row["radius"], options.size.extent, run.config.symmetry) for row in rows])
    fraction = points / every
    milliseconds = 1e3 * np.array([sum(row["seconds"].values()) for row in rows]) / np.diff(drawn, prepend=0)
    searched = max(p for p, row in zip(passes, rows, strict=True) if row["stage"] == "starts")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.0, 3.5), layout="constrained")
    left.semilogy(passes, every, label="exhaustive quadrature")
    left.semilogy(passes, points, label="evaluated")
    left.set_ylabel("poses an image")
    left.legend()
    middle.semilogy(passes, fraction)
    middle.set_ylabel("fraction of the quadrature")
    right.semilogy(passes, milliseconds)
    right.set_ylabel("time an image (ms)")
    for axes in (left, middle, right):
        axes.axvline(searched, color="0.6", linestyle=":")
        axes.set_xlabel("passes over the images")
    record = {
        "passes": passes.tolist(),
        "resolution_angstrom": [row["resolution"] for row in rows],
        "quadrature": every.tolist(),
        "evaluated": points.tolist(),
        "fraction": fraction.tolist(),
        "milliseconds_per_image": milliseconds.tolist(),
        "final_fraction_median": float(np.median(fraction[-max(1, len(rows) // 10) :])),
    }
    save(options, "points_used", figure, record)


if __name__ == "__main__":
    main()
