"""At which poses images are looked at."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.engine.program import Step
from cryograd.engine.run import Run
from cryograd.engine.searches import poses_of, search_at
from cryograd.engine.state import State
from cryograd.pose.known import Known
from cryograd.pose.sampling import Sampling
from cryograd.pose.search import Search
from cryograd.recipe import abinitio, refine
from refinement import before, configuration, simulated

SOME = np.array([3, 8, 21])
MOVE, LAST = Step("refine", 0, 6.0), Step("poses", 0, 6.0, chunks=3)


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated")).select(np.arange(40))


@pytest.fixture(scope="module")
def folder(particles: Particles) -> Path:
    return particles.source.parent


def from_random(particles: Particles, **options: object) -> tuple[Run, State]:
    """A run from a random start before its first iteration, and its state."""
    config = Abinitio(particles=particles.source, symmetry="D2", minibatch=20, **options)
    moment = before(abinitio(particles, config))
    return moment.run, moment.state


def in_halves(particles: Particles, folder: Path, **options: object) -> tuple[Run, State]:
    """A refinement before its first iteration, and its state."""
    moment = before(refine(particles, configuration(folder, **options)))
    return moment.run, moment.state


@pytest.fixture(scope="module")
def run(particles: Particles) -> Run:
    return from_random(particles)[0]


def levels(search: Search) -> list[tuple[int, int, float]]:
    return [(level.rotations, level.shifts, level.radius) for level in search.levels]


@pytest.mark.parametrize(
    ("radius", "expected"),
    [
        (5.0, []),
        (8.0, []),
        (10.0, [(96, 8, 10.0)]),
        (14.0, [(96, 8, 14.0)]),
        (15.0, [(96, 8, 14.0), (48, 8, 15.0)]),
        (32.0, [(96, 8, 14.0), (48, 8, 32.0)]),
        (40.0, [(96, 8, 14.0), (48, 8, 32.0), (48, 8, 40.0)]),
        (100.0, [(96, 8, 14.0), (48, 8, 32.0), (48, 8, 64.0), (48, 8, 100.0)]),
    ],
)
def test_a_search_is_exhaustive_and_then_refines_the_best_cells(
    run: Run, radius: float, expected: list[tuple[int, int, float]]
) -> None:
    search = search_at(run, radius, 0, "C1")
    assert levels(search) == expected
    assert search.coarse_radius == min(radius, 8.0)
    assert search.iteration is None
    # Each level halves the cells. What is left of them is not much wider than what the radius can tell apart.
    angle, length = search.rotations.spacing, search.shifts.spacing
    assert angle / 2 ** len(expected) <= 1.5 * np.arctan(1.0 / radius)
    assert length / 2 ** len(expected) <= run.images.extent / radius / 2.4


def test_cells_are_split_even_at_low_resolution_where_only_the_best_pose_counts(run: Run) -> None:
    search = search_at(run, 5.0, 0, "C1", hard=True)
    assert search.hard
    assert levels(search) == [(96, 8, 5.0)]
    assert not search_at(run, 5.0, 0, "C1").hard


def test_images_have_poses_of_their_own_where_something_is_to_be_said_of_each(
    particles: Particles, folder: Path
) -> None:
    run, state = in_halves(particles, folder)
    looked = poses_of(run, state, 0, replace(MOVE, stage="ctf"), SOME, "D2")
    assert isinstance(looked, Search)
    assert levels(looked) == [(96, 8, 6.0)]
    assert not looked.hard
    assert poses_of(run, state, 0, MOVE, SOME, "D2").levels == ()  # type: ignore[union-attr]


def test_what_is_remembered_is_searched_with_less_lost(run: Run) -> None:
    search, other = search_at(run, 20.0, 7, "C1", remembered=True), search_at(run, 20.0, 7, "C1")
    assert levels(search) == levels(other) == [(96, 8, 14.0), (48, 8, 20.0)]
    assert 0.0 < search.lost < other.lost
    assert search.iteration == 7


def test_grids_are_turned_by_seed_and_iteration_and_by_nothing_else(run: Run) -> None:
    first, again, other = (search_at(run, 10.0, turn, "C1") for turn in (3, 3, 4))
    seeded = search_at(replace(run, seed=run.seed + 1), 10.0, 3, "C1")
    assert np.array_equal(first.rotations.matrices, again.rotations.matrices)
    assert np.array_equal(first.shifts.shifts, again.shifts.shifts)
    for search in (other, seeded):
        assert np.abs(search.rotations.matrices - first.rotations.matrices).max() > 0.01
        assert len(search.rotations.matrices) == len(first.rotations.matrices)
        assert search.shifts.shifts.shape != first.shifts.shifts.shape or not np.allclose(
            search.shifts.shifts, first.shifts.shifts
        )
    # One rotation turns all of a grid.
    turn = other.rotations.matrices[0].T @ first.rotations.matrices[0]
    left = other.rotations.matrices[0] @ first.rotations.matrices[0].T
    by_right = np.abs(other.rotations.matrices @ turn - first.rotations.matrices).max()
    by_left = np.abs(left @ first.rotations.matrices - other.rotations.matrices).max()
    assert min(by_right, by_left) < 1e-9


def test_poses_of_a_point_group_are_looked_for_in_its_asymmetric_unit(run: Run) -> None:
    full, unit = (len(search_at(run, 8.0, 0, name).rotations.matrices) for name in ("C1", "D2"))
    assert unit == pytest.approx(full / 4, rel=0.1)


def test_known_poses_are_taken_as_they_are(particles: Particles, folder: Path) -> None:
    run, state = in_halves(particles, folder, fixed_poses=True)
    assert particles.rotations is not None
    for step in (MOVE, LAST):
        looked = poses_of(run, state, 1, step, SOME, "D2")
        assert isinstance(looked, Known)
        assert np.array_equal(looked.rotations, particles.rotations[SOME])
        assert np.array_equal(looked.shifts, particles.shifts[SOME])


def test_the_last_pass_of_one_map_has_one_grid_however_it_is_divided(particles: Particles) -> None:
    run, state = from_random(particles)
    first = poses_of(run, state, 0, LAST, SOME, "D2")
    state.iteration += 3
    later = poses_of(run, state, 0, replace(LAST, number=2, chunks=9), SOME + 1, "D2")
    moving = poses_of(run, state, 0, replace(MOVE, stage="settle"), SOME, "D2")
    assert isinstance(first, Search)
    assert isinstance(later, Search)
    assert isinstance(moving, Search)
    assert np.array_equal(first.rotations.matrices, later.rotations.matrices)
    assert np.array_equal(first.shifts.shifts, later.shifts.shifts)
    assert not np.array_equal(moving.rotations.matrices, first.rotations.matrices)


def test_half_sets_turn_their_grids_to_the_end(particles: Particles, folder: Path) -> None:
    run, state = in_halves(particles, folder)
    first = poses_of(run, state, 0, LAST, SOME, "D2")
    other_half = poses_of(run, state, 1, LAST, SOME, "D2")
    state.iteration += 1
    later = poses_of(run, state, 0, LAST, SOME, "D2")
    assert isinstance(first, Search)
    assert isinstance(other_half, Search)
    assert isinstance(later, Search)
    assert np.array_equal(first.rotations.matrices, other_half.rotations.matrices)
    assert not np.array_equal(first.rotations.matrices, later.rotations.matrices)


def test_projection_matching_counts_images_at_their_best_pose_while_the_map_changes(
    particles: Particles, folder: Path
) -> None:
    for run, state in (
        from_random(particles, solver="projection-matching"),
        in_halves(particles, folder, solver="projection-matching"),
    ):
        assert poses_of(run, state, 0, MOVE, SOME, "D2").hard  # type: ignore[union-attr]
        # The last poses say how sure they are.
        assert not poses_of(run, state, 0, LAST, SOME, "D2").hard  # type: ignore[union-attr]
    run, state = in_halves(particles, folder, solver="em")
    assert not poses_of(run, state, 0, MOVE, SOME, "D2").hard  # type: ignore[union-attr]


def drawn(run: Run, state: State, indices: np.ndarray) -> Sampling:
    """The poses of images that are to be drawn."""
    looked = poses_of(run, state, 0, MOVE, indices, "D2")
    assert isinstance(looked, Sampling)
    return looked


def test_poses_are_searched_until_every_image_of_the_minibatch_is_remembered(
    particles: Particles, folder: Path
) -> None:
    run, state = in_halves(particles, folder, use_poses=True)
    assert len(drawn(run, state, SOME).draws) == len(SOME)
    state.memory.rows[8] = None
    looked = poses_of(run, state, 0, MOVE, SOME, "D2")
    assert isinstance(looked, Search)
    assert looked.iteration == state.iteration
    assert len(drawn(run, state, np.array([3, 21])).draws) == 2


def test_poses_are_searched_where_that_takes_fewer_slices_unless_they_are_to_stay_near(
    particles: Particles, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anywhere, near = (in_halves(particles, folder, **{name: True}) for name in ("use_poses", "local"))
    step, one, many = replace(MOVE, radius=4.8), SOME[:1], np.arange(40)
    few = poses_of(*anywhere, 0, step, one, "D2")
    assert isinstance(few, Sampling)
    # Images share the slices of a coarse search, and those of drawn poses they do not.
    assert isinstance(poses_of(*anywhere, 0, step, many, "D2"), Search)
    assert isinstance(poses_of(*near, 0, step, many, "D2"), Sampling)
    # Nor may one image take too much memory.
    monkeypatch.setattr("cryograd.engine.searches.MOST_SLICES", few.most - 1)
    assert isinstance(poses_of(*anywhere, 0, step, one, "D2"), Search)
    assert isinstance(poses_of(*near, 0, step, one, "D2"), Sampling)


def test_drawn_poses_are_functions_of_seed_iteration_and_particle(particles: Particles, folder: Path) -> None:
    run, state = in_halves(particles, folder, local=True)

    def directions(run: Run, indices: np.ndarray, place: int) -> list[int]:
        return drawn(run, state, indices).draws[place].directions.indices.tolist()

    found = directions(run, SOME, 1)
    # Whatever else is in the minibatch, and in which half-set.
    assert directions(run, SOME[1:], 0) == found
    assert directions(replace(run, seed=5), SOME, 1) != found
    state.iteration += 1
    assert directions(run, SOME, 1) != found


def test_competing_starts_draw_no_poses(particles: Particles) -> None:
    run, state = from_random(particles, proposal="importance", starts=2)
    looked = poses_of(run, state, 0, replace(MOVE, stage="starts"), SOME, "D2")
    assert isinstance(looked, Search)
    assert looked.iteration is None
    state.sides[0] = replace(state.sides[0], tracks=state.sides[0].tracks[:1])
    alone = poses_of(run, state, 0, replace(MOVE, stage="march"), SOME, "D2")
    assert isinstance(alone, Search)
    assert alone.iteration == state.iteration
