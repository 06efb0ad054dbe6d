"""Pixels of a detector that answer far too much: found by their neighbours, and replaced by these."""

import numpy as np
from numpy.typing import NDArray

# Standard deviations of an image's pixels from their median, and from the median of the pixels around, beyond
# which a pixel is hot. Noise never reaches it, and what a microscope images is as wide as its neighbours.
FAR = 20.0
# Side of the square of pixels around.
AROUND = 5
# Part of an image that may be hot: where more is, it is no fault of single pixels.
MOST = 0.01
# Pixels by which the median of an image is found are so far apart.
_STEP = 7


def hot_pixels(images: NDArray[np.floating]) -> list[tuple[int, int, int]]:
    """Find hot pixels.

    Parameters
    ----------
    images
        Shape (n, L, L).

    Returns
    -------
    list
        Image, row and column of each.
    """
    some = images.reshape(len(images), -1)[:, ::_STEP]
    middle = np.median(some, axis=1)
    # The median of the distance from the median is 0.674 standard deviations of a normal distribution.
    spread = np.median(np.abs(some - middle[:, None]), axis=1) / 0.6745
    far = np.abs(images - middle[:, None, None]) > FAR * spread[:, None, None]
    far[(far.mean(axis=(1, 2)) > MOST) | (spread == 0.0)] = False
    return [
        (int(image), int(row), int(column))
        for image, row, column in np.argwhere(far)
        if abs(images[image, row, column] - _around(images[image], row, column)) > FAR * spread[image]
    ]


def without_hot_pixels(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (n, L, L) whose hot pixels have the median of those around; the same array if none has any."""
    found = hot_pixels(images)
    if not found:
        return images
    mended = images.copy()
    for image, row, column in found:
        mended[image, row, column] = _around(images[image], row, column)
    return mended


def _around(image: NDArray[np.floating], row: int, column: int) -> float:
    """Median of the pixels around one."""
    half = AROUND // 2
    rows, columns = (slice(max(0, place - half), place + half + 1) for place in (row, column))
    return float(np.median(image[rows, columns]))
