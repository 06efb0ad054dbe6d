"""What the pixels say: broken images, normalisation, contrast and signal-to-noise ratio."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryograd.data.hot_pixels import hot_pixels, without_hot_pixels
from cryograd.data.noise_copies import NoiseCopies
from cryograd.data.particles import IntArray, Particles
from cryograd.data.shared_noise import has_places, noise_number
from cryograd.inspection.sample import brightness, distance
from cryograd.rotations import FloatArray

_CHUNK = 512
_SAMPLE = 2000
# Rows and columns in which a filled border shows.
_BORDER = 4
# Of the differences between neighbours in an image, so few are in a border that has one value.
_EVEN = 0.1
# Standard errors by which the particle must differ from the background before its contrast counts as known;
# of so many images twice as many, since their spread is known less well, and of fewer nothing is known; and
# the share that shows it. Of 20 images of noise one set in 3000 would be called bright or dark.
_SIGNIFICANT, _FEW, _MOST = 4.0, 10, 0.6
# Variance of the particle over that of its background, beyond which the background was set to a value.
_MASKED = 1e6


@dataclass(frozen=True)
class ImageFacts:
    """What was found in the images.

    Parameters
    ----------
    facts
        JSON-able.
    profile
        Mean brightness by radius in pixels of the sampled images, in units of their background's standard
        deviation and relative to its mean; of the first optics group's box.
    good
        Which images are finite and not constant, shape (n,).
    alike
        Pairs (m, 2) of particles whose images share their noise, where the file does not say where on which
        micrograph they were picked.
    """

    facts: dict[str, Any]
    profile: FloatArray
    good: np.ndarray
    alike: IntArray


def examine(
    particles: Particles, progress: Callable[[int, int], None] | None = None, seed: int = 0
) -> ImageFacts:
    """Read all images once; measure a random sample of them.

    Parameters
    ----------
    particles
        Particles with images.
    progress
        Called with the number of images read and the number of all.
    seed
        Of the choice of the sample.
    """
    n = len(particles)
    good = np.ones(n, dtype=bool)
    broken: dict[int, str] = {}
    rng = np.random.default_rng(seed)
    sampled = np.zeros(n, dtype=bool)
    sampled[rng.permutation(n)[:_SAMPLE]] = True
    rows, profiles, edges, hot = [], [], 0, 0
    copies = NoiseCopies(particles)
    for done, chunk in particles.in_chunks(_CHUNK):
        read, kept, faults = particles.usable_images(chunk)
        hot += len({image for image, _, _ in hot_pixels(read)})
        images = without_hot_pixels(read).astype(np.float64)
        broken |= faults
        if not has_places(particles):
            copies.add(kept, images)
        edges += int(np.count_nonzero(_at_edge(images)))
        wanted = sampled[kept]
        if wanted.any():
            rows.append(brightness(images[wanted]))
            if particles.optics_index[chunk[0]] == 0:
                profiles.append(_radial_profiles(images[wanted]))
        if progress is not None:
            progress(done, n)
    good[list(broken)] = False
    alike = copies.pairs()
    measured = np.concatenate(rows) if rows else np.zeros((0, 4))
    facts = {
        "broken": len(broken),
        "broken_images": [
            {"particle": index + 1, "image": particles.image_place(index), "what": what}
            for index, what in sorted(broken.items())
        ],
        "at_edge": edges,
        "hot": hot,
        "alike": int(particles.image_number.max()) - int(noise_number(particles, alike=alike).max())
        if len(alike)
        else 0,
        **_summary(measured),
    }
    return ImageFacts(facts, np.concatenate(profiles).mean(axis=0) if profiles else np.zeros(0), good, alike)


def _at_edge(images: FloatArray) -> np.ndarray:
    """Images whose outermost rows or columns were filled: they reached over the edge of the micrograph.

    Of noise, neighbours differ as much across the border as along it. Where the last row was repeated they
    hardly differ across it, even after the image was scaled down: of real picks the ratio is
    below 0.35 or above 0.7. Where the border has one value they hardly differ at all; on all four sides
    this is no edge but a mask.
    """
    typical = np.diff(images, axis=1).std(axis=(1, 2))
    repeated, even = np.zeros(len(images), dtype=bool), np.zeros(len(images), dtype=np.int64)
    for side in (images, images[:, ::-1], images.swapaxes(1, 2), images[:, :, ::-1].swapaxes(1, 2)):
        border = side[:, :_BORDER]
        across, along = (np.diff(border, axis=axis).std(axis=(1, 2)) for axis in (1, 2))
        repeated |= across < 0.5 * along
        even += along < _EVEN * typical
    return repeated | ((even > 0) & (even < 4))


def _radial_profiles(images: FloatArray) -> FloatArray:
    """Brightness by radius of each image against its background, shape (b, box // 2)."""
    size = images.shape[-1]
    shells = np.rint(distance(size)).astype(np.int64).ravel()
    counts = np.bincount(shells)[: size // 2]
    mean, std = brightness(images).T[:2]
    flat = ((images - mean[:, None, None]) / std[:, None, None]).reshape(len(images), -1)
    return np.stack([np.bincount(shells, image)[: size // 2] / counts for image in flat])


def contrast(measured: FloatArray) -> dict[str, Any]:
    """Whether the protein is bright, dark, or neither for sure, from what `brightness` says of images (m, 4).

    A few images may differ by chance, and many by what is no particle, such as the edge of an illumination:
    therefore the fewer there are the surer it has to be, and most of them have to show it.
    """
    difference = measured[:, 2]
    if len(difference) < _FEW:
        return {"contrast": "unclear", "contrast_sigma": 0.0, "brightness": 0.0}
    # By medians, which a few images with ice or dirt do not move.
    middle = float(np.median(difference))
    error = 1.86 * float(np.median(np.abs(difference - middle))) / np.sqrt(len(difference))
    sigma = float(middle / error) if np.isfinite(error) and error > 0.0 else 0.0
    sure = abs(sigma) > _SIGNIFICANT * (1.0 + _FEW / len(difference))
    most = float(np.mean(np.sign(difference) == np.sign(sigma))) > _MOST
    side = "bright" if sigma > 0.0 else "dark"
    return {
        "contrast": side if sure and most else "unclear",
        "contrast_sigma": sigma,
        "brightness": middle,
    }


def _summary(measured: FloatArray) -> dict[str, Any]:
    """Facts of the sampled images together."""
    if not len(measured):
        return {"sampled": 0}
    mean, std, _, ratio = measured.T
    return {
        "sampled": len(measured),
        "background_mean": float(np.median(mean)),
        "background_std": float(np.median(std)),
        # Of images in units of their own noise.
        "normalised": bool(abs(np.median(mean)) < 0.3 and 0.7 < np.median(std) < 1.4),
        **contrast(measured),
        "snr": max(0.0, float(np.median(ratio)) - 1.0),
        # The background's standard deviation against the particle's: nothing where it was masked.
        "masked": int(np.count_nonzero(ratio > _MASKED)),
    }
