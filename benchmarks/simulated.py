"""Ab initio runs on simulated particles at SNR 0.05, scored against the truth.

    python benchmarks/simulated.py STRUCTURES RIBOSOME_MAP -o runs [--boxes 64 128] [--seeds 0 1 2]

STRUCTURES holds t20s_6bdf.pdb.gz, groel_1gru_A.pdb.gz, groel_1gru_H.pdb.gz and groes_1gru.pdb.gz.
RIBOSOME_MAP is a 65-pixel map of the 70S ribosome without a pixel size in its header; 5.0 Å is assumed, at
which the particle is as large as a 70S ribosome (about 260 Å). Half of its voxels and 27 % of its energy are
negative, so that no positive map agrees with it beyond 15 pixels: it is reconstructed without the prior that
forbids negative density. It gets ten times the images of the others, which have 14 and 7 views an image; 1000
images at their true poses reach only 14 pixels in a 64-pixel box.
"""

import argparse
import json
from pathlib import Path
from typing import Literal

import numpy as np

import cryograd
from cryograd.data.density import (
    assemble,
    model_density,
    on_symmetry_axes,
    read_model,
    resample_map,
)
from cryograd.data.mrc import read_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.simulation.simulate import Simulation, density_diameter, simulate
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at

SNR, RIBOSOME_PIXEL = 0.05, 5.0
# The images are simulated with shifts of up to 10 Å.
MAX_SHIFT = 12.0
# Truth is blurred by this B-factor in Å², which removes the ringing of a hard cut at Nyquist.
B_FACTOR = 100.0
SYMMETRY = {"t20s": "D7", "groel-groes": "C7", "ribosome": "C1"}
PARTICLES = {"t20s": 1000, "groel-groes": 1000, "ribosome": 10000}
PRIOR: dict[str, Literal["exponential", "none"]] = {
    "t20s": "exponential",
    "groel-groes": "exponential",
    "ribosome": "none",
}
EXTENT = {"t20s": 230.0, "groel-groes": 300.0, "ribosome": 65 * RIBOSOME_PIXEL}


def density(name: str, box: int, structures: Path, ribosome: Path) -> np.ndarray:
    """The molecule's density in a box of its extent."""
    pixel = EXTENT[name] / box
    if name == "ribosome":
        volume, _ = read_map(ribosome, voxel_size=RIBOSOME_PIXEL)
        return resample_map(volume, RIBOSOME_PIXEL, box, pixel)
    if name == "t20s":
        model = on_symmetry_axes(read_model(structures / "t20s_6bdf.pdb.gz"), "D7")
    else:
        subunits = [read_model(structures / f"groel_1gru_{chain}.pdb.gz") for chain in "AH"]
        model = assemble(subunits, "C7", read_model(structures / "groes_1gru.pdb.gz"))
    return model_density(model, box, pixel, b_factor=B_FACTOR)


def run(name: str, truth: np.ndarray, particles: int, seed: int, folder: Path) -> dict:
    """Simulate, reconstruct and score."""
    box = len(truth)
    pixel = EXTENT[name] / box
    optics = Optics("simulated", electron_wavelength(300.0), 2.7e7, 0.1, pixel, box)
    simulation = Simulation(particles, (optics,), snr=SNR, seed=seed)
    images = simulate(truth, pixel, simulation, folder)
    diameter = min(0.95 * EXTENT[name], 1.1 * density_diameter(truth, pixel))
    found = cryograd.abinitio(
        images,
        symmetry=SYMMETRY[name],
        particle_diameter=diameter,
        max_shift=MAX_SHIFT,
        prior=PRIOR[name],
        seed=seed,
    )
    _, values = fsc(align(found.volume.values, truth, pixel, pixel).volume, truth)
    resolution = resolution_at(values, 0.5, box, pixel)
    return {
        "molecule": name,
        "symmetry": SYMMETRY[name],
        "box": box,
        "particles": particles,
        "prior": PRIOR[name],
        "seed": seed,
        "fsc05_radius_px": None if resolution is None else EXTENT[name] / resolution,
        "fsc05_angstrom": resolution,
        "stage_seconds": found.metrics["stage_seconds"],
    }


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The arguments of all benchmarks on these molecules."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("ribosome", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--molecules", nargs="+", choices=list(SYMMETRY), default=list(SYMMETRY))
    parser.add_argument("--json", type=Path)
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    results = []
    for name in options.molecules:
        for box in options.boxes:
            truth = density(name, box, options.structures, options.ribosome)
            for seed in options.seeds:
                folder = options.output / f"{name}-{box}-{seed}"
                results.append(run(name, truth, PARTICLES[name], seed, folder))
                print(json.dumps(results[-1]), flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
