"""The marginal likelihood of a minibatch: value, gradient and curvature in one evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv3d, pad

from cryograd.fourier import HalfBall, HalfDisc
from cryograd.heap import trim
from cryograd.model.projection import Projector, sample_grid, slice_points
from cryograd.model.symmetry import Symmetrizer
from cryograd.pose.inference import Inference, PoseInference, Poseset, Search, concatenated
from cryograd.pose.posterior import Batch, Poses, Statistics
from cryograd.pose.proposal import Remembered
from cryograd.pose.sampling import Sampling

# Images whose posteriors are inferred at a time: where all share one grid, whose statistics do not grow with
# them, and where each has candidates of its own; the latter a multiple of the blocks that are refined.
PART, OWN_PART = 200, 40
# Bytes of statistics from which on they are inserted: those of broad posteriors take 30 MB an image.
HELD_BYTES = 128 * 2**20
# Bytes of a real grid from which on memory is short, and insertion takes no longer for fewer at a time.
LARGE_BYTES = 128 * 2**20


class Images(Protocol):
    """Whitened images of which a part can be had at a time."""

    @property
    def weights(self) -> Tensor:
        """How much each image counts, shape (B,)."""
        ...

    def __len__(self) -> int: ...

    def part(self, images: slice) -> "Batch":
        """Some of the images."""
        ...


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
    slope
        Gradient for half the difference D of the maps of two halves of the images, (L, L, L); None where
        no D was given.
    weights
        Pᵀa / B on the padded grid, averaged over the point group, (G, G, H): what
        `MarginalLikelihood.normal` takes.
    support
        The poses that the sums are over, part by part.
    poses
        What the posterior says of each image.
    residual
        E|X − C P V|² / σ² per image, summed over each shell from 0 to that of the radius, shape (B, S); None
        where only the shared grid was used.
    marginals
        What a sampler remembers of each image; empty where nothing is to be remembered.
    points
        Poses at which an image was compared, on average.
    """

    value: float
    gradient: Tensor
    curvature: Tensor
    slope: Tensor | None
    weights: Tensor
    support: tuple[Poseset, ...]
    poses: Poses
    residual: Tensor | None
    marginals: list[Remembered]
    points: float


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

    def signs(self, weights: Tensor) -> Tensor:
        """±½ by half, over the half's share of the weights (B,): either half counts the same."""
        share = (weights.double() * self.upper).sum() / weights.double().sum()
        share = share.clamp(0.5 / len(weights), 1.0 - 0.5 / len(weights))
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
    weights
        Type of the weights of evaluations; None for the volume's.
    """

    size: int
    extent: float
    radius: float
    symmetry: str = "C1"
    precision: str = "highest"
    weights: torch.dtype | None = None
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

    def poses(self, volume: Tensor, batch: Batch, search: Search) -> Poses:
        """What the posterior says of each image, however many there are."""
        grid = self.transform(volume)
        parts = _parts(len(batch), search)
        found = [self._inference.infer(grid, batch.part(part), search).poses for part in parts]
        return Poses(*concatenated(found))

    def inferences(
        self, volume: Tensor, batch: Batch, search: Search | Sampling
    ) -> Iterator[tuple[slice, Inference]]:
        """Posterior of some images at a time, however many there are, and which ones they are."""
        grid = self.transform(volume)
        for part in _parts(len(batch), search):
            mine = search.part(part) if isinstance(search, Sampling) else search
            yield part, self._inference.infer(grid, batch.part(part), mine)

    def value(self, volume: Tensor, batch: Images, support: tuple[Poseset, ...]) -> float:
        """−(1/B) Σ log p(X_i | V), summed over the same poses as an evaluation before."""
        grid = self.transform(volume)
        parts = zip(_parts(len(batch), support[0]), support, strict=True)
        evidence = [self._inference.log_evidence(grid, batch.part(part), poses) for part, poses in parts]
        return -float((batch.weights.double() * torch.cat(evidence)).mean())

    def evaluate(
        self, volume: Tensor, batch: Images, search: Search | Sampling, halves: Halves | None = None
    ) -> Evaluation:
        """Value, gradient and curvature of −(1/B) Σ log p(X_i | V)."""
        grid = self.transform(volume)
        difference = None if halves is None else self.transform(halves.difference)
        signs = None if halves is None else halves.signs(batch.weights)
        found = []
        # Pᵀa, and Pᵀ of the misfits of V and of D.
        sums = _Insertion(self.projector, slice_points(self.disc, grid.device))
        for part in _parts(len(batch), search):
            mine = search.part(part) if isinstance(search, Sampling) else search
            inference = self._inference.infer(grid, batch.part(part), mine)
            statistics = inference.statistics
            misfits = [statistics.power * statistics.slices - statistics.cross]
            if difference is not None and signs is not None and statistics.image is not None:
                misfits.append(self._misfit(difference, statistics, signs[part]))
            sums.add([statistics.power, *misfits], statistics.rotations)
            found.append(
                (
                    inference.support,
                    inference.poses,
                    None if inference.residual is None else self.disc.by_shell(inference.residual),
                    inference.marginals,
                    inference.points,
                )
            )
        del grid, difference
        # The largest arrays of all: each goes when it has been used.
        totals = sums.total()
        gradient, *slope = [self._volume(totals.pop(1)) * (2.0 / len(batch)) for _ in range(1, len(totals))]
        weights = self.symmetrised(totals.pop()[..., 0] / len(batch))
        curvature, weights = self.curvature(weights), weights.to(self.weights or weights.dtype)
        support, poses, residual, marginals, points = zip(*found, strict=True)
        every = Poses(*concatenated(poses))
        return Evaluation(
            -float((batch.weights.double() * every.log_evidence).mean()),
            gradient,
            curvature,
            slope[0] if slope else None,
            weights,
            support,
            every,
            None if residual[0] is None else torch.cat(residual),
            [seen for part in marginals for seen in part],
            sum(points) / len(batch),
        )

    def _misfit(self, grid: Tensor, statistics: Statistics, signs: Tensor) -> Tensor:
        """a A D − s (b − a A V) for the transform of D, s being the images' signs."""
        assert statistics.image is not None
        slices = self.projector.sample(grid, statistics.rotations, slice_points(self.disc, grid.device))
        sign = signs.to(slices.real)[statistics.image, None]
        return statistics.power * (sign * statistics.slices + slices) - sign * statistics.cross

    def _volume(self, grid: Tensor) -> Tensor:
        """Adjoint of `transform`, shape (L, L, L)."""
        volume = self.projector.transform_adjoint(grid)
        del grid
        return self.symmetrizer.adjoint(volume)

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
        of two voxels. Weights (G, G, H) are those of `Evaluation`; those of a smaller radius will do.
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


class _Insertion:
    """Sums of back-projections, of as many slices at a time as memory allows.

    Each insertion may clear and add up whole grids: a few large ones cost less than many small ones.
    """

    def __init__(self, projector: Projector, points: Tensor) -> None:
        self.projector, self.points = projector, points
        self.held: list[tuple[list[Tensor], Tensor]] = []
        self.sums: list[Tensor] = []

    def add(self, slices: list[Tensor], rotations: Tensor) -> None:
        """Some slices of each sum, shape (J, K), at rotations (J, 3, 3)."""
        self.held.append((slices, rotations))
        held = sum(s.nbytes for slices, _ in self.held for s in slices)
        if held > HELD_BYTES or (self.sums and self.sums[0].nbytes > LARGE_BYTES):
            self._flush()

    def total(self) -> list[Tensor]:
        """The sums on the padded grid, which are not held any longer."""
        if self.held:
            self._flush()
        sums, self.sums = self.sums, []
        return sums

    def _flush(self) -> None:
        slices, rotations = zip(*self.held, strict=True)
        self.held = []
        where = torch.cat(rotations)
        for number, part in enumerate(zip(*slices, strict=True)):
            values = part[0] if len(part) == 1 else torch.cat(part)
            if number == len(self.sums):
                self.sums.append(self.projector.empty(values))
            self.projector.add(self.sums[number], values, where, self.points)
        if self.sums[0].nbytes > LARGE_BYTES:
            # What each part of the images leaves behind lies between the arrays of the next.
            trim()


def _parts(images: int, poses: Poseset) -> Iterator[slice]:
    """The images that are evaluated at a time."""
    size = PART if isinstance(poses, Search) and not poses.levels else OWN_PART
    return (slice(start, start + size) for start in range(0, images, size))


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
