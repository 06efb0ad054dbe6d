"""The two halves of the particles, and what a refinement in them asks of particles and options."""

import numpy as np

from cryograd.config import HalfSetRun
from cryograd.data.particles import Particles
from cryograd.data.shared_noise import APART, noise_number
from cryograd.draws import Stream, generator
from cryograd.engine.frame import final_radius
from cryograd.errors import CryogradError
from cryograd.objective.ctf_refinement import refuse_corrected

# The fewest images of a half-set.
FEWEST = 10


def last_radius(particles: Particles, config: HalfSetRun) -> float:
    """The last radius of a refinement in Fourier pixels; what does not allow one is refused."""
    if config.refine_ctf:
        refuse_corrected(particles)
    # The working box holds Nyquist's radius and one Fourier pixel more.
    nyquist = particles.extent / particles.nyquist - 1.0
    return final_radius(particles, config, nyquist, nyquist)


def half_sets(particles: Particles, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Particles of the two half-sets: those that the file names, or two random halves.

    All particles of one image, such as symmetry expansion makes, are in one, and so are those that were
    picked twice: their noise would correlate.
    """
    half, noise = particles.half_set, noise_number(particles)
    if half is None:
        drawn = 1 + generator(seed, Stream.HALF_SETS).permutation(noise.max() + 1) % 2
        half = drawn[noise]
    first, second = (np.flatnonzero(half == number) for number in (1, 2))
    few, many = sorted((len(first), len(second)))
    remedy = "correct or remove the column rlnRandomSubset; split the set of a .cs file anew in CryoSPARC"
    if particles.half_set is None:
        remedy = f"give {2 * FEWEST} particles or more"
    elif few == 0 or few + many < len(particles):
        raise CryogradError("the half-sets are not 1 and 2 with particles in both", particles.source, remedy)
    if few < FEWEST:
        what = f"too few particles for two half-sets: {few} and {many}, and {FEWEST} are needed in each"
        raise CryogradError(what, particles.source, remedy)
    shared = len(np.intersect1d(noise[first], noise[second]))
    if shared:
        what = (
            f"{shared} images are in both half-sets, as they are or picked twice within {APART:g} Å: the "
            "half-sets would correlate by their noise"
        )
        raise CryogradError(what, particles.source, remedy)
    return first, second
