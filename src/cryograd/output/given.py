"""What a run was given, in digests, so that a run that goes on sees what has changed since it began."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cryograd.config import HalfSetRun, ParticleRun, Refine
from cryograd.data.particles import Particles, image_names
from cryograd.errors import CryogradError
from cryograd.maps import Map

# Images whose pixels are looked at, evenly over the file.
_SAMPLED = 256


def digests(config: ParticleRun, particles: Particles, maps: Sequence[Map]) -> dict[str, str]:
    """Digests of all that a run uses, by what people call it.

    Parameters
    ----------
    config
        Options, which say what is used.
    particles
        The particles. A sample of their images is read.
    maps
        The maps that the run starts from.

    Raises
    ------
    CryogradError
        An image or a map cannot be read.
    """
    found = {name: _digest(*values) for name, values in _of_particles(config, particles)}
    found["the images that the particle file names"] = image_names(particles)
    found["the pixels of the images"] = _digest(*_sampled_images(particles))
    found["the maps that it started from"] = _digest(*(one.values for one in maps))
    for name, path in (("the mask", config.mask), ("the second half's map", _second(config))):
        if path is not None:
            found[name] = _digest(Map.read(path).values)
    return found


def refuse_changed(before: Mapping[str, str], now: Mapping[str, str], config: ParticleRun) -> None:
    """Refuse to go on with other particles or maps than a run began with, and name what is different."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise CryogradError(
            f"what the run began with has changed: {', '.join(changed)}",
            config.particles,
            "restore it, or start a new run in another folder",
        )


def _of_particles(config: ParticleRun, particles: Particles) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What the metadata say that enters a run."""
    optics = particles.optics
    yield "the voltage", tuple(one.wavelength for one in optics)
    yield "the spherical aberration", tuple(one.spherical_aberration for one in optics)
    yield "the amplitude contrast", tuple(one.amplitude_contrast for one in optics)
    yield "the pixel size", tuple(one.pixel_size for one in optics)
    yield "the box size", tuple(one.box_size for one in optics)
    aberrations = [(one.beam_tilt, one.odd_zernike, one.even_zernike, one.magnification) for one in optics]
    yield "aberrations or magnification", (repr(aberrations),)
    flags = [(one.premultiplied, one.phase_flipped) for one in optics]
    yield "what the images were multiplied by", (repr(flags),)
    yield "the optics group of each particle", (particles.optics_index,)
    defocus = particles.defocus_u, particles.defocus_v, particles.astigmatism_angle
    yield "the defocus", defocus
    yield "the phase shift", (particles.phase_shift,)
    yield "the CTF's B-factor or scale", (particles.b_factor, particles.scale)
    yield "the sign of the images", (particles.sign,)
    if isinstance(config, HalfSetRun):
        yield "the half-sets", (particles.half_set,)
        yield "the micrographs or groups", (particles.scale_group,)
    if isinstance(config, Refine) and (config.seeded or config.fixed_poses):
        yield "the poses", (particles.rotations, particles.shifts)


def _sampled_images(particles: Particles) -> Iterator[np.ndarray]:
    """Some of the images, one after the other: they may differ in size."""
    number = min(_SAMPLED, len(particles))
    for index in np.linspace(0, len(particles) - 1, number).astype(np.int64):
        yield particles.images([index])


def _second(config: ParticleRun) -> Any:
    """The file of the map that the second half starts from, if it has its own."""
    return config.second_volume if isinstance(config, Refine) else None


def _digest(*values: Any) -> str:
    """Digest of arrays, numbers and texts."""
    digest = hashlib.sha256()
    for value in values:
        array = isinstance(value, np.ndarray)
        digest.update(f"{value.dtype} {value.shape}".encode() if array else repr(value).encode())
        digest.update(np.ascontiguousarray(value).tobytes() if array else b"")
    return digest.hexdigest()
