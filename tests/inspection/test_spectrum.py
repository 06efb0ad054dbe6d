from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from points import BOX, PIXEL_SIZE, of_points

from cryograd.data.particles import Particles
from cryograd.inspection.given import of_ctf
from cryograd.inspection.sample import sampled
from cryograd.inspection.spectrum import thon_rings
from cryograd.simulation.simulate import Simulation, simulate

N = 400


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return of_points(tmp_path_factory.mktemp("rings"), N, snr=1.0)


def scaled(particles: Particles, factor: float) -> Particles:
    return replace(particles, defocus_u=factor * particles.defocus_u, defocus_v=factor * particles.defocus_v)


def facts(particles: Particles) -> dict:
    (rings,) = thon_rings(particles, sampled(particles))
    return rings.facts


def test_the_right_ctf_fits(particles: Particles) -> None:
    found = facts(particles)
    assert found["agreement"] > 0.8
    assert found["reliability"] > 0.8
    assert found["best_factor"] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("factor", [0.5, 1.8])
def test_a_wrong_defocus_does_not_fit_and_the_factor_is_found(particles: Particles, factor: float) -> None:
    found = facts(scaled(particles, factor))
    assert found["agreement"] < 0.3
    assert found["best_factor"] == pytest.approx(1.0 / factor, rel=0.06)
    assert found["best_agreement"] > 0.8


@pytest.mark.parametrize(("size", "said"), [(1.02, "% too large"), (0.98, "% too small"), (1.0, "")])
def test_a_pixel_size_that_is_nearly_right_is_said(particles: Particles, size: float, said: str) -> None:
    (optics,) = particles.optics
    wrong = replace(particles, optics=(replace(optics, pixel_size=size * optics.pixel_size),))
    found = list(of_ctf([facts(wrong)]))
    assert [one.key for one in found] == ["ctf_slightly_off"] * bool(said)
    assert all(said in one.what and not one.certain and not one.finding.doubts for one in found)


def test_defocus_values_of_other_particles_do_not_fit(particles: Particles) -> None:
    other = particles.select(np.random.default_rng(0).permutation(N))
    mixed = replace(particles, defocus_u=other.defocus_u, defocus_v=other.defocus_v)
    assert facts(mixed)["agreement"] < 0.3


def test_a_molecule_with_rings_of_its_own_is_not_blamed(particles: Particles, tmp_path: Path) -> None:
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - float(BOX // 2)
    radius = np.sqrt(x**2 + y**2 + z**2)
    shell = np.exp(-0.5 * (radius - 14.0) ** 2).astype(np.float32)
    simulation = Simulation(N, particles.optics, snr=0.2, defocus=(15000.0, 30000.0))
    hollow = simulate(shell, PIXEL_SIZE, simulation, tmp_path)
    (rings,) = thon_rings(hollow, sampled(hollow))
    assert list(of_ctf([rings.facts])) == []


def test_noise_has_no_rings(particles: Particles, tmp_path: Path) -> None:
    optics = particles.optics[0]
    flat = np.zeros((BOX,) * 3, dtype=np.float32)
    flat[BOX // 2, BOX // 2, BOX // 2] = 1.0
    noise = simulate(flat, PIXEL_SIZE, Simulation(N, (optics,), snr=1e-8, particle_diameter=80.0), tmp_path)
    assert facts(noise)["reliability"] < 0.5


def test_optics_groups_of_one_kind_are_averaged_together(particles: Particles) -> None:
    optics = particles.optics[0]
    two = replace(
        particles,
        optics=(optics, replace(optics, name="other")),
        optics_index=np.arange(N) % 2,
        optics_table=particles.optics_table,
    )
    (together,) = thon_rings(two, sampled(two))
    assert together.facts["images"] == N
    different = replace(two, optics=(optics, replace(optics, pixel_size=2.0)))
    assert [rings.facts["images"] for rings in thon_rings(different, sampled(different))] == [N // 2] * 2


def test_images_that_are_not_good_are_left_out(particles: Particles) -> None:
    good = np.arange(N) < 100
    (rings,) = thon_rings(particles, sampled(particles, good))
    assert rings.facts["images"] == 100


def test_images_of_one_defocus_tell_nothing_of_it(particles: Particles) -> None:
    one = np.full(N, 12000.0)
    assert not facts(replace(particles, defocus_u=one, defocus_v=one))["visible"]


@pytest.mark.parametrize("n", [20, 24, 40])
def test_few_images_do_not_accuse_a_right_ctf(particles: Particles, n: int) -> None:
    rng, accused, sample = np.random.default_rng(n), 0, sampled(particles)
    for _ in range(30):
        chosen = np.sort(rng.permutation(N)[:n])
        some = thon_rings(particles.select(chosen), sample.within(chosen))
        accused += bool(list(of_ctf([rings.facts for rings in some])))
    assert accused == 0
