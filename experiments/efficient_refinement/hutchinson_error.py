"""The error of Hutchinson's estimate of the Hessian's diagonal against the number of probes.

All images, uniform views, CTFs. For linear slices it falls as one over the root of the probes; for
nearest-neighbour slices, whose Hessian is diagonal, one probe is exact.

    python hutchinson_error.py -o OUT [--quick]
"""

import numpy as np
import torch
from matplotlib import pyplot as plt

from common import arguments, rotations, save, squared_ctf
from cryograd.model.voxels import FourierVoxels
from cryograd.validation.conditioning import FixedPoseHessian

PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
REPEATS = 10


def errors(hessian: FixedPoseHessian, seed: int) -> np.ndarray:
    """Relative error ‖d̂ − d‖/‖d‖ of the running mean of probes, shape (repeats, len(PROBES))."""
    exact = hessian.diagonal()
    rows = []
    for repeat in range(REPEATS):
        generator = torch.Generator().manual_seed(1000 * seed + repeat)
        total, row = torch.zeros_like(exact), []
        for probe in range(1, PROBES[-1] + 1):
            total += hessian.hutchinson_diagonal(1, generator)
            if probe in PROBES:
                row.append(float((total / probe - exact).norm() / exact.norm()))
        rows.append(row)
    return np.array(rows)


def main() -> None:
    """Measure and draw."""
    options = arguments(__doc__)
    radius, n = (6.0, 500) if options.quick else (48.0, 10_000)
    turns, power = rotations(n, False, options.seed), squared_ctf(n, radius, options.seed)
    found = errors(FixedPoseHessian.of(FourierVoxels(radius), turns, power), options.seed)
    exact = FixedPoseHessian.of(FourierVoxels(radius, "nearest"), turns, power)
    one = exact.hutchinson_diagonal(1, torch.Generator().manual_seed(options.seed))
    mean, root = found.mean(axis=0), np.sqrt(PROBES)
    constant = float((mean * root).mean())
    figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    axes.loglog(PROBES, constant / root, color="0.5", lw=1, label=f"{constant:.3g} / √probes")
    axes.errorbar(PROBES, mean, found.std(axis=0), fmt="o", ms=4, capsize=2, label=f"{REPEATS} repeats")
    axes.set(xlabel="probes", ylabel="relative error of the diagonal")
    axes.grid(alpha=0.3, which="both", lw=0.4)
    axes.legend(frameon=False)
    record = {
        "radius": radius,
        "images": n,
        "probes": PROBES,
        "mean": mean.tolist(),
        "standard_deviation": found.std(axis=0).tolist(),
        "constant": constant,
        "largest_departure": float(np.abs(mean * root / constant - 1.0).max()),
        "nearest_one_probe": float((one - exact.diagonal()).norm() / exact.diagonal().norm()),
    }
    save(options, "hutchinson_error", figure, record)


if __name__ == "__main__":
    main()
