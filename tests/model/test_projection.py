import finufft
import numpy as np
import pytest
import torch

from cryograd.fourier import HalfBall, HalfDisc, fourier_3d
from cryograd.model.projection import Projector, insert_grid, sample_grid, slice_points
from cryograd.rotations import random_rotations
from cryograd.threads import set_threads


def blobs(size, seed=0):
    """Smooth density within 0.35 of the box."""
    rng = np.random.default_rng(seed)
    x = np.arange(size) - size // 2
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    centres = np.clip(rng.normal(0, size / 10, (12, 3)), -size / 5, size / 5)
    return torch.from_numpy(
        sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 4.0) for a, b, c in centres)
    )


def exact(volume, rotations, points):
    """Transform at Rᵀ p to 12 digits, by a non-uniform FFT."""
    size = volume.shape[-1]
    k = 2 * np.pi / size * np.einsum("jba,kb->jka", rotations, points).reshape(-1, 3)
    values = finufft.nufft3d2(
        *(np.ascontiguousarray(c) for c in k.T[::-1]), volume.numpy().astype(complex), isign=-1, eps=1e-12
    )
    # finufft's modes run from -L // 2, as our voxels do.
    return torch.from_numpy(values.reshape(len(rotations), len(points)))


def random_complex(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape))


def inner(a, b):
    """Real inner product, also of complex numbers and of interleaved ones."""
    return (a.conj() * b).sum().real


@pytest.mark.parametrize(("oversampling", "tolerance"), [(2, 0.01), (3, 0.005), (4, 0.003)])
@pytest.mark.parametrize("size", [32, 33])
def test_slices_agree_with_the_exact_transform(size, oversampling, tolerance):
    volume, rotations = blobs(size), random_rotations(20, np.random.default_rng(1))
    disc, projector = HalfDisc(12), Projector(size, 12, oversampling)
    points = slice_points(disc, dtype=torch.float64)
    slices = projector.sample(projector.transform(volume), torch.from_numpy(rotations), points)
    reference = exact(volume, rotations, points.numpy())
    assert torch.linalg.norm(slices - reference) < tolerance * torch.linalg.norm(reference)
    scale = inner(reference, slices) / inner(reference, reference)
    assert scale == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("size", [16, 17])
def test_transform_at_the_grids_nodes_is_the_transform_of_the_corrected_volume(size):
    volume = torch.from_numpy(np.random.default_rng(0).normal(size=(size,) * 3))
    projector = Projector(size, 6, oversampling=1)
    ball = HalfBall(6)
    kx, ky, kz = ball.frequencies.T
    points = torch.from_numpy(ball.frequencies).double()
    values = projector.sample(projector.transform(volume), torch.eye(3).double()[None], points)[0]
    c = 1 / np.sinc((np.arange(size) - size // 2) / size) ** 2
    corrected = volume * torch.from_numpy(c * c[:, None] * c[:, None, None])
    assert torch.allclose(values, fourier_3d(corrected)[kz % size, ky % size, kx])


def test_opposite_points_are_conjugate():
    projector, points = Projector(16, 7), torch.from_numpy(np.random.default_rng(0).uniform(-4, 4, (50, 3)))
    grid = projector.transform(blobs(16))
    rotations = torch.from_numpy(random_rotations(4, np.random.default_rng(0)))
    assert torch.allclose(
        projector.sample(grid, rotations, points), projector.sample(grid, rotations, -points).conj()
    )


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_adjoint_of_every_step_and_of_the_chain(size, oversampling):
    rng = np.random.default_rng(size)
    disc, projector = HalfDisc(5.5), Projector(size, 5.5, oversampling)
    points, rotations = slice_points(disc, dtype=torch.float64), torch.from_numpy(random_rotations(5, rng))
    volume = torch.from_numpy(rng.normal(size=(size,) * 3))
    transform = projector.transform(volume)
    grid = torch.from_numpy(rng.normal(size=transform.shape))
    assert torch.isclose(inner(transform, grid), inner(volume, projector.transform_adjoint(grid)), rtol=1e-11)

    values = random_complex(rng, 5, len(disc))
    sampled, inserted = projector.sample(grid, rotations, points), projector.insert(values, rotations, points)
    assert torch.isclose(inner(sampled, values), inner(grid, inserted), rtol=1e-11)

    slices = projector.sample(transform, rotations, points)
    back = projector.transform_adjoint(inserted)
    assert torch.isclose(inner(slices, values), inner(volume, back), rtol=1e-11)


def test_insertions_add_up_on_a_grid_complex_or_real():
    rng = np.random.default_rng(2)
    disc, projector = HalfDisc(5.5), Projector(14, 5.5)
    points, rotations = slice_points(disc, dtype=torch.float64), torch.from_numpy(random_rotations(5, rng))
    values = random_complex(rng, 5, len(disc))
    whole = projector.insert(values, rotations, points)
    grid, real = projector.empty(values), projector.empty(values.real)
    for part in (slice(2), slice(2, 5)):
        projector.add(grid, values[part], rotations[part], points)
        projector.add(real, values.real[part], rotations[part], points)
    assert torch.allclose(grid, whole, atol=1e-12)
    assert real.shape == (*whole.shape[:-1], 1)
    # The real part of a grid is that of the values' real parts.
    assert torch.allclose(real[..., 0], whole[..., 0], atol=1e-12)


def test_custom_operators_have_right_gradients():
    rng = np.random.default_rng(0)
    rotations, points = (
        torch.from_numpy(random_rotations(2, rng)),
        torch.from_numpy(rng.uniform(-1, 1, (4, 3))),
    )
    grid = torch.from_numpy(rng.normal(size=(7, 7, 4, 2))).requires_grad_()
    values = torch.from_numpy(rng.normal(size=(2, 4, 2))).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: sample_grid(g, rotations, points, 1.5), grid)
    assert torch.autograd.gradcheck(lambda v: insert_grid(v, rotations, points, 1.5, 3), values)
    assert torch.autograd.gradgradcheck(lambda g: sample_grid(g, rotations, points, 1.5) ** 2, grid)


def test_gradient_of_a_least_squares_misfit_is_the_back_projected_residual():
    rng = np.random.default_rng(0)
    disc, projector = HalfDisc(6), Projector(16, 6)
    points, rotations = slice_points(disc, dtype=torch.float64), torch.from_numpy(random_rotations(3, rng))
    volume, data = blobs(16).requires_grad_(), random_complex(rng, 3, len(disc))
    residual = projector.sample(projector.transform(volume), rotations, points) - data
    residual.abs().square().sum().backward()
    with torch.no_grad():
        expected = 2 * projector.transform_adjoint(projector.insert(residual, rotations, points))
    assert torch.allclose(volume.grad, expected)


def test_same_bytes_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    disc, projector = HalfDisc(14), Projector(32, 14)
    points, rotations = slice_points(disc), torch.from_numpy(random_rotations(50, rng)).float()
    values = random_complex(rng, 50, len(disc)).to(torch.complex64)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            set_threads(threads)
            grid = projector.insert(values, rotations, points)
            results.append(
                (grid.numpy().tobytes(), projector.sample(grid, rotations, points).numpy().tobytes())
            )
    finally:
        set_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize("radius", [0.5, 8, 15])
def test_radius_must_be_inside_the_box(radius):
    with pytest.raises(ValueError, match="is not within 1 and"):
        Projector(16, radius)
