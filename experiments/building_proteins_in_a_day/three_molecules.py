"""Three molecules from one random start with one set of parameters, no symmetry imposed.

The plan is the engine's own, whose march does not wait for every image to be drawn.

    python three_molecules.py DATA -o OUT [--quick]
"""

import argparse
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from common import SYMMETRY, agreement, arguments, configuration, particles_of, save
from cryograd.data.particles import Particles
from cryograd.prepare import prepare
from cryograd.reconstruct import abinitio
from cryograd.state import State, full_volume
from cryograd.validation.alignment import align

# Å that a map is to reach within the first pass over the images.
GROSS_STRUCTURE = 30.0


def aligned(state: State, particles: Particles, truth: np.ndarray, pixel_size: float) -> np.ndarray:
    """A state's map, turned onto the truth."""
    density, pixel = full_volume(state, particles)
    return align(density, truth, pixel, pixel_size).volume


def run(options: argparse.Namespace, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Maps at the start, after the first pass and at the end beside the truth, and how well they agree."""
    size, folder = options.size, options.output / name
    particles, truth = particles_of(name, size, options.data, folder, seed=options.seed)
    # The mask, too, is the same for all: the default, which follows from the box.
    config = configuration(
        size,
        folder,
        truth,
        particle_diameter=None,
        iterations=size.iterations if options.passes or options.quick else None,
        seed=options.seed,
        device=options.device,
    )
    _, start = prepare(particles, config)
    first = last = start
    for last in abinitio(particles, config):
        if last.images_drawn <= len(particles):
            first = last
    density, _ = full_volume(start, particles)
    # The start agrees with nothing: it is shown as it is, the same for all.
    maps = {"start": density} | {
        title: aligned(state, particles, truth, size.pixel_size)
        for title, state in (("first pass", first), ("end", last))
    }
    record = {title: agreement(maps[title], truth, size.pixel_size) for title in ("first pass", "end")}
    reached = record["first pass"]["fsc05_angstrom"]
    record["first pass"]["passes"] = first.images_drawn / len(particles)
    record["end"]["passes"] = last.images_drawn / len(particles)
    found = reached is not None and reached < GROSS_STRUCTURE
    return maps | {"truth": truth}, record | {"gross_structure_in_first_pass": found}


def main() -> None:
    """Draw projections and central sections of the maps of all molecules."""
    options = arguments(__doc__)
    figure = plt.figure(figsize=(12.0, 1.7 * len(SYMMETRY)), layout="constrained")
    axes = figure.subplots(len(SYMMETRY), 8)
    records = {}
    for row, name in zip(axes, SYMMETRY, strict=True):
        maps, records[name] = run(options, name)
        middle = options.size.box // 2
        for (title, volume), above, beside in zip(maps.items(), row[:4], row[4:], strict=True):
            for ax, image, kind in (
                (above, volume.sum(axis=1), "projection"),
                (beside, volume[:, middle], "section"),
            ):
                ax.imshow(image, cmap="gray", origin="lower")
                ax.set(xticks=[], yticks=[])
                resolution = records[name].get(title, {}).get("fsc05_angstrom")
                reached = "" if resolution is None else f", {resolution:.3g} Å"
                ax.set_title(f"{kind}, {title}{reached}", fontsize=7)
        row[0].set_ylabel(name)
        ends = [records[name][title]["fsc05_angstrom"] for title in ("first pass", "end")]
        print(name, *ends, flush=True)
    save(options, "three_molecules", figure, {"molecules": records})


if __name__ == "__main__":
    main()
