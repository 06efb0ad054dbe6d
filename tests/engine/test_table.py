"""The scales of images and groups that a table of posteriors has, and a refinement finds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryograd.data.particles import Particles
from cryograd.engine.setup import SCALE_WIDTH
from cryograd.engine.table import PosteriorTable
from refinement import PIXEL, N, configuration, refined, simulated
from stacks import write_stack


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def folder(particles: Particles) -> Path:
    return particles.source.parent


def scales_of_both(table: PosteriorTable, group: np.ndarray | None = None) -> np.ndarray:
    """Scales of all particles, each as its half-set finds it."""
    found = np.full(len(table.half), np.nan)
    for half in (1, 2):
        members = np.flatnonzero(table.half == half)
        found[members] = table.scales(members, SCALE_WIDTH, group)
    return found


def test_the_scales_of_images_are_found(particles: Particles, folder: Path) -> None:
    """Half of the images have 0.6 of the signal that the others have."""
    weak = np.arange(N) % 2 == 1
    images = np.asarray(particles.images(np.arange(N)), dtype=np.float32).copy()
    noise = np.random.default_rng(3).normal(scale=images[:, :4].std(), size=images.shape)
    # Less signal at the same power of the noise.
    images[weak] = 0.6 * images[weak] + np.sqrt(1.0 - 0.36) * noise[weak].astype(np.float32)
    write_stack(folder / "weak.mrcs", images, PIXEL)
    faded = replace(particles, stacks=(folder / "weak.mrcs",))
    table = refined(faded, configuration(folder, passes=1.0, max_resolution=16.0)).state.table
    found = scales_of_both(table)
    assert found.mean() == pytest.approx(1.0)
    assert np.median(found[weak]) / np.median(found[~weak]) == pytest.approx(0.6, abs=0.12)


def test_the_scales_of_groups_are_found(particles: Particles, folder: Path) -> None:
    """Micrographs have 0.7 to 1.3 of the mean signal, and some images of each are noise."""
    micrograph, of_micrograph = np.arange(N) % 4, np.array([0.7, 0.9, 1.1, 1.3])
    junk = np.arange(N) // 4 % 10 == 0
    scale = np.where(junk, 0.0, of_micrograph[micrograph] / of_micrograph.max())[:, None, None]
    images = np.asarray(particles.images(np.arange(N)), dtype=np.float32)
    noise = np.random.default_rng(4).normal(scale=images[:, :4].std(), size=images.shape)
    faded = (scale * images + np.sqrt(1.0 - scale**2) * noise).astype(np.float32)
    write_stack(folder / "faded.mrcs", faded, PIXEL)
    named = particles.table.assign(rlnMicrographName=[f"m{number}.mrc" for number in micrograph])
    given = replace(particles, stacks=(folder / "faded.mrcs",), table=named)
    table = refined(given, configuration(folder, passes=1.0, max_resolution=16.0)).state.table
    found = scales_of_both(table, given.scale_group)
    means = np.array([found[(micrograph == number) & ~junk].mean() for number in range(4)])
    np.testing.assert_allclose(means / means.mean(), of_micrograph, atol=0.05)
    assert np.median(found[junk]) < 0.6


def test_the_scale_of_a_group_helps_its_images() -> None:
    """Each of them tells its own scale to 0.3 only. One that is junk still shows it."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(6), 40)
    truth = np.linspace(0.7, 1.3, 6)[group]
    energy = np.full(240, 5.0)
    energy[0], truth[0] = 20.0, 0.0
    match = truth * energy + rng.normal(scale=np.sqrt(energy / 2.0))
    table = replace(PosteriorTable.empty(240), match=match, energy=energy)
    errors = [np.std((table.scales(np.arange(240), SCALE_WIDTH, g) - truth)[1:]) for g in (None, group)]
    assert errors[1] < 0.85 * errors[0]
    assert table.scales(np.arange(240), SCALE_WIDTH, group)[0] < 0.4


def test_scales_of_one_half_set_do_not_depend_on_the_images_of_the_other() -> None:
    rng = np.random.default_rng(6)
    members, group = np.arange(0, 60, 2), np.arange(60) // 10
    energy = rng.uniform(1.0, 9.0, 60)
    energy[[4, 7]] = 0.0
    one = replace(PosteriorTable.empty(60), match=energy * rng.uniform(0.5, 1.5, 60), energy=energy)
    upper = np.arange(60) % 2 == 1
    other = replace(
        one, match=np.where(upper, 0.3 * one.match, one.match), energy=np.where(upper, 40.0, energy)
    )
    for g in (None, group):
        assert np.array_equal(one.scales(members, SCALE_WIDTH, g), other.scales(members, SCALE_WIDTH, g))
        # What was not seen yet has the scale of the map.
        assert one.scales(members, SCALE_WIDTH, g)[2] == 1.0
        assert np.delete(one.scales(members, SCALE_WIDTH, g), 2).mean() == pytest.approx(1.0)
    assert (one.scales(members, 0.0) == 1.0).all()
