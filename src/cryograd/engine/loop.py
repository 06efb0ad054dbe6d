"""The loop: every iteration of every run, from a random start to the last poses.

Read `recipe` first, which says what runs there are and how they follow each other, then this, then `rivalry`.
A run computes; whoever iterates over it saves, shows and reports.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cryograd.engine.convergence import agreement, pass_converged
from cryograd.engine.ctfs import ctfs_found
from cryograd.engine.curves import correlated, reached
from cryograd.engine.finish import finished
from cryograd.engine.held_out import judged, pass_stalled
from cryograd.engine.moves import gathered, looked_at, moved
from cryograd.engine.program import Step
from cryograd.engine.refusals import refuse_infinite
from cryograd.engine.run import Run
from cryograd.engine.state import Side, State
from cryograd.fourier import quick_size

Row = dict[str, Any]
# What an iteration does with one side; it writes what it finds of particles into the run's tables.
Action = Callable[[Run, State, int, Step], tuple[Side, Row]]
# What the history has of all sides together, as a mean.
MEANS = ("log_evidence", "entropy", "max_probability", "log_prior", "points")


def iterate(run: Run, state: State, replayed: Sequence[Sequence[float]] | None = None) -> Iterator[State]:
    """Move a run on from a state, iteration by iteration.

    Parameters
    ----------
    run
        What never changes.
    state
        The first state, or one to go on from.
    replayed
        The correlation of the half maps after each iteration, in place of their own: with another run's, one
        half repeats that run whatever the other half is.

    Yields
    ------
    State
        The same object after every iteration, which has changed it.
    """
    while state.place < len(run.program):
        began = time.perf_counter()
        step = run.program.step(state.place, reached(state), state.radius)
        if run.apart and step.radius is not None:
            state.fit_box(quick_size(step.radius, run.images.size), run.mask)
        rows: list[Row] = []
        for number in range(len(state.sides)):
            state.sides[number], row = _action(run, step)(run, state, number, step)
            rows.append(row)
        _advance(run, state, step, replayed[state.iteration] if replayed is not None and run.apart else None)
        if run.apart and state.place == len(run.program):
            finished(run, state)
        row = _row(run, state, step, rows) | judged(run, state, step)
        row["seconds"] = {step.stage: time.perf_counter() - began}
        state.history.append(row)
        pass_stalled(run, state)
        pass_converged(run, state)
        yield state


def _action(run: Run, step: Step) -> Action:
    """What a step does with each side."""
    if step.changes_maps:
        return moved
    if step.stage == "ctf":
        return ctfs_found
    return gathered if run.apart else looked_at


def _advance(run: Run, state: State, step: Step, given: Sequence[float] | None) -> None:
    """Count the step, and correlate the half maps that it has moved."""
    assert step.radius is not None
    state.iteration += 1
    state.place += 1
    state.total_iterations = state.iteration + run.program.ahead(state.place)
    state.stage, state.radius = step.stage, step.radius
    # Before a checkpoint keeps them.
    tracks = (track for pair in state.tracks for track in pair)
    refuse_infinite(all(bool(track.volume.isfinite().all()) for track in tracks), state.iteration)
    if state.curves is not None and step.changes_maps:
        state.curves = correlated(state) if given is None else np.atleast_2d(np.array(given))


def _row(run: Run, state: State, step: Step, rows: Sequence[Row]) -> Row:
    """What the history says of an iteration, from what its sides say."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in MEANS if name in rows[0]}
    row: Row = {
        "iteration": state.iteration,
        "stage": step.stage,
        "radius": state.radius,
        "resolution": state.extent / reached(state),
        **means,
        "noise": [row["noise"] for row in rows],
        "step": step.rate,
        "starts": len(state.sides[0].tracks),
        "images_drawn": sum(side.images_drawn for side in state.sides),
    }
    if run.classes > 1:
        row["shares"] = list(state.shares)
    if state.curves is not None:
        row["correlation"] = state.curves[state.best].tolist()
        row["agreement"] = agreement(state)
    return row
