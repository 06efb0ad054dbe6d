"""What two unfiltered half maps say: mask, sharpened map, resolution in all, by place and by direction."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cryograd.model.symmetry import group_matrices
from cryograd.rotations import FloatArray
from cryograd.validation.anisotropy import ConicalFsc, Sampling, conical_fsc, view_sampling
from cryograd.validation.fsc import fsc, resolution_at
from cryograd.validation.gold_standard import RESOLVED, GoldStandard, gold_standard
from cryograd.validation.local_resolution import local_resolution
from cryograd.validation.masking import SolventMask, solvent_mask
from cryograd.validation.sharpening import Sharpened, sharpened

# Å at which the molecule's outline is looked for, at the finest.
FINEST_MASK = 15.0

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Findings:
    """What two half maps say.

    Parameters
    ----------
    mask
        Given, or made from their mean.
    correlation
        Fourier shell correlations.
    sharpened
        The mean, weighted by the correlation and sharpened.
    local_resolution
        Å, shape (L, L, L); a quarter of the box outside the mask.
    conical
        Correlations along cones.
    sampling
        How views fill Fourier space.
    """

    mask: SolventMask
    correlation: GoldStandard
    sharpened: Sharpened
    local_resolution: Map
    conical: ConicalFsc
    sampling: Sampling


def examine_half_maps(
    first: Map,
    second: Map,
    pixel_size: float,
    support: Map,
    mask: Map | None,
    rotations: FloatArray,
    symmetry: str,
    seed: int,
    finest: float = 0.0,
) -> Findings:
    """Examine two unfiltered half maps.

    Parameters
    ----------
    first, second
        Shape (L, L, L).
    pixel_size
        Å.
    support
        Soft mask of where the molecule may be.
    mask
        The mask to correlate in; None to make one from the maps' mean.
    rotations
        Of all particles, shape (n, 3, 3).
    symmetry
        Point group.
    seed
        Of random phases.
    finest
        Å of the finest resolution that images were looked at to.
    """
    soft = _mask(first, second, pixel_size, support) if mask is None else SolventMask(mask, None)
    order = len(group_matrices(symmetry))
    correlation = gold_standard(first, second, soft.values, pixel_size, seed, finest, order)
    one, two, inside, wide = (torch.from_numpy(x) for x in (first, second, soft.values, support))
    return Findings(
        soft,
        correlation,
        sharpened(first, second, soft.values, correlation),
        local_resolution(one, two, inside, pixel_size).numpy(),
        # A tight mask carries what its neighbours know into a cone that knows nothing.
        conical_fsc(one * wide, two * wide),
        view_sampling(rotations, symmetry),
    )


def _mask(first: Map, second: Map, pixel_size: float, support: Map) -> SolventMask:
    """A mask from the maps' mean, which is trusted as far as the whole of them agree."""
    size = len(first)
    agreed = resolution_at(fsc(first, second)[1], RESOLVED, size, pixel_size) or size * pixel_size
    return solvent_mask(0.5 * (first + second), pixel_size, support, lowpass=max(FINEST_MASK, agreed))
