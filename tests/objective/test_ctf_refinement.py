import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryograd.data.ctfs import ctf_of
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.fourier import HalfDisc
from cryograd.model.ctf import defocus_rate
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.objective.ctf_refinement import (
    REACH,
    CtfStatistics,
    DefocusCurves,
    best_defocus,
    refine_ctf,
    transfer_of,
)
from cryograd.pose.posterior import Batch, Cells, Statistics, evaluate_local, local_statistics
from cryograd.simulation.simulate import Simulation, draw_particles

# Up to 4.4 Å: 1000 Å of underfocus turn the finest coefficients by half a period.
SIZE, PIXEL, RADIUS = 48, 2.0, 22.0
DISC = HalfDisc(RADIUS)
FREQUENCIES = torch.from_numpy(DISC.frequencies / (SIZE * PIXEL))
OPTICS = Optics("a", electron_wavelength(300), 2.7e7, 0.1, PIXEL, SIZE)
PROJECTOR, POINTS = Projector(SIZE, RADIUS), slice_points(DISC)


@pytest.fixture(scope="module")
def grid() -> Tensor:
    """Transform of some atoms, whose slices have power 1."""
    axis = torch.arange(SIZE) - SIZE // 2
    centres = torch.from_numpy(np.random.default_rng(0).normal(0.0, 6.0, (150, 3))).float()
    lines = torch.exp(-(axis - centres[..., None]).square() / 1.5)
    grid = PROJECTOR.transform(torch.einsum("nz,ny,nx->zyx", *lines.unbind(1)))
    return grid / PROJECTOR.sample(grid, torch.eye(3)[None], POINTS).abs().square().mean().sqrt()


def some_particles(n: int, *optics: Optics, seed: int = 0) -> Particles:
    return draw_particles(Simulation(n, optics or (OPTICS,), defocus=(8e3, 2e4), seed=seed), Path("nowhere"))


def with_errors(particles: Particles, change: np.ndarray, scale: np.ndarray) -> Particles:
    return particles.with_ctf(particles.defocus_u + change, particles.defocus_v + change, scale)


def noise(n: int, rng: np.random.Generator) -> Tensor:
    real, imaginary = torch.from_numpy(rng.normal(size=(2, n, len(DISC))) / math.sqrt(2.0))
    return torch.complex(real, imaginary).to(torch.complex64)


def statistics_at_truth(grid: Tensor, truth: Particles, snr: float, seed: int = 1) -> CtfStatistics:
    """Statistics of centred images with unit noise at their true poses; ``snr`` is that of a coefficient."""
    n, amplitude = len(truth), math.sqrt(snr)
    slices = amplitude * PROJECTOR.sample(grid, torch.from_numpy(truth.rotations).float(), POINTS)
    images = ctf_of(truth, np.arange(n), FREQUENCIES) * slices + noise(n, np.random.default_rng(seed))
    return CtfStatistics((slices.conj() * images).real, slices.abs().square())


def log_likelihood(statistics: CtfStatistics, particles: Particles) -> Tensor:
    """Σ_k 2 C b − C² a of every image with the CTF of the particles, (n,), by the model's own CTF."""
    ctf = ctf_of(particles, np.arange(len(particles)), FREQUENCIES).double()
    return (2.0 * ctf * statistics.cross - ctf.square() * statistics.power).double().sum(dim=1)


def curves_of(statistics: CtfStatistics, particles: Particles) -> DefocusCurves:
    transfer = transfer_of(particles, np.arange(len(particles)), FREQUENCIES)
    return DefocusCurves.of(statistics, transfer, defocus_rate(FREQUENCIES, OPTICS.wavelength))


def a_posterior(grid: Tensor, truth: Particles, assumed: Particles, rng: np.random.Generator):
    """Images at an SNR of 1, and their posterior over eight rotations and four shifts around the truth."""
    n = len(truth)
    assert truth.rotations is not None
    turns = rng.normal(0.0, 0.02, (n, 8, 3))
    turns[:, 0] = 0.0
    near = Rotation.from_rotvec(turns.reshape(-1, 3)).as_matrix().reshape(n, 8, 3, 3)
    rotations = torch.from_numpy(near @ truth.rotations[:, None]).float()
    shifts = torch.from_numpy(rng.normal(0.0, 5.0, (n, 1, 2)) + rng.normal(0.0, 0.4, (n, 4, 2)))
    every = np.arange(n)
    slices = PROJECTOR.sample(grid, rotations[:, 0], POINTS)
    clean = ctf_of(truth, every, FREQUENCIES) * shift_phases(FREQUENCIES, shifts[:, 0]) * slices
    sigma = 1.0 + 3.0 * torch.rand(len(DISC), generator=torch.Generator().manual_seed(0))
    images = clean + sigma * noise(n, rng)
    batch = Batch(images / sigma, ctf_of(assumed, every, FREQUENCIES) / sigma, torch.zeros(n))
    cells = Cells(rotations, shifts.float(), 0.02, 0.4)
    uniform = torch.zeros(1, 1)
    local = evaluate_local(batch, cells, grid, PROJECTOR, POINTS, FREQUENCIES, uniform, uniform)
    return batch, sigma, shifts, local, local_statistics(batch, cells, local)


def test_statistics_are_the_expectations_without_the_ctf(grid):
    rng = np.random.default_rng(3)
    truth = some_particles(5)
    batch, sigma, shifts, local, (statistics, fit) = a_posterior(grid, truth, truth, rng)
    ctf = batch.ctf * sigma
    found = CtfStatistics.of(statistics, ctf)
    assert local.joint.sum(dim=1).amax(dim=1).min() < 0.9
    centred = batch.images[:, None] * shift_phases(FREQUENCIES, shifts).conj() / sigma
    cross = torch.einsum(
        "isj,isk,ijk->ik", local.joint.to(torch.complex64), centred, local.slices.conj()
    ).real
    power = torch.einsum("isj,ijk->ik", local.joint, local.slices.abs().square()) / sigma**2
    # Rotations that hardly matter are left out of the statistics.
    torch.testing.assert_close(found.cross.float(), cross, rtol=0, atol=2e-3 * float(cross.abs().max()))
    torch.testing.assert_close(found.power.float(), power, rtol=0, atol=2e-3 * float(power.max()))
    # The same numbers are in the residual.
    expected = batch.images.abs().square() - 2.0 * ctf * found.cross + ctf.square() * found.power
    torch.testing.assert_close(fit.residual.double(), expected.double(), rtol=1e-4, atol=1e-4)


def test_statistics_survive_a_zero_of_the_ctf():
    slices = torch.tensor([[1.0 + 1.0j, 2.0j, 1.0], [2.0, 1.0, 1.0j]])
    centred = torch.tensor([[1.0, 1.0j, 2.0], [3.0, 1.0, 1.0j]])
    ctf = torch.tensor([[1e-9, -0.5, 0.0]])
    weight = torch.tensor([[0.25], [0.75]])
    statistics = Statistics(
        torch.eye(3).expand(2, 3, 3),
        slices,
        weight * ctf * centred,
        weight * ctf.square(),
        torch.zeros(2, dtype=torch.int64),
    )
    found = CtfStatistics.of(statistics, ctf)
    expected = (weight * (slices.conj() * centred).real).sum(dim=0)
    torch.testing.assert_close(found.cross[0, :2].float(), expected[:2])
    torch.testing.assert_close(found.power[0, :2].float(), (weight * slices.abs().square()).sum(dim=0)[:2])
    # Where nothing is known of a coefficient it says nothing.
    assert found.cross[0, 2] == found.power[0, 2] == 0.0


def test_curves_are_the_likelihood_and_their_derivatives_its_differences():
    rng = np.random.default_rng(4)
    n = 4
    particles = replace(some_particles(n), b_factor=np.full(n, 30.0), phase_shift=np.full(n, 0.4))
    shape = (n, len(DISC))
    statistics = CtfStatistics(torch.from_numpy(rng.normal(size=shape)), torch.from_numpy(rng.random(shape)))
    curves = curves_of(statistics, particles)
    # One number for all coefficients of a ring.
    assert len(curves.rate) < len(DISC) / 3
    change, scale = np.array([-1500.0, -40.0, 300.0, 990.0]), rng.uniform(0.5, 2.0, n)
    cross, power = curves.at(torch.from_numpy(change))
    s = torch.from_numpy(scale)
    expected = log_likelihood(statistics, with_errors(particles, change, scale))
    torch.testing.assert_close(2.0 * s * cross[0] - s**2 * power[0], expected, rtol=1e-5, atol=1e-4)
    on_grid = curves.on_grid(torch.from_numpy(change))
    torch.testing.assert_close(
        torch.stack([m.diagonal() for m in on_grid]), torch.stack([cross[0], power[0]])
    )
    step = 0.1
    up, down = curves.at(torch.from_numpy(change + step)), curves.at(torch.from_numpy(change - step))
    for here, above, below in zip((cross, power), up, down, strict=True):
        torch.testing.assert_close(here[1:], (above[:2] - below[:2]) / (2.0 * step), rtol=1e-6, atol=1e-9)


def test_the_optimum_is_that_of_brute_force(grid):
    rng = np.random.default_rng(5)
    n, width, scale_width = 6, 500.0, 0.5
    particles = some_particles(n)
    truth = with_errors(particles, rng.uniform(-1000.0, 1000.0, n), rng.uniform(0.5, 2.0, n))
    statistics = statistics_at_truth(grid, truth, 0.1)
    # An image that correlates with nothing better than negatively: its scale is at the bound.
    statistics.cross[0] *= -1.0
    changes, scales = np.linspace(-REACH * width, REACH * width, 151), np.linspace(0.1, 3.0, 117)
    posterior = np.empty((n, len(changes), len(scales)))
    for i, change in enumerate(changes):
        at_one = with_errors(particles, np.full(n, change), np.ones(n))
        ctf = ctf_of(at_one, np.arange(n), FREQUENCIES).double()
        cross = (ctf * statistics.cross).sum(dim=1, keepdim=True).numpy()
        power = (ctf.square() * statistics.power).sum(dim=1, keepdim=True).numpy()
        prior = 0.5 * (change / width) ** 2 + 0.5 * ((scales - 1.0) / scale_width) ** 2
        posterior[:, i] = 2.0 * scales * cross - scales**2 * power - prior
    best = np.unravel_index(posterior.reshape(n, -1).argmax(axis=1), posterior.shape[1:])
    parts = [(np.arange(n), statistics)]
    found = refine_ctf(particles, FREQUENCIES, parts, width, scale_width)
    np.testing.assert_allclose(found.change, changes[best[0]], atol=20.0)
    np.testing.assert_allclose(found.scale, scales[best[1]], atol=0.03)
    assert found.scale[0] == pytest.approx(0.1)
    value = log_likelihood(statistics, found.applied(particles)).numpy()
    value -= 0.5 * (found.change / width) ** 2 + 0.5 * ((found.scale - 1.0) / scale_width) ** 2
    gain = value - posterior.max(axis=(1, 2))
    assert gain.min() > -1e-3
    assert gain.max() < 0.1


def test_the_error_is_the_curvature_of_the_best_scales_likelihood(grid):
    particles = some_particles(5)
    curves = curves_of(statistics_at_truth(grid, particles, 1.0), particles)
    width, scale_width, step = 400.0, 0.3, 0.5

    def posterior(change: Tensor) -> Tensor:
        (cross, *_), (power, *_) = curves.at(change)
        s = (cross + 0.5 / scale_width**2) / (power + 0.5 / scale_width**2)
        prior = 0.5 * (change / width).square() + 0.5 * ((s - 1.0) / scale_width).square()
        return 2.0 * s * cross - s.square() * power - prior

    change, error = best_defocus(curves, width, scale_width)
    up, here, down = (posterior(change + d) for d in (step, 0.0, -step))
    assert ((up - down) / (2.0 * step)).abs().max() < 1e-6
    torch.testing.assert_close(error**-2.0, -(up - 2.0 * here + down) / step**2, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_wrong_defocus_and_scale_are_recovered_from_uncertain_poses(grid, seed):
    rng = np.random.default_rng(seed)
    n = 24
    particles = some_particles(n, seed=seed)
    change = rng.uniform(300.0, 1000.0, n) * rng.choice([-1.0, 1.0], n)
    scale = np.exp(rng.uniform(-math.log(2.0), math.log(2.0), n))
    truth = with_errors(particles, change, scale)
    _, _, _, _, (statistics, _) = a_posterior(5.0 * grid, truth, particles, rng)
    found = CtfStatistics.of(statistics, ctf_of(particles, np.arange(n), FREQUENCIES))
    refined = refine_ctf(particles, FREQUENCIES, [(np.arange(n), found)], 700.0, 1.0)
    assert refined.change_error.max() < 150.0
    assert np.abs((refined.change - change) / refined.change_error).max() < 4.0
    assert np.abs(refined.scale / scale - 1.0).max() < 0.15


@pytest.mark.parametrize(("snr", "least", "most"), [(1.0, 50.0, 150.0), (0.1, 180.0, 330.0)])
def test_standard_errors_are_calibrated(grid, snr, least, most):
    rng = np.random.default_rng(6)
    n, width, scale_width = 400, 500.0, 0.2
    particles = some_particles(n)
    change, scale = rng.normal(0.0, width, n), rng.normal(1.0, scale_width, n)
    statistics = statistics_at_truth(grid, with_errors(particles, change, scale), snr)
    found = refine_ctf(particles, FREQUENCIES, [(np.arange(n), statistics)], width, scale_width)
    assert least < np.median(found.change_error) < most
    # The standard deviation of 400 normal numbers is right to 3.5 %.
    assert np.std((found.change - change) / found.change_error) == pytest.approx(1.0, abs=0.11)
    assert np.std((found.scale - scale) / found.scale_error) == pytest.approx(1.0, abs=0.11)


def test_optics_groups_have_their_own_wavelengths(grid):
    n, rng = 12, np.random.default_rng(7)
    other = replace(OPTICS, name="b", wavelength=electron_wavelength(200))
    particles = some_particles(n, OPTICS, other)
    change = rng.normal(0.0, 300.0, n)
    statistics = statistics_at_truth(grid, with_errors(particles, change, np.ones(n)), 1.0)
    found = refine_ctf(particles, FREQUENCIES, [(np.arange(n), statistics)], 400.0, 0.5)
    assert np.abs((found.change - change) / found.change_error).max() < 3.5
    assert found.change_error.max() < 200.0


def test_what_was_not_seen_keeps_its_prior(grid):
    particles = some_particles(3)
    statistics = statistics_at_truth(grid, particles, 1.0)
    one = CtfStatistics(statistics.cross[1:2], statistics.power[1:2])
    found = refine_ctf(particles, FREQUENCIES, [(np.array([1]), one)], 300.0, 0.5)
    assert found.change[[0, 2]].tolist() == [0.0, 0.0]
    assert found.change_error[[0, 2]].tolist() == [300.0, 300.0]
    assert found.scale[[0, 2]].tolist() == [1.0, 1.0]
    assert found.scale_error[[0, 2]].tolist() == [0.5, 0.5]
    assert found.change[1] != 0.0


@pytest.mark.parametrize("name", ["phase_flipped", "premultiplied"])
def test_corrected_images_are_refused(name):
    with pytest.raises(CryogradError, match="were corrected for their CTF"):
        refine_ctf(some_particles(2, replace(OPTICS, **{name: True})), FREQUENCIES, [], 300.0, 0.5)
