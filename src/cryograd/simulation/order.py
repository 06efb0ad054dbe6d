"""What `simulate` is asked for: images of an atomic model or a map, checked before anything is written."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from cryograd.config import Simulate
from cryograd.data.density import assemble, model_density, on_symmetry_axes, read_model, resample_map
from cryograd.data.mrc import read_header, read_map, refuse_constant
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.maps import Map
from cryograd.model.symmetry import Symmetrizer
from cryograd.occupied import left_behind, occupied
from cryograd.paths import check_writable
from cryograd.simulation.simulate import Simulation, simulate, stack_names

_MAP_SUFFIXES = {".mrc", ".map", ".ccp4"}
_MODEL_BOX, _MODEL_PIXEL_SIZE = 128, 2.8
# (rot, tilt) in radians: one along the main axis and two from its side, as of particles that lie on a film.
_PREFERRED_VIEWS = ((0.0, 0.0), (0.4, 1.5), (2.2, 1.3))


@dataclass(frozen=True)
class Simulated:
    """Simulated particles.

    Parameters
    ----------
    particles
        With their true poses and CTFs.
    truth
        The map that they are images of.
    """

    particles: Particles
    truth: Map


def simulated(config: Simulate, given: Map | None = None) -> Simulated:
    """Write particles of a model and their truth.

    Parameters
    ----------
    config
        Options.
    given
        A map in the place of the model that the options name.
    """
    _refuse(config, given)
    is_map = given is not None or config.model.suffix.lower() in _MAP_SUFFIXES
    truth = _density_of_map(config, given) if is_map else _density_of_atoms(config)
    if config.particle_diameter is not None and not (
        4.0 * truth.pixel_size <= config.particle_diameter <= truth.extent
    ):
        raise CryogradError(
            f"a diameter of {config.particle_diameter:g} Å does not fit a box of {truth.extent:.0f} Å",
            "--particle-diameter",
            f"give {4.0 * truth.pixel_size:.3g} to {truth.extent:.3g} Å",
        )
    dtype = np.float16 if config.float16 else np.float32
    simulation = _simulation(config, len(truth.values), truth.pixel_size)
    config.output.mkdir(parents=True, exist_ok=True)
    with occupied(config.output):
        try:
            particles = simulate(truth.values, truth.pixel_size, simulation, config.output, dtype)
        except BaseException:
            for name in _before_the_last(config):
                (config.output / name).unlink(missing_ok=True)
            raise
    return Simulated(particles, truth)


def _before_the_last(config: Simulate) -> list[str]:
    """Names of the files that are written before the particle file."""
    return [*stack_names(config.optics_groups), "truth.mrc"]


def _refuse(config: Simulate, given: Map | None) -> None:
    """Refuse options that do not go together, and a folder that cannot take the files."""
    check_writable(config.output)
    # The particle file is written last: without it, a simulation that was killed is begun anew.
    killed = left_behind(config.output) and not (config.output / "particles.star").exists()
    for name in ("particles.star", *_before_the_last(config)):
        if (config.output / name).exists() and not killed:
            raise CryogradError(
                f"the output folder already holds {name}", config.output, "choose another folder"
            )
    if config.defocus_min > config.defocus_max:
        raise CryogradError(
            f"the smallest defocus {config.defocus_min:g} Å exceeds the largest {config.defocus_max:g} Å",
            "--defocus-min",
            "swap them",
        )
    if given is None and not config.model.is_file():
        raise CryogradError("the model does not exist", config.model, "check the path")
    if config.optics_groups > config.particles:
        raise CryogradError(
            f"{config.particles} particles cannot fill {config.optics_groups} optics groups",
            "--optics-groups",
            "give fewer groups or more particles",
        )
    is_map = given is not None or config.model.suffix.lower() in _MAP_SUFFIXES
    if is_map and config.subunit:
        raise CryogradError("subunits need an atomic model", config.model, "leave out --subunit")
    if is_map and config.model_b_factor:
        raise CryogradError("a map is not blurred", config.model, "leave out --model-b-factor")
    for path in config.subunit:
        if not path.is_file():
            raise CryogradError("the subunit does not exist", path, "check the path")


def _density_of_atoms(config: Simulate) -> Map:
    """Density of an atomic model, on its symmetry axes, with its subunits repeated about them."""
    model = read_model(config.model)
    if config.subunit:
        model = assemble([read_model(path) for path in config.subunit], config.symmetry, model)
    elif config.symmetry != "C1":
        model = on_symmetry_axes(model, config.symmetry)
    pixel_size = config.pixel_size or _MODEL_PIXEL_SIZE
    b_factor = config.model_b_factor or None
    return Map(model_density(model, config.box or _MODEL_BOX, pixel_size, b_factor=b_factor), pixel_size)


def _density_of_map(config: Simulate, given: Map | None) -> Map:
    """A map on the grid asked for, averaged over its point group."""
    map_ = given or _read_varying_map(config)
    density, pixel_size = map_.values, map_.pixel_size
    box, wanted = config.box or density.shape[0], config.pixel_size or pixel_size
    density = resample_map(density, pixel_size, box, wanted)
    averaged = Symmetrizer(config.symmetry, box, box / 2 - 1).forward(torch.tensor(density))
    return Map(averaged.numpy(), wanted)


def _read_varying_map(config: Simulate) -> Map:
    """A map; one without a voxel size in its header takes the one asked for."""
    known = min(read_header(config.model).voxel_size) > 0
    density = Map(*read_map(config.model, None if known else config.pixel_size))
    refuse_constant(density.values, config.model)
    return density


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
