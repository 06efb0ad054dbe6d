"""The map that a refinement ends with: both halves together, as far as their unfiltered maps agree."""

from dataclasses import replace

import torch
from torch import Tensor

from cryograd.engine.curves import correlated, noise_to_signal
from cryograd.engine.run import Run
from cryograd.engine.state import State, Track
from cryograd.fourier import fourier_3d, inverse_fourier_3d
from cryograd.objective.shrinkage import wiener_precision


def finished(run: Run, state: State) -> None:
    """Correlate the unfiltered half maps, and make of each pair the map that both tracks then have."""
    state.curves = correlated(state)
    for number, (first, second) in enumerate(state.tracks):
        joint = _joint(run, state, number, first, second)
        for place, side in enumerate(state.sides):
            tracks = list(side.tracks)
            tracks[number] = replace(tracks[number], volume=joint)
            state.sides[place] = replace(side, tracks=tuple(tracks))


def _joint(run: Run, state: State, number: int, first: Track, second: Track) -> Tensor:
    """The mean of two unfiltered maps, weighted as far as they agree, masked, among allowed densities.

    The mean has half the noise of either map. Each coefficient is multiplied by its expected correlation with
    the truth, which depends on how well the images measure it: the root of the Wiener filter, the figure of
    merit of Rosenthal and Henderson, J. Mol. Biol. 333 (2003). The Wiener filter itself falls so steeply from
    shell to shell that what a mask carries over from strong shells hides what the weak ones hold.
    """
    assert first.unfiltered is not None
    assert second.unfiltered is not None
    assert first.curvature is not None
    assert second.curvature is not None
    curvature = 0.5 * (first.curvature + second.curvature)
    precision = wiener_precision(0.5 * noise_to_signal(state, number), curvature)
    kept = curvature / (curvature + precision).clamp(min=torch.finfo(curvature.dtype).tiny)
    mean = fourier_3d(0.5 * (first.unfiltered + second.unfiltered))
    volume = inverse_fourier_3d(kept.sqrt() * mean, len(first.volume))
    return run.prior.project(volume * state.mask)
