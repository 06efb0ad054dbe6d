"""From a random start to half maps, in one run."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryograd.config import Reconstruct
from cryograd.data.particles import Particles
from cryograd.engine.frame import taken_out
from cryograd.engine.half_sets import half_sets
from cryograd.errors import CryogradError
from cryograd.model.symmetry import group_matrices
from cryograd.recipe import Moment, reconstruct
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at
from cryograd.validation.pose_error import pose_error
from refinement import BOX, PIXEL, before, differences, differences_after, last, saving, simulated
from stacks import write_stack
from two_molecules import EACH, molecules, right, two_molecules


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated"))


def config(particles: Particles, **options: Any) -> Reconstruct:
    given = {"symmetry": SYMMETRY, "minibatch": 60, "start_resolution": 40.0, "max_shift": 12.0, "starts": 2}
    # What is finer than this costs most of the time, and the tests ask for less.
    given["max_resolution"] = 16.0
    return Reconstruct(particles=particles.source, **(given | options))


def resolution(moment: Moment, particles: Particles, number: int, truth: np.ndarray) -> float:
    """Å to which the mean of the unfiltered half maps of a class agrees with a molecule."""
    halves = [
        taken_out(moment.state, particles, t.symmetry, t.shown).values for t in moment.state.tracks[number]
    ]
    _, values = fsc(align(0.5 * (halves[0] + halves[1]), truth, PIXEL, PIXEL).volume, truth)
    return resolution_at(values, 0.5, BOX, PIXEL) or 99.0


def test_a_run_resumes_from_its_start_and_from_its_half_sets(particles: Particles) -> None:
    """With the same bytes as the run that was not interrupted.

    Its parts are two groups of starts, the contest of their best, and the half-sets.
    """
    some, saved = particles.select(np.arange(60)), {}
    options = config(some, minibatch=15, passes=1.0, max_resolution=25.0)
    stages = []
    for whole in saving(reconstruct(some, options), saved, 30, *range(80, 100)):
        stages = [row["stage"] for row in whole.history]
        assert whole.parts == 4
    changes = [stage for k, stage in enumerate(stages) if stages[k - 1 : k] != [stage]]
    assert changes == ["starts", "march", "starts", "march", "settle", "refine", "poses"]
    settle, refine = stages.index("settle"), stages.index("refine")
    # In a start, in the contest, at its end, in the half-sets, and at the end of all.
    for number, part in ((30, 0), (settle + 1, 2), (refine, 2), (refine + 1, 3), (len(stages), 3)):
        assert saved[number]["part"] == part
        rest = list(reconstruct(some, options, resume=saved[number]))
        assert len(rest) == max(1, len(stages) - number)
        assert differences(rest[-1], whole) == []


@pytest.mark.slow
def test_a_molecule_is_found_in_half_sets(particles: Particles) -> None:
    moment = last(reconstruct(particles, config(particles, minibatch=80)))
    state, table = moment.state, moment.state.table
    assert resolution(moment, particles, 0, molecule(BOX, PIXEL)) < 18.0
    first, second = half_sets(particles, 0)
    assert np.array_equal(np.flatnonzero(table.half == 1), first)
    assert np.array_equal(np.flatnonzero(table.half == 2), second)
    assert state.curves is not None
    assert state.curves.shape == (1, BOX // 2 + 1)
    half_map = resolution_at(state.curves[0], 0.143, BOX, PIXEL)
    assert half_map is not None
    assert half_map < 20.0
    assert particles.rotations is not None
    assert particles.shifts is not None
    error = pose_error(
        particles.rotations, table.rotations, particles.shifts, table.shifts, group_matrices(SYMMETRY)
    )
    assert np.rad2deg(error.median_angle) < 6.0
    assert error.median_shift < 0.6 * PIXEL


@pytest.mark.slow
def test_two_molecules_end_with_two_half_maps_each(tmp_path: Path) -> None:
    particles = two_molecules(tmp_path)
    moment = last(reconstruct(particles, config(particles, classes=2, minibatch=60, passes=1.0)))
    state, classes = moment.state, moment.state.table.classes
    assert [len(side.tracks) for side in state.sides] == [2, 2]
    assert all(track.unfiltered is not None for side in state.sides for track in side.tracks)
    assert state.curves is not None
    assert state.curves.shape == (2, BOX // 2 + 1)
    # Both halves agree with each other on the molecule that the divided map was most like, beyond the start
    # at 19 Å. The other begins on axes that are not its own, and need not come off them.
    assert min(resolution_at(curve, 0.143, BOX, PIXEL) or 99.0 for curve in state.curves) < 19.0
    np.testing.assert_allclose(classes.sum(axis=1), 1.0)
    assert right(classes) > 0.9
    # In each half-set by itself: the classes have not changed places between them.
    second = np.arange(2 * EACH) >= EACH
    agree = [
        np.mean((classes[:, 1] > 0.5)[state.table.half == k] == second[state.table.half == k]) for k in (1, 2)
    ]
    assert min(agree) > 0.85 or max(agree) < 0.15
    order = (0, 1) if agree[0] > 0.5 else (1, 0)
    found = [resolution(moment, particles, number, molecules()[which]) for number, which in enumerate(order)]
    assert min(found) < 20.0
    assert sum(state.shares) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"independent_halves": True}, {"symmetry": "auto"}], ids=["apart", "auto"]
)
def test_runs_that_bring_their_starts_together_resume(particles: Particles, options: dict[str, Any]) -> None:
    # With seed 0 the start of one half-set, of 120 images, is wrong.
    settings, saved = config(particles, minibatch=60, passes=1.0, seed=1, starts=1, **options), {}
    # From one part into the next, and within the last part.
    spans = [(38, 42), (78, 82)] if "independent_halves" in options else [(66, 72)]
    whole = last(saving(reconstruct(particles, settings), saved, *itertools.chain(*spans)))
    spans.append((spans[-1][1], len(whole.history)))
    assert whole.parts == len(whole.behind.maps) + 1 == (3 if "independent_halves" in options else 2)
    assert {one["part"] for one in saved.values()} == set(range(whole.parts))
    if "symmetry" in options:
        assert whole.behind.symmetries[0]["name"] == SYMMETRY
        assert whole.run.symmetries == (SYMMETRY,)
    assert resolution(whole, particles, 0, molecule(BOX, PIXEL)) < 20.0

    def resumed(one: dict[str, Any]) -> Iterator[Moment]:
        return reconstruct(particles, settings, resume=one)

    assert differences_after(resumed, saved, whole, *spans) == []


@pytest.mark.slow
def test_independent_starts_see_no_image_of_the_other_half(particles: Particles, tmp_path: Path) -> None:
    """The start of the first half is the same where the second holds noise, which then has no start."""
    first, second = half_sets(particles, 0)
    images = np.asarray(particles.images(np.arange(len(particles))), dtype=np.float32).copy()
    images[second] = np.random.default_rng(0).normal(size=images[second].shape)
    write_stack(tmp_path / "other.mrcs", images, PIXEL)
    other = replace(particles, stacks=(tmp_path / "other.mrcs",))

    def to_its_end(moments: Iterator[Moment]) -> torch.Tensor:
        moment = next(moment for moment in moments if moment.ends)
        assert len(moment.run.images.particles) <= len(first)
        return moment.state.volume.clone()

    runs = [reconstruct(given, config(given, independent_halves=True)) for given in (particles, other)]
    assert torch.equal(to_its_end(runs[0]), to_its_end(runs[1]))
    with pytest.raises(CryogradError, match="no particle was found"):
        last(runs[1])


def test_images_without_a_particle_have_no_start(particles: Particles, tmp_path: Path) -> None:
    """Images of which the contrast is wrong push all density below zero."""
    images = -np.asarray(particles.images(np.arange(60)), dtype=np.float32)
    write_stack(tmp_path / "inverted.mrcs", images, PIXEL)
    inverted = replace(particles.select(np.arange(60)), stacks=(tmp_path / "inverted.mrcs",))
    with pytest.raises(CryogradError, match="no particle was found in the images"):
        last(reconstruct(inverted, config(inverted, minibatch=30, prior_weight=1e4, max_resolution=38.0)))


def test_a_start_looks_at_no_more_images_than_it_draws(
    particles: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = before(reconstruct(particles, config(particles, minibatch=2)))
    draws = sum(step.images for step in moment.run.program.steps)
    seen = moment.run.images.particles
    assert len(seen) == draws < len(particles)
    # Random ones, and at a coarser sampling.
    places = [int(np.flatnonzero(particles.defocus_u == u)[0]) for u in seen.defocus_u]
    assert len(set(places)) == len(places)
    assert places == sorted(places)
    assert np.median(places) == pytest.approx(len(particles) / 2, abs=len(particles) / 6)
    assert moment.run.images.size < BOX
    assert moment.run.program.count("poses") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 2, "independent_halves": True}, "--independent-halves does not go with"),
        ({"classes": 2, "symmetry": "auto"}, "--symmetry auto does not go with classes"),
        ({"symmetry": "auto", "mask": Path("mask.mrc")}, "--mask does not go with --symmetry auto"),
        (
            {"solver": "projection-matching", "proposal": "importance"},
            "projection matching takes the best",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    particles: Particles, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CryogradError, match=message):
        before(reconstruct(particles, config(particles, **options)))
