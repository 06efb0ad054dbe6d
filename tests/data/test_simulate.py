import dataclasses

import numpy as np
import pytest
import torch

from cryograd.data.mrc import read_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.read import read_particles
from cryograd.fourier import HalfDisc, fourier_2d, pack_disc
from cryograd.model.ctf import ctf
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import group_matrices, in_asymmetric_unit
from cryograd.rotations import angular_distance, euler_to_matrix
from cryograd.simulation.simulate import (
    Simulation,
    density_diameter,
    draw_particles,
    draw_rotations,
    simulate,
)

BOX, PIXEL = 32, 4.0
OPTICS = Optics("a", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)


def molecule():
    rng = np.random.default_rng(3)
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    blobs = [
        np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 5.0) for a, b, c in rng.normal(0, 3, (20, 3))
    ]
    return sum(blobs).astype(np.float32)


def in_circle(images, radius=None):
    radius = 0.5 * density_diameter(molecule(), PIXEL) / PIXEL if radius is None else radius
    x = np.arange(images.shape[-1]) - images.shape[-1] // 2
    return images[:, x[:, None] ** 2 + x**2 <= radius**2]


def test_files_hold_what_was_simulated(tmp_path):
    simulation = Simulation(20, (OPTICS,), phase_shift=(0.5, 1.5), b_factor=50.0, seed=4)
    truth = simulate(molecule(), PIXEL, simulation, tmp_path / "sim")
    particles = read_particles(tmp_path / "sim" / "particles.star")
    assert np.rad2deg(angular_distance(particles.rotations, truth.rotations)).max() < 1e-4
    for name in ("shifts", "defocus_u", "defocus_v", "astigmatism_angle", "phase_shift", "b_factor"):
        assert np.allclose(getattr(particles, name), getattr(truth, name), atol=1e-5), name
    assert np.array_equal(particles.half_set, truth.half_set)
    assert np.bincount(particles.half_set).tolist() == [0, 10, 10]
    assert particles.images(np.arange(20)).shape == (20, BOX, BOX)
    assert read_map(tmp_path / "sim" / "truth.mrc")[1] == pytest.approx(PIXEL)


def test_images_are_the_models(tmp_path):
    simulation = Simulation(
        30, (OPTICS,), snr=np.inf, astigmatism=4000.0, phase_shift=(0.0, 1.0), b_factor=80.0
    )
    p = simulate(molecule(), PIXEL, simulation, tmp_path)
    density = torch.tensor(read_map(tmp_path / "truth.mrc")[0])
    disc = HalfDisc(12)
    projector, k = Projector(BOX, 12, oversampling=4), torch.as_tensor(disc.frequencies / (BOX * PIXEL))
    slices = projector.sample(
        projector.transform(density), torch.as_tensor(p.rotations).float(), slice_points(disc)
    )
    columns = (p.defocus_u, p.defocus_v, p.astigmatism_angle, p.phase_shift, p.b_factor, p.scale)
    c = ctf(k, electron_wavelength(300.0), 2.7e7, 0.1, *map(torch.as_tensor, columns))
    expected = c * slices * shift_phases(k, torch.as_tensor(p.shifts))
    found = pack_disc(fourier_2d(torch.from_numpy(p.images(np.arange(30)))), disc)
    assert torch.linalg.norm(found - expected) < 1e-4 * torch.linalg.norm(expected)


def test_signal_to_noise_ratio(tmp_path):
    simulation = Simulation(300, (OPTICS,), snr=0.3, max_shift=0.0)
    noisy = simulate(molecule(), PIXEL, simulation, tmp_path / "a").images(np.arange(300))
    scale = read_map(tmp_path / "a" / "truth.mrc")[0].max() / molecule().max()
    clean = simulate(molecule(), PIXEL, dataclasses.replace(simulation, snr=np.inf), tmp_path / "b")
    signal = scale * clean.images(np.arange(300))
    assert in_circle(noisy - signal).var(axis=1).mean() == pytest.approx(1.0, rel=0.01)
    assert in_circle(signal).var(axis=1).mean() == pytest.approx(0.3, rel=0.01)


def test_same_seed_same_bytes(tmp_path):
    simulation = Simulation(10, (OPTICS,), noise_correlation=10.0, seed=7)
    for name in ("a", "b"):
        simulate(molecule(), PIXEL, simulation, tmp_path / name)
    simulate(molecule(), PIXEL, dataclasses.replace(simulation, seed=8), tmp_path / "c")
    for file in ("particles.mrcs", "particles.star", "truth.mrc"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c


def test_half_precision_stack(tmp_path):
    simulation = Simulation(10, (OPTICS,))
    full = simulate(molecule(), PIXEL, simulation, tmp_path / "a")
    half = simulate(molecule(), PIXEL, simulation, tmp_path / "b", dtype=np.float16)
    assert half.stacks[0].stat().st_size < 0.6 * full.stacks[0].stat().st_size
    assert np.allclose(half.images(np.arange(10)), full.images(np.arange(10)), atol=5e-3)


def test_every_optics_group_has_its_stack(tmp_path):
    finer = dataclasses.replace(OPTICS, name="b", pixel_size=3.0, box_size=48)
    simulate(molecule(), PIXEL, Simulation(9, (OPTICS, finer)), tmp_path)
    particles = read_particles(tmp_path / "particles.star")
    assert [optics.pixel_size for optics in particles.optics] == [4.0, 3.0]
    assert [stack.name for stack in particles.stacks] == ["particles_1.mrcs", "particles_2.mrcs"]
    assert particles.images([0, 8]).shape == (2, BOX, BOX)
    assert particles.images([1, 7]).shape == (2, 48, 48)


def test_images_do_not_depend_on_the_sampling(tmp_path):
    finer = dataclasses.replace(OPTICS, pixel_size=3.0, box_size=48)
    simulation = Simulation(8, (OPTICS,), snr=np.inf)
    coarse = simulate(molecule(), PIXEL, simulation, tmp_path / "a").images(np.arange(8))
    other = dataclasses.replace(simulation, optics=(finer,))
    fine = simulate(molecule(), PIXEL, other, tmp_path / "b").images(np.arange(8))
    # Pixel centres coincide every 12 Å around the boxes' centres; the boxes are 128 and 144 Å wide.
    a, b = coarse[:, 1::3, 1::3], fine[:, 4::4, 4::4]
    assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


@pytest.mark.parametrize("aberration", [{"beam_tilt": (3e-2, 0.0)}, {"odd_zernike": (0.0, 2.0, 300.0)}])
def test_odd_aberrations_are_phases(tmp_path, aberration):
    a, b = (
        simulate(molecule(), PIXEL, Simulation(4, (o,), snr=np.inf), tmp_path / o.name).images(np.arange(4))
        for o in (OPTICS, dataclasses.replace(OPTICS, name="b", **aberration))
    )
    fa, fb = np.fft.rfft2(a), np.fft.rfft2(b)
    assert np.allclose(abs(fa), abs(fb), atol=1e-3 * abs(fa).max())
    assert np.linalg.norm(a - b) > 0.02 * np.linalg.norm(a)


def test_a_magnified_particle_looks_larger(tmp_path):
    # RELION's documentation: the matrix has larger values when the observed particle looks larger.
    matrix = ((1.15, 0.0), (0.0, 0.9))
    plain = dataclasses.replace(OPTICS, wavelength=1e-9)
    powers = [
        abs(
            np.fft.fft2(
                simulate(molecule(), PIXEL, Simulation(6, (o,), snr=np.inf), tmp_path / o.name).images(
                    range(6)
                )
            )
        )
        ** 2
        for o in (plain, dataclasses.replace(plain, name="b", magnification=matrix))
    ]
    k = np.fft.fftfreq(BOX)
    for size, component in ((1.15, k), (0.9, k[:, None])):
        before, after = ((power * component**2).sum() / power.sum() for power in powers)
        assert np.sqrt(before / after) == pytest.approx(size, rel=0.01)


def test_the_file_has_the_origins_of_the_image(tmp_path):
    matrix = ((1.1, 0.05), (-0.02, 0.95))
    truth = simulate(
        molecule(), PIXEL, Simulation(3, (dataclasses.replace(OPTICS, magnification=matrix),)), tmp_path
    )
    particles = read_particles(tmp_path / "particles.star")
    assert np.allclose(particles.shifts, truth.shifts, atol=1e-5)
    table = particles.table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(dtype=np.float64)
    assert np.allclose(table, truth.shifts @ matrix, atol=1e-5)


def test_views_gather_around_the_preferred_ones():
    view = (0.7, 1.1)
    simulation = Simulation(
        4000, (OPTICS,), preferred_views=(view,), concentration=20.0, uniform_fraction=0.25
    )
    directions = draw_rotations(simulation)[:, 2]
    cosines = directions @ euler_to_matrix(np.array([*view, 0.0]))[2]
    near = cosines > 1 - 3 / 20
    # A von Mises-Fisher distribution has 1 − e⁻³ of its mass there, a uniform one 7.5 %.
    assert near.mean() == pytest.approx(0.75 * 0.95 + 0.25 * 0.075, abs=0.02)


def test_uniform_views_are_uniform():
    directions = draw_rotations(Simulation(20000, (OPTICS,)))[:, 2]
    assert np.abs(directions.mean(axis=0)).max() < 0.02
    assert np.allclose(directions.T @ directions / 20000, np.eye(3) / 3, atol=0.01)


def test_views_can_be_kept_in_the_asymmetric_unit():
    rotations = draw_rotations(Simulation(300, (OPTICS,), asymmetric_unit="D7"))
    assert in_asymmetric_unit(rotations[:, 2], group_matrices("D7")).all()


def test_shifts_are_normal_and_cut_off(tmp_path):
    shifts = draw_particles(Simulation(5000, (OPTICS,), shift_sigma=3.0, max_shift=8.0), tmp_path).shifts
    lengths = np.linalg.norm(shifts, axis=1)
    assert lengths.max() <= 8.0
    assert np.median(lengths) == pytest.approx(3.0 * 1.15, rel=0.05)


def test_correlated_noise_has_unit_variance_and_falls_with_frequency(tmp_path):
    length = 30.0
    simulation = Simulation(200, (OPTICS,), snr=1e-6, noise_correlation=length)
    images = simulate(molecule(), PIXEL, simulation, tmp_path).images(np.arange(200))
    assert images.var() == pytest.approx(1.0, rel=0.02)
    power = (abs(np.fft.fft2(images)) ** 2).mean(axis=0)
    k = 8 / (BOX * PIXEL)
    assert power[0, 8] / power[0, 2] == pytest.approx(
        (1 + (length * k / 4) ** 2) / (1 + (length * k) ** 2), rel=0.3
    )
