"""Random numbers: each draw is a function of the seed, of what it is for, and of which of these it is.

No draw depends on how many were made before it, so that a run that is resumed, or divided among processes, is
the same run. All streams of the engine are named here, and nowhere else.
"""

from enum import Enum, unique

import numpy as np


@unique
class Stream(Enum):
    """What numbers are drawn for: the number of the stream, and how many integers name a draw in it.

    No two streams have one number, and all draws of a stream are named by as many integers: NumPy fills seeds
    up with zeros, so that ``[seed, 3]`` and ``[seed, 3, 0]`` are one seed.
    """

    # The order of the images: the epoch, or the iteration where parts of them are drawn. A run does only one.
    ORDER = (1, 1)
    # How the grids of poses are turned and shifted: the iteration.
    GRID = (2, 1)
    # A random volume to start from: its number.
    START = (3, 1)
    # The poses of an image: the iteration and the particle.
    POSES = (4, 2)
    # The two half-sets.
    HALF_SETS = (5, 0)
    # The images that are held out.
    HELD_OUT = (6, 0)
    # The parts that the images are divided into.
    PARTITION = (7, 0)
    # The images and views that a given map is scaled by.
    SCALE = (9, 0)
    # The two halves whose difference shows the noise of one map.
    NOISE_HALVES = (10, 0)
    # The images that a start looks at.
    START_IMAGES = (11, 0)
    # The class of an image at its first visit, where classes start from one map: the particle.
    CLASS = (12, 1)
    # Phases in the place of those beyond a shell: the half map.
    PHASES = (13, 1)
    # Signs that probe a Hessian: the iteration.
    SIGNS = (14, 1)
    # The picks that say how particles lie in their images.
    PICKS = (15, 0)
    # The seed of a group of starts, after the first: its number.
    GROUP = (16, 1)
    # The particles that a selection keeps of those that it may.
    SELECTION = (17, 0)
    # The Fourier coefficients by which images are told to have the same noise: the box.
    FINGERPRINT = (18, 1)
    # The images by which a file is judged before a run.
    SAMPLE = (19, 0)


def generator(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    """Generator of one draw.

    Parameters
    ----------
    seed
        Of the run.
    stream
        What the numbers are for.
    *place
        Which draw of the stream it is, as many integers as the stream has.
    """
    number, count = stream.value
    if len(place) != count:
        raise ValueError(f"a draw of {stream.name} is named by {count} integers, not {len(place)}")
    return np.random.default_rng([seed, number, *place])
