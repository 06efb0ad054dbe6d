"""How well conditioned a reconstruction at known poses is (Toader, Brubaker & Lederman, arXiv 2311.16100).

The loss is F(v) = (1/2n) Σ_i ‖C_i P_i v − x_i‖² + λ‖v‖²/2 in complex Fourier voxels. How fast plain gradient
steps converge is given by the condition number of its Hessian H = (1/n) Σ_i P_iᵀ C_i² P_i + λ.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import slice_points
from cryograd.model.voxels import FourierVoxels

# Weight of ‖v‖²/2 in the loss (the paper's).
REGULARISATION = 1e-8


@dataclass(frozen=True)
class FixedPoseHessian:
    """The Hessian of the loss at known poses.

    Parameters
    ----------
    voxels
        The unknowns, and how slices are interpolated.
    rotations
        Of the images, shape (n, 3, 3).
    power
        C² of each image at DC and on the half-disc, shape (n, 1 + K), or of all, (1, 1 + K); divided by the
        noise variance where that is known.
    regularisation
        λ.
    """

    voxels: FourierVoxels
    rotations: Tensor
    power: Tensor
    regularisation: float = REGULARISATION
    block: int = field(default=500, repr=False)

    @property
    def _points(self) -> Tensor:
        disc = slice_points(HalfDisc(self.voxels.radius), self.rotations.device, self.rotations.dtype)
        return torch.cat([torch.zeros_like(disc[:1]), disc])

    def __matmul__(self, values: Tensor) -> Tensor:
        """H v of unknowns (N,)."""
        total, points = self.regularisation * values, self._points
        for start in range(0, len(self.rotations), self.block):
            part = slice(start, start + self.block)
            power = self.power if len(self.power) == 1 else self.power[part]
            slices = power * self.voxels.slices(values, self.rotations[part], points)
            total = total + self.voxels.adjoint(slices, self.rotations[part], points) / len(self.rotations)
        return total

    def nearest_diagonal(self) -> Tensor:
        """All there is of H for nearest-neighbour slices, (1/n) Σ_i C_i² [slice i hits v] + λ, shape (N,)."""
        if self.voxels.interpolation != "nearest":
            raise ValueError("the Hessian is diagonal for nearest-neighbour slices alone")
        total = torch.zeros(len(self.voxels), dtype=self.power.dtype, device=self.power.device)
        for start in range(0, len(self.rotations), self.block):
            part = slice(start, start + self.block)
            number, _ = self.voxels.nearest(self.rotations[part], self._points)
            power = (self.power if len(self.power) == 1 else self.power[part]).expand(number.shape)
            total.index_add_(0, number.flatten(), power.flatten())
        return total / len(self.rotations) + self.regularisation

    def hutchinson_diagonal(self, probes: int, generator: torch.Generator) -> Tensor:
        """Hutchinson's estimate of the diagonal, the mean of z ⊙ H z over random signs z, shape (N,).

        A sign is the same for both members of a conjugate pair, as their one unknown demands. The error falls
        as one over the root of the probes; for nearest-neighbour slices one probe is exact.
        """
        total = torch.zeros(len(self.voxels), dtype=self.power.dtype, device=self.power.device)
        for _ in range(probes):
            signs = torch.randint(2, total.shape, generator=generator, device=generator.device)
            z = (2 * signs - 1).to(total)
            total += z * (self @ torch.complex(z, torch.zeros_like(z))).real
        return total / probes

    def extreme_eigenvalues(self, tolerance: float = 1e-3) -> tuple[float, float]:
        """The least and the largest eigenvalue, by Lanczos iterations on real and imaginary parts."""
        operator = _Stacked(self)
        start = np.random.default_rng(0).standard_normal(operator.shape[0])
        settings = {"k": 1, "v0": start, "tol": tolerance, "return_eigenvectors": False}
        least, largest = (float(eigsh(operator, which=which, **settings)[0]) for which in ("SA", "LA"))
        return least, largest


class _Stacked(LinearOperator):
    """A Hessian on real vectors, the real parts of all unknowns before the imaginary ones."""

    def __init__(self, hessian: FixedPoseHessian) -> None:
        n = len(hessian.voxels)
        super().__init__(np.dtype(np.float64), (2 * n, 2 * n))
        self.hessian = hessian

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        power = self.hessian.power
        parts = torch.as_tensor(x.reshape(2, -1), dtype=power.dtype, device=power.device)
        image = self.hessian @ torch.complex(parts[0], parts[1])
        return torch.cat([image.real, image.imag]).double().cpu().numpy()


def condition_bound(radius: float, regularisation: float = REGULARISATION) -> float:
    """Least condition number without a CTF: (1 + λ)/(p + λ), p the share of the ball that a slice hits.

    It grows as 4 r/3: the centre is in every slice, the outermost shell in few.
    """
    r = int(np.ceil(radius))
    axis = np.arange(-r, r + 1) ** 2
    disc = np.count_nonzero(axis[:, None] + axis <= radius**2)
    ball = np.count_nonzero(axis[:, None, None] + axis[:, None] + axis <= radius**2)
    share = disc / ball
    return (1.0 + regularisation) / (share + regularisation)
