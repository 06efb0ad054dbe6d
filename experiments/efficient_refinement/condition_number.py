"""The condition number of reconstruction at known poses against the radius of the slices.

Uniform views and biased ones, without and with a CTF, over the voxels up to half a voxel less than the
slices' radius: those beyond are hit only where rounding leads outwards. Nearest-neighbour slices, whose
Hessian is its diagonal; linear ones, before and after preconditioning by the diagonal. Beside them the bound
for slices without a CTF, and what the paper measured.

    python condition_number.py -o OUT [--quick]
"""

import argparse
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from common import EXTENT, arguments, rotations, save, squared_ctf
from cryograd.model.voxels import FourierVoxels
from cryograd.validation.conditioning import FixedPoseHessian, condition_bound, whole_slice

IMAGES = 10_000
NEAREST, LINEAR = (16, 32, 50, 64, 96, 100, 152), (8, 16, 32, 48)
QUICK = (6, 8, 12)
# Width in voxels of the rim that is left out.
RIM = 0.5
# (radius, condition number) of uniform poses without a CTF, and with EMPIAR-10076's poses and CTFs (about).
PUBLISHED = ((50, 165.0), (100, 480.0), (152, 1100.0))
PUBLISHED_WITH_CTF = (62.0, 75.0)


def hessian(radius: float, interpolation: Any, case: dict[str, bool], n: int, seed: int) -> FixedPoseHessian:
    """The Hessian of n images."""
    power = squared_ctf(n, radius, seed) if case["ctf"] else torch.ones(1, len(whole_slice(radius)))
    return FixedPoseHessian.of(
        FourierVoxels(radius, interpolation), rotations(n, case["biased"], seed), power
    )


def nearest(radius: float, case: dict[str, bool], n: int, seed: int) -> dict[str, float]:
    """Condition number over the voxels that are hit, and the share of those that are not."""
    found = hessian(radius, "nearest", case, n, seed)
    inside = torch.from_numpy(np.linalg.norm(found.voxels.frequencies, axis=1) <= radius - RIM)
    diagonal = found.diagonal()[inside]
    hit = found.weights[inside] > 0.0
    return {
        "radius": radius,
        "condition_number": float(diagonal.max() / diagonal[hit].min()),
        "not_hit": float((~hit).double().mean()),
    }


def linear(radius: float, case: dict[str, bool], n: int, seed: int) -> dict[str, Any]:
    """Condition numbers before and after preconditioning by the diagonal."""
    found = hessian(radius, "linear", case, n, seed)
    plain = found.extreme_eigenvalues(radius - RIM, tolerance=1e-2)
    scaled = found.extreme_eigenvalues(radius - RIM, preconditioned=True, tolerance=1e-2)
    return {
        "radius": radius,
        "condition_number": plain.condition_number,
        "preconditioned": scaled.condition_number,
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every combination of views and CTF."""
    n = 1000 if options.quick else IMAGES
    records = []
    for biased in (False, True):
        for ctf in (False, True):
            case = {"biased": biased, "ctf": ctf}
            record: dict[str, Any] = case | {"images": n}
            for name, function, radii in (("nearest", nearest, NEAREST), ("linear", linear, LINEAR)):
                chosen = QUICK if options.quick else radii
                record[name] = [function(float(r), case, n, options.seed) for r in chosen]
                print(case, name, record[name][-1], flush=True)
            records.append(record)
    return records


def draw(records: list[dict[str, Any]]) -> Figure:
    """One panel for each interpolation."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), sharex=True, layout="constrained")
    for record in records:
        colour = "tab:orange" if record["biased"] else "tab:blue"
        label = ("biased" if record["biased"] else "uniform") + (", CTF" if record["ctf"] else "")
        style = {"color": colour, "marker": "o", "ms": 3, "ls": "--" if record["ctf"] else "-"}
        for axes, name in ((left, "nearest"), (right, "linear")):
            rows = record[name]
            radii = [row["radius"] for row in rows]
            axes.loglog(radii, [row["condition_number"] for row in rows], label=label, **style)
        scaled = [row["preconditioned"] for row in record["linear"]]
        right.loglog(
            [row["radius"] for row in record["linear"]], scaled, **(style | {"marker": "x", "ms": 5})
        )
    radii = np.array([row["radius"] for row in records[0]["nearest"]])
    left.loglog(radii, [condition_bound(r) for r in radii], color="0.4", lw=1, label="bound, no CTF")
    left.loglog(*zip(*PUBLISHED, strict=True), "k*", ms=9, label="paper, uniform")
    left.axhspan(*PUBLISHED_WITH_CTF, color="0.85", label="paper, EMPIAR-10076, CTF")
    left.set(title="nearest neighbour, voxels that are hit", ylabel="condition number")
    right.set(title="linear; × after preconditioning by the diagonal")
    for axes in (left, right):
        axes.set_xlabel("radius (Fourier pixels)")
        axes.grid(alpha=0.3, which="both", lw=0.4)
    left.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Measure and draw."""
    options = arguments(__doc__)
    records = measure(options)
    bounds = [[row["radius"], condition_bound(row["radius"])] for row in records[0]["nearest"]]
    record = {
        "extent_angstrom": EXTENT,
        "rim": RIM,
        "cases": records,
        "bound": bounds,
        "published": PUBLISHED,
        "published_with_ctf": PUBLISHED_WITH_CTF,
    }
    save(options, "condition_number", draw(records), record)


if __name__ == "__main__":
    main()
