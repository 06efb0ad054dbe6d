"""Whether a map to start from lies on the axes of the point group that is imposed on it."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryograd.config import ParticleRun
from cryograd.data.particles import Particles
from cryograd.engine.frame import (
    COARSEST_RADIUS,
    brought_in,
    particle_diameter,
    solvent_mask,
    start_resolution,
)
from cryograd.engine.run import group_of
from cryograd.errors import CryogradError
from cryograd.maps import Map
from cryograd.validation.self_correlation import SelfCorrelation
from cryograd.validation.symmetry_search import find_symmetry

# Voxels along the side of the box in which maps are looked at; no finer than six Fourier pixels.
_SIZE = 32
# The least correlation of a map with itself turned that is taken. On its axes a map whose half maps would
# correlate by 0.5 at 40 Å has 0.82 or more, and 10° off 0.65 or more, from where images bring it back; 20°
# off it has 0.54 or less, anywhere else 0.45. Balls have 0.97 anywhere, and may be started from.
_LEAST = 0.6
# What a group about other axes has at least to be named.
_CONVINCING = 0.8


def refuse_off_axes(given: Map, particles: Particles, config: ParticleRun, name: str) -> None:
    """Refuse a map that the average over a point group would not leave what it is.

    It is turned by every operator about RELION's axes, at the resolution that a start is cut to and inside
    the mask, and compared with itself. Shells count alike, so that the envelope alone does not decide.

    Parameters
    ----------
    given
        The map.
    particles, config
        The images, of which the box is looked at, and the options.
    name
        The point group.

    Raises
    ------
    CryogradError
        The map does not fit the box, is empty inside the mask, or does not have the group about these axes.
    """
    extent, size = particles.extent, min(_SIZE, max(optics.box_size for optics in particles.optics))
    mask = solvent_mask(config, size, extent, 0.5 * particle_diameter(particles, config) / extent * size)
    volume, operators = brought_in(given, extent, mask), group_of(name)[1:]
    radius = min(COARSEST_RADIUS, extent / start_resolution(extent, config))
    if not len(operators):
        return
    least = float(SelfCorrelation(volume, radius).correlations(operators).min())
    if least >= _LEAST:
        return
    what = (
        f"turned about RELION's axes of {name} the map correlates with itself by no more than {least:.2f} "
        f"at {extent / radius:.3g} Å{' in the mask' if config.mask else ''}: it does not have {name} there"
    )
    raise CryogradError(what, given.source, _remedy(volume.numpy(), extent / size, name))


def _remedy(volume: NDArray[np.float32], pixel_size: float, name: str) -> str:
    """How a map gets onto the axes, if it has the group about others."""
    groups = find_symmetry(volume, pixel_size, len(volume) * pixel_size / COARSEST_RADIUS)
    asked = "I" if name.upper() == "I2" else name.upper()
    found = [g for g in groups if g.name == asked and g.correlation > _CONVINCING]
    if not found:
        return "give a map that has, the group that it does have, or C1"
    vector = Rotation.from_matrix(found[0].rotation).as_rotvec(degrees=True)
    turn, shift = (
        ", ".join(f"{round(value, 1) + 0.0:.1f}" for value in values) for values in (vector, found[0].shift)
    )
    return (
        f"it has {name} about other axes: turn it by the rotation vector ({turn})° and move it by ({shift}) "
        "Å, or let reconstruct find them by --symmetry auto"
    )
