"""Centred Fourier transforms and the half-disc of coefficients that every image is reduced to.

Transforms are unnormalised and centred on voxel ``size // 2``. Images and volumes are indexed yx and zyx.
Of each pair of conjugate coefficients one is kept: kx > 0, or kx = 0 and ky > 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class HalfDisc:
    """Fourier coefficients of an image up to a radius, one of each conjugate pair, sorted by radius.

    Because they are sorted by radius, a smaller disc is a prefix of a larger one. DC is excluded.

    Parameters
    ----------
    radius
        Largest distance from the origin in Fourier pixels, 1 / (box × pixel size).
    """

    radius: float

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Integer (kx, ky) of each coefficient in Fourier pixels, shape (K, 2)."""
        r = int(np.floor(self.radius))
        ky, kx = np.meshgrid(np.arange(-r, r + 1), np.arange(0, r + 1), indexing="ij")
        keep = ((kx > 0) | (ky > 0)) & (kx**2 + ky**2 <= self.radius**2)
        k = np.stack([kx[keep], ky[keep]], axis=-1)
        order = np.lexsort((k[:, 1], k[:, 0], (k**2).sum(axis=1)))
        return k[order]

    @cached_property
    def shells(self) -> np.ndarray:
        """Nearest integer radius of each coefficient, shape (K,)."""
        return np.rint(np.hypot(*self.frequencies.T)).astype(np.int64)

    def __len__(self) -> int:
        return len(self.frequencies)

    def by_shell(self, values: Tensor) -> Tensor:
        """Sums (..., S) of values (..., K) over the shells from 0 on, float64."""
        shells = torch.as_tensor(self.shells, device=values.device)
        total = values.new_zeros((*values.shape[:-1], int(shells[-1]) + 1), dtype=torch.float64)
        return total.index_add_(-1, shells, values.double())


@dataclass(frozen=True)
class HalfBall:
    """Fourier coefficients of a volume up to a radius, one of each conjugate pair, and DC.

    Parameters
    ----------
    radius
        Largest distance from the origin in Fourier pixels.
    """

    radius: float

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Integer (kx, ky, kz) of each coefficient in Fourier pixels, shape (K, 3)."""
        r = int(np.floor(self.radius))
        kz, ky, kx = np.meshgrid(
            np.arange(-r, r + 1), np.arange(-r, r + 1), np.arange(0, r + 1), indexing="ij"
        )
        half = (kx > 0) | ((kx == 0) & ((ky > 0) | ((ky == 0) & (kz >= 0))))
        keep = half & (kx**2 + ky**2 + kz**2 <= self.radius**2)
        return np.stack([kx[keep], ky[keep], kz[keep]], axis=-1)

    @cached_property
    def shells(self) -> np.ndarray:
        """Nearest integer radius of each coefficient, shape (K,)."""
        return np.rint(np.sqrt((self.frequencies**2).sum(axis=1))).astype(np.int64)

    def __len__(self) -> int:
        return len(self.frequencies)


def fourier_2d(images: Tensor) -> Tensor:
    """Centred half-plane transforms (..., L, L//2 + 1) of real images (..., L, L); ky in FFT order."""
    return torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1)))


def fourier_3d(volume: Tensor) -> Tensor:
    """Centred half-space transform (..., L, L, L//2 + 1) of real volumes (..., L, L, L); FFT order."""
    return torch.fft.rfftn(torch.fft.ifftshift(volume, dim=(-3, -2, -1)), dim=(-3, -2, -1))


def inverse_fourier_2d(spectrum: Tensor, size: int) -> Tensor:
    """Real images (..., L, L) of the half-plane transforms that `fourier_2d` gives."""
    return torch.fft.fftshift(torch.fft.irfft2(spectrum, s=(size, size)), dim=(-2, -1))


def inverse_fourier_3d(spectrum: Tensor, size: int) -> Tensor:
    """Real volume (..., L, L, L) of the half-space transform that `fourier_3d` gives."""
    volume = torch.fft.irfftn(spectrum, s=(size, size, size), dim=(-3, -2, -1))
    return torch.fft.fftshift(volume, dim=(-3, -2, -1))


def pack_disc(spectrum: Tensor, disc: HalfDisc) -> Tensor:
    """Coefficients (..., K) of half-plane transforms (..., L, L//2 + 1) on a half-disc."""
    kx, ky = torch.as_tensor(disc.frequencies, device=spectrum.device).unbind(-1)
    return spectrum[..., ky % spectrum.shape[-2], kx]


def unpack_disc(coefficients: Tensor, disc: HalfDisc, size: int) -> Tensor:
    """Real images (..., L, L) whose transforms hold the given coefficients and are zero elsewhere."""
    kx, ky = torch.as_tensor(disc.frequencies, device=coefficients.device).unbind(-1)
    shape = (*coefficients.shape[:-1], size, size // 2 + 1)
    spectrum = torch.zeros(shape, dtype=coefficients.dtype, device=coefficients.device)
    spectrum[..., ky % size, kx] = coefficients
    axis = kx == 0
    spectrum[..., (-ky[axis]) % size, 0] = coefficients[..., axis].conj()
    return inverse_fourier_2d(spectrum, size)


def pack_ball(spectrum: Tensor, ball: HalfBall) -> Tensor:
    """Coefficients (..., K) of half-space transforms (..., L, L, L//2 + 1) on a half-ball."""
    kx, ky, kz = torch.as_tensor(ball.frequencies, device=spectrum.device).unbind(-1)
    return spectrum[..., kz % spectrum.shape[-3], ky % spectrum.shape[-2], kx]


def unpack_ball(coefficients: Tensor, ball: HalfBall, size: int) -> Tensor:
    """Real volumes (..., L, L, L) whose transforms hold the given coefficients and are zero elsewhere."""
    kx, ky, kz = torch.as_tensor(ball.frequencies, device=coefficients.device).unbind(-1)
    shape = (*coefficients.shape[:-1], size, size, size // 2 + 1)
    spectrum = torch.zeros(shape, dtype=coefficients.dtype, device=coefficients.device)
    # The conjugate partners first, so that DC, its own partner, is kept as given.
    plane = kx == 0
    spectrum[..., (-kz[plane]) % size, (-ky[plane]) % size, 0] = coefficients[..., plane].conj()
    spectrum[..., kz % size, ky % size, kx] = coefficients
    return inverse_fourier_3d(spectrum, size)


def unpack_ball_adjoint(volume: Tensor, ball: HalfBall) -> Tensor:
    """Adjoint of `unpack_ball` in the inner product Re Σ a* b: coefficients (..., K) of real volumes."""
    pairs = torch.full((len(ball),), 2.0, dtype=volume.dtype, device=volume.device)
    pairs[torch.as_tensor((ball.frequencies == 0).all(axis=1), device=volume.device)] = 1.0
    return pack_ball(fourier_3d(volume), ball) * (pairs / volume.shape[-1] ** 3)


def radius_grid(size: int, ndim: int, device: torch.device | str = "cpu") -> Tensor:
    """Distance of every coefficient of a half-space transform from the origin in Fourier pixels."""
    full = torch.fft.fftfreq(size, 1.0 / size, device=device, dtype=torch.float64)
    half = torch.arange(size // 2 + 1, device=device, dtype=torch.float64)
    grids = torch.meshgrid(*[full] * (ndim - 1), half, indexing="ij")
    return torch.sqrt(sum((g**2 for g in grids), torch.zeros((), device=device, dtype=torch.float64)))


def resize_plane(images: Tensor, size: int) -> Tensor:
    """Crop real square images (..., L, L) in Fourier space to a coarser sampling of the same extent.

    Values are kept, as by `resize_volume`. Nyquist's coefficients are dropped: they have no partners.
    """
    old = images.shape[-1]
    if size == old:
        return images
    half = (size - 1) // 2
    k = torch.arange(-half, half + 1, device=images.device)
    spectrum, shape = fourier_2d(images), (*images.shape[:-2], size, size // 2 + 1)
    out = torch.zeros(shape, dtype=spectrum.dtype, device=images.device)
    out[..., k % size, : half + 1] = spectrum[..., k % old, : half + 1]
    return inverse_fourier_2d(out, size) * (size / old) ** 2


def resize_volume(volume: Tensor, size: int) -> Tensor:
    """Crop or zero-pad a real cubic volume in Fourier space to another sampling of the same extent.

    Values are kept: a smooth density has the same values on the finer or coarser grid.
    """
    old = volume.shape[-1]
    return volume if size == old else resize_transform(volume, size) * (size / old) ** 3


def resize_transform(volume: Tensor, size: int) -> Tensor:
    """Crop or zero-pad a real cubic volume in Fourier space, coefficients and sums of voxels kept."""
    if size == volume.shape[-1]:
        return volume
    return inverse_fourier_3d(resize_spectrum(fourier_3d(volume), size), size)


def resize_spectrum(spectrum: Tensor, size: int) -> Tensor:
    """Crop or zero-pad half-space coefficients (..., L, L, L//2 + 1) in FFT order to another box."""
    old = spectrum.shape[-2]
    # Nyquist is dropped: it has no partner on the other grid.
    half = (min(size, old) - 1) // 2
    k = torch.arange(-half, half + 1, device=spectrum.device)
    shape = (*spectrum.shape[:-3], size, size, size // 2 + 1)
    out = torch.zeros(shape, dtype=spectrum.dtype, device=spectrum.device)
    out[..., k[:, None] % size, k % size, : half + 1] = spectrum[..., k[:, None] % old, k % old, : half + 1]
    return out


def quick_size(radius: float, largest: int) -> int:
    """Smallest box whose transform is quick and that holds a radius with a margin; at most the largest."""
    quick = [2**a * 3**b for a in range(1, 12) for b in range(3) if 2**a * 3**b >= 2.2 * radius + 2.0]
    return min(largest, *quick)


def lowpass_volume(volume: Tensor, radius: float, width: float = 2.0) -> Tensor:
    """Low-pass filter a real cubic volume with a raised-cosine edge of ``width`` Fourier pixels."""
    size = volume.shape[-1]
    window = lowpass_window(radius_grid(size, 3, volume.device), radius, width).to(volume.dtype)
    return inverse_fourier_3d(fourier_3d(volume) * window, size)


def lowpass_window(k: Tensor, radius: float, width: float = 2.0) -> Tensor:
    """What `lowpass_volume` multiplies a coefficient by at a distance of k Fourier pixels from the origin."""
    edge = torch.clamp((k - (radius - width / 2)) / width, 0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * edge)
