"""Facts that stand in a particle file and in the headers of its stacks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryograd.data.mrc import MrcHeader, read_header
from cryograd.data.optics import Optics, voltage_kv
from cryograd.data.particles import Particles
from cryograd.data.shared_noise import noise_number
from cryograd.rotations import FloatArray

# Share by which the pixel size of one microscope may be corrected.
_CALIBRATION = 0.05


def describe(particles: Particles) -> dict[str, Any]:
    """Facts about particles without their images, JSON-able.

    Lengths are in Å and Cs in mm.
    """
    headers = [read_header(path) for path in particles.stacks]
    return {
        "source": str(particles.source),
        "n_particles": len(particles),
        "optics_groups": [
            _optics(optics, int(np.count_nonzero(particles.optics_index == number)))
            for number, optics in enumerate(particles.optics)
        ],
        "defocus": _defocus(particles),
        "poses": particles.rotations is not None,
        "shift_rms": None if particles.shifts is None else _rms(particles.shifts),
        "half_sets": _half_sets(particles),
        "stacks": len(particles.stacks),
        "stack_types": sorted({str(header.dtype) for header in headers}),
        "contradicting_headers": contradicting_headers(particles, headers),
        "duplicates": len(particles) - len(np.unique(particles.image_number)),
        "picked_twice": len(np.unique(particles.image_number)) - len(np.unique(noise_number(particles))),
    }


def contradicting_headers(particles: Particles, headers: Sequence[MrcHeader]) -> list[dict[str, Any]]:
    """Pixel sizes of headers of stacks that are far from the file's: how many stacks have each pair.

    A size of 0 or 1 Å is what programs write that do not know it, and sizes differ a little where one of the
    two has been calibrated.
    """
    found: dict[tuple[float, float], list[int]] = {}
    pairs = np.unique(np.stack([particles.stack_index, particles.optics_index], axis=1), axis=0)
    for stack, group in pairs.tolist():
        header, size = headers[stack].voxel_size[0], particles.optics[group].pixel_size
        if header > 0.0 and abs(header - 1.0) > 1e-3 and abs(header / size - 1.0) > _CALIBRATION:
            found.setdefault((round(header, 4), size), []).append(stack)
    return [
        {"header": header, "file": size, "stacks": len(stacks), "first": str(particles.stacks[stacks[0]])}
        for (header, size), stacks in found.items()
    ]


def _optics(optics: Optics, n: int) -> dict[str, Any]:
    """An optics group in the units of microscopists."""
    return {
        "name": optics.name,
        "n_particles": n,
        "voltage_kv": round(voltage_kv(optics.wavelength), 3),
        "spherical_aberration_mm": round(1e-7 * optics.spherical_aberration, 4),
        "amplitude_contrast": optics.amplitude_contrast,
        "pixel_size": optics.pixel_size,
        "box_size": optics.box_size,
        "nyquist": optics.nyquist,
        "beam_tilt_mrad": [1e3 * tilt for tilt in optics.beam_tilt],
        "higher_aberrations": any(optics.odd_zernike) or any(optics.even_zernike),
        "anisotropic_magnification": optics.magnification != ((1.0, 0.0), (0.0, 1.0)),
        "phase_flipped": optics.phase_flipped,
        "premultiplied": optics.premultiplied,
    }


def mean_underfocus(particles: Particles) -> FloatArray:
    """Mean underfocus of each particle in Å, shape (n,)."""
    return 0.5 * (particles.defocus_u + particles.defocus_v)


def odd_defocus(particles: Particles) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which particles have no underfocus, and whose defocus is far from all others, each of shape (n,)."""
    mean = mean_underfocus(particles)
    median = np.median(mean)
    # Of a normal distribution the median deviation is 0.67 σ: this is beyond 8 σ, and 2000 Å at least.
    limit = max(12.0 * float(np.median(np.abs(mean - median))), 2000.0)
    return mean <= 0.0, np.abs(mean - median) > limit


def _defocus(particles: Particles) -> dict[str, Any]:
    """Range of defocus, astigmatism and phase shift, and how many values are odd."""
    mean = mean_underfocus(particles)
    not_positive, outliers = odd_defocus(particles)
    astigmatism = np.abs(particles.defocus_u - particles.defocus_v)
    return {
        "min": float(mean.min()),
        "median": float(np.median(mean)),
        "max": float(mean.max()),
        "astigmatism_median": float(np.median(astigmatism)),
        "astigmatism_max": float(astigmatism.max()),
        "phase_shift_max_degrees": float(np.rad2deg(np.abs(particles.phase_shift).max())),
        "outliers": int(np.count_nonzero(outliers)),
        "not_positive": int(np.count_nonzero(not_positive)),
    }


def _half_sets(particles: Particles) -> dict[str, int] | None:
    """Particles in each half-set."""
    if particles.half_set is None:
        return None
    names, counts = np.unique(particles.half_set, return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}


def _rms(values: FloatArray) -> float:
    """Root-mean-square length of vectors (n, 2)."""
    return float(np.sqrt((values**2).sum(axis=1).mean()))
