"""A particle set: metadata in Å and radians, and images read on demand."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryograd.data.mrc import LARGEST_DENSITY, map_stack, read_header
from cryograd.data.optics import Optics
from cryograd.errors import CryogradError

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# What images of one strength of signal share: the first of these that the file has. How many it takes:
# an image has a part in what is expected of itself, with so many in two half-sets a tenth.
_GROUPS = ("rlnGroupName", "rlnGroupNumber", "rlnMicrographName")
_GROUP_SIZE = 20
# Bad images that an error names.
_NAMED = 20
_PER_PARTICLE = (
    "optics_index",
    "defocus_u",
    "defocus_v",
    "astigmatism_angle",
    "phase_shift",
    "b_factor",
    "scale",
    "rotations",
    "shifts",
    "half_set",
    "stack_index",
    "image_index",
    "sign",
)


@dataclass(frozen=True)
class Particles:
    """``n`` particles and where their images are.

    Parameters
    ----------
    optics
        Optics groups.
    optics_index
        Optics group of each particle, from 0, shape (n,).
    defocus_u, defocus_v, astigmatism_angle
        Å, Å, radians (RELION's sense), shape (n,).
    phase_shift
        Phase plate in radians, shape (n,).
    b_factor, scale
        CTF envelope in Å² and CTF scale factor, shape (n,).
    rotations
        Matrices (n, 3, 3), or None where the input has no ``rlnAngleRot`` or no ``rlnAngleTilt``.
    shifts
        (x, y) in Å in RELION's sense, shape (n, 2): shifting the image by it centres the particle; or None.
        True lengths, where the file's origins are those of an image with anisotropic magnification.
    half_set
        The input's ``rlnRandomSubset`` (1 or 2), shape (n,), or None.
    stacks
        Paths of the stacks.
    stack_index, image_index
        Stack of each particle's image and its place there, from 0, shape (n,).
    sign
        Factor ±1 that makes the protein bright according to the file (CryoSPARC's ``blob/sign``), shape (n,).
    table
        The input's particle rows under RELION's column names in RELION's units, so that writers can carry
        every column; of a STAR file the text of each value. Columns of optics are moved to ``optics_table``.
    optics_table
        The input's optics rows, in the order of ``optics``.
    source
        The file that was read.
    invert_contrast
        Negate the images, on top of ``sign``.
    """

    optics: tuple[Optics, ...]
    optics_index: IntArray
    defocus_u: FloatArray
    defocus_v: FloatArray
    astigmatism_angle: FloatArray
    phase_shift: FloatArray
    b_factor: FloatArray
    scale: FloatArray
    rotations: FloatArray | None
    shifts: FloatArray | None
    half_set: IntArray | None
    stacks: tuple[Path, ...]
    stack_index: IntArray
    image_index: IntArray
    sign: NDArray[np.float32]
    table: "pd.DataFrame"
    optics_table: "pd.DataFrame"
    source: Path
    invert_contrast: bool = False

    @property
    def extent(self) -> float:
        """Side in Å of the largest box."""
        return max(o.box_size * o.pixel_size for o in self.optics)

    @property
    def nyquist(self) -> float:
        """Coarsest Nyquist limit in Å of the optics groups."""
        return max(o.nyquist for o in self.optics)

    @cached_property
    def image_number(self) -> IntArray:
        """Number of each particle's image, from 0 in the order of the file, shape (n,).

        A stack under two names, of which one is a link, is one stack.
        """
        import pandas as pd

        stack = pd.factorize(np.array([os.path.realpath(path) for path in self.stacks], dtype=object))[0]
        place = stack[self.stack_index] * (self.image_index.max() + 1) + self.image_index
        return pd.factorize(place)[0].astype(np.int64)

    @cached_property
    def scale_group(self) -> IntArray | None:
        """Group or micrograph of each particle, from 0, shape (n,).

        None where the file names none, or half of them have too few particles to tell their scale.
        """
        name = next((name for name in _GROUPS if name in self.table), None)
        if name is None:
            return None
        _, group = np.unique(self.table[name].to_numpy(dtype=str), return_inverse=True)
        return group if np.median(np.bincount(group)) >= _GROUP_SIZE else None

    def __len__(self) -> int:
        return len(self.optics_index)

    def select(self, indices: ArrayLike) -> "Particles":
        """Some of the particles, in the order that they are named.

        Parameters
        ----------
        indices
            Integer indices, or a boolean mask.
        """
        chosen = np.arange(len(self))[np.asarray(indices)]
        values = {name: getattr(self, name) for name in _PER_PARTICLE}
        selected = {name: None if value is None else value[chosen] for name, value in values.items()}
        return replace(self, **selected, table=self.table.iloc[chosen].reset_index(drop=True))

    def in_chunks(self, size: int) -> Iterator[tuple[int, IntArray]]:
        """Indices of particles of one box size in the order on disk, and how many there have been with them.

        Parameters
        ----------
        size
            How many at a time, at most.
        """
        boxes = np.array([group.box_size for group in self.optics])[self.optics_index]
        order = np.lexsort((self.image_index, self.stack_index, boxes))
        done = 0
        for group in np.split(order, np.flatnonzero(np.diff(boxes[order])) + 1):
            for start in range(0, len(group), size):
                chunk = group[start : start + size]
                done += len(chunk)
                yield done, chunk

    def with_ctf(self, defocus_u: FloatArray, defocus_v: FloatArray, scale: FloatArray) -> "Particles":
        """The same particles with other CTFs, which files that are written of them have, too.

        Parameters
        ----------
        defocus_u, defocus_v
            Underfocus in Å, shape (n,).
        scale
            CTF scale factor, shape (n,).
        """
        columns = {"rlnDefocusU": defocus_u, "rlnDefocusV": defocus_v, "rlnCtfScalefactor": scale}
        table = self.table.assign(**columns)
        return replace(self, defocus_u=defocus_u, defocus_v=defocus_v, scale=scale, table=table)

    def images(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Read images with bright protein, shape (b, box, box).

        Parameters
        ----------
        indices
            Integer indices of particles that share one box size.

        Raises
        ------
        CryogradError
            A stack cannot be read.
        BadImagesError
            Images hold values that are not finite or out of all range, or are constant.
        ValueError
            The particles have different box sizes, or there are none.
        """
        images, _, faults = self.usable_images(indices)
        if faults:
            raise BadImagesError(self, faults)
        return images

    def usable_images(self, indices: ArrayLike) -> tuple[NDArray[np.float32], IntArray, dict[int, str]]:
        """Read those images that can be used, with bright protein.

        Parameters
        ----------
        indices
            As for `images`.

        Returns
        -------
        tuple of array, array and dict
            Images (b, box, box), their indices (b,), and what is wrong with each of the others by its index.
        """
        chosen = np.arange(len(self))[np.asarray(indices)]
        boxes = {self.optics[group].box_size for group in np.unique(self.optics_index[chosen])}
        if len(boxes) != 1:
            raise ValueError(f"one batch cannot hold images of box sizes {sorted(boxes)}")
        box = boxes.pop()
        images = np.empty((len(chosen), box, box), dtype=np.float32)
        for stack in np.unique(self.stack_index[chosen]):
            here = self.stack_index[chosen] == stack
            # Not mapped for longer: what was read once would stay in memory.
            images[here] = map_stack(self.stacks[stack])[self.image_index[chosen[here]]]
        faults = _faults(images)
        if faults:
            good = np.delete(np.arange(len(chosen)), list(faults))
            faults = {int(chosen[place]): what for place, what in faults.items()}
            images, chosen = images[good], chosen[good]
        factor = -self.sign[chosen] if self.invert_contrast else self.sign[chosen]
        images *= factor[:, None, None]
        return images, chosen, faults

    def validate_stacks(self) -> None:
        """Check the headers of all stacks against the particles, without reading an image.

        Raises
        ------
        CryogradError
            A stack is absent, truncated or of an unsupported mode; an image number lies beyond its stack;
            or a stack's images are not of the size that the optics group says.
        """
        last = np.full(len(self.stacks), -1, dtype=np.int64)
        np.maximum.at(last, self.stack_index, self.image_index)
        pairs = np.unique(np.stack([self.stack_index, self.optics_index], axis=1), axis=0)
        for stack in np.unique(self.stack_index):
            header = read_header(self.stacks[stack])
            if last[stack] >= header.shape[0]:
                raise CryogradError(
                    f"image {last[stack] + 1} is beyond the end of the stack, which has {header.shape[0]}",
                    header.path,
                    f"check the image numbers in {self.source}",
                )
            for group in pairs[pairs[:, 0] == stack, 1]:
                self._check_box(header.path, header.shape[1:], self.optics[group])

    def _check_box(self, stack: Path, shape: tuple[int, int], optics: Optics) -> None:
        """Refuse a stack whose images are not squares of the optics group's size."""
        if shape[0] != shape[1]:
            raise CryogradError(
                f"the images are {shape[1]} × {shape[0]} pixels, not square",
                stack,
                "extract the particles again in square boxes",
            )
        if shape[0] != optics.box_size:
            raise CryogradError(
                f"the images are {shape[1]} × {shape[0]} pixels, but optics group {optics.name} has box size "
                f"{optics.box_size}",
                stack,
                f"correct rlnImageSize in {self.source} or extract the particles again",
            )

    def image_place(self, index: int) -> str:
        """Where the image of a particle is, for messages.

        Parameters
        ----------
        index
            Of the particle, from 0.
        """
        return f"image {self.image_index[index] + 1} of {self.stacks[self.stack_index[index]]}"


def image_names(particles: Particles) -> str:
    """Digest of which images the particles are, in their order."""
    digest = hashlib.sha256(
        "\n".join(stack.name for stack in particles.stacks).encode(errors="surrogateescape")
    )
    digest.update(particles.stack_index.astype(np.int64).tobytes())
    digest.update(particles.image_index.astype(np.int64).tobytes())
    return digest.hexdigest()


class BadImagesError(CryogradError):
    """Images that cannot be used, all of those that were looked at.

    Parameters
    ----------
    particles
        The particles that they are of.
    faults
        What is wrong with the image of each, by the particle's index.
    """

    def __init__(self, particles: Particles, faults: Mapping[int, str]) -> None:
        self.particles, self.faults = particles, dict(faults)
        first, what = next(iter(self.faults.items()))
        where, remedy = particles.image_place(first), f"extract it again or remove it from {particles.source}"
        if len(self.faults) > 1:
            numbers = ", ".join(str(index + 1) for index in islice(self.faults, _NAMED))
            more = f" and {len(self.faults) - _NAMED} more" if len(self.faults) > _NAMED else ""
            what = f"{len(self.faults)} images cannot be used; of the first, {what}"
            where = f"{where}; particles {numbers}{more} of {particles.source}"
            remedy = "extract them again; cryograd inspect --json lists all, --write-clean leaves them out"
        super().__init__(what, where, remedy)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.particles, self.faults)


def _faults(images: NDArray[np.float32]) -> dict[int, str]:
    """What is wrong with images (b, L, L) that are not finite, too large or constant, by their places."""
    low, high = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    # A NaN anywhere makes both extremes NaN; an infinity is an extreme itself.
    finite, largest = np.isfinite(low) & np.isfinite(high), np.maximum(-low, high)

    def said(place: int) -> str:
        if not finite[place]:
            return "the image has NaN or infinity"
        if largest[place] > LARGEST_DENSITY:
            return f"the image has values out of all range ({largest[place]:.3g})"
        return f"the image is constant ({low[place]:g})"

    return {k: said(k) for k in np.flatnonzero(~(largest <= LARGEST_DENSITY) | (low == high)).tolist()}
