"""How well conditioned a reconstruction at known poses is (Toader, Brubaker & Lederman, arXiv 2311.16100).

The loss is F(v) = (1/2n) Σ_i ‖C_i P_i v − x_i‖² + λ‖v‖²/2 in complex Fourier voxels. How fast plain gradient
steps converge is given by the condition number of its Hessian H = (1/n) Σ_i P_iᵀ C_i² P_i + λ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import slice_points
from cryograd.model.voxels import FourierVoxels
from cryograd.objective.known_poses import REGULARISATION
from cryograd.validation.eigenvalues import Extremes, extreme_eigenvalues

# Points of slices that are held at a time.
_BLOCK = 2**22


def whole_slice(radius: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Points (1 + K, 3) of a slice: DC, and the half-disc."""
    disc = slice_points(HalfDisc(radius), dtype=dtype)
    return torch.cat([torch.zeros_like(disc[:1]), disc])


def _of_part(power: Tensor | Callable[[slice], Tensor], part: slice) -> Tensor:
    """C² of some of the images."""
    if isinstance(power, Tensor):
        return power if len(power) == 1 else power[part]
    return power(part)


@dataclass(frozen=True)
class FixedPoseHessian:
    """The Hessian of the loss at known poses.

    Parameters
    ----------
    voxels
        The unknowns, and how slices are interpolated.
    weights
        What `FourierVoxels.weights` gives, divided by the number of images.
    regularisation
        λ.
    """

    voxels: FourierVoxels
    weights: Tensor
    regularisation: float = REGULARISATION

    @classmethod
    def of(
        cls,
        voxels: FourierVoxels,
        rotations: Tensor,
        power: Tensor | Callable[[slice], Tensor],
        regularisation: float = REGULARISATION,
    ) -> "FixedPoseHessian":
        """The Hessian of images.

        Parameters
        ----------
        voxels
            The unknowns, and how slices are interpolated.
        rotations
            Of the images, shape (n, 3, 3).
        power
            C² of each image at the points of `whole_slice`, shape (n, 1 + K), or of all, (1, 1 + K); divided
            by the noise variance where that is known. Or a function that gives it for some of the images.
        regularisation
            λ.
        """
        points, total = whole_slice(voxels.radius, rotations.dtype).to(rotations.device), None
        step = max(1, _BLOCK // len(points))
        for start in range(0, len(rotations), step):
            part = slice(start, start + step)
            weights = voxels.weights(rotations[part], points, _of_part(power, part))
            total = weights if total is None else total.add_(weights)
        assert total is not None
        return cls(voxels, total / len(rotations), regularisation)

    def __matmul__(self, values: Tensor) -> Tensor:
        """H v of unknowns (N,)."""
        return self.voxels.normal(self.weights, values) + self.regularisation * values

    def diagonal(self) -> Tensor:
        """The diagonal of H, shape (N,); for nearest-neighbour slices it is all of H."""
        return self.voxels.diagonal(self.weights) + self.regularisation

    def hutchinson_diagonal(self, probes: int, generator: torch.Generator) -> Tensor:
        """Hutchinson's estimate of the diagonal, the mean of z ⊙ H z over random signs z, shape (N,).

        A sign is the same for both members of a conjugate pair, as their one unknown demands. The error falls
        as one over the root of the probes; for nearest-neighbour slices one probe is exact.
        """
        total = torch.zeros_like(self.diagonal())
        for _ in range(probes):
            signs = torch.randint(2, total.shape, generator=generator, device=generator.device)
            z = (2 * signs - 1).to(total)
            total += z * (self @ torch.complex(z, torch.zeros_like(z))).real
        return total / probes

    def extreme_eigenvalues(
        self,
        within: float | None = None,
        preconditioned: bool = False,
        tolerance: float = 1e-3,
    ) -> Extremes:
        """The least and the largest eigenvalue of H.

        Parameters
        ----------
        within
            Only the unknowns up to this radius in Fourier pixels, the others held fixed. Those beyond the
            slices' radius are touched by the rims of a few cells alone, and hide what concerns the others.
        preconditioned
            Of D^−½ H D^−½ instead, D the diagonal.
        tolerance
            Relative accuracy.
        """
        diagonal = self.diagonal()
        scale = 1.0 / diagonal.sqrt() if preconditioned else torch.ones_like(diagonal)
        if within is not None:
            k = torch.as_tensor(self.voxels.frequencies, device=diagonal.device)
            scale = scale * (k.square().sum(dim=1) <= within**2)
        if self.voxels.interpolation == "nearest":
            values = (scale.square() * diagonal)[scale > 0.0]
            return Extremes(float(values.min()), float(values.max()))
        # Scaled by zero, an unknown takes no part: no product leaves the space of the others.
        inverse = torch.ones_like(diagonal) if preconditioned else 1.0 / diagonal
        return extreme_eigenvalues(lambda v: scale * (self @ (scale * v)), scale > 0.0, inverse, tolerance)


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
