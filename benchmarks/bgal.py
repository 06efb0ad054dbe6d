"""Runs on real β-galactosidase particles (EMPIAR-10204), scored against the atomic model's density.

    python benchmarks/bgal.py DATA_FOLDER -o runs [--command abinitio] [--seeds 0 1 2] [--picture bgal.png]

DATA_FOLDER holds particles_clean_1268.star, particles_all_2374.star and reference_5a1a_64px.mrc. Runs that
are already in the output folder are scored, not repeated.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from cryograd.data.mrc import read_map
from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid, resize_volume
from cryograd.report.surface import render_surface
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere
from runs import processor_seconds

MASK_RADIUS, MASK_EDGE = 27.0, 4.0
SETS = (("clean", "particles_clean_1268.star", "D2"), ("all", "particles_all_2374.star", "D2"))
ASYMMETRIC = ("clean-C1", "particles_clean_1268.star", "C1")
# Voxels that 465 kDa of protein fill at 1.21 Å³ a dalton, in Å³.
PROTEIN_VOLUME = 465e3 * 1.21


def lowpassed(volume: np.ndarray, pixel: float, resolution: float) -> np.ndarray:
    """Map cut at a resolution in Å."""
    size = len(volume)
    keep = radius_grid(size, 3) <= size * pixel / resolution
    return inverse_fourier_3d(fourier_3d(torch.as_tensor(volume)) * keep, size).numpy()


def score(folder: Path, reference: np.ndarray, pixel: float) -> tuple[dict, np.ndarray]:
    """What a run reached, and its map aligned to the reference."""
    volume, voxel = read_map(folder / "volume.mrc")
    found, aligned = against(volume, voxel, reference, pixel)
    metrics = json.loads((folder / "metrics.json").read_text())
    found |= {name: metrics[name] for name in ("wall_seconds", "stage_seconds")}
    if (folder / "half1.mrc").exists():
        mean = 0.5 * (read_map(folder / "half1.mrc")[0] + read_map(folder / "half2.mrc")[0])
        found["unfiltered"] = against(mean, voxel, reference, pixel)[0]
        found["resolution_fsc143_angstrom"] = metrics["resolution_fsc143_angstrom"]
    return found, aligned


def against(volume: np.ndarray, voxel: float, reference: np.ndarray, pixel: float) -> tuple[dict, np.ndarray]:
    """FSC with the reference after alignment, both inside a soft sphere; and the aligned map."""
    aligned = align(volume, reference, voxel, pixel).volume
    mask = soft_sphere(len(reference), MASK_RADIUS, MASK_EDGE)
    _, values = fsc(aligned * mask, reference * mask)
    low = [lowpassed((v * mask).astype(np.float32), pixel, 20.0) for v in (aligned, reference)]
    return {
        "fsc05_angstrom": resolution_at(values, 0.5, len(reference), pixel),
        "fsc0143_angstrom": resolution_at(values, 0.143, len(reference), pixel),
        "mean_fsc_shells_6_25": float(values[6:26].mean()),
        "correlation_20_angstrom": float(np.corrcoef(low[0].ravel(), low[1].ravel())[0, 1]),
    }, aligned


def picture(volume: np.ndarray, pixel: float, path: Path) -> None:
    """Draw the map's surface from four sides, sharpened by 80 Å² and at the protein's volume."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy.spatial.transform import Rotation

    k = radius_grid(len(volume), 3) / (len(volume) * pixel)
    sharp = inverse_fourier_3d(fourier_3d(torch.as_tensor(volume)) * torch.exp(20.0 * k**2), len(volume))
    sharp = sharp.float() * torch.as_tensor(soft_sphere(len(volume), MASK_RADIUS, MASK_EDGE)).float()
    fine = resize_volume(sharp, 2 * len(volume)).numpy()
    level = float(np.sort(fine, axis=None)[-int(0.75 * PROTEIN_VOLUME / (pixel / 2) ** 3)])
    axes = np.eye(3)
    oblique = Rotation.from_euler("xyz", [35, 30, 10], degrees=True).as_matrix()
    views = (("z", axes), ("x", axes[[1, 2, 0]]), ("y", axes[[2, 0, 1]]), ("oblique", oblique))
    figure, panels = plt.subplots(1, 4, figsize=(11, 3.1), dpi=110)
    for panel, (name, view) in zip(panels, views, strict=True):
        panel.imshow(render_surface(fine, level, view, 400))
        panel.set_title(name if name == "oblique" else f"along {name}", fontsize=9, color="0.3")
        panel.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(path, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--command", default="reconstruct", choices=["abinitio", "reconstruct"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    reference, pixel = read_map(options.data / "reference_5a1a_64px.mrc")
    jobs = [(*entry, seed) for entry in SETS for seed in options.seeds] + [(*ASYMMETRIC, options.seeds[0])]
    results = []
    for name, particles, symmetry, seed in jobs:
        folder = options.output / f"{name}-{seed}"
        given = options.data / particles
        seconds = processor_seconds(options.command, given, folder, symmetry=symmetry, seed=seed)
        found, aligned = score(folder, reference, pixel)
        results.append({"set": name, "seed": seed, "processor_seconds": seconds} | found)
        print(json.dumps(results[-1]), flush=True)
        if options.picture is not None and name == "clean" and seed == options.seeds[0]:
            picture(aligned, pixel, options.picture)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
