"""Contrast transfer functions of particles, at frequencies in 1/Å."""

import numpy as np
import torch
from torch import Tensor

from cryograd.data.particles import Particles
from cryograd.model.ctf import ctf

_UNDERFOCUS = ("defocus_u", "defocus_v")
_OTHERS = ("astigmatism_angle", "phase_shift", "b_factor", "scale")


def ctf_of(
    particles: Particles,
    indices: np.ndarray,
    frequencies: Tensor,
    defocus_change: np.ndarray | float = 0.0,
) -> Tensor:
    """CTFs (b, K) of some particles at frequencies (kx, ky) in 1/Å, shape (K, 2).

    ``defocus_change`` is added to both underfocus values: Å, shape (b,).
    """
    change = np.broadcast_to(defocus_change, len(indices))
    device = frequencies.device
    out = torch.empty(len(indices), len(frequencies), device=device)
    groups = particles.optics_index[indices]
    for number in np.unique(groups):
        here = np.flatnonzero(groups == number)
        optics = particles.optics[number]
        underfocus = (getattr(particles, name)[indices[here]] + change[here] for name in _UNDERFOCUS)
        others = (getattr(particles, name)[indices[here]] for name in _OTHERS)
        values = (torch.as_tensor(value, device=device) for value in (*underfocus, *others))
        group_ctf = ctf(
            frequencies,
            optics.wavelength,
            optics.spherical_aberration,
            optics.amplitude_contrast,
            *values,
            even_zernike=optics.even_zernike,
        )
        out[torch.as_tensor(here, device=device)] = group_ctf.abs() if optics.phase_flipped else group_ctf
    return out


def delocalisation(
    particles: Particles, indices: np.ndarray, frequency: float, defocus_change: np.ndarray
) -> np.ndarray:
    """Å by which defocus moves signal of a frequency in 1/Å away from its origin in some images, (b,).

    The gradient of the CTF's phase over 2π: λ Δf k − Cs λ³ k³, Δf the mean underfocus with Å added, (b,).
    """
    mean = 0.5 * (particles.defocus_u + particles.defocus_v)[indices] + defocus_change
    groups = particles.optics_index[indices]
    wavelength = np.array([optics.wavelength for optics in particles.optics])[groups]
    aberration = np.array([optics.spherical_aberration for optics in particles.optics])[groups]
    return np.abs(wavelength * mean * frequency - aberration * (wavelength * frequency) ** 3)
