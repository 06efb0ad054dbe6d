"""What a run looks at before it begins: contrast, sign and unit of the defocus, Thon rings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from points import PIXEL_SIZE, of_points

from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.inspection.finding import REASONS
from cryograd.inspection.given import Objection, objections, of_ctf, refuse
from cryograd.inspection.images import contrast
from cryograd.inspection.sample import Sample, brightness, sampled

N = 300


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return of_points(tmp_path_factory.mktemp("given"), N, snr=0.5)


@pytest.fixture(scope="module")
def sample(particles: Particles) -> Sample:
    return sampled(particles)


def times(particles: Particles, factor: float) -> Particles:
    return replace(particles, defocus_u=factor * particles.defocus_u, defocus_v=factor * particles.defocus_v)


def keys(particles: Particles, sample: Sample) -> list[str]:
    return [objection.key for objection in objections(particles, sample)]


def test_nothing_is_said_against_right_particles(particles: Particles, sample: Sample) -> None:
    assert objections(particles, sample) == []


def test_dark_protein_is_named_with_its_remedy(particles: Particles) -> None:
    dark = replace(particles, sign=-particles.sign)
    (found,) = objections(dark, sampled(dark))
    assert (found.key, found.remedy) == ("contrast_inverted", "add --invert-contrast")
    (found,) = objections(replace(particles, invert_contrast=True), sampled(dark))
    assert found.remedy == "leave out --invert-contrast"


@pytest.mark.parametrize(
    ("factor", "key"),
    [
        (-1.0, "defocus_not_positive"),
        (0.0, "defocus_not_positive"),
        (1e-4, "defocus_unit"),
        (0.6, "ctf_contradicted"),
    ],
)
def test_a_wrong_defocus_is_named(particles: Particles, sample: Sample, factor: float, key: str) -> None:
    assert key in keys(times(particles, factor), sample)


def test_some_particles_without_underfocus_are_no_reason_to_stop(
    particles: Particles, sample: Sample
) -> None:
    few = np.where(np.arange(N) < 3, -1.0, 1.0)
    some = replace(particles, defocus_u=few * particles.defocus_u, defocus_v=few * particles.defocus_v)
    assert "defocus_not_positive" not in keys(some, sample)


def test_images_of_a_phase_plate_may_be_in_focus(particles: Particles, sample: Sample) -> None:
    plate = replace(times(particles, 0.0), phase_shift=np.full(N, 1.5))
    assert "defocus_not_positive" not in keys(plate, sample)


def test_headers_of_another_pixel_size_are_told_of(particles: Particles, sample: Sample) -> None:
    """As of a stack that was scaled down: the file may be right all the same, and is taken at its word."""
    (optics,) = particles.optics
    other = replace(particles, optics=(replace(optics, pixel_size=2.0 * PIXEL_SIZE),))
    found = [one for one in objections(other, sample) if one.key == "pixel_size_contradicted"]
    assert len(found) == 1
    assert "say 2.5 Å per pixel, and the particle file 5 Å" in found[0].what
    assert not found[0].certain


def test_only_what_is_certain_ends_a_run(particles: Particles) -> None:
    faint = {"reliability": 0.6, "agreement": 0.1, "best_factor": 1.0, "best_agreement": 0.1, "visible": True}
    (unsure,) = of_ctf([faint])
    refuse([unsure], particles)
    assert unsure.finding.doubts
    assert next(of_ctf([faint | {"reliability": 0.9}])).certain
    sure = Objection("ctf_contradicted", "no ring fits", "look again")
    with pytest.raises(CryogradError) as error:
        refuse([unsure, sure], particles)
    assert error.value.where == str(particles.source)
    assert error.value.remedy == "look again; --force reconstructs all the same"


def test_every_objection_has_a_reason(particles: Particles, sample: Sample) -> None:
    for factor in (-1.0, 1e-4, 0.6):
        for found in objections(times(particles, factor), sample):
            assert not found.doubts or found.key in REASONS


@pytest.mark.parametrize("n", [3, 20, 60])
def test_noise_is_neither_bright_nor_dark(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(40):
        assert contrast(brightness(rng.standard_normal((n, 32, 32))))["contrast"] == "unclear"


def test_what_few_images_show_is_not_the_contrast_of_all() -> None:
    """A faint trend of many images, which most of them do not show."""
    difference = np.random.default_rng(0).standard_normal(20000) - 0.06
    found = contrast(np.stack([difference] * 4, axis=1))
    assert found["contrast_sigma"] < -4.0
    assert found["contrast"] == "unclear"


def test_a_sample_leaves_out_what_cannot_be_used(
    particles: Particles, sample: Sample, tmp_path: Path
) -> None:
    import mrcfile

    copy = tmp_path / "particles.mrcs"
    copy.write_bytes(particles.stacks[0].read_bytes())
    with mrcfile.open(copy, "r+") as mrc:
        assert mrc.data is not None
        mrc.data[5] = np.nan
    found = sampled(replace(particles, stacks=(copy,)))
    assert sorted(set(range(N)) - set(found.members.tolist())) == [
        int(np.flatnonzero(particles.image_index == 5)[0])
    ]


def test_a_sample_of_some_is_that_of_the_selected(particles: Particles, sample: Sample) -> None:
    chosen = np.array([3, 10, 11, 200])
    part, own = sample.within(chosen), sampled(particles.select(chosen))
    np.testing.assert_array_equal(part.members, own.members)
    np.testing.assert_allclose(part.power, own.power)
    np.testing.assert_allclose(part.brightness, own.brightness)
