"""Images that change no map say when it is done."""

from typing import Any

from cryograd.engine.batches import Minibatch
from cryograd.engine.program import Step
from cryograd.engine.run import Run
from cryograd.engine.searches import search_at
from cryograd.engine.state import State

# Judgements on the held-out images without a new least error after which a run at its final radius ends.
PATIENCE = 4


def held_out_error(run: Run, state: State, radius: float) -> float:
    """Mean of −log p of the held-out images under the best track of the first side."""
    assert run.held_out is not None
    track = state.sides[0].best
    likelihood = run.likelihood(radius, track.symmetry, len(track.volume))
    images = Minibatch(run, state, 0, run.held_out, likelihood.disc)
    # Always the same grid, so that the errors can be compared.
    poses = likelihood.poses(track.volume, images, search_at(run, radius, 0, track.symmetry))
    return -float(poses.log_evidence.double().mean())


def judged(run: Run, state: State, step: Step) -> dict[str, Any]:
    """What the history says of the held-out images after a step, where it is time to look at them."""
    if run.held_out is None or not step.changes_maps or state.iteration % run.program.judged_every:
        return {}
    return {"held_out_error": held_out_error(run, state, state.radius)}


def pass_stalled(run: Run, state: State) -> None:
    """Pass over all that changes maps, if the error of the held-out images no longer falls."""
    if run.held_out is None or state.stage != "settle" or "held_out_error" not in state.history[-1]:
        return
    rows = [row for row in state.history if row["stage"] == "settle" and "held_out_error" in row]
    errors = [row["held_out_error"] for row in rows]
    if len(errors) > PATIENCE and min(errors[-PATIENCE:]) >= min(errors[:-PATIENCE]):
        state.place = run.program.after("settle")
        state.total_iterations = state.iteration + len(run.program) - state.place
