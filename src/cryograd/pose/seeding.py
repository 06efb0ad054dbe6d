"""Posteriors to draw from before an image has been visited: poses that are known from elsewhere."""

import numpy as np

from cryograd.pose.memory import Memory, Row
from cryograd.pose.proposal import WIDTH, Marginal, Remembered
from cryograd.rotations import FloatArray


def seeded_memory(
    rotations: FloatArray, shifts: FloatArray, spread: tuple[float, float], group: FloatArray
) -> Memory:
    """Memory of one pose of each particle, or of its equivalents under a group that the map need not have.

    Parameters
    ----------
    rotations, shifts
        Shape (n, 3, 3) and (n, 2), in Å.
    spread
        Standard deviations in radians and Å of what is drawn around a pose.
    group
        Matrices (|G|, 3, 3) that turn a pose into those that are as good; the identity alone for none.
    """
    angle, length = (width / WIDTH for width in spread)
    here, share = np.zeros(1), np.ones(1)
    each = np.full(len(group), 1.0 / len(group))
    return Memory(
        [
            Row.of(
                Remembered(
                    Marginal(rotation @ group.swapaxes(1, 2), each),
                    Marginal(here, share),
                    Marginal(shift[None], share),
                    angle,
                    length,
                    0,
                )
            )
            for rotation, shift in zip(rotations, shifts, strict=True)
        ]
    )
