"""``cryograd simulate``: images of a known molecule."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryograd.cli.folder import check_writable
from cryograd.config import Simulate
from cryograd.data.density import assemble, model_density, on_symmetry_axes, read_model, resample_map
from cryograd.data.mrc import read_header, read_map, refuse_constant
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.simulate import Simulation, simulate
from cryograd.errors import CryogradError
from cryograd.model.symmetry import Symmetrizer

_MAP_SUFFIXES = {".mrc", ".map", ".ccp4"}
_MODEL_BOX, _MODEL_PIXEL_SIZE = 128, 2.8
# (rot, tilt) in radians: one along the main axis and two from its side, as of particles that lie on a film.
_PREFERRED_VIEWS = ((0.0, 0.0), (0.4, 1.5), (2.2, 1.3))


def run(config: Simulate) -> dict[str, Any]:
    """Write the particles and the truth, and say what was written."""
    check_writable(config.output)
    for name in ("particles.star", "particles.mrcs", "truth.mrc"):
        if (config.output / name).exists():
            raise CryogradError(
                f"the output folder already holds {name}", config.output, "choose another folder"
            )
    if config.defocus_min > config.defocus_max:
        raise CryogradError(
            f"the smallest defocus {config.defocus_min:g} Å exceeds the largest {config.defocus_max:g} Å",
            "cryograd simulate --defocus-min",
            "swap them",
        )
    if not config.model.is_file():
        raise CryogradError("the model does not exist", config.model, "check the path")
    if config.optics_groups > config.particles:
        raise CryogradError(
            f"{config.particles} particles cannot fill {config.optics_groups} optics groups",
            "cryograd simulate --optics-groups",
            "give fewer groups or more particles",
        )
    is_map = config.model.suffix.lower() in _MAP_SUFFIXES
    if is_map and config.subunit:
        raise CryogradError("subunits need an atomic model", config.model, "leave out --subunit")
    if is_map and config.model_b_factor:
        raise CryogradError("a map is not blurred", config.model, "leave out --model-b-factor")
    for path in config.subunit:
        if not path.is_file():
            raise CryogradError("the subunit does not exist", path, "check the path")
    density, pixel_size = _density_of_map(config) if is_map else _density_of_atoms(config)
    simulation = _simulation(config, density.shape[0], pixel_size)
    extent = density.shape[0] * pixel_size
    if config.particle_diameter is not None and not 4.0 * pixel_size <= config.particle_diameter <= extent:
        raise CryogradError(
            f"a particle diameter of {config.particle_diameter:g} Å does not fit a box of {extent:.0f} Å",
            "cryograd simulate --particle-diameter",
            f"give {4.0 * pixel_size:.3g} to {extent:.3g} Å",
        )
    dtype = np.float16 if config.float16 else np.float32
    particles = simulate(density, pixel_size, simulation, config.output, dtype)
    return {
        "particles": str(config.output / "particles.star"),
        "truth": str(config.output / "truth.mrc"),
        "n_particles": len(particles),
        "box_size": density.shape[0],
        "pixel_size_angstrom": pixel_size,
        "snr": config.snr,
    }


def summary(result: dict[str, Any]) -> str:
    """Where the files are."""
    return "\n".join(
        [
            f"{result['n_particles']} images of {result['box_size']} px at "
            f"{result['pixel_size_angstrom']:.4g} Å, signal-to-noise ratio {result['snr']:g}",
            f"particles  {result['particles']}",
            f"truth      {result['truth']}",
        ]
    )


def _density_of_atoms(config: Simulate) -> tuple[NDArray[np.float32], float]:
    """Density of an atomic model, on its symmetry axes, with its subunits repeated about them."""
    model = read_model(config.model)
    if config.subunit:
        model = assemble([read_model(path) for path in config.subunit], config.symmetry, model)
    elif config.symmetry != "C1":
        model = on_symmetry_axes(model, config.symmetry)
    pixel_size = config.pixel_size or _MODEL_PIXEL_SIZE
    b_factor = config.model_b_factor or None
    return model_density(model, config.box or _MODEL_BOX, pixel_size, b_factor=b_factor), pixel_size


def _density_of_map(config: Simulate) -> tuple[NDArray[np.float32], float]:
    """A map on the grid asked for, averaged over its point group."""
    density, pixel_size = _read_varying_map(config)
    box, wanted = config.box or density.shape[0], config.pixel_size or pixel_size
    density = resample_map(density, pixel_size, box, wanted)
    averaged = Symmetrizer(config.symmetry, box, box / 2 - 1).forward(torch.tensor(density))
    return averaged.numpy(), wanted


def _read_varying_map(config: Simulate) -> tuple[NDArray[np.float32], float]:
    """A map; one without a voxel size in its header takes the one asked for."""
    known = min(read_header(config.model).voxel_size) > 0
    density, pixel_size = read_map(config.model, None if known else config.pixel_size)
    refuse_constant(density, config.model)
    return density, pixel_size


def _simulation(config: Simulate, box: int, pixel_size: float) -> Simulation:
    """What to simulate, in the terms of the data layer."""
    optics = tuple(
        Optics(
            name=f"simulated{number}",
            wavelength=electron_wavelength(config.voltage),
            spherical_aberration=1e7 * config.spherical_aberration,
            amplitude_contrast=config.amplitude_contrast,
            pixel_size=pixel_size,
            box_size=box,
        )
        for number in range(1, config.optics_groups + 1)
    )
    return Simulation(
        n_images=config.particles,
        optics=optics,
        snr=config.snr,
        particle_diameter=config.particle_diameter,
        phase_shift=(0.0, math.radians(config.phase_shift)),
        preferred_views=_PREFERRED_VIEWS if config.views == "biased" else (),
        asymmetric_unit=config.symmetry if config.views == "asymmetric-unit" else "C1",
        half=config.half,
        defocus=(config.defocus_min, config.defocus_max),
        astigmatism=config.astigmatism,
        shift_sigma=config.shift_sigma,
        max_shift=config.max_shift,
        seed=config.seed,
    )
