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
STEPS, SETTLED = 300, 1e-7
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
class Picks:
    """How particles lie in their images, and how strong they are, beside picks that are not of them.

    Parameters
    ----------
    centre
        Point (x, y, z) of the map, in Å from its origin, that the picks are centred on.
    width
        Standard deviation in Å of picks around it, for each axis.
    scale, scale_width
        Mean and standard deviation of the particles' scales.
    other_scale, other_scale_width
        The same of picks that do not belong.
    others
        Share of these; 0 where they cannot be told from the particles.
    anywhere
        Whether they lie anywhere within reach, and not like particles.
    reach
        The largest shift in Å.
    """

    centre: tuple[float, float, float]
    width: float
    scale: float
    scale_width: float
    other_scale: float
    other_scale_width: float
    others: float
    anywhere: bool
    reach: float

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
        low, middle, high = np.quantile(some.scale, [0.1, 0.5, 0.6]).tolist()
        width = max(float(some.scale.std()), 1e-3)
        # Others are told by where they lie, at any scale, or by their scale alone.
        starts = [
            Picks((0.0, 0.0, 0.0), reach / 3.0, middle, width / 2.0, middle, width, 0.2, True, reach),
            Picks((0.0, 0.0, 0.0), reach / 3.0, high, width / 2.0, low, width, 0.3, False, reach),
        ]
        settled = [start._settled(some, least_width) for start in starts]
        found = max(settled, key=lambda picks: picks._log_density(some).mean())
        return found if found.told(some, least_width) else found._all_belong(some, least_width)

    @property
    def shift_prior(self) -> ShiftPrior:
        """The prior of origin offsets: around 0, of particles in any orientation."""
        sigma = float(np.sqrt(self.width**2 + np.square(self.centre).sum() / 3.0))
        return ShiftPrior(sigma, max(self.others, LEAST_STRAY), self.reach)

    def junk(self, cues: Cues) -> FloatArray:
        """Probability of each image that it is not of the particle, shape (n,)."""
        if self.others == 0.0:
            return np.zeros(len(cues))
        logs = self._log_densities(cues)
        return np.exp(logs[1] - np.logaddexp(*logs))

    def told(self, cues: Cues, least_width: float) -> bool:
        """Whether the images say which of them do not belong."""
        probability = self.junk(cues)
        there = _entropy(np.array([probability.mean()]))[0]
        # Three parameters more than where all belong, by the Bayesian information criterion.
        gain = self._log_density(cues).sum() - self._all_belong(cues, least_width)._log_density(cues).sum()
        return gain > 1.5 * np.log(len(cues)) and _entropy(probability).mean() < (1.0 - TOLD) * there

    def _settled(self, cues: Cues, least_width: float) -> "Picks":
        """The likeliest parameters, from these on."""
        found, before = self, -np.inf
        for _ in range(STEPS):
            logs = found._log_densities(cues)
            total = np.logaddexp(*logs)
            if total.mean() - before < SETTLED:
                break
            before = total.mean()
            found = found._maximised(cues, np.exp(logs[1] - total), least_width)
        return found

    def _log_density(self, cues: Cues) -> FloatArray:
        """Log density of each image, shape (n,)."""
        return np.logaddexp(*self._log_densities(cues))

    def _log_densities(self, cues: Cues) -> tuple[FloatArray, FloatArray]:
        """Log densities of particles and of others, with their shares, shape (n,) each."""
        squares = _distances(cues, np.array(self.centre))
        place = -0.5 * squares / self.width**2 - np.log(2.0 * np.pi * self.width**2)
        elsewhere = np.full(len(cues), -np.log(np.pi * self.reach**2)) if self.anywhere else place
        particles = _log_normal(cues.scale, self.scale, self.scale_width) + place
        others = _log_normal(cues.scale, self.other_scale, self.other_scale_width) + elsewhere
        with np.errstate(divide="ignore"):
            return np.log1p(-self.others) + particles, np.log(self.others) + others

    def _maximised(self, cues: Cues, other: FloatArray, least_width: float) -> "Picks":
        """The likeliest parameters for images that belong to the others with some probabilities, (n,)."""
        other = other.clip(1e-12, 1.0 - 1e-12)
        belongs = 1.0 - other
        centre = _centre(cues, belongs)
        squares = _distances(cues, centre)
        scale, scale_width = _mean_and_width(cues.scale, belongs)
        other_scale, other_scale_width = _mean_and_width(cues.scale, other)
        if not self.anywhere:
            # Told by their scale alone, a few particles of nearly equal scale would be a group of their own.
            scale_width = max(scale_width, 0.5 * other_scale_width)
        # Where others lie like particles all say how these do.
        width = float(np.sqrt(0.5 * np.average(squares, weights=belongs if self.anywhere else None)))
        return Picks(
            centre=tuple(centre.tolist()),
            width=max(width, least_width),
            scale=scale,
            scale_width=scale_width,
            other_scale=other_scale,
            # What does not belong is not much more alike than what does.
            other_scale_width=max(other_scale_width, 0.5 * scale_width),
            others=float(np.clip(other.mean(), 1e-3, 0.9)),
            anywhere=self.anywhere,
            reach=self.reach,
        )

    def _all_belong(self, cues: Cues, least_width: float) -> "Picks":
        """The likeliest parameters where all images belong."""
        found = replace(self, anywhere=False)._maximised(cues, np.zeros(len(cues)), max(least_width, 1e-3))
        return replace(found, others=0.0)


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
