from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cryograd.data.particles import BadImagesError, Particles
from cryograd.data.read import read_particles
from cryograd.errors import CryogradError
from cryograd.fourier import HalfDisc, fourier_2d, pack_disc
from cryograd.images.held import HeldImages, normalise, read_images, strange
from cryograd.images.store import MASK_EDGE, _masks, load
from cryograd.model.ctf import ctf

Maker = Callable[..., Path]
Array = NDArray[np.float64]

EXTENT, SIZE = 64.0, 32


def blob(box: int, pixel: float, width: float = 4.0) -> Array:
    """Off-centre Gaussians, within a box of 60 Å and band-limited to 1/8 Å to seven digits, sampled in Å."""
    axis = (np.arange(box) - box // 2) * pixel
    x, y = np.meshgrid(axis, axis)
    return np.exp(-((x - 5.0) ** 2 + (y + 3.0) ** 2) / (2 * width**2)) - 0.5 * np.exp(
        -((x + 4.0) ** 2 + (y - 2.0) ** 2) / (2 * width**2)
    )


def held(
    images: Array, particles: Particles | None = None, diameter: float = 20.0, extent: float = EXTENT
) -> HeldImages:
    """Given images in memory; loading them without metadata fails only where a CTF is needed."""
    none = np.zeros(len(images), dtype=bool)
    return HeldImages(particles, images.astype(np.float16), extent, diameter, torch.device("cpu"), none)  # type: ignore[arg-type]


def test_background_has_mean_zero_and_unit_variance_whatever_the_particle() -> None:
    rng = np.random.default_rng(0)
    images = 3.0 * rng.standard_normal((5, 40, 40)) + np.array([0, 7, -4, 1, 100.0])[:, None, None]
    axis = np.arange(40) - 20
    inside = np.hypot(*np.meshgrid(axis, axis)) <= 12
    images[:, inside] += 50.0
    normalised = normalise(images, 12.0)
    assert np.allclose(normalised[:, ~inside].mean(axis=1), 0, atol=1e-9)
    assert np.allclose(normalised[:, ~inside].std(axis=1), 1)
    assert normalised[:, inside].mean() == pytest.approx(50 / 3, rel=0.05)


def test_a_plane_of_the_background_is_taken_off_below_the_particle_too() -> None:
    rng, axis = np.random.default_rng(1), np.arange(40) - 20
    x, y = np.meshgrid(axis, axis)
    images = rng.standard_normal((3, 40, 40)) + 30.0 * np.exp(-(x**2 + y**2) / 50.0)
    planes = np.array([0.0, 0.5, -2.0])[:, None, None] * x + np.array([0.3, -1.0, 0.0])[:, None, None] * y
    assert np.allclose(normalise(images + planes, 16.0), normalise(images, 16.0), atol=1e-9)


def test_normalisation_uses_the_corners_where_the_circle_leaves_nothing() -> None:
    images = np.random.default_rng(0).standard_normal((3, 40, 40)) + 5.0
    assert np.abs(normalise(images, 100.0).mean(axis=(1, 2))).max() < 0.5


def with_beads(n: int, beads: int) -> np.ndarray:
    """Images (n, 40, 40) of noise and a particle, the first of them with a bright bead somewhere."""
    rng, axis = np.random.default_rng(2), np.arange(40) - 20
    x, y = np.meshgrid(axis, axis)
    images = rng.normal(size=(n, 40, 40)) + rng.uniform(0.5, 1.5, (n, 1, 1)) * np.exp(-(x**2 + y**2) / 80.0)
    for number, (u, v) in enumerate(rng.uniform(-14.0, 14.0, (beads, 2))):
        images[number] += 12.0 * (np.hypot(x - u, y - v) < 3.5)
    return images


def test_a_bead_in_the_background_does_not_change_the_scale_of_an_image() -> None:
    images = with_beads(40, 10)
    axis = np.arange(40) - 20
    corners = np.hypot(*np.meshgrid(axis, axis)) > 19.0
    spread = np.median(np.abs(normalise(images, 12.0)[:, corners]), axis=1) / 0.6745
    assert spread[:10].mean() == pytest.approx(1.0, abs=0.1)


def test_beads_have_a_power_that_no_particle_has() -> None:
    power = np.square(normalise(with_beads(200, 10), 12.0)).mean(axis=(1, 2))
    assert strange(power).tolist() == [True] * 10 + [False] * 190


@pytest.mark.parametrize("n", [1, 20, 5000])
def test_images_of_particles_are_not_strange(n: int) -> None:
    power = np.square(normalise(with_beads(n, 0), 12.0)).mean(axis=(1, 2))
    assert not strange(power).any()
    # Nor where ice is thicker in some.
    assert not strange(power * np.random.default_rng(0).uniform(1.0, 1.4, n)).any()


@pytest.mark.parametrize("centre", [(0.0, 0.0), (10.0, -6.0)])
def test_mask_follows_the_particle(centre: tuple[float, float]) -> None:
    pixel, radius, margin = EXTENT / SIZE, 10.0, 4.0
    images = held(np.ones((2, SIZE, SIZE)), diameter=2 * radius)
    mask = _masks(images, np.array([centre, (0.0, 0.0)]), np.array([margin, np.inf]))
    axis = (np.arange(SIZE) - SIZE // 2) * pixel
    x, y = np.meshgrid(axis, axis)
    # An origin offset t centres the particle: it is at −t.
    distance = np.hypot(x + centre[0], y + centre[1])
    assert np.allclose(mask[0][distance <= radius + margin], 1.0)
    assert np.allclose(mask[0][distance >= radius + margin + MASK_EDGE * pixel], 0.0)
    assert np.array_equal(mask[1], np.ones((SIZE, SIZE)))


def test_loading_masks_transforms_and_measures_the_area(make_star: Maker) -> None:
    particles = read_particles(make_star())
    rng = np.random.default_rng(0)
    noise, disc = rng.standard_normal((4, SIZE, SIZE)), HalfDisc(12)
    images = held(noise, particles)
    chosen = np.array([3, 1])
    loaded = load(images, chosen, disc, np.zeros((2, 2)), np.array([np.inf, 0.0]))
    stored = torch.from_numpy(images.values.astype(np.float32))
    assert torch.allclose(loaded.images[0], pack_disc(fourier_2d(stored[3]), disc), atol=1e-3)
    assert loaded.area[0] == 1.0
    mask = _masks(images, np.zeros((1, 2)), np.zeros(1))[0]
    assert torch.allclose(loaded.images[1], pack_disc(fourier_2d(stored[1] * mask), disc), atol=1e-3)
    # What is left of white noise's power.
    assert loaded.area[1] == pytest.approx(mask.square().mean().item())
    # Smearing by the mask leaves the power of white noise white.
    expected = loaded.area[1].item() * SIZE**2
    assert loaded.images[1].abs().square().mean().item() == pytest.approx(expected, rel=0.3)


def test_ctf_is_that_of_each_particle_at_the_working_frequencies(make_star: Maker) -> None:
    particles = read_particles(make_star())
    disc = HalfDisc(12)
    flipped = replace(particles, optics=(replace(particles.optics[0], phase_flipped=True),))
    chosen = np.array([2, 0])
    found, absolute = (
        load(held(np.ones((4, SIZE, SIZE)), p), chosen, disc, np.zeros((2, 2)), np.zeros(2)).ctf
        for p in (particles, flipped)
    )
    group = particles.optics[0]
    names = ("defocus_u", "defocus_v", "astigmatism_angle", "phase_shift", "b_factor", "scale")
    expected = ctf(
        torch.from_numpy(disc.frequencies / EXTENT),
        group.wavelength,
        group.spherical_aberration,
        group.amplitude_contrast,
        *(torch.from_numpy(getattr(particles, name)[chosen]) for name in names),
    )
    assert torch.allclose(found, expected)
    assert not torch.allclose(found[0], found[1])
    assert (found < -0.5).any()
    assert torch.equal(absolute, found.abs())


def two_groups(folder: Path) -> Path:
    """Two optics groups whose images have different boxes and pixels of one and the same object."""
    rng = np.random.default_rng(0)
    samplings = {1: (48, 1.6), 2: (72, 1.1)}
    rows, header = [], ["data_optics", "", "loop_"]
    columns = ("OpticsGroupName", "OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast")
    header += [f"_rln{c}" for c in (*columns, "ImagePixelSize", "ImageSize")]
    for group, (box, pixel) in samplings.items():
        header.append(f"g{group} {group} 300 2.7 0.1 {pixel} {box}")
        stack = 30.0 * blob(box, pixel) + rng.standard_normal((3, box, box)) + 5.0 * group
        with mrcfile.new(folder / f"{group}.mrcs") as mrc:
            mrc.set_data(stack.astype(np.float32))
        rows += [f"{i}@{group}.mrcs {group} 10000 9000 30" for i in (1, 2, 3)]
    header += ["", "data_particles", "", "loop_"]
    header += [f"_rln{c}" for c in ("ImageName", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle")]
    # Mixed, so that places in memory are not those in the stacks.
    path = folder / "particles.star"
    path.write_text("\n".join([*header, *(rows[i] for i in (0, 3, 1, 4, 2, 5))]) + "\n")
    return path


def test_images_of_all_optics_groups_are_normalised_and_on_one_grid(tmp_path: Path) -> None:
    particles, seen = read_particles(two_groups(tmp_path)), []
    images = read_images(
        particles, SIZE, EXTENT, 40.0, torch.device("cpu"), lambda done, total: seen.append((done, total))
    )
    assert images.values.shape == (6, SIZE, SIZE)
    assert seen == [(3, 6), (6, 6)]
    for image in images.values.astype(np.float64):
        assert np.abs(image - 30.0 * blob(SIZE, EXTENT / SIZE)).std() < 1.0
        assert image[:5].mean() == pytest.approx(0.0, abs=0.2)


def test_premultiplied_images_are_refused(make_star: Maker) -> None:
    particles = read_particles(make_star())
    premultiplied = replace(particles, optics=(replace(particles.optics[0], premultiplied=True),))
    with pytest.raises(CryogradError, match=r"premultiplied.*extract"):
        read_images(premultiplied, 8, 12.0, 6.0, torch.device("cpu"))


def test_images_at_a_coarser_sampling_have_the_same_coefficients_below_its_nyquist(make_star: Maker) -> None:
    particles, disc = read_particles(make_star()), HalfDisc(9)
    images = held(np.random.default_rng(2).standard_normal((4, SIZE, SIZE)), particles)
    chosen = np.array([3, 1])
    small = images.cropped(chosen, 20)
    assert (small.size, small.extent, small.diameter) == (20, EXTENT, images.diameter)
    assert np.array_equal(small.particles.defocus_u, particles.defocus_u[chosen])
    nothing = np.zeros((2, 2)), np.full(2, np.inf)
    found, expected = load(small, np.arange(2), disc, *nothing), load(images, chosen, disc, *nothing)
    # Pixels keep their values, and fewer of them are summed.
    error = found.images * (SIZE / 20) ** 2 - expected.images
    assert float(error.norm()) < 1e-3 * float(expected.images.norm())
    assert torch.equal(found.ctf, expected.ctf)


def test_all_bad_images_are_named_whatever_is_wrong(make_star: Maker, images: np.ndarray) -> None:
    images[0] = 0.0
    axis = np.arange(8) - 4
    images[2, np.hypot(*np.meshgrid(axis, axis)) > 2] = 1.0
    particles = read_particles(make_star(stack=images))
    with pytest.raises(BadImagesError) as error:
        read_images(particles, 8, 12.0, 6.0, torch.device("cpu"))
    assert list(error.value.faults) == [0, 2]
    assert "constant" in error.value.faults[0]
    assert "no noise outside the particle" in error.value.faults[2]
