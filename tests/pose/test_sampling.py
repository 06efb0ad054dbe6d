"""Importance sampling against sums over whole quadratures."""

import math

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import group_matrices
from cryograd.pose.memory import Memory
from cryograd.pose.posterior import Batch, evaluate_exhaustive
from cryograd.pose.proposal import (
    REMEMBERED,
    Annealing,
    Draw,
    Marginal,
    Remembered,
    draw,
    effective_size,
    fisher_kernel,
    gaussian_kernel,
    on_circle,
    proposal,
    propose,
)
from cryograd.pose.quadrature import PoseGrid, RotationGrid, ShiftGrid
from cryograd.pose.sampling import PoseDraw, Sampler, evaluate_sampled, remember, remember_drawn

SIZE, EXTENT, RADIUS = 16, 40.0, 5.0
DISC = HalfDisc(RADIUS)
FREQUENCIES = torch.from_numpy(DISC.frequencies / EXTENT)


def quadrature(spacing=0.5, symmetry="C1", lattice=3.0):
    return PoseGrid.covering(spacing, group_matrices(symmetry), ShiftGrid.covering(lattice, 6.0, 3.0))


def some_memory(iteration=10**4, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(5, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = rng.dirichlet(np.ones(5))
    return Remembered(
        Marginal(directions, weights),
        Marginal(rng.uniform(0, 2 * np.pi, (4, 1)), np.full(4, 0.25)),
        Marginal(rng.normal(0, 3, (3, 2)), np.array([0.5, 0.3, 0.2])),
        0.5,
        3.0,
        iteration,
    )


def a_problem(n=4, seed=0):
    """Images of a lopsided volume, with unit noise, and the exact posterior on a quadrature."""
    rng = np.random.default_rng(seed)
    x = np.arange(SIZE) - SIZE // 2
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    centres = rng.uniform(-SIZE / 4, SIZE / 4, (8, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3.0) for a, b, c in centres)
    projector = Projector(SIZE, RADIUS)
    grid = projector.transform(torch.from_numpy(0.12 * volume).float())
    points = slice_points(DISC)
    poses = quadrature()
    chosen = rng.integers(len(poses.angles), size=n), rng.integers(len(poses.in_plane), size=n)
    rotations = torch.from_numpy(
        np.stack([poses.rotations(chosen[0][i : i + 1], chosen[1][i : i + 1])[0, 0] for i in range(n)])
    ).float()
    ctf = torch.from_numpy(rng.uniform(0.3, 1, (n, len(DISC)))).float()
    noise = torch.from_numpy(rng.normal(size=(2, n, len(DISC))) / math.sqrt(2)).float()
    images = ctf * projector.sample(grid, rotations, points) + torch.complex(noise[0], noise[1])
    return Batch(images, ctf, -images.abs().square().sum(dim=1)), grid, projector, points, poses


def exact(batch, grid, projector, points, poses):
    every = poses.rotations(np.arange(len(poses.angles)), np.arange(len(poses.in_plane)))
    slices = projector.sample(grid, torch.from_numpy(every.reshape(-1, 3, 3)).float(), points)
    phases = shift_phases(FREQUENCIES, torch.from_numpy(poses.shifts.shifts).float())
    log_shift = torch.from_numpy(poses.shifts.log_weights).float()
    return every, evaluate_exhaustive(batch, slices, phases, log_shift, "highest", statistics=False)


def test_the_annealing_is_the_papers():
    annealing = Annealing()
    assert [annealing.uniform(m) for m in (0, 49, 50, 100)] == [1.0, 1.0, 2**-0.25, 2**-0.5]
    assert annealing.uniform(5000) == 0.05
    assert annealing.temperature(49) == math.inf
    assert [annealing.temperature(m) for m in (50, 100, 500, 5000)] == [1024.0, 32.0, 2.0, 1.25]


def test_a_proposal_is_the_mixture_that_it_says():
    kernel, weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), np.array([0.81, 0.16])
    q = proposal(kernel, weights, 0.1, 2.0)
    spread = np.array([0.9, 0.65, 0.4])
    assert np.allclose(q, 0.9 * spread / spread.sum() + 0.1 / 3)
    assert np.allclose(proposal(kernel, weights, 1.0, math.inf), 1 / 3)
    # A memory beyond the reach of every kernel proposes everything alike.
    assert np.allclose(proposal(np.zeros((3, 2)), weights, 0.1, 1.25), 1 / 3)


def test_effective_size_counts_equal_points():
    assert effective_size(np.array([0.25] * 4 + [0.0] * 6)) == pytest.approx(4.0)


def test_kernels_are_largest_at_no_distance_and_fall_as_gaussians():
    width = 0.02
    angles = np.array([0.0, width, 2 * width])
    fisher = fisher_kernel(on_circle(angles), on_circle(np.zeros(1)), width)[:, 0]
    gauss = gaussian_kernel(np.stack([angles, 0 * angles], axis=1), np.zeros((1, 2)), width)[:, 0]
    assert np.allclose(gauss, np.exp([0.0, -0.5, -2.0]))
    assert np.allclose(fisher, gauss, rtol=1e-3)


def test_all_points_are_taken_where_a_sample_would_not_be_fewer():
    q = np.full(20, 0.05)
    found = draw(q, 1.0, np.random.default_rng(0))
    assert found.indices.tolist() == list(range(20))
    assert (found.log_weights == 0).all()


def test_sums_over_draws_are_unbiased():
    rng = np.random.default_rng(0)
    values, q = rng.uniform(size=60), rng.dirichlet(np.full(60, 0.2))
    q = 0.9 * q + 0.1 / 60
    estimates = []
    for number in range(4000):
        drawn = draw(q, 2.0, np.random.default_rng([1, number]))
        assert len(drawn.indices) < 60
        estimates.append(float((np.exp(drawn.log_weights) * values[drawn.indices]).sum()))
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - values.sum()) < 4 * error
    assert error < 0.02 * values.sum()


def test_a_proposal_is_near_what_is_remembered():
    seen, poses = some_memory(), quadrature(0.1, lattice=1.0)
    directions, in_plane, shifts = propose(seen, poses, Annealing())
    for q in (directions, in_plane, shifts):
        assert q.sum() == pytest.approx(1.0)
        assert q.min() >= 0.05 / len(q) * (1 - 1e-9)
    best = seen.directions.points[seen.directions.probabilities.argmax()]
    assert poses.directions[directions.argmax()] @ best > math.cos(0.3)
    # Under an infinite temperature and α = 1 nothing is preferred.
    for q in propose(some_memory(iteration=0), poses, Annealing()):
        assert np.allclose(q, 1 / len(q))


def test_the_factors_make_the_rotation_grid():
    poses, grid = quadrature(0.4, "D2"), RotationGrid.covering(0.4, group_matrices("D2"))
    every = poses.rotations(np.arange(len(poses.angles)), np.arange(len(poses.in_plane)))
    assert np.allclose(every.reshape(-1, 3, 3), grid.matrices)
    assert poses.angle == pytest.approx(grid.spacing)
    assert np.allclose(every[:, 0, 2], poses.directions)


def test_drawing_every_pose_is_the_exhaustive_sum():
    batch, grid, projector, points, poses = a_problem()
    _, expected = exact(batch, grid, projector, points, poses)
    sizes = len(poses.angles), len(poses.in_plane), len(poses.shifts.shifts)
    everything = PoseDraw(*(Draw(np.arange(n), np.zeros(n)) for n in sizes))
    assert len(everything) == len(poses)
    for i in range(len(batch)):
        image = batch.part(slice(i, i + 1))
        found = evaluate_sampled(image, everything, poses, grid, projector, points, FREQUENCIES)
        assert float(found.poses.log_evidence) == pytest.approx(float(expected.log_evidence[i]), abs=2e-3)
        assert torch.allclose(
            found.local.joint[0].sum(dim=0), expected.rotation_marginal[i], rtol=2e-3, atol=1e-6
        )
        seen = remember_drawn(found, everything, poses, 7)
        by_direction = expected.rotation_marginal[i].view(sizes[0], sizes[1]).sum(dim=1)
        assert np.allclose(seen.directions.points[0], poses.directions[int(by_direction.argmax())])
        assert seen.iteration == 7


def test_the_evidence_of_a_sample_nears_the_exhaustive_one():
    batch, grid, projector, points, poses = a_problem(n=6)
    every, expected = exact(batch, grid, projector, points, poses)
    errors = {}
    for samples in (0.5, 8.0):
        sampler, found = Sampler(Annealing(), samples), []
        for i in range(len(batch)):
            seen = remember(
                every.reshape(-1, 3, 3),
                poses.shifts.shifts,
                expected.rotation_marginal[i].double().numpy(),
                expected.shift_marginal[i].double().numpy(),
                (poses.angle, poses.shifts.spacing),
                10**4,
            )
            for number in range(5):
                drawn = sampler.draw(seen, poses, np.random.default_rng([number, i]))
                assert len(drawn) < len(poses)
                image = batch.part(slice(i, i + 1))
                sampled = evaluate_sampled(image, drawn, poses, grid, projector, points, FREQUENCIES)
                found.append(abs(float(sampled.poses.log_evidence) - float(expected.log_evidence[i])))
        errors[samples] = float(np.median(found))
    assert errors[8.0] < 0.5 * errors[0.5]
    assert errors[8.0] < 0.2


def test_what_is_remembered_comes_back():
    memory = Memory.empty(3)
    assert memory.recall(1) is None
    seen = some_memory(iteration=12)
    later = memory.updated(np.array([1]), [seen])
    assert memory.recall(1) is None
    assert later.recall(0) is None
    back = later.recall(1)
    assert back is not None
    assert (back.angle, back.length, back.iteration) == (0.5, 3.0, 12)
    assert np.allclose(back.directions.points, seen.directions.points, atol=1e-6)
    assert np.allclose(back.shifts.probabilities, seen.shifts.probabilities, atol=1e-6)
    # A shorter marginal leaves nothing of a longer one behind.
    short = Remembered(
        *(Marginal(m.points[:1], np.ones(1)) for m in (seen.directions, seen.in_plane, seen.shifts)),
        0.1,
        1.0,
        13,
    )
    again = later.updated(np.array([1]), [short]).recall(1)
    assert again is not None
    assert len(again.directions.probabilities) == len(again.shifts.probabilities) == 1


def test_only_the_most_probable_points_are_remembered():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(200))
    kept = Marginal.largest(np.arange(200.0)[:, None], probabilities)
    assert len(kept.probabilities) == REMEMBERED
    assert kept.probabilities.sum() == pytest.approx(1.0)
    assert set(kept.points[:, 0]) == set(np.argsort(-probabilities)[:REMEMBERED])
