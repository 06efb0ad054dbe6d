"""Images at poses that are taken as they are."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.symmetry import Symmetrizer
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.pose.known import Known
from cryograd.pose.posterior import Batch
from cryograd.rotations import random_rotations

SIZE, EXTENT, RADIUS, IMAGES = 12, 30.0, 4.5, 5
DISC = HalfDisc(RADIUS)


def blobs(seed: int) -> Tensor:
    """A lopsided smooth volume, float64."""
    rng = np.random.default_rng(seed)
    axis = np.arange(SIZE) - SIZE // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    centres = rng.uniform(-3.0, 3.0, (12, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3.0) for a, b, c in centres)
    return 0.05 * torch.from_numpy(volume)


def predictions(volume: Tensor, known: Known, ctf: Tensor, name: str = "C1") -> Tensor:
    """C S P V of each image in float64, the shift as a phase ramp written out."""
    projector, points = Projector(SIZE, RADIUS), slice_points(DISC, dtype=torch.float64)
    grid = projector.transform(Symmetrizer(name, SIZE, RADIUS).forward(volume))
    slices = projector.sample(grid, torch.from_numpy(known.rotations), points)
    # An origin offset t is how far the image has to be moved: its particle is at −t.
    turns = known.shifts @ (DISC.frequencies / EXTENT).T
    return ctf.double() * torch.from_numpy(np.exp(2j * np.pi * turns)) * slices


@pytest.fixture
def known() -> Known:
    rng = np.random.default_rng(2)
    return Known(random_rotations(IMAGES, rng), rng.normal(scale=3.0, size=(IMAGES, 2)))


@pytest.fixture
def batch(known: Known) -> Batch:
    """Images of another volume at the poses, with unit noise."""
    rng = np.random.default_rng(3)
    ctf = torch.from_numpy(rng.uniform(-1.0, 1.0, (IMAGES, len(DISC)))).float()
    noise = rng.normal(size=(2, IMAGES, len(DISC))) / math.sqrt(2.0)
    images = (predictions(blobs(5), known, ctf) + torch.from_numpy(noise[0] + 1j * noise[1])).to(
        torch.complex64
    )
    norm = -images.abs().square().sum(dim=1) - len(DISC) * math.log(math.pi)
    return Batch(images, ctf, norm)


def log_density(volume: Tensor, known: Known, batch: Batch, name: str = "C1") -> Tensor:
    """log p(X | V, pose) of each image in float64."""
    misfit = batch.images.to(torch.complex128) - predictions(volume, known, batch.ctf, name)
    return -misfit.abs().square().sum(dim=1) - len(DISC) * math.log(math.pi)


@pytest.mark.parametrize("name", ["C1", "D2"])
def test_value_and_gradient_at_known_poses_are_those_of_brute_force(
    known: Known, batch: Batch, name: str
) -> None:
    objective, volume = MarginalLikelihood(SIZE, EXTENT, RADIUS, name), blobs(0)
    found = objective.evaluate(volume.float(), batch, known)
    variable = volume.clone().requires_grad_()
    expected = log_density(variable, known, batch, name)
    (gradient,) = torch.autograd.grad(-expected.mean(), variable)
    mean = objective.mean(found.sums)
    np.testing.assert_allclose(found.poses.log_evidence.numpy(), expected.detach().numpy(), rtol=1e-5)
    assert found.sums.log_evidence == pytest.approx(float(expected.detach().sum()), rel=1e-6)
    assert mean.value == pytest.approx(-float(expected.detach().mean()), rel=1e-6)
    assert float((mean.gradient - gradient).norm()) < 1e-4 * float(gradient.norm())
    assert objective.log_evidence(volume.float(), batch, found.posesets) == pytest.approx(
        found.sums.log_evidence, rel=1e-6
    )
    # And at another volume.
    other = objective.log_evidence(blobs(1).float(), batch, found.posesets)
    assert other == pytest.approx(float(log_density(blobs(1), known, batch, name).sum()), rel=1e-5)


def test_images_that_count_in_part_have_the_same_poses(known: Known, batch: Batch) -> None:
    objective, volume = MarginalLikelihood(SIZE, EXTENT, RADIUS), blobs(0)
    weights, which = torch.tensor([0.5, 2.0, 0.0, 1.0, 0.1]), torch.tensor([True, True, False, True, True])
    found = objective.evaluate(volume.float(), batch.counted(weights, which), known.at(which.numpy()))
    variable = volume.clone().requires_grad_()
    total = (weights.double() * log_density(variable, known, batch)).sum()
    (gradient,) = torch.autograd.grad(-total / 4, variable)
    assert found.sums.log_evidence == pytest.approx(float(total.detach()), rel=1e-6)
    mean = objective.mean(found.sums)
    assert float((mean.gradient - gradient).norm()) < 1e-4 * float(gradient.norm())


def test_a_known_pose_is_certain_and_reported_as_it_is(known: Known, batch: Batch) -> None:
    objective, volume = MarginalLikelihood(SIZE, EXTENT, RADIUS), blobs(0)
    found = objective.evaluate(volume.float(), batch, known)
    poses = found.poses
    np.testing.assert_allclose(poses.rotations.numpy(), known.rotations, atol=1e-6)
    np.testing.assert_allclose(poses.shifts.numpy(), known.shifts, atol=1e-5)
    assert (poses.max_probability == 1.0).all()
    assert (poses.top_probabilities[:, 1:] == 0.0).all()
    assert (poses.entropy == 0.0).all()
    torch.testing.assert_close(poses.effective_size, torch.ones(IMAGES))
    assert found.points == 1.0
    assert found.marginals == []
    predicted = predictions(volume, known, batch.ctf)
    match = (batch.images.to(torch.complex128).conj() * predicted).real.sum(dim=1)
    np.testing.assert_allclose(poses.match.numpy(), match.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(poses.energy.numpy(), predicted.abs().square().sum(dim=1).numpy(), rtol=1e-4)
    assert found.residual is not None
    misfit = (batch.images.to(torch.complex128) - predicted).abs().square()
    np.testing.assert_allclose(found.residual.numpy(), DISC.by_shell(misfit).numpy(), rtol=1e-3, atol=1e-3)


def test_known_poses_in_parts_are_the_same(
    known: Known, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, volume = MarginalLikelihood(SIZE, EXTENT, RADIUS), blobs(0).float()
    whole = objective.evaluate(volume, batch, known)
    monkeypatch.setattr("cryograd.objective.likelihood.OWN_PART", 2)
    parts = objective.evaluate(volume, batch, known)
    assert len(parts.posesets) == 3
    torch.testing.assert_close(parts.sums.misfit, whole.sums.misfit)
    assert torch.equal(parts.poses.rotations, whole.poses.rotations)
    assert np.array_equal(known.part(slice(1, 3)).shifts, known.shifts[1:3])
    assert len(known.at(np.array([4, 0]))) == 2
