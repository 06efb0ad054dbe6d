"""Which particles of a file have none of the faults that are found particle by particle."""

import numpy as np

from cryograd.data.particles import IntArray, Particles
from cryograd.data.shared_noise import noise_number
from cryograd.inspection.images import ImageFacts
from cryograd.inspection.metadata import odd_defocus
from cryograd.selection.write import refuse_nothing


def clean(particles: Particles, images: ImageFacts) -> tuple[IntArray, dict[str, int]]:
    """Particles without faults, and how many were left out for what.

    Parameters
    ----------
    particles
        The particles.
    images
        What was found in their images.

    Returns
    -------
    tuple of array and dict
        Numbers of the particles that stay, from 0, and the number of those that do not by the fault: a broken
        image, no underfocus, a defocus far from all others, the image of an earlier particle that stays, or
        its noise. One with several faults counts for the first of these.

    Raises
    ------
    CryogradError
        None would stay.
    """
    not_positive, outliers = odd_defocus(particles)
    rows = np.arange(len(particles))
    left_out: dict[str, int] = {}

    def keep(fault: str, chosen: np.ndarray) -> None:
        nonlocal rows
        left_out[fault] = len(rows) - len(chosen)
        rows = chosen
        refuse_nothing(rows, particles.source, left_out)

    keep("broken", rows[images.good])
    keep("not_positive", rows[~not_positive[rows]])
    keep("outliers", rows[~outliers[rows]])
    keep("duplicates", _firsts(rows, particles.image_number))
    keep("same_noise", _firsts(rows, noise_number(particles, alike=images.alike)))
    return rows, left_out


def _firsts(rows: IntArray, number: IntArray) -> IntArray:
    """Those of some particles that are the first of them with their number of all particles' (n,)."""
    return np.sort(rows[np.unique(number[rows], return_index=True)[1]])
