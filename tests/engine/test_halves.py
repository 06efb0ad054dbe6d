"""The two half-sets, and what a refinement in them derives from its input before the first iteration."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryograd.data.mrc import write_map
from cryograd.data.particles import Particles
from cryograd.engine.half_sets import half_sets
from cryograd.errors import CryogradError
from cryograd.maps import Map
from cryograd.recipe import refine
from cryograd.simulation.molecule import molecule
from cryograd.steps.quadratic import quadratic_bytes
from refinement import BOX, PIXEL, N, before, configuration, differences, simulated


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
    for option in ({"use_poses": True}, {"local": True}, {"relax_symmetry": "D2"}, {"fixed_poses": True}):
        with pytest.raises(CryogradError, match="no poses"):
            before(refine(bare, configuration(folder, **option)))


def test_poses_beyond_the_shifts_that_are_looked_at_are_refused(particles: Particles, folder: Path) -> None:
    assert particles.shifts is not None
    far = replace(particles, shifts=np.where(np.arange(N)[:, None] == 3, [0.0, 14.5], particles.shifts))
    with pytest.raises(CryogradError, match=r"1 particles are up to 14\.5 Å off") as error:
        before(refine(far, configuration(folder, local=True)))
    assert "--max-shift 15" in error.value.remedy
    before(refine(far, configuration(folder, local=True, max_shift=15.0)))
    # A search finds them elsewhere.
    before(refine(far, configuration(folder, use_poses=True)))


def test_the_scale_of_the_given_map_does_not_matter(particles: Particles, folder: Path) -> None:
    write_map(folder / "large.mrc", 1000.0 * molecule(BOX, PIXEL), PIXEL)
    starts = [
        before(refine(particles, configuration(folder, volume=(folder / name,)))).state.volume
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
        before(refine(particles, configuration(folder, **options)))


def test_maps_that_are_empty_or_of_another_box_are_refused(particles: Particles, folder: Path) -> None:
    write_map(folder / "empty.mrc", np.zeros((BOX, BOX, BOX), dtype=np.float32), PIXEL)
    with pytest.raises(CryogradError, match="empty"):
        before(refine(particles, configuration(folder, volume=(folder / "empty.mrc",))))
    write_map(folder / "small.mrc", molecule(16, PIXEL), PIXEL)
    with pytest.raises(CryogradError, match="the map's box is 96"):
        before(refine(particles, configuration(folder, volume=(folder / "small.mrc",))))


def test_halves_of_any_sizes_take_as_many_minibatches(particles: Particles, folder: Path) -> None:
    uneven = replace(particles, half_set=np.where(np.arange(N) < 70, 2, 1))
    for solver in ("incremental", "preconditioned"):
        run = before(refine(uneven, configuration(folder, solver=solver, minibatch=20))).run
        # Two passes in any case; of these the one whose steps fall may come later.
        assert sum(step.stage == "refine" and not step.spare for step in run.program.steps) == 2 * 4
        for number, members in enumerate(run.sides):
            assert len(members.partition) == 4
            assert sorted(np.concatenate(members.partition)) == members.train.tolist()
            assert members.train.tolist() == np.flatnonzero(uneven.half_set == number + 1).tolist()


def test_minibatches_grow_where_their_quadratics_took_too_much_memory(
    particles: Particles, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    radius = BOX / 2 - 1.0
    room = quadratic_bytes(BOX, radius) + 3.5 * quadratic_bytes(BOX, radius, weight=2)
    monkeypatch.setattr("cryograd.engine.setup.MEMORY_BYTES", 2 * int(room))
    run = before(refine(particles, configuration(folder, minibatch=10))).run
    assert [len(members.partition) for members in run.sides] == [3, 3]
    # Classes share the memory.
    maps = (folder / "start.mrc",) * 2
    both = before(refine(particles, configuration(folder, minibatch=10, classes=2, volume=maps))).run
    assert [len(members.partition) for members in both.sides] == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"volume": 2}, "2 maps for 1 classes"),
        ({"volume": 2, "classes": 3}, "2 maps for 3 classes"),
        ({"classes": 2, "second_volume": Path("other.mrc")}, "--second-volume does not go with classes"),
        ({"classes": 2, "use_poses": True}, "--use-poses.* does not go with classes"),
        ({"classes": 2, "proposal": "importance"}, "--proposal importance does not go with classes"),
        ({"classes": 2, "solver": "projection-matching"}, "projection-matching does not go with classes"),
        ({"classes": 2, "symmetry": "C1,D2,C2"}, "3 point groups for 2 classes"),
        ({"symmetry": "C1,D2"}, "2 point groups for 1 classes"),
        ({"fixed_poses": True, "local": True}, "--fixed-poses takes the poses as they are"),
        ({"fixed_poses": True, "proposal": "importance"}, "--fixed-poses takes the poses as they are"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    particles: Particles, folder: Path, options: dict[str, object], message: str
) -> None:
    if "volume" in options:
        options = options | {"volume": (folder / "start.mrc",) * 2}
    with pytest.raises(CryogradError, match=message):
        before(refine(particles, configuration(folder, **options)))


def test_maps_in_memory_are_taken_in_the_place_of_files(particles: Particles, folder: Path) -> None:
    given, other = Map.read(folder / "start.mrc"), folder / "half.mrc"
    write_map(other, 0.5 * molecule(BOX, PIXEL)[::-1].copy(), PIXEL)
    by_file = before(refine(particles, configuration(folder)))
    in_memory = before(refine(particles, configuration(folder, volume=(other,)), volumes=[given]))
    assert differences(by_file, in_memory) == []
    assert differences(by_file, before(refine(particles, configuration(folder, volume=(other,))))) != []
    # As many of them as there are classes: nothing is divided.
    two = before(refine(particles, configuration(folder, classes=2), volumes=[given, Map.read(other)]))
    assert two.parts == 1
    assert before(refine(particles, configuration(folder, classes=2))).parts == 2


def test_the_halves_may_start_from_maps_of_their_own(particles: Particles, folder: Path) -> None:
    other = folder / "second.mrc"
    write_map(other, molecule(BOX, PIXEL)[::-1].copy(), PIXEL)
    one, two = (
        before(refine(particles, configuration(folder, second_volume=path))) for path in (None, other)
    )
    assert torch.equal(one.state.sides[0].best.volume, two.state.sides[0].best.volume)
    assert not torch.allclose(one.state.sides[1].best.volume, two.state.sides[1].best.volume, rtol=0.1)
    # Of one map both are the same, but for the scale of their own images.
    first, second = (side.best.volume for side in one.state.sides)
    factor = float(first.norm() / second.norm())
    torch.testing.assert_close(first, factor * second, rtol=1e-3, atol=1e-4 * float(first.max()))


def test_a_map_that_cannot_be_read_is_refused_before_the_images_are(
    particles: Particles, folder: Path
) -> None:
    heard = []
    missing = configuration(folder, volume=(folder / "nothing.mrc",))
    with pytest.raises(CryogradError, match=r"nothing\.mrc"):
        next(refine(particles, missing, reading=lambda *numbers: heard.append(numbers)))
    assert not heard


def test_a_map_that_is_empty_inside_the_mask_is_refused_by_its_name(
    particles: Particles, folder: Path
) -> None:
    empty = np.zeros((BOX, BOX, BOX), dtype=np.float32)
    empty[0, 0, 0] = 1.0
    write_map(folder / "corner.mrc", empty, PIXEL)
    with pytest.raises(CryogradError, match="empty inside the mask") as error:
        next(refine(particles, configuration(folder, volume=(folder / "corner.mrc",))))
    assert "corner.mrc" in error.value.where
