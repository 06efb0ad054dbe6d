"""What goes from one part of a run to the next: maps, in one frame and on their symmetry axes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cryograd.data.particles import Particles
from cryograd.engine.parts import Behind
from cryograd.engine.run import group_of
from cryograd.engine.state import State
from cryograd.errors import FruitlessError
from cryograd.fourier import lowpass_volume, resize_transform
from cryograd.images.store import ImageStore
from cryograd.model.symmetry import Symmetrizer
from cryograd.objective.picks import Picks
from cryograd.validation.alignment import align, transform_map
from cryograd.validation.symmetry_search import find_symmetry, onto_axes

# Fourier pixels to which the symmetry of a map is looked for.
SYMMETRY_RADIUS = 16.0


def leave_maps(state: State, behind: Behind) -> Behind:
    """What is behind after a part whose maps go on: of the best start, or of all classes."""
    side, size = state.sides[0], len(state.mask)
    tracks = side.tracks if state.table.classes.shape[1] > 1 else (side.best,)
    # What lies beyond the march's radius comes from positivity, not from the images.
    radius = min(state.radius + 1.0, size / 2 - 1.0)
    maps = tuple(
        lowpass_volume(Symmetrizer(track.symmetry, size, state.radius).forward(track.volume), radius)
        for track in tracks
    )
    return replace(behind, maps=(*behind.maps, maps), log=[*behind.log, *state.history])


def leave_centred(state: State, behind: Behind) -> Behind:
    """What is behind after a random start: its map, whose origin is where the picks are centred.

    A random start forms its map anywhere. Particles that lie at the origin of the map are near the centres of
    their images, which says much of where each of them is.
    """
    table, track = state.table, state.sides[0].best
    seen = np.flatnonzero(table.visited)
    picks = Picks.of(table.cues(seen, 0.0), reach=0.0, least_width=state.extent / state.size)
    behind = leave_maps(state, behind)
    if picks is None:
        return behind
    # Of a point group only what lies on all axes is a place.
    centre, box = group_of(track.symmetry).mean(axis=0) @ np.array(picks.centre), len(track.volume)
    pixel = state.extent / box
    moved = transform_map(behind.maps[-1][0].cpu().numpy(), pixel, np.eye(3), -centre, box, pixel)
    volume = torch.as_tensor(moved).to(state.mask) * state.mask
    return replace(behind, maps=(*behind.maps[:-1], (volume,)))


def refuse_empty(volumes: Sequence[Tensor], particles: Particles) -> None:
    """Refuse maps of a start, one for each class, without density: of noise, or of a class without images."""
    found = [bool(volume.any()) for volume in volumes]
    if any(found) and not all(found):
        raise FruitlessError(
            f"class {found.index(False) + 1} has lost all its images to the others",
            particles.source,
            "give fewer --classes, or another --seed",
        )
    if not any(found):
        raise FruitlessError(
            "no particle was found in the images, the start is empty",
            particles.source,
            "check the contrast (--invert-contrast), CTFs and picks; with few images give --prior none",
        )


def brought_together(behind: Behind, images: ImageStore, auto: bool) -> Behind:
    """The half-sets' starts in one frame, and with auto on the axes of the symmetry that is found there."""
    if len(behind.maps) == 1 and not auto:
        return behind
    pixel = images.extent / images.size
    first, *others = (resize_transform(maps[0], images.size).cpu().numpy() for maps in behind.maps)
    if auto:
        found = find_symmetry(first, pixel, images.extent / SYMMETRY_RADIUS)
        first = onto_axes(first, pixel, found[0])
        rows = [
            {
                "name": group.name,
                "supported": bool(group.supported),
                "contrast": float(group.contrast),
                "correlation": float(group.correlation),
                "z": float(group.z),
            }
            for group in found
        ]
        behind = replace(behind, symmetries=rows)
    together = [first, *(align(other, first, pixel, pixel).volume for other in others)]
    return replace(behind, maps=tuple((torch.as_tensor(v).to(images.device),) for v in together))
