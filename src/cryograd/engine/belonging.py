"""Which images of a side are of the particle, as far as its last visits say."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cryograd.engine.run import Run
from cryograd.engine.state import Side, State
from cryograd.objective.picks import Cues, Picks


def with_picks(run: Run, state: State, number: int, side: Side) -> Side:
    """A half-set that knows how particles lie in their images, once enough of these have been visited."""
    if not run.apart:
        return side
    members = run.sides[number].every
    cues = _cues(run, state, members[state.table.visited[members] & ~run.images.strange[members]])
    return replace(side, picks=Picks.of(cues, run.max_shift, run.images.extent / run.images.size))


def counts_of(run: Run, state: State, number: int, indices: np.ndarray) -> Tensor | None:
    """Probability that some images (B,) of a side belong, (B,); None where all do.

    An image that was not visited yet counts as one that does, and a strange one never.
    """
    picks, strange = state.sides[number].picks, run.images.strange[indices]
    if picks is None or picks.others == 0.0:
        return (
            torch.as_tensor(~strange, dtype=torch.float32, device=run.images.device)
            if strange.any()
            else None
        )
    members = run.sides[number].every
    # Scales are compared with those of the whole side. Members are sorted.
    cues = _cues(run, state, members).at(np.searchsorted(members, indices))
    junk = np.where(state.table.visited[indices], picks.junk(cues), 0.0)
    junk[strange] = 1.0
    return torch.as_tensor(1.0 - junk, dtype=torch.float32, device=run.images.device)


def _cues(run: Run, state: State, members: np.ndarray) -> Cues:
    return state.table.cues(members, run.scale_width, run.images.particles.scale_group)
