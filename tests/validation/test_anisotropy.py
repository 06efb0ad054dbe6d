"""Scores of directions: near 1 for even views, low where some are missing, and the missing one is found."""

import numpy as np
import pytest
import torch

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid
from cryograd.model.symmetry import group_matrices
from cryograd.rotations import euler_to_matrix, random_rotations
from cryograd.validation.anisotropy import conical_fsc, gap, slice_density, view_sampling
from cryograd.validation.fsc import fsc, soft_sphere

SIZE = 64
MASK = torch.from_numpy(soft_sphere(SIZE, 24, 4)).float()
AXIS = np.array([0.36, -0.48, 0.8])


def white(seed):
    return torch.randn((SIZE,) * 3, generator=torch.Generator().manual_seed(seed))


def cosine(axis):
    """Cosine of the angle between each coefficient of a half-space transform and an axis."""
    k = np.fft.fftfreq(SIZE, 1 / SIZE)
    z, y, x = np.meshgrid(k, k, np.arange(SIZE // 2 + 1), indexing="ij")
    radius = np.maximum(np.sqrt(x**2 + y**2 + z**2), 1.0)
    return torch.from_numpy(np.abs(x * axis[0] + y * axis[1] + z * axis[2]) / radius)


def half_maps(seed=0, keep=1.0, noise=0.15, noise_kept=1.0):
    """Half maps of a random signal, times a filter of it and of the noise."""
    falls = torch.exp(-30.0 * (radius_grid(SIZE, 3) / SIZE) ** 2) * keep
    signal = fourier_3d(white(seed)) * falls
    parts = [signal + noise * fourier_3d(white(seed + n)) * noise_kept for n in (1, 2)]
    return [inverse_fourier_3d(part, SIZE).float() * MASK for part in parts]


def degrees_between(a, b):
    return np.rad2deg(np.arccos(min(1.0, abs(float(a @ b)))))


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_even_maps_have_a_ratio_near_one(seed):
    found = conical_fsc(*half_maps(seed))
    assert 0.85 < found.ratio <= 1.0


def test_the_whole_shells_are_those_of_the_fsc():
    pair = half_maps()
    found = conical_fsc(*pair)
    assert np.allclose(found.overall, fsc(*pair)[1][: SIZE // 2], atol=1e-4)
    # In the innermost shells the cones hold nearly everything.
    assert np.allclose(found.values[:, 1], found.overall[1], atol=0.02)


def test_a_cone_by_brute_force():
    pair = half_maps()
    found = conical_fsc(*pair)
    a, b = (fourier_3d(half) for half in pair)
    number, shell = 123, 17
    inside = cosine(found.directions[number]) >= np.cos(np.deg2rad(20.0))
    inside &= radius_grid(SIZE, 3).round() == shell
    # One of each conjugate pair.
    inside[:, :, 0] &= torch.from_numpy(np.fft.fftfreq(SIZE) > 0.0)
    a, b = a[inside], b[inside]
    value = (a * b.conj()).real.sum() / (a.abs().square().sum() * b.abs().square().sum()).sqrt()
    assert found.values[number, shell] == pytest.approx(float(value), abs=0.03)


@pytest.mark.parametrize("axis", [AXIS, np.array([0.0, 0.0, 1.0]), np.array([0.8, 0.6, 0.0])])
def test_a_cone_without_signal_lowers_the_ratio_and_is_found(axis):
    seen = (cosine(axis) < np.cos(np.deg2rad(30.0))).float()
    found = conical_fsc(*half_maps(keep=seen))
    assert found.ratio < 0.4
    assert degrees_between(found.worst, axis) < 10.0


def test_a_cone_that_only_the_mask_fills_is_found_too():
    seen = (cosine(AXIS) < np.cos(np.deg2rad(40.0))).float()
    found = conical_fsc(*half_maps(keep=seen, noise_kept=seen))
    assert found.ratio < 0.4
    assert degrees_between(found.worst, AXIS) < 15.0


def test_noise_has_no_ratio():
    assert conical_fsc(white(0), -white(0)).ratio == 0.0
    assert conical_fsc(white(0), torch.zeros_like(white(0))).ratio == 0.0


def views(n, tilts):
    """Views with tilts drawn by a function, the other angles uniform."""
    rng = np.random.default_rng(0)
    rot, psi = rng.uniform(0.0, 2.0 * np.pi, (2, n))
    return euler_to_matrix(np.stack([rot, tilts(rng, n), psi], axis=-1))


def side_views(n):
    return views(n, lambda rng, n: np.full(n, np.pi / 2))


def top_views(n, half_angle):
    return views(n, lambda rng, n: np.arccos(rng.uniform(np.cos(half_angle), 1.0, n)))


def single_view(n):
    return np.repeat(random_rotations(1, np.random.default_rng(1)), n, axis=0)


@pytest.mark.parametrize("n", [300, 1000, 20_000])
def test_uniform_views_need_no_compensation(n):
    found = view_sampling(random_rotations(n, np.random.default_rng(0)))
    assert found.compensation == pytest.approx(1.0, abs=0.01)
    assert found.density.mean() == pytest.approx(1.0, abs=0.02)


def test_side_views_have_the_published_factor():
    assert view_sampling(side_views(20_000)).compensation == pytest.approx(8.0 / np.pi**2, abs=0.01)


def test_missing_views_have_a_low_factor():
    wide, narrow = (view_sampling(top_views(5000, np.deg2rad(a))).compensation for a in (60.0, 30.0))
    assert wide == pytest.approx(0.30, abs=0.02)
    assert narrow == pytest.approx(0.10, abs=0.01)
    assert view_sampling(single_view(5000)).compensation == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("kind", [side_views, lambda n: top_views(n, 0.8), single_view])
def test_the_factor_is_one_of_the_views_not_of_their_number(kind):
    few, many = (view_sampling(kind(n)).compensation for n in (500, 20_000))
    assert few == pytest.approx(many, rel=0.08)


def test_no_number_of_views_is_too_small():
    for n in (1, 2, 19, 21):
        found = view_sampling(random_rotations(n, np.random.default_rng(0)))
        assert 0.0 < found.compensation <= 1.0


def test_a_view_leaves_its_own_direction_unseen():
    rotation = single_view(100)
    found = view_sampling(rotation)
    along = np.abs(found.directions @ rotation[0, 2])
    assert (found.density[along > np.sin(np.deg2rad(15.0))] == 0.0).all()
    assert found.density[along < np.sin(np.deg2rad(2.0))].min() > 4.0


@pytest.mark.parametrize("symmetry", ["D2", "C7", "O"])
def test_a_point_group_counts_as_the_views_it_makes(symmetry):
    rotations = top_views(200, 0.6)
    expanded = np.einsum("nij,gjk->ngik", rotations, group_matrices(symmetry)).reshape(-1, 3, 3)
    found, expected = view_sampling(rotations, symmetry), view_sampling(expanded)
    assert np.allclose(found.density, expected.density)
    assert found.compensation == pytest.approx(expected.compensation)


def test_slices_near_a_direction_by_hand():
    views = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    directions = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]])
    assert np.allclose(slice_density(views, directions, 0.1), np.array([2, 3, 1]) / 0.3)


def test_the_directions_that_are_hardly_seen_are_named():
    found = view_sampling(top_views(5000, np.deg2rad(20.0))).scarce
    # Views within 20° of the z axis leave its neighbourhood to no slice.
    assert found["tilt"] < 12.0
    assert 50.0 < found["degrees"] < 75.0
    assert found["share"] == pytest.approx(1.0 - np.cos(np.deg2rad(found["degrees"])), abs=0.1)
    assert view_sampling(random_rotations(5000, np.random.default_rng(0))).scarce["share"] < 0.01


def test_the_centre_of_a_gap_is_farthest_from_what_is_there():
    axis = np.deg2rad(np.arange(0.0, 180.0, 10.0))
    ring = np.stack([np.cos(axis), np.sin(axis), 0.0 * axis], axis=1)
    missing = np.isin(np.arange(18), [4, 5, 6, 12])
    assert gap(ring, missing) == pytest.approx({"degrees": 20.0, "rot": 50.0, "tilt": 90.0})
    assert gap(ring, np.ones(18, dtype=bool))["degrees"] == pytest.approx(90.0)
