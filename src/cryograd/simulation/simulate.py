"""Particle images of a known density: CTF · shift · slice, with noise, written as RELION does.

The noise of a pixel has variance 1. The density is scaled to give the signal-to-noise ratio asked for: the
variance of CTF-filtered noiseless images over that of the noise, both inside the particle's circle.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryograd.data.ctfs import ctf_of
from cryograd.data.mrc import StackWriter, write_map
from cryograd.data.optics import Optics
from cryograd.data.particles import Particles
from cryograd.data.star import write_particles_star
from cryograd.fourier import HalfDisc, unpack_disc
from cryograd.model.aberrations import odd_phase
from cryograd.model.projection import Projector
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import group_matrices, in_asymmetric_unit
from cryograd.rotations import FloatArray, euler_to_matrix

_CHUNK = 128
# Images from which the signal's variance is measured.
_CALIBRATION_IMAGES = 512
# Where the density is above this fraction of its maximum, there is a particle.
_PARTICLE_LEVEL = 0.05

# Streams of random numbers: one does not change when another is used more.
_VIEWS, _OPTICS, _SHIFTS, _HALVES, _NOISE = range(5)


@dataclass(frozen=True)
class Simulation:
    """What to simulate. Lengths are in Å and angles in radians.

    Parameters
    ----------
    n_images
        Number of images.
    optics
        Optics groups, which the images have in turn. Box and pixel size may differ from the density's.
    snr
        Signal-to-noise ratio inside the particle's circle; infinite for images without noise.
    particle_diameter
        Of that circle; None takes the density's.
    defocus
        Smallest and largest mean underfocus.
    astigmatism
        Largest difference of the two underfocus values.
    phase_shift
        Smallest and largest phase shift of a phase plate.
    b_factor
        Envelope of every image, Å².
    shift_sigma, max_shift
        Standard deviation along an axis of the normal distribution of the origin offsets, and the length at
        which it is cut off.
    preferred_views
        Directions (rot, tilt) around which views gather, all equally often; none for uniform views.
    concentration
        Of the von Mises-Fisher distribution around them: views spread by about ``concentration ** -0.5``.
    uniform_fraction
        Fraction of views that are uniform in spite of preferred ones.
    asymmetric_unit
        Point group whose asymmetric unit all views lie in; the density must have it. C1 for no limit.
    noise_correlation
        Length over which noise is correlated: its power falls as 1 / (1 + (length · k)²). 0 for white noise.
    half
        Half-set (1 or 2) whose images alone are written, the same as when all are; None for all.
    seed
        Of all random numbers.
    """

    n_images: int
    optics: tuple[Optics, ...]
    snr: float = 0.1
    particle_diameter: float | None = None
    defocus: tuple[float, float] = (10000.0, 25000.0)
    astigmatism: float = 200.0
    phase_shift: tuple[float, float] = (0.0, 0.0)
    b_factor: float = 0.0
    shift_sigma: float = 4.0
    max_shift: float = 10.0
    preferred_views: tuple[tuple[float, float], ...] = ()
    concentration: float = 10.0
    uniform_fraction: float = 0.2
    asymmetric_unit: str = "C1"
    noise_correlation: float = 0.0
    half: int | None = None
    seed: int = 0

    def rng(self, *stream: int) -> np.random.Generator:
        """Generator of one stream of random numbers."""
        return np.random.default_rng((self.seed, *stream))


def draw_rotations(simulation: Simulation) -> FloatArray:
    """Rotation matrices (n, 3, 3) with the simulation's distribution of views and uniform in-plane angles."""
    n, rng = simulation.n_images, simulation.rng(_VIEWS)
    angles = np.stack(
        [rng.uniform(-np.pi, np.pi, n), np.arccos(rng.uniform(-1, 1, n)), rng.uniform(-np.pi, np.pi, n)],
        axis=1,
    )
    rotations = euler_to_matrix(angles)
    if simulation.preferred_views:
        biased = rng.random(n) >= simulation.uniform_fraction
        rotations[biased] = _around_preferred(simulation, rotations[biased], rng)
    return _into_asymmetric_unit(rotations, simulation.asymmetric_unit)


def _around_preferred(simulation: Simulation, rotations: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Replace the viewing directions of uniform rotations by ones around the preferred views."""
    n, kappa = len(rotations), simulation.concentration
    # Inverse of the distribution function of cos(tilt) of a von Mises-Fisher distribution around z.
    u = rng.random(n)
    cos_tilt = np.clip(1.0 + np.log(u + (1.0 - u) * np.exp(-2.0 * kappa)) / kappa, -1.0, 1.0)
    angles = np.stack(
        [rng.uniform(-np.pi, np.pi, n), np.arccos(cos_tilt), rng.uniform(-np.pi, np.pi, n)], axis=1
    )
    views = np.array(simulation.preferred_views)[rng.integers(len(simulation.preferred_views), size=n)]
    return euler_to_matrix(angles) @ euler_to_matrix(np.pad(views, ((0, 0), (0, 1))))


def _into_asymmetric_unit(rotations: FloatArray, symmetry: str) -> FloatArray:
    """Replace every rotation by the equivalent one whose viewing direction is in the asymmetric unit."""
    group = group_matrices(symmetry)
    equivalent = rotations[:, None] @ group.swapaxes(1, 2)
    chosen = in_asymmetric_unit(equivalent[:, :, 2].reshape(-1, 3), group).reshape(len(rotations), -1)
    return equivalent[np.arange(len(rotations)), chosen.argmax(axis=1)]


def _draw_shifts(simulation: Simulation) -> FloatArray:
    """Origin offsets (n, 2) in Å: normal, drawn again where they are too long."""
    rng = simulation.rng(_SHIFTS)
    shifts = np.zeros((simulation.n_images, 2))
    if min(simulation.shift_sigma, simulation.max_shift) <= 0.0:
        return shifts
    again = np.arange(len(shifts))
    while len(again):
        shifts[again] = rng.normal(0.0, simulation.shift_sigma, (len(again), 2))
        again = again[np.linalg.norm(shifts[again], axis=1) > simulation.max_shift]
    return shifts


def stack_names(groups: int) -> list[str]:
    """Names of the stacks of so many optics groups."""
    return ["particles.mrcs"] if groups == 1 else [f"particles_{i + 1}.mrcs" for i in range(groups)]


def draw_particles(simulation: Simulation, output: Path) -> Particles:
    """Poses and CTFs of all particles, whose images are to be in one stack an optics group in a folder."""
    import pandas as pd

    n, groups, rng = simulation.n_images, len(simulation.optics), simulation.rng(_OPTICS)
    mean = rng.uniform(*simulation.defocus, n)
    difference = rng.uniform(0.0, simulation.astigmatism, n)
    index = np.arange(n) % groups
    return Particles(
        optics=simulation.optics,
        optics_index=index,
        defocus_u=mean + 0.5 * difference,
        defocus_v=mean - 0.5 * difference,
        astigmatism_angle=rng.uniform(0.0, np.pi, n),
        phase_shift=rng.uniform(*simulation.phase_shift, n),
        b_factor=np.full(n, simulation.b_factor),
        scale=np.ones(n),
        rotations=draw_rotations(simulation),
        shifts=_draw_shifts(simulation),
        half_set=simulation.rng(_HALVES).permutation(n) % 2 + 1,
        stacks=tuple(output / name for name in stack_names(groups)),
        stack_index=index,
        image_index=np.arange(n) // groups,
        sign=np.ones(n, dtype=np.float32),
        table=pd.DataFrame(index=range(n)),
        optics_table=pd.DataFrame(index=range(groups)),
        source=output / "particles.star",
    )


class _Imaging:
    """Noiseless images of one optics group.

    Parameters
    ----------
    density
        The molecule (L, L, L).
    pixel_size
        Its pixel size in Å.
    optics
        The optics group.
    """

    def __init__(self, density: Tensor, pixel_size: float, optics: Optics) -> None:
        size, matrix = density.shape[-1], np.array(optics.magnification)
        extent = optics.box_size * optics.pixel_size
        self.optics = optics
        # Fourier pixels of the density for one of the image, and for the true frequency farthest out.
        ratio = size * pixel_size / extent
        stretch = ratio * float(np.linalg.norm(matrix, ord=2))
        radius = min(optics.box_size / 2 - 1, (size / 2 - 1) / stretch)
        self.disc = HalfDisc(radius)
        # Linear interpolation is accurate to 1 % with four-fold padding; larger boxes would take gigabytes.
        self.projector = Projector(size, radius * stretch, oversampling=4 if size <= 128 else 2)
        # A projection sums voxels along the ray, and the transform sums pixels: this is the true area of one.
        area = (optics.pixel_size / pixel_size) ** 2 / np.linalg.det(matrix)
        self.grid = self.projector.transform(density / area)
        true = self.disc.frequencies @ matrix.T
        self.points = torch.as_tensor(np.pad(ratio * true, ((0, 0), (0, 1))), dtype=torch.float32)
        self.frequencies = torch.as_tensor(true / extent)

    def coefficients(self, particles: Particles, chosen: NDArray[np.int64], centred: bool) -> Tensor:
        """Fourier coefficients (b, K) of the chosen particles, which all have this optics group."""
        assert particles.rotations is not None
        assert particles.shifts is not None
        rotations = torch.as_tensor(particles.rotations[chosen], dtype=torch.float32)
        slices = self.projector.sample(self.grid, rotations, self.points)
        slices = slices * ctf_of(particles, chosen, self.frequencies)
        if centred:
            return slices
        optics = self.optics
        phase = odd_phase(
            self.frequencies,
            optics.wavelength,
            optics.spherical_aberration,
            optics.beam_tilt,
            optics.odd_zernike,
        )
        odd = torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
        return slices * odd * shift_phases(self.frequencies, torch.as_tensor(particles.shifts[chosen]))

    def images(
        self, particles: Particles, chosen: NDArray[np.int64], centred: bool = False
    ) -> NDArray[np.float32]:
        """Images (b, box, box) of the chosen particles; centred ones have no shift and no odd phases."""
        coefficients = self.coefficients(particles, chosen, centred)
        return unpack_disc(coefficients, self.disc, self.optics.box_size).numpy()


def density_diameter(density: NDArray[np.floating], pixel_size: float) -> float:
    """Diameter in Å of the sphere around the box's centre that holds all but 0.5 % of a density's voxels."""
    inside = np.argwhere(density > _PARTICLE_LEVEL * density.max())
    distances = np.linalg.norm(inside - density.shape[0] // 2, axis=1)
    return float(2.0 * pixel_size * np.quantile(distances, 0.995))


def _circle(box: int, radius: float) -> NDArray[np.bool_]:
    """Pixels within a radius, in pixels, of the centre."""
    x2 = (np.arange(box) - float(box // 2)) ** 2
    return x2[:, None] + x2 <= radius**2


def _signal_variance(imaging: list[_Imaging], particles: Particles, diameter: float) -> float:
    """Mean over images of the variance of noiseless, centred images inside the particle's circle."""
    variances = []
    for group, camera in enumerate(imaging):
        chosen = np.flatnonzero(particles.optics_index == group)[: _CALIBRATION_IMAGES // len(imaging) + 1]
        circle = _circle(camera.optics.box_size, 0.5 * diameter / camera.optics.pixel_size)
        for chunk in _chunks(chosen):
            variances.extend(camera.images(particles, chunk, centred=True)[:, circle].var(axis=1))
    return float(np.mean(variances))


def _chunks(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK))


def _noise(simulation: Simulation, optics: Optics, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Noise images (b, box, box) of variance 1, a function of the seed and the particles' indices alone."""
    box = optics.box_size
    images = np.stack(
        [simulation.rng(_NOISE, int(i)).standard_normal((box, box), dtype=np.float32) for i in chosen]
    )
    if simulation.noise_correlation == 0.0:
        return images
    kx, ky = np.fft.rfftfreq(box, optics.pixel_size), np.fft.fftfreq(box, optics.pixel_size)[:, None]
    amplitude = (1.0 + simulation.noise_correlation**2 * (kx**2 + ky**2)) ** -0.5
    # Averaged over the full plane, in which all but two columns of the half-plane count twice.
    twice = np.where((kx == 0.0) | (kx == kx.max()) & (box % 2 == 0), 1.0, 2.0)
    amplitude /= math.sqrt((twice * amplitude**2).sum() / box**2)
    return np.fft.irfft2(np.fft.rfft2(images) * amplitude, s=(box, box)).astype(np.float32)


def simulate(
    density: NDArray[np.float32],
    pixel_size: float,
    simulation: Simulation,
    output: Path,
    dtype: type[np.float32] | type[np.float16] = np.float32,
) -> Particles:
    """Write ``particles.star`` with the true poses, stacks, and the scaled density as ``truth.mrc``.

    Parameters
    ----------
    density
        Molecule of shape (L, L, L), bright, centred on voxel ``L // 2``.
    pixel_size
        Å, of the density.
    simulation
        What to simulate.
    output
        Folder, made if it is not there.
    dtype
        Of the stacks; float16 halves them.

    Returns
    -------
    Particles
        The particles with their true poses. The same simulation gives the same files.
    """
    output.mkdir(parents=True, exist_ok=True)
    particles = draw_particles(simulation, output)
    truth = torch.as_tensor(np.asarray(density, dtype=np.float32))
    imaging = [_Imaging(truth, pixel_size, optics) for optics in simulation.optics]
    noisy = math.isfinite(simulation.snr)
    scale = 1.0
    if noisy:
        diameter = simulation.particle_diameter or density_diameter(density, pixel_size)
        scale = math.sqrt(simulation.snr / _signal_variance(imaging, particles, diameter))
    for group, (camera, stack) in enumerate(zip(imaging, particles.stacks, strict=True)):
        members = np.flatnonzero((particles.optics_index == group) & _written(simulation, particles))
        optics = camera.optics
        with StackWriter(stack, len(members), optics.box_size, optics.pixel_size, dtype) as writer:
            for chosen in _chunks(members):
                images = scale * camera.images(particles, chosen)
                writer.append(images + _noise(simulation, optics, chosen) if noisy else images)
    write_map(output / "truth.mrc", scale * density, pixel_size)
    written = _renumbered(particles.select(_written(simulation, particles)))
    assert written.half_set is not None
    write_particles_star(written.source, written, columns={"rlnRandomSubset": written.half_set})
    return written


def _written(simulation: Simulation, particles: Particles) -> NDArray[np.bool_]:
    """Which of all particles get an image."""
    if simulation.half is None:
        return np.ones(len(particles), dtype=bool)
    assert particles.half_set is not None
    return particles.half_set == simulation.half


def _renumbered(particles: Particles) -> Particles:
    """Particles whose images follow one another in each stack."""
    image_index = np.empty(len(particles), dtype=np.int64)
    for stack in range(len(particles.stacks)):
        members = np.flatnonzero(particles.stack_index == stack)
        image_index[members] = np.arange(len(members))
    return replace(particles, image_index=image_index)
