"""The marginal likelihood of a minibatch: value, gradient and curvature in one evaluation."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from cryograd.fourier import HalfBall, HalfDisc
from cryograd.model.projection import Projector, sample_grid, slice_points
from cryograd.model.symmetry import Symmetrizer
from cryograd.pose.inference import Inference, PoseInference, Search
from cryograd.pose.posterior import Batch, Statistics
from cryograd.pose.sampling import Sampling


@dataclass(frozen=True)
class Evaluation:
    """The objective on a minibatch of B images.

    Parameters
    ----------
    value
        −(1/B) Σ log p(X_i | V).
    gradient
        Its gradient with respect to the voxels, shape (L, L, L).
    curvature
        Row sums of the complete-data Hessian per Fourier coefficient, (L, L, L//2 + 1), in the unit in which
        F⁻¹[F g / h] is Newton's step.
    inference
        The posterior that they come from.
    """

    value: float
    gradient: Tensor
    curvature: Tensor
    inference: Inference


@dataclass(frozen=True)
class MarginalLikelihood:
    """Marginal likelihood of whitened images under a volume, at one radius.

    Parameters
    ----------
    size
        Box size L of the volume in voxels.
    extent
        Side of the box in Å.
    radius
        Radius in Fourier pixels up to which images are compared.
    symmetry
        Point group.
    precision
        Of the exhaustive products, as in `matmul_precision`.
    """

    size: int
    extent: float
    radius: float
    symmetry: str = "C1"
    precision: str = "highest"
    block: int = field(default=8, repr=False)

    @cached_property
    def disc(self) -> HalfDisc:
        """The coefficients that are compared."""
        return HalfDisc(self.radius)

    @cached_property
    def projector(self) -> Projector:
        """Slices of the volume up to the radius."""
        return Projector(self.size, self.radius)

    @cached_property
    def symmetrizer(self) -> Symmetrizer:
        """Average over the point group."""
        return Symmetrizer(self.symmetry, self.size, self.radius)

    @cached_property
    def _inference(self) -> PoseInference:
        return PoseInference(self.projector, self.extent, self.radius, self.precision, self.block)

    def transform(self, volume: Tensor) -> Tensor:
        """Grid from which slices of the symmetrised volume are sampled."""
        return self.projector.transform(self.symmetrizer.forward(volume))

    def infer(self, volume: Tensor, batch: Batch, search: Search | Sampling) -> Inference:
        """Posterior of each image given the volume."""
        return self._inference.infer(self.transform(volume), batch, search)

    def evaluate(self, volume: Tensor, batch: Batch, search: Search | Sampling) -> Evaluation:
        """Value, gradient and curvature of −(1/B) Σ log p(X_i | V)."""
        inference = self.infer(volume, batch, search)
        statistics = inference.statistics
        misfit = statistics.power * statistics.slices - statistics.cross
        return Evaluation(
            -float(inference.poses.log_evidence.double().mean()),
            self._back_project(misfit, statistics.rotations) * (2.0 / len(batch)),
            self.curvature(statistics) / len(batch),
            inference,
        )

    def difference_gradient(self, difference: Tensor, statistics: Statistics, half: Tensor) -> Tensor:
        """Gradient for half the difference D of two maps V + D and V − D, each of one half of the images.

        Parameters
        ----------
        difference
            D, shape (L, L, L).
        statistics
            Of the batch at V, with an image for every slice.
        half
            Half of each image, shape (B,), bool.
        """
        assert statistics.image is not None
        points = slice_points(self.disc, difference.device)
        slices = self.projector.sample(self.transform(difference), statistics.rotations, points)
        # Each half has the same weight, however many of its images are in the batch.
        upper = half.double().mean().clamp(0.5 / len(half), 1.0 - 0.5 / len(half))
        sign = torch.where(half, 0.5 / upper, -0.5 / (1.0 - upper)).to(slices.real)[statistics.image, None]
        misfit = statistics.power * (sign * statistics.slices + slices) - sign * statistics.cross
        return self._back_project(misfit, statistics.rotations) * (2.0 / len(half))

    def _back_project(self, slices: Tensor, rotations: Tensor) -> Tensor:
        """Adjoint of slicing the symmetrised volume, shape (L, L, L)."""
        inserted = self.projector.insert(slices, rotations, slice_points(self.disc, slices.device))
        return self.symmetrizer.adjoint(self.projector.transform_adjoint(inserted))

    def curvature(self, statistics: Statistics) -> Tensor:
        """Row sums Pᵀa of the complete-data Hessian on the unpadded grid, averaged over the point group."""
        plain = Projector(self.size, self.radius, oversampling=1)
        points = slice_points(self.disc, statistics.power.device)
        grid = plain.insert(statistics.power.to(torch.complex64), statistics.rotations, points)
        grid = grid.clone()
        # A coefficient with kx = 0 is stored twice and is one unknown.
        grid[:, :, 0] += grid[:, :, 0].flip(0, 1)
        ball = HalfBall(self.radius)
        matrices = torch.as_tensor(self.symmetrizer.matrices, dtype=grid.dtype, device=grid.device)
        where = torch.as_tensor(ball.frequencies, dtype=grid.dtype, device=grid.device)
        mean = sample_grid(grid, matrices, where, 1.0)[..., 0].mean(dim=0)
        half = torch.zeros(self.size, self.size, self.size // 2 + 1, dtype=grid.dtype, device=grid.device)
        kx, ky, kz = torch.as_tensor(ball.frequencies, device=grid.device).unbind(-1)
        half[kz % self.size, ky % self.size, kx] = mean
        plane = kx == 0
        half[(-kz[plane]) % self.size, (-ky[plane]) % self.size, 0] = mean[plane]
        return half * float(self.size**3)
