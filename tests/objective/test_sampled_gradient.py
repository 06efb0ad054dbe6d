"""The gradient through importance-sampled responsibilities against the exhaustive one."""

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.symmetry import group_matrices
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.pose import posterior
from cryograd.pose.posterior import Batch
from cryograd.pose.proposal import Annealing, Draw, propose
from cryograd.pose.quadrature import PoseGrid, RotationGrid, ShiftGrid, ShiftPrior
from cryograd.pose.sampling import PoseDraw, Sampler, Sampling
from cryograd.pose.search import Search
from cryograd.rotations import euler_to_matrix, random_rotations

SIZE, EXTENT, RADIUS, SPACING = 16, 40.0, 5.0, 0.3
GROUP = group_matrices("C1")
OBJECTIVE = MarginalLikelihood(SIZE, EXTENT, RADIUS)
SHIFTS = ShiftGrid.covering(3.0, 4.0, ShiftPrior(3.0))
GRID = PoseGrid.covering(SPACING, GROUP, SHIFTS)


def blobs(seed):
    """A lopsided volume, smooth on the scale of the radius."""
    rng = np.random.default_rng(seed)
    x = np.arange(SIZE) - SIZE // 2
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    centres = rng.uniform(-SIZE / 4, SIZE / 4, (8, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3.0) for a, b, c in centres)
    return torch.from_numpy(0.12 * volume).float()


def images_of(volume, n):
    """Centred images of a volume with unit noise."""
    rng, disc = np.random.default_rng(1), HalfDisc(RADIUS)
    projector = Projector(SIZE, RADIUS)
    rotations = torch.from_numpy(random_rotations(n, rng)).float()
    slices = projector.sample(projector.transform(volume), rotations, slice_points(disc))
    noise = torch.from_numpy(rng.normal(size=(2, n, len(disc)))).float() / np.sqrt(2)
    ctf = torch.from_numpy(rng.uniform(0.3, 1, (n, len(disc)))).float()
    images = ctf * slices + torch.complex(noise[0], noise[1])
    return Batch(images, ctf, -images.abs().square().sum(dim=1))


def every_pose(anchors):
    """All poses of the quadrature as if they had been drawn."""
    sizes = len(GRID.angles), len(GRID.in_plane), len(SHIFTS.shifts)
    return PoseDraw(*(Draw(np.arange(n), np.zeros(n)) for n in sizes), anchors)


def gradient(volume, batch, draws):
    return OBJECTIVE.mean(OBJECTIVE.evaluate(volume, batch, Sampling(GRID, draws, 0)).sums).gradient.flatten()


@pytest.fixture(autouse=True)
def no_rotation_is_negligible(monkeypatch):
    monkeypatch.setattr(posterior, "NEGLIGIBLE", 1e-7)


def test_drawing_every_pose_gives_the_gradient_of_the_shared_grid():
    volume, batch = 0.8 * blobs(0), images_of(blobs(0), 4)
    anchors = euler_to_matrix(np.pad(GRID.angles, ((0, 0), (0, 1))))
    search = Search(RADIUS, RotationGrid.covering(SPACING, GROUP), SHIFTS)
    every = Sampling(GRID, [every_pose(anchors)] * 4, 0)
    expected, found = (
        OBJECTIVE.mean(OBJECTIVE.evaluate(volume, batch, poses).sums) for poses in (search, every)
    )
    assert found.value == pytest.approx(expected.value, rel=1e-5)
    error = (found.gradient - expected.gradient).norm() / expected.gradient.norm()
    assert float(error) < 1e-3


def test_drawn_poses_give_nearly_the_exhaustive_gradient():
    """Of a map that has not converged, remembered at an earlier one."""
    truth = blobs(0)
    earlier, volume, batch = 0.6 * truth, 0.7 * truth, images_of(truth, 12)
    search = Search(RADIUS, RotationGrid.covering(SPACING, GROUP), SHIFTS, (), 10**4)
    memory = OBJECTIVE.infer(earlier, batch, search).marginals
    sampler = Sampler(Annealing(), 10.0, GROUP)
    anchors = [propose(seen, GRID, GROUP, sampler.annealing).anchors for seen in memory]
    exhaustive = gradient(volume, batch, [every_pose(a) for a in anchors])
    draws = [sampler.draw(seen, GRID, np.random.default_rng(i)) for i, seen in enumerate(memory)]
    assert np.mean([len(d) for d in draws]) < 0.2 * len(GRID)
    assert float(torch.cosine_similarity(gradient(volume, batch, draws), exhaustive, dim=0)) > 0.99
    # The poses of other images give another gradient: the measure can tell.
    wrong = [
        sampler.draw(seen, GRID, np.random.default_rng(i)) for i, seen in enumerate(memory[1:] + memory[:1])
    ]
    assert float(torch.cosine_similarity(gradient(volume, batch, wrong), exhaustive, dim=0)) < 0.98
