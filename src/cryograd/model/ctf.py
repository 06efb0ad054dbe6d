"""Contrast transfer function on packed Fourier coefficients, in RELION's sign and angle conventions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cryograd.model.aberrations import even_phase


def ctf_phase(
    frequencies: Tensor,
    wavelength: float,
    spherical_aberration: float,
    defocus_u: Tensor,
    defocus_v: Tensor,
    astigmatism_angle: Tensor,
) -> Tensor:
    """Phase γ (n, K) in radians of defocus and spherical aberration.

    γ(k) = −π λ Δf(φ) k² + ½ π Cs λ³ k⁴ with underfocus Δf positive and
    Δf(φ) = ½ (ΔfU + ΔfV) + ½ (ΔfU − ΔfV) cos 2(φ − φ0).

    Parameters
    ----------
    frequencies
        (kx, ky) in 1/Å, shape (K, 2), float64: the phase reaches hundreds of radians.
    wavelength, spherical_aberration
        Electron wavelength λ and Cs in Å.
    defocus_u, defocus_v, astigmatism_angle
        Per particle, shape (n,): Å, Å, radians.
    """
    kx, ky = frequencies.double().unbind(-1)
    k2 = kx**2 + ky**2
    azimuth = torch.atan2(ky, kx)
    u, v, angle = (p.double()[:, None] for p in (defocus_u, defocus_v, astigmatism_angle))
    defocus = 0.5 * (u + v) + 0.5 * (u - v) * torch.cos(2.0 * (azimuth - angle))
    return -math.pi * wavelength * defocus * k2 + 0.5 * math.pi * spherical_aberration * wavelength**3 * k2**2


def ctf(
    frequencies: Tensor,
    wavelength: float,
    spherical_aberration: float,
    amplitude_contrast: float,
    defocus_u: Tensor,
    defocus_v: Tensor,
    astigmatism_angle: Tensor,
    phase_shift: Tensor,
    b_factor: Tensor,
    scale: Tensor,
    even_zernike: Sequence[float] = (),
) -> Tensor:
    """Contrast transfer function (n, K), positive at the origin, as float32.

    C(k) = s · exp(−B k² / 4) · sin(−γ − Σ c Z + φ_p + asin w) for phase plate φ_p, amplitude contrast w.

    Parameters
    ----------
    frequencies
        (kx, ky) in 1/Å, shape (K, 2).
    wavelength, spherical_aberration
        Å.
    amplitude_contrast
        Fraction w.
    defocus_u, defocus_v, astigmatism_angle, phase_shift, b_factor, scale
        Per particle, shape (n,): Å, Å, radians, radians, Å², dimensionless.
    even_zernike
        Coefficients c of the symmetric aberrations; see `even_phase`.
    """
    gamma = ctf_phase(frequencies, wavelength, spherical_aberration, defocus_u, defocus_v, astigmatism_angle)
    gamma = gamma + even_phase(frequencies, even_zernike)
    k2 = frequencies.double().square().sum(-1)
    envelope = scale.double()[:, None] * torch.exp(-0.25 * b_factor.double()[:, None] * k2)
    value = envelope * torch.sin(-gamma + phase_shift.double()[:, None] + math.asin(amplitude_contrast))
    return value.float()


def defocus_rate(frequencies: Tensor, wavelength: float) -> Tensor:
    """Radians κ = πλ|k|² (K,) by which the sine's argument grows for each Å of mean underfocus, float64."""
    return math.pi * wavelength * frequencies.double().square().sum(-1)
