"""Pose inference of a minibatch: a search from a shared grid to each image's own cells, or drawn poses."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.pose.known import Known
from cryograd.pose.offsets import offsets
from cryograd.pose.posterior import (
    Batch,
    Cells,
    Fit,
    LocalPosterior,
    Poses,
    Statistics,
    best_cells,
    evaluate_exhaustive,
    evaluate_local,
    local_statistics,
    most_probable,
    rotation_entropy,
)
from cryograd.pose.proposal import REMEMBERED, Remembered, remember
from cryograd.pose.quadrature import RotationGrid, ShiftGrid, shift_spread
from cryograd.pose.sampling import Sampled, Sampling, evaluate_sampled, remember_drawn
from cryograd.pose.search import Refined, Search, blocks_of, needed

Poseset = Search | Sampling | Refined | Known


@dataclass(frozen=True)
class Inference:
    """Posterior of a batch of B images.

    Parameters
    ----------
    statistics
        Sufficient statistics.
    poseset
        The poses that the sums are over.
    poses
        What the posterior says of each image.
    residual
        E|X − C P V|² / σ² per image and coefficient, shape (B, K); None where only the shared grid was used.
    marginals
        What a sampler remembers of each image; empty where nothing is to be remembered.
    points
        Poses at which images were compared, all images together.
    """

    statistics: Statistics
    poseset: Poseset
    poses: Poses
    residual: Tensor | None
    marginals: list[Remembered]
    points: int

    @staticmethod
    def joined(parts: "Sequence[Inference]", poseset: Poseset, images: Sequence[Tensor]) -> "Inference":
        """The posterior of all parts, of the images with some numbers each, in the order of these."""
        statistics = [
            replace(p.statistics, image=numbers[p.statistics.image])
            for p, numbers in zip(parts, images, strict=True)
            if p.statistics.image is not None
        ]
        order = torch.cat(list(images)).argsort()
        marginals = [seen for p in parts for seen in p.marginals]
        return Inference(
            Statistics(*concatenated(statistics)),
            poseset,
            Poses(*(values[order] for values in concatenated([p.poses for p in parts]))),
            torch.cat([p.residual for p in parts if p.residual is not None])[order],
            [marginals[place] for place in order.tolist()] if marginals else [],
            sum(p.points for p in parts),
        )


@dataclass(frozen=True)
class PoseInference:
    """Inference of whitened images' poses under a volume, at one radius.

    Parameters
    ----------
    projector
        Slices of the volume.
    extent
        Side of the box in Å.
    radius
        Radius in Fourier pixels up to which images are compared.
    precision
        Of the exhaustive products, as in `matmul_precision`.
    block
        Images that are refined at a time, at most.
    """

    projector: Projector
    extent: float
    radius: float
    precision: str = "highest"
    block: int = field(default=8, repr=False)

    @cached_property
    def disc(self) -> HalfDisc:
        """The coefficients that are compared."""
        return HalfDisc(self.radius)

    def infer(self, grid: Tensor, batch: Batch, search: Search | Sampling | Known) -> Inference:
        """Posterior of each image given the volume's transform ``grid``."""
        if isinstance(search, Known):
            return self._infer_known(grid, batch, search)
        if isinstance(search, Sampling):
            return self._infer_sampled(grid, batch, search)
        if search.levels:
            return self._infer_refined(grid, batch, search)
        return self._infer_shared(grid, batch, search)

    def log_evidence(self, grid: Tensor, batch: Batch, poseset: Poseset) -> Tensor:
        """log p(X | V), shape (B,), summed over the same poses as an inference before."""
        if isinstance(poseset, Known):
            return self._at_known(grid, batch, poseset).log_evidence + batch.log_norm
        if isinstance(poseset, Sampling):
            found = (sampled.poses for _, sampled in self._sampled(grid, batch, poseset))
            return torch.cat([poses.log_evidence for poses in found])
        if isinstance(poseset, Refined):
            evidence = torch.empty_like(batch.log_norm)
            for images, cells in poseset.blocks:
                evidence[images] = self._block_evidence(grid, batch.part(images), cells, poseset.search)
            return evidence
        _, slices, _, phases, log_shift = self._shared(grid, poseset)
        return evaluate_exhaustive(
            batch, slices, phases, log_shift, self.precision, statistics=False
        ).log_evidence

    def _frequencies(self, disc: HalfDisc, device: torch.device) -> Tensor:
        """(kx, ky) in 1/Å of a disc's coefficients, shape (K, 2), float64."""
        return torch.as_tensor(disc.frequencies / self.extent, dtype=torch.float64, device=device)

    def _shared(self, grid: Tensor, search: Search) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rotations, slices, shifts, phases and log weights of the shared grid at the coarse radius."""
        disc = HalfDisc(search.coarse_radius)
        rotations = torch.as_tensor(search.rotations.matrices, dtype=grid.dtype, device=grid.device)
        slices = self.projector.sample(grid, rotations, slice_points(disc, grid.device))
        shifts = torch.as_tensor(search.shifts.shifts, dtype=grid.dtype, device=grid.device)
        phases = shift_phases(self._frequencies(disc, grid.device), shifts)
        log_shift = torch.as_tensor(search.shifts.log_weights, dtype=grid.dtype, device=grid.device)
        return rotations, slices, shifts, phases, log_shift

    def _infer_shared(self, grid: Tensor, batch: Batch, search: Search) -> Inference:
        rotations, slices, shifts, phases, log_shift = self._shared(grid, search)
        found = evaluate_exhaustive(batch, slices, phases, log_shift, self.precision, statistics=True)
        assert found.cross is not None
        assert found.power is not None
        probabilities, best = most_probable(found.rotation_marginal)
        poses = Poses(
            rotations[best],
            shifts[found.shift_marginal.argmax(dim=1)][:, None].expand(-1, best.shape[1], -1),
            probabilities,
            found.log_evidence,
            rotation_entropy(found.rotation_marginal),
            1.0 / found.rotation_marginal.square().sum(dim=1),
            match=torch.zeros_like(found.log_evidence),
            energy=torch.zeros_like(found.log_evidence),
            spread=shift_spread(found.shift_marginal, shifts[None]),
        )
        statistics = Statistics(rotations, slices, found.cross, found.power, None)
        marginals = []
        if search.iteration is not None:
            by_rotation, by_shift = found.rotation_marginal, found.shift_marginal
            keep, sides = (REMEMBERED, REMEMBERED), (search.rotations.spacing, search.shifts.spacing)
            cells = best_cells(rotations, shifts, by_rotation, by_shift, keep, sides)
            # The cells come in the order of their probability.
            n_rotations, n_shifts = cells.rotations.shape[1], cells.shifts.shape[1]
            marginals = _remembered(
                cells,
                by_rotation.topk(n_rotations).values,
                by_shift.topk(n_shifts).values,
                search.iteration,
            )
        points = len(batch) * len(rotations) * len(shifts)
        return Inference(statistics, search, poses, None, marginals, points)

    def _infer_refined(self, grid: Tensor, batch: Batch, search: Search) -> Inference:
        rotations, slices, shifts, phases, log_shift = self._shared(grid, search)
        coarse = evaluate_exhaustive(
            batch.prefix(slices.shape[1]), slices, phases, log_shift, self.precision, statistics=False
        )
        by_rotation, by_shift = coarse.rotation_marginal, coarse.shift_marginal
        sides = (search.rotations.spacing, search.shifts.spacing)
        first, blocks, parts = search.levels[0], [], []
        split = needed(by_rotation, first, search.lost)
        for images in blocks_of(split, self.block):
            keep = int(split[images].max()), first.shifts
            cells = best_cells(rotations, shifts, by_rotation[images], by_shift[images], keep, sides)
            inference, cells = self._refine_block(grid, batch.part(images), cells, search)
            parts.append(inference)
            blocks.append((images, cells))
        return Inference.joined(parts, Refined(search, tuple(blocks)), [images for images, _ in blocks])

    def _refine_block(
        self, grid: Tensor, mine: Batch, cells: Cells, search: Search
    ) -> tuple[Inference, Cells]:
        first, *rest = search.levels
        points = len(mine) * len(search.rotations.matrices) * len(search.shifts.shifts)
        cells = cells.split()
        points += len(cells)
        local = self._score(grid, mine, cells, search, first.radius)
        for level in rest:
            marginals, sides = (local.joint.sum(dim=1), local.joint.sum(dim=2)), (cells.angle, cells.length)
            keep = int(needed(marginals[0], level, search.lost).max()), level.shifts
            cells = best_cells(cells.rotations, cells.shifts, *marginals, keep, sides).split()
            points += len(cells)
            local = self._score(grid, mine, cells, search, level.radius)
        if search.hard:
            local = local.assigned()
        statistics, fit = local_statistics(mine, cells, local)
        marginals = []
        if search.iteration is not None:
            marginals = _remembered(cells, local.joint.sum(dim=1), local.joint.sum(dim=2), search.iteration)
        poses = self._poses(mine, cells, search, local, fit)
        return Inference(statistics, search, poses, fit.residual, marginals, points), cells

    def _block_evidence(self, grid: Tensor, batch: Batch, cells: Cells, search: Search) -> Tensor:
        """log p(X | V) of a block of images over given candidates."""
        local = self._score(grid, batch, cells, search, self.radius)
        return local.log_evidence + batch.log_norm + log_cell_weight(cells, search.rotations, search.shifts)

    def _score(
        self, grid: Tensor, batch: Batch, cells: Cells, search: Search, radius: float
    ) -> LocalPosterior:
        """Evaluate a block's own candidates at one radius."""
        disc = HalfDisc(radius)
        return evaluate_local(
            batch.prefix(len(disc)),
            cells,
            grid,
            self.projector,
            slice_points(disc, grid.device),
            self._frequencies(disc, grid.device),
            torch.zeros(1, 1, device=grid.device),
            search.shifts.prior.log_density(cells.shifts.square().sum(dim=-1)),
        )

    def _poses(self, batch: Batch, cells: Cells, search: Search, local: LocalPosterior, fit: Fit) -> Poses:
        """Best poses, evidence and entropy of a block of images."""
        rotation = local.joint.sum(dim=1)
        probabilities, best = most_probable(rotation)
        rows = torch.arange(len(rotation), device=rotation.device)[:, None]
        weight = log_cell_weight(cells, search.rotations, search.shifts)
        frequencies = self._frequencies(HalfDisc(search.levels[-1].radius), rotation.device)
        return Poses(
            cells.rotations[rows, best],
            offsets(local, cells, best, frequencies),
            probabilities,
            local.log_evidence + batch.log_norm + weight,
            rotation_entropy(rotation),
            1.0 / rotation.square().sum(dim=1),
            fit.match,
            fit.energy,
            shift_spread(local.joint.sum(dim=2), cells.shifts),
        )

    def _at_known(self, grid: Tensor, batch: Batch, known: Known) -> LocalPosterior:
        """Each image at the one pose that it has."""
        none = torch.zeros(1, 1, device=grid.device)
        points, frequencies = slice_points(self.disc, grid.device), self._frequencies(self.disc, grid.device)
        return evaluate_local(
            batch, known.cells(grid.device), grid, self.projector, points, frequencies, none, none
        )

    def _infer_known(self, grid: Tensor, batch: Batch, known: Known) -> Inference:
        cells, local = known.cells(grid.device), self._at_known(grid, batch, known)
        statistics, fit = local_statistics(batch, cells, local)
        rotation = local.joint.sum(dim=1)
        probabilities, best = most_probable(rotation)
        rows = torch.arange(len(batch), device=grid.device)[:, None]
        poses = Poses(
            top_rotations=cells.rotations[rows, best],
            top_shifts=cells.shifts[rows, torch.zeros_like(best)],
            top_probabilities=probabilities,
            log_evidence=local.log_evidence + batch.log_norm,
            entropy=rotation_entropy(rotation),
            effective_size=1.0 / rotation.square().sum(dim=1),
            match=fit.match,
            energy=fit.energy,
            spread=torch.zeros_like(fit.match),
        )
        return Inference(statistics, known, poses, fit.residual, [], len(batch))

    def _infer_sampled(self, grid: Tensor, batch: Batch, sampling: Sampling) -> Inference:
        images = []
        for drawn, (image, found) in zip(sampling.draws, self._sampled(grid, batch, sampling), strict=True):
            statistics, fit = local_statistics(image, found.cells, found.local)
            seen = remember_drawn(found, sampling.quadrature, sampling.iteration)
            poses = replace(found.poses, match=fit.match, energy=fit.energy)
            images.append(Inference(statistics, sampling, poses, fit.residual, [seen], len(drawn)))
        places = torch.arange(len(images), device=grid.device).split(1)
        return Inference.joined(images, sampling, places)

    def _sampled(self, grid: Tensor, batch: Batch, sampling: Sampling) -> Iterator[tuple[Batch, Sampled]]:
        """Each image and its posterior over its drawn poses."""
        points, frequencies = slice_points(self.disc, grid.device), self._frequencies(self.disc, grid.device)
        for number, drawn in enumerate(sampling.draws):
            image = batch.part(slice(number, number + 1))
            yield (
                image,
                evaluate_sampled(
                    image, drawn, sampling.quadrature, grid, self.projector, points, frequencies
                ),
            )


def _remembered(cells: Cells, by_rotation: Tensor, by_shift: Tensor, iteration: int) -> list[Remembered]:
    """What a sampler remembers of images with candidates and marginals of their own."""
    rotations, shifts = cells.rotations.double().cpu().numpy(), cells.shifts.double().cpu().numpy()
    rotation_weights, shift_weights = by_rotation.double().cpu().numpy(), by_shift.double().cpu().numpy()
    sides = (cells.angle, cells.length)
    return [
        remember(rotations[i], shifts[i], rotation_weights[i], shift_weights[i], sides, iteration)
        for i in range(len(rotations))
    ]


def concatenated(records: Sequence[Statistics] | Sequence[Poses]) -> list[Tensor]:
    """The fields of several records, one after the other."""
    return [torch.cat(parts) for parts in zip(*(vars(r).values() for r in records), strict=True)]


def log_cell_weight(cells: Cells, grid: RotationGrid, shifts: ShiftGrid) -> float:
    """Log of the prior weight of one refined cell: its share of the grids' cells and the shifts' prior."""
    rotation = -math.log(len(grid.matrices)) + 3.0 * math.log(cells.angle / grid.spacing)
    shift = -float(np.logaddexp.reduce(shifts.log_densities)) + 2.0 * math.log(cells.length / shifts.spacing)
    return rotation + shift
