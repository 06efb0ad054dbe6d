"""All that half-sets share once they have started: for each class a curve, the correlation of their maps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cryograd.engine.run import Run, group_of
from cryograd.engine.state import State, Track
from cryograd.fourier import radius_grid
from cryograd.objective.shrinkage import LARGEST_RATIO
from cryograd.rotations import FloatArray
from cryograd.validation.gold_standard import gold_standard
from cryograd.validation.standard_error import expected_variance

# Half-map correlation at which a shell counts as resolved.
RESOLVED = 0.143
# Standard deviations of the correlation of noise that a resolved shell is above, and the most that is asked.
SIGNIFICANT, ENOUGH = 2.0, 0.5
# Shells in a row that are passed where those after them are resolved.
WIDEST_DIP = 2
# Width in Fourier pixels of the edge at which maps are cut.
EDGE = 2.0
# Decimals of the shared correlation.
DECIMALS = 6
# Curvature that the unfiltered maps' least measured frequencies are taken to have, as a fraction of their
# shell's mean.
RIDGE = 1e-3


def first_curves(size: int, start_radius: float, classes: int) -> FloatArray:
    """Curves (C, W // 2 + 1) of half maps that start from one map for each class."""
    shells = np.arange(size // 2 + 1)
    return np.tile((shells <= start_radius).astype(np.float64), (classes, 1))


def resolved(state: State, number: int) -> int:
    """The last shell of a class that is resolved."""
    assert state.curves is not None
    symmetry = state.sides[0].tracks[number].symmetry
    return last_resolved(state.curves[number], float(state.mask.mean()) / len(group_of(symmetry)))


def last_resolved(curve: FloatArray, independent: float) -> int:
    """The last shell of a curve of half maps before those that are not resolved.

    In a mask, shells of a symmetric map have few independent coefficients: noise alone correlates. Hollow
    molecules have hardly any signal in some shells: a dip is passed where two shells after it are resolved.

    Parameters
    ----------
    curve
        Correlation by shell from 0.
    independent
        Share of a shell's coefficients that are independent: the mask's mean over the order of the group.
    """
    free = independent * 2.0 * np.pi * np.arange(1, len(curve)) ** 2
    least = np.clip(SIGNIFICANT / np.sqrt(free), RESOLVED, ENOUGH)
    above = curve[1:] >= least
    # A shell is sound next to the one before it, or as the first of two.
    pairs = np.append(above[:-1] & above[1:], False)
    last = 0
    while last < len(above):
        if above[last]:
            last += 1
            continue
        ahead = np.flatnonzero(pairs[last : last + WIDEST_DIP + 1])
        if not len(ahead):
            break
        last += int(ahead[0]) + 1
    return last


def reached(state: State) -> float:
    """Fourier pixels to which the half maps of the finest class agree; the radius where there are none."""
    if state.curves is None:
        return state.radius
    return max(state.start_radius, *(resolved(state, number) for number in range(len(state.curves))))


def noise_to_signal(state: State, number: int) -> Tensor:
    """Ratio of noise to signal of a class's half map at each of its coefficients: (1 − FSC)/FSC."""
    assert state.curves is not None
    mask = state.mask
    correlation = torch.as_tensor(state.curves[number], dtype=mask.dtype, device=mask.device)
    ratio = ((1.0 - correlation) / correlation.clamp(min=1e-6)).clamp(0.0, LARGEST_RATIO)
    shell = radius_grid(len(mask), 3, mask.device).round().long()
    # The corners of the box beyond Nyquist are never open.
    return ratio[shell.clamp(max=len(ratio) - 1)]


def correlated(state: State) -> FloatArray:
    """The curves after the half maps have moved, (C, W // 2 + 1)."""
    return np.array([_correlation(state, pair) for pair in state.tracks])


def _correlation(state: State, pair: Sequence[Track]) -> FloatArray:
    """Correlation of two half maps before mask and constraint, by shell of the images, (W // 2 + 1,).

    In the solvent mask, without what it adds; 0 beyond the open radius. In a mask around the molecule random
    phases leave less power than the molecule has, and would take what leaks into weak shells for more than it
    is.
    """
    one, two = (track.shown.cpu().numpy() for track in pair)
    mask = state.mask.cpu().numpy()
    found = gold_standard(one, two, mask, state.extent / len(mask), seed=0)
    known = np.arange(len(found.corrected)) <= state.radius
    within = np.where(known, found.corrected, 0.0).round(DECIMALS)
    return np.pad(within, (0, state.size // 2 + 1 - len(within)))


def noise_of_mean(run: Run, state: State, number: int) -> FloatArray:
    """Variance that each shell adds to a voxel of the mean of a class's unfiltered maps, at known poses.

    Of a finished refinement in its working box, before the point group is averaged over; shape (W // 2 + 1,).
    """
    variance = np.zeros(state.size // 2 + 1)
    for side, members in zip(state.sides, run.sides, strict=True):
        curvature = side.tracks[number].curvature
        assert curvature is not None
        variance += 0.25 * expected_variance(curvature, len(members.train), RIDGE)
    return variance
