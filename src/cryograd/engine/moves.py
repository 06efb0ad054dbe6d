"""What an iteration makes of one side: its tracks step, or add up the last pass, or are only looked at."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryograd.engine.batches import Minibatch, drawn
from cryograd.engine.belonging import counts_of, with_picks
from cryograd.engine.curves import EDGE, RIDGE, noise_to_signal, resolved
from cryograd.engine.program import Step
from cryograd.engine.rivalry import Outcome, Take, classified, competed, for_class, for_start, together
from cryograd.engine.run import Run
from cryograd.engine.searches import poses_of
from cryograd.engine.state import Side, State, Track
from cryograd.fourier import lowpass_volume
from cryograd.model.noise import NoisePower
from cryograd.objective import shrinkage
from cryograd.objective.likelihood import Evaluation, Halves, Images, Looked, MarginalLikelihood, Mean
from cryograd.objective.mixture import Mixture
from cryograd.objective.shrinkage import shell_means, wiener_precision
from cryograd.pose.known import Known
from cryograd.pose.posterior import Poses
from cryograd.steps.protocol import Local, Spectrum
from cryograd.steps.quadratic import Quadratic

# Weight of a minibatch in the running noise variance, and in the classes' shares.
RUNNING_RATE = 0.2
# Conjugate gradients that solve for the likeliest map of the last pass.
SOLUTION = 24


@dataclass(frozen=True)
class Work:
    """One side at one step: what its tracks are evaluated on.

    Parameters
    ----------
    run, state, number, step
        The run, its state before, the side, and what it does.
    indices
        Particles of the minibatch, shape (B,).
    minibatch
        Its number in a partition, of how many.
    """

    run: Run
    state: State
    number: int
    step: Step
    indices: np.ndarray
    minibatch: tuple[int, int]

    @staticmethod
    def of(run: Run, state: State, number: int, step: Step) -> "Work":
        """The work of a step on its next images."""
        return Work(run, state, number, step, *drawn(run, state, number, step))

    @property
    def side(self) -> Side:
        """The side as it is."""
        return self.state.sides[self.number]

    @property
    def radius(self) -> float:
        """Fourier pixels."""
        assert self.step.radius is not None
        return self.step.radius

    @property
    def rate(self) -> float:
        """Weight of the minibatch in running means over the images."""
        return 1.0 if self.run.solver.needs.takes == "all" else RUNNING_RATE

    def likelihood(self, track: Track) -> MarginalLikelihood:
        """The likelihood of a track's map."""
        return self.run.likelihood(self.radius, track.symmetry, len(track.volume))

    def looked(self, track: Track) -> Looked:
        """The poses that images are looked at for a track's map."""
        return poses_of(self.run, self.state, self.number, self.step, self.indices, track.symmetry)

    def images(self, masked: bool = True) -> Minibatch:
        """The images, which are read when they are needed."""
        disc = self.likelihood(self.side.tracks[0]).disc
        counts = counts_of(self.run, self.state, self.number, self.indices)
        return Minibatch(self.run, self.state, self.number, self.indices, disc, masked, counts)

    def halves(self, track: Track, which: Tensor) -> Halves | None:
        """The two halves of some of the images, where their difference is followed."""
        if track.difference is None or self.run.noise_halves is None:
            return None
        upper = torch.as_tensor(self.run.noise_halves[self.indices], device=track.volume.device)
        return Halves(track.difference, upper[which])


# What is made of a track, by its place, that was evaluated on what it takes.
Act = Callable[[Work, int, Evaluation, Take], Track]


def moved(run: Run, state: State, number: int, step: Step) -> tuple[Side, dict[str, Any]]:
    """A side after a step that changes its maps, and what the history says of it."""
    work = Work.of(run, state, number, step)
    images = work.images()
    outcome = _outcome(work, images, _stepped)
    noise = work.side.noise
    if outcome.residual is not None:
        power = NoisePower.of(outcome.residual, images.disc, images.group, noise, images.counts)
        noise = noise.updated(power, work.rate)
    side, row = _told(work, images, outcome, replace(work.side, tracks=outcome.tracks, noise=noise))
    return with_picks(run, state, number, side), row


def gathered(run: Run, state: State, number: int, step: Step) -> tuple[Side, dict[str, Any]]:
    """A half-set after some images of the last pass.

    Its maps do not change meanwhile. What the images say of them at all frequencies is added up. When all
    have been seen, the minimum is the unfiltered map, without prior, mask and constraint.
    """
    work = Work.of(run, state, number, step)
    images = work.images()
    outcome = _outcome(work, images, _added)
    return _told(work, images, outcome, replace(work.side, tracks=outcome.tracks))


def looked_at(run: Run, state: State, number: int, step: Step) -> tuple[Side, dict[str, Any]]:
    """A side with the poses of its next particles at its last maps, which do not change any more."""
    work = Work.of(run, state, number, step)
    images = work.images()
    found = posterior(work, images.at_hand() if len(work.side.tracks) > 1 else images)
    state.table.update(work.indices, found.poses, found.probabilities)
    return work.side, row_of(work, found.poses, work.side)


def posterior(work: Work, images: Images) -> Mixture:
    """Classes and poses of images; of one map all belong to it."""

    def poses(track: Track) -> Poses:
        return work.likelihood(track).poses(track.volume, images, work.looked(track))

    return classified(work.run, work.state, work.number, work.step, work.indices, poses)


def _outcome(work: Work, images: Minibatch, act: Act) -> Outcome:
    """Every track evaluated on the images that count in it, and what is made of it."""
    held = images.at_hand()
    if work.run.classes == 1:
        take = for_start(held)
        pairs = [_acted(work, place, take, act) for place in range(len(work.side.tracks))]
        return competed(pairs, len(images.disc), work.step.tracks)
    mixed = posterior(work, held)
    # What the last pass adds up must not depend on how its images are divided: shares stay as they are.
    moving = work.step.changes_maps
    takes = [for_class(held, probability, fed=moving) for probability in mixed.probabilities]
    trios = [(*_acted(work, place, take, act), take) for place, take in enumerate(takes)]
    return together(trios, mixed, work.rate if moving else 0.0)


def _acted(work: Work, place: int, take: Take, act: Act) -> tuple[Track, Evaluation]:
    """A track evaluated on what it takes, and what is made of it."""
    track = work.side.tracks[place]
    looked = work.looked(track)
    if isinstance(looked, Known):
        looked = looked.at(take.which.cpu().numpy())
    halves = work.halves(track, take.which)
    found = work.likelihood(track).evaluate(track.volume, take.images, looked, halves)
    # Means are over the whole minibatch, whatever part of it a track takes.
    found = replace(found, sums=replace(found.sums, images=len(work.indices)))
    moved = act(work, place, found, take)
    # The grids of all tracks together would take much memory.
    return moved, replace(found, sums=found.sums.numbers)


def _stepped(work: Work, place: int, found: Evaluation, take: Take) -> Track:
    """The solver's step, with the prior and the mask."""
    run, track = work.run, work.side.tracks[place]
    likelihood = work.likelihood(track)
    mean = likelihood.mean(found.sums)
    local = local_objective(work, likelihood, mean, found, take.images)
    difference, difference_solver = track.difference, track.difference_solver
    # Once images have poses of their own, halves of them say how much of the map is noise.
    if difference is not None and mean.slope is not None:
        ratio = shrinkage.noise_to_signal(track.volume, difference)
        local = replace(local, precision=partial(wiener_precision, ratio))
        step = run.solver.step(difference_solver, difference, replace(local, gradient=mean.slope))
        difference, difference_solver = step.volume * work.state.mask, step.state
    elif run.apart:
        ratio = noise_to_signal(work.state, place)
        local = replace(local, precision=partial(wiener_precision, ratio))
    move = run.solver.step(track.solver, track.volume, local)
    volume = _allowed(work, track, move.volume, move.length)
    if not run.apart:
        return replace(
            track,
            volume=volume,
            solver=move.state,
            difference=difference,
            difference_solver=difference_solver,
        )
    # The constraint and the mask make much of what the halves agree on into more that they seem to agree on.
    # Poses do not see beyond what is resolved without them.
    sound = max(resolved(work.state, place), work.state.start_radius - 0.5 * EDGE)
    volume = lowpass_volume(volume, sound, EDGE)
    return replace(track, volume=volume, solver=move.state, unfiltered=move.volume)


def _allowed(work: Work, track: Track, volume: Tensor, length: float) -> Tensor:
    """A map in the mask, after a step of some length along the prior, among the densities that it allows."""
    run, masked = work.run, volume * work.state.mask
    # The loss is a mean over images. Voxels finer than the resolution are not independent: the prior counts
    # resolution elements.
    elements = 4.0 / 3.0 * math.pi * (work.radius / len(masked)) ** 3
    # Classes share its strength as they share the images: were it the same in all, a class that loses images
    # would lose density for that, and more images for want of density.
    strength = run.classes * track.share
    images = len(run.sides[work.number].train)
    prior = run.prior.gradient(masked) * (strength * elements / images)
    return run.prior.project(masked - length * prior)


def _added(work: Work, place: int, found: Evaluation, take: Take) -> Track:
    """What images of the last pass say, added to what others said; after the last ones its minimum."""
    track, (number, parts) = work.side.tracks[place], work.minibatch
    sums = found.sums if track.sums is None else track.sums + found.sums
    if number == 0:
        # What the solver remembers is of no use any more, and the largest part of a refinement.
        track = replace(track, solver=work.run.solver.init(track.volume))
    if number < parts - 1:
        return replace(track, sums=sums)
    likelihood = replace(work.likelihood(track), weight_type=None)
    mean = likelihood.mean(sums)
    local = local_objective(work, likelihood, mean, found, take.images)
    plain = replace(local, precision=lambda curvature: RIDGE * shell_means(curvature))
    step = Quadratic.of(plain, track.volume, 1.0).newton_step(track.volume, plain, RIDGE, SOLUTION, RIDGE)
    return replace(track, unfiltered=track.volume - step, sums=None, curvature=mean.curvature)


def local_objective(
    work: Work, likelihood: MarginalLikelihood, mean: Mean, found: Evaluation, images: Images
) -> Local:
    """The objective near a map that it was evaluated at, without a prior."""
    side = work.side
    return Local(
        loss=mean.value,
        gradient=mean.gradient,
        curvature=mean.curvature,
        precision=torch.zeros_like,
        weights=mean.weights,
        value=lambda volume: -likelihood.log_evidence(volume, images, found.posesets) / found.sums.images,
        normal=likelihood.normal,
        spectrum=Spectrum.of_voxels(likelihood.size, work.radius, mean.gradient.device),
        radius=work.radius,
        rate=work.step.rate,
        iteration=work.state.iteration,
        epoch=side.images_drawn // len(work.run.sides[work.number].train),
        minibatch=work.minibatch,
    )


def _told(work: Work, images: Minibatch, outcome: Outcome, side: Side) -> tuple[Side, dict[str, Any]]:
    """The side with what was drawn, its rows in the run's tables, and its row in the history."""
    table, memory, found = work.state.table, work.state.memory, outcome.found
    table.update(work.indices, images.at_scale_one(outcome.poses), outcome.probabilities)
    if found.marginals:
        memory.update(work.indices, found.marginals)
    side = replace(side, images_drawn=side.images_drawn + len(work.indices))
    row = row_of(work, outcome.poses, side) | {"points": found.points}
    if outcome.probabilities is not None:
        row["shares"] = [track.share for track in outcome.tracks]
    return side, row


def row_of(work: Work, poses: Poses, side: Side) -> dict[str, Any]:
    """What the history says of a side's iteration."""
    variance, prior = side.noise.variance[:, int(work.radius)], work.run.prior
    return {
        "log_evidence": float(poses.log_evidence.double().mean()),
        "entropy": float(poses.entropy.double().mean()),
        "max_probability": float(poses.max_probability.double().mean()),
        "noise": float(variance.mean()) / work.run.images.size**2,
        # Maps of half-sets are cut after the prior has projected them.
        "log_prior": -prior.value(prior.project(side.best.volume)),
    }
