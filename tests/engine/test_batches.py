"""Which images an iteration looks at, and how these are whitened."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryograd.config import Abinitio
from cryograd.data.ctfs import ctf_of
from cryograd.data.particles import Particles
from cryograd.engine import batches
from cryograd.engine.batches import Minibatch, drawn
from cryograd.engine.program import Step
from cryograd.engine.run import Run
from cryograd.engine.state import State
from cryograd.fourier import HalfDisc
from cryograd.images.store import MASK_EDGE
from cryograd.model.ctf import ctf_phase
from cryograd.model.noise import Noise
from cryograd.pose.posterior import Batch, Poses
from cryograd.recipe import abinitio, refine
from refinement import before, configuration, simulated

COUNT = 40


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated")).select(np.arange(COUNT))


def from_random(particles: Particles, **options: object) -> tuple[Run, State]:
    """A run from a random start before its first iteration, and its state."""
    moment = before(abinitio(particles, Abinitio(particles=particles.source, **options)))
    return moment.run, moment.state


def in_halves(particles: Particles, **options: object) -> tuple[Run, State]:
    """A refinement before its first iteration, and its state."""
    moment = before(refine(particles, configuration(particles.source.parent, **options)))
    return moment.run, moment.state


def successive(run: Run, state: State, number: int, step: Step, count: int) -> Iterator[np.ndarray]:
    """The images of so many iterations that do the same."""
    for place in range(count):
        indices, _ = drawn(run, state, number, replace(step, number=place))
        side = state.sides[number]
        state.sides[number] = replace(side, images_drawn=side.images_drawn + len(indices))
        yield indices


def test_every_epoch_is_a_new_shuffle_of_all_images(particles: Particles) -> None:
    run, state = from_random(particles, solver="preconditioned", held_out=4)
    parts = list(successive(run, state, 0, Step("march", 0, 5.0, images=9), 12))
    train = run.sides[0].train
    assert len(train) == 36
    epochs = [np.concatenate(parts[4 * k : 4 * k + 4]) for k in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == train.tolist()
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not np.array_equal(epochs[one], epochs[other])


def test_a_minibatch_across_two_epochs_has_the_rest_of_the_first(particles: Particles) -> None:
    run, state = from_random(particles, solver="preconditioned", held_out=0)
    first, second = successive(run, state, 0, Step("march", 0, 5.0, images=25), 2)
    assert len(first) == 25
    assert len(set(second)) == len(second) <= 25
    assert set(first) | set(second) == set(range(COUNT))


def test_what_is_drawn_is_a_function_of_the_seed_and_of_how_many_were_drawn(particles: Particles) -> None:
    run, state = from_random(particles, solver="preconditioned")
    step = Step("march", 0, 5.0, images=10)
    first, second = successive(run, state, 0, step, 2)
    state.sides[0] = replace(state.sides[0], images_drawn=10)
    assert np.array_equal(drawn(run, state, 0, step)[0], second)
    assert not np.array_equal(first, second)
    assert not np.array_equal(drawn(replace(run, seed=1), state, 0, step)[0], second)


def test_parts_of_the_last_pass_cover_every_particle_once(particles: Particles) -> None:
    run, state = from_random(particles, held_out=7)
    found = [drawn(run, state, 0, Step("poses", number, 5.0, chunks=6)) for number in range(6)]
    # Held-out images have poses, too.
    assert np.concatenate([indices for indices, _ in found]).tolist() == list(range(COUNT))
    assert [minibatch for _, minibatch in found] == [(number, 6) for number in range(6)]


def test_all_images_are_one_minibatch(particles: Particles) -> None:
    run, state = from_random(particles, solver="em", held_out=5)
    indices, minibatch = drawn(run, state, 0, Step("march", 3, 5.0))
    assert np.array_equal(indices, run.sides[0].train)
    assert len(indices) == COUNT - 5
    assert minibatch == (0, 1)


@pytest.mark.parametrize("solver", ["incremental", "sagd"])
def test_parts_come_in_order_once_and_then_in_turn_or_at_random(particles: Particles, solver: str) -> None:
    run, state = from_random(particles, solver=solver, minibatch=5, held_out=0)
    found = [drawn(run, state, 0, Step("march", number, 5.0)) for number in range(48)]
    assert [minibatch for _, minibatch in found[:8]] == [(number, 8) for number in range(8)]
    assert sorted(np.concatenate([indices for indices, _ in found[:8]])) == list(range(COUNT))
    for indices, (number, _) in found:
        assert np.array_equal(indices, run.sides[0].partition[number])
    later = [number for _, (number, _) in found[8:]]
    if solver == "incremental":
        assert later == 5 * list(range(8))
    else:
        assert later != 5 * list(range(8))
        assert set(later) == set(range(8))
        again = [drawn(run, state, 0, Step("march", number, 5.0))[1][0] for number in range(8, 48)]
        assert again == later
        other = replace(run, seed=1)
        assert [drawn(other, state, 0, Step("march", n, 5.0))[1][0] for n in range(8, 48)] != later


@pytest.mark.parametrize("solver", ["preconditioned", "sgd", "incremental"])
def test_a_pass_takes_every_image_of_half_sets_of_any_size_once(particles: Particles, solver: str) -> None:
    uneven = replace(particles, half_set=np.where(np.arange(COUNT) % 4 == 1, 2, 1))
    run, state = in_halves(uneven, solver=solver, minibatch=5, passes=1.0)
    steps = [step for step in run.program.steps if step.stage == "refine"]
    assert len(steps) == 2
    for number, size in ((0, 30), (1, 10)):
        parts = list(successive(run, state, number, steps[0], 2))
        assert [len(part) for part in parts] == [size // 2] * 2
        expected = np.flatnonzero(uneven.half_set == number + 1).tolist()
        assert sorted(np.concatenate(parts)) == run.sides[number].every.tolist() == expected


DISC = HalfDisc(9.0)


@pytest.fixture
def seen(particles: Particles) -> tuple[Run, State]:
    """A refinement, and a state in which some images were visited."""
    run, state = in_halves(particles, particle_diameter=80.0)
    rng, table = np.random.default_rng(0), state.table
    table.visited[::2] = True
    table.top_shifts[:] = rng.normal(scale=6.0, size=table.top_shifts.shape)
    table.defocus_change[:] = rng.normal(scale=400.0, size=COUNT)
    table.match[::2], table.energy[::2] = rng.uniform(8.0, 14.0, COUNT // 2), 10.0
    size = run.images.size
    for number, side in enumerate(state.sides):
        variance = torch.from_numpy(rng.uniform(0.5, 2.0, (1, size // 2 + 1))).float() * size**2
        state.sides[number] = replace(side, noise=Noise(variance))
    return run, state


def minibatch(run: Run, state: State, number: int = 0, masked: bool = True) -> Minibatch:
    """Eight images of a half-set."""
    return Minibatch(run, state, number, run.sides[number].every[2:10], DISC, masked)


def masks(run: Run, state: State, indices: np.ndarray) -> np.ndarray:
    """Soft circles around particles that were visited, (B, W, W), and ones for the others."""
    size, extent = run.images.size, run.images.extent
    pixel, particles = extent / size, run.images.particles
    y, x = np.mgrid[:size, :size] - float(size // 2)
    found = []
    for index in indices:
        spread = displaced(particles, int(index), 9.0 / extent, state.table.defocus_change[index])
        radius = (40.0 + max(10.0, 0.5 * spread)) / pixel
        # An origin offset moves the particle to the origin.
        cx, cy = -state.table.shifts[index] / pixel
        beyond = np.clip((np.hypot(x - cx, y - cy) - radius) / MASK_EDGE, 0.0, 1.0)
        mask = 0.5 + 0.5 * np.cos(np.pi * beyond)
        found.append(mask if state.table.visited[index] else np.ones((size, size)))
    return np.array(found)


def displaced(particles: Particles, index: int, frequency: float, change: float) -> float:
    """Å by which the CTF moves a wave packet of a frequency in 1/Å, by where its power is in real space."""
    n, step, optics = 8192, 0.5, particles.optics[0]
    k = np.fft.fftfreq(n, step)
    points = torch.from_numpy(np.stack([k, np.zeros(n)], axis=1))
    defocus = 0.5 * (particles.defocus_u + particles.defocus_v)[index] + change
    phase = ctf_phase(
        points,
        optics.wavelength,
        optics.spherical_aberration,
        *(torch.tensor([value]).double() for value in (defocus, defocus, 0.0)),
    )[0].numpy()
    packet = np.exp(-0.5 * ((k - frequency) / 0.004) ** 2 + 1j * phase)
    power = np.abs(np.fft.ifft(packet)) ** 2
    return abs(float((power * np.fft.fftfreq(n, 1.0 / (n * step))).sum() / power.sum()))


@pytest.mark.parametrize("number", [0, 1])
def test_whitened_images_are_those_of_a_computation_by_hand(seen: tuple[Run, State], number: int) -> None:
    run, state = seen
    batch = minibatch(run, state, number)
    found = batch.part(slice(0, 8))
    indices, size, extent = batch.indices, run.images.size, run.images.extent
    mask = masks(run, state, indices)
    pixels = run.images.pixels(indices).astype(np.float64) * mask
    y, x = np.mgrid[:size, :size] - float(size // 2)
    kx, ky = DISC.frequencies.T[:, :, None, None]
    waves = np.exp(-2j * np.pi / size * (kx * x + ky * y))
    coefficients = np.einsum("kyx,iyx->ik", waves, pixels)
    shells = np.round(np.sqrt((DISC.frequencies**2).sum(axis=1))).astype(int)
    sigma2 = state.sides[number].noise.variance[0].double().numpy()[shells]
    expected = coefficients / np.sqrt(sigma2)
    np.testing.assert_allclose(found.images.numpy(), expected, atol=2e-3 * np.abs(expected).max())
    assert found.area is not None
    np.testing.assert_allclose(found.area.numpy(), (mask**2).mean(axis=(1, 2)), rtol=1e-3)
    ctf = ctf_of(
        run.images.particles,
        indices,
        torch.from_numpy(DISC.frequencies / extent),
        state.table.defocus_change[indices],
    )
    scale = batch.scale.double().numpy()[:, None]
    np.testing.assert_allclose(found.ctf.numpy(), ctf.numpy() * scale / np.sqrt(sigma2), rtol=1e-4, atol=1e-6)
    norm = -(np.abs(found.images.numpy()) ** 2).sum(axis=1) - np.log(np.pi * sigma2).sum()
    np.testing.assert_allclose(found.log_norm.numpy(), norm, rtol=1e-5)
    assert len(np.unique(scale)) > 3


def test_masks_follow_the_centres_once_these_are_known(seen: tuple[Run, State]) -> None:
    run, state = seen
    batch = minibatch(run, state)
    visited = state.table.visited[batch.indices]
    assert 0 < visited.sum() < 8
    area = batch.part(slice(0, 8)).area
    assert area is not None
    assert (area.numpy()[~visited] == 1.0).all()
    assert (area.numpy()[visited] < 0.6).all()
    unmasked = minibatch(run, state, masked=False).part(slice(0, 8))
    assert unmasked.area is not None
    assert (unmasked.area == 1.0).all()


def test_masks_leave_half_the_room_that_defocus_spreads(particles: Particles) -> None:
    """And 10 Å at least: more for most of the images at 15 Å."""
    some = np.arange(COUNT)
    run, state = in_halves(particles, particle_diameter=60.0)
    frequency, state.table.visited[:] = 12.8 / run.images.extent, True
    spread = np.array([0.5 * displaced(particles, i, frequency, 0.0) for i in some])
    assert 6.0 < spread.min() < 10.0 < spread.max() < 20.0
    area = Minibatch(run, state, 0, some, HalfDisc(12.8)).loaded(slice(None)).area.numpy()
    pixel = run.images.extent / run.images.size
    y, x = np.mgrid[: run.images.size, : run.images.size] - float(run.images.size // 2)

    def inside(margin: float) -> float:
        beyond = np.clip((np.hypot(x, y) - (30.0 + margin) / pixel) / MASK_EDGE, 0.0, 1.0)
        return float(np.mean((0.5 + 0.5 * np.cos(np.pi * beyond)) ** 2))

    for i in some:
        assert inside(max(10.0, spread[i]) - 0.1) <= area[i] <= inside(max(10.0, spread[i]) + 0.1)


def equal(one: Batch, other: Batch) -> bool:
    """Whether two batches are the same in all bytes."""
    names = ("images", "ctf", "log_norm", "counts", "area")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_images_at_hand_are_those_that_are_read_in_parts(
    seen: tuple[Run, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = minibatch(*seen)
    held = batch.at_hand()
    assert isinstance(held, Batch)
    for part in (slice(0, 3), slice(3, 8), slice(0, 8)):
        assert equal(held.part(part), batch.part(part))
    monkeypatch.setattr(batches, "_HELD_BYTES", 12 * len(DISC) * 8 - 1)
    assert batch.at_hand() is batch


def test_some_images_that_count_in_part_are_the_same_at_hand_and_read(seen: tuple[Run, State]) -> None:
    batch, weights = minibatch(*seen), torch.linspace(0.0, 1.4, 8)
    which = torch.tensor([True, False, True, True, False, False, True, True])
    read, held = batch.counted(weights, which), batch.at_hand().counted(weights, which)
    assert len(read) == len(held) == 5
    assert torch.equal(read.counts, weights[which])
    for part in (slice(0, 5), slice(1, 3)):
        assert equal(read.part(part), held.part(part))


def test_scales_of_one_half_set_do_not_depend_on_the_images_of_the_other(seen: tuple[Run, State]) -> None:
    run, state = seen
    first = minibatch(run, state, 0).scale.clone()
    second = minibatch(run, state, 1).scale.clone()
    mine = run.sides[1].every
    state.table.match[mine] *= np.linspace(0.3, 3.0, len(mine))
    assert torch.equal(minibatch(run, state, 0).scale, first)
    assert not torch.equal(minibatch(run, state, 1).scale, second)


def test_what_is_kept_of_a_match_is_that_of_a_ctf_without_scale(seen: tuple[Run, State]) -> None:
    """With the scale it would be found again and again, and grow."""
    batch = minibatch(*seen)
    scale, ones = batch.scale, torch.ones(8)
    nothing = [torch.zeros(8, 1, 3, 3), torch.zeros(8, 1, 2), torch.zeros(8, 1), *[ones] * 3]
    found = batch.at_scale_one(Poses(*nothing, match=3.0 * scale, energy=2.0 * scale.square(), spread=ones))
    torch.testing.assert_close(found.match, 3.0 * ones)
    torch.testing.assert_close(found.energy, 2.0 * ones)
