"""Particles that share their noise, by their images and by where they were picked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.shared_noise import noise_number
from cryograd.engine.half_sets import half_sets
from cryograd.errors import CryogradError
from cryograd.simulation.simulate import Simulation, simulate

N, PIXEL = 40, 4.0


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, 8)
    density = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    made = simulate(density, PIXEL, Simulation(N, (optics,), snr=1.0), tmp_path_factory.mktemp("made"))
    return replace(made, half_set=None)


def picked(particles: Particles, size: float | None, apart: float) -> Particles:
    """Particles of which the second half was picked so many pixels from the first, on two micrographs."""
    place = np.arange(N) % (N // 2)
    columns = {
        "rlnMicrographName": [f"{k % 2}.mrc" for k in place],
        "rlnCoordinateX": [f"{200.0 * k + apart * (i >= N // 2)}" for i, k in enumerate(place)],
        "rlnCoordinateY": ["77.5"] * N,
    }
    table = particles.table.assign(**columns)
    optics = particles.optics_table
    if size is not None:
        optics = optics.assign(rlnMicrographPixelSize=f"{size}")
    return replace(particles, table=table, optics_table=optics)


def test_without_coordinates_images_count(particles: Particles) -> None:
    assert np.array_equal(noise_number(particles), np.arange(N))
    twice = particles.select(np.arange(2 * N) % N)
    assert np.array_equal(noise_number(twice), np.arange(2 * N) % N)


@pytest.mark.parametrize(
    ("size", "apart", "same"), [(1.0, 15.0, True), (2.0, 15.0, False), (None, 12.0, True)]
)
def test_picks_nearly_in_one_place_share_their_noise(
    particles: Particles, size: float | None, apart: float, same: bool
) -> None:
    number = noise_number(picked(particles, size, apart))
    assert np.array_equal(number, np.arange(N) % (N // 2) if same else np.arange(N))


@pytest.mark.parametrize(("within", "same"), [(0.0, False), (14.0, False), (16.0, True)])
def test_how_near_is_near_can_be_said(particles: Particles, within: float, same: bool) -> None:
    given = picked(particles, 1.0, 15.0)
    number = noise_number(given, within)
    assert np.array_equal(number, np.arange(N) % (N // 2) if same else np.arange(N))
    # Places are on micrographs, be it that no distance is allowed.
    there = picked(particles, 1.0, 0.0).select(np.arange(N // 2))
    assert np.array_equal(noise_number(there, 0.0), np.arange(N // 2))


def test_pairs_that_are_known_otherwise_are_joined(particles: Particles) -> None:
    number = noise_number(particles, alike=np.array([[0, 5], [5, 9]]))
    assert number[[0, 5, 9]].tolist() == [0, 0, 0]
    assert number.max() == N - 3


def test_other_micrographs_are_far(particles: Particles) -> None:
    given = picked(particles, 1.0, 3.0)
    other = given.table.assign(rlnMicrographName=[f"{k}.mrc" for k in range(N)])
    assert np.array_equal(noise_number(replace(given, table=other)), np.arange(N))


def test_coordinates_that_are_none_are_near_nothing(particles: Particles) -> None:
    given = picked(particles, 1.0, 3.0)
    table = given.table.assign(rlnCoordinateX=pd.Series(["nan"] * N, index=given.table.index))
    assert np.array_equal(noise_number(replace(given, table=table)), np.arange(N))


def test_picks_in_one_place_are_in_one_half_set(particles: Particles) -> None:
    given = picked(particles, 1.0, 3.0)
    first, second = half_sets(given, 0)
    assert not set(first % (N // 2)) & set(second % (N // 2))
    assert len(first) == len(second)
    apart = replace(given, half_set=1 + (np.arange(N) >= N // 2))
    with pytest.raises(CryogradError, match="picked twice within 20 Å"):
        half_sets(apart, 0)


def test_a_folder_of_links_changes_nothing(particles: Particles, tmp_path: Path) -> None:
    (tmp_path / "link.mrcs").symlink_to(particles.stacks[0])
    joined = replace(
        particles.select(np.arange(2 * N) % N),
        stacks=(particles.stacks[0], tmp_path / "link.mrcs"),
        stack_index=np.repeat([0, 1], N),
    )
    assert np.array_equal(noise_number(joined), np.arange(2 * N) % N)
