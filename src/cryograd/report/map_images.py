"""Pictures of a map: slices, projections and shaded surfaces."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryograd.report.style import as_data_uri
from cryograd.report.surface import VIEWS, render_surface, surface_level

_PIXELS = 256


def grey(image: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Smoothly enlarged picture, black at ``low`` and white at ``high``; y points up."""
    factor = max(1.0, _PIXELS / max(image.shape))
    scaled = (image[::-1].astype(np.float64) - low) / max(high - low, 1e-12)
    large = np.asarray(ndimage.zoom(scaled, factor, order=3, mode="nearest", grid_mode=True))
    return np.rint(255.0 * np.clip(large, 0.0, 1.0)).astype(np.uint8)


def _row(planes: list[NDArray[np.floating]]) -> list[str]:
    """Pictures of planes on one common scale."""
    low, high = np.percentile(np.stack(planes), (1.0, 99.8))
    return [as_data_uri(grey(plane, float(low), float(high))) for plane in planes]


def slices(volume: NDArray[np.floating]) -> list[str]:
    """Central slices across x, y and z."""
    c = volume.shape[0] // 2
    return _row([volume[:, :, c], volume[:, c, :], volume[c]])


def projections(volume: NDArray[np.floating]) -> list[str]:
    """Sums along x, y and z."""
    return _row([volume.sum(axis=2), volume.sum(axis=1), volume.sum(axis=0)])


def surfaces(volume: NDArray[np.floating]) -> tuple[list[str], float]:
    """Shaded surfaces seen along x, y and z, and the level in the map's units."""
    level = surface_level(volume)
    return [as_data_uri(render_surface(volume, level, view)) for view in VIEWS.values()], level
