"""Which image counts in which track: starts compete for all images, classes share them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryograd.draws import Stream, generator
from cryograd.engine.program import Step
from cryograd.engine.refusals import refuse_infinite
from cryograd.engine.run import Run
from cryograd.engine.state import State, Track
from cryograd.objective.likelihood import Evaluation, Images
from cryograd.objective.mixture import Mixture, mixture
from cryograd.pose.posterior import NEGLIGIBLE, Poses

# Share of a minibatch that a class has at least.
LEAST_SHARE = 0.005
# Weight of a minibatch in the running evidence of a start.
EVIDENCE_RATE = 0.3
# Probability of a class that an image was not given at its first visit.
_NOT_GIVEN = 1e-6


@dataclass(frozen=True)
class Take:
    """What a track takes of a minibatch of B images.

    Parameters
    ----------
    images
        The images that count in it, each as much as it is its own.
    which
        Which ones of the minibatch these are, (B,), bool.
    share
        The part of the minibatch that is its own.
    """

    images: Images
    which: Tensor
    share: float


def for_start(images: Images) -> Take:
    """All images, as each start takes them."""
    which = torch.ones(len(images), dtype=torch.bool, device=images.counts.device)
    return Take(images, which, 1.0)


def classified(
    run: Run,
    state: State,
    number: int,
    step: Step,
    indices: np.ndarray,
    poses: Callable[[Track], Poses],
) -> Mixture:
    """The classes of a side's images.

    Parameters
    ----------
    run, state, number, step
        The run, its state, the side and what it does next.
    indices
        Particles, shape (B,).
    poses
        What the posterior of a track says of them.
    """
    tracks = state.sides[number].tracks
    found = mixture(
        [poses(track) for track in tracks],
        [track.share for track in tracks],
        step.temperature,
        step.even,
    )
    refuse_infinite(bool(found.probabilities.isfinite().all()), state.iteration + 1)
    return replace(found, probabilities=_divided(run, state, indices, found)) if run.divided else found


def _divided(run: Run, state: State, indices: np.ndarray, found: Mixture) -> Tensor:
    """Probabilities in which each image that was not seen yet is given to a class at random.

    Classes that start from one map would stay one for ever.
    """
    probabilities, classes = found.probabilities.clone(), len(found.probabilities)
    for column, index in enumerate(indices):
        if not state.table.visited[index]:
            given = int(generator(run.seed, Stream.CLASS, int(index)).integers(classes))
            probabilities[:, column] = _NOT_GIVEN
            probabilities[given, column] = 1.0 - (classes - 1) * _NOT_GIVEN
    return probabilities


def for_class(images: Images, probability: Tensor, fed: bool) -> Take:
    """The images that may belong to a class, with their probabilities (B,).

    Where it is fed, an empty class goes on with the images that are the nearest to it.
    """
    which = probability >= probability.max().clamp(max=NEGLIGIBLE)
    share = float(probability.mean())
    lifted = max(1.0, LEAST_SHARE / share) if fed else 1.0
    return Take(images.counted(lifted * probability * images.counts, which), which, share)


@dataclass(frozen=True)
class Outcome:
    """What all tracks together say of a minibatch of B images.

    Parameters
    ----------
    tracks
        As they go on.
    poses
        Of each image, under the best start or the likeliest class.
    probabilities
        Of each class, (C, B); None where starts compete.
    residual
        As of `Evaluation`: of the best start, or the mean over the classes, (B, S); None where it is not
        known.
    found
        One track's evaluation.
    """

    tracks: tuple[Track, ...]
    poses: Poses
    probabilities: Tensor | None
    residual: Tensor | None
    found: Evaluation


def competed(pairs: list[tuple[Track, Evaluation]], coefficients: int, survivors: int) -> Outcome:
    """Starts after a step on the same images, which had so many coefficients each: the best so many go on."""
    ranked = sorted(
        ((_judged(track, found, coefficients), found) for track, found in pairs),
        key=lambda pair: -pair[0].evidence,
    )
    best = ranked[0][1]
    return Outcome(tuple(track for track, _ in ranked[:survivors]), best.poses, None, best.residual, best)


def _judged(track: Track, found: Evaluation, coefficients: int) -> Track:
    """A start with its running log evidence, per coefficient: it does not jump when the radius grows."""
    now, before = found.sums.log_evidence / (found.sums.images * coefficients), track.evidence
    if np.isfinite(before):
        now = (1.0 - EVIDENCE_RATE) * before + EVIDENCE_RATE * now
    return replace(track, evidence=now)


def together(trios: list[tuple[Track, Evaluation, Take]], posterior: Mixture, rate: float) -> Outcome:
    """Classes after a step on the images that each took; their shares are running means with a rate."""
    tracks, residual = [], None
    for (track, found, take), probability in zip(trios, posterior.probabilities, strict=True):
        tracks.append(replace(track, share=(1.0 - rate) * track.share + rate * take.share))
        if found.residual is not None:
            if residual is None:
                residual = found.residual.new_zeros(len(probability), found.residual.shape[1])
            residual[take.which] += probability[take.which, None].to(residual) * found.residual
    return Outcome(tuple(tracks), posterior.poses, posterior.probabilities, residual, trios[0][1])
