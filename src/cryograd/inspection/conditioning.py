"""What the poses and CTFs of particles mean for reconstruction: how fast it converges, and what it misses.

The curvature of the loss at a Fourier voxel is the mean of C² over images, as far as their slices come within
a voxel of it; see `cryograd.validation.conditioning`. Noise is taken as the same in all shells.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryograd.data.ctfs import ctf_of
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.model.symmetry import group_matrices
from cryograd.model.voxels import FourierVoxels
from cryograd.pose.quadrature import viewing_directions
from cryograd.rotations import FloatArray, healpix_directions, healpix_spacing
from cryograd.validation.anisotropy import gap, slice_density
from cryograd.validation.conditioning import FixedPoseHessian, whole_slice

# What is looked at, at most: slices with those of the point group, and the radius in Fourier pixels.
_SLICES, _RADIUS = 20_000, 48
# A voxel is starved below this share of its shell's median curvature, and a shell with this share of them.
_STARVED_VOXEL, _STARVED_SHELL = 0.1, 0.05
# HEALPix resolution of the map of directions: 3.7°.
_NSIDE = 16


@dataclass(frozen=True)
class Conditioning:
    """What was found.

    Parameters
    ----------
    facts
        JSON-able. Shells count from 1; curvatures are relative to the mean of the best shell.
    coverage
        Slices that pass near each HEALPix direction of Fourier space, relative to uniform views, shape
        (3072,), in nested order.
    """

    facts: dict[str, Any]
    coverage: FloatArray


def condition(particles: Particles, symmetry: str = "C1", seed: int = 0) -> Conditioning:
    """Curvature, condition numbers and missing views of particles with poses.

    Parameters
    ----------
    particles
        Particles; their images are not read.
    symmetry
        Point group, whose elements turn every slice into others.
    seed
        Of the choice of images where there are too many.

    Raises
    ------
    CryogradError
        The particles have no poses.
    """
    if particles.rotations is None:
        raise CryogradError(
            "the particles have no poses, which --conditioning needs",
            particles.source,
            "give a file with orientations or leave it out",
        )
    group = group_matrices(symmetry)
    chosen = np.arange(len(particles))
    if len(chosen) * len(group) > _SLICES:
        number = max(1, _SLICES // len(group))
        chosen = np.sort(np.random.default_rng(seed).permutation(len(particles))[:number])
    extent, radius, nyquist = _working_radius(particles)
    turned = np.einsum("nij,gkj->ngik", particles.rotations[chosen], group).reshape(-1, 3, 3)
    # A voxel more, as slices that ended at the radius would touch its outermost voxels too rarely.
    voxels = FourierVoxels(radius + 1)
    power = _squared_ctf(particles, chosen, len(group), whole_slice(voxels.radius)[:, :2] / extent)
    hessian = FixedPoseHessian.of(voxels, torch.from_numpy(turned).float(), power)
    coverage = _coverage(turned[:, 2], radius)
    facts = {
        "images": len(chosen),
        "symmetry": symmetry,
        "radius": radius,
        "nyquist_radius": nyquist,
        "resolution": extent / radius,
        "shells": _shells(hessian, radius, extent, particles.source),
        **_convergence(hessian, radius),
        "views": _views(coverage),
    }
    return Conditioning(facts, coverage)


def _working_radius(particles: Particles) -> tuple[float, int, int]:
    """Side of the box in Å, and the radius that is looked at and that of Nyquist in its Fourier pixels."""
    # Sizes in Å are rounded: half the box in pixels may come out a little less.
    nyquist = int(particles.extent / particles.nyquist + 1e-6)
    if nyquist < 4:
        raise CryogradError(
            "the box is too small to say anything of its shells", particles.source, "give larger images"
        )
    return particles.extent, min(nyquist - 2, _RADIUS), nyquist


def _squared_ctf(
    particles: Particles, chosen: np.ndarray, copies: int, frequencies: Tensor
) -> Callable[[slice], Tensor]:
    """C² (·, 1 + K) of some of the slices, of which each image has as many as the group has elements."""
    image = np.repeat(chosen, copies)

    def of(part: slice) -> Tensor:
        indices, place = np.unique(image[part], return_inverse=True)
        return ctf_of(particles, indices, frequencies).square()[torch.from_numpy(place)]

    return of


def _shells(hessian: FixedPoseHessian, radius: int, extent: float, source: Path) -> dict[str, list[Any]]:
    """Curvature by shell: mean, 5th percentile and least value, and the shares of voxels without enough."""
    diagonal = hessian.voxels.diagonal(hessian.weights).double().numpy()
    distance = np.linalg.norm(hessian.voxels.frequencies, axis=1)
    number = np.where(distance <= radius, np.rint(distance), 0.0)
    members = [diagonal[number == shell] for shell in range(1, radius + 1)]
    best = max(values.mean() for values in members)
    if best == 0.0:
        raise CryogradError(
            "no image says anything: every CTF is zero", source, "correct the CTF's scale factors"
        )
    starved = [float((values < _STARVED_VOXEL * np.median(values)).mean()) for values in members]
    unreached = [float((values == 0.0).mean()) for values in members]
    # Where most voxels are in no slice the median says nothing.
    lacking = np.maximum(starved, unreached)
    return {
        "resolution": [extent / shell for shell in range(1, len(members) + 1)],
        "mean": [float(values.mean() / best) for values in members],
        "percentile5": [float(np.percentile(values, 5) / best) for values in members],
        "least": [float(values.min() / best) for values in members],
        "starved": lacking.tolist(),
        "unreached": unreached,
        "starved_shells": (np.flatnonzero(lacking > _STARVED_SHELL) + 1).tolist(),
    }


def _convergence(hessian: FixedPoseHessian, radius: int) -> dict[str, Any]:
    """Condition numbers, and steps in which the error falls to a hundredth; None where voxels have no data.

    Of a quadratic with condition number κ, gradient descent with the best step takes about κ/2 ln 100 steps
    and conjugate gradients √κ/2 ln 200 (Saad, Iterative Methods for Sparse Linear Systems, 2003).
    """
    inside = np.linalg.norm(hessian.voxels.frequencies, axis=1) <= radius
    unreached = float((hessian.voxels.diagonal(hessian.weights).numpy()[inside] == 0.0).mean())
    facts: dict[str, Any] = {"unreached": unreached}
    numbers: list[float | None] = [None, None]
    if unreached == 0.0:
        both = [hessian.extreme_eigenvalues(radius, scaled, 0.02) for scaled in (False, True)]
        numbers = [ends.condition_number for ends in both]
    plain, scaled = numbers
    return facts | {
        "condition_number": plain,
        "condition_number_preconditioned": scaled,
        "steps_gradient": None if plain is None else 0.5 * plain * float(np.log(100.0)),
        "steps_preconditioned": None if scaled is None else 0.5 * scaled * float(np.log(100.0)),
        "steps_conjugate": None if scaled is None else 0.5 * float(np.sqrt(scaled) * np.log(200.0)),
    }


def directions() -> FloatArray:
    """Unit vectors of the map of directions, shape (3072, 3)."""
    return viewing_directions(healpix_directions(_NSIDE))


def _coverage(views: FloatArray, radius: float) -> FloatArray:
    """Slices within half a voxel of each direction at the radius, relative to the number if uniform."""
    # The map's own spacing is the least width.
    return slice_density(views, directions(), max(0.5 / radius, 0.5 * healpix_spacing(_NSIDE)))


def _views(coverage: FloatArray) -> dict[str, Any]:
    """Directions that no slice passes, and the centre and half-angle of the largest gap."""
    vectors = directions()
    missing = coverage == 0.0
    facts: dict[str, Any] = {
        "missing": float(missing.mean()),
        "percentile5": float(np.percentile(coverage, 5)),
        "largest": float(coverage.max()),
        "gap_degrees": 0.0,
        "gap_direction": None,
    }
    if missing.any():
        largest = gap(vectors, missing)
        facts["gap_degrees"] = largest.pop("degrees")
        facts["gap_direction"] = largest
    return facts
