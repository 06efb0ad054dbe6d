"""Refinement of two halves from a low-pass filtered map, scored against the truth."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryograd.config import Refine
from cryograd.data.mrc import write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.engine.curves import noise_of_mean, reached
from cryograd.engine.frame import taken_out
from cryograd.engine.half_sets import half_sets
from cryograd.engine.state import State
from cryograd.fourier import lowpass_volume, quick_size, resize_transform
from cryograd.model.symmetry import group_matrices
from cryograd.recipe import Moment, refine
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate
from cryograd.validation.fsc import fsc, resolution_at
from cryograd.validation.half_maps import examine_half_maps
from cryograd.validation.standard_error import standard_error
from refinement import BOX, PIXEL, N, configuration, differences, last, refined, saving, simulated
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
    monkeypatch.setattr("cryograd.engine.program.MARGIN", 2.0)


def resolution(state: State) -> float:
    _, values = fsc(state.volume.numpy(), molecule(BOX, PIXEL))
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
    moment = refined(particles, configuration(folder, solver=solver, proposal=proposal, passes=passes))
    final = moment.state
    assert final.curves is not None
    assert resolution(final) < 17.0
    # The halves do not claim what the map does not have.
    half_map = resolution_at(final.curves[0], 0.143, BOX, PIXEL)
    assert half_map is not None
    assert half_map > 0.85 * resolution(final)
    radii = [row["radius"] for row in final.history]
    assert radii == sorted(radii)
    assert final.history[-1]["images_drawn"] == pytest.approx((passes + 1.0) * N, rel=0.02)


def test_a_half_does_not_see_the_images_of_the_other(
    particles: Particles, folder: Path, growing: None
) -> None:
    """With the correlations of another run a half repeats it to the byte, whatever the other half is."""
    config, some = configuration(folder, passes=0.75, minibatch=15), particles.select(np.arange(N // 2))
    _, second = half_sets(some, config.seed)
    images = np.asarray(some.images(np.arange(N // 2)), dtype=np.float32).copy()
    images[second] = np.random.default_rng(0).normal(size=images[second].shape)
    write_stack(folder / "other.mrcs", images, PIXEL)
    other = replace(some, stacks=(folder / "other.mrcs",))
    before = refined(some, config).state
    shared = [row["correlation"] for row in before.history]
    after = last(refine(other, config, replayed=shared)).state
    assert torch.equal(before.sides[0].best.unfiltered, after.sides[0].best.unfiltered)
    first = before.table.half == 1
    assert np.array_equal(before.table.rotations[first], after.table.rotations[first])
    assert np.array_equal(before.table.log_evidence[first], after.table.log_evidence[first])
    assert not torch.allclose(before.sides[1].best.unfiltered, after.sides[1].best.unfiltered, rtol=0.1)
    # The noise changes what the half maps share.
    alone = refined(other, config).state
    assert not torch.equal(before.sides[0].best.unfiltered, alone.sides[0].best.unfiltered)


def unfiltered_maps(moment: Moment, particles: Particles) -> list[np.ndarray]:
    """The unfiltered half maps at the sampling of the particles."""
    state = moment.state
    tracks = [side.best for side in state.sides]
    return [taken_out(state, particles, track.symmetry, track.shown).values for track in tracks]


@pytest.mark.slow
def test_noise_stays_at_the_resolution_of_the_start(particles: Particles, folder: Path) -> None:
    """Images without a particle agree with the start alone, through the constraint and the masks too.

    A shell of so small a box is beyond two standard deviations by chance now and then: of three sets of noise
    the one in the middle is looked at.
    """
    claims = []
    for seed in (1, 2, 3):
        images = np.random.default_rng(seed).normal(size=(N // 2, BOX, BOX)).astype(np.float32)
        write_stack(folder / "noise.mrcs", images, PIXEL)
        noise = replace(particles.select(np.arange(N // 2)), stacks=(folder / "noise.mrcs",))
        moment = refined(noise, configuration(folder, passes=1.0, minibatch=15))
        first, second = unfiltered_maps(moment, noise)
        rotations, everywhere = moment.state.table.rotations, np.ones_like(first)
        found = examine_half_maps(first, second, PIXEL, everywhere, None, rotations, SYMMETRY, 0)
        claims.append(found.correlation.resolution() or np.inf)
        assert moment.state.resolution > 0.95 * 40.0
    assert np.median(claims) > 0.95 * 40.0


@pytest.mark.parametrize("ctf", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_refinement_goes_on_from_any_state(
    particles: Particles, folder: Path, growing: None, ctf: bool
) -> None:
    config = configuration(folder, passes=0.5, minibatch=10, proposal="importance", refine_ctf=ctf)
    some = particles.select(np.arange(80))
    boxes, saved = [], {}
    for whole in saving(refine(some, config), saved, *range(1, 30)):
        boxes.append(len(whole.state.volume))
    assert boxes[1] < boxes[-1]
    for stop in (2, len(boxes) - 1, len(boxes)):
        rest = list(refine(some, config, resume=saved[stop]))
        # Of a run that is done there is its end to look at.
        assert len(rest) == max(1, len(boxes) - stop)
        assert differences(rest[-1], whole) == []


def test_a_refinement_ends_with_a_pose_of_every_particle(particles: Particles, folder: Path) -> None:
    final = refined(particles, configuration(folder, passes=0.5, top_poses=3)).state
    assert final.stage == "poses"
    first, second = half_sets(particles, 0)
    table = final.table
    assert np.array_equal(np.flatnonzero(table.half == 1), first)
    assert np.array_equal(np.flatnonzero(table.half == 2), second)
    assert table.visited.all()
    assert table.top_rotations.shape == (N, 3, 3, 3)
    assert (np.diff(table.top_probabilities, axis=1) <= 0.0).all()
    assert (table.top_probabilities[:, 0] > 0.0).all()
    assert (table.effective_size >= 1.0 - 1e-6).all()
    for side in final.sides:
        unfiltered = side.best.unfiltered
        assert unfiltered is not None
        assert float(unfiltered.min()) < 0.0 <= float(side.best.volume.min())
        assert float(fsc(unfiltered.numpy(), side.best.volume.numpy())[1][2:8].min()) > 0.9


@pytest.mark.slow
def test_standard_errors_are_those_of_repeats(folder: Path) -> None:
    """Means of half maps of other views and noise differ as each run says, in the molecule and around it."""
    group, angstrom = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX), 18.0
    means, errors = [], []
    for seed in range(6):
        images = folder / f"repeat{seed}"
        given = simulate(molecule(BOX, PIXEL), PIXEL, Simulation(160, (group,), snr=0.3, seed=seed), images)
        config = configuration(folder, particles=images / "particles.star", passes=2.0, max_resolution=15.0)
        moment = refined(given, config)
        first, second = unfiltered_maps(moment, given)
        means.append(lowpass_volume(torch.from_numpy(0.5 * (first + second)), BOX * PIXEL / angstrom).numpy())
        variance, extent = noise_of_mean(moment.run, moment.state, 0), BOX * PIXEL
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
    found = refined(
        given, configuration(folder, passes=1.0, local=True, start_resolution=30.0)
    ).state.table.rotations
    assert errors(rotations, found).max() < 45.0
    good = np.arange(N) % 4 > 0
    assert np.median(errors(particles.rotations, found)[good]) < 4.0


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
    options = {"passes": 1.0, "symmetry": "C1", "relax_symmetry": "D2", "volume": (folder / "lopsided.mrc",)}
    options["max_resolution"] = 16.0
    found = refined(given, configuration(folder, **options)).state.table.rotations
    assert np.mean(errors(images.rotations, found, "C1") < 15.0) > 0.8


def test_the_defocus_of_particles_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the particles are wrong by 500 Å, which 10 Å hardly show: a standard error of 160 Å."""
    box, pixel, n = 48, 3.0, 120
    truth, group = molecule(box, pixel), Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, pixel, box)
    images = simulate(truth, pixel, Simulation(n, (group,), snr=5.0, seed=8), folder / "defocus")
    write_map(folder / "fine.mrc", truth, pixel)
    wrong = np.arange(n) % 2 == 0
    false = images.with_ctf(images.defocus_u + 500.0 * wrong, images.defocus_v + 500.0 * wrong, images.scale)
    options = {"volume": (folder / "fine.mrc",), "refine_ctf": True, "start_resolution": 20.0, "passes": 1.0}
    monkeypatch.setattr("cryograd.engine.setup.CHUNK", 30 / box)
    final = refined(false, configuration(folder, **options, minibatch=15)).state
    stages = [*["refine"] * 4, *["ctf"] * 2, *["refine"] * 4, *["ctf"] * 2, *["poses"] * 2]
    assert [row["stage"] for row in final.history] == stages
    change = final.table.defocus_change
    # The median is +50 Å, with a standard error of 18 Å by the particles' scatter. It is +39 Å where none is
    # wrong: the wrong ones draw the others along by 11 Å only.
    assert abs(np.median(change[~wrong])) < 80.0
    # The first map is made with the wrong values: found from it alone, they are less than 200 Å better.
    assert np.median(change[wrong]) < -210.0
    assert np.mean(change[wrong] < 0.0) > 0.85


def test_defocus_is_looked_for_at_any_resolution(particles: Particles, folder: Path) -> None:
    """Little is said of it at 27 Å, and what is found stays near the file's."""
    some = particles.select(np.arange(40))
    config = configuration(folder, passes=1.0, refine_ctf=True, max_resolution=27.0)
    change = refined(some, config).state.table.defocus_change
    assert (change != 0.0).all()
    assert np.abs(change).max() < 600.0


def test_the_spectrum_opens_by_what_the_halves_agree_on(
    particles: Particles, folder: Path, growing: None
) -> None:
    """The halves are told of curves that are one up to a shell, and zero beyond."""
    told, shells = [0, 6, 9, 7, 3, 15, 15, 15], np.arange(BOX // 2 + 1)
    config = configuration(folder, passes=1.5)
    moments = refine(particles, config, replayed=[list(np.where(shells <= k, 1.0, 0.0)) for k in told])
    radii, sound = [], []
    for moment, _ in zip(moments, range(6), strict=False):
        assert moment.state.stage == "refine"
        radii.append(moment.state.radius)
        spectrum = np.abs(np.fft.fftn(resize_transform(moment.state.volume, BOX).numpy()))
        radius = np.sqrt(sum(k**2 for k in np.meshgrid(*[np.fft.fftfreq(BOX, 1 / BOX)] * 3)))
        sound.append(radius[spectrum > 1e-4 * spectrum.max()].max())
    # Two Fourier pixels or three tenths more than was resolved, and it does not close again. The start is at
    # 40 Å, or 4.8 Fourier pixels.
    assert radii == pytest.approx([6.8, 6.8, 8.0, 11.7, 11.7, 11.7])
    # Poses do not see what is not resolved, but for an edge of two Fourier pixels around the last such shell,
    # or below where the start was cut.
    expected = [max(k, 3.8) for k in (0, 0, 6, 9, 7, 3)]
    for found, last_shell in zip(sound, expected, strict=True):
        assert last_shell - 0.5 < found <= last_shell + 1.0


def test_the_correlation_ends_where_the_images_were_compared(
    particles: Particles, folder: Path, growing: None
) -> None:
    for moment in refine(particles, configuration(folder, passes=0.75)):
        state = moment.state
        assert state.curves is not None
        assert state.curves.shape == (1, BOX // 2 + 1)
        beyond = np.arange(BOX // 2 + 1) > state.radius
        assert (state.curves[0, beyond] == 0.0).all()
        # Of the molecule more than the start is found at once.
        assert (state.curves[0, 1:5] > 0.5).all()
        assert state.history[-1]["resolution"] == pytest.approx(BOX * PIXEL / reached(state))


def test_the_box_grows_with_the_radius_and_changes_little(
    particles: Particles, folder: Path, monkeypatch: pytest.MonkeyPatch, growing: None
) -> None:
    # So few images go different ways where the smallest differences decide; with this seed they do not.
    config = configuration(folder, solver="incremental", minibatch=30, passes=1.0, seed=1)
    cropped = list(seen(particles, config))
    monkeypatch.setattr("cryograd.engine.loop.quick_size", lambda radius, largest: largest)
    whole = list(seen(particles, config))
    boxes = [len(a.mask) for a in cropped]
    assert boxes[0] == 18
    assert boxes == [quick_size(a.radius, BOX) for a in cropped]
    assert boxes[-1] == BOX
    for a in cropped:
        assert a.curves is not None
        assert a.volume.shape == a.sides[1].best.volume.shape == a.mask.shape
        assert a.curves.shape == (1, BOX // 2 + 1)
        assert 0.0 <= float(a.mask.min()) <= float(a.mask.max()) <= 1.0
    # The last pass adds up; its end has the map.
    pairs = [pair for pair in zip(cropped, whole, strict=True) if pair[0].stage == "refine"]
    for a, b in [*pairs, (cropped[-1], whole[-1])]:
        assert np.allclose(a.history[-1]["noise"], b.history[-1]["noise"], rtol=0.08)
        tracks = [state.sides[0].best for state in (a, b)]
        density, expected = (
            taken_out(state, particles, track.symmetry, track.volume).values
            for state, track in zip((a, b), tracks, strict=True)
        )
        well = slice(1, int(0.8 * min(a.radius, reached(a))))
        assert fsc(density, expected)[1][well].min() > 0.95
        assert np.abs(density).sum() == pytest.approx(np.abs(expected).sum(), rel=0.04)


def seen(particles: Particles, config: Refine) -> Iterator[State]:
    """A copy of the state after every iteration."""
    for moment in refine(particles, config):
        yield State.from_state_dict(moment.state.state_dict())
