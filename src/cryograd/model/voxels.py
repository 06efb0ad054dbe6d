"""Slices of complex Fourier voxels themselves: no padding, no correction, nearest or linear interpolation.

This is the setting in which Toader, Brubaker & Lederman study how well conditioned reconstruction is. The
unknowns are the coefficients of a half-ball, DC and one of each conjugate pair.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cryograd.fourier import HalfBall
from cryograd.model.projection import insert_grid, sample_grid


@dataclass(frozen=True)
class FourierVoxels:
    """The voxels that slices of a radius touch, and slicing as a linear map of them.

    Parameters
    ----------
    radius
        Of the slices, in Fourier pixels.
    interpolation
        Of the values between voxels.
    """

    radius: float
    interpolation: Literal["nearest", "linear"] = "linear"

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Integer (kx, ky, kz) of each unknown, shape (N, 3)."""
        return HalfBall(self._reach).frequencies

    @property
    def _reach(self) -> float:
        """Farthest voxel: rounding, or the far corner of a cell, may lie that much beyond the radius."""
        return self.radius + (0.87 if self.interpolation == "nearest" else 1.74)

    def __len__(self) -> int:
        return len(self.frequencies)

    @cached_property
    def _half(self) -> int:
        return int(np.abs(self.frequencies).max()) + 1

    @cached_property
    def _where(self) -> tuple[Tensor, Tensor, Tensor]:
        m = self._half
        kx, ky, kz = torch.as_tensor(self.frequencies).unbind(-1)
        side = 2 * m + 1
        place = ((kz + m) * side + ky + m) * (m + 1) + kx
        plane = torch.nonzero((kx == 0) & ((ky != 0) | (kz != 0)))[:, 0]
        partner = ((m - kz[plane]) * side + m - ky[plane]) * (m + 1)
        return place, plane, partner

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Flat place on the half-space grid of each unknown; which have a partner there, and its place."""
        place, plane, partner = self._where
        return place.to(device), plane.to(device), partner.to(device)

    def _grid(self, values: Tensor) -> Tensor:
        """Half-space grid (G, G, H, 2) that holds the unknowns (N,) and the partners of those with kx = 0."""
        m = self._half
        place, plane, partner = self._places(values.device)
        grid = torch.zeros((2 * m + 1) ** 2 * (m + 1), dtype=values.dtype, device=values.device)
        grid[place] = values
        grid[partner] = values[plane].conj()
        return torch.view_as_real(grid.view(2 * m + 1, 2 * m + 1, m + 1))

    def _unknowns(self, flat: Tensor) -> Tensor:
        """Adjoint of `_grid`, of a flat grid."""
        place, plane, partner = self._places(flat.device)
        values = flat[place]
        values[plane] += flat[partner].conj()
        return values

    def nearest(self, rotations: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Number of the unknown nearest to each point of each slice (J, K), and whether it is conjugated."""
        m = self._half
        where = torch.einsum("jba,kb->jka", rotations.double(), points.double()).round().long()
        kx, ky, kz = where.unbind(-1)
        partner = (kx < 0) | ((kx == 0) & ((ky < 0) | ((ky == 0) & (kz < 0))))
        kx, ky, kz = (torch.where(partner, -k, k) for k in (kx, ky, kz))
        number = torch.full(((2 * m + 1) ** 2 * (m + 1),), -1, device=rotations.device)
        place, _, _ = self._places(rotations.device)
        number[place] = torch.arange(len(self), device=rotations.device)
        return number[((kz + m) * (2 * m + 1) + ky + m) * (m + 1) + kx], partner

    def slices(self, values: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
        """Slices (J, K) of unknowns (N,) at points (K, 3) turned by rotations (J, 3, 3)."""
        if self.interpolation == "linear":
            return torch.view_as_complex(sample_grid(self._grid(values), rotations, points, 1.0))
        number, partner = self.nearest(rotations, points)
        found = values[number]
        return torch.where(partner, found.conj(), found)

    def adjoint(self, slices: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
        """Adjoint of `slices` in the inner product Re Σ a* b, shape (N,)."""
        if self.interpolation == "linear":
            values = torch.view_as_real(slices.contiguous())
            grid = insert_grid(values, rotations, points, 1.0, self._half)
            return self._unknowns(torch.view_as_complex(grid).flatten())
        number, partner = self.nearest(rotations, points)
        values = torch.where(partner, slices.conj(), slices).flatten()
        out = torch.zeros(len(self), dtype=slices.dtype, device=slices.device)
        return out.index_add(0, number.flatten(), values)

    def weights(self, rotations: Tensor, points: Tensor, power: Tensor) -> Tensor:
        """All that is needed of Σ_i P_iᵀ C_i² P_i, a sum over images: add those of two sets for both.

        Parameters
        ----------
        rotations
            Of the images, shape (J, 3, 3).
        points
            Of a slice, shape (K, 3).
        power
            C² of each image, (J, K), or of all, (1, K); its dtype is the result's.

        Returns
        -------
        Tensor
            The diagonal (N,) for nearest-neighbour slices, where it is all; for linear ones the couplings of
            neighbours on the half-space grid, (G, G, H, 8), see `cryograd.model.stencil`.
        """
        if self.interpolation == "linear":
            from cryograd.model.stencil import stencil_weights  # numba takes half a second to import

            return stencil_weights(rotations, points, power, self._half)
        number, _ = self.nearest(rotations, points)
        total = torch.zeros(len(self), dtype=power.dtype, device=power.device)
        return total.index_add_(0, number.flatten(), power.expand(number.shape).flatten())

    def normal(self, weights: Tensor, values: Tensor) -> Tensor:
        """Σ_i P_iᵀ C_i² P_i v of unknowns (N,), from what `weights` returned."""
        if self.interpolation == "nearest":
            return weights * values
        from cryograd.model.stencil import stencil_product

        grid = stencil_product(weights, self._grid(values), self._reach)
        return self._unknowns(torch.view_as_complex(grid).flatten())

    def diagonal(self, weights: Tensor) -> Tensor:
        """Diagonal (N,) of Σ_i P_iᵀ C_i² P_i: the same for the real and the imaginary parts."""
        return weights if self.interpolation == "nearest" else self._unknowns(weights[..., 0].flatten())

    def row_sums(self, weights: Tensor) -> Tensor:
        """Row sums (N,) of Σ_i P_iᵀ C_i² P_i, that is Σ_i P_iᵀ C_i²."""
        ones = torch.ones(len(self), dtype=weights.dtype, device=weights.device)
        return self.normal(weights, torch.complex(ones, torch.zeros_like(ones))).real
