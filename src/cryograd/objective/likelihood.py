"""The marginal likelihood of a minibatch: value, gradient and curvature in one evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from cryograd.fourier import HalfBall, HalfDisc
from cryograd.model.projection import Projector, sample_grid, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import Symmetrizer
from cryograd.pose.posterior import (
    Batch,
    Cells,
    Local,
    Poses,
    Statistics,
    best_cells,
    evaluate_exhaustive,
    evaluate_local,
    local_statistics,
    log_cell_weight,
    rotation_entropy,
)
from cryograd.pose.quadrature import RotationGrid, ShiftGrid


@dataclass(frozen=True)
class Level:
    """One refinement of the pose search: how many cells to split and the radius to score them at."""

    rotations: int
    shifts: int
    radius: float


@dataclass(frozen=True)
class Search:
    """How poses are inferred at one resolution.

    Parameters
    ----------
    coarse_radius
        Radius in Fourier pixels at which the shared grid is evaluated exhaustively.
    rotations, shifts
        The shared grid.
    levels
        Refinements after it, the last one at the full radius; none means that the shared grid is all.
    """

    coarse_radius: float
    rotations: RotationGrid
    shifts: ShiftGrid
    levels: tuple[Level, ...] = ()


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
    statistics
        Sufficient statistics that gradient and curvature come from.
    poses
        What the posterior says of each image.
    residual
        E|X − C P V|² / σ² per image and coefficient, shape (B, K); None where only the shared grid was used.
    """

    value: float
    gradient: Tensor
    curvature: Tensor
    statistics: Statistics
    poses: Poses
    residual: Tensor | None


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

    def frequencies(self, k: int, device: torch.device) -> Tensor:
        """(kx, ky) in 1/Å of the first ``k`` coefficients, shape (k, 2), float64."""
        return torch.as_tensor(self.disc.frequencies[:k] / self.extent, dtype=torch.float64, device=device)

    def transform(self, volume: Tensor) -> Tensor:
        """Grid from which slices of the symmetrised volume are sampled."""
        return self.projector.transform(self.symmetrizer.forward(volume))

    def evaluate(self, volume: Tensor, batch: Batch, search: Search) -> Evaluation:
        """Value, gradient and curvature of −(1/B) Σ log p(X_i | V)."""
        grid = self.transform(volume)
        statistics, poses, residual = self.infer(grid, batch, search)
        misfit = statistics.power * statistics.slices - statistics.cross
        return Evaluation(
            -float(poses.log_evidence.double().mean()),
            self._back_project(misfit, statistics.rotations) * (2.0 / len(batch)),
            self.curvature(statistics) / len(batch),
            statistics,
            poses,
            residual,
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

    def infer(self, grid: Tensor, batch: Batch, search: Search) -> tuple[Statistics, Poses, Tensor | None]:
        """Posterior of each image given the volume's transform: statistics, poses, residual power."""
        if search.levels:
            return self._infer_refined(grid, batch, search)
        return self._infer_shared(grid, batch, search)

    def _shared(self, grid: Tensor, search: Search) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rotations, slices, shifts, phases and log weights of the shared grid at the coarse radius."""
        disc = HalfDisc(search.coarse_radius)
        rotations = torch.as_tensor(search.rotations.matrices, dtype=grid.dtype, device=grid.device)
        slices = self.projector.sample(grid, rotations, slice_points(disc, grid.device))
        shifts = torch.as_tensor(search.shifts.shifts, dtype=grid.dtype, device=grid.device)
        phases = shift_phases(self.frequencies(len(disc), grid.device), shifts)
        log_shift = torch.as_tensor(search.shifts.log_weights, dtype=grid.dtype, device=grid.device)
        return rotations, slices, shifts, phases, log_shift

    def _infer_shared(self, grid: Tensor, batch: Batch, search: Search) -> tuple[Statistics, Poses, None]:
        rotations, slices, shifts, phases, log_shift = self._shared(grid, search)
        found = evaluate_exhaustive(batch, slices, phases, log_shift, self.precision, statistics=True)
        assert found.cross is not None
        assert found.power is not None
        probability, best = found.rotation_marginal.max(dim=1)
        poses = Poses(
            rotations[best],
            shifts[found.shift_marginal.argmax(dim=1)],
            found.log_evidence,
            rotation_entropy(found.rotation_marginal),
            probability,
        )
        return Statistics(rotations, slices, found.cross, found.power, None), poses, None

    def _infer_refined(self, grid: Tensor, batch: Batch, search: Search) -> tuple[Statistics, Poses, Tensor]:
        rotations, slices, shifts, phases, log_shift = self._shared(grid, search)
        coarse = evaluate_exhaustive(
            batch.prefix(slices.shape[1]), slices, phases, log_shift, self.precision, statistics=False
        )
        cells = best_cells(
            rotations,
            shifts,
            coarse.rotation_marginal,
            coarse.shift_marginal,
            (search.levels[0].rotations, search.levels[0].shifts),
            (search.rotations.spacing, search.shifts.spacing),
        )
        blocks = [
            self._refine_block(grid, batch, cells, search, slice(start, start + self.block))
            for start in range(0, len(batch), self.block)
        ]
        statistics, poses, residuals = zip(*blocks, strict=True)
        joined = _joined(statistics, self.block)
        all_poses = Poses(*(torch.cat(parts) for parts in zip(*map(_fields, poses), strict=True)))
        return joined, all_poses, torch.cat(residuals)

    def _refine_block(
        self, grid: Tensor, batch: Batch, cells: Cells, search: Search, part: slice
    ) -> tuple[Statistics, Poses, Tensor]:
        mine = batch.part(part)
        first, *rest = search.levels
        cells = Cells(cells.rotations[part], cells.shifts[part], cells.angle, cells.length).split()
        local = self._score(grid, mine, cells, search, first.radius)
        for level in rest:
            keep, sides = (level.rotations, level.shifts), (cells.angle, cells.length)
            marginals = local.joint.sum(dim=1), local.joint.sum(dim=2)
            cells = best_cells(cells.rotations, cells.shifts, *marginals, keep, sides).split()
            local = self._score(grid, mine, cells, search, level.radius)
        statistics, residual = local_statistics(mine, cells, local)
        return statistics, self._poses(mine, cells, search, local), residual

    def _score(self, grid: Tensor, batch: Batch, cells: Cells, search: Search, radius: float) -> Local:
        """Evaluate a block's own candidates at one radius."""
        disc = HalfDisc(radius)
        return evaluate_local(
            batch.prefix(len(disc)),
            cells,
            grid,
            self.projector,
            slice_points(disc, grid.device),
            self.frequencies(len(disc), grid.device),
            search.shifts.prior_sigma,
        )

    def _poses(self, batch: Batch, cells: Cells, search: Search, local: Local) -> Poses:
        """Best pose, evidence and entropy of a block of images."""
        rotation, shift = local.joint.sum(dim=1), local.joint.sum(dim=2)
        rows = torch.arange(len(rotation), device=rotation.device)
        probability, best = rotation.max(dim=1)
        weight = log_cell_weight(cells, search.rotations, search.shifts)
        return Poses(
            cells.rotations[rows, best],
            cells.shifts[rows, shift.argmax(dim=1)],
            local.log_evidence + batch.log_norm + weight,
            rotation_entropy(rotation),
            probability,
        )

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


def _fields(record: Statistics | Poses) -> tuple[Tensor, ...]:
    return tuple(vars(record).values())


def _joined(blocks: Sequence[Statistics], size: int) -> Statistics:
    """The statistics of all blocks of ``size`` images each, the images numbered through."""
    numbered = [replace(b, image=b.image + size * n) for n, b in enumerate(blocks) if b.image is not None]
    return Statistics(*(torch.cat(parts) for parts in zip(*map(_fields, numbered), strict=True)))
