"""Images that share their noise are found by their pixels, and no others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryograd.data.noise_copies import SHARED, noise_copies, noise_correlation
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.data.shared_noise import noise_number
from stacks import write_stack
from stars import COLUMNS, OPTICS_COLUMNS, loop

N, BOX, PIXEL = 60, 40, 4.0
FIELD = 12


@pytest.fixture(scope="module")
def fields() -> np.ndarray:
    """Pieces of micrographs: noise that is not white, a particle in the middle, the same in all."""
    rng = np.random.default_rng(1)
    side = BOX + FIELD
    white = rng.standard_normal((N, side, side))
    axis = np.arange(side) - side // 2
    signal = np.exp(-(np.hypot(*np.meshgrid(axis, axis)) ** 2) / 50.0)
    return white + 2.0 * gaussian_filter(white, (0, 1.5, 1.5)) + signal


def crop(fields: np.ndarray, right: int = 0, down: int = 0) -> np.ndarray:
    """Images in the pieces, so many pixels beside the middle."""
    top, left = FIELD // 2 + down, FIELD // 2 + right
    return fields[:, top : top + BOX, left : left + BOX].astype(np.float32)


def particles_of(folder: Path, *stacks: np.ndarray) -> Particles:
    """Particles of several stacks, one after the other, without coordinates."""
    for number, images in enumerate(stacks):
        write_stack(folder / f"{number}.mrcs", images, PIXEL)
    rows = [
        f"{place + 1}@{number}.mrcs 1 10000 10000 0"
        for number, images in enumerate(stacks)
        for place in range(len(images))
    ]
    optics = f"one 1 300.0 2.7 0.1 {PIXEL} {stacks[0].shape[-1]}"
    path = folder / "particles.star"
    path.write_text(loop("optics", OPTICS_COLUMNS, [optics]) + loop("particles", COLUMNS, rows))
    return read_particles(path)


def expected(copies: int) -> np.ndarray:
    """Pairs of which the later ones are the first particles again."""
    return np.stack([np.arange(copies), N + np.arange(copies)], axis=1)


def test_distinct_images_are_in_no_pair(fields: np.ndarray, tmp_path: Path) -> None:
    assert noise_copies(particles_of(tmp_path, crop(fields))).shape == (0, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: crop(fields),
        lambda fields: -3.0 * crop(fields) + 10.0,
        lambda fields: crop(fields).astype(np.float16),
        lambda fields: crop(fields, 1, 0),
        lambda fields: crop(fields, -2, 3),
        lambda fields: crop(fields + 0.3 * np.random.default_rng(5).standard_normal(fields.shape)),
    ],
    ids=["same", "rescaled", "float16", "1 px", "4 px", "noisier"],
)
def test_copies_are_found(change: Callable, fields: np.ndarray, tmp_path: Path) -> None:
    again = change(fields)[:20]
    particles = particles_of(tmp_path, crop(fields), again)
    found = noise_copies(particles)
    assert np.array_equal(found[np.argsort(found[:, 1])], expected(20))
    number = noise_number(particles, alike=found)
    assert np.array_equal(number, [*range(N), *range(20)])


def test_neighbours_are_not_copies(fields: np.ndarray, tmp_path: Path) -> None:
    # 6 pixels are 24 Å.
    found = noise_copies(particles_of(tmp_path, crop(fields), crop(fields, 6, 0)))
    assert len(found) == 0


def test_of_many_copies_each_is_with_the_first(fields: np.ndarray, tmp_path: Path) -> None:
    one = crop(fields)
    particles = particles_of(tmp_path, one, np.repeat(one[:1], 30, axis=0), 2.0 * one[:2])
    number = noise_number(particles, alike=noise_copies(particles))
    assert np.array_equal(number, [*range(N), *[0] * 30, 0, 1])


def test_images_that_cannot_be_used_are_in_no_pair(fields: np.ndarray, tmp_path: Path) -> None:
    images = crop(fields)
    images[3], images[4, 5, 6] = 1.0, np.nan
    found = noise_copies(particles_of(tmp_path, images, images[:8]))
    assert sorted(found[:, 1] - N) == [0, 1, 2, 5, 6, 7]


def test_small_boxes_say_too_little(fields: np.ndarray, tmp_path: Path) -> None:
    small = crop(fields)[:, :24, :24]
    assert len(noise_copies(particles_of(tmp_path, small, small))) == 0


def test_the_correlation_of_distinct_noise_is_far_below_the_threshold(fields: np.ndarray) -> None:
    images = crop(fields)
    apart = noise_correlation(images[:-1], images[1:], np.full(N - 1, 5.0))
    assert apart.max() < 0.6 * SHARED
    assert noise_correlation(images, images, np.zeros(N)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.realdata
def test_real_picks_are_distinct_until_they_are_given_twice(shared_data: Path, tmp_path: Path) -> None:
    particles = read_particles(shared_data / "bgal-10204" / "particles_all_2374.star")
    images = particles.images(np.arange(300))
    one, other = images[:, 4:60, 4:60], images[:100, 6:62, 1:57]
    found = noise_copies(particles_of(tmp_path, one, other))
    assert np.array_equal(found[:, 1] - found[:, 0], [300] * 100)
    assert len(noise_copies(particles.select(np.arange(1000)))) == 0
