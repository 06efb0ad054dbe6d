"""The marginal likelihood of images under a map: sums over images, their gradient and curvature."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv3d, pad

from cryograd.fourier import HalfBall, HalfDisc
from cryograd.model.projection import Projector, sample_grid, slice_points
from cryograd.model.symmetry import Symmetrizer
from cryograd.objective.sums import Insertion, Sums
from cryograd.pose.inference import Inference, PoseInference, Poseset, concatenated
from cryograd.pose.known import Known
from cryograd.pose.posterior import Batch, Poses, Statistics
from cryograd.pose.proposal import Remembered
from cryograd.pose.sampling import Sampling
from cryograd.pose.search import Search

# Images whose posteriors are inferred at a time: where all share one grid, whose statistics do not grow with
# them, and where each has candidates of its own; the latter a multiple of the blocks that are refined.
PART, OWN_PART = 200, 40


# How the poses of images are looked for.
Looked = Search | Sampling | Known


class Images(Protocol):
    """Whitened images of which a part can be had at a time."""

    @property
    def counts(self) -> Tensor:
        """How much each image counts, shape (B,)."""
        ...

    def __len__(self) -> int: ...

    def part(self, images: slice) -> "Batch":
        """Some of the images."""
        ...

    def counted(self, counts: Tensor, images: Tensor) -> "Images":
        """Some of the images, (B,) bool, each counting as much as it is told, (B,)."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation of B images at a map says.

    Parameters
    ----------
    sums
        What they say of the map, added up over them.
    posesets
        The poses that the sums are over, part by part.
    poses
        What the posterior says of each image.
    residual
        E|X − C P V|² / σ² per image, summed over each shell from 0 to that of the radius, over the fraction
        of the noise that the image's mask leaves: shape (B, S). None where only the shared grid was used.
    marginals
        What a sampler remembers of each image; empty where nothing is to be remembered.
    points
        Poses at which an image was compared, on average.
    """

    sums: Sums
    posesets: tuple[Poseset, ...]
    poses: Poses
    residual: Tensor | None
    marginals: list[Remembered]
    points: float


@dataclass(frozen=True)
class Mean:
    """The objective as a mean over images.

    Parameters
    ----------
    value
        −(1/B) Σ log p(X_i | V).
    gradient
        Its gradient with respect to the voxels, shape (L, L, L).
    curvature
        Row sums of the complete-data Hessian per Fourier coefficient, (L, L, L//2 + 1), in the unit in which
        F⁻¹[F g / h] is Newton's step.
    slope
        Gradient for half the difference D of the maps of two halves of the images, (L, L, L); None where
        no D was given.
    weights
        Pᵀa / B on the padded grid, averaged over the point group, (G, G, H): what
        `MarginalLikelihood.normal` takes.
    """

    value: float
    gradient: Tensor
    curvature: Tensor
    slope: Tensor | None
    weights: Tensor


@dataclass(frozen=True)
class Halves:
    """Half the difference D of the maps of two halves of the images, and the half of each image.

    Parameters
    ----------
    difference
        D, shape (L, L, L).
    upper
        Shape (B,), bool.
    """

    difference: Tensor
    upper: Tensor

    def signs(self, counts: Tensor) -> Tensor:
        """±½ by half, over the half's share of the counts (B,): either half counts the same."""
        share = (counts.double() * self.upper).sum() / counts.double().sum()
        share = share.clamp(0.5 / len(counts), 1.0 - 0.5 / len(counts))
        return torch.where(self.upper, 0.5 / share, -0.5 / (1.0 - share))


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
    weight_type
        Type of the weights of means; None for the volume's.
    """

    size: int
    extent: float
    radius: float
    symmetry: str = "C1"
    precision: str = "highest"
    weight_type: torch.dtype | None = None
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

    def infer(self, volume: Tensor, batch: Batch, search: Looked) -> Inference:
        """Posterior of each image given the volume."""
        return self._inference.infer(self.transform(volume), batch, search)

    def poses(self, volume: Tensor, batch: Images, search: Looked) -> Poses:
        """What the posterior says of each image, however many there are."""
        found = [inference.poses for _, inference in self.inferences(volume, batch, search)]
        return Poses(*concatenated(found))

    def inferences(self, volume: Tensor, batch: Images, search: Looked) -> Iterator[tuple[slice, Inference]]:
        """Posterior of some images at a time, however many there are, and which ones they are."""
        grid = self.transform(volume)
        for part in _parts(len(batch), search):
            yield part, self._inference.infer(grid, batch.part(part), _searched(search, part))

    def log_evidence(self, volume: Tensor, batch: Images, posesets: tuple[Poseset, ...]) -> float:
        """Σ w log p(X | V), summed over the same poses as an evaluation before."""
        grid = self.transform(volume)
        parts = zip(_parts(len(batch), posesets[0]), posesets, strict=True)
        evidence = [self._inference.log_evidence(grid, batch.part(part), poses) for part, poses in parts]
        return float((batch.counts.double() * torch.cat(evidence)).sum())

    def evaluate(
        self, volume: Tensor, batch: Images, search: Looked, halves: Halves | None = None
    ) -> Evaluation:
        """What images say of a volume, at the poses that are probable there."""
        grid = self.transform(volume)
        difference = None if halves is None else self.transform(halves.difference)
        signs = None if halves is None else halves.signs(batch.counts)
        found = []
        # Pᵀa, and Pᵀ of the misfits of V and of D.
        inserted = Insertion(self.projector, slice_points(self.disc, grid.device))
        for part in _parts(len(batch), search):
            images = batch.part(part)
            inference = self._inference.infer(grid, images, _searched(search, part))
            statistics = inference.statistics
            misfits = [statistics.power * statistics.slices - statistics.cross]
            if difference is not None and signs is not None and statistics.image is not None:
                misfits.append(self._misfit(difference, statistics, signs[part]))
            inserted.add([statistics.power, *misfits], statistics.rotations)
            found.append(
                (
                    inference.poseset,
                    inference.poses,
                    self._residual(inference, images),
                    inference.marginals,
                    inference.points,
                )
            )
        posesets, poses, residual, marginals, points = zip(*found, strict=True)
        every = Poses(*concatenated(poses))
        weights, misfit, *slope = inserted.total()
        evidence = float((batch.counts.double() * every.log_evidence).sum())
        return Evaluation(
            sums=Sums(len(batch), evidence, weights, misfit, slope[0] if slope else None),
            posesets=posesets,
            poses=every,
            residual=None if residual[0] is None else torch.cat(residual),
            marginals=[seen for part in marginals for seen in part],
            points=sum(points) / len(batch),
        )

    def mean(self, sums: Sums) -> Mean:
        """Value, gradient and curvature of −(1/B) Σ log p(X_i | V) from sums over B images."""
        grids = [sums.misfit] if sums.slope is None else [sums.misfit, sums.slope]
        gradient, *slope = [self._volume(grid) * (2.0 / sums.images) for grid in grids]
        weights = self.symmetrised(sums.weights[..., 0] / sums.images)
        return Mean(
            value=-sums.log_evidence / sums.images,
            gradient=gradient,
            curvature=self.curvature(weights),
            slope=slope[0] if slope else None,
            weights=weights.to(self.weight_type or weights.dtype),
        )

    def _residual(self, inference: Inference, images: Batch) -> Tensor | None:
        """Residual of each image by shell, (B, S), as `Evaluation` has it."""
        if inference.residual is None:
            return None
        shells = self.disc.by_shell(inference.residual)
        return shells if images.area is None else shells / images.area[:, None]

    def _misfit(self, grid: Tensor, statistics: Statistics, signs: Tensor) -> Tensor:
        """a A D − s (b − a A V) for the transform of D, s being the images' signs."""
        assert statistics.image is not None
        slices = self.projector.sample(grid, statistics.rotations, slice_points(self.disc, grid.device))
        sign = signs.to(slices.real)[statistics.image, None]
        return statistics.power * (sign * statistics.slices + slices) - sign * statistics.cross

    def _volume(self, grid: Tensor) -> Tensor:
        """Adjoint of `transform`, shape (L, L, L)."""
        return self.symmetrizer.adjoint(self.projector.transform_adjoint(grid))

    def symmetrised(self, weights: Tensor) -> Tensor:
        """Average over the point group of Pᵀa on the padded grid, (G, G, H), interpolated linearly.

        With it the Hessian takes volumes of the group to volumes of the group.
        """
        if len(self.symmetrizer.matrices) == 1:
            return weights
        half = weights.shape[2] - 1
        # What insertion spreads beyond the slices' radius counts too.
        grid = weights.new_zeros((2 * half + 5, 2 * half + 5, half + 3, 2))
        within = grid[2:-2, 2:-2, :-2, 0]
        within.copy_(weights)
        within[:, :, 0] += weights[:, :, 0].flip(0, 1)
        matrices = torch.as_tensor(self.symmetrizer.matrices, dtype=grid.dtype, device=grid.device)
        k = torch.arange(-half, half + 1, dtype=grid.dtype, device=grid.device)
        ky, kx = torch.meshgrid(k, k[half:], indexing="ij")
        mean = torch.zeros_like(weights)
        # Plane by plane, since coordinates of all points take more memory than the grid.
        for plane, kz in zip(mean, k, strict=True):
            near = kx.square() + ky.square() + kz.square() <= (half + 1) ** 2
            points = torch.stack([kx[near], ky[near], kz.expand(int(near.sum()))], dim=1)
            plane[near] = sample_grid(grid, matrices, points, 1.0)[..., 0].mean(dim=0)
        mean[:, :, 0] *= 0.5
        return mean

    def normal(self, weights: Tensor, volume: Tensor) -> Tensor:
        """Product of the complete-data Hessian and a volume of the point group, shape (L, L, L).

        On the padded grid the Hessian is taken as diagonal, with Pᵀa for PᵀaP: the convolution that it then
        is differs from the exact one by the interpolation kernel's transform, as a function of the distance
        of two voxels. Weights (G, G, H) are those of `Mean`; those of a smaller radius will do.
        """
        plain = Projector(self.size, (weights.shape[2] - 2) / 2, corrected=False)
        return 2.0 * plain.filtered(volume, weights)

    def curvature(self, weights: Tensor) -> Tensor:
        """Row sums of the complete-data Hessian on the unpadded grid.

        Parameters
        ----------
        weights
            As `symmetrised` returns them, shape (G, G, H).
        """
        grid = _coarser(weights)
        ball, middle = HalfBall(self.radius), len(grid) // 2
        half = torch.zeros(self.size, self.size, self.size // 2 + 1, dtype=grid.dtype, device=grid.device)
        kx, ky, kz = torch.as_tensor(ball.frequencies, device=grid.device).unbind(-1)
        values = grid[kz + middle, ky + middle, kx]
        half[kz % self.size, ky % self.size, kx] = values
        plane = kx == 0
        half[(-kz[plane]) % self.size, (-ky[plane]) % self.size, 0] = values[plane]
        return half * float(self.size**3)


def _parts(images: int, poses: Poseset) -> Iterator[slice]:
    """The images that are evaluated at a time."""
    size = PART if isinstance(poses, Search) and not poses.levels else OWN_PART
    return (slice(start, start + size) for start in range(0, images, size))


def _searched(search: Looked, part: slice) -> Looked:
    """How the poses of some of the images are looked for: what is said of each image is divided with them."""
    return search if isinstance(search, Search) else search.part(part)


def _whole_plane(weights: Tensor) -> Tensor:
    """Weights on a half-space grid; those with kx = 0, stored at two places, are added up at both."""
    plane = weights[:, :, :1]
    return torch.cat([plane + plane.flip(0, 1), weights[:, :, 1:]], dim=2)


def _coarser(weights: Tensor) -> Tensor:
    """Weights on a half-space grid of half the spacing (G, G, H), spread linearly onto the unpadded grid.

    A linear weight on the coarse grid is a sum of linear weights on the fine one, so that nothing is lost.
    """
    full = torch.cat([weights[:, :, 1:2].flip(0, 1), _whole_plane(weights)], dim=2)
    m = weights.shape[2] - 1
    # An even number of fine cells from the origin to the last coarse point, and one cell around all.
    last = 2 * (m // 2 + 1)
    margin = last + 1 - m
    full = pad(full, (0, margin, margin, margin, margin, margin))
    line = torch.tensor([0.5, 1.0, 0.5], dtype=full.dtype, device=full.device)
    kernel = line[:, None, None] * line[:, None] * line
    return conv3d(full[None, None], kernel[None, None], stride=2)[0, 0].contiguous()
