"""How evenly a map is resolved over directions: from its half maps, and from the views alone.

All directions are of Fourier space. A view along d fills the plane at right angles to d, and so a view's own
direction is the one that it says nothing about.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from cryograd.fourier import HalfBall, fourier_3d, pack_ball
from cryograd.model.symmetry import group_matrices
from cryograd.pose.quadrature import viewing_directions
from cryograd.rotations import FloatArray, healpix_directions

_THRESHOLD = 0.143
# Cones: their half-angle, HEALPix resolution of their axes (7°), and least half-width in Fourier pixels.
_CONE = np.deg2rad(20.0)
_CONE_NSIDE = 8
_CONE_PIXELS = 1.5
# Coefficients that are compared with all cones at once.
_BLOCK = 2**15
# Share of its shell's mean power below which a cone counts as having that share.
_LEAST_POWER = 0.2
# Sampling: HEALPix resolution (7°), and how near a slice passes that counts.
_VIEW_NSIDE = 8
_NEAR = np.sin(np.deg2rad(2.0))
# Slices that uniform views would bring near each direction, at least.
_SLICES_NEAR = 20
# Slices that are looked at, at most.
_SLICES = 200_000
# Share of the slices of uniform views below which a direction is hardly seen.
_SCARCE = 0.2


@dataclass(frozen=True)
class ConicalFsc:
    """Fourier shell correlations within double cones.

    Parameters
    ----------
    directions
        Unit vectors (x, y, z) of the cones' axes, one of each two opposite ones, shape (400, 3).
    values
        Correlation of shells 0, 1, ... below Nyquist in each cone, shape (400, (L + 1) // 2).
    overall
        That of whole shells, shape ((L + 1) // 2,).
    """

    directions: FloatArray
    values: FloatArray
    overall: FloatArray

    @property
    def areas(self) -> FloatArray:
        """Area under each curve, (400,): its sum over the shells before the overall FSC falls below 0.143.

        All cones end where the whole map does: what is beyond would add noise alone.
        """
        resolved = np.cumprod(self.overall[1:] >= _THRESHOLD)
        return self.values[:, 1:] @ resolved

    @property
    def ratio(self) -> float:
        """Conical FSC area ratio: the least area over the largest, 0 to 1; 0 where nothing correlates."""
        least, largest = float(self.areas.min()), float(self.areas.max())
        return max(least, 0.0) / largest if largest > 0.0 else 0.0

    @property
    def worst(self) -> FloatArray:
        """Axis of the cone of the least area, (3,)."""
        return self.directions[int(np.argmin(self.areas))]


def conical_fsc(half1: Tensor, half2: Tensor) -> ConicalFsc:
    """Correlation of two half maps by shell and direction.

    Cones have a half-angle of 20° (Tan et al., Nat. Methods 14, 793, 2017), in the innermost shells more,
    so that they hold what is within 1.5 Fourier pixels of their axis. What a cone without data shows has
    leaked from its neighbours through the mask and correlates well: therefore the correlation of a cone with
    less than a fifth of its shell's mean power is lowered in proportion.

    Parameters
    ----------
    half1, half2
        Half maps (L, L, L) in a wide mask; a tight one blurs the directions. Nothing is masked here.
    """
    # Half a pixel more, so that the last shell is whole.
    ball = HalfBall((len(half1) - 1) // 2 + 0.4999)
    a, b = (pack_ball(fourier_3d(half), ball).cpu() for half in (half1, half2))
    cross, power_a, power_b = (a * b.conj()).real, a.abs().square(), b.abs().square()
    terms = torch.stack([cross, power_a, power_b, torch.ones_like(cross)], dim=1).numpy()
    directions = viewing_directions(healpix_directions(_CONE_NSIDE))
    directions = directions[directions[:, 2] >= 0.0]
    members = np.split(np.argsort(ball.shells, kind="stable"), np.cumsum(np.bincount(ball.shells))[:-1])
    shells = np.stack([terms[of].sum(axis=0, dtype=np.float64) for of in members])
    cones = np.stack([_in_cones(ball.frequencies[of], terms[of], directions) for of in members], axis=1)
    mean_power = np.sqrt(shells[:, 1] * shells[:, 2]) / shells[:, 3]
    return ConicalFsc(directions, _correlation(cones, mean_power), _correlation(shells, mean_power))


def _in_cones(frequencies: NDArray[np.int64], terms: NDArray, directions: FloatArray) -> FloatArray:
    """Sums (m, 4) of the terms (n, 4) of a shell's coefficients (n, 3) within each of m cones."""
    radius = np.linalg.norm(frequencies, axis=1)
    wide = np.arcsin(min(1.0, _CONE_PIXELS / max(radius.min(), 1.0)))
    least = np.cos(max(_CONE, wide)) * radius
    total = np.zeros((len(directions), terms.shape[1]))
    for start in range(0, len(terms), _BLOCK):
        part = slice(start, start + _BLOCK)
        inside = np.abs(directions @ frequencies[part].T) >= least[part]
        total += inside.astype(terms.dtype) @ terms[part]
    return total


def _correlation(sums: FloatArray, mean_power: FloatArray) -> FloatArray:
    """Correlation of sums (..., S, 4) of cross terms, two powers and ones; of no power it is 0.

    The mean power of a coefficient of each shell has shape (S,).
    """
    cross, power_a, power_b, number = np.moveaxis(sums, -1, 0)
    norm = np.maximum(np.sqrt(power_a * power_b), _LEAST_POWER * mean_power * number)
    return np.divide(cross, norm, out=np.zeros_like(norm), where=norm > 0.0)


@dataclass(frozen=True)
class Sampling:
    """How often views reach each direction.

    Parameters
    ----------
    directions
        Unit vectors (x, y, z), shape (768, 3).
    density
        Slices within 2° of each, or more where views are few, relative to uniform views, shape (768,).
    compensation
        Sampling compensation factor, 0 to 1.
    """

    directions: FloatArray
    density: FloatArray
    compensation: float

    @property
    def scarce(self) -> dict[str, float]:
        """Directions that are hardly seen: their ``share`` of all, and the largest `gap` that they make."""
        few = self.density <= max(_SCARCE, float(self.density.min()))
        return {"share": float(few.mean()), **gap(self.directions, few)}


def view_sampling(rotations: FloatArray, symmetry: str = "C1") -> Sampling:
    """Sampling of Fourier space by views, and the factor by which uneven views lower the SSNR.

    The factor is the harmonic mean over directions of the sampling relative to uniform views (Baldwin &
    Lyumkis, Prog. Biophys. Mol. Biol. 150, 160, 2020): 1 for uniform views, 8/π² = 0.81 for side views. Here
    N slices near a direction, where uniform views would bring n, count as max((N + 1) / n, 1/20). The 1 takes
    chance out: of a Poisson number N of mean λ, 1/(N + 1) has the mean (1 − exp(−λ))/λ. The bound, which is
    ours, lets a direction without data count as a twentieth, however many views there are; a single view has
    0.05.

    Parameters
    ----------
    rotations
        Matrices (n, 3, 3).
    symmetry
        Point group whose elements turn each view into its equivalents.
    """
    group = group_matrices(symmetry)
    chosen = rotations[:: 1 + len(rotations) * len(group) // _SLICES]
    views = np.einsum("nj,gjk->ngk", chosen[:, 2], group).reshape(-1, 3)
    directions = viewing_directions(healpix_directions(_VIEW_NSIDE))
    near = max(_NEAR, _SLICES_NEAR / len(views))
    density = slice_density(views, directions, near)
    counted = np.maximum(density + 1.0 / (len(views) * near), 1.0 / _SLICES_NEAR)
    return Sampling(directions, density, min(1.0, float(1.0 / np.mean(1.0 / counted))))


def gap(directions: FloatArray, missing: NDArray[np.bool_]) -> dict[str, float]:
    """The largest gap that missing directions make.

    Parameters
    ----------
    directions
        Unit vectors (m, 3); a direction and its opposite are one.
    missing
        Which of them are missing, at least one, shape (m,).

    Returns
    -------
    dict
        ``degrees`` from its centre to the nearest direction that is there, and ``rot`` and ``tilt`` of the
        centre in degrees.
    """
    distance = np.full(np.count_nonzero(missing), np.sqrt(2.0))
    if not missing.all():
        # The missing direction that is farthest from all others.
        distance, _ = KDTree(directions[~missing]).query(directions[missing])
    x, y, z = directions[missing][int(np.argmax(distance))]
    sign = 1.0 if z >= 0.0 else -1.0
    return {
        "degrees": float(np.rad2deg(2.0 * np.arcsin(0.5 * distance.max()))),
        "rot": float(np.rad2deg(np.arctan2(sign * y, sign * x))),
        "tilt": float(np.rad2deg(np.arccos(sign * z))),
    }


def slice_density(views: FloatArray, directions: FloatArray, near: float) -> FloatArray:
    """Slices that pass directions, relative to uniform views.

    Parameters
    ----------
    views
        Unit vectors of the views (n, 3); a slice holds the directions at right angles to its view.
    directions
        Unit vectors (m, 3).
    near
        Sine of the angle within which a slice counts.

    Returns
    -------
    FloatArray
        Shape (m,).
    """
    total = np.zeros(len(directions))
    for some in np.array_split(views, max(1, len(views) // 1000)):
        total += (np.abs(directions @ some.T) < near).sum(axis=1)
    return total / (len(views) * near)
