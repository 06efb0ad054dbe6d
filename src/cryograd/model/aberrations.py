"""Higher aberrations of a microscope as phases, in RELION's conventions.

Zernike polynomials Z_n^m are not normalised, and are taken at frequencies in 1/Å: RELION's documentation has
Z_3^-1 = 3 (kx² + ky²) ky − 2 ky for its example.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count

import torch
from torch import Tensor


def even_phase(frequencies: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Phase (K,) in radians that ``rlnEvenZernike`` adds to the aberration phase γ of the CTF.

    Parameters
    ----------
    frequencies
        (kx, ky) in 1/Å, shape (K, 2).
    coefficients
        Of Z_0^0, Z_2^-2, Z_2^0, Z_2^2, Z_4^-4, …
    """
    return _expansion(frequencies, coefficients, lowest=0)


def odd_phase(
    frequencies: Tensor,
    wavelength: float,
    spherical_aberration: float,
    beam_tilt: tuple[float, float],
    coefficients: Sequence[float],
) -> Tensor:
    """Odd phase φ (K,) in radians: an image has the factor exp(iφ) of beam tilt and ``rlnOddZernike``.

    φ(k) = −2π Cs λ² |k|² (k·τ) + Σ c Z(k).

    Parameters
    ----------
    frequencies
        (kx, ky) in 1/Å, shape (K, 2).
    wavelength, spherical_aberration
        λ and Cs in Å.
    beam_tilt
        τ = (x, y) in radians.
    coefficients
        Of Z_1^-1, Z_1^1, Z_3^-3, Z_3^-1, Z_3^1, Z_3^3, …
    """
    k = frequencies.double()
    tilt = torch.tensor(beam_tilt, dtype=torch.float64, device=k.device)
    coma = -2.0 * math.pi * spherical_aberration * wavelength**2 * k.square().sum(-1) * (k @ tilt)
    return coma + _expansion(k, coefficients, lowest=1)


def _expansion(frequencies: Tensor, coefficients: Sequence[float], lowest: int) -> Tensor:
    """Σ c Z(k), shape (K,), over orders n of the parity of the lowest."""
    k = frequencies.double()
    total = torch.zeros(k.shape[:-1], dtype=torch.float64, device=k.device)
    for coefficient, (n, m) in zip(coefficients, _orders(lowest), strict=False):
        total = total + coefficient * _zernike(n, m, k)
    return total


def _orders(lowest: int) -> Iterator[tuple[int, int]]:
    """(n, m) of all polynomials of one parity."""
    return ((n, m) for n in count(lowest, 2) for m in range(-n, n + 1, 2))


def _zernike(n: int, m: int, k: Tensor) -> Tensor:
    """R_n^|m|(ρ) cos(mφ) for m ≥ 0 and R_n^|m|(ρ) sin(|m|φ) below, at points (K, 2) given as (x, y)."""
    x, y = k.unbind(-1)
    power, pairs = torch.complex(x, y) ** abs(m), (n - abs(m)) // 2
    rho2 = x**2 + y**2
    radial = sum(
        (
            (-1) ** s * math.comb(n - s, s) * math.comb(n - 2 * s, pairs - s) * rho2 ** (pairs - s)
            for s in range(pairs + 1)
        ),
        torch.zeros_like(rho2),
    )
    return radial * (power.real if m >= 0 else power.imag)
