"""Refinement of two halves from a low-pass filtered map, scored against the truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryograd.cli.molecule import SYMMETRY, molecule
from cryograd.data.cache import MASK_EDGE
from cryograd.data.mrc import write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.simulate import Simulation, simulate
from cryograd.fourier import HalfDisc, lowpass_volume, quick_size
from cryograd.half_sets import half_sets
from cryograd.halves import MARGIN, Halves, prepare
from cryograd.minibatch import whitened
from cryograd.model.symmetry import group_matrices
from cryograd.refine import noise_of_mean, refine
from cryograd.state import full_volume
from cryograd.validation.fsc import fsc, resolution_at
from cryograd.validation.half_maps import examine_half_maps
from cryograd.validation.standard_error import standard_error
from refinement import BOX, PIXEL, N, configuration, run, simulated
from stacks import write_stack


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def folder(particles: Particles) -> Path:
    return particles.source.parent


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spectrum opens slowly enough for maps to begin in a smaller box."""
    monkeypatch.setattr("cryograd.halves.MARGIN", 2.0)


def resolution(halves: Halves) -> float:
    _, values = fsc(halves.volume.numpy(), molecule(BOX, PIXEL))
    found = resolution_at(values, 0.5, BOX, PIXEL)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "proposal", "passes"),
    [
        ("incremental", "importance", 2.0),
        ("preconditioned", "search", 3.0),
        ("em", "search", 3.0),
    ],
)
def test_reaches_high_resolution_from_a_blurred_map(
    particles: Particles, folder: Path, solver: str, proposal: str, passes: float
) -> None:
    states = run(particles, configuration(folder, solver=solver, proposal=proposal, passes=passes))
    final = states[-1]
    assert resolution(final) < 17.0
    # The halves do not claim what the map does not have.
    half_map = resolution_at(final.correlation, 0.143, BOX, PIXEL)
    assert half_map is not None
    assert half_map > 0.85 * resolution(final)
    radii = [row["radius"] for row in final.history]
    assert radii == sorted(radii)
    assert final.history[-1]["images_drawn"] == pytest.approx((passes + 1.0) * N, rel=0.02)


def test_a_half_does_not_see_the_images_of_the_other(
    particles: Particles, folder: Path, growing: None
) -> None:
    """With the correlations of another run a half repeats it to the byte, whatever the other half is."""
    config = configuration(folder, passes=0.75)
    _, second = half_sets(particles, config.seed)
    images = np.asarray(particles.images(np.arange(N)), dtype=np.float32).copy()
    images[second] = np.random.default_rng(0).normal(size=images[second].shape)
    write_stack(folder / "other.mrcs", images, PIXEL)
    other = replace(particles, stacks=(folder / "other.mrcs",))
    before = run(particles, config)
    shared = [row["correlation"] for row in before[-1].history]
    after = list(refine(other, config, shared=shared))
    assert torch.equal(before[-1].states[0].volume, after[-1].states[0].volume)
    assert not torch.allclose(before[-1].states[1].volume, after[-1].states[1].volume, rtol=0.1)
    # The noise changes what the half maps share.
    alone = run(other, config)
    assert not torch.equal(before[-1].states[0].volume, alone[-1].states[0].volume)


def test_noise_stays_at_the_resolution_of_the_start(particles: Particles, folder: Path) -> None:
    """Images without a particle agree with the start alone, through the constraint and the masks too."""
    images = np.random.default_rng(1).normal(size=(N, BOX, BOX)).astype(np.float32)
    write_stack(folder / "noise.mrcs", images, PIXEL)
    noise = replace(particles, stacks=(folder / "noise.mrcs",))
    halves = run(noise, configuration(folder, passes=2.0))[-1]
    first, second = (full_volume(state, noise, state.candidates[0].unfiltered)[0] for state in halves.states)
    everywhere = np.ones_like(first)
    found = examine_half_maps(
        first, second, PIXEL, everywhere, None, halves.posterior.rotations, SYMMETRY, 0
    ).correlation.resolution()
    assert found is None or found > 0.95 * 40.0
    assert halves.resolution > 0.95 * 40.0


@pytest.mark.parametrize("ctf", [False, True])
def test_a_refinement_goes_on_from_any_state(
    particles: Particles, folder: Path, growing: None, ctf: bool
) -> None:
    config = configuration(folder, passes=0.5, proposal="importance", refine_ctf=ctf)
    whole = run(particles, config)
    assert len(whole[1].volume) < len(whole[-1].volume)
    for stop in (1, len(whole) - 2):
        saved = Halves.from_state_dict(whole[stop].state_dict())
        rest = list(refine(particles, config, resume=saved))
        assert len(rest) == len(whole) - stop - 1
        assert torch.equal(rest[-1].volume, whole[-1].volume)
        for name in ("rotations", "defocus_change"):
            assert np.array_equal(getattr(rest[-1].posterior, name), getattr(whole[-1].posterior, name))


def test_a_refinement_ends_with_a_pose_of_every_particle(particles: Particles, folder: Path) -> None:
    *_, final = run(particles, configuration(folder, passes=0.5, top_poses=3))
    assert final.stage == "poses"
    first, second = half_sets(particles, 0)
    assert np.array_equal(np.flatnonzero(final.members == 1), first)
    assert np.array_equal(np.flatnonzero(final.members == 2), second)
    table = final.posterior
    assert table.visited[first].all()
    assert table.top_rotations.shape == (N, 3, 3, 3)
    assert (np.diff(table.top_probabilities, axis=1) <= 0.0).all()
    for state in final.states:
        unfiltered = state.candidates[0].unfiltered
        assert unfiltered is not None
        assert float(unfiltered.min()) < 0.0 <= float(state.volume.min())
        assert float(fsc(unfiltered.numpy(), state.volume.numpy())[1][2:8].min()) > 0.9
    assert (table.effective_size >= 1.0 - 1e-6).all()
    assert np.array_equal(table.rotations[second], final.states[1].posterior.rotations[second])


@pytest.mark.slow
def test_standard_errors_are_those_of_repeats(folder: Path) -> None:
    """Means of half maps of other views and noise differ as each run says, in the molecule and around it."""
    group, angstrom = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX), 18.0
    means, errors = [], []
    for seed in range(6):
        images = folder / f"repeat{seed}"
        given = simulate(molecule(BOX, PIXEL), PIXEL, Simulation(160, (group,), snr=0.3, seed=seed), images)
        config = configuration(folder, particles=images / "particles.star", passes=2.0)
        *_, final = refine(given, config)
        first, second = (full_volume(s, given, s.candidates[0].unfiltered)[0] for s in final.states)
        means.append(lowpass_volume(torch.from_numpy(0.5 * (first + second)), BOX * PIXEL / angstrom).numpy())
        variance, extent = noise_of_mean(final), BOX * PIXEL
        errors.append(standard_error(first, second, PIXEL, angstrom, variance, extent, SYMMETRY).values)
    # Deviations from a mean that they are part of are too small. Their own standard error is about 5 %.
    deviation = (means - np.mean(means, axis=0)) * np.sqrt(6 / 5) / np.array(errors)
    density = molecule(BOX, PIXEL)
    for region in (density > 0.2 * density.max(), density < 0.01 * density.max()):
        assert np.sqrt((deviation[:, region] ** 2).mean()) == pytest.approx(1.0, abs=0.15)
        assert np.mean(np.abs(deviation[:, region]) < 1.96) == pytest.approx(0.95, abs=0.05)


def errors(rotations: np.ndarray, found: np.ndarray, symmetry: str = SYMMETRY) -> np.ndarray:
    """Angles in degrees from rotations (n, 3, 3) to the nearest equivalents of others."""
    traces = np.einsum("nij,nik,gjk->gn", rotations, found, group_matrices(symmetry))
    return np.rad2deg(np.arccos(np.clip((traces.max(axis=0) - 1.0) / 2.0, -1.0, 1.0)))


def test_local_refinement_stays_at_the_poses_of_the_file(particles: Particles, folder: Path) -> None:
    """Wrong poses far from the true ones remain where they are; good ones get better."""
    assert particles.rotations is not None
    turn = Rotation.from_rotvec([[1.2, 0.0, 0.0]]).as_matrix()[0]
    rotations = particles.rotations.copy()
    rotations[::4] = turn @ rotations[::4]
    given = replace(particles, rotations=rotations)
    *_, final = run(given, configuration(folder, passes=1.0, local=True, start_resolution=30.0))
    assert errors(rotations, final.posterior.rotations).max() < 45.0
    good = np.arange(N) % 4 > 0
    assert np.median(errors(particles.rotations, final.posterior.rotations)[good]) < 4.0


def test_relaxed_symmetry_finds_the_equivalent_that_is_right(particles: Particles, folder: Path) -> None:
    """Poses that are any of four under D2 are told apart by a map without symmetry."""
    z, y, x = np.meshgrid(*[np.linspace(-1.0, 1.0, BOX, dtype=np.float32)] * 3, indexing="ij")
    lopsided = (molecule(BOX, PIXEL) * (1.0 + 0.6 * x + 0.8 * y + 0.7 * z)).astype(np.float32)
    group = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    images = simulate(lopsided, PIXEL, Simulation(N, (group,), snr=0.3, seed=7), folder / "lopsided")
    assert images.rotations is not None
    write_map(folder / "lopsided.mrc", lopsided, PIXEL)
    elements = group_matrices("D2")
    drawn = np.random.default_rng(0).integers(4, size=N)
    given = replace(images, rotations=images.rotations @ elements[drawn])
    options = {"passes": 1.0, "symmetry": "C1", "relax_symmetry": "D2", "volume": folder / "lopsided.mrc"}
    *_, final = run(given, configuration(folder, **options))
    assert np.mean(errors(images.rotations, final.posterior.rotations, "C1") < 15.0) > 0.8


def test_the_defocus_of_particles_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the particles are wrong by 500 Å, which 10 Å hardly show: a standard error of 160 Å."""
    box, pixel, n = 48, 3.0, 120
    truth, group = molecule(box, pixel), Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, pixel, box)
    images = simulate(truth, pixel, Simulation(n, (group,), snr=5.0, seed=8), folder / "defocus")
    write_map(folder / "fine.mrc", truth, pixel)
    wrong = np.arange(n) % 2 == 0
    false = images.with_ctf(images.defocus_u + 500.0 * wrong, images.defocus_v + 500.0 * wrong, images.scale)
    options = {"volume": folder / "fine.mrc", "refine_ctf": True, "start_resolution": 20.0, "passes": 1.0}
    monkeypatch.setattr("cryograd.halves.CHUNK", 30 / box)
    *_, final = run(false, configuration(folder, **options, minibatch=15))
    stages = [*["refine"] * 4, *["ctf"] * 2, *["refine"] * 4, *["ctf"] * 2, *["poses"] * 2]
    assert [row["stage"] for row in final.history] == stages
    change = final.posterior.defocus_change
    # The median is +50 Å, with a standard error of 18 Å by the particles' scatter. It is +39 Å where none is
    # wrong: the wrong ones draw the others along by 11 Å only.
    assert abs(np.median(change[~wrong])) < 80.0
    # The first map is made with the wrong values: found from it alone, they are less than 200 Å better.
    assert np.median(change[wrong]) < -210.0
    assert np.mean(change[wrong] < 0.0) > 0.85


def test_masks_of_images_leave_room_for_what_defocus_spreads(particles: Particles, folder: Path) -> None:
    """Half of λ Δf k around the particle, which is more than 10 Å for most of the images at 12.8 Å."""
    (setup, _), _, halves = prepare(particles, configuration(folder, particle_diameter=60.0))
    state = halves.states[0]
    seen = replace(state.posterior, visited=np.ones(N, dtype=bool))
    defocus = 0.5 * (particles.defocus_u + particles.defocus_v)[setup.train]
    half = 0.5 * (0.0197 * defocus / 12.8 - 2.7e7 * (0.0197 / 12.8) ** 3)
    assert 6.0 < half.min() < 10.0 < half.max() < 20.0
    every, pixel = setup.train, setup.images.extent / setup.images.size
    for posterior, margin in ((seen, np.maximum(half, 10.0)), (state.posterior, np.full(len(every), np.inf))):
        _, loaded = whitened(setup, replace(state, posterior=posterior), every, HalfDisc(192.0 / 12.8))
        y, x = np.mgrid[: setup.images.size, : setup.images.size] - float(setup.images.size // 2)
        distance = np.hypot(x, y) - (30.0 + margin[:, None, None]) / pixel
        mask = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / MASK_EDGE, 0.0, 1.0))
        np.testing.assert_allclose(loaded.area, np.square(mask).mean(axis=(1, 2)), rtol=1e-3)


def test_the_spectrum_opens_by_what_the_halves_agree_on(particles: Particles, folder: Path) -> None:
    states = run(particles, configuration(folder, passes=0.5))
    start = BOX * PIXEL / 40.0
    assert states[0].history[0]["radius"] == pytest.approx(min(start + MARGIN, BOX / 2 - 1.0))
    for halves in states:
        radius = halves.states[0].radius
        assert (halves.correlation[np.arange(len(halves.correlation)) > radius] == 0.0).all()
        assert halves.correlation[halves.resolved] >= 0.143


@pytest.mark.parametrize("solver", ["incremental", "preconditioned"])
def test_the_box_grows_with_the_radius_and_changes_little(
    particles: Particles, folder: Path, monkeypatch: pytest.MonkeyPatch, growing: None, solver: str
) -> None:
    some = particles.select(np.arange(80))
    config = configuration(folder, solver=solver, minibatch=10, passes=1.0)
    cropped = run(some, config)
    monkeypatch.setattr("cryograd.refine.quick_size", lambda radius, largest: largest)
    whole = run(some, config)
    boxes = [len(halves.states[0].mask) for halves in cropped]
    assert boxes[0] == 18
    assert boxes == [quick_size(halves.states[0].radius, BOX) for halves in cropped]
    assert boxes[-1] == BOX
    for halves in cropped:
        assert halves.volume.shape == halves.states[1].mask.shape
        assert len(halves.correlation) == BOX // 2 + 1
        assert 0.0 <= float(halves.states[0].mask.min()) <= float(halves.states[0].mask.max()) <= 1.0
    # The last pass adds up; its end has the map.
    pairs = [pair for pair in zip(cropped, whole, strict=True) if pair[0].stage == "refine"]
    for a, b in [*pairs, (cropped[-1], whole[-1])]:
        assert np.allclose(a.history[-1]["noise"], b.history[-1]["noise"], rtol=0.05)
        density, expected = (full_volume(halves.states[0], some)[0] for halves in (a, b))
        well = slice(1, int(0.8 * a.states[0].radius))
        assert fsc(density, expected)[1][well].min() > 0.95
        assert np.abs(density).sum() == pytest.approx(np.abs(expected).sum(), rel=0.02)
