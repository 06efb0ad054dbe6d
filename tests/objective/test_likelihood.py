import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cryograd.fourier import HalfDisc, lowpass_volume
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import Symmetrizer, group_matrices
from cryograd.objective import likelihood, sums
from cryograd.objective.likelihood import Halves, MarginalLikelihood
from cryograd.pose import offsets, posterior
from cryograd.pose.posterior import Batch
from cryograd.pose.quadrature import RotationGrid, ShiftGrid, ShiftPrior, split_rotations, split_shifts
from cryograd.pose.search import Level, Refined, Search
from cryograd.rotations import random_rotations

SIZE, EXTENT, RADIUS = 12, 30.0, 4.5
DISC = HalfDisc(RADIUS)
FREQUENCIES = torch.from_numpy(DISC.frequencies / EXTENT)


def a_volume(seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    x = np.arange(size) - size // 2
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    centres = rng.uniform(-size / 4, size / 4, (12, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3.0) for a, b, c in centres)
    return 0.05 * torch.from_numpy(volume)


def a_batch(n=5, seed=1, gain=1.0):
    """Images of another volume than that of the tests, with unit noise."""
    rng = np.random.default_rng(seed)
    projector = Projector(SIZE, RADIUS)
    rotations = torch.from_numpy(random_rotations(n, rng))
    ctf = torch.from_numpy(rng.uniform(-1, 1, (n, len(DISC))))
    grid = projector.transform(gain * a_volume(seed=5))
    slices = projector.sample(grid, rotations, slice_points(DISC, dtype=torch.float64))
    phases = shift_phases(FREQUENCIES, torch.from_numpy(rng.normal(0, 2, (n, 2))))
    noise = rng.normal(size=(2, n, len(DISC))) / math.sqrt(2)
    images = (ctf * phases * slices + torch.from_numpy(noise[0] + 1j * noise[1])).to(torch.complex64)
    log_norm = -images.abs().square().sum(dim=1) - len(DISC) * math.log(math.pi)
    return Batch(images, ctf.float(), log_norm)


def shared_search(name, levels=()):
    rotations = RotationGrid.covering(1.2, group_matrices(name))
    return Search(
        RADIUS, rotations, ShiftGrid.covering(3.0, 3.5, ShiftPrior(2.0), np.array([0.2, -0.3])), levels
    )


class BruteForce:
    """−(1/B) Σ log p(X | V) over given poses, in float64, through automatic differentiation."""

    def __init__(self, name: str, batch: Batch, rotations: Tensor, shifts: Tensor, log_weight: Tensor):
        self.symmetrizer, self.projector = Symmetrizer(name, SIZE, RADIUS), Projector(SIZE, RADIUS)
        self.batch, self.rotations, self.log_weight = batch, rotations.double(), log_weight.double()
        self.phases = shift_phases(FREQUENCIES, shifts).to(torch.complex128)

    def misfit(self, volume: Tensor) -> Tensor:
        """|X − C S P V|² per image, shift, rotation and coefficient, (B, S, J, K)."""
        grid = self.projector.transform(self.symmetrizer.forward(volume))
        slices = self.projector.sample(grid, self.rotations, slice_points(DISC, dtype=torch.float64))
        predicted = self.batch.ctf.double()[:, None, None] * self.phases[:, None] * slices
        return (self.batch.images.to(torch.complex128)[:, None, None] - predicted).abs().square()

    def logits(self, volume: Tensor) -> Tensor:
        """Log joint density of each image and pose, (B, S · J)."""
        log_density = -self.misfit(volume).sum(dim=-1) - len(DISC) * math.log(math.pi)
        return (log_density + self.log_weight).flatten(1)

    def value(self, volume: Tensor) -> Tensor:
        return -torch.logsumexp(self.logits(volume), dim=1).mean()

    def gradient(self, volume: Tensor) -> Tensor:
        variable = volume.clone().requires_grad_()
        return torch.autograd.grad(self.value(variable), variable)[0]

    def residual(self, volume: Tensor) -> Tensor:
        misfit = self.misfit(volume)
        joint = torch.softmax(self.logits(volume), dim=1).view(misfit.shape[:3])
        return torch.einsum("isj,isjk->ik", joint, misfit)


def brute_force_of_shared_grid(name, batch, search):
    weight = torch.from_numpy(search.shifts.log_weights)[:, None] - math.log(len(search.rotations.matrices))
    rotations, shifts = torch.from_numpy(search.rotations.matrices), torch.from_numpy(search.shifts.shifts)
    return BruteForce(name, batch, rotations, shifts, weight.expand(-1, len(rotations)))


def brute_force_of_children(name, batch, search):
    """All children of all cells: what a refinement that keeps everything evaluates."""
    grid, lattice = search.rotations, search.shifts
    rotations = split_rotations(torch.from_numpy(grid.matrices), grid.spacing).flatten(0, 1)
    shifts = split_shifts(torch.from_numpy(lattice.shifts), lattice.spacing).flatten(0, 1)
    # A child's prior is its parents' normalised density at its own place, in a quarter of the area.
    norm = np.exp(-0.5 * (lattice.shifts**2).sum(axis=1) / lattice.prior.sigma**2).sum()
    log_prior = -0.5 * shifts.square().sum(dim=1) / lattice.prior.sigma**2 - math.log(4 * norm)
    weight = log_prior[:, None] - math.log(len(rotations))
    return BruteForce(name, batch, rotations, shifts, weight.expand(-1, len(rotations)))


def evaluated(objective, volume, batch, search, halves=None):
    """An evaluation, and what its sums say as a mean over the images."""
    found = objective.evaluate(volume, batch, search, halves)
    return found, objective.mean(found.sums)


def mean_value(objective, volume, batch, posesets):
    """−(1/B) Σ log p over the same poses as an evaluation before."""
    return -objective.log_evidence(volume, batch, posesets) / len(batch)


def relative_error(found, expected):
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


@pytest.mark.parametrize("name", ["C1", "C3", "D2"])
def test_value_and_gradient_on_the_shared_grid(name):
    volume, batch, search = a_volume(), a_batch(), shared_search(name)
    brute = brute_force_of_shared_grid(name, batch, search)
    _, found = evaluated(MarginalLikelihood(SIZE, EXTENT, RADIUS, name), volume.float(), batch, search)
    assert found.value == pytest.approx(brute.value(volume).item(), rel=1e-6)
    gradient = brute.gradient(volume)
    assert relative_error(found.gradient, gradient) < 1e-4

    # Independent of any derivative code: central differences.
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        direction = torch.randn(volume.shape, dtype=torch.float64, generator=generator)
        step = 1e-4 * direction
        slope = (brute.value(volume + step) - brute.value(volume - step)) / 2e-4
        assert (found.gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)
    # Large differences along the descent direction are right, too.
    assert brute.value(volume - 1e-3 * gradient / gradient.norm()) < brute.value(volume)


@pytest.mark.parametrize("name", ["C1", "C3", "D2"])
def test_refined_search_that_keeps_everything_agrees_with_brute_force(name, monkeypatch):
    monkeypatch.setattr(posterior, "NEGLIGIBLE", 0.0)
    everything = Level(10**6, 10**6, RADIUS)
    volume, batch, search = a_volume(), a_batch(n=3), shared_search(name, (everything,))
    brute = brute_force_of_children(name, batch, search)
    objective = MarginalLikelihood(SIZE, EXTENT, RADIUS, name, block=2)
    found, mean = evaluated(objective, volume.float(), batch, search)
    assert mean.value == pytest.approx(brute.value(volume).item(), rel=1e-6)
    assert relative_error(mean.gradient, brute.gradient(volume)) < 1e-4
    assert found.residual is not None
    expected = objective.disc.by_shell(brute.residual(volume))
    assert torch.allclose(found.residual, expected, rtol=1e-3, atol=1e-4)


def test_the_shift_is_the_mean_at_the_best_rotation(monkeypatch):
    """Where the posterior is not narrower than the cells, as which all are taken here."""
    monkeypatch.setattr(offsets, "NARROW", 0.0)
    everything = Level(10**6, 10**6, RADIUS)
    volume, batch, search = a_volume(), a_batch(n=3), shared_search("C1", (everything,))
    brute = brute_force_of_children("C1", batch, search)
    poses = MarginalLikelihood(SIZE, EXTENT, RADIUS).infer(volume.float(), batch, search).poses
    logits = brute.logits(volume).view(len(batch), -1, len(brute.rotations))
    shifts = split_shifts(torch.from_numpy(search.shifts.shifts), search.shifts.spacing).flatten(0, 1)
    for i in range(len(batch)):
        best = torch.logsumexp(logits[i], dim=0).argmax()
        assert torch.allclose(poses.rotations[i].double(), brute.rotations[best], atol=1e-5)
        mean = torch.softmax(logits[i, :, best], dim=0) @ shifts
        assert torch.allclose(poses.shifts[i].double(), mean, atol=1e-3)


def test_refined_search_needs_few_cells_of_a_sharp_posterior():
    volume, batch = 3 * a_volume(seed=5), a_batch(n=4, gain=3)
    objective = MarginalLikelihood(SIZE, EXTENT, RADIUS)
    rotations = RotationGrid.covering(0.5, group_matrices("C1"))
    shifts = ShiftGrid.covering(2.0, 6.0, ShiftPrior(2.0))

    def evaluate(*levels):
        return evaluated(objective, volume.float(), batch, Search(3.0, rotations, shifts, levels))[1]

    # All cells would be 90,000 rotations × 450 shifts an image.
    many = evaluate(Level(600, 40, RADIUS), Level(400, 40, RADIUS))
    few = evaluate(Level(120, 16, 4.0), Level(50, 10, RADIUS))
    assert 0 <= few.value - many.value < 0.05
    assert relative_error(few.gradient, many.gradient) < 0.05


def test_a_refinement_splits_as_many_cells_as_an_image_needs():
    """In one batch, of images that show their poses and of some that do not."""
    order, level = [5, 0, 1, 6, 2, 7, 3, 4, 8], Level(10**6, 10**6, RADIUS, least=64)
    parts = [a_batch(n=5, gain=4), a_batch(n=4, gain=0.0, seed=2)]
    values = ([getattr(part, name) for part in parts] for name in ("images", "ctf", "log_norm"))
    batch = Batch(*(torch.cat(both)[order] for both in values))
    objective, volume = MarginalLikelihood(SIZE, EXTENT, RADIUS, block=5), a_volume(seed=5).float()
    grid, shifts = (
        RotationGrid.covering(0.4, group_matrices("C1")),
        ShiftGrid.covering(1.5, 3.5, ShiftPrior(2.0)),
    )
    search = Search(RADIUS, grid, shifts, (level,))
    whole, some = (objective.infer(volume, batch, replace(search, lost=lost)) for lost in (0.0, 0.01))
    assert some.points < 0.7 * whole.points
    # What is lost lowers the evidence a little, and nothing else.
    lost = whole.poses.log_evidence - some.poses.log_evidence
    assert -1e-3 < float(lost.min()) <= float(lost.max()) < 0.2
    assert torch.equal(some.poses.rotations, whole.poses.rotations)
    assert relative_error(some.residual, whole.residual) < 0.02
    assert isinstance(some.poseset, Refined)
    counts = {int(i): cells.rotations.shape[1] for images, cells in some.poseset.blocks for i in images}
    assert max(counts[i] for i in (1, 2, 4, 6, 7)) < min(counts[i] for i in (0, 3, 5, 8))


def test_negligible_rotations_do_not_matter_for_the_gradient(monkeypatch):
    search = shared_search("C1", (Level(10**6, 10**6, RADIUS),))
    volume, batch = a_volume().float(), a_batch(n=3)
    objective = MarginalLikelihood(SIZE, EXTENT, RADIUS)
    _, short = evaluated(objective, volume, batch, search)
    monkeypatch.setattr(posterior, "NEGLIGIBLE", 0.0)
    _, complete = evaluated(objective, volume, batch, search)
    assert short.value == complete.value
    assert relative_error(short.gradient, complete.gradient) < 0.1


def test_gradient_is_that_of_a_symmetric_volume():
    objective = MarginalLikelihood(SIZE, EXTENT, RADIUS, "D2")
    _, found = evaluated(objective, a_volume().float(), a_batch(), shared_search("D2"))
    average = Symmetrizer("D2", SIZE, RADIUS).forward(found.gradient)
    assert relative_error(average, found.gradient) < 1e-5


def test_the_true_poses_are_found():
    volume, rng = 40 * lowpass_volume(a_volume(seed=5), 5), np.random.default_rng(0)
    search = Search(
        RADIUS,
        RotationGrid.covering(0.5, group_matrices("C1")),
        ShiftGrid.covering(3.0, 7.0, ShiftPrior(3.0)),
    )
    chosen = rng.integers(len(search.rotations.matrices), size=4)
    rotations = torch.from_numpy(search.rotations.matrices[chosen])
    shifts = torch.from_numpy(search.shifts.shifts[rng.integers(len(search.shifts.shifts), size=4)])
    projector = Projector(SIZE, RADIUS)
    slices = projector.sample(projector.transform(volume), rotations, slice_points(DISC, dtype=torch.float64))
    images = (shift_phases(FREQUENCIES, shifts) * slices).to(torch.complex64)
    batch = Batch(images, torch.ones(4, len(DISC)), torch.zeros(4))
    poses = MarginalLikelihood(SIZE, EXTENT, RADIUS).infer(volume.float(), batch, search).poses
    assert torch.allclose(poses.rotations.double(), rotations, atol=1e-6)
    assert torch.allclose(poses.shifts.double(), shifts, atol=1e-5)
    assert (poses.max_probability > 0.99).all()
    assert (poses.entropy < 0.1).all()


def slope_of(objective, volume, batch, search, halves):
    """The gradient for half the difference of two maps."""
    slope = evaluated(objective, volume, batch, search, halves)[1].slope
    assert slope is not None
    return slope


def test_curvature_of_a_minibatch_is_a_mean_over_its_images():
    objective, search, batch = MarginalLikelihood(SIZE, EXTENT, RADIUS), shared_search("C1"), a_batch()
    volume = a_volume().float()
    _, whole = evaluated(objective, volume, batch, search)
    parts = [evaluated(objective, volume, batch.part(slice(i, i + 1)), search)[1] for i in range(len(batch))]
    for name in ("curvature", "gradient"):
        mean = torch.stack([getattr(part, name) for part in parts]).mean(dim=0)
        assert relative_error(mean, getattr(whole, name)) < 1e-5, name
    assert whole.value == pytest.approx(np.mean([part.value for part in parts]), rel=1e-6)


@pytest.mark.parametrize("levels", [(), (Level(12, 6, RADIUS),)], ids=["shared", "refined"])
def test_images_in_parts_are_the_same_as_together(levels, monkeypatch):
    objective, search, batch = (
        MarginalLikelihood(SIZE, EXTENT, RADIUS, block=2),
        shared_search("C1", levels),
        a_batch(),
    )
    volume, halves = a_volume().float(), Halves(a_volume(seed=3).float(), torch.arange(5) % 2 == 0)
    whole, expected = evaluated(objective, volume, batch, search, halves)
    for module, name, value in (
        (likelihood, "PART", 2),
        (likelihood, "OWN_PART", 2),
        (sums, "HELD_BYTES", 0),
    ):
        monkeypatch.setattr(module, name, value)
    parts, mean = evaluated(objective, volume, batch, search, halves)
    assert len(parts.posesets) == 3
    assert mean.value == pytest.approx(expected.value, rel=1e-6)
    assert parts.points == whole.points
    for name in ("gradient", "curvature", "weights", *(["slope"] if levels else [])):
        assert relative_error(getattr(mean, name), getattr(expected, name)) < 1e-5, name
    if levels:
        assert relative_error(parts.residual, whole.residual) < 1e-5
    assert torch.equal(parts.poses.rotations, whole.poses.rotations)
    assert mean_value(objective, volume, batch, parts.posesets) == pytest.approx(expected.value, rel=1e-6)


@pytest.mark.parametrize("levels", [(), (Level(4, 2, RADIUS),)], ids=["shared", "refined"])
def test_the_value_on_fixed_poses_has_the_gradient_that_was_evaluated(levels):
    objective, search, batch = (
        MarginalLikelihood(SIZE, EXTENT, RADIUS),
        shared_search("C1", levels),
        a_batch(),
    )
    volume = a_volume().float()
    found, mean = evaluated(objective, volume, batch, search)
    assert mean_value(objective, volume, batch, found.posesets) == pytest.approx(mean.value, rel=1e-6)
    direction = a_volume(seed=4).float() - volume
    step = 0.02
    ahead, behind = (
        mean_value(objective, volume + s * direction, batch, found.posesets) for s in (step, -step)
    )
    slope = float((mean.gradient.double() * direction.double()).sum())
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=0.02)


# Averaging over a threefold axis interpolates once more, which takes from what voxels far apart share.
@pytest.mark.parametrize(("name", "error"), [("C1", 0.05), ("D2", 0.05), ("C3", 0.15)])
def test_the_normal_product_is_nearly_that_of_the_complete_data(name, error):
    objective, batch = MarginalLikelihood(SIZE, EXTENT, RADIUS, name), a_batch(n=40)
    search = shared_search(name)
    volume, a, b = (objective.symmetrizer.forward(a_volume(seed).float()) for seed in (0, 3, 4))
    _, found = evaluated(objective, volume, batch, search)
    statistics = objective.infer(volume, batch, search).statistics

    def energy(u, v):
        points = slice_points(DISC)
        slices = [
            objective.projector.sample(objective.transform(x), statistics.rotations, points) for x in (u, v)
        ]
        return float((statistics.power * (slices[0].conj() * slices[1]).real).sum()) * 2 / len(batch)

    images = [objective.normal(found.weights, v) for v in (a, b)]
    assert float((a * images[1]).sum()) == pytest.approx(float((b * images[0]).sum()), rel=1e-4)
    assert float((a * images[0]).sum()) == pytest.approx(energy(a, a), rel=error)
    assert float((a * images[1]).sum()) == pytest.approx(energy(a, b), rel=error)


def test_an_assignment_counts_each_image_once_at_its_best_pose(monkeypatch):
    # Poses are then reported as they were compared.
    monkeypatch.setattr(offsets, "NARROW", 0.0)
    level = Level(10**6, 10**6, RADIUS)
    batch, volume = a_batch(), a_volume().float()
    objective = MarginalLikelihood(SIZE, EXTENT, RADIUS)
    soft, hard = (
        objective.infer(volume, batch, replace(shared_search("C1", (level,)), hard=hard))
        for hard in (False, True)
    )
    assert torch.equal(hard.poses.rotations, soft.poses.rotations)
    assert torch.allclose(hard.poses.max_probability, torch.ones(len(batch)))
    assert hard.statistics.image is not None
    assert hard.statistics.image.tolist() == list(range(len(batch)))
    assert torch.allclose(hard.statistics.power, batch.ctf.square())
    phases = shift_phases(FREQUENCIES, hard.poses.shifts)
    assert torch.allclose(hard.statistics.cross, batch.ctf * batch.images * phases.conj(), atol=1e-4)


@pytest.mark.parametrize("name", ["C1", "D2"])
def test_half_the_difference_has_half_the_difference_of_the_halves_gradients(name):
    search = shared_search(name, (Level(10**6, 10**6, RADIUS),))
    volume, batch = a_volume().float(), a_batch(n=5)
    objective = MarginalLikelihood(SIZE, EXTENT, RADIUS, name, block=2)
    upper = torch.tensor([True, True, False, True, False])
    halves = [evaluated(objective, volume, batch.part(h), search)[1].gradient for h in (upper, ~upper)]
    gradient = slope_of(objective, volume, batch, search, Halves(torch.zeros_like(volume), upper))
    assert relative_error(gradient, (halves[0] - halves[1]) / 2) < 1e-4

    # Away from zero the gradient grows by the Hessian of the complete data: ⟨D, H D⟩ = (2/B) Σ a |P D|².
    difference = a_volume(seed=3).float()
    growth = slope_of(objective, volume, batch, search, Halves(difference, upper)) - gradient
    statistics = objective.infer(volume, batch, search).statistics
    slices = objective.projector.sample(
        objective.transform(difference), statistics.rotations, slice_points(DISC)
    )
    energy = (statistics.power * slices.abs().square()).sum() * 2 / len(batch)
    assert float((growth * difference).sum()) == pytest.approx(float(energy), rel=1e-4)


def test_one_half_alone_gives_a_finite_difference_gradient():
    search = shared_search("C1", (Level(4, 4, RADIUS),))
    volume, batch = a_volume().float(), a_batch(n=2)
    objective = MarginalLikelihood(SIZE, EXTENT, RADIUS)
    gradient = slope_of(objective, volume, batch, search, Halves(volume, torch.tensor([True, True])))
    assert torch.isfinite(gradient).all()


def test_what_a_mask_leaves_of_the_noise_makes_up_for_what_it_takes_from_the_residual():
    search, batch = shared_search("C1", (Level(12, 6, RADIUS),)), a_batch()
    objective, area = MarginalLikelihood(SIZE, EXTENT, RADIUS, block=2), torch.linspace(0.2, 1.0, 5)
    whole, masked = (
        objective.evaluate(a_volume().float(), b, search).residual for b in (batch, replace(batch, area=area))
    )
    torch.testing.assert_close(masked * area[:, None], whole)
