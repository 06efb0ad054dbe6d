"""Several maps at once: a mix of GroEL and GroEL–GroES, simulated, and real particles among junk.

    python benchmarks/classes.py DATA -o runs [--seeds 0 1 2] [--sets mix fixed real] [--json FILE]

DATA holds structures/ and bgal-10204/. The mix has 2400 images of GroEL and 1600 of GroEL–GroES, 64 px, at a
signal-to-noise ratio of 0.1. ``mix`` is reconstructed with two classes; ``fixed`` is refined to one map, and
divided at the poses of that. ``real`` are all picks of β-galactosidase, of which the good ones are known.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import cryograd
from cryograd.data.density import assemble, model_density, on_symmetry_axes, read_model
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.star import read_star, write_star
from cryograd.results import Result
from cryograd.simulation.simulate import Simulation, simulate
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at

BOX, EXTENT, SNR, B_FACTOR, MAX_SHIFT = 64, 300.0, 0.1, 100.0, 12.0
SETS = ("mix", "fixed", "real")
IMAGES = {"groel": 2400, "groel-groes": 1600}


@dataclass(frozen=True)
class Mix:
    """A file of particles of two molecules, their maps, and which molecule each particle is of."""

    particles: Path
    truths: list[np.ndarray]
    molecule: np.ndarray


def density(name: str, structures: Path) -> np.ndarray:
    """Density of one of the molecules, its sevenfold axis along z."""
    if name == "groel":
        model = on_symmetry_axes(read_model(structures / "groel_1mnf.pdb.gz"), "D7")
    else:
        subunits = [read_model(structures / f"groel_1gru_{chain}.pdb.gz") for chain in "AH"]
        model = assemble(subunits, "C7", read_model(structures / "groes_1gru.pdb.gz"))
    return model_density(model, BOX, EXTENT / BOX, b_factor=B_FACTOR)


def mixed(structures: Path, folder: Path) -> Mix:
    """The mix, in a folder."""
    pixel = EXTENT / BOX
    optics = Optics("simulated", electron_wavelength(300.0), 2.7e7, 0.1, pixel, BOX)
    truths, tables, optics_table = [], [], None
    for number, (name, images) in enumerate(IMAGES.items()):
        truths.append(density(name, structures))
        if not (folder / name / "particles.star").is_file():
            simulation = Simulation(images, (optics,), snr=SNR, seed=number)
            simulate(truths[-1], pixel, simulation, folder / name)
        blocks = read_star(folder / name / "particles.star")
        names = blocks["particles"]["rlnImageName"].astype(str)
        # However the stack is named, it lies in its folder beside the mix.
        names = names.str.replace("@.*?([^/]*)$", rf"@{name}/\1", regex=True)
        tables.append(blocks["particles"].assign(rlnImageName=names))
        optics_table = blocks["optics"]
    assert optics_table is not None
    star = folder / "particles.star"
    write_star(star, {"optics": optics_table, "particles": pd.concat(tables, ignore_index=True)})
    return Mix(star, truths, np.repeat([0, 1], list(IMAGES.values())))


def scored(result: Result, mix: Mix) -> dict[str, Any]:
    """How many images are in the right class, and each map's resolution, as claimed and to its truth."""
    likeliest = result.columns["rlnClassNumber"] - 1
    right = float(np.mean(likeliest == mix.molecule))
    swapped = right < 0.5
    found = []
    for number, truth in enumerate(mix.truths):
        single = result.classes[1 - number if swapped else number]
        assert single.halves is not None
        mean = 0.5 * (single.halves[0].values + single.halves[1].values)
        aligned = align(mean, truth, single.volume.pixel_size, EXTENT / BOX, flip_hand=True).volume
        mask = single.maps["mask"].values
        reached = resolution_at(fsc(aligned * mask, truth * mask)[1], 0.5, BOX, EXTENT / BOX)
        found.append({"claimed": single.resolution, "truth": reached})
    return {"right": max(right, 1.0 - right), "maps": found}


def options(seed: int, mix: Mix) -> dict[str, Any]:
    """What all runs on the mix have in common."""
    return {"symmetry": "C7", "max_shift": MAX_SHIFT, "particle_diameter": 0.95 * EXTENT, "seed": seed}


def reconstructed(mix: Mix, folder: Path, seed: int) -> dict[str, Any]:
    """Two classes from random starts."""
    result = cryograd.reconstruct(mix.particles, output=folder, classes=2, **options(seed, mix))
    return scored(result, mix)


def at_fixed_poses(mix: Mix, folder: Path, seed: int) -> dict[str, Any]:
    """Two classes at the poses of a consensus."""
    consensus = cryograd.reconstruct(mix.particles, output=folder / "consensus", **options(seed, mix))
    result = cryograd.refine(
        folder / "consensus" / "particles.star",
        consensus.volume,
        output=folder / "divided",
        classes=2,
        fixed_poses=True,
        **options(seed, mix),
    )
    return scored(result, mix)


def real(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """All picks in two classes: the good ones that the cleaner class has, and the junk in the other."""
    everything = cryograd.read_particles(data / "particles_all_2374.star")
    good = cryograd.read_particles(data / "particles_clean_1268.star").table["rlnImageName"]
    clean = everything.table["rlnImageName"].isin(set(good)).to_numpy()
    result = cryograd.reconstruct(everything, output=folder, classes=2, symmetry="D2", seed=seed)
    likeliest = result.columns["rlnClassNumber"] - 1
    cleaner = int(np.argmax([clean[likeliest == number].sum() for number in range(2)]))
    rest = likeliest != cleaner
    return {
        "good_in_cleaner": float(np.mean(~rest[clean])),
        "junk_in_other": float(np.mean(~clean[rest])) if rest.any() else None,
        "sizes": [int(np.sum(likeliest == number)) for number in range(2)],
        "claimed": [single.resolution for single in result.classes],
    }


def main() -> None:
    """Run what was asked for, and print what it reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--sets", nargs="+", default=["mix", "fixed", "real"], choices=["mix", "fixed", "real"]
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = []
    for name in given.sets:
        for seed in given.seeds:
            folder = given.output / f"{name}-{seed}"
            if name == "real":
                found = real(given.data / "bgal-10204", folder, seed)
            else:
                mix = mixed(given.data / "structures", given.output / "particles")
                found = (reconstructed if name == "mix" else at_fixed_poses)(mix, folder, seed)
            results.append({"set": name, "seed": seed} | found)
            print(json.dumps(results[-1]), flush=True)
            if given.json is not None:
                given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
