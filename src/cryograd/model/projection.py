"""Slices of a volume's Fourier transform, and the exact adjoint of every step.

The volume is divided by the transform of the interpolation kernel, zero-padded, transformed and sampled by
trilinear interpolation. The same kernels serve slices (points with kz = 0) and whole rotated transforms.
"""

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, library

from cryograd.fourier import HalfDisc


def _cuda_kernels() -> ModuleType:
    from cryograd.model import kernels_cuda  # Triton exists only in the CUDA builds of torch

    return kernels_cuda


@library.custom_op("cryograd::sample_grid", mutates_args=())
def sample_grid(grid: Tensor, rotations: Tensor, points: Tensor, scale: float) -> Tensor:
    """Trilinear values (J, K, 2) of a half-space grid (D, D, H, 2) at ``scale · Rᵀ p``; see `Projector`."""
    if grid.is_cuda:
        return _cuda_kernels().sample(grid, rotations, points, scale)
    from cryograd.model import kernels_cpu  # numba takes half a second to import

    out = kernels_cpu.sample(grid.numpy(), rotations.contiguous().numpy(), points.numpy(), scale)
    return torch.from_numpy(out)


@library.custom_op("cryograd::insert_grid", mutates_args=())
def insert_grid(values: Tensor, rotations: Tensor, points: Tensor, scale: float, half: int) -> Tensor:
    """Adjoint of `sample_grid`: the half-space grid (2·half+1, 2·half+1, half+1, 2) of values (J, K, 2)."""
    if values.is_cuda:
        return _cuda_kernels().insert(values, rotations, points, scale, half)
    from cryograd.model import kernels_cpu

    out = kernels_cpu.insert(
        values.contiguous().numpy(), rotations.contiguous().numpy(), points.numpy(), scale, half
    )
    return torch.from_numpy(out)


def _save_for_sample(ctx, inputs, output) -> None:
    grid, rotations, points, scale = inputs
    ctx.save_for_backward(rotations, points)
    ctx.scale, ctx.half = scale, grid.shape[2] - 1


def _sample_backward(ctx, grad):
    rotations, points = ctx.saved_tensors
    return insert_grid(grad.contiguous(), rotations, points, ctx.scale, ctx.half), None, None, None


def _save_for_insert(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[1:3])
    ctx.scale = inputs[3]


def _insert_backward(ctx, grad):
    rotations, points = ctx.saved_tensors
    return sample_grid(grad.contiguous(), rotations, points, ctx.scale), None, None, None, None


sample_grid.register_autograd(_sample_backward, setup_context=_save_for_sample)
insert_grid.register_autograd(_insert_backward, setup_context=_save_for_insert)


@dataclass(frozen=True)
class Projector:
    """Fourier slices of real volumes of one box size, up to one radius.

    Parameters
    ----------
    size
        Box size L in voxels.
    radius
        Largest radius sampled, in Fourier pixels of the unpadded box; at most L / 2 - 1.
    oversampling
        Zero-padding factor. With linear interpolation 2 leaves a relative error of about 3 %.
    corrected
        Whether volumes are divided by the transform of the interpolation kernel.
    """

    size: int
    radius: float
    oversampling: int = 2
    corrected: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.radius <= self.size / 2 - 1:
            raise ValueError(
                f"radius {self.radius} is not within 1 and {self.size / 2 - 1} of box {self.size}"
            )

    @property
    def half(self) -> int:
        """Largest index of the sampled grid along an axis: the radius and one more for interpolation."""
        return int(np.floor(self.radius * self.oversampling)) + 1

    @cached_property
    def _correction(self) -> Tensor:
        """Inverse transform of the trilinear kernel along one axis, shape (L,)."""
        x = np.arange(self.size) - self.size // 2
        return torch.from_numpy(1.0 / np.sinc(x / (self.size * self.oversampling)) ** 2)

    def _correct(self, volume: Tensor) -> Tensor:
        if not self.corrected:
            return volume
        c = self._correction.to(volume)
        return volume * c * c[:, None] * c[:, None, None]

    def _turns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of an axis before its transform, (L,), and after it, (D,).

        They put frequency −m first and the origin on voxel L // 2.
        """
        m, centre = self.half, self.size // 2
        wide = torch.complex128 if like.dtype == torch.float64 else torch.complex64
        x = torch.arange(self.size, dtype=torch.float64, device=like.device)
        k = torch.arange(-m, m + 1, dtype=torch.float64, device=like.device)
        unit = 2.0 * torch.pi / (self.size * self.oversampling)
        before, after = (torch.polar(torch.ones_like(t), unit * t) for t in (m * x, centre * k))
        return before.to(wide), after.to(wide)

    def transform(self, volume: Tensor) -> Tensor:
        """Oversampled, gridding-corrected transform (D, D, H, 2) of a real volume (L, L, L).

        Axis by axis, so that most of the zeros around the volume, and of the frequencies that are not asked
        for, are passed over.
        """
        n, d = self.size * self.oversampling, 2 * self.half + 1
        before, after = self._turns(volume)
        rows = torch.fft.rfft(self._correct(volume), n=n)[..., : self.half + 1]
        planes = torch.fft.fft(rows * (after[self.half :] * before[:, None]), n=n, dim=1)[:, :d]
        spectrum = torch.fft.fft(planes * (after[:, None] * before[:, None, None]), n=n, dim=0)[:d]
        return torch.view_as_real((spectrum * after[:, None, None]).contiguous())

    def transform_adjoint(self, grid: Tensor) -> Tensor:
        """Adjoint of `transform`: a real volume (L, L, L) of a grid (D, D, H, 2)."""
        n, size = self.size * self.oversampling, self.size
        before, after = (t.conj() for t in self._turns(grid))
        # irfft adds the conjugate partner of every kx > 0; the adjoint of rfft does not.
        last = 0.5 * after[self.half :]
        last[0] *= 2.0

        def back(spectrum: Tensor, axis: int) -> Tensor:
            return torch.fft.ifft(spectrum, n=n, dim=axis, norm="forward").narrow(axis, 0, size)

        planes = back(torch.view_as_complex(grid) * after[:, None, None], 0)
        rows = back(planes * (after[:, None] * before[:, None, None]), 1)
        volume = torch.fft.irfft(rows * (last * before[:, None]), n=n, norm="forward")
        return self._correct(volume[..., :size])

    def sample(self, grid: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
        """Complex values (J, K) of a transform at ``Rᵀ p``.

        Parameters
        ----------
        grid
            What `transform` returned.
        rotations
            Rotation matrices (J, 3, 3), of the grid's dtype.
        points
            Frequencies (K, 3), xyz in Fourier pixels, none farther from the origin than ``radius``.
        """
        return torch.view_as_complex(sample_grid(grid, rotations, points, float(self.oversampling)))

    def insert(self, values: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
        """Adjoint of `sample`: the grid (D, D, H, 2) of complex values (J, K)."""
        return insert_grid(
            torch.view_as_real(values.contiguous()), rotations, points, float(self.oversampling), self.half
        )


def slice_points(
    disc: HalfDisc, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Points (K, 3) of the central slice with normal z: the half-disc's (kx, ky) and kz = 0."""
    k = torch.as_tensor(disc.frequencies, dtype=dtype, device=device)
    return torch.nn.functional.pad(k, (0, 1)).contiguous()
