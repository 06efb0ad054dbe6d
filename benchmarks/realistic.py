"""`cryograd reconstruct` on realistic particles of atomic models, scored against the truth.

    python benchmarks/realistic.py STRUCTURES -o particles [--sets gs ferritin] [--seeds 0 1] [--json FILE]

STRUCTURES holds the models that SETS names, as the Protein Data Bank has them: 2src.pdb.gz, 3sn6.pdb.gz,
1igy.cif.gz, 4zxb.cif.gz, 1j4n.pdb.gz, 4OYN.pdb.gz, 2buk.pdb.gz and t20s_6bdf.pdb.gz. The images, which
realistic_images.py makes, have what makes real ones hard: ice, errors of picks and of the CTF, neighbours,
and a fifth of junk. Runs have default options but the point group and one thread. Every run is written to
the JSON as soon as it has ended, in the place of an earlier one of the same set and seed. Images are made
with the seed of the run; those of a seed that are there already are used again.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.stats import rankdata

import cryograd
from cryograd.data.density import model_density, on_symmetry_axes, read_model
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.star import read_star
from cryograd.model.symmetry import Symmetrizer
from cryograd.simulation.simulate import density_diameter
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere
from cryograd.validation.masking import solvent_mask
from realistic_images import GOOD, Order, realistic_images

# Å²: the blur of atoms by motion and by the microscope.
B_FACTOR = 100.0
# Least correlation in any shell of a density with its average over the point group.
SYMMETRIC = 0.95
# The micelle around a membrane protein: half axes in Å across and along the membrane, thickness of its dense
# rim of head groups, and densities of rim and core as parts of the protein's.
MICELLE, RIM, RIM_DENSITY, CORE_DENSITY = (54.0, 24.0), 7.0, 0.7, 0.35


@dataclass(frozen=True)
class Set:
    """One set of particles.

    Parameters
    ----------
    model
        File of the atomic model.
    symmetry
        Point group of its biological assembly.
    particles, snr
        Number of images, and their signal-to-noise ratio.
    boxes
        Box in pixels and pixel size in Å of each optics group.
    chains
        The chains to image; all where empty.
    micelle
        Whether there is a micelle around the protein.
    gathered
        Whether 70 % of the views are within 20° of one direction.
    """

    model: str
    symmetry: str
    particles: int
    snr: float
    boxes: tuple[tuple[int, float], ...]
    chains: str = ""
    micelle: bool = False
    gathered: bool = False


SETS = {
    "aquaporin": Set("1j4n.pdb.gz", "C4", 300, 0.12, ((64, 2.6),), micelle=True),
    "ferritin": Set("4OYN.pdb.gz", "O", 300, 0.15, ((72, 2.8),)),
    "ferritin-noisy": Set("4OYN.pdb.gz", "O", 500, 0.03, ((64, 3.2),)),
    "proteasome": Set("t20s_6bdf.pdb.gz", "D7", 400, 0.05, ((64, 4.3),)),
    "virus": Set("2buk.pdb.gz", "I", 200, 0.08, ((96, 3.1),)),
    "gs": Set("3sn6.pdb.gz", "C1", 1000, 0.1, ((64, 4.2),)),
    "gs-views": Set("3sn6.pdb.gz", "C1", 1000, 0.1, ((64, 4.2),), gathered=True),
    "gs-optics": Set("3sn6.pdb.gz", "C1", 1000, 0.1, ((64, 4.2), (72, 3.9))),
    "receptor": Set("4zxb.cif.gz", "C2", 800, 0.06, ((80, 4.4),)),
    "igg": Set("1igy.cif.gz", "C1", 1200, 0.08, ((64, 3.8),)),
    "kinase": Set("2src.pdb.gz", "C1", 2000, 0.12, ((64, 2.5),)),
    "fab": Set("4zxb.cif.gz", "C1", 2000, 0.1, ((64, 2.5),), chains="AB"),
    "aquaporin-noisy": Set("1j4n.pdb.gz", "C4", 1000, 0.05, ((64, 2.6),), micelle=True),
    "virus-large": Set("2buk.pdb.gz", "I", 200, 0.03, ((128, 2.5),)),
    "gs-noisy": Set("3sn6.pdb.gz", "C1", 2000, 0.05, ((96, 2.9),)),
}


def assembly(given: Set, structures: Path) -> gemmi.Structure:
    """The biological assembly of a set's model, on its symmetry axes."""
    model = read_model(structures / given.model)
    if given.chains:
        for name in [chain.name for chain in model[0] if chain.name not in given.chains]:
            model[0].remove_chain(name)
    elif model.assemblies:
        model.transform_to_assembly(model.assemblies[0].name, gemmi.HowToNameCopiedChain.AddNumber)
    return model if given.symmetry == "C1" else on_symmetry_axes(model, given.symmetry)


def with_micelle(density: NDArray[np.float32], pixel: float) -> NDArray[np.float32]:
    """Add a flat shell of detergent around a membrane protein whose axis is z, where there is no protein."""
    x = (np.arange(len(density)) - len(density) // 2) * pixel
    across = x**2 + x[:, None] ** 2

    def inside(shorter: float) -> NDArray[np.float64]:
        a, b = MICELLE[0] - shorter, MICELLE[1] - shorter
        distance = b * (np.sqrt(across / a**2 + x[:, None, None] ** 2 / b**2) - 1.0)
        return 1.0 / (1.0 + np.exp(np.clip(distance / 1.5, -30.0, 30.0)))

    level = float(density[density > 0.2 * density.max()].mean())
    smooth = ndimage.gaussian_filter(density, 3.0 / pixel)
    empty = 1.0 - np.clip(smooth / (0.5 * level), 0.0, 1.0)
    shell = RIM_DENSITY * inside(0.0) - (RIM_DENSITY - CORE_DENSITY) * inside(RIM)
    return (density + level * shell * empty).astype(np.float32)


def density_of(given: Set, structures: Path) -> tuple[NDArray[np.float32], float]:
    """Density of a set's molecule in its first box, and the protein's mass in kDa.

    Raises
    ------
    ValueError
        If the density does not have the point group.
    """
    model, (box, pixel) = assembly(given, structures), given.boxes[0]
    density = model_density(model, box, pixel, b_factor=B_FACTOR)
    if given.micelle:
        density = with_micelle(density, pixel)
    averaged = Symmetrizer(given.symmetry, box, box / 2 - 1).forward(torch.tensor(density)).numpy()
    agreement = fsc(averaged, density)[1][1 : box // 2 - 1].min()
    if agreement < SYMMETRIC:
        raise ValueError(f"{given.model} does not have {given.symmetry}: correlation {agreement:.2f}")
    return density, model[0].calculate_mass() / 1e3


def order_of(given: Set, seed: int) -> Order:
    """What images to make of a set: 300 kV, a spherical aberration of 2.7 mm."""
    optics = tuple(
        Optics(f"opticsGroup{number}", electron_wavelength(300.0), 2.7e7, 0.1, pixel, box)
        for number, (box, pixel) in enumerate(given.boxes, 1)
    )
    return Order(given.particles, optics, given.snr, given.gathered, seed)


def against(volume: cryograd.Map, truth: cryograd.Map) -> dict[str, float | None]:
    """Å at which a map's correlation with the truth falls to 0.5, and to 0.143, in the truth's soft mask.

    Also the correlation of the two maps there up to 20 Å: below a half the map is of something else.
    """
    aligned = align(volume.values, truth.values, volume.pixel_size, truth.pixel_size, flip_hand=True).volume
    box, pixel = len(truth.values), truth.pixel_size
    mask = solvent_mask(truth.values, pixel, soft_sphere(box, 0.46 * box, 2.0)).values
    values = fsc(aligned * mask, truth.values * mask)[1]
    coarse = ndimage.gaussian_filter([aligned * mask, truth.values * mask], (0, *(3 * [5.0 / pixel])))
    return {
        "fsc05_angstrom": resolution_at(values, 0.5, box, pixel),
        "fsc0143_angstrom": resolution_at(values, 0.143, box, pixel),
        "correlation_blurred": float(np.corrcoef(*(v[mask > 0.5] for v in coarse))[0, 1]),
    }


def of_junk(probability: ArrayLike, kind: ArrayLike) -> dict[str, Any]:
    """How well the junk probability tells junk from particles, and which kinds of junk are listed."""
    score, kind = np.asarray(probability), np.asarray(kind)
    junk, listed = kind != GOOD, score > 0.5
    bad, good = int(junk.sum()), int((~junk).sum())
    # The share of pairs of junk and particle that are in the right order.
    area = (rankdata(score)[junk].sum() - bad * (bad + 1) / 2) / (bad * good)
    return {
        "junk_auc": float(area),
        "listed": int(listed.sum()),
        "junk_precision": float(junk[listed].mean()) if listed.any() else None,
        "junk_recall": float(listed[junk].mean()),
        "listed_by_kind": [float(listed[kind == number].mean()) for number in np.unique(kind)],
    }


def mean_of_halves(result: cryograd.Result) -> cryograd.Map:
    """The mean of a run's unfiltered half maps."""
    halves = [result.maps[name] for name in ("half1", "half2")]
    return cryograd.Map(0.5 * (halves[0].values + halves[1].values), halves[0].pixel_size)


def at_true_poses(folder: Path, symmetry: str, truth: cryograd.Map) -> dict[str, Any]:
    """What the particles without the junk give at their true poses: the most that a run could reach."""
    kind = read_star(folder / "truth.star")["particles"]["truthJunk"].to_numpy()
    particles = cryograd.read_particles(folder / "truth.star").select(kind == GOOD)
    result = cryograd.refine(particles, truth, symmetry=symmetry, fixed_poses=True, threads=1)
    return {"resolution_fsc143_angstrom": result.resolution} | against(mean_of_halves(result), truth)


def reconstructed(folder: Path, symmetry: str, seed: int, truth: cryograd.Map) -> dict[str, Any]:
    """Reconstruct the particles in a folder and score the result."""
    kind = read_star(folder / "truth.star")["particles"]["truthJunk"].to_numpy()
    start = time.process_time()
    result = cryograd.reconstruct(folder / "particles.star", symmetry=symmetry, seed=seed, threads=1)
    seconds = time.process_time() - start
    for name in ("volume", "half1", "half2", "mask"):
        result.maps[name].write(folder / f"{name}.mrc")
    wanted = ("believed", "why_not", "passes", "still_improving", "max_probability_mean", "stage_seconds")
    return {
        "processor_seconds": seconds,
        "resolution_fsc143_angstrom": result.resolution,
        "volume": against(result.volume, truth),
        "half_maps_mean": against(mean_of_halves(result), truth),
        **of_junk(result.columns["cryogradJunkProbability"], kind),
        **{name: result.metrics[name] for name in wanted},
    }


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Make the images of a set if they are not there, reconstruct, and score."""
    given, folder = SETS[name], options.output / f"{name}-{seed}"
    density, mass = density_of(given, options.structures)
    if not (folder / "truth.star").exists():
        realistic_images(density, given.boxes[0][1], order_of(given, seed), folder)
    truth = cryograd.Map.read(folder / "truth.mrc")
    box, pixel = given.boxes[0]
    row = {
        "set": name,
        "model": given.model,
        "kilodaltons": round(mass, 1),
        "diameter_angstrom": density_diameter(density, pixel),
        "symmetry": given.symmetry,
        "particles": given.particles,
        "snr": given.snr,
        "box": box,
        "pixel_size_angstrom": pixel,
        "seed": seed,
    }
    row |= reconstructed(folder, given.symmetry, seed, truth)
    if options.true_poses:
        row["at_true_poses"] = at_true_poses(folder, given.symmetry, truth)
    return row


def keep(path: Path, row: dict[str, Any]) -> None:
    """Put a run into the JSON, in the place of an earlier one of the same set and seed."""
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [old for old in rows if (old["set"], old["seed"]) != (row["set"], row["seed"])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*rows, row], indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--true-poses", action="store_true", help="also refine at the true poses")
    parser.add_argument("--images-only", action="store_true", help="make the particles and end")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/realistic.json"))
    options = parser.parse_args()
    for seed in options.seeds:
        for name in options.sets:
            if options.images_only:
                density, _ = density_of(SETS[name], options.structures)
                order = order_of(SETS[name], seed)
                realistic_images(density, SETS[name].boxes[0][1], order, options.output / f"{name}-{seed}")
                continue
            row = run(name, seed, options)
            print(json.dumps(row), flush=True)
            keep(options.json, row)


if __name__ == "__main__":
    main()
