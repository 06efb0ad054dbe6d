"""Importance sampling against sums over whole quadratures."""

import math

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import group_matrices
from cryograd.pose.kernels import fisher_spread, grouped
from cryograd.pose.memory import Memory
from cryograd.pose.posterior import Batch, evaluate_exhaustive, rotation_entropy
from cryograd.pose.proposal import (
    REMEMBERED,
    Annealing,
    Draw,
    Marginal,
    Remembered,
    draw,
    effective_size,
    gaussian_kernel,
    on_circle,
    proposal,
    propose,
    remember,
)
from cryograd.pose.quadrature import PoseGrid, RotationGrid, ShiftGrid, ShiftPrior
from cryograd.pose.sampling import PoseDraw, Sampler, evaluate_sampled, remember_drawn
from cryograd.rotations import angular_distance, euler_to_matrix, random_rotations, turned_in_plane

SIZE, EXTENT, RADIUS = 16, 40.0, 5.0
DISC = HalfDisc(RADIUS)
FREQUENCIES = torch.from_numpy(DISC.frequencies / EXTENT)


def quadrature(spacing=0.5, symmetry="C1", lattice=3.0):
    return PoseGrid.covering(
        spacing, group_matrices(symmetry), ShiftGrid.covering(lattice, 6.0, ShiftPrior(3.0))
    )


def some_memory(iteration=10**4, seed=0):
    rng = np.random.default_rng(seed)
    return Remembered(
        Marginal(random_rotations(5, rng), rng.dirichlet(np.ones(5))),
        Marginal(rng.uniform(0, 2 * np.pi, 4), np.full(4, 0.25)),
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
    rotations = torch.from_numpy(rng.permutation(rotations_of(poses, np.eye(3)))[:n]).float()
    ctf = torch.from_numpy(rng.uniform(0.3, 1, (n, len(DISC)))).float()
    noise = torch.from_numpy(rng.normal(size=(2, n, len(DISC))) / math.sqrt(2)).float()
    images = ctf * projector.sample(grid, rotations, points) + torch.complex(noise[0], noise[1])
    return Batch(images, ctf, -images.abs().square().sum(dim=1)), grid, projector, points, poses


def rotations_of(poses, anchors):
    """All rotations (J, 3, 3) of a quadrature, in-plane angles counting from anchors."""
    directions = np.arange(len(poses.angles))
    anchors = np.broadcast_to(anchors, (len(directions), 3, 3))
    return poses.rotations(directions, np.arange(len(poses.in_plane)), anchors).reshape(-1, 3, 3)


def exact(batch, grid, projector, points, poses, anchors=None):
    every = rotations_of(poses, np.eye(3) if anchors is None else anchors)
    slices = projector.sample(grid, torch.from_numpy(every).float(), points)
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
    spread = np.array([0.9, 0.65, 0.4])
    assert np.allclose(proposal(spread, 0.1), 0.9 * spread / spread.sum() + 0.1 / 3)
    assert np.allclose(proposal(spread, 1.0), 1 / 3)
    # A memory beyond the reach of every kernel proposes everything alike.
    assert np.allclose(proposal(np.zeros(3), 0.1), 1 / 3)


def test_spreading_is_the_sum_over_all_pairs():
    rng = np.random.default_rng(0)
    vectors, centres = (random_rotations(n, rng)[:, 2].copy() for n in (300, 40))
    weights, width = rng.random(40), 0.2
    spread, nearest = fisher_spread(vectors, centres, weights, width)
    cosines = vectors @ centres.T
    kernel = np.where(cosines > 1.0 - 18.0 * width**2, np.exp((cosines - 1.0) / width**2), 0.0)
    assert np.allclose(spread, kernel @ weights)
    assert np.array_equal(nearest, cosines.argmax(axis=1))


def test_a_direction_belongs_to_the_first_that_is_near():
    angles = np.radians([0.0, 4.0, 7.0, 11.0, 3.0, 40.0])
    vectors = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    founders, group = grouped(vectors, math.cos(math.radians(5.0)), 3)
    assert founders.tolist() == [0, 2, 5]
    assert group.tolist() == [0, 0, 1, 1, 0, 2]
    assert grouped(vectors, math.cos(math.radians(5.5)), 1)[1].tolist() == [0, 0, -1, -1, 0, -1]


def test_effective_size_counts_equal_points():
    assert effective_size(np.array([0.25] * 4 + [0.0] * 6)) == pytest.approx(4.0)


def test_kernels_are_largest_at_no_distance_and_fall_as_gaussians():
    width = 0.02
    angles = np.array([0.0, width, 2 * width])
    fisher, _ = fisher_spread(on_circle(angles), on_circle(np.zeros(1)), np.ones(1), width)
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


def test_points_that_would_be_drawn_often_are_drawn_once_and_weigh_one():
    q = np.full(1000, 0.1 / 997)
    q[[3, 500, 999]] = 0.3
    for number in range(50):
        found = draw(q, 5.0, np.random.default_rng(number))
        assert {3, 500, 999} <= set(found.indices.tolist())
        assert len(set(found.indices.tolist())) == len(found.indices)
        weights = dict(zip(found.indices.tolist(), np.exp(found.log_weights), strict=True))
        assert weights[3] == weights[500] == weights[999] == 1.0


def test_a_proposal_is_near_what_is_remembered():
    seen, poses = some_memory(), quadrature(0.1, lattice=1.0)
    q = propose(seen, poses, group_matrices("C1"), Annealing())
    directions, in_plane, shifts = q.directions, q.in_plane, q.shifts
    for q in (directions, in_plane, shifts):
        assert q.sum() == pytest.approx(1.0)
        assert q.min() >= 0.05 / len(q) * (1 - 1e-9)
    best = seen.anchors.points[seen.anchors.probabilities.argmax(), 2]
    assert poses.directions[directions.argmax()] @ best > math.cos(0.3)
    # Under an infinite temperature and α = 1 nothing is preferred.
    early = propose(some_memory(iteration=0), poses, group_matrices("C1"), Annealing())
    for q in (early.directions, early.in_plane, early.shifts):
        assert np.allclose(q, 1 / len(q))


def test_the_factors_make_the_rotation_grid():
    poses, grid = quadrature(0.4, "D2"), RotationGrid.covering(0.4, group_matrices("D2"))
    angles = np.pad(poses.angles, ((0, 0), (0, 1)))
    every = rotations_of(poses, euler_to_matrix(angles))
    assert np.allclose(every, grid.matrices)
    assert poses.angle == pytest.approx(grid.spacing)
    # With other anchors the directions and their circles of in-plane angles are the same.
    other = rotations_of(poses, random_rotations(len(angles), np.random.default_rng(0)))
    assert np.allclose(other[:, 2], every[:, 2])
    assert np.allclose(np.linalg.det(other), 1.0)


def test_drawing_every_pose_is_the_exhaustive_sum():
    batch, grid, projector, points, poses = a_problem()
    every, expected = exact(batch, grid, projector, points, poses)
    sizes = len(poses.angles), len(poses.in_plane), len(poses.shifts.shifts)
    anchors = np.broadcast_to(np.eye(3), (sizes[0], 3, 3))
    everything = PoseDraw(*(Draw(np.arange(n), np.zeros(n)) for n in sizes), anchors)
    assert len(everything) == len(poses)
    for i in range(len(batch)):
        image = batch.part(slice(i, i + 1))
        found = evaluate_sampled(image, everything, poses, grid, projector, points, FREQUENCIES)
        assert float(found.poses.log_evidence) == pytest.approx(float(expected.log_evidence[i]), abs=2e-3)
        assert torch.allclose(
            found.local.joint[0].sum(dim=0), expected.rotation_marginal[i], rtol=2e-3, atol=1e-6
        )
        seen = remember_drawn(found, poses, 7)
        best = int(expected.rotation_marginal[i].argmax())
        assert angular_distance(seen.anchors.points, every[best]).min() < 1e-3
        assert seen.iteration == 7


def test_the_evidence_of_a_sample_nears_the_exhaustive_one():
    batch, grid, projector, points, poses = a_problem(n=6)
    every, expected = exact(batch, grid, projector, points, poses)
    errors = {}
    for samples in (0.5, 8.0):
        sampler, found = Sampler(Annealing(), samples, group_matrices("C1")), []
        for i in range(len(batch)):
            image = batch.part(slice(i, i + 1))
            seen = remember(
                every,
                poses.shifts.shifts,
                expected.rotation_marginal[i].double().numpy(),
                expected.shift_marginal[i].double().numpy(),
                (poses.angle, poses.shifts.spacing),
                10**4,
            )
            # The sum over the same quadrature, whose in-plane angles count from the image's anchors.
            anchors = propose(seen, poses, sampler.group, sampler.annealing).anchors
            _, reference = exact(image, grid, projector, points, poses, anchors)
            for number in range(5):
                drawn = sampler.draw(seen, poses, np.random.default_rng([number, i]))
                assert len(drawn) < len(poses)
                sampled = evaluate_sampled(image, drawn, poses, grid, projector, points, FREQUENCIES)
                found.append(abs(float(sampled.poses.log_evidence) - float(reference.log_evidence)))
        errors[samples] = float(np.median(found))
    assert errors[8.0] < 0.5 * errors[0.5]
    assert errors[8.0] < 0.2


def test_the_entropy_of_a_sample_nears_the_exhaustive_one():
    batch, grid, projector, points, poses = a_problem(n=4)
    sampler = Sampler(Annealing(), 10.0, group_matrices("C1"))
    for i in range(len(batch)):
        image = batch.part(slice(i, i + 1))
        every, first = exact(image, grid, projector, points, poses)
        by_rotation, by_shift = (
            m[0].double().numpy() for m in (first.rotation_marginal, first.shift_marginal)
        )
        sides = (poses.angle, poses.shifts.spacing)
        seen = remember(every, poses.shifts.shifts, by_rotation, by_shift, sides, 10**4)
        anchors = propose(seen, poses, sampler.group, sampler.annealing).anchors
        _, expected = exact(image, grid, projector, points, poses, anchors)
        drawn = sampler.draw(seen, poses, np.random.default_rng(i))
        found = evaluate_sampled(image, drawn, poses, grid, projector, points, FREQUENCIES).poses
        assert float(found.entropy) == pytest.approx(
            float(rotation_entropy(expected.rotation_marginal)), abs=0.5
        )
        best = float(expected.rotation_marginal.max())
        assert float(found.max_probability) == pytest.approx(best, rel=0.3)


def test_equivalent_views_are_proposed_with_few_in_plane_angles():
    """A posterior over all seven views of a C7 particle needs no more in-plane angles than over one."""
    rng, group = np.random.default_rng(3), group_matrices("C7")
    views = random_rotations(1, rng) @ group.swapaxes(1, 2)
    seen = remember(views, np.zeros((1, 2)), np.full(7, 1 / 7), np.ones(1), (0.1, 3.0), 10**4)
    assert len(seen.anchors.probabilities) == 7
    assert np.allclose(seen.in_plane.points, 0.0)
    assert seen.in_plane.probabilities.tolist() == [1.0]


def test_rotations_of_one_direction_share_an_anchor():
    rng = np.random.default_rng(4)
    frames = random_rotations(2, rng)
    both = turned_in_plane(frames, np.array([0.0, 0.3])).reshape(-1, 3, 3)
    weights = np.array([0.5, 0.2, 0.1, 0.2])
    seen = remember(both, np.zeros((1, 2)), weights, np.ones(1), (0.1, 3.0), 10**4)
    assert np.allclose(seen.anchors.probabilities, [0.7, 0.3])
    assert np.allclose(seen.anchors.points, both[[0, 3]])
    order = np.argsort(seen.in_plane.points)
    assert np.allclose(seen.in_plane.points[order], [-0.3, 0.0, 0.3], atol=1e-5)
    assert np.allclose(seen.in_plane.probabilities[order], [0.1, 0.7, 0.2])


def test_a_view_beyond_the_asymmetric_unit_is_proposed_by_its_equivalents():
    group, poses = group_matrices("D2"), quadrature(0.1, "D2", 1.0)
    view = random_rotations(1, np.random.default_rng(5))
    for equivalent in view @ group.swapaxes(1, 2):
        seen = remember(equivalent[None], np.zeros((1, 2)), np.ones(1), np.ones(1), (0.1, 1.0), 10**4)
        found = propose(seen, poses, group, Annealing())
        best = int(found.directions.argmax())
        near = poses.directions[best] @ (view @ group.swapaxes(1, 2))[:, 2].T
        assert near.max() > math.cos(0.1)
        assert found.directions[best] > 0.1
        assert angular_distance(found.anchors[best], view @ group.swapaxes(1, 2)).min() < 1e-6


def test_what_is_remembered_comes_back():
    memory = Memory.empty(3)
    assert memory.recall(1) is None
    seen = some_memory(iteration=12)
    memory.update(np.array([1]), [seen])
    assert memory.recall(0) is None
    back = memory.recall(1)
    assert back is not None
    assert (back.angle, back.length, back.iteration) == (0.5, 3.0, 12)
    assert np.allclose(back.anchors.points, seen.anchors.points, atol=1e-6)
    assert np.allclose(back.shifts.probabilities, seen.shifts.probabilities, atol=1e-6)
    assert np.allclose(back.in_plane.points, seen.in_plane.points, atol=1e-6)


def test_a_memory_survives_a_checkpoint():
    memory = Memory.empty(5)
    memory.update(np.array([3, 1]), [some_memory(seed=1), some_memory(seed=2)])
    for before in (memory, Memory.empty(2), Memory.empty(0)):
        after = Memory.from_state_dict(before.state_dict())
        assert [row is None for row in after.rows] == [row is None for row in before.rows]
        for a, b in zip(after.rows, before.rows, strict=True):
            if a is not None and b is not None:
                assert all(
                    np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
                )


def test_only_the_most_probable_points_are_remembered():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(200))
    kept = Marginal.largest(np.arange(200.0)[:, None], probabilities)
    assert len(kept.probabilities) == REMEMBERED
    assert kept.probabilities.sum() == pytest.approx(1.0)
    assert set(kept.points[:, 0]) == set(np.argsort(-probabilities)[:REMEMBERED])
