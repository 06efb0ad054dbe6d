"""Rotations: RELION's ZYZ Euler angles, HEALPix directions and angular distances.

Rotation matrices act on xyz columns. ``R`` takes the molecule's frame to the image's, so that the slice of an
image at (kx, ky) is the volume's Fourier transform at ``R.T @ (kx, ky, 0)`` and its third row is the viewing
direction.
"""

import healpix
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FloatArray = NDArray[np.float64]


def euler_to_matrix(euler: FloatArray) -> FloatArray:
    """Rotation matrices of RELION's Euler angles.

    Parameters
    ----------
    euler
        Angles (rot, tilt, psi) in radians, shape (..., 3).

    Returns
    -------
    FloatArray
        Matrices of shape (..., 3, 3).
    """
    rot, tilt, psi = np.moveaxis(np.asarray(euler, dtype=np.float64), -1, 0)
    ca, sa, cb, sb, cg, sg = np.cos(rot), np.sin(rot), np.cos(tilt), np.sin(tilt), np.cos(psi), np.sin(psi)
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_euler(matrix: FloatArray) -> FloatArray:
    """RELION's Euler angles (rot, tilt, psi) in radians of rotation matrices of shape (..., 3, 3).

    At the poles (tilt 0 or π), where only a combination of rot and psi is defined, rot is 0.
    """
    m = np.asarray(matrix, dtype=np.float64)
    sin_tilt = np.hypot(m[..., 2, 0], m[..., 2, 1])
    tilt = np.arctan2(sin_tilt, m[..., 2, 2])
    regular = sin_tilt > 1e-8
    rot = np.where(regular, np.arctan2(m[..., 2, 1], m[..., 2, 0]), 0.0)
    psi = np.where(
        regular,
        np.arctan2(m[..., 1, 2], -m[..., 0, 2]),
        np.arctan2(m[..., 0, 1], m[..., 1, 1]),
    )
    return np.stack([rot, tilt, psi], axis=-1)


def random_rotations(n: int, rng: np.random.Generator) -> FloatArray:
    """Draw ``n`` rotation matrices uniformly from SO(3), shape (n, 3, 3)."""
    return Rotation.random(n, rng=rng).as_matrix()


def healpix_directions(nside: int) -> FloatArray:
    """Angles (rot, tilt) in radians of the ``12 nside²`` HEALPix directions in nested order, shape (n, 2)."""
    tilt, rot = healpix.pix2ang(nside, np.arange(12 * nside**2), nest=True)
    return np.stack([rot, tilt], axis=-1)


def healpix_spacing(nside: int) -> float:
    """Angle in radians between neighbouring HEALPix directions: the square root of a pixel's area."""
    return float(np.sqrt(np.pi / 3.0) / nside)


def transported(rotations: FloatArray, directions: FloatArray) -> FloatArray:
    """Rotations (n, 3, 3) tilted by the least angle to other viewing directions, unit vectors (n, 3)."""
    old = rotations[:, 2]
    cosine = np.einsum("ni,ni->n", old, directions)
    x, y, z = np.cross(old, directions).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    # To the opposite direction every axis is as near: take the image's x axis.
    opposite = cosine < -1.0 + 1e-9
    tilt = np.eye(3) + cross + cross @ cross / np.where(opposite, 1.0, 1.0 + cosine)[:, None, None]
    axis = rotations[opposite, 0]
    tilt[opposite] = 2.0 * axis[:, :, None] * axis[:, None, :] - np.eye(3)
    return rotations @ tilt.swapaxes(1, 2)


def turned_in_plane(rotations: FloatArray, angles: FloatArray) -> FloatArray:
    """Rotations (n, 3, 3) with every angle (p,) in radians added to psi: (n, p, 3, 3)."""
    zero = np.zeros_like(angles)
    return euler_to_matrix(np.stack([zero, zero, angles], axis=-1)) @ rotations[:, None]


def in_plane_angle(rotations: FloatArray, frames: FloatArray) -> FloatArray:
    """Angle (n,) in radians that added to psi turns frames into rotations of their directions, (n, 3, 3)."""
    turn = rotations @ frames.swapaxes(-2, -1)
    return np.arctan2(turn[..., 0, 1], turn[..., 0, 0])


def angular_distance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Geodesic distance in radians between rotation matrices of shapes (..., 3, 3)."""
    # |A - B|_F = 2√2 sin(angle / 2) keeps its precision at small angles, where arccos of the trace loses it.
    norm = np.linalg.norm(np.asarray(a) - np.asarray(b), axis=(-2, -1))
    return 2.0 * np.arcsin(np.clip(norm / np.sqrt(8.0), 0.0, 1.0))
