"""Slices of a volume's Fourier transform, and the exact adjoint of every step.

The volume is divided by the transform of the interpolation kernel, zero-padded, transformed and sampled by
trilinear interpolation. The same kernels serve slices (points with kz = 0) and whole rotated transforms.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, library

from cryograd.fourier import HalfDisc

# Points of a padded transform that are worked on at a time: 16 MB, so that the C library has the memory of
# one ready for the next. With four times as many a product at 256 px took 1.5 times as long.
_BLOCK_POINTS = 2**21


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
    grid = values.new_zeros((2 * half + 1, 2 * half + 1, half + 1, 2))
    add_to_grid(grid, values, rotations, points, scale)
    return grid


def add_to_grid(grid: Tensor, values: Tensor, rotations: Tensor, points: Tensor, scale: float) -> None:
    """Add to a grid what `insert_grid` makes of values; both may also be real, with a last axis of 1."""
    if values.is_cuda:
        _cuda_kernels().insert(grid, values, rotations, points, scale)
        return
    from cryograd.model import kernels_cpu

    kernels_cpu.insert(
        grid.numpy(), values.contiguous().numpy(), rotations.contiguous().numpy(), points.numpy(), scale
    )


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

    def _blocks(self) -> Iterator[slice]:
        """Frequencies kx that are transformed along the other axes at a time: all take much memory."""
        step = max(1, _BLOCK_POINTS // (self.size * self.oversampling) ** 2)
        return (slice(start, start + step) for start in range(0, self.half + 1, step))

    def _along_x(self, volume: Tensor) -> Tensor:
        """Transform of a real volume along x, (L, L, H), of the frequencies from 0 to m."""
        n = self.size * self.oversampling
        return torch.fft.rfft(self._correct(volume), n=n)[..., : self.half + 1]

    def _onward(self, rows: Tensor, block: slice) -> Tensor:
        """Transform along y and z of some frequencies kx, (L, L, h) to (D, D, h)."""
        n, d = self.size * self.oversampling, 2 * self.half + 1
        before, after = self._turns(rows.real)
        turned = rows[..., block] * (after[self.half :][block] * before[:, None])
        planes = torch.fft.fft(turned, n=n, dim=1)[:, :d]
        return (
            torch.fft.fft(planes * (after[:, None] * before[:, None, None]), n=n, dim=0)[:d]
            * (after[:, None, None])
        )

    def _backward(self, spectrum: Tensor, block: slice) -> Tensor:
        """Adjoint of `_onward`, (D, D, h) to (L, L, h)."""
        n, size = self.size * self.oversampling, self.size
        before, after = (t.conj() for t in self._turns(spectrum.real))
        planes = torch.fft.ifft(spectrum * after[:, None, None], n=n, dim=0, norm="forward")[:size]
        turned = planes * (after[:, None] * before[:, None, None])
        rows = torch.fft.ifft(turned, n=n, dim=1, norm="forward")[:, :size]
        return rows * (after[self.half :][block] * before[:, None])

    def _back_along_x(self, rows: Tensor) -> Tensor:
        """Adjoint of `_along_x`; the rows are changed."""
        # irfft adds the conjugate partner of every kx > 0; the adjoint of rfft does not.
        rows[..., 1:] *= 0.5
        volume = torch.fft.irfft(rows, n=self.size * self.oversampling, norm="forward")
        return self._correct(volume[..., : self.size])

    def transform(self, volume: Tensor) -> Tensor:
        """Oversampled, gridding-corrected transform (D, D, H, 2) of a real volume (L, L, L).

        Axis by axis, so that most of the zeros around the volume, and of the frequencies that are not asked
        for, are passed over.
        """
        rows, d = self._along_x(volume), 2 * self.half + 1
        spectrum = rows.new_empty((d, d, self.half + 1))
        for block in self._blocks():
            spectrum[..., block] = self._onward(rows, block)
        return torch.view_as_real(spectrum)

    def transform_adjoint(self, grid: Tensor) -> Tensor:
        """Adjoint of `transform`: a real volume (L, L, L) of a grid (D, D, H, 2)."""
        spectrum = torch.view_as_complex(grid)
        rows = spectrum.new_empty((self.size, self.size, self.half + 1))
        for block in self._blocks():
            rows[..., block] = self._backward(spectrum[..., block], block)
        return self._back_along_x(rows)

    def filtered(self, volume: Tensor, weights: Tensor) -> Tensor:
        """`transform`, a product with weights (D, D, H), and `transform_adjoint`, never with a whole grid."""
        rows = self._along_x(volume)
        back = rows.new_empty(rows.shape)
        for block in self._blocks():
            back[..., block] = self._backward(self._onward(rows, block) * weights[..., block], block)
        return self._back_along_x(back)

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

    def add(self, grid: Tensor, values: Tensor, rotations: Tensor, points: Tensor) -> None:
        """Add to a grid from `empty` what `insert` makes of complex values (J, K), or of real ones."""
        add_to_grid(grid, _as_real(values.contiguous()), rotations, points, float(self.oversampling))

    def empty(self, like: Tensor) -> Tensor:
        """A grid (D, D, H, 2) of zeros of a complex tensor's type, or (D, D, H, 1) of a real one's."""
        d = 2 * self.half + 1
        return _as_real(like.new_zeros((d, d, self.half + 1)))


def _as_real(values: Tensor) -> Tensor:
    """Real and imaginary parts along a last axis, or of real values themselves alone."""
    return torch.view_as_real(values) if values.is_complex() else values[..., None]


def slice_points(
    disc: HalfDisc, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Points (K, 3) of the central slice with normal z: the half-disc's (kx, ky) and kz = 0."""
    k = torch.as_tensor(disc.frequencies, dtype=dtype, device=device)
    return torch.nn.functional.pad(k, (0, 1)).contiguous()
