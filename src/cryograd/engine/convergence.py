"""When half-sets are done: their maps agree no better, and poses are no surer, than some iterations ago."""

import math
from typing import Any

from cryograd.engine.run import Run
from cryograd.engine.state import State

# Iterations over which nothing may have improved, as a fraction of a pass and at least.
FRACTION, FEWEST = 0.5, 3
# Relative gain of the agreement, and fall of the mean entropy of poses in nats, that count as none.
AGREEMENT_GAIN, ENTROPY_FALL = 0.01, 0.3
# Mean entropy of poses in nats, that of 45 rotations which are alike, above which maps hardly move: so many
# passes have to go by.
FLAT, PATIENCE = 3.8, 3.0
# Nats of entropy below which poses are as sure as they need to be.
SURE = 1.0


def agreement(state: State) -> float:
    """Shells that the half maps agree on, in all: the sum of their correlation, classes by their shares.

    Shells that correlate at one count once, and those that say nothing not at all.
    """
    assert state.curves is not None
    sums = state.curves[:, 1:].clip(min=0.0).sum(axis=1)
    return float(sum(share * total for share, total in zip(state.shares, sums, strict=True)))


def pass_converged(run: Run, state: State) -> None:
    """Pass over the spare steps ahead, if the half maps have converged."""
    if not run.apart or state.place == len(run.program) or not run.program.steps[state.place].spare:
        return
    if not improving(state.history, len(run.sides[0].partition)):
        state.place = run.program.after_spare(state.place)
        state.total_iterations = state.iteration + run.program.ahead(state.place)


def improving(history: list[dict[str, Any]], minibatches: int) -> tuple[str, ...]:
    """What still gets better in a refinement, by its history.

    Parameters
    ----------
    history
        Rows of the refinement.
    minibatches
        Iterations of a pass over the images.
    """
    rows = [row for row in history if row["stage"] == "refine"]
    flat = bool(rows) and min(row["entropy"] for row in rows) > FLAT
    window = max(FEWEST, math.ceil((PATIENCE if flat else FRACTION) * minibatches))
    before, lately = rows[:-window], rows[-window:]
    if not before:
        return ("resolution", "half maps", "poses")
    found = []
    if max(row["radius"] for row in lately) > before[-1]["radius"]:
        found.append("resolution")
    best = max(row["agreement"] for row in before)
    if max(row["agreement"] for row in lately) > (1.0 + AGREEMENT_GAIN) * best:
        found.append("half maps")
    entropy = [min(row["entropy"] for row in some) for some in (before, lately)]
    if entropy[1] > SURE and entropy[1] < entropy[0] - ENTROPY_FALL:
        found.append("poses")
    return tuple(found)
