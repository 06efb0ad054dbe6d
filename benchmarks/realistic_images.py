"""Particle images as they come from a microscope, for realistic.py.

An image is ``gain · (CTF · (scale · particle + neighbour + ice) + background + shot noise)``. The scene is
made on a canvas of twice the box and then cut out: the CTF carries signal out of the box, and neighbours
reach into it from outside. Ice is seen through the CTF and has more power at low frequencies. Shot noise
comes after the CTF and falls towards Nyquist, as a detector's does. A pixel's noise has variance 1 before
the gain; the signal-to-noise ratio is that of `cryograd.simulation.simulate`, with ice as a part of the
noise.

The particle file has what a user would know: coordinates, micrographs and the CTF of a whole micrograph,
from which each particle differs by its height in the ice. The truth file has the rest.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryograd.data.ctfs import ctf_of
from cryograd.data.mrc import StackWriter, write_map
from cryograd.data.optics import Optics
from cryograd.data.particles import Particles
from cryograd.data.star import write_particles_star
from cryograd.fourier import HalfDisc, unpack_disc
from cryograd.model.projection import Projector
from cryograd.model.shift import shift_phases
from cryograd.rotations import FloatArray, euler_to_matrix, random_rotations
from cryograd.simulation.simulate import density_diameter

# Kinds of what was picked.
GOOD, NOISE, BROKEN, DECENTRED, BLOB, CARBON = range(6)
JUNK_FRACTION = 0.2
# Å: error of a pick along an axis, least and most of a decentred one, and height in the ice.
PICK_ERROR, DECENTRED_BY, HEIGHT = 5.0, (26.0, 50.0), 100.0
# Å: underfocus of a micrograph, and difference of its two values.
DEFOCUS, ASTIGMATISM = (8000.0, 25000.0), (50.0, 600.0)
# Spread of the strength of single particles; least and most gain, and particles, of a micrograph.
SCALE_SPREAD, GAIN, PER_MICROGRAPH = 0.2, (0.8, 1.25), (20, 40)
# Share of images with a second particle, and how far away it is in diameters.
NEIGHBOURS, NEIGHBOUR_AT = 0.2, (0.8, 1.1)
# Share of ice in the noise's variance, and length in Å beyond whose inverse its power falls.
ICE_SHARE, ICE_LENGTH = 0.15, 25.0
# Shot noise's power at Nyquist over that at the origin.
ROLL_OFF = 0.6
# Standard deviation of the background's slope: units of noise from the centre to the edge of the box.
SLOPE = 0.3
# Preferred views: share of particles within an angle in radians of the direction (rot, tilt).
GATHERED, CONE, AXIS = 0.7, np.deg2rad(20.0), (0.7, 1.1)
# Side of a micrograph in pixels of its own, of which nothing else is used.
_MICROGRAPH, _CHUNK, _CALIBRATION = 4096, 64, 256


@dataclass(frozen=True)
class Order:
    """What images are wanted.

    Parameters
    ----------
    particles
        Number of images, junk among them.
    optics
        Optics groups, which micrographs have in turn.
    snr
        Signal-to-noise ratio inside the particle's circle.
    gathered
        Whether most views are near one direction.
    seed
        Of all random numbers.
    """

    particles: int
    optics: tuple[Optics, ...]
    snr: float
    gathered: bool = False
    seed: int = 0

    def rng(self, *stream: int) -> np.random.Generator:
        """Generator of one stream of random numbers."""
        return np.random.default_rng((self.seed, *stream))


@dataclass(frozen=True)
class Picks:
    """What was picked, as it really is.

    Parameters
    ----------
    particles
        True poses and CTFs.
    estimated
        The same particles with the CTF of their micrograph, and without poses.
    kind
        GOOD or a kind of junk, shape (n,).
    scale, gain
        Strength of the particle, and of everything in its micrograph, shape (n,).
    """

    particles: Particles
    estimated: Particles
    kind: NDArray[np.int64]
    scale: FloatArray
    gain: FloatArray


def draw_views(order: Order) -> FloatArray:
    """Rotation matrices (n, 3, 3): of uniform directions, or most of them near one."""
    rng, n = order.rng(0), order.particles
    rotations = random_rotations(n, rng)
    if not order.gathered:
        return rotations
    near = rng.random(n) < GATHERED
    tilt = np.arccos(rng.uniform(np.cos(CONE), 1.0, n))
    turns = np.stack([rng.uniform(-np.pi, np.pi, n), tilt, rng.uniform(-np.pi, np.pi, n)], axis=1)
    gathered = euler_to_matrix(turns) @ euler_to_matrix(np.array([[*AXIS, 0.0]]))
    return np.where(near[:, None, None], gathered, rotations)


def _draw_kinds(order: Order) -> NDArray[np.int64]:
    """Kind of each pick: junk of five kinds, equally many of each, at random places."""
    kind = np.zeros(order.particles, dtype=np.int64)
    junk = round(JUNK_FRACTION * order.particles)
    kind[:junk] = 1 + np.arange(junk) % 5
    return order.rng(1).permutation(kind)


def _draw_offsets(order: Order, kind: NDArray[np.int64]) -> FloatArray:
    """Origin offsets (n, 2) in Å: the errors of picks."""
    rng = order.rng(2)
    offsets = rng.normal(0.0, PICK_ERROR, (order.particles, 2))
    angle, length = rng.uniform(0.0, 2.0 * np.pi, len(kind)), rng.uniform(*DECENTRED_BY, len(kind))
    far = length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.where((kind == DECENTRED)[:, None], far, offsets)


def _draw_micrographs(order: Order) -> NDArray[np.int64]:
    """Micrograph of each particle, from 0."""
    rng, sizes = order.rng(3), []
    while sum(sizes) < order.particles:
        sizes.append(int(rng.integers(PER_MICROGRAPH[0], PER_MICROGRAPH[1] + 1)))
    return np.repeat(np.arange(len(sizes)), sizes)[: order.particles]


def draw_picks(order: Order, folder: Path) -> Picks:
    """Everything about the particles but their pixels."""
    kind, micrograph, rng = _draw_kinds(order), _draw_micrographs(order), order.rng(4)
    number = int(micrograph.max()) + 1
    mean, difference = rng.uniform(*DEFOCUS, number), rng.uniform(*ASTIGMATISM, number)
    angle, gain = rng.uniform(0.0, np.pi, number), np.exp(rng.uniform(*np.log(GAIN), number))
    group = micrograph % len(order.optics)
    height, n = rng.normal(0.0, HEIGHT, order.particles), order.particles
    place = rng.uniform(100.0, _MICROGRAPH - 100.0, (n, 2)).round(2)
    table = pd.DataFrame(
        {
            "rlnMicrographName": [f"micrograph{m + 1:03d}.mrc" for m in micrograph],
            "rlnCoordinateX": place[:, 0],
            "rlnCoordinateY": place[:, 1],
        }
    )
    estimated = Particles(
        optics=order.optics,
        optics_index=group,
        defocus_u=(mean + 0.5 * difference)[micrograph],
        defocus_v=(mean - 0.5 * difference)[micrograph],
        astigmatism_angle=angle[micrograph],
        phase_shift=np.zeros(n),
        b_factor=np.zeros(n),
        scale=np.ones(n),
        rotations=None,
        shifts=None,
        half_set=None,
        stacks=tuple(folder / f"particles{g + 1}.mrcs" for g in range(len(order.optics))),
        stack_index=group,
        image_index=np.array([(group[:i] == g).sum() for i, g in enumerate(group)]),
        sign=np.ones(n, dtype=np.float32),
        table=table,
        optics_table=pd.DataFrame(index=range(len(order.optics))),
        source=folder / "particles.star",
    )
    particles = replace(
        estimated,
        defocus_u=estimated.defocus_u + height,
        defocus_v=estimated.defocus_v + height,
        rotations=draw_views(order),
        shifts=_draw_offsets(order, kind),
        source=folder / "truth.star",
    )
    scale = np.clip(rng.normal(1.0, SCALE_SPREAD, n), 0.3, None)
    return Picks(particles, estimated, kind, scale, gain[micrograph])


def half_of(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """A particle that is broken: what is on one side of a soft plane through the centre."""
    axis = np.arange(len(density)) - len(density) // 2
    # Along no symmetry axis, so that the half of any molecule is less symmetric than the whole.
    along = 0.36 * axis + 0.48 * axis[:, None] + 0.8 * axis[:, None, None]
    return (density / (1.0 + np.exp(-np.clip(along, -30.0, 30.0)))).astype(np.float32)


class Camera:
    """Scenes of one optics group, on a canvas of twice its box.

    Parameters
    ----------
    densities
        The molecule and a broken one, each (L, L, L).
    pixel_size
        Theirs in Å.
    optics
        The optics group.
    """

    def __init__(self, densities: list[NDArray[np.float32]], pixel_size: float, optics: Optics) -> None:
        size, self.optics, self.canvas = len(densities[0]), optics, 2 * optics.box_size
        extent = self.canvas * optics.pixel_size
        # Fourier pixels of the density for one of the canvas.
        ratio = size * pixel_size / extent
        self.disc = HalfDisc(min(self.canvas / 2 - 1, (size / 2 - 1) / ratio))
        self.projector = Projector(size, self.disc.radius * ratio, oversampling=4)
        area = (optics.pixel_size / pixel_size) ** 2
        self.grids = [self.projector.transform(torch.from_numpy(d / area)) for d in densities]
        k = self.disc.frequencies
        self.points = torch.as_tensor(np.pad(ratio * k, ((0, 0), (0, 1))), dtype=torch.float32)
        self.frequencies = torch.as_tensor(k / extent)
        self.k = self.frequencies.norm(dim=-1)
        # Coefficients of ice whose images have a variance of 1, were it not for the CTF.
        amplitude = (1.0 + (ICE_LENGTH * self.k) ** 2) ** -0.5
        self.ice_amplitude = amplitude * (self.canvas**2 / math.sqrt(2.0 * float(amplitude.square().sum())))

    def slices(self, rotations: FloatArray, offsets: FloatArray, broken: bool = False) -> Tensor:
        """Coefficients (b, K) of the molecule in given poses."""
        turned = torch.as_tensor(rotations, dtype=torch.float32)
        values = self.projector.sample(self.grids[int(broken)], turned, self.points)
        return values * shift_phases(self.frequencies, torch.as_tensor(offsets))

    def ice(self, rng: np.random.Generator, n: int) -> Tensor:
        """Coefficients (n, K) of ice before the CTF."""
        parts = rng.standard_normal((n, len(self.disc), 2), dtype=np.float32) / math.sqrt(2.0)
        return torch.view_as_complex(torch.from_numpy(parts)) * self.ice_amplitude

    def blobs(self, rng: np.random.Generator, n: int) -> Tensor:
        """Coefficients (n, K) of lumps of ice of three round pieces, of peak 1 or a little more."""
        pixel, total = self.optics.pixel_size, torch.zeros(n, len(self.disc), dtype=torch.complex64)
        centre = rng.normal(0.0, 10.0, (n, 2))
        for _ in range(3):
            width = torch.as_tensor(rng.uniform(8.0, 25.0, (n, 1)))
            offsets = torch.as_tensor(centre + rng.normal(0.0, 20.0, (n, 2)))
            lump = 2.0 * math.pi * (width / pixel) ** 2 * torch.exp(-2.0 * (math.pi * width * self.k) ** 2)
            total += (0.7 * lump).float() * shift_phases(self.frequencies, offsets)
        return total

    def cut(self, coefficients: Tensor) -> NDArray[np.float32]:
        """Images (b, box, box) from the middle of the canvas."""
        box = self.optics.box_size
        middle = slice(self.canvas // 2 - box // 2, self.canvas // 2 - box // 2 + box)
        return unpack_disc(coefficients, self.disc, self.canvas)[:, middle, middle].numpy()

    def shot_noise(self, rng: np.random.Generator, n: int) -> NDArray[np.float32]:
        """Noise (n, box, box) of variance 1 that falls towards Nyquist."""
        box = self.optics.box_size
        x, y = np.fft.rfftfreq(box), np.fft.fftfreq(box)[:, None]
        power = 1.0 / (1.0 + (1.0 / ROLL_OFF - 1.0) * 4.0 * (x**2 + y**2))
        white = rng.standard_normal((n, box, box), dtype=np.float32)
        noise = np.fft.irfft2(np.fft.rfft2(white) * np.sqrt(power), s=(box, box))
        return (noise / noise.std(axis=(1, 2), keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class _Strength:
    """Factors of what is seen: density in the unit of the noise, ice, and the peak of a projection."""

    signal: float
    ice: float
    peak: float


def _strength(order: Order, picks: Picks, camera: Camera, diameter: float) -> _Strength:
    """Measure signal and ice through the CTF on some centred images of particles."""
    group = order.optics.index(camera.optics)
    chosen = np.flatnonzero((picks.particles.optics_index == group) & (picks.kind == GOOD))[:_CALIBRATION]
    assert picks.particles.rotations is not None
    box, pixel = camera.optics.box_size, camera.optics.pixel_size
    axis = (np.arange(box) - box // 2) * pixel
    circle = axis**2 + axis[:, None] ** 2 <= 0.25 * diameter**2
    signal, ice, peak = [], [], []
    for chunk in _chunks(chosen):
        slices = camera.slices(picks.particles.rotations[chunk], np.zeros((len(chunk), 2)))
        ctf = ctf_of(picks.particles, chunk, camera.frequencies)
        signal.extend(camera.cut(slices * ctf)[:, circle].var(axis=1))
        peak.extend(camera.cut(slices).max(axis=(1, 2)))
        ice.append(2.0 * float((ctf * camera.ice_amplitude).square().sum(-1).mean()) / camera.canvas**4)
    factor = math.sqrt(order.snr / float(np.mean(signal)))
    return _Strength(factor, math.sqrt(ICE_SHARE / float(np.mean(ice))), factor * float(np.mean(peak)))


def _chunks(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK))


def _neighbours(order: Order, camera: Camera, chosen: NDArray[np.int64], diameter: float) -> Tensor:
    """Coefficients (b, K) of second particles, zero in most images."""
    rng, n = order.rng(5, int(chosen[0])), len(chosen)
    present = rng.random(n) < NEIGHBOURS
    angle, length = rng.uniform(0.0, 2.0 * np.pi, n), diameter * rng.uniform(*NEIGHBOUR_AT, n)
    offsets = length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    strength = present * rng.normal(1.0, SCALE_SPREAD, n).clip(0.3)
    slices = camera.slices(random_rotations(n, rng), offsets)
    return slices * torch.as_tensor(strength, dtype=torch.float32)[:, None]


def _scenes(order: Order, picks: Picks, camera: Camera, chosen: NDArray[np.int64], diameter: float) -> Tensor:
    """Coefficients (b, K) of what is in the ice, ice not counted, in the density's own unit."""
    kind, truth = picks.kind[chosen], picks.particles
    assert truth.rotations is not None
    assert truth.shifts is not None
    poses = truth.rotations[chosen], truth.shifts[chosen]
    whole = (kind == GOOD) | (kind == DECENTRED)
    scenes = camera.slices(*poses) * torch.as_tensor(whole)[:, None]
    scenes += camera.slices(*poses, broken=True) * torch.as_tensor(kind == BROKEN)[:, None]
    scenes *= torch.as_tensor(picks.scale[chosen], dtype=torch.float32)[:, None]
    return scenes + _neighbours(order, camera, chosen, diameter)


def _background(order: Order, camera: Camera, picks: Picks, chosen: NDArray[np.int64]) -> FloatArray:
    """Planes (b, box, box), and the bright side of an edge where there is carbon."""
    rng, n, half = order.rng(6, int(chosen[0])), len(chosen), camera.optics.box_size / 2
    axis = (np.arange(camera.optics.box_size) - half) / half
    slope = rng.normal(0.0, SLOPE, (2, n, 1, 1))
    planes = slope[0] * axis + slope[1] * axis[:, None]
    angle, at = rng.uniform(0.0, 2.0 * np.pi, (n, 1, 1)), rng.uniform(-0.6, 0.6, (n, 1, 1))
    along = np.cos(angle) * axis + np.sin(angle) * axis[:, None] - at
    step = rng.uniform(0.8, 2.5, (n, 1, 1)) / (1.0 + np.exp(-np.clip(12.0 * along, -30.0, 30.0)))
    return planes + step * (picks.kind[chosen] == CARBON)[:, None, None]


def _images(
    order: Order,
    picks: Picks,
    camera: Camera,
    strength: _Strength,
    chosen: NDArray[np.int64],
    diameter: float,
) -> NDArray[np.float32]:
    """Images (b, box, box); a function of the seed and of the first particle's number alone."""
    rng, n, kind = order.rng(7, int(chosen[0])), len(chosen), picks.kind[chosen]
    scenes = strength.signal * _scenes(order, picks, camera, chosen, diameter)
    lumps = strength.peak * rng.uniform(1.0, 3.0, n) * (kind == BLOB)
    scenes += camera.blobs(rng, n) * torch.as_tensor(lumps, dtype=torch.float32)[:, None]
    # Carbon is a film with more structure than ice.
    film = strength.ice * np.where(kind == CARBON, rng.uniform(1.5, 2.5, n), 1.0)
    scenes += camera.ice(rng, n) * torch.as_tensor(film, dtype=torch.float32)[:, None]
    images = camera.cut(scenes * ctf_of(picks.particles, chosen, camera.frequencies))
    images = images + math.sqrt(1.0 - ICE_SHARE) * camera.shot_noise(rng, n)
    images = images + _background(order, camera, picks, chosen)
    return (picks.gain[chosen][:, None, None] * images).astype(np.float32)


def realistic_images(density: NDArray[np.float32], pixel_size: float, order: Order, folder: Path) -> Picks:
    """Write ``particles.star``, ``truth.star``, stacks, and the density in the images' unit as ``truth.mrc``.

    Parameters
    ----------
    density
        Molecule (L, L, L), bright, centred on voxel ``L // 2``.
    pixel_size
        Its pixel size in Å.
    order
        What images are wanted.
    folder
        Made if it is not there.

    Returns
    -------
    Picks
        What was picked, as it really is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picks, diameter = draw_picks(order, folder), density_diameter(density, pixel_size)
    cameras = [Camera([density, half_of(density)], pixel_size, optics) for optics in order.optics]
    strengths = [_strength(order, picks, camera, diameter) for camera in cameras]
    # One factor of the density for all groups: they image the same molecules.
    signal = float(np.mean([strength.signal for strength in strengths]))
    for group, (camera, strength) in enumerate(zip(cameras, strengths, strict=True)):
        members = np.flatnonzero(picks.particles.optics_index == group)
        same = replace(strength, signal=signal, peak=strength.peak * signal / strength.signal)
        optics, stack = camera.optics, picks.particles.stacks[group]
        with StackWriter(stack, len(members), optics.box_size, optics.pixel_size, np.float16) as writer:
            for chosen in _chunks(members):
                writer.append(_images(order, picks, camera, same, chosen, diameter))
    write_map(folder / "truth.mrc", signal * density, pixel_size)
    write_particles_star(folder / "particles.star", picks.estimated)
    columns = {"truthJunk": picks.kind, "truthScale": picks.scale, "truthGain": picks.gain}
    write_particles_star(folder / "truth.star", picks.particles, columns=columns)
    return picks
