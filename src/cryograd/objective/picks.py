"""Which picks are of the particle: where particles lie in their images, how strong they are, and others.

A picker centres its boxes on particles within some Å, and their signal has about the same strength. Ice,
neighbours and dirt lie anywhere in their boxes, since they fit the map best where they happen to look like
some part of it, and they are weaker or stronger. Neither says enough of one image; both together do.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cryograd.draws import Stream, generator
from cryograd.pose.quadrature import ShiftPrior
from cryograd.rotations import FloatArray

# Particles that are looked at to find how they lie, and fewer than which say nothing.
SAMPLE, FEWEST = 2000, 50
# Steps of the expectation maximisation, and the change of the mean log density at which it ends.
STEPS, SETTLED = 300, 1e-5
# Part of what there is to know of which picks do not belong that has to be told for them to be believed in:
# one group with a heavy tail would be split in its middle. Selected particles of β-galactosidase tell 0.36 to
# 0.38, all picks 0.86.
TOLD = 0.6
# Share of the particles that may lie anywhere, at least.
LEAST_STRAY = 0.05


@dataclass(frozen=True)
class Cues:
    """What is known of n images.

    Parameters
    ----------
    scale
        Of the signal, around 1, shape (n,).
    rotations, shifts
        The best pose: matrices (n, 3, 3), and origin offsets in Å (n, 2).
    spread
        Variance of the origin offset under the posterior, both axes together, in Å², shape (n,).
    """

    scale: FloatArray
    rotations: FloatArray
    shifts: FloatArray
    spread: FloatArray

    def __len__(self) -> int:
        return len(self.scale)

    def at(self, places: NDArray[np.integer] | slice) -> "Cues":
        """Those of some of the images."""
        return Cues(*(values[places] for values in vars(self).values()))


@dataclass(frozen=True)
class Kind:
    """One kind of picks.

    Parameters
    ----------
    scale, width
        Mean and standard deviation of their scales.
    share
        Of all picks.
    anywhere
        Whether they lie anywhere within reach, and not like particles.
    """

    scale: float
    width: float
    share: float
    anywhere: bool = False

    def log_density(self, scale: FloatArray, near: FloatArray, far: float) -> FloatArray:
        """Log density of images (n,) of this kind by their scales and the densities of their places."""
        with np.errstate(divide="ignore"):
            return (
                np.log(self.share)
                + _log_normal(scale, self.scale, self.width)
                + (far if self.anywhere else near)
            )

    def like(self, scale: FloatArray, probability: FloatArray, most: float) -> "Kind":
        """The likeliest of its sort for images that belong to it with some probabilities, (n,)."""
        share = float(np.clip(probability.mean(), 1e-3, most))
        return Kind(*_mean_and_width(scale, probability.clip(1e-12)), share, self.anywhere)


@dataclass(frozen=True)
class Model:
    """Particles beside others that are not of them.

    Parameters
    ----------
    centre
        Point (x, y, z) of the map, in Å from its origin, that the picks are centred on.
    width
        Standard deviation in Å of picks around it, for each axis.
    particles
        Those that belong.
    others
        Kinds of those that do not; none where they cannot be told from the particles.
    reach
        The largest shift in Å.
    """

    centre: tuple[float, float, float]
    width: float
    particles: Kind
    others: tuple[Kind, ...]
    reach: float

    def junk(self, cues: Cues) -> FloatArray:
        """Probability of each image that it is not of the particle, shape (n,)."""
        if not self.others:
            return np.zeros(len(cues))
        logs = self._log_densities(cues)
        return np.exp(np.logaddexp.reduce(logs[1:]) - np.logaddexp.reduce(logs))

    def evidence(self, cues: Cues) -> float:
        """Log density of all images, less what its parameters are worth by Bayes' criterion."""
        density = np.logaddexp.reduce(self._log_densities(cues)).sum()
        return float(density - 1.5 * len(self.others) * np.log(len(cues)))

    def tells(self, cues: Cues) -> bool:
        """Whether it says of most images whether they belong."""
        probability = self.junk(cues)
        there = _entropy(np.array([probability.mean()]))[0]
        return _entropy(probability).mean() < (1.0 - TOLD) * there

    def settled(self, cues: Cues, least_width: float) -> "Model":
        """The likeliest parameters, from these on."""
        found, before = self, -np.inf
        for _ in range(STEPS):
            logs = found._log_densities(cues)
            total = np.logaddexp.reduce(logs)
            if total.mean() - before < SETTLED:
                break
            before = total.mean()
            found = found.maximised(cues, np.exp(logs - total), least_width)
        return found

    def maximised(self, cues: Cues, probabilities: FloatArray, least_width: float) -> "Model":
        """The likeliest parameters for images that are of each kind with some probabilities, (1 + K, n)."""
        most = 0.9 / max(len(self.others), 1)
        particles = self.particles.like(cues.scale, probabilities[0], 1.0)
        others = [
            kind.like(cues.scale, p, most) for kind, p in zip(self.others, probabilities[1:], strict=True)
        ]
        # Told by their scale alone, a few particles of nearly equal scale would be a group of their own.
        least = max((0.5 * kind.width for kind in others if not kind.anywhere), default=0.0)
        particles = replace(particles, width=max(particles.width, least))
        # What does not belong is not much more alike than what does.
        others = [replace(kind, width=max(kind.width, 0.5 * particles.width)) for kind in others]
        # Where others lie like particles all say how these do.
        near = [0, *(number for number, kind in enumerate(others, 1) if not kind.anywhere)]
        weights = probabilities[near].sum(axis=0).clip(1e-12)
        centre = _centre(cues, probabilities[0].clip(1e-12))
        width = float(np.sqrt(0.5 * np.average(_distances(cues, centre), weights=weights)))
        total = 1.0 - sum(kind.share for kind in others)
        return Model(
            tuple(centre.tolist()),
            max(width, least_width),
            replace(particles, share=total),
            tuple(others),
            self.reach,
        )

    def _log_densities(self, cues: Cues) -> FloatArray:
        """Log densities of particles and of each other kind, with their shares, shape (1 + K, n)."""
        squares = _distances(cues, np.array(self.centre))
        near = -0.5 * squares / self.width**2 - np.log(2.0 * np.pi * self.width**2)
        far = -np.log(np.pi * self.reach**2)
        return np.array([kind.log_density(cues.scale, near, far) for kind in (self.particles, *self.others)])


@dataclass(frozen=True)
class Picks:
    """How particles lie in their images, and how strong they are, beside picks that are not of them.

    Others are told by where they lie, at any scale; by their scale alone; or there are some of either kind.
    Each of these models counts as much as the images say for it.

    Parameters
    ----------
    models
        Those under which images say which of them belong, the likeliest first; or the one where all do.
    weights
        Probability of each, in all 1.
    """

    models: tuple[Model, ...]
    weights: tuple[float, ...]

    @staticmethod
    def of(cues: Cues, reach: float, least_width: float) -> "Picks | None":
        """How some particles lie; None where they are too few to say.

        Parameters
        ----------
        cues
            What is known of them.
        reach
            The largest shift in Å that was looked for.
        least_width
            Å: the width that is found at least.
        """
        if len(cues) < FEWEST:
            return None
        # At random: in the order of a file optics groups may alternate.
        some = cues.at(generator(0, Stream.PICKS).permutation(len(cues))[:SAMPLE])
        reach = max(reach, float(np.hypot(*some.shifts.T).max()), 3.0 * least_width)
        alone = Model((0.0, 0.0, 0.0), reach / 3.0, Kind(1.0, 1.0, 1.0), (), reach)
        alone = alone.maximised(some, np.ones((1, len(some))), max(least_width, 1e-3))
        settled = [start.settled(some, least_width) for start in _starts(some.scale, alone)]
        least = alone.evidence(some)
        found = [(model.evidence(some), model) for model in settled if model.tells(some)]
        found = [pair for pair in found if pair[0] > least] or [(least, alone)]
        found.sort(key=lambda pair: -pair[0])
        weights = np.exp([evidence - found[0][0] for evidence, _ in found])
        return Picks(tuple(model for _, model in found), tuple((weights / weights.sum()).tolist()))

    @property
    def centre(self) -> tuple[float, float, float]:
        """The likeliest point of the map that the picks are centred on, in Å from its origin."""
        return self.models[0].centre

    @property
    def width(self) -> float:
        """The likeliest standard deviation in Å of picks around it, for each axis."""
        return self.models[0].width

    @property
    def others(self) -> float:
        """The likeliest share of picks that do not belong; 0 where they cannot be told from the particles."""
        return sum(kind.share for kind in self.models[0].others)

    @property
    def shift_prior(self) -> ShiftPrior:
        """The prior of origin offsets: around 0, of particles in any orientation."""
        sigma = float(np.sqrt(self.width**2 + np.square(self.centre).sum() / 3.0))
        return ShiftPrior(sigma, max(self.others, LEAST_STRAY), self.models[0].reach)

    def junk(self, cues: Cues) -> FloatArray:
        """Probability of each image that it is not of the particle, shape (n,)."""
        return sum(
            (weight * model.junk(cues) for weight, model in zip(self.weights, self.models, strict=True)),
            start=np.zeros(len(cues)),
        )


def _starts(scale: FloatArray, alone: Model) -> list[Model]:
    """The models to settle: with others anywhere, with others of another scale, and with both."""
    low, middle, high = np.quantile(scale, [0.1, 0.5, 0.6]).tolist()
    width, reach = max(float(scale.std()), 1e-3), alone.reach

    def start(scale: float, *others: Kind) -> Model:
        share = 1.0 - sum(kind.share for kind in others)
        return Model((0.0, 0.0, 0.0), reach / 3.0, Kind(scale, width / 2.0, share), others, reach)

    anywhere = Kind(middle, width, 0.2, anywhere=True)
    return [
        start(middle, anywhere),
        start(high, Kind(low, width, 0.3)),
        start(high, anywhere, Kind(low, width / 2.0, 0.2)),
    ]


def _centre(cues: Cues, weights: FloatArray) -> FloatArray:
    """The point that the images are centred on, by least squares; as far as their views say, shape (3,)."""
    rows = cues.rotations[:, :2]
    normal = np.einsum("n,nij,nik->jk", weights, rows, rows)
    seen = np.einsum("n,nij,ni->j", weights, rows, cues.shifts)
    return np.linalg.pinv(normal, rcond=1e-2, hermitian=True) @ seen


def _distances(cues: Cues, centre: FloatArray) -> FloatArray:
    """Mean squared distance in Å² of each image's centre from a point's projection, shape (n,)."""
    return np.square(cues.shifts - cues.rotations[:, :2] @ centre).sum(axis=1) + cues.spread


def _mean_and_width(values: FloatArray, weights: FloatArray) -> tuple[float, float]:
    mean = float(np.average(values, weights=weights))
    return mean, max(float(np.sqrt(np.average((values - mean) ** 2, weights=weights))), 1e-3)


def _log_normal(values: FloatArray, mean: float, width: float) -> FloatArray:
    return -0.5 * ((values - mean) / width) ** 2 - 0.5 * np.log(2.0 * np.pi * width**2)


def _entropy(probability: FloatArray) -> FloatArray:
    """Entropy in nats of whether something is so, by its probability."""
    p = probability.clip(1e-12, 1.0 - 1e-12)
    return -p * np.log(p) - (1.0 - p) * np.log1p(-p)
