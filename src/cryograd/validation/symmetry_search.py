"""Which point group a map has, where its axes are, and what speaks for it.

Turned by θ about an axis, a map correlates with itself by c(θ) = Σ_m P_m cos mθ, where P_m ≥ 0 is the share
of its power that has angular order m. It is n-fold where only multiples of n have power. What is round about
an axis, P_0, agrees with itself at every angle and is no evidence: it is taken off before a group is judged.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import fourier_shift
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryograd.errors import CryogradError
from cryograd.fourier import lowpass_volume, resize_volume
from cryograd.model.symmetry import group_matrices
from cryograd.rotations import FloatArray, euler_to_matrix, healpix_directions, random_rotations
from cryograd.validation.alignment import transform_map
from cryograd.validation.fsc import resolution_at, soft_sphere
from cryograd.validation.self_correlation import SelfCorrelation, turns

# Radii in Fourier pixels: of the search for axes, of their refinement, of what is judged; the least of all.
_SEARCH_RADIUS, _REFINED_RADIUS, _JUDGED_RADIUS, _LEAST_RADIUS = 8.0, 14.0, 24.0, 4.0
# Grid of axes; turns about each, which tell angular orders up to half as many; the highest fold tried.
_NSIDE, _TURNS, _HIGHEST_FOLD = 16, 64, 20
# Folds are tried that have this contrast somewhere, and this part of the best fold's.
_LEAST_FOLD_CONTRAST, _PART_OF_BEST_FOLD = 0.05, 0.3
# Axes tried for a fold, and the cosine of the angle they are apart.
_AXES_PER_FOLD, _APART = 3, np.cos(np.deg2rad(15.0))
_POLYHEDRAL = {3: "T", 4: "O", 5: "I"}
# Steps in radians about the main axis in which a group is placed, and operators that are enough for that.
_SPIN_STEP, _PLACING = np.deg2rad(4.0), 8
# A group that only what is round has, and turns over which the round part is averaged.
_ROUND, _JUDGED_TURNS = "C24", 72
# Arbitrary rotations that operators are compared with.
_ARBITRARY = 200
# What a supported group's worst operator has: z, contrast, and contrast as a part of the best group's.
_LEAST_Z, _LEAST_CONTRAST, _PART_OF_BEST = 6.0, 0.2, 0.6
# What it leaves unexplained at most: so many times what the best group does, and this more.
_TIMES_UNEXPLAINED, _MORE_UNEXPLAINED = 1.5, 0.1


@dataclass(frozen=True)
class Symmetry:
    """A point group that a map may have, and the evidence.

    Parameters
    ----------
    name
        As in `cryograd.model.symmetry.group_matrices`.
    rotation, shift
        Q (3, 3) and s (3,) in Å: what is at x in the map, in Å from its centre, belongs at Q x + s, where the
        group is on RELION's axes. Along the axis of Cn the centre of mass comes to the origin.
    correlation
        Least correlation of the map with itself under an operator other than the identity.
    contrast
        The same without the part of the map that is round about an axis: near 0 for arbitrary rotations, also
        of a ball or a cylinder, and 1 for exact symmetry.
    z
        Standard deviations by which the mean of as many arbitrary rotations would fall short of the least
        contrast; above 6 is not chance.
    fsc
        Fourier shell correlation of the map with the mean of its copies under the operators other than the
        identity, at 0, 1, ... Fourier pixels.
    resolution
        Å at which it falls below 0.5; None where it never is above.
    supported
        Whether all operators are convincing.
    """

    name: str
    rotation: FloatArray
    shift: FloatArray
    correlation: float
    contrast: float
    z: float
    fsc: FloatArray
    resolution: float | None
    supported: bool


def find_symmetry(volume: ArrayLike, pixel_size: float, resolution: float) -> list[Symmetry]:
    """Propose a point group for a map that was reconstructed without one.

    Parameters
    ----------
    volume
        Map (L, L, L), protein bright, its centre near the box's.
    pixel_size
        Å.
    resolution
        Å to which the map can be trusted. What is finer is not looked at.

    Returns
    -------
    list[Symmetry]
        The groups tried: those supported, the largest first, then C1, then the others by contrast.

    Raises
    ------
    CryogradError
        If the map is constant, or too coarse to have axes.
    """
    density = torch.from_numpy(np.asarray(volume).astype(np.float32, order="C"))
    extent = density.shape[-1] * pixel_size
    radius = min(extent / resolution, density.shape[-1] / 2 - 1, _JUDGED_RADIUS)
    if density.min() == density.max():
        raise CryogradError("the map is constant", "symmetry search", "give a map of a molecule")
    if radius < _LEAST_RADIUS:
        raise CryogradError(
            f"{resolution:.4g} Å are too coarse for a box of {extent:.4g} Å",
            "symmetry search",
            f"give a map to {extent / _LEAST_RADIUS:.4g} Å or finer, or name its symmetry",
        )
    centred, offset = _centred(density, radius)
    search, middle = (SelfCorrelation(centred, min(radius, r)) for r in (_SEARCH_RADIUS, _REFINED_RADIUS))
    axes = _axes()
    power = _angular_power(search, axes)
    starts = [_about(_ROUND, axes[power[:, 0].argmax()])[0], *_placed(search, axes, power)]
    roundest, *groups = [_refined(middle, _refined(search, start)) for start in starts]
    judge = _Judge(SelfCorrelation(centred, radius, oversampling=4), roundest, offset, extent)
    return _ranked([judge.judged(group) for group in groups], int(radius) + 1)


def onto_axes(volume: ArrayLike, pixel_size: float, symmetry: Symmetry) -> NDArray[np.float32]:
    """Turn and shift a map (L, L, L), of a pixel size in Å, onto the axes of the group found in it."""
    box = np.shape(volume)[0]
    return transform_map(volume, pixel_size, symmetry.rotation, symmetry.shift, box, pixel_size)


@dataclass(frozen=True)
class _Placed:
    """A group whose operators on the map are frameᵀ g frame about a centre (x, y, z) in box lengths."""

    name: str
    frame: FloatArray
    centre: FloatArray

    def operators(self, at_most: int | None = None) -> FloatArray:
        """Operators (J, 3, 3) other than the identity, all or some of them."""
        others = group_matrices(self.name)[1:]
        if at_most is not None and len(others) > at_most:
            others = others[np.linspace(0, len(others) - 1, at_most).astype(int)]
        return self.frame.T @ others @ self.frame

    @property
    def main_axis(self) -> FloatArray:
        """An axis of highest fold, in the map's frame."""
        turn = _main_turn(self.name)
        return self.frame.T @ turn / np.linalg.norm(turn)


def _main_turn(name: str) -> FloatArray:
    """Rotation vector (3,) of a group's smallest turn, which is about an axis of highest fold."""
    vectors = Rotation.from_matrix(group_matrices(name)[1:]).as_rotvec()
    return vectors[np.linalg.norm(vectors, axis=1).argmin()]


def _centred(volume: Tensor, radius: float) -> tuple[Tensor, FloatArray]:
    """The map up to a radius with its dense part's centre of mass in the middle of a soft sphere.

    Also returns that centre, (x, y, z) in box lengths from the given map's.
    """
    size = 2 * int(np.ceil(radius)) + 8
    small = resize_volume(volume, size)
    blurred = lowpass_volume(small, 6.0, 4.0).numpy()
    dense = np.clip(blurred - 0.3 * blurred.max(), 0.0, None)
    along = np.arange(size) - size // 2
    centre = np.array([dense.sum(axis=others) @ along for others in ((0, 1), (0, 2), (1, 2))]) / dense.sum()
    moved = np.fft.ifftn(fourier_shift(np.fft.fftn(small.numpy()), -centre[::-1])).real
    mask = soft_sphere(size, 0.42 * size, 0.06 * size)
    rim = (mask > 0.0) & (mask < 1.0)
    # Solvent that is not zero would turn into a ball.
    return torch.from_numpy(((moved - moved[rim].mean()) * mask).astype(np.float32)), centre / size


def _axes() -> FloatArray:
    """Unit vectors (n, 3) over a hemisphere."""
    directions = euler_to_matrix(np.pad(healpix_directions(_NSIDE), ((0, 0), (0, 1))))[:, 2]
    return directions[directions[:, 2] > -1e-9]


def _angular_power(search: SelfCorrelation, axes: FloatArray) -> FloatArray:
    """Share of the map's power by angular order about axes (n, 3), shape (n, orders)."""
    orders = _TURNS // 2 + 1
    power = np.empty((len(axes), orders))
    for part in np.array_split(np.arange(len(axes)), 48):
        # The other half of the turns are inverses of these, with the same correlations.
        half = turns(axes[part], _TURNS)[:, :orders]
        correlations = search.correlations(half.reshape(-1, 3, 3)).reshape(-1, orders)
        power[part] = np.fft.irfft(correlations, _TURNS, axis=1)[:, :orders]
    power[:, 1:-1] *= 2.0
    return power


def _fold_contrast(power: FloatArray, fold: int) -> FloatArray:
    """Mean of (c(θ) − P_0) / (1 − P_0) over the turns of a fold, from power (n, orders)."""
    # The floor leaves no contrast to what is round but for its noise.
    varying = np.maximum(power[:, 1:].sum(axis=1), 0.02)
    return (fold * power[:, fold::fold].sum(axis=1) / varying - 1.0) / (fold - 1.0)


def _separate_best(axes: FloatArray, scores: FloatArray) -> FloatArray:
    """The axes of the best scores, no two of them neighbours."""
    chosen: list[int] = []
    for j in np.argsort(-scores):
        if not chosen or np.abs(axes[chosen] @ axes[j]).max() < _APART:
            chosen.append(int(j))
        if len(chosen) == _AXES_PER_FOLD:
            break
    return axes[chosen]


def _about(name: str, axis: FloatArray) -> list[_Placed]:
    """A group with its main axis along an axis of the map, in small steps about it."""
    turn = _main_turn(name)
    onto = Rotation.align_vectors(turn[None], axis[None])[0]
    steps = 1 if name.startswith("C") else int(np.ceil(np.linalg.norm(turn) / _SPIN_STEP))
    spins = Rotation.from_rotvec(np.arange(steps)[:, None] / steps * turn)
    return [_Placed(name, frame, np.zeros(3)) for frame in (spins * onto).as_matrix()]


def _placed(search: SelfCorrelation, axes: FloatArray, power: FloatArray) -> list[_Placed]:
    """Groups whose main axis the map may have, each where the map agrees best with itself."""
    contrasts = {fold: _fold_contrast(power, fold) for fold in range(2, _HIGHEST_FOLD + 1)}
    least = max(_LEAST_FOLD_CONTRAST, _PART_OF_BEST_FOLD * max(c.max() for c in contrasts.values()))
    found = []
    for fold, contrast in contrasts.items():
        if contrast.max() < least:
            continue
        best = _separate_best(axes, contrast)
        for name in [f"C{fold}", f"D{fold}", *_POLYHEDRAL.get(fold, "")]:
            trials = [placed for axis in best for placed in _about(name, axis)]
            scores = [search.correlations(placed.operators(_PLACING)).mean() for placed in trials]
            found.append(trials[int(np.argmax(scores))])
    return found


def _refined(compared: SelfCorrelation, start: _Placed) -> _Placed:
    """The group about the axes and centre, near a start, where the map agrees best with itself."""

    def moved(x: FloatArray) -> _Placed:
        # Units of about the same effect: an arc of a Fourier pixel at the radius, and a phase there.
        turn = Rotation.from_rotvec(x[:3] / compared.radius).as_matrix()
        return _Placed(start.name, start.frame @ turn, start.centre + 0.1 * x[3:] / compared.radius)

    def loss(x: FloatArray) -> float:
        placed = moved(x)
        return -float(compared.correlations(placed.operators(_PLACING), placed.centre).mean())

    options = {"eps": 0.02, "maxiter": 15, "ftol": 1e-5}
    return moved(minimize(loss, np.zeros(6), method="L-BFGS-B", options=options).x)


class _Judge:
    """Evidence for groups: their operators beside arbitrary rotations of the same map.

    Parameters
    ----------
    compared
        The map up to the radius that is judged.
    roundest
        Where the map is most nearly round, as a group of many turns.
    offset
        Its centre, in box lengths from that of the given map.
    extent
        Å.
    """

    def __init__(
        self, compared: SelfCorrelation, roundest: _Placed, offset: FloatArray, extent: float
    ) -> None:
        self.compared, self.offset, self.extent = compared, offset, extent
        rotations = random_rotations(_ARBITRARY, np.random.default_rng(0))
        self.arbitrary = compared.turned(rotations, roundest.centre)
        self.residual = self._residual(roundest)

    def _residual(self, placed: _Placed) -> Tensor:
        return self.compared.without_round_part(placed.main_axis, placed.centre, _JUDGED_TURNS)

    def judged(self, placed: _Placed) -> Symmetry:
        """A placed group with its evidence, not yet compared with that for others."""
        operators = placed.operators()
        copies = self.compared.turned(operators, placed.centre)
        # An operator and its inverse are one test; half turns are their own inverses.
        pairs = 0.5 * (len(operators) + (np.trace(operators, axis1=1, axis2=2) < -1.0 + 1e-6).sum())
        contrast, z = np.inf, np.inf
        for residual in (self.residual, self._residual(placed)):
            whole = self.compared.products(residual, self.compared.values[None])
            least = float((self.compared.products(residual, copies) / whole).min())
            arbitrary = self.compared.products(residual, self.arbitrary) / whole
            contrast = min(contrast, least)
            z = min(z, float(pairs**0.5 * (least - arbitrary.mean()) / arbitrary.std()))
        curve = self.compared.shell_correlation(copies.mean(dim=0))
        return Symmetry(
            name=placed.name,
            rotation=placed.frame,
            shift=-self.extent * placed.frame @ (self.offset + placed.centre),
            correlation=float(self.compared.correlations(operators, placed.centre).min()),
            contrast=contrast,
            z=z,
            fsc=curve,
            resolution=resolution_at(curve, 0.5, 1, self.extent),
            supported=False,
        )


def _ranked(judged: list[Symmetry], shells: int) -> list[Symmetry]:
    """The groups and C1; supported are those whose worst operator is about as good as the best group's."""
    best = max((s.contrast for s in judged if s.z >= _LEAST_Z), default=0.0)
    unexplained = _TIMES_UNEXPLAINED * (1.0 - best) + _MORE_UNEXPLAINED
    least = max(_LEAST_CONTRAST, _PART_OF_BEST * best, 1.0 - unexplained)
    judged = [replace(s, supported=s.z >= _LEAST_Z and s.contrast >= least) for s in judged]
    nothing = Symmetry("C1", np.eye(3), np.zeros(3), 1.0, 1.0, 0.0, np.ones(shells), None, True)
    by_order = sorted(judged, key=lambda s: (-len(group_matrices(s.name)), -s.contrast))
    by_contrast = sorted(judged, key=lambda s: -s.contrast)
    return [*(s for s in by_order if s.supported), nothing, *(s for s in by_contrast if not s.supported)]
