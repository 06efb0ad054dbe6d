"""What is saved of a run is a copy: the run goes on in the state that it was saved from."""

import copy
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.engine.parts import restored
from cryograd.engine.state import State
from cryograd.errors import CryogradError
from cryograd.recipe import Moment, abinitio, refine
from refinement import configuration, last, simulated


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated")).select(np.arange(36))


def plain(saved: Any) -> Any:
    """Something that is saved, with the bytes of its tensors in their place."""
    if isinstance(saved, dict):
        return {name: plain(value) for name, value in saved.items()}
    if isinstance(saved, list | tuple):
        return [plain(value) for value in saved]
    if isinstance(saved, torch.Tensor):
        return str(saved.dtype), tuple(saved.shape), plain_bytes(saved)
    return copy.copy(saved)


def plain_bytes(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor of any type."""
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().tobytes()


def runs(particles: Particles, solver: str, proposal: str) -> tuple[Any, ...]:
    """A run from a random start and a refinement, a few iterations each."""
    options = {"solver": solver, "proposal": proposal, "minibatch": 6}
    start = {"iterations": 5, "starts": 2, "max_resolution": 38.0, "start_resolution": 40.0, "held_out": 4}
    config = configuration(particles.source.parent, passes=0.7, **options)
    return (
        lambda: abinitio(particles, Abinitio(particles=particles.source, symmetry="D2", **options, **start)),
        lambda: refine(particles, config),
    )


@pytest.mark.parametrize(
    ("solver", "proposal"),
    [
        ("preconditioned", "search"),
        ("sgd", "search"),
        ("sagd", "search"),
        ("em", "search"),
        ("incremental", "importance"),
    ],
)
def test_later_iterations_do_not_change_what_was_saved(
    particles: Particles, solver: str, proposal: str
) -> None:
    for run in runs(particles, solver, proposal):
        kept: list[tuple[dict[str, Any], Any]] = []
        for moment in run():
            saved = moment.saved()
            kept.append((saved, plain(saved)))
        assert len(kept) > 1
        for saved, then in kept:
            assert plain(saved) == then
        assert kept[0][1] != kept[-1][1]


def test_the_state_of_a_run_is_one_object_that_each_iteration_changes(particles: Particles) -> None:
    moments = refine(particles, configuration(particles.source.parent, passes=0.7, minibatch=6))
    first = next(moments)
    state, table, volume = first.state, first.state.table, first.state.volume
    again = next(moments)
    assert again.state is state
    assert state.table is table
    assert state.iteration == 2
    assert not torch.equal(state.volume, volume)


def test_a_state_that_comes_back_is_another_object_of_the_same_bytes(particles: Particles) -> None:
    config = configuration(particles.source.parent, passes=0.7, minibatch=6, proposal="importance")
    moment = last(islice(refine(particles, config), 2))
    saved = moment.saved()
    restored = State.from_state_dict(saved["state"])
    assert plain(restored.state_dict()) == plain(saved["state"])
    before = plain(saved)
    restored.table.top_shifts[:] = 7.0
    restored.table.visited[:] = False
    restored.history.append({})
    restored.memory.rows[0] = None
    assert restored.curves is not None
    restored.curves[:] = -1.0
    restored.sides.pop()
    assert plain(saved) == before
    assert plain(moment.saved()) == before


def test_what_was_saved_can_be_resumed_again_and_again(particles: Particles) -> None:
    config = configuration(particles.source.parent, passes=0.7, minibatch=6, proposal="importance")
    moment = last(islice(refine(particles, config), 1))
    saved = moment.saved()
    before = plain(saved)
    ends: list[Moment] = [last(refine(particles, config, resume=saved)) for _ in range(2)]
    assert torch.equal(ends[0].state.volume, ends[1].state.volume)
    assert np.array_equal(ends[0].state.table.shifts, ends[1].state.table.shifts)
    assert plain(saved) == before


def test_the_shares_and_the_best_track_are_those_of_both_halves(particles: Particles) -> None:
    start = particles.source.parent / "start.mrc"
    config = configuration(
        particles.source.parent, classes=2, volume=(start, start), passes=0.3, symmetry="D2,C1"
    )
    state = next(refine(particles, config)).state
    shares = [np.mean([side.tracks[k].share for side in state.sides]) for k in range(2)]
    assert state.shares == pytest.approx(shares)
    assert state.best == int(np.argmax(shares))
    assert [[t.symmetry for t in pair] for pair in state.tracks] == [["D2", "D2"], ["C1", "C1"]]
    expected = 0.5 * sum(side.tracks[state.best].volume for side in state.sides)
    torch.testing.assert_close(state.volume, expected)


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"part": 0},
        {"part": None, "behind": {}, "state": {}},
        {"part": 0, "behind": {"x": 1}, "state": {}},
        {"part": 0, "behind": {}, "state": []},
        {"part": 0, "behind": {}, "state": {"curves": None, "sides": (), "mask": 1.0}},
    ],
)
def test_what_is_no_moment_is_refused(saved: dict[str, Any]) -> None:
    with pytest.raises(CryogradError, match="it holds no state of a run, checkpoint, restore"):
        restored(saved)
