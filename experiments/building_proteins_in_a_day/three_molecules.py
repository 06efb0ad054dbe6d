"""Three molecules from one random start with one set of parameters, no symmetry imposed.

The plan is the engine's own, whose march does not wait for every image to be drawn.

    python three_molecules.py DATA -o OUT [--quick]
"""

import argparse
from typing import Any

from matplotlib import pyplot as plt

from common import (
    SYMMETRY,
    agreement,
    aligned,
    arguments,
    begun,
    configuration,
    map_of,
    particles_of,
    reconstruct,
    save,
)
from cryograd.engine.state import State
from cryograd.maps import Map

# Å that a map is to reach within the first pass over the images.
GROSS_STRUCTURE = 30.0


def run(options: argparse.Namespace, name: str) -> tuple[dict[str, Map], dict[str, Any]]:
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
    _, start = begun(particles, config)
    # The start agrees with nothing: it is shown as it is, the same for all.
    maps, passes = {"start": map_of(start, particles)}, {}

    def every(state: State) -> None:
        passed = state.sides[0].images_drawn / len(particles)
        if state.stage != "poses" and passed <= 1.0:
            maps["first pass"], passes["first pass"] = map_of(state, particles), passed

    last = reconstruct(particles, config, every)
    maps["end"], passes["end"] = map_of(last, particles), last.sides[0].images_drawn / len(particles)
    maps |= {title: aligned(maps[title], truth) for title in passes}
    record: dict[str, Any] = {
        title: agreement(maps[title], truth) | {"passes": passed} for title, passed in passes.items()
    }
    reached = record["first pass"]["fsc05_angstrom"]
    record["gross_structure_in_first_pass"] = reached is not None and reached < GROSS_STRUCTURE
    return maps | {"truth": truth}, record


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
                (above, volume.values.sum(axis=1), "projection"),
                (beside, volume.values[:, middle], "section"),
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
