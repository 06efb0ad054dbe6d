"""MRC files: memory-mapped particle stacks, and maps in and out.

Headers are read directly, 1024 bytes a file, so that ten thousand stacks open in a second. Nothing is
opened "permissively": a file that is not what its header says is an error that names the file.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import mrcfile
import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.mrcfile import MrcFile
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cryograd.atomic import replacing
from cryograd.errors import CryogradError

_HEADER_BYTES = 1024
# Complex (3, 4) and packed 4-bit (101) data are not particle images.
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"(\xb5": "zstd"}
_IMOD_STAMP = 1146047817
_LABEL = b"Written by cryograd"
# No density is as large, whatever its unit; the squares of all voxels have to have a sum in float32.
LARGEST_DENSITY = 1e14
# Voxel sizes that differ by less than this share are the same.
SAME_VOXEL_SIZE = 1e-3


@dataclass(frozen=True)
class MrcHeader:
    """What is needed of an MRC header.

    Parameters
    ----------
    path
        The file.
    dtype
        Type of a stored value, with its byte order.
    shape
        Sections, rows, columns.
    offset
        Bytes before the first value.
    voxel_size
        Along x, y and z in Å; zeros where the file does not say.
    axes
        Axis (1 = x, 2 = y, 3 = z) along columns, rows and sections.
    """

    path: Path
    dtype: np.dtype
    shape: tuple[int, int, int]
    offset: int
    voxel_size: tuple[float, float, float]
    axes: tuple[int, int, int]


def read_header(path: Path) -> MrcHeader:
    """Read and check an MRC header: the mode is known and no data are missing.

    Raises
    ------
    CryogradError
        The file is absent, compressed, not MRC, of an unsupported mode, or truncated.
    """
    path = Path(path)
    # Whoever opened a pipe would wait for its other end.
    if path.exists() and not path.is_file():
        raise CryogradError("the MRC file cannot be read (it is a folder or a pipe)", path, "give a file")
    try:
        with path.open("rb") as file:
            raw = file.read(_HEADER_BYTES)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise CryogradError("the MRC file does not exist", path, "check the path") from None
    # A name that holds NUL is a ValueError.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CryogradError(
            f"the MRC file cannot be read ({reason})", path, "check the path and its permissions"
        ) from None
    if (kind := _COMPRESSED.get(raw[:2])) is not None:
        raise CryogradError(
            f"the MRC file is compressed ({kind})", path, "decompress it: only plain MRC can be memory-mapped"
        )
    if len(raw) < _HEADER_BYTES:
        raise CryogradError(
            f"the MRC file is truncated: {len(raw)} bytes, less than a header", path, "copy the file again"
        )
    header = _parse_header(path, raw)
    _check_complete(header, size)
    return header


def _parse_header(path: Path, raw: bytes) -> MrcHeader:
    """Interpret the 1024 bytes of a header in either byte order."""
    fields = np.frombuffer(raw, HEADER_DTYPE)[0]
    order = "<"
    if not _is_plausible(fields := np.frombuffer(raw, HEADER_DTYPE.newbyteorder("<"))[0]):
        fields, order = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(">"))[0], ">"
    shape = (int(fields["nz"]), int(fields["ny"]), int(fields["nx"]))
    mode = int(fields["mode"])
    if min(shape) < 1 or int(fields["nsymbt"]) < 0 or not _is_plausible(fields):
        raise CryogradError("the file is not an MRC file", path, "give an MRC map or stack")
    if mode not in _MODES:
        raise CryogradError(
            f"MRC mode {mode} is not supported",
            path,
            f"convert it to one of the modes {', '.join(map(str, _MODES))}",
        )
    kind = "u1" if mode == 0 and _is_unsigned_imod(raw, order) else _MODES[mode]
    voxel = _voxel_size(fields)
    axes = tuple(int(fields[name]) for name in ("mapc", "mapr", "maps"))
    return MrcHeader(
        path=path,
        dtype=np.dtype(order + kind),
        shape=shape,
        offset=_HEADER_BYTES + int(fields["nsymbt"]),
        voxel_size=voxel,
        # Files of before 2000 leave the axes empty: x along columns, then y, then z.
        axes=(axes[0], axes[1], axes[2]) if sorted(axes) == [1, 2, 3] else (1, 2, 3),
    )


def _voxel_size(fields: np.void) -> tuple[float, float, float]:
    """Voxel size in Å along x, y and z; zeros where the header does not say.

    Volumes are often flagged as stacks of images by mistake. The cell is then as high as one section by the
    number of sections in it, which is 1, but has the height of all of them.
    """
    cell = [float(fields["cella"][axis]) for axis in "xyz"]
    grid = [int(fields[name]) for name in ("mx", "my", "mz")]
    x, y, z = (c / m if m > 0 and np.isfinite(c) else 0.0 for c, m in zip(cell, grid, strict=True))
    sections = int(fields["nz"])
    if grid[2] == 1 and np.isclose(z, sections * x, rtol=SAME_VOXEL_SIZE):
        z /= sections
    return x, y, z


def _is_plausible(fields: np.void) -> bool:
    """Whether a header was read in the right byte order: the other makes small numbers huge.

    The machine stamp says it too, but is often wrong or absent in old files.
    """
    small = 0 <= int(fields["mode"]) < 0x10000 and 0 < int(fields["nx"]) < 0x1000000
    return small and 0 <= int(fields["mapc"]) <= 3


def _is_unsigned_imod(raw: bytes, order: str) -> bool:
    """Whether IMOD wrote the bytes of mode 0 unsigned, as it did before MRC2014 made them signed."""
    stamp, flags = np.frombuffer(raw[152:160], order + "i4")
    return bool(stamp == _IMOD_STAMP and not flags & 1)


def _check_complete(header: MrcHeader, size: int) -> None:
    """Refuse a file of ``size`` bytes that is shorter than its header promises."""
    section = header.shape[1] * header.shape[2] * header.dtype.itemsize
    if size < header.offset + header.shape[0] * section:
        complete = max(0, (size - header.offset) // section)
        raise CryogradError(
            f"the MRC file is truncated: {complete} of its {header.shape[0]} sections are there",
            header.path,
            "copy the file again",
        )


def map_stack(path: Path) -> NDArray:
    """Memory-map an MRC file as images of shape (n, rows, columns); a single image is a stack of one.

    Raises
    ------
    CryogradError
        As `read_header`.
    """
    header = read_header(path)
    return np.memmap(header.path, dtype=header.dtype, mode="r", offset=header.offset, shape=header.shape)


def read_map(path: Path, voxel_size: float | None = None) -> tuple[NDArray[np.float32], float]:
    """Read a cubic map.

    Parameters
    ----------
    path
        MRC file of any supported mode and axis order.
    voxel_size
        Å, replaces what the header says.

    Returns
    -------
    tuple of array and float
        Density of shape (L, L, L), indexed zyx, and its voxel size in Å.

    Raises
    ------
    CryogradError
        As `read_header`; or the map is not cubic, its voxels are not, it has no voxel size, or it holds
        values that are not finite or out of all range.
    """
    header = read_header(path)
    if len(set(header.shape)) != 1:
        size = " × ".join(map(str, header.shape))
        raise CryogradError(f"the map is not a cube: {size}", path, "pad or crop it to a cubic box")
    stored = map_stack(path)
    sections_first = header.axes[::-1]
    # A copy: the map stays valid when its file is overwritten.
    density = np.array(
        stored.transpose([sections_first.index(axis) for axis in (3, 2, 1)]), dtype=np.float32, order="C"
    )
    if not np.isfinite(density).all():
        bad = int(np.count_nonzero(~np.isfinite(density)))
        raise CryogradError(f"the map has {bad} voxels that are NaN or infinite", path, "give a finite map")
    if (largest := np.abs(density).max()) > LARGEST_DENSITY:
        raise CryogradError(f"the map has the value {largest:.3g}, out of all range", path, "correct the map")
    return density, _map_voxel_size(header) if voxel_size is None else voxel_size


def refuse_constant(density: np.ndarray, path: Path) -> None:
    """Refuse a map that shows nothing."""
    if not np.ptp(density) > 0:
        raise CryogradError("the map is the same everywhere", path, "give the map of a molecule")


def _map_voxel_size(header: MrcHeader) -> float:
    """Voxel size in Å of a map, which must be there and the same along all axes."""
    x, y, z = header.voxel_size
    if not min(x, y, z) > 0:
        remedy = "write it into the map's header; simulate takes it as --pixel-size"
        raise CryogradError("the map has no voxel size", header.path, remedy)
    if max(x, y, z) - min(x, y, z) > SAME_VOXEL_SIZE * x:
        raise CryogradError(
            f"the map's voxels are not cubes: {x:.4g} × {y:.4g} × {z:.4g} Å",
            header.path,
            "correct the cell in its header if that is wrong, or else resample it",
        )
    return x


def write_map(path: Path, density: ArrayLike, voxel_size: float) -> None:
    """Write a map of shape (L, L, L), indexed zyx, as float32 with its voxel size in Å.

    The file appears complete or not at all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, mrcfile.new(temporary, overwrite=True) as mrc:
        mrc.set_data(np.asarray(density, dtype=np.float32))
        mrc.set_volume()
        mrc.voxel_size = voxel_size
        _set_label(mrc)


class StackWriter:
    """Write a stack chunk by chunk, for sets larger than memory.

    A context manager: the file takes its name when the block ends, and only if all images were written.

    Parameters
    ----------
    path
        File to write; its folder is made.
    n_images, box_size
        Number of images and their side in pixels.
    pixel_size
        Å.
    dtype
        float32 (MRC mode 2) or float16 (mode 12).
    """

    def __init__(
        self, path: Path, n_images: int, box_size: int, pixel_size: float, dtype: DTypeLike = np.float32
    ) -> None:
        modes = {np.dtype(np.float32): 2, np.dtype(np.float16): 12}
        if np.dtype(dtype) not in modes:
            raise ValueError(f"stacks are float32 or float16, not {np.dtype(dtype)}")
        self.path, self.pixel_size = Path(path), pixel_size
        self.shape = (n_images, box_size, box_size)
        self.written = 0
        self._mode = modes[np.dtype(dtype)]
        self._stack = ExitStack()

    def __enter__(self) -> "StackWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            stack.push(self._refuse_incomplete)
            new = mrcfile.new_mmap(temporary, self.shape, mrc_mode=self._mode, overwrite=True)
            self._mrc = stack.enter_context(new)
            # A full disk has to be an error here: in mapped memory it would end the process.
            with temporary.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
            self._stack = stack.pop_all()
        # The order matters: as a volume, the cell would be given the extent of the whole stack.
        self._mrc.set_image_stack()
        self._mrc.voxel_size = self.pixel_size
        _set_label(self._mrc)
        return self

    def append(self, images: NDArray[np.floating]) -> None:
        """Write the next images, shape (b, L, L)."""
        end = self.written + len(images)
        if end > self.shape[0] or images.shape[1:] != self.shape[1:]:
            raise ValueError(
                f"images of shape {images.shape} do not fit after {self.written} of {self.shape}"
            )
        data = self._mrc.data
        assert data is not None
        largest = np.abs(images).max(initial=0.0, where=np.isfinite(images))
        if largest > np.finfo(data.dtype).max:
            raise CryogradError(
                f"the images' values are beyond the range of {data.dtype}",
                self.path,
                "write float32, or a lower signal-to-noise ratio",
            )
        data[self.written : end] = images
        self.written = end

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _refuse_incomplete(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.written != self.shape[0]:
            raise ValueError(f"{self.written} of {self.shape[0]} images were written to {self.path}")


def _set_label(mrc: MrcFile) -> None:
    """Replace mrcfile's label, which holds the time: the same run must write the same bytes."""
    header = mrc.header
    assert header is not None
    header.label[:] = b""
    header.label[0] = _LABEL
    header.nlabl = 1
