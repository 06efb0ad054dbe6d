"""Alignment of one map to another over rotation, shift and hand.

A point y of the moving map, in Å from its centre, lands at x = R F y + s of the reference, where F mirrors z
when the hand is flipped. The search is global: a grid over all rotations of both hands and all shifts at low
resolution, then local maximisation of the few best at growing resolution.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryograd.fourier import HalfBall, fourier_3d, pack_ball, resize_volume, unpack_ball
from cryograd.model.projection import Projector
from cryograd.rotations import FloatArray, angular_distance, euler_to_matrix, healpix_directions
from cryograd.validation.fsc import fsc

MIRROR_Z = np.diag([1.0, 1.0, -1.0])

# Radii in Fourier pixels of the global search and of the local stages, and how many of each hand these keep.
_SEARCH_RADIUS = 6
_STAGES = ((10, 3), (16, 1))
_CANDIDATES = 12
_FINAL_RADIUS = 32
# Half the width of the finite differences, as the arc at the comparison's radius in Fourier pixels.
_DIFFERENCE = 0.3
_MAX_STEPS = 20
_NSIDE = 8
# Largest shift along an axis, as a fraction of the reference's box.
_SHIFT_RANGE = 0.2


@dataclass(frozen=True)
class Alignment:
    """How a map is brought onto a reference, and the result.

    Parameters
    ----------
    rotation
        Proper rotation matrix R (3, 3), on xyz columns.
    shift
        Translation s (x, y, z) in Å, after the rotation.
    hand_flipped
        Whether z is mirrored before the rotation.
    hand_margin
        By how much the correlation is above that with the other hand; 0 where only one was tried.
    correlation
        Normalised correlation of the Fourier coefficients up to ``radius``, DC excluded, with shells weighted
        by how well they agree.
    radius
        Radius of the last stage in Fourier pixels of the reference.
    volume
        The moving map on the reference's grid, shape (L, L, L).
    """

    rotation: FloatArray
    shift: FloatArray
    hand_flipped: bool
    hand_margin: float
    correlation: float
    radius: float
    volume: NDArray[np.float32]


@dataclass(frozen=True)
class _Candidate:
    flipped: bool
    rotation: FloatArray
    shift: FloatArray  # reference pixels
    score: float

    @property
    def matrix(self) -> FloatArray:
        return self.rotation @ MIRROR_Z if self.flipped else self.rotation


def _tensor(volume: ArrayLike) -> Tensor:
    """A copy, because torch can neither share a read-only array nor one with negative strides."""
    return torch.from_numpy(np.asarray(volume).astype(np.float32, order="C"))


class _Comparison:
    """Correlation of two maps up to a radius, as a function of the moving map's rotation and shift.

    Parameters
    ----------
    moving, reference
        Cubic maps.
    ratio
        Extent of the moving map's box over the reference's.
    radius
        Fourier pixels of the reference.
    agreement
        Fourier shell correlation of the two maps when roughly aligned, if it is known.
    """

    def __init__(
        self,
        moving: Tensor,
        reference: Tensor,
        ratio: float,
        radius: float,
        agreement: FloatArray | None = None,
    ) -> None:
        ball = HalfBall(radius)
        self.box, self.radius, self.ratio = reference.shape[-1], radius, ratio
        self.points = torch.as_tensor(ball.frequencies, dtype=torch.float32)
        self.target = pack_ball(fourier_3d(reference), ball)
        reach = radius * ratio
        size = min(moving.shape[-1], 2 * int(np.ceil(reach)) + 4)
        self.projector = Projector(size, max(reach, 1.0))
        self.grid = self.projector.transform(resize_volume(moving, size))
        self.weights = self._weights(ball.shells, agreement)
        self.norm = self._norms(self.target)

    def sample(self, matrices: FloatArray) -> Tensor:
        """Coefficients (J, K) of the moving map turned by (possibly improper) matrices (J, 3, 3)."""
        scaled = torch.as_tensor(self.ratio * matrices, dtype=torch.float32)
        return self.projector.sample(self.grid, scaled, self.points)

    def _weights(self, shells: NDArray[np.int64], agreement: FloatArray | None) -> Tensor:
        """Weight of each coefficient (K,) in the correlation; DC gets 0.

        Where the agreement is known the weight is the likelihood's, for one noisy map. Until then it is half
        way between plain correlation, which low resolution dominates, and equal shells, which noise does.
        """
        inside = np.bincount(shells)
        amplitudes = np.ones(len(inside))
        for coefficients in (self.target, self.sample(np.eye(3)[None])[0]):
            power = np.bincount(shells, np.abs(coefficients.numpy()) ** 2) / inside
            # The floor leaves the shells that a low-pass emptied unamplified.
            amplitudes *= np.sqrt(np.maximum(power, 1e-6 * power[1:].max()))
        if agreement is None:
            weights = amplitudes**-0.5
        else:
            signal = np.clip(agreement[: len(inside)], 0.0, 0.98)
            weights = signal / (1.0 - signal**2) / amplitudes
        weights[0] = 0.0
        return torch.as_tensor(weights[shells], dtype=torch.float32)

    def _norms(self, coefficients: Tensor) -> Tensor:
        return torch.sqrt((self.weights * coefficients.abs().square()).sum(-1))

    def moved_back(self, coefficients: Tensor, shifts: FloatArray) -> Tensor:
        """Coefficients (K,) moved back by shifts (T, 3) in pixels, shape (T, K)."""
        angle = (2.0 * np.pi / self.box) * torch.as_tensor(shifts, dtype=torch.float32) @ self.points.T
        return coefficients * torch.polar(torch.ones_like(angle), angle)

    def score(self, matrices: FloatArray, shifts: FloatArray) -> Tensor:
        """Correlations (J, T) for every matrix (J, 3, 3) and shift (T, 3) in pixels."""
        slices = self.sample(matrices)
        targets = self.moved_back(self.weights / self.norm * self.target, shifts)
        # Stacked re and im make one real product of what would be a complex one.
        product = torch.view_as_real(slices).flatten(-2) @ torch.view_as_real(targets).flatten(-2).T
        return product / self._norms(slices)[:, None]


def _search_grid(box: int, radius: float) -> tuple[FloatArray, FloatArray]:
    """Rotations (J, 3, 3) and shifts (T, 3) in pixels that leave no map unseen at a radius."""
    directions = healpix_directions(_NSIDE)
    in_plane = np.linspace(0.0, 2.0 * np.pi, 6 * _NSIDE, endpoint=False)
    angles = np.concatenate(
        [np.repeat(directions, len(in_plane), axis=0), np.tile(in_plane, len(directions))[:, None]], axis=1
    )
    step = float(box / (4.0 * radius))
    reach = int(np.ceil(_SHIFT_RANGE * box / step))
    axis = np.arange(-reach, reach + 1, dtype=np.float64)
    shifts = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return euler_to_matrix(angles), step * shifts[(shifts**2).sum(axis=1) <= reach**2]


def _search(comparison: _Comparison, flipped: bool) -> list[_Candidate]:
    """The best rotations of one hand, each with its best shift, no two of them neighbours."""
    rotations, shifts = _search_grid(comparison.box, comparison.radius)
    matrices = rotations @ MIRROR_Z if flipped else rotations
    best = [
        comparison.score(chunk, shifts).max(dim=1)
        for chunk in np.array_split(matrices, len(matrices) // 1024)
    ]
    scores = torch.cat([b.values for b in best]).numpy()
    where = torch.cat([b.indices for b in best]).numpy()
    chosen: list[int] = []
    for j in np.argsort(-scores):
        if not chosen or angular_distance(rotations[chosen], rotations[j]).min() > np.deg2rad(12.0):
            chosen.append(int(j))
        if len(chosen) == _CANDIDATES:
            break
    return [_Candidate(flipped, rotations[j], shifts[where[j]], float(scores[j])) for j in chosen]


def _step(comparison: _Comparison, at: _Candidate) -> FloatArray:
    """Rotation vector (rad) and shift (pixels), shape (6,), of a Gauss-Newton step towards the target.

    The moving map is linearised around the candidate and fitted to the target together with its scale.
    """
    width = _DIFFERENCE / comparison.radius
    turns = Rotation.from_rotvec(width * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])).as_matrix()
    slices = comparison.sample(turns @ at.matrix)
    frequencies = (-2.0j * np.pi / comparison.box) * comparison.points.T
    columns = torch.cat([slices[:1], (slices[1:4] - slices[4:]) / (2.0 * width), frequencies * slices[0]])
    target = comparison.weights * comparison.moved_back(comparison.target, at.shift[None])
    normal = ((comparison.weights * columns.conj()) @ columns.T).real.double().numpy()
    fit = np.linalg.lstsq(normal, (columns.conj() @ target[0]).real.double().numpy(), rcond=1e-8)[0]
    return fit[1:] / max(fit[0], 1e-3)


def _maximise(comparison: _Comparison, start: _Candidate) -> _Candidate:
    """Local maximum of the correlation around a candidate."""

    def evaluated(rotation: FloatArray, shift: FloatArray) -> _Candidate:
        trial = _Candidate(start.flipped, rotation, shift, 0.0)
        return replace(trial, score=float(comparison.score(trial.matrix[None], shift[None])))

    # Steps stay near the peak: a Fourier pixel at the radius, and a fifth of the finest period.
    limits = np.repeat([1.0 / comparison.radius, 0.2 * comparison.box / comparison.radius], 3)
    best = evaluated(start.rotation, start.shift)
    for _ in range(_MAX_STEPS):
        step = np.clip(_step(comparison, best), -limits, limits)
        for factor in (1.0, 0.5, 0.25):
            turn = Rotation.from_rotvec(factor * step[:3]).as_matrix()
            trial = evaluated(turn @ best.rotation, best.shift + factor * step[3:])
            if trial.score > best.score:
                break
        gain = trial.score - best.score
        if gain > 0.0:
            best = trial
        if gain < 1e-6:
            break
    return best


def _best(candidates: Iterable[_Candidate], keep: int) -> list[_Candidate]:
    """The best few of each hand: mirror images can be told apart only at the resolution of the last stage."""
    ordered = sorted(candidates, key=lambda c: -c.score)
    return [c for hand in (False, True) for c in [c for c in ordered if c.flipped is hand][:keep]]


def transform_map(
    volume: ArrayLike,
    pixel_size: float,
    matrix: FloatArray,
    shift: FloatArray,
    box: int,
    new_pixel_size: float,
) -> NDArray[np.float32]:
    """Rotate (or mirror), shift and resample a map, values kept.

    Parameters
    ----------
    volume
        Map of shape (L, L, L).
    pixel_size, new_pixel_size
        Å, of the map and of the result.
    matrix
        Orthogonal matrix (3, 3), proper or not, applied to xyz columns around the centre.
    shift
        Translation (x, y, z) in Å after it.
    box
        Box size of the result.

    Returns
    -------
    NDArray[np.float32]
        Map of shape (box, box, box), without what lies beyond either map's Nyquist sphere.
    """
    source = _tensor(volume)
    size = source.shape[-1]
    ratio = size * pixel_size / (box * new_pixel_size)
    radius = min(box / 2 - 1, (size / 2 - 1) / ratio)
    # Linear interpolation is accurate to 1 % with four-fold padding; larger boxes would take gigabytes.
    projector = Projector(size, radius * ratio, oversampling=4 if size <= 128 else 2)
    ball = HalfBall(radius)
    points = torch.as_tensor(ball.frequencies, dtype=torch.float32)
    scaled = torch.as_tensor(ratio * matrix, dtype=torch.float32)[None]
    coefficients = projector.sample(projector.transform(source), scaled, points)[0]
    angle = (-2.0 * np.pi / (box * new_pixel_size)) * points @ torch.as_tensor(shift, dtype=torch.float32)
    coefficients = coefficients * torch.polar(torch.ones_like(angle), angle)
    return (unpack_ball(coefficients, ball, box) * (pixel_size / new_pixel_size) ** 3).numpy()


def _agreeing_radius(agreement: FloatArray, limit: float) -> float:
    """Radius within the limit up to which two roughly aligned maps agree."""
    below = np.flatnonzero(agreement[1:] < 0.15)
    agree = float(below[0]) if len(below) else limit
    return min(limit, max(agree, _STAGES[0][0]))


def align(
    moving: ArrayLike,
    reference: ArrayLike,
    moving_pixel_size: float = 1.0,
    reference_pixel_size: float = 1.0,
    flip_hand: bool = True,
) -> Alignment:
    """Align a map to a reference over all rotations, shifts of up to a fifth of the box, and both hands.

    Mask the maps before if there is density that is not the molecule's. A symmetric map has equivalent
    alignments, one of which is found. Without noise the rotation is good to 0.05° and the shift to 0.01
    pixels.

    Parameters
    ----------
    moving, reference
        Cubic maps, possibly of different boxes and pixel sizes.
    moving_pixel_size, reference_pixel_size
        Å.
    flip_hand
        Also try the mirror image of the moving map, and take the better.

    Returns
    -------
    Alignment
        Rotation, shift and hand, and the moving map on the reference's grid.
    """
    source, target = _tensor(moving), _tensor(reference)
    box = target.shape[-1]
    ratio = source.shape[-1] * moving_pixel_size / (box * reference_pixel_size)
    limit = min(box / 2 - 1, (source.shape[-1] / 2 - 2) / ratio, _FINAL_RADIUS)
    search = _Comparison(source, target, ratio, min(_SEARCH_RADIUS, limit))
    hands = (False, True) if flip_hand else (False,)
    candidates = [c for flipped in hands for c in _search(search, flipped)]
    for radius, keep in _STAGES:
        comparison = _Comparison(source, target, ratio, min(radius, limit))
        candidates = _best((_maximise(comparison, c) for c in candidates), keep)

    def applied(c: _Candidate) -> NDArray[np.float32]:
        shift = c.shift * reference_pixel_size
        return transform_map(source, moving_pixel_size, c.matrix, shift, box, reference_pixel_size)

    leader = applied(max(candidates, key=lambda c: c.score))
    agreement = fsc(leader, target.numpy())[1]
    final = _Comparison(source, target, ratio, _agreeing_radius(agreement, limit), agreement)
    best, *others = sorted((_maximise(final, c) for c in candidates), key=lambda c: -c.score)
    return Alignment(
        rotation=best.rotation,
        shift=best.shift * reference_pixel_size,
        hand_flipped=best.flipped,
        hand_margin=best.score - others[0].score if others else 0.0,
        correlation=best.score,
        radius=final.radius,
        volume=applied(best),
    )
