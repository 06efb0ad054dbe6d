"""The second derivative of the marginal likelihood: what is left of the curvature when poses are unknown.

−(1/n) Σ_i log p(X_i | v), the poses summed over a given set, has the Hessian (T. A. Louis, J. R. Stat. Soc. B
44, 226, 1982)

    H = (1/n) Σ_i ( E_γ[2 P_jᵀ C_i² P_j] − Cov_γ[s_ijl] ),    s_ijl = 2 P_jᵀ C_i (S_l X_i − C_i P_j v),

the complete-data Hessian less the covariance of the score over the posterior γ: the information that is
missing because the pose is. Far from the optimum its least eigenvalue may be negative.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import slice_points
from cryograd.model.voxels import FourierVoxels
from cryograd.validation.eigenvalues import Extremes, extreme_eigenvalues


@dataclass(frozen=True)
class MarginalHessian:
    """Hessian of −(1/n) Σ log p(X_i | v) in Fourier voxels, at some v and sets of poses.

    Parameters
    ----------
    voxels
        The unknowns, and how slices are interpolated.
    values
        v, shape (N,).
    images, ctf
        Whitened images and their CTFs on the half-disc of the voxels' radius, shapes (n, K).
    rotations
        Candidate rotations of each image, (n, J, 3, 3), or of all, (1, J, 3, 3).
    phases
        Factors exp(+2πi k·t) of the candidate shifts, shape (L, K); `cryograd.model.shift.shift_phases`.
    log_prior
        Logarithm of each candidate's weight, which counts its share of poses, shape (J, L).
    """

    voxels: FourierVoxels
    values: Tensor
    images: Tensor
    ctf: Tensor
    rotations: Tensor
    phases: Tensor
    log_prior: Tensor

    @cached_property
    def _points(self) -> Tensor:
        disc = HalfDisc(self.voxels.radius)
        return slice_points(disc, self.rotations.device, self.rotations.dtype)

    def _candidates(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Rotations (J, 3, 3), CTF (K,), C P_j v (J, K) and centred S_l X (L, K) of each image in turn."""
        for i, (image, ctf) in enumerate(zip(self.images, self.ctf, strict=True)):
            rotations = self.rotations[i if len(self.rotations) > 1 else 0]
            model = ctf * self.voxels.slices(self.values, rotations, self._points)
            yield rotations, ctf, model, self.phases.conj() * image

    @cached_property
    def posteriors(self) -> list[Tensor]:
        """Responsibilities γ (J, L) of each image's candidates."""
        found = []
        for _, _, model, shifted in self._candidates():
            logits = 2.0 * (model.conj() @ shifted.T).real - model.abs().square().sum(dim=1, keepdim=True)
            found.append(torch.softmax((logits + self.log_prior).flatten(), dim=0).view_as(logits))
        return found

    def complete(self, values: Tensor) -> Tensor:
        """The complete-data Hessian's product with unknowns (N,): poses as likely as they are, and known."""
        return self._product(values, missing=False)

    def __matmul__(self, values: Tensor) -> Tensor:
        """H w of unknowns w (N,)."""
        return self._product(values, missing=True)

    def _product(self, values: Tensor, missing: bool) -> Tensor:
        total = torch.zeros_like(values)
        for gamma, (rotations, ctf, model, shifted) in zip(self.posteriors, self._candidates(), strict=True):
            change = ctf * self.voxels.slices(values, rotations, self._points)
            slices = gamma.sum(dim=1, keepdim=True) * change
            if missing:
                # Change of each candidate's log p along w, that is ⟨s_jl, w⟩.
                slope = 2.0 * ((change.conj() @ shifted.T).real)
                slope = slope - 2.0 * (change.conj() * model).sum(dim=1, keepdim=True).real
                excess = gamma * (slope - (gamma * slope).sum())
                slices = slices + excess.sum(dim=1, keepdim=True) * model - excess.to(shifted) @ shifted
            total = total + 2.0 * self.voxels.adjoint(ctf * slices, rotations, self._points)
        return total / len(self.images)

    def extreme_eigenvalues(self, missing: bool = True, tolerance: float = 1e-3) -> Extremes:
        """The least and the largest eigenvalue over the unknowns that slices reach, or those of `complete`.

        Parameters
        ----------
        missing
            Whether the missing information is taken away.
        tolerance
            Relative accuracy.
        """
        k = torch.as_tensor(self.voxels.frequencies, device=self.values.device)
        square = k.square().sum(dim=1)
        # No image has DC.
        inside = (square > 0) & (square <= self.voxels.radius**2)
        return extreme_eigenvalues(
            lambda v: self._product(v.to(self.values.dtype), missing), inside, tolerance=tolerance
        )
