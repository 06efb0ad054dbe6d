import numpy as np
import pytest
import torch

from cryograd.data.mrc import read_map
from cryograd.errors import CryogradError
from cryograd.fourier import HalfBall, lowpass_volume
from cryograd.model.symmetry import Symmetrizer, group_matrices
from cryograd.rotations import angular_distance, random_rotations
from cryograd.validation.alignment import transform_map
from cryograd.validation.fsc import fsc
from cryograd.validation.self_correlation import SelfCorrelation
from cryograd.validation.symmetry_search import find_symmetry, onto_axes

SIZE, PIXEL = 32, 3.0
# Å; ten Fourier pixels.
RESOLUTION = SIZE * PIXEL / 10.0


def positions(n, seed=1):
    """Points (n, 3) in voxels inside a ball of a third of the box."""
    points = np.random.default_rng(seed).uniform(-1.0, 1.0, (10 * n, 3))
    return 10.0 * points[np.linalg.norm(points, axis=1) < 1.0][:n]


def density(points):
    """Sum of blobs at points (n, 3), xyz in voxels from the centre."""
    axis = np.arange(SIZE) - SIZE // 2
    x, y, z = (np.exp(-0.5 * ((axis - p[:, None]) / 1.2) ** 2) for p in points.T)
    return np.einsum("nz,ny,nx->zyx", z, y, x)


def copies(name, points):
    return (group_matrices(name) @ points.T).swapaxes(1, 2).reshape(-1, 3)


def symmetric(name):
    return density(copies(name, positions(max(3, 90 // len(group_matrices(name))))))


def disturbed(volume, seed, noise):
    """A map turned and shifted, with white noise up to the resolution, and how it was moved."""
    rng = np.random.default_rng(seed)
    rotation, shift = random_rotations(1, rng)[0], PIXEL * rng.normal(0.0, 0.8, 3)
    moved = transform_map(volume, PIXEL, rotation, shift, SIZE, PIXEL)
    noisy = moved + noise * moved.std() * rng.normal(size=moved.shape)
    return lowpass_volume(torch.from_numpy(noisy), 10.0).float().numpy(), rotation, shift


@pytest.mark.parametrize("name", ["C2", "C7", "D2", "D3", "T", "O", "I"])
def test_finds_group_axes_and_centre_of_a_turned_noisy_map(name):
    volume, rotation, shift = disturbed(symmetric(name), 3, 0.3)
    best = find_symmetry(volume, PIXEL, RESOLUTION)[0]
    group = group_matrices(name)
    found = best.rotation.T @ group @ best.rotation
    true = rotation @ group @ rotation.T
    off_centre = best.rotation.T @ best.shift + shift
    if name.startswith("C"):
        off_centre -= rotation[:, 2] * (rotation[:, 2] @ off_centre)
    assert best.name == name
    assert best.supported
    assert np.rad2deg(angular_distance(found[:, None], true).min(axis=1).max()) < 2.0
    assert np.linalg.norm(off_centre) < 0.1 * PIXEL


def test_a_map_on_its_axes_is_its_own_average():
    volume, _, _ = disturbed(symmetric("D3"), 4, 0.0)
    turned = onto_axes(volume, PIXEL, find_symmetry(volume, PIXEL, RESOLUTION)[0])
    average = Symmetrizer("D3", SIZE, 14).forward(torch.from_numpy(turned)).numpy()
    assert fsc(turned, average)[1][1:9].min() > 0.99


def cap():
    """A ring of three blobs on one side of what has more symmetry without it."""
    return density(copies("C3", np.array([[5.0, 2.0, 9.0], [2.0, -4.0, 12.0]])))


def test_a_group_that_most_of_a_map_has_is_not_that_of_the_map():
    volume, _, _ = disturbed(symmetric("D3") + 2.0 * cap(), 5, 0.3)
    tried = {s.name: s for s in find_symmetry(volume, PIXEL, RESOLUTION)}
    assert next(iter(tried)) == "C3"
    assert not tried["D3"].supported
    assert tried["D3"].contrast < 0.9 * tried["C3"].contrast


def round_map(x, y, z):
    """A cylinder with smooth faces."""
    return 1.0 / (1.0 + np.exp(2.0 * (np.hypot(x, y) - 5.0))) / (1.0 + np.exp(2.0 * (np.abs(z) - 9.0)))


def inside_an_ellipsoid(x, y, z):
    """Noise in an envelope of symmetry D2."""
    noise = torch.from_numpy(np.random.default_rng(6).normal(size=x.shape))
    texture = lowpass_volume(noise, 10.0).numpy()
    envelope = 1.0 / (1.0 + np.exp(10.0 * (np.sqrt((x / 6) ** 2 + (y / 9) ** 2 + (z / 12) ** 2) - 1.0)))
    return envelope * (1.0 + 0.5 * texture / texture.std())


def ball(x, y, z):
    return 1.0 / (1.0 + np.exp(2.0 * (np.sqrt(x**2 + y**2 + z**2) - 9.0)))


def scattered(x, y, z):
    return density(positions(60, seed=7))


@pytest.mark.parametrize("shape", [scattered, inside_an_ellipsoid, round_map, ball])
def test_finds_nothing_where_only_the_outline_is_symmetric(shape):
    axis = np.arange(SIZE) - float(SIZE // 2)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume, _, _ = disturbed(shape(x, y, z), 8, 0.1)
    tried = find_symmetry(volume, PIXEL, RESOLUTION)
    assert tried[0].name == "C1"
    assert not any(s.supported for s in tried[1:])


def test_finds_d2_of_a_real_structure(shared_data):
    volume, pixel_size = read_map(shared_data / "bgal-10204/reference_5a1a_64px.mrc")
    rotation, shift = random_rotations(1, np.random.default_rng(9))[0], np.array([5.0, -3.0, 4.0])
    turned = transform_map(volume, pixel_size, rotation, shift, 64, pixel_size)
    best = find_symmetry(turned, pixel_size, 15.0)[0]
    assert best.name == "D2"
    assert best.contrast > 0.9
    assert np.linalg.norm(best.rotation.T @ best.shift + shift) < 0.5


def test_correlation_about_a_point_is_that_of_turned_maps():
    volume = lowpass_volume(torch.from_numpy(density(positions(30))), 8.0).float()
    rotation, centre = random_rotations(1, np.random.default_rng(2))[0], np.array([1.0, -0.5, 0.7])
    compared = SelfCorrelation(volume, 8.0, oversampling=4)
    moved = transform_map(volume, 1.0, rotation, centre - rotation @ centre, SIZE, 1.0)
    expected = fsc(volume, moved)[1]
    found = compared.shell_correlation(compared.turned(rotation[None], centre / SIZE)[0])
    assert np.allclose(found, expected[:9], atol=0.02)
    # Shells count by their radius: a coefficient by its inverse.
    counts = np.bincount(HalfBall(8.0).shells)[1:]
    whole = compared.correlations(rotation[None], centre / SIZE)[0]
    assert whole == pytest.approx(np.average(expected[1:9], weights=counts / np.arange(1, 9)), abs=0.02)


def test_refuses_maps_without_axes():
    with pytest.raises(CryogradError, match="constant"):
        find_symmetry(np.ones((SIZE,) * 3), PIXEL, RESOLUTION)
    with pytest.raises(CryogradError, match="too coarse"):
        find_symmetry(density(positions(9)), PIXEL, 40.0)
