"""`cryograd reconstruct` on simulated particles, from a random start, scored against the truth.

    python benchmarks/high_resolution.py STRUCTURES RIBOSOME_MAP -o runs [--box 128] [--particles 5000]

The inputs are those of simulated.py. Runs that are already in the output folder are scored, not repeated.
A map is compared with the truth in the run's own mask: the half maps must claim neither more nor less than
the truth says. Angles are given in units of one pixel seen from the centre at the particle's edge.
"""

import json
from pathlib import Path

import numpy as np

from cryograd.data.mrc import read_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.read import read_particles
from cryograd.model.symmetry import group_matrices
from cryograd.simulation.simulate import Simulation, simulate
from cryograd.validation.alignment import align
from cryograd.validation.gold_standard import gold_standard
from cryograd.validation.pose_error import pose_error
from runs import processor_seconds
from simulated import EXTENT, MAX_SHIFT, PRIOR, SYMMETRY, density, parser_of


def edge_radius(truth: np.ndarray) -> float:
    """Voxels from the centre within which 99 % of the dense voxels lie."""
    axis = np.arange(len(truth)) - len(truth) // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return float(np.quantile(distance[truth > 0.2 * truth.max()], 0.99))


def score(folder: Path, simulated: Path, symmetry: str) -> dict:
    """What a run reached."""
    truth, pixel = read_map(simulated / "truth.mrc")
    true, found = (read_particles(path / "particles.star") for path in (simulated, folder))
    error = pose_error(true.rotations, found.rotations, true.shifts, found.shifts, group_matrices(symmetry))
    halves = [read_map(folder / f"half{number}.mrc")[0] for number in (1, 2)]
    mean, mask = 0.5 * (halves[0] + halves[1]), read_map(folder / "mask.mrc")[0]
    aligned = align(truth, mean, pixel, pixel).volume
    # With the mask's part taken out as for the half maps: it leaks from frequencies that agree.
    against_truth = gold_standard(mean, aligned, mask, pixel, seed=0).resolution(0.5)
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        "median_angle_degrees": float(np.rad2deg(error.median_angle)),
        "median_angle_edge_pixels": error.median_angle * edge_radius(truth),
        "within_5_degrees": float((np.rad2deg(error.angles) < 5.0).mean()),
        "median_shift_pixels": error.median_shift / pixel,
        "nyquist_angstrom": 2.0 * pixel,
        "half_maps_fsc143_angstrom": metrics["resolution_fsc143_angstrom"],
        "truth_fsc05_angstrom": against_truth,
        "claimed_over_true": metrics["resolution_fsc143_angstrom"] / (against_truth or np.nan),
        "stage_seconds": metrics["stage_seconds"],
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = []
    for name in options.molecules:
        pixel = EXTENT[name] / options.box
        images = options.output / f"{name}-{options.box}-{options.particles}"
        if not (images / "particles.star").exists():
            optics = Optics("simulated", electron_wavelength(300.0), 2.7e7, 0.1, pixel, options.box)
            simulation = Simulation(options.particles, (optics,), snr=options.snr, seed=options.seed)
            truth = density(name, options.box, options.structures, options.ribosome)
            simulate(truth, pixel, simulation, images)
        folder = images / f"seed-{options.seed}"
        seconds = processor_seconds(
            "reconstruct",
            images / "particles.star",
            folder,
            symmetry=SYMMETRY[name],
            max_shift=MAX_SHIFT,
            seed=options.seed,
            threads=1,
            prior="none" if PRIOR[name] == "none" else "nonnegative",
        )
        row = {"molecule": name, "box": options.box, "particles": options.particles, "snr": options.snr}
        row |= {"seed": options.seed, "processor_seconds": seconds}
        results.append(row | score(folder, images, SYMMETRY[name]))
        print(json.dumps(results[-1]), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
