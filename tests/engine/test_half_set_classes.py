"""Several maps in half-sets, from images of two molecules."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryograd.config import Refine
from cryograd.data.mrc import write_map
from cryograd.data.particles import Particles
from cryograd.engine.frame import taken_out
from cryograd.errors import CryogradError
from cryograd.fourier import lowpass_volume
from cryograd.model.symmetry import Symmetrizer
from cryograd.recipe import Moment, refine
from cryograd.simulation.molecule import SYMMETRY
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at
from refinement import differences, differences_after, last, saving
from two_molecules import BOX, EACH, PIXEL, molecules, right, two_molecules


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return two_molecules(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The two molecules, and their mean."""
    folder, (first, second) = tmp_path_factory.mktemp("maps"), molecules()
    paths = folder / "first.mrc", folder / "second.mrc", folder / "mean.mrc"
    for path, density in zip(paths, (first, second, 0.5 * (first + second)), strict=True):
        write_map(path, density, PIXEL)
    return paths


def config(particles: Particles, *volumes: Path, **options: Any) -> Refine:
    given = {"symmetry": SYMMETRY, "classes": 2, "minibatch": 30, "start_resolution": 30.0, "max_shift": 12.0}
    # What is finer than this costs most of the time, and the tests ask for less.
    given["max_resolution"] = 16.0
    return Refine(particles=particles.source, volume=volumes, **(given | options))


def checked(moment: Moment) -> None:
    """What every end of a run with two classes has."""
    state, table = moment.state, moment.state.table
    assert state.stage == "poses"
    assert state.curves is not None
    assert state.curves.shape == (2, BOX // 2 + 1)
    assert table.visited.all()
    np.testing.assert_allclose(table.classes.sum(axis=1), 1.0)
    assert [len(side.tracks) for side in state.sides] == [2, 2]
    for side in state.sides:
        for track in side.tracks:
            assert track.unfiltered is not None
            assert track.curvature is not None
            assert track.sums is None
            assert track.unfiltered.isfinite().all()
            assert float(track.volume.min()) >= 0.0
    assert sum(state.shares) == pytest.approx(1.0)
    assert moment.history[-1]["shares"] == pytest.approx(list(state.shares))


def resolutions(moment: Moment, particles: Particles, order: tuple[int, int]) -> list[float]:
    """Å to which the mean of each class's unfiltered half maps agrees with its molecule, once aligned."""
    found = []
    for pair, which in zip(moment.state.tracks, order, strict=True):
        halves = [taken_out(moment.state, particles, t.symmetry, t.shown).values for t in pair]
        truth = molecules()[which]
        _, values = fsc(align(0.5 * (halves[0] + halves[1]), truth, PIXEL, PIXEL).volume, truth)
        found.append(resolution_at(values, 0.5, BOX, PIXEL) or 99.0)
    return found


def order_of(classes: np.ndarray) -> tuple[int, int]:
    """The molecule of each class."""
    return (0, 1) if np.mean(classes[:EACH, 0] > classes[:EACH, 1]) > 0.5 else (1, 0)


@pytest.mark.slow
def test_two_maps_are_refined_by_the_images_of_each(particles: Particles, maps: tuple[Path, ...]) -> None:
    moment = last(refine(particles, config(particles, *maps[:2], passes=1.0)))
    checked(moment)
    assert moment.parts == 1
    # The classes are those of the maps that were given.
    assert order_of(moment.state.table.classes) == (0, 1)
    assert right(moment.state.table.classes) > 0.95
    assert max(resolutions(moment, particles, (0, 1))) < 20.0
    # A half-set of one class does not look like the other class.
    other = resolutions(moment, particles, (1, 0))
    assert min(other) > 25.0
    assert moment.state.shares == pytest.approx((0.5, 0.5), abs=0.1)


@pytest.mark.slow
def test_one_map_is_divided_and_refined(particles: Particles, maps: tuple[Path, ...]) -> None:
    # Begun at 30 Å, classes keep to the frame of the mean, which the axes of one molecule do not fit.
    run, saved = config(particles, maps[2], minibatch=60, start_resolution=None, passes=1.0), {}
    moment = last(saving(refine(particles, run), saved, 69, 72))
    checked(moment)
    assert moment.parts == 2
    assert {row["stage"] for row in moment.behind.log} == {"starts", "march", "settle"}
    assert len(moment.behind.maps) == 1
    assert len(moment.behind.maps[0]) == 2
    assert right(moment.state.table.classes) > 0.9
    assert max(resolutions(moment, particles, order_of(moment.state.table.classes))) < 20.0
    assert {one["part"] for one in saved.values()} == {0, 1}
    end = len(moment.history)
    spans = (69, 72), (72, end)
    assert differences_after(lambda one: refine(particles, run, resume=one), saved, moment, *spans) == []


def test_images_are_classified_at_the_poses_of_the_file(particles: Particles, maps: tuple[Path, ...]) -> None:
    moment = last(refine(particles, config(particles, *maps[:2], fixed_poses=True, passes=1.0)))
    checked(moment)
    table = moment.state.table
    assert particles.rotations is not None
    assert particles.shifts is not None
    np.testing.assert_allclose(table.rotations, particles.rotations, atol=1e-6)
    np.testing.assert_allclose(table.shifts, particles.shifts, atol=1e-4)
    assert (table.max_probability == 1.0).all()
    assert right(table.classes) > 0.97
    assert max(resolutions(moment, particles, (0, 1))) < 18.0
    assert {row["points"] for row in moment.history} == {1.0}


@pytest.mark.slow
def test_one_map_is_divided_at_the_poses_of_the_file(particles: Particles, maps: tuple[Path, ...]) -> None:
    run, saved = config(particles, maps[2], fixed_poses=True, minibatch=60), {}
    moment = last(saving(refine(particles, run), saved, 72))
    checked(moment)
    assert right(moment.state.table.classes) > 0.95
    assert max(resolutions(moment, particles, order_of(moment.state.table.classes))) < 18.0
    assert saved[72]["part"] == 1
    assert differences(last(refine(particles, run, resume=saved[72])), moment) == []


def test_each_class_has_its_point_group(particles: Particles, maps: tuple[Path, ...]) -> None:
    run = config(particles, *maps[:2], symmetry="D2,C1", fixed_poses=True, passes=0.5)
    moment = last(refine(particles, run))
    checked(moment)
    state = moment.state
    for side in state.sides:
        assert [track.symmetry for track in side.tracks] == ["D2", "C1"]
        asymmetries = []
        for track in side.tracks:
            volume = lowpass_volume(track.shown, 10.0)
            average = Symmetrizer("D2", len(volume), state.radius).forward(volume)
            asymmetries.append(float((average - volume).norm() / volume.norm()))
        # What the images of half a set say without a point group is not of the group but for the molecule.
        assert asymmetries[0] < 0.05
        assert asymmetries[1] > 3.0 * asymmetries[0]


def test_half_sets_share_nothing_but_the_curves_of_the_classes(
    particles: Particles, maps: tuple[Path, ...]
) -> None:
    """With the curves of another run a half repeats it, whatever the images of the other half are."""
    run = config(particles, *maps[:2], fixed_poses=True, passes=1.0)
    whole = last(refine(particles, run))
    told = [row["correlation"] for row in whole.history]
    assert whole.state.curves is not None
    # The history has the curve of one class, and a run with several has to be told all of them.
    assert len(told[0]) == BOX // 2 + 1
    second = np.flatnonzero(whole.state.table.half == 2)
    turned = replace(particles, shifts=particles.shifts.copy())
    turned.shifts[second] += 6.0
    curves = []
    for moment in refine(particles, run):
        assert moment.state.curves is not None
        curves.append(moment.state.curves.copy())
    other = last(refine(turned, run, replayed=curves))
    for mine, theirs in zip(whole.state.sides[0].tracks, other.state.sides[0].tracks, strict=True):
        assert torch.equal(mine.unfiltered, theirs.unfiltered)
        assert mine.share == theirs.share
    theirs = other.state.sides[1].tracks[0].unfiltered
    assert not torch.equal(whole.state.sides[1].tracks[0].unfiltered, theirs)


def test_defocus_is_found_by_the_map_of_each_images_class(
    particles: Particles, maps: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryograd.engine.setup.CHUNK", 30 / BOX)
    options = {"fixed_poses": True, "refine_ctf": True, "passes": 1.0, "minibatch": 60}
    run, saved = config(particles, *maps[:2], **options), {}
    moment = last(saving(refine(particles, run), saved, 4))
    checked(moment)
    stages = [*["refine"] * 2, *["ctf"] * 4, *["refine"] * 2, *["ctf"] * 4, *["poses"] * 4]
    assert [row["stage"] for row in moment.history] == stages
    change = moment.state.table.defocus_change
    assert (change != 0.0).all()
    # Nothing is wrong with it, and at 12 Å little is said of it: the prior allows 300 Å.
    assert np.abs(change).max() < 900.0
    assert abs(np.median(change)) < 150.0
    assert right(moment.state.table.classes) > 0.95
    assert differences(last(refine(particles, run, resume=saved[4])), moment) == []


def test_more_classes_than_particles_are_refused(particles: Particles, maps: tuple[Path, Path, Path]) -> None:
    """Before any image is read."""
    few = particles.select(np.arange(40))
    with pytest.raises(CryogradError, match="21 classes for 40 particles"):
        next(refine(few, config(few, maps[0], classes=21)))
