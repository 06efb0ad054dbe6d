"""Correlation of a map with itself, turned."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryograd.fourier import HalfBall, fourier_3d, pack_ball, resize_volume
from cryograd.model.projection import Projector
from cryograd.rotations import FloatArray


class SelfCorrelation:
    """Fourier coefficients (K,) of a map up to a radius, and those of the map turned.

    Products of coefficients are whitened by the map's own power, and a shell counts by its radius: half way
    between equal shells, which the envelope dominates, and equal coefficients, which noise does.

    Parameters
    ----------
    volume
        Cubic map. Nothing is masked here.
    radius
        Fourier pixels.
    oversampling
        Zero-padding factor of the interpolation.
    """

    def __init__(self, volume: Tensor, radius: float, oversampling: int = 2) -> None:
        self.radius = radius
        self._ball = HalfBall(radius)
        size = min(volume.shape[-1], 2 * int(np.ceil(radius)) + 4)
        small = resize_volume(volume, size)
        self.values = pack_ball(fourier_3d(small), self._ball)
        self._points = torch.as_tensor(self._ball.frequencies, dtype=torch.float32)
        self._projector = Projector(size, radius, oversampling)
        self._grid = self._projector.transform(small)
        self._weights = self._shell_weights()

    def _shell_weights(self) -> Tensor:
        """Weight of each coefficient (K,); DC gets 0."""
        power = self.shell_means(self.values.abs().square())[1:]
        # The floor leaves the shells that a low-pass emptied unamplified.
        whitened = 1.0 / (np.maximum(power, 1e-6 * power.max()) * np.arange(1, len(power) + 1))
        return torch.as_tensor(np.append(0.0, whitened)[self._ball.shells], dtype=torch.float32)

    def shell_means(self, values: Tensor) -> FloatArray:
        """Means of real values (K,) over the shells."""
        return np.bincount(self._ball.shells, values.numpy()) / np.bincount(self._ball.shells)

    def turned(self, rotations: FloatArray, centre: FloatArray | None = None) -> Tensor:
        """Coefficients (J, K) of the map turned by rotations (J, 3, 3) about a point (x, y, z).

        The point is in box lengths from the box's centre, which it is by default.
        """
        matrices = torch.as_tensor(rotations, dtype=torch.float32)
        sampled = self._projector.sample(self._grid, matrices, self._points)
        if centre is None:
            return sampled
        # x -> g (x - c) + c is a turn about the origin and a shift by c - g c.
        shifts = torch.as_tensor(centre - rotations @ centre, dtype=torch.float32)
        angle = (-2.0 * np.pi) * shifts @ self._points.T
        return sampled * torch.polar(torch.ones_like(angle), angle)

    def products(self, one: Tensor, many: Tensor) -> FloatArray:
        """Weighted real inner products (J,) of coefficients (K,) with others (J, K)."""
        weighted = torch.view_as_real(self._weights * one).flatten()
        return (torch.view_as_real(many).flatten(-2) @ weighted).double().numpy()

    def correlations(self, rotations: FloatArray, centre: FloatArray | None = None) -> FloatArray:
        """Correlations (J,) of the map with itself turned."""
        turned = self.turned(rotations, centre)
        norms = (turned.abs().square() @ self._weights) * (self.values.abs().square() @ self._weights)
        return self.products(self.values, turned) / np.sqrt(norms.double().numpy())

    def without_round_part(self, axis: FloatArray, centre: FloatArray, angles: int) -> Tensor:
        """Coefficients (K,) of the map less its mean over even turns about an axis (3,) through a point."""
        return self.values - self.turned(turns(axis, angles), centre).mean(dim=0)

    def shell_correlation(self, other: Tensor) -> FloatArray:
        """Fourier shell correlation of the map and other coefficients (K,), from the origin on."""
        cross = self.shell_means((self.values.conj() * other).real)
        power = self.shell_means(self.values.abs().square()) * self.shell_means(other.abs().square())
        return np.divide(cross, np.sqrt(power), out=np.zeros_like(cross), where=power > 0.0)


def turns(axes: FloatArray, angles: int) -> FloatArray:
    """Rotations (..., angles, 3, 3) about unit axes (..., 3) by even fractions of a turn, 0 first."""
    theta = 2.0 * np.pi / angles * np.arange(angles)
    vectors = axes[..., None, :] * theta[:, None]
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)
