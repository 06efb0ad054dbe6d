"""The two half-sets, and what a refinement in them derives from its input before the first iteration."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryograd.cli.molecule import molecule
from cryograd.data.mrc import write_map
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.half_sets import half_sets
from cryograd.halves import Plan, prepare
from cryograd.steps.quadratic import quadratic_bytes
from refinement import BOX, PIXEL, N, configuration, simulated


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def folder(particles: Particles) -> Path:
    return particles.source.parent


def test_half_sets_of_the_file_are_kept(particles: Particles) -> None:
    named = replace(particles, half_set=np.where(np.arange(N) < 100, 2, 1))
    first, second = half_sets(named, 0)
    assert second.tolist() == list(range(100))
    assert len(first) == N - 100
    drawn = half_sets(replace(particles, half_set=None), 0)
    assert sorted(np.concatenate(drawn)) == list(range(N))
    assert abs(len(drawn[0]) - len(drawn[1])) <= 1


@pytest.mark.parametrize("half", [np.ones(N, dtype=int), np.arange(N) % 3])
def test_half_sets_that_are_none_are_refused(particles: Particles, half: np.ndarray) -> None:
    with pytest.raises(CryogradError, match="half-sets"):
        half_sets(replace(particles, half_set=half), 0)


def test_copies_of_an_image_are_in_one_half_set(particles: Particles) -> None:
    """As symmetry expansion makes them."""
    copies = replace(particles.select(np.arange(3 * N) % N), half_set=None)
    first, second = half_sets(copies, 0)
    assert not set(first % N) & set(second % N)
    assert len(first) == len(second)
    single = half_sets(replace(particles, half_set=None), 0)
    assert np.array_equal(first[first < N], single[0])
    apart = replace(copies, half_set=1 + np.arange(3 * N) // N % 2)
    with pytest.raises(CryogradError, match="images are in both half-sets"):
        half_sets(apart, 0)


@pytest.mark.parametrize("number", [1, 19])
def test_too_few_particles_for_two_half_sets_are_refused(particles: Particles, number: int) -> None:
    some = particles.select(np.arange(number))
    with pytest.raises(CryogradError, match="too few particles for two half-sets") as error:
        half_sets(replace(some, half_set=None), 0)
    assert error.value.remedy == "give 20 particles or more"


def test_a_half_set_that_is_too_small_is_refused(particles: Particles) -> None:
    for number, refused in ((9, True), (10, False)):
        uneven = replace(particles, half_set=np.where(np.arange(N) < number, 1, 2))
        with pytest.raises(CryogradError, match="rlnRandomSubset") if refused else nullcontext():
            half_sets(uneven, 0)


def test_known_poses_are_asked_for(particles: Particles, folder: Path) -> None:
    bare = replace(particles, rotations=None, shifts=None)
    for option in ({"use_poses": True}, {"local": True}, {"relax_symmetry": "D2"}):
        with pytest.raises(CryogradError, match="no poses"):
            prepare(bare, configuration(folder, **option))


def test_poses_beyond_the_shifts_that_are_looked_at_are_refused(particles: Particles, folder: Path) -> None:
    assert particles.shifts is not None
    far = replace(particles, shifts=np.where(np.arange(N)[:, None] == 3, [0.0, 14.5], particles.shifts))
    with pytest.raises(CryogradError, match=r"1 particles are up to 14\.5 Å off") as error:
        prepare(far, configuration(folder, local=True))
    assert "--max-shift 15" in error.value.remedy
    prepare(far, configuration(folder, local=True, max_shift=15.0))
    # A search finds them elsewhere.
    prepare(far, configuration(folder, use_poses=True))


def test_the_scale_of_the_given_map_does_not_matter(particles: Particles, folder: Path) -> None:
    write_map(folder / "large.mrc", 1000.0 * molecule(BOX, PIXEL), PIXEL)
    starts = [
        prepare(particles, configuration(folder, volume=folder / name))[2].volume
        for name in ("start.mrc", "large.mrc")
    ]
    assert float((starts[0] - starts[1]).norm() / starts[0].norm()) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_resolution": 11.0}, "Nyquist"),
        ({"start_resolution": 20.0, "max_resolution": 60.0}, "start resolution"),
        ({"start_resolution": 12.0}, "start resolution"),
        ({"max_resolution": 500.0}, "start resolution"),
    ],
)
def test_resolutions_that_do_not_fit_are_refused(
    particles: Particles, folder: Path, options: dict[str, float], message: str
) -> None:
    with pytest.raises(CryogradError, match=message):
        prepare(particles, configuration(folder, **options))


def test_maps_that_are_empty_or_of_another_box_are_refused(particles: Particles, folder: Path) -> None:
    write_map(folder / "empty.mrc", np.zeros((BOX, BOX, BOX), dtype=np.float32), PIXEL)
    with pytest.raises(CryogradError, match="empty"):
        prepare(particles, configuration(folder, volume=folder / "empty.mrc"))
    write_map(folder / "small.mrc", molecule(16, PIXEL), PIXEL)
    with pytest.raises(CryogradError, match="the map's box is 96"):
        prepare(particles, configuration(folder, volume=folder / "small.mrc"))


def test_halves_of_any_sizes_take_as_many_minibatches(particles: Particles, folder: Path) -> None:
    uneven = replace(particles, half_set=np.where(np.arange(N) < 70, 2, 1))
    for solver in ("incremental", "preconditioned"):
        setups, plan, _ = prepare(uneven, configuration(folder, solver=solver, minibatch=20))
        assert plan.minibatches == 4
        for setup in setups:
            assert len(setup.partition) == 4
            assert sorted(np.concatenate(setup.partition)) == setup.train.tolist()


def test_minibatches_grow_where_their_quadratics_took_too_much_memory(
    particles: Particles, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    radius = BOX / 2 - 1.0
    room = quadratic_bytes(BOX, radius) + 3.5 * quadratic_bytes(BOX, radius, weight=2)
    monkeypatch.setattr("cryograd.halves.MEMORY_BYTES", 2 * int(room))
    _, plan, _ = prepare(particles, configuration(folder, minibatch=10))
    assert plan.minibatches == 3
    assert plan.stages.count("refine") == 10


@pytest.mark.parametrize(("passes", "first"), [(0.5, 2), (1.0, 4), (1.5, 4), (2.0, 4), (3.0, 8)])
def test_a_whole_pass_is_made_with_the_ctfs_that_were_found(passes: float, first: int) -> None:
    plan = Plan(passes, 4, 3, True, 4.0, 15.0, False)
    names = ["refine", "ctf", "refine", "ctf", "poses"]
    lengths = [first, 3, 4, 3, 3]
    assert list(plan.stages) == np.repeat(names, lengths).tolist()
    plain = Plan(passes, 4, 3, False, 4.0, 15.0, False)
    assert list(plain.stages) == ["refine"] * round(4 * passes) + ["poses"] * 3


def test_a_step_falls_in_the_last_pass_alone() -> None:
    plan = Plan(2.0, 5, 3, False, 4.0, 15.0, True)
    assert Plan(2.0, 5, 3, True, 4.0, 15.0, True).rate(9) == plan.rate(9)
    assert [plan.rate(i) for i in range(6)] == [1.0] * 6
    assert plan.rate(9) == pytest.approx(1.0 / 2.2)
    assert Plan(0.5, 10, 3, False, 4.0, 15.0, True).rate(0) == 1.0
    assert Plan(2.0, 5, 3, False, 4.0, 15.0, False).rate(9) == 1.0
