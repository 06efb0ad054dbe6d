"""Which particles do not belong: their images match the map less than the others do."""

import numpy as np
from scipy.stats import norm

from cryograd.rotations import FloatArray

# Steps of the mixture's expectation maximisation, and the change of the mean log density at which it ends.
_STEPS, _SETTLED = 500, 1e-7
# Distance of the two means in root mean square widths (Ashman's D) from which on they are two groups: one
# whose tails are heavier than a normal distribution's would be split in its middle. β-galactosidase's
# selected particles give 0.5 to 0.8, all that were picked 3.7.
_APART = 2.0
# Smallest share of the particles that is a component of its own.
_LEAST_SHARE = 0.01


def junk_probability(scale: FloatArray) -> FloatArray:
    """Probability of each particle that it does not belong, shape (n,).

    The scales of images that belong scatter around one value; those of images that do not are lower. A
    mixture of two normal distributions says which is which, where it explains the scales better than one does
    (by the Bayesian information criterion) by means that are apart, and else that all belong. The wider of
    the two is the likelier one on both sides: the probability is kept from rising with the scale.

    Parameters
    ----------
    scale
        Ratio of match and energy of each image, shape (n,), as in `cryograd.pose.posterior.Poses`.
    """
    n = len(scale)
    none = np.zeros(n)
    width = float(scale.std())
    if n < 4 or width == 0.0:
        return none
    one = norm.logpdf(scale, scale.mean(), width).sum()
    low, high = np.quantile(scale, [0.1, 0.6])
    means, widths, share = np.array([low, high]), np.array([width, 0.5 * width]), np.array([0.3, 0.7])
    belongs, total, before = np.zeros((n, 2)), none, -np.inf
    for _ in range(_STEPS):
        logs = np.log(share) + norm.logpdf(scale[:, None], means, widths)
        total = np.logaddexp.reduce(logs, axis=1)
        belongs = np.exp(logs - total[:, None])
        count = belongs.sum(axis=0)
        if count.min() < _LEAST_SHARE * n:
            return none
        share, means = count / n, belongs.T @ scale / count
        widths = np.sqrt((belongs * (scale[:, None] - means) ** 2).sum(axis=0) / count)
        if total.mean() - before < _SETTLED:
            break
        before = total.mean()
    # Five parameters instead of two.
    apart = (means[1] - means[0]) / np.sqrt(0.5 * (widths**2).sum())
    if total.sum() - one < 1.5 * np.log(n) or apart < _APART:
        return none
    order = np.argsort(scale)
    ordered, falling = belongs[order, 0], np.empty(n)
    wide = widths[0] > widths[1]
    falling[order] = np.minimum.accumulate(ordered) if wide else np.maximum.accumulate(ordered[::-1])[::-1]
    return falling
