"""Shaded pictures of a map's isosurface, by ray casting.

Every ray walks through the map until the density exceeds the level; the crossing is then bisected, and shaded
from the density's gradient. Occlusion is read off the depths: a point that lies deeper than its surroundings
gets less light.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from cryograd.fourier import resize_volume

FloatArray = NDArray[np.float64]

# Warm grey-blue; the background stays transparent.
COLOUR = (0.36, 0.53, 0.64)
_LIGHT = np.array([-0.45, 0.55, 0.75]) / np.linalg.norm([-0.45, 0.55, 0.75])
# Normal that reflects the light to the viewer.
_MIRROR = (_LIGHT + np.eye(3)[2]) / np.linalg.norm(_LIGHT + np.eye(3)[2])
# Voxels of the finer grid, which are at most half of the map's own.
_STEP = 1.0
_COARSE = 48
_LARGEST_GRID = 256
_BISECTIONS = 7
# Pixels along a side that are one where a picture is blurred.
_POOL = 4

# Rotation matrices. Their rows are the picture's right, up, and the direction to the viewer.
VIEWS = {
    "along x": np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
    "along y": np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
    "along z": np.eye(3),
}


def surface_level(volume: ArrayLike) -> float:
    """Density at which to draw a map's surface: Otsu's threshold between solvent and molecule.

    The histogram is taken over the voxels above the mean of the box, where the molecule is.
    """
    v = np.asarray(volume, dtype=np.float64).ravel()
    values = np.sort(v[v > v.mean()])
    if not len(values):
        return float(v.max())
    n = np.arange(1, len(values) + 1)
    low = np.cumsum(values)
    between = (low[-1] * n / len(values) - low)[:-1] ** 2 / (n * (len(values) - n))[:-1]
    return float(values[between.argmax()])


def _extent(volume: FloatArray, level: float) -> float:
    """Half the side of a picture that shows all of the surface from any side, in voxels."""
    half = volume.shape[0] // 2
    above = np.argwhere(volume > level)
    if not len(above):
        return half - 1.0
    return float(min(1.04 * np.sqrt(((above - half) ** 2).sum(axis=1).max()) + 1.0, half - 1.0))


def _sampler(volume: FloatArray, rotation: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Density at points (3, n) of the picture's frame, in voxels from the centre; linear between voxels."""
    size, values = len(volume), torch.as_tensor(volume, dtype=torch.float32)[None, None]

    def density(points: FloatArray) -> FloatArray:
        xyz = rotation.T @ points + size // 2
        # From -1 at the first voxel to 1 at the last.
        places = torch.as_tensor(xyz.T * (2.0 / (size - 1)) - 1.0, dtype=torch.float32)
        return grid_sample(values, places[None, None, None], align_corners=True).numpy().ravel()

    return density


def _start_heights(
    volume: FloatArray, rotation: FloatArray, level: float, reach: float, n: int
) -> FloatArray:
    """Heights (n, n) from which rays may start: just above the surface, NaN where there is none.

    Found on few rays, through a map in which every voxel has the largest value around it.
    """
    cell = 2.0 * reach / n
    widened = ndimage.maximum_filter(volume, 2 * int(np.ceil(cell)) + 1)
    axis = (np.arange(n) + 0.5) * cell - reach
    x, y = np.meshgrid(axis, -axis)
    z = np.arange(reach, -reach, -cell)
    points = np.broadcast_arrays(x.ravel(), y.ravel(), z[:, None])
    inside = _sampler(widened, rotation)(np.stack([p.ravel() for p in points])) > level
    inside = inside.reshape(len(z), n, n)
    return np.where(inside.any(axis=0), z[inside.argmax(axis=0)] + cell, np.nan)


def _first_hits(
    density: Callable[[FloatArray], FloatArray], level: float, xy: FloatArray, start: FloatArray, reach: float
) -> FloatArray:
    """Height z (n,) at which rays from above first exceed the level at xy (2, n), NaN where none does."""
    height = np.full(len(start), np.nan)
    active = np.flatnonzero(np.isfinite(start))
    points = np.vstack([xy[:, active], start[active]])
    while len(active):
        inside = density(points) > level
        height[active[inside]] = points[2, inside]
        keep = ~inside & (points[2] > -reach)
        active, points = active[keep], points[:, keep]
        points[2] -= _STEP
    return _bisected(density, level, xy, height)


def _bisected(
    density: Callable[[FloatArray], FloatArray], level: float, xy: FloatArray, height: FloatArray
) -> FloatArray:
    """Heights refined between the step that hit and the one before."""
    hit = np.flatnonzero(np.isfinite(height))
    low, high = height[hit], height[hit] + _STEP
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        inside = density(np.vstack([xy[:, hit], middle])) > level
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    refined = height.copy()
    refined[hit] = low
    return refined


def _normals(density: Callable[[FloatArray], FloatArray], points: FloatArray) -> FloatArray:
    """Unit vectors (3, n) that point out of the surface: down the density."""
    steps = 1.5 * np.eye(3)
    gradient = np.stack([density(points + s[:, None]) - density(points - s[:, None]) for s in steps])
    return -gradient / np.maximum(np.linalg.norm(gradient, axis=0), 1e-12)


def _occlusion(depth: FloatArray, scale: float) -> FloatArray:
    """Light (0 to 1) that reaches each pixel of a height map; NaN is background."""
    here = np.isfinite(depth)
    shade = np.ones_like(depth)
    for sigma in (0.02 * depth.shape[0], 0.06 * depth.shape[0]):
        weight = _blurred(here.astype(float), sigma)
        around = _blurred(np.where(here, depth, 0.0), sigma) / np.maximum(weight, 1e-6)
        hidden = np.clip((around - np.where(here, depth, 0.0)) / (scale * sigma / depth.shape[0]), 0.0, 1.0)
        shade *= 1.0 - 0.45 * hidden
    return shade


def _blurred(values: FloatArray, sigma: float) -> FloatArray:
    """A picture (n, n) after a wide Gaussian, which is computed on fewer pixels."""
    pooled = avg_pool2d(torch.as_tensor(values)[None, None], _POOL, ceil_mode=True)
    blurred = torch.as_tensor(ndimage.gaussian_filter(pooled[0, 0].numpy(), sigma / _POOL))
    return interpolate(blurred[None, None], values.shape, mode="bilinear")[0, 0].numpy()


def render_surface(
    volume: ArrayLike,
    level: float,
    rotation: ArrayLike,
    pixels: int = 360,
    colour: tuple[float, float, float] = COLOUR,
) -> NDArray[np.uint8]:
    """Picture of the surface at which the density crosses a level.

    Parameters
    ----------
    volume
        Map of shape (L, L, L), indexed zyx.
    level
        Density of the surface; see `surface_level`.
    rotation
        Matrix (3, 3) whose rows are the picture's right, up, and the direction to the viewer, in the map's
        xyz.
    pixels
        Side of the picture.
    colour
        RGB of the surface, 0 to 1.

    Returns
    -------
    NDArray[np.uint8]
        RGBA of shape (pixels, pixels, 4), transparent where there is nothing, the first row on top.
    """
    v = np.asarray(volume, dtype=np.float64)
    # On a finer grid linear interpolation shows no facets; a much finer one than the picture would be wasted.
    fine = resize_volume(torch.tensor(v), min(2 * v.shape[0], _LARGEST_GRID)).numpy()
    turn = np.asarray(rotation, dtype=np.float64)
    reach = _extent(fine, level)
    # Drawn at twice the size, so that edges are smooth after averaging.
    axis = (np.arange(2.0 * pixels) + 0.5 - pixels) * (reach / pixels)
    x, y = np.meshgrid(axis, -axis)
    xy = np.stack([x.ravel(), y.ravel()])
    density = _sampler(fine, turn)
    coarse = _start_heights(fine, turn, level, reach, _COARSE)
    start = coarse[np.ix_(*[np.arange(2 * pixels) * _COARSE // (2 * pixels)] * 2)]
    height = _first_hits(density, level, xy, start.ravel(), reach)
    hit = np.isfinite(height)
    light = np.zeros(height.shape)
    gloss = np.zeros(height.shape)
    normals = _normals(density, np.vstack([xy[:, hit], height[hit]]))
    facing = np.clip(normals[2], 0.0, 1.0)
    light[hit] = 0.30 + 0.35 * facing + 0.45 * np.clip(_LIGHT @ normals, 0.0, 1.0)
    gloss[hit] = 0.18 * np.clip(_MIRROR @ normals, 0.0, 1.0) ** 30
    return _composed(height.reshape(x.shape), light.reshape(x.shape), gloss.reshape(x.shape), reach, colour)


def _composed(
    height: FloatArray, light: FloatArray, gloss: FloatArray, reach: float, colour: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """RGBA picture at half the size of its light, with depth fading a little to white."""
    here = np.isfinite(height)
    if here.any():
        near, far = np.nanmax(height), np.nanmin(height)
        fade = 0.35 * np.where(here, (near - height) / max(near - far, 1e-6), 0.0) ** 1.5
    else:
        fade = np.zeros_like(light)
    lit = np.clip(light * _occlusion(height, 6.0 * reach), 0.0, 1.3)
    rgb = np.asarray(colour) * lit[..., None] + gloss[..., None]
    rgb = rgb * (1.0 - fade[..., None]) + fade[..., None] * 0.94
    rgba = np.concatenate([np.clip(rgb, 0.0, 1.0) * here[..., None], here[..., None]], axis=-1)
    half = rgba.reshape(rgba.shape[0] // 2, 2, -1, 2, 4).mean(axis=(1, 3))
    # Averaged with its transparency as weight, then taken back.
    half[..., :3] /= np.maximum(half[..., 3:], 1e-6)
    return np.rint(255.0 * np.clip(half, 0.0, 1.0)).astype(np.uint8)
