"""What parts of a minibatch say of a map adds up to what the whole of it says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import Symmetrizer, group_matrices
from cryograd.objective.likelihood import Halves, MarginalLikelihood
from cryograd.objective.sums import Insertion, Sums
from cryograd.pose import posterior
from cryograd.pose.posterior import Batch
from cryograd.pose.quadrature import RotationGrid, ShiftGrid, ShiftPrior, split_rotations, split_shifts
from cryograd.pose.search import Level, Search
from cryograd.rotations import random_rotations

SIZE, EXTENT, RADIUS, IMAGES = 12, 30.0, 4.5, 6
DISC = HalfDisc(RADIUS)
FREQUENCIES = torch.from_numpy(DISC.frequencies / EXTENT)
# All cells are kept.
EVERYTHING = Level(10**6, 10**6, RADIUS)


def blobs(seed: int) -> Tensor:
    """A lopsided smooth volume, float64."""
    rng = np.random.default_rng(seed)
    axis = np.arange(SIZE) - SIZE // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    centres = rng.uniform(-3.0, 3.0, (12, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3.0) for a, b, c in centres)
    return 0.05 * torch.from_numpy(volume)


def a_batch() -> Batch:
    """Images of another volume at random poses, with unit noise."""
    rng, projector = np.random.default_rng(1), Projector(SIZE, RADIUS)
    rotations = torch.from_numpy(random_rotations(IMAGES, rng))
    ctf = torch.from_numpy(rng.uniform(-1.0, 1.0, (IMAGES, len(DISC))))
    slices = projector.sample(
        projector.transform(blobs(5)), rotations, slice_points(DISC, dtype=torch.float64)
    )
    noise = rng.normal(size=(2, IMAGES, len(DISC))) / math.sqrt(2.0)
    images = (ctf * slices + torch.from_numpy(noise[0] + 1j * noise[1])).to(torch.complex64)
    return Batch(images, ctf.float(), torch.linspace(-3.0, 2.0, IMAGES))


def a_search(name: str, *levels: Level) -> Search:
    rotations = RotationGrid.covering(1.4, group_matrices(name))
    return Search(RADIUS, rotations, ShiftGrid.covering(3.0, 3.5, ShiftPrior(2.0)), levels)


def relative(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.norm((found - expected).double()) / torch.linalg.norm(expected.double()))


@pytest.mark.parametrize("name", ["C1", "D2"])
@pytest.mark.parametrize("levels", [(), (EVERYTHING,)], ids=["shared", "refined"])
def test_sums_of_parts_are_the_sums_of_the_whole(name: str, levels: tuple[Level, ...]) -> None:
    objective, search, batch = (
        MarginalLikelihood(SIZE, EXTENT, RADIUS, name),
        a_search(name, *levels),
        a_batch(),
    )
    volume, difference = blobs(0).float(), blobs(3).float()
    # Halves count the same in whatever is evaluated at once: in each part they are of equal size.
    upper = torch.tensor([True, False, True, False, True, False])
    parts = [torch.tensor(part) for part in ([0, 1], [2, 3], [4, 5])]

    def sums(images: Tensor) -> Sums:
        return objective.evaluate(volume, batch.part(images), search, Halves(difference, upper[images])).sums

    whole, (first, second, third) = sums(torch.arange(6)), map(sums, parts)
    added = first + second + third
    assert added.images == whole.images == 6
    found, expected = objective.mean(added), objective.mean(whole)
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    assert relative(found.gradient, expected.gradient) < 1e-5
    assert relative(found.curvature, expected.curvature) < 1e-5
    assert relative(found.weights, expected.weights) < 1e-5
    # Where all images share one grid of poses nothing is said of each.
    assert (found.slope is None) == (levels == ())
    if found.slope is not None:
        assert expected.slope is not None
        assert relative(found.slope, expected.slope) < 1e-5
    # Whatever the order, and however they are put together.
    assert relative(objective.mean(third + (second + first)).gradient, expected.gradient) < 1e-5


class BruteForce:
    """Σ log p(X | V) of each image over all poses, in float64 and by automatic differentiation."""

    def __init__(self, name: str, batch: Batch, search: Search) -> None:
        grid, lattice = search.rotations, search.shifts
        self.rotations = split_rotations(torch.from_numpy(grid.matrices), grid.spacing).flatten(0, 1)
        shifts = split_shifts(torch.from_numpy(lattice.shifts), lattice.spacing).flatten(0, 1)
        norm = np.exp(-0.5 * (lattice.shifts**2).sum(axis=1) / lattice.prior.sigma**2).sum()
        log_prior = -0.5 * shifts.square().sum(dim=1) / lattice.prior.sigma**2 - math.log(4.0 * norm)
        self.weight = log_prior[:, None] - math.log(len(self.rotations))
        self.phases = shift_phases(FREQUENCIES, shifts).to(torch.complex128)
        self.symmetrizer, self.projector, self.batch = (
            Symmetrizer(name, SIZE, RADIUS),
            Projector(SIZE, RADIUS),
            batch,
        )

    def slices(self, volume: Tensor) -> Tensor:
        grid = self.projector.transform(self.symmetrizer.forward(volume))
        return self.projector.sample(grid, self.rotations, slice_points(DISC, dtype=torch.float64))

    def logits(self, volume: Tensor) -> Tensor:
        """Log joint density of each image, shift and rotation, but for ‖X‖², (B, S, J)."""
        predicted = self.batch.ctf.double()[:, None, None] * self.phases[:, None] * self.slices(volume)
        images = self.batch.images.to(torch.complex128)[:, None, None]
        density = images.abs().square() - (images - predicted).abs().square()
        return density.sum(dim=-1) + self.weight

    def log_evidence(self, volume: Tensor) -> Tensor:
        return torch.logsumexp(self.logits(volume).flatten(1), dim=1) + self.batch.log_norm.double()

    def joint(self, volume: Tensor) -> Tensor:
        """Responsibilities, (B, S, J)."""
        return torch.softmax(self.logits(volume).flatten(1), dim=1).view(
            len(self.batch), -1, len(self.rotations)
        )

    def complete(self, volume: Tensor, at: Tensor) -> Tensor:
        """a |P V|² − 2 Re b* P V of each image, at the responsibilities of another volume."""
        predicted = self.batch.ctf.double()[:, None, None] * self.phases[:, None] * self.slices(volume)
        images = self.batch.images.to(torch.complex128)[:, None, None]
        misfit = (images - predicted).abs().square() - images.abs().square()
        return torch.einsum("isj,isjk->i", self.joint(at), misfit)


@pytest.mark.parametrize("name", ["C1", "D2"])
def test_added_sums_are_those_of_brute_force(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, gradient, curvature and slope."""
    monkeypatch.setattr(posterior, "NEGLIGIBLE", 0.0)
    search, batch = a_search(name, EVERYTHING), a_batch()
    objective, brute = MarginalLikelihood(SIZE, EXTENT, RADIUS, name), BruteForce(name, batch, search)
    volume, difference = blobs(0), blobs(3)
    upper = torch.tensor([True, False, True, False, True, False])
    weights = torch.linspace(0.3, 2.0, IMAGES)

    def sums(part: slice) -> Sums:
        mine = batch.counted(weights, torch.ones(IMAGES, dtype=torch.bool)).part(part)
        return objective.evaluate(volume.float(), mine, search).sums

    added = sums(slice(0, 3)) + sums(slice(3, 4)) + sums(slice(4, IMAGES))
    found = objective.mean(added)
    variable = volume.clone().requires_grad_()
    value = -(weights.double() * brute.log_evidence(variable)).sum() / IMAGES
    (gradient,) = torch.autograd.grad(value, variable)
    assert found.value == pytest.approx(float(value.detach()), rel=1e-6)
    assert relative(found.gradient, gradient) < 1e-4
    counted = weights.double()[:, None] * batch.ctf.double().square()
    power = torch.einsum("isj,ik->jk", brute.joint(volume), counted) / IMAGES
    points = slice_points(DISC, dtype=torch.float64)
    grid = Projector(SIZE, RADIUS).insert(power.to(torch.complex128), brute.rotations, points)
    expected = objective.curvature(objective.symmetrised(grid[..., 0]))
    assert float(expected.max()) > 1.0
    assert relative(found.curvature, expected) < 1e-4

    # Of each half the complete data's gradient; the slope is half the difference at V + D and V − D.
    whole = objective.evaluate(volume.float(), batch, search, Halves(difference.float(), upper))
    slope = objective.mean(whole.sums).slope
    assert slope is not None
    gradients = []
    for half, sign in ((upper, 1.0), (~upper, -1.0)):
        moved = (volume + sign * difference).requires_grad_()
        energy = brute.complete(moved, volume)[half].mean()
        gradients.append(torch.autograd.grad(energy, moved)[0])
    assert relative(slope, 0.5 * (gradients[0] - gradients[1])) < 1e-4


def test_a_slope_is_lost_where_one_part_has_none() -> None:
    grid = torch.ones(3, 3, 2, 2)
    one = Sums(2, -3.0, grid[..., :1], grid, slope=grid)
    assert (one + replace(one, slope=None)).slope is None
    both = one + one
    assert both.slope is not None
    assert torch.equal(both.slope, 2.0 * grid)
    assert (both.images, both.log_evidence) == (4, -6.0)
    # Neither of the two has changed.
    assert torch.equal(one.misfit, torch.ones(3, 3, 2, 2))


@pytest.mark.parametrize("held", [0, 2000, 2**30])
def test_slices_are_inserted_as_if_all_were_at_once(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryograd.objective.sums.HELD_BYTES", held)
    projector, points = Projector(SIZE, RADIUS), slice_points(DISC)
    generator = torch.Generator().manual_seed(0)
    rotations = torch.from_numpy(random_rotations(9, np.random.default_rng(0))).float()
    real = torch.rand(9, len(DISC), generator=generator)
    values = torch.randn(9, len(DISC), dtype=torch.complex64, generator=generator)
    insertion = Insertion(projector, points)
    for part in (slice(0, 2), slice(2, 3), slice(3, 9)):
        insertion.add([real[part], values[part]], rotations[part])
    weights, misfit = insertion.total()
    torch.testing.assert_close(misfit, projector.insert(values, rotations, points), rtol=1e-4, atol=1e-5)
    complex_ = projector.insert(real.to(torch.complex64), rotations, points)
    torch.testing.assert_close(weights[..., 0], complex_[..., 0], rtol=1e-4, atol=1e-5)
