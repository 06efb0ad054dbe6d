"""Simulated particles of known molecules, and results in files: what all folders of experiments share."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import cryograd
from cryograd.data.density import assemble, model_density, on_symmetry_axes, read_model, resample_map
from cryograd.data.mrc import read_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.maps import Map
from cryograd.simulation.simulate import Simulation, simulate

matplotlib.use("Agg")

# This B-factor in Å² removes the ringing of a hard cut at Nyquist.
B_FACTOR = 100.0
SYMMETRY = {"groel-groes": "C7", "t20s": "D7", "groel": "D7", "ribosome": "C1"}
# Å, taken for the ribosome's map, whose file names none.
RIBOSOME_PIXEL = 5.0
# (rot, tilt) in radians: one along the main axis and two from its side, as of particles that lie on a film.
PREFERRED_VIEWS = ((0.0, 0.0), (0.4, 1.5), (2.2, 1.3))


class Sampling(Protocol):
    """Pixels, pixel size in Å, number of images and signal-to-noise ratio inside the particle's circle."""

    @property
    def box(self) -> int: ...
    @property
    def pixel_size(self) -> float: ...
    @property
    def particles(self) -> int: ...
    @property
    def snr(self) -> float: ...


def density(name: str, size: Sampling, data: Path) -> np.ndarray:
    """Density (L, L, L) of one of the molecules of `SYMMETRY` on its symmetry axes."""
    if name == "ribosome":
        volume, pixel = read_map(data / "conventions/clean70SRibosome_vol_65p.mrc", voxel_size=RIBOSOME_PIXEL)
        return resample_map(volume, pixel, size.box, size.pixel_size)
    structures = data / "structures"
    if name == "groel-groes":
        subunits = [read_model(structures / f"groel_1gru_{chain}.pdb.gz") for chain in "AH"]
        model = assemble(subunits, "C7", read_model(structures / "groes_1gru.pdb.gz"))
    else:
        file = {"t20s": "t20s_6bdf.pdb.gz", "groel": "groel_1mnf.pdb.gz"}[name]
        model = on_symmetry_axes(read_model(structures / file), SYMMETRY[name])
    return model_density(model, size.box, size.pixel_size, b_factor=B_FACTOR)


def particles_of(
    name: str,
    size: Sampling,
    data: Path,
    folder: Path,
    views: Literal["uniform", "biased"] = "uniform",
    seed: int = 0,
) -> tuple[Particles, Map]:
    """Simulated particles with their true poses, and the truth; from the folder if they are there already."""
    wanted = {key: getattr(size, key) for key in ("box", "pixel_size", "particles", "snr")}
    wanted |= {"molecule": name, "views": views, "seed": seed}
    settings = folder / "settings.json"
    if not settings.is_file() or json.loads(settings.read_text()) != wanted:
        optics = Optics("simulated", electron_wavelength(300.0), 2.7e7, 0.1, size.pixel_size, size.box)
        preferred = PREFERRED_VIEWS if views == "biased" else ()
        simulation = Simulation(size.particles, (optics,), snr=size.snr, preferred_views=preferred, seed=seed)
        simulate(density(name, size, data), size.pixel_size, simulation, folder)
        settings.write_text(json.dumps(wanted, indent=2) + "\n")
    return read_particles(folder / "particles.star"), Map.read(folder / "truth.mrc")


def save(options: argparse.Namespace, name: str, figure: Figure, record: dict[str, Any]) -> None:
    """Write NAME.png, and NAME.json with the record and what it was made with."""
    options.output.mkdir(parents=True, exist_ok=True)
    asked = {key: value for key, value in vars(options).items() if key not in ("size", "data", "output")}
    made = {"cryograd": cryograd.__version__, "options": asked}
    if hasattr(options, "size"):
        made["size"] = asdict(options.size)
    figure.savefig(options.output / f"{name}.png", dpi=150, bbox_inches="tight")
    path = options.output / f"{name}.json"
    path.write_text(json.dumps(made | record, indent=2, default=str) + "\n")
    print(path.with_suffix(".png"), path, flush=True)
