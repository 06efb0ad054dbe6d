"""A soft mask around the molecule, made from a map alone."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from cryograd.fourier import lowpass_volume
from cryograd.rotations import FloatArray

# Share of the values whose narrowest range marks the solvent: molecules leave more than this of their sphere.
_SOLVENT_SHARE = 0.25
# Standard deviations above the solvent that noise does not reach: 10⁻³ values among 5000 resolution elements.
_SIGNIFICANT = 5.0
# Of the molecule's density: without noise a blurred edge is at one half, a flexible domain is below it.
_LEVEL = 0.2
# Smallest piece that is kept, of the largest one's volume.
_PIECE = 0.05
# Smallest molecule in cubes of the low-pass: 11 kDa at 15 Å. Peaks of noise are smaller.
_LEAST_VOLUME = 4.0


@dataclass(frozen=True)
class SolventMask:
    """A soft mask.

    Parameters
    ----------
    values
        Shape (L, L, L), 0 to 1.
    threshold
        Density of the low-passed map above which there is molecule; None where there is none, and the mask
        is the support.
    """

    values: NDArray[np.float32]
    threshold: float | None


def solvent_mask(
    density: ArrayLike,
    pixel_size: float,
    support: ArrayLike,
    lowpass: float = 15.0,
    extend: float = 6.0,
    edge: float = 12.0,
) -> SolventMask:
    """Mask the molecule in a map that may be noisy.

    The map is low-passed; what stands out of the solvent's noise, as the map itself shows it, and of the
    molecule's faint surroundings is kept where its pieces are not small, extended and given a raised-cosine
    edge.

    Parameters
    ----------
    density
        Map of shape (L, L, L), molecule positive: the mean of unfiltered half maps, for instance.
    pixel_size
        Å.
    support
        Soft mask of the same shape of where the molecule may be, such as `soft_sphere`. Nothing beyond it is
        kept, and all of it where no molecule stands out.
    lowpass
        Resolution in Å at which the molecule is looked for; the map's own where that is coarser, lest noise
        bury part of the molecule.
    extend, edge
        Å by which the mask is extended, and width of its edge beyond that.
    """
    volume, support = (np.asarray(array, dtype=np.float32) for array in (density, support))
    radius = min(volume.shape[0] * pixel_size / lowpass, volume.shape[0] / 2)
    smooth = lowpass_volume(torch.from_numpy(volume.copy()), radius).numpy()
    inside = support > 0.5
    threshold = _threshold(smooth[inside])
    core = _large_pieces(inside & (smooth > threshold))
    if core.sum() * pixel_size**3 < _LEAST_VOLUME * lowpass**3:
        return SolventMask(support, None)
    beyond = (np.asarray(ndimage.distance_transform_edt(~core, sampling=pixel_size)) - extend) / edge
    soft = 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond, 0.0, 1.0))
    return SolventMask(np.minimum(soft, support).astype(np.float32), threshold)


def solvent_statistics(values: ArrayLike) -> tuple[float, float]:
    """Centre and standard deviation of the solvent among densities (n,) of solvent and denser molecule.

    The centre is the middle of the narrowest range that holds a quarter of the values; the deviation comes
    from the values below it, which the molecule does not reach.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    share = int(_SOLVENT_SHARE * len(x))
    start = int(np.argmin(x[share:] - x[: len(x) - share]))
    centre = float(np.median(x[start : start + share + 1]))
    # Of a Gaussian half the deviations are below 0.6745 σ.
    return centre, float(np.median(centre - x[x <= centre]) / 0.6745)


def _threshold(values: FloatArray | NDArray[np.float32]) -> float:
    """Density that neither the solvent's noise nor the molecule's blurred surroundings reach."""
    centre, deviation = solvent_statistics(values)
    least = centre + _SIGNIFICANT * deviation
    above = values[values > least] - centre
    # Weighted by itself, so that the many faint voxels of a map without noise do not count.
    level = float(np.sum(above**2) / np.sum(above)) if len(above) else 0.0
    return max(least, centre + _LEVEL * level)


def _large_pieces(core: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected pieces that are not small beside the largest."""
    labels = np.empty(core.shape, dtype=np.int32)
    ndimage.label(core, output=labels)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(_PIECE * sizes.max(), 1))[labels]
