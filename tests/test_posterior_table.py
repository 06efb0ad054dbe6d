"""The scales of images and groups that a table of posteriors has, and a refinement finds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryograd.data.particles import Particles
from cryograd.halves import SCALE_WIDTH
from cryograd.posterior_table import PosteriorTable
from refinement import PIXEL, N, configuration, run, simulated
from stacks import write_stack


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def folder(particles: Particles) -> Path:
    return particles.source.parent


def test_the_scales_of_images_are_found(particles: Particles, folder: Path) -> None:
    """Half of the images have 0.6 of the signal that the others have."""
    weak = np.arange(N) % 2 == 1
    images = np.asarray(particles.images(np.arange(N)), dtype=np.float32).copy()
    noise = np.random.default_rng(3).normal(scale=images[:, :4].std(), size=images.shape)
    # Less signal at the same power of the noise.
    images[weak] = 0.6 * images[weak] + np.sqrt(1.0 - 0.36) * noise[weak].astype(np.float32)
    write_stack(folder / "weak.mrcs", images, PIXEL)
    faded = replace(particles, stacks=(folder / "weak.mrcs",))
    *_, final = run(faded, configuration(folder, passes=1.0))
    found = final.posterior.scales(SCALE_WIDTH)
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
    table = particles.table.assign(rlnMicrographName=[f"m{number}.mrc" for number in micrograph])
    given = replace(particles, stacks=(folder / "faded.mrcs",), table=table)
    *_, final = run(given, configuration(folder, passes=1.0))
    found = final.posterior.scales(SCALE_WIDTH, given.scale_group)
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
    errors = [np.std((table.scales(SCALE_WIDTH, g) - truth)[1:]) for g in (None, group)]
    assert errors[1] < 0.85 * errors[0]
    assert table.scales(SCALE_WIDTH, group)[0] < 0.4
