"""Several maps at once from random starts, from images of two molecules."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.engine import rivalry
from cryograd.engine.frame import taken_out
from cryograd.engine.state import State
from cryograd.errors import CryogradError
from cryograd.objective.likelihood import Evaluation, MarginalLikelihood
from cryograd.objective.mixture import Mixture, mixture
from cryograd.recipe import Moment, abinitio
from cryograd.simulation import molecule as made_up
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at
from refinement import before, differences, last, saving
from two_molecules import BOX, EACH, PIXEL, molecules, two_molecules


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return two_molecules(tmp_path_factory.mktemp("simulated"))


def _config(**options: Any) -> Abinitio:
    paths = {"particles": Path("particles.star"), "output": Path("out")}
    settings = {"classes": 2, "max_shift": 12.0, "symmetry": made_up.SYMMETRY} | options
    return Abinitio(**paths, **settings)


def _run(particles: Particles, config: Abinitio, stop: int | None = None) -> State:
    """The state at the end, or after some iterations."""
    return last(islice(abinitio(particles, config), stop)).state


def _changed(moment: Moment, change: Callable[[State], None]) -> dict[str, Any]:
    """A saved moment, as if its state had been another."""
    state = State.from_state_dict(moment.state.state_dict())
    change(state)
    return moment.saved() | {"state": state.state_dict()}


@pytest.mark.slow
def test_two_molecules_are_told_apart(particles: Particles) -> None:
    state = _run(particles, _config(minibatch=60, max_resolution=18.0))
    probabilities = state.table.classes
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    of_second = np.arange(2 * EACH) >= EACH
    agree = np.mean((probabilities.argmax(axis=1) == 1) == of_second)
    assert max(agree, 1.0 - agree) > 0.9
    order = (0, 1) if agree > 0.5 else (1, 0)
    for track, truth in zip(state.sides[0].tracks, (molecules()[i] for i in order), strict=True):
        found = taken_out(state, particles, track.symmetry, track.volume)
        _, values = fsc(align(found.values, truth, found.pixel_size, PIXEL).volume, truth)
        resolution = resolution_at(values, 0.5, BOX, PIXEL)
        assert resolution is not None
        assert resolution < 20.0


@pytest.mark.parametrize("solver", ["preconditioned", "em", "sagd", "sgd"])
def test_a_resumed_run_ends_with_the_same_bytes(particles: Particles, solver: str) -> None:
    config = _config(
        solver=solver,
        iterations=7,
        minibatch=40,
        held_out=20,
        max_resolution=38.0,
        start_resolution=40.0,
    )
    saved = {}
    whole = last(islice(saving(abinitio(particles, config), saved, 3), 7))
    assert len(whole.state.sides[0].tracks) == 2
    assert differences(last(islice(abinitio(particles, config, resume=saved[3]), 4)), whole) == []
    assert sum(whole.history[-1]["shares"]) == pytest.approx(1.0)


def test_every_particle_gets_its_probabilities_in_the_last_pass(particles: Particles) -> None:
    config = _config(classes=3, iterations=3, minibatch=20, max_resolution=38.0, start_resolution=40.0)
    state = _run(particles, config)
    assert state.table.classes.shape == (2 * EACH, 3)
    np.testing.assert_allclose(state.table.classes.sum(axis=1), 1.0)
    assert state.table.visited.all()
    tracks = state.sides[0].tracks
    assert tracks[state.best].share == max(track.share for track in tracks)
    assert torch.equal(state.volume, tracks[state.best].volume)


def test_a_class_without_images_stays_a_map(particles: Particles) -> None:
    """No division by what it lacks: it follows the images that are the nearest to it."""
    config = _config(iterations=30, minibatch=40, max_resolution=38.0, start_resolution=40.0)
    moment = last(islice(abinitio(particles, config), 25))

    def hopeless(state: State) -> None:
        first, second = state.sides[0].tracks
        second = replace(second, volume=-10.0 * first.volume, share=1e-6)
        state.sides[0] = replace(state.sides[0], tracks=(first, second))

    moments = abinitio(particles, config, resume=_changed(moment, hopeless))
    first, second = last(islice(moments, 5)).state.sides[0].tracks
    assert second.share < 0.2
    for track in (first, second):
        assert track.volume.isfinite().all()
        assert track.volume.any()


def test_the_step_of_a_class_does_not_depend_on_its_share(
    particles: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data and prior have the same weights in it: a class that loses images loses no density for that."""
    config = _config(minibatch=40)
    start = before(abinitio(particles, config))

    def moved(share: float) -> torch.Tensor:
        def fixed(*args: Any) -> Mixture:
            found = mixture(*args)
            shares = torch.tensor([[share], [1.0 - share]]).expand_as(found.probabilities)
            return replace(found, probabilities=shares)

        def shared(state: State) -> None:
            first, second = state.sides[0].tracks
            tracks = replace(first, share=share), replace(second, share=1.0 - share)
            state.sides[0] = replace(state.sides[0], tracks=tracks)

        monkeypatch.setattr(rivalry, "mixture", fixed)
        moments = abinitio(particles, config, resume=_changed(start, shared))
        return next(moments).state.sides[0].tracks[0].volume

    expected = moved(0.5)
    assert (moved(0.05) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 2}, "--starts does not go with classes"),
        ({"proposal": "importance"}, "--proposal importance does not go with classes"),
        ({"solver": "projection-matching"}, "--solver projection-matching does not go with classes"),
    ],
)
def test_what_does_not_go_with_classes_is_refused(
    particles: Particles, options: dict[str, object], message: str
) -> None:
    with pytest.raises(CryogradError, match=message):
        before(abinitio(particles, _config(**options)))


@pytest.mark.parametrize("options", [{}, {"classes": 1, "starts": 3}], ids=["classes", "starts"])
def test_the_grids_of_one_map_are_gone_when_the_next_is_looked_at(
    particles: Particles, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """At 256 px those of one map are 0.8 GB."""
    grids: list[weakref.ref[torch.Tensor]] = []
    alive, evaluate = [], MarginalLikelihood.evaluate

    def noted(*args: Any) -> Evaluation:
        alive.append(sum(grid() is not None for grid in grids))
        found = evaluate(*args)
        grids.extend(weakref.ref(grid) for grid in (found.sums.weights, found.sums.misfit))
        return found

    monkeypatch.setattr(MarginalLikelihood, "evaluate", noted)
    _run(particles, _config(minibatch=40, **options), stop=2)
    assert len(alive) == (6 if options else 4)
    assert set(alive) == {0}
