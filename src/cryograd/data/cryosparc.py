"""CryoSPARC particle files (.cs) translated to RELION's tables.

A .cs file is a NumPy structured array, a row for each particle. Conventions:

- ``alignments3D/pose`` is a rotation vector that takes the image's frame to the molecule's, so that RELION's
  matrix, which takes the molecule's to the image's, is its transpose: R = exp([pose]×)ᵀ.
- ``alignments3D/shift`` is RELION's origin in pixels of ``alignments3D/psize_A``, the sampling at which the
  images were aligned, which need not be that of the images.
- ``blob/sign`` is −1 for images as the microscope gives them, protein dark. It becomes the column
  ``cryogradImageSign``, so that images are bright in memory and a STAR file written from them reads the same.
- ``alignments3D/split`` 0 and 1 become the half-sets 1 and 2; where it is the same throughout there are none.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryograd.data.star_text import text_column
from cryograd.data.tables import ORIGINS_ANGSTROM, SIGN_COLUMN
from cryograd.errors import CryogradError
from cryograd.rotations import matrix_to_euler

if TYPE_CHECKING:
    import pandas as pd

# Columns that are read: the kind of their values, and how many a particle has.
_TEXT, _NUMBER, _WHOLE = "S", "iuf", "iu"
_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "blob/path": (_TEXT, ()),
    "blob/idx": (_WHOLE, ()),
    "blob/shape": (_WHOLE, (2,)),
    "blob/psize_A": (_NUMBER, ()),
    "ctf/accel_kv": (_NUMBER, ()),
    "ctf/cs_mm": (_NUMBER, ()),
    "ctf/amp_contrast": (_NUMBER, ()),
    "ctf/df1_A": (_NUMBER, ()),
    "ctf/df2_A": (_NUMBER, ()),
    "ctf/df_angle_rad": (_NUMBER, ()),
    # From here on they may be absent.
    "uid": (_WHOLE, ()),
    "blob/sign": (_NUMBER, ()),
    "ctf/exp_group_id": (_WHOLE, ()),
    "ctf/phase_shift_rad": (_NUMBER, ()),
    "ctf/bfactor": (_NUMBER, ()),
    "ctf/scale": (_NUMBER, ()),
    "ctf/shift_A": (_NUMBER, (2,)),
    "ctf/tilt_A": (_NUMBER, (2,)),
    "ctf/trefoil_A": (_NUMBER, (2,)),
    "ctf/tetra_A": (_NUMBER, (4,)),
    "ctf/anisomag": (_NUMBER, (4,)),
    "alignments3D/pose": (_NUMBER, (3,)),
    "alignments3D/shift": (_NUMBER, (2,)),
    "alignments3D/psize_A": (_NUMBER, ()),
    "alignments3D/split": (_WHOLE, ()),
    "alignments3D/class": (_WHOLE, ()),
    "location/micrograph_path": (_TEXT, ()),
    "location/micrograph_shape": (_WHOLE, (2,)),
    "location/center_x_frac": (_NUMBER, ()),
    "location/center_y_frac": (_NUMBER, ()),
}
_REQUIRED = tuple(_FIELDS)[:10]
# Image numbers, box sizes, half-sets and classes are all far below; uid, which is a name, is not.
_LARGEST_NUMBER = 10**9
_DAMAGED = "export the particles from CryoSPARC again: the file may be damaged"
# CryoSPARC does not publish how these enter its model, so a guess could be wrong without a sign of it.
_UNSUPPORTED = ("ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def read_cryosparc_tables(path: Path) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Optics and particle tables, in RELION's columns and units, of a CryoSPARC file.

    Columns without a counterpart in RELION are left out; ``uid`` is kept as ``cryosparcUid``.

    Raises
    ------
    CryogradError
        The file is not a .cs file, columns are missing, or it has aberrations that are not supported.
    """
    rows = _load(path)
    _check(rows, path)
    optics, group = _optics_table(rows)
    table = _particle_table(rows)
    table["rlnOpticsGroup"] = group + 1
    return optics, table


def _load(path: Path) -> NDArray[Any]:
    """The structured array of a .cs file, memory-mapped."""
    try:
        # The header names every column, and after some classifications there are hundreds.
        size = path.stat().st_size
        with warnings.catch_warnings():
            # That a header is Python 2's is no matter.
            warnings.simplefilter("ignore", UserWarning)
            rows = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=size)
    # NumPy evaluates the header's text, and a damaged one raises whatever it leads to.
    except Exception:
        rows = None
    if not isinstance(rows, np.ndarray) or rows.dtype.names is None or rows.ndim != 1:
        raise CryogradError(
            "the file is not a CryoSPARC particle file",
            path,
            "export the particles from CryoSPARC as a .cs file",
        )
    return rows


def _check(rows: NDArray[Any], path: Path) -> None:
    """Refuse what is incomplete, damaged, or would have to be ignored."""
    names = rows.dtype.names or ()
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise CryogradError(
            f"missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            path,
            "give the particles' own .cs file, not its passthrough, or join the two on uid",
        )
    if not len(rows):
        raise CryogradError("the particle table has no rows", path, "give a file with particles")
    for name in names:
        if name in _FIELDS:
            _check_column(rows, name, path)
    if not (rows["blob/shape"][:, 0] == rows["blob/shape"][:, 1]).all():
        raise CryogradError("the images are not square (blob/shape)", path, "extract square particles")
    used = [name for name in _UNSUPPORTED if name in names and np.any(rows[name] != 0)]
    if used:
        raise CryogradError(
            f"the aberrations {', '.join(used)} are not supported",
            path,
            "reset the higher-order CTF terms in CryoSPARC, or give a RELION STAR file",
        )


def _check_column(rows: NDArray[Any], name: str, path: Path) -> None:
    """Refuse a column whose type is not what it should be, or that holds what it cannot."""
    kinds, shape = _FIELDS[name]
    column = rows.dtype[name]
    if column.base.kind not in kinds or column.shape != shape:
        kind = f"{list(column.shape)} values of type {column.base}" if column.shape else f"type {column}"
        raise CryogradError(f"the column {name} has the {kind}", path, _DAMAGED)
    values = rows[name]
    if name == "uid":
        return
    if kinds == _TEXT:
        bad = [row for row, value in enumerate(values) if not _is_name(_text(value))]
    else:
        wrong = ~np.isfinite(values) if kinds == _NUMBER else (values < 0) | (values > _LARGEST_NUMBER)
        bad = np.flatnonzero(wrong.reshape(len(rows), -1).any(axis=1)).tolist()
    if bad:
        raise CryogradError(f"{name} is {values[bad[0]]}", f"row {bad[0] + 1} of {path}", _DAMAGED)


def _optics_table(rows: NDArray[Any]) -> "tuple[pd.DataFrame, NDArray[np.int64]]":
    """Optics groups, a row for each combination of what they hold, and each particle's group from 0."""
    import pandas as pd

    optics = pd.DataFrame(
        {
            "exposure_group": _column(rows, "ctf/exp_group_id", 0).astype(np.int64),
            "rlnVoltage": _decimal(rows["ctf/accel_kv"]),
            "rlnSphericalAberration": _decimal(rows["ctf/cs_mm"]),
            "rlnAmplitudeContrast": _decimal(rows["ctf/amp_contrast"]),
            "rlnImagePixelSize": _decimal(rows["blob/psize_A"]),
            "rlnImageSize": rows["blob/shape"][:, 0].astype(np.int64),
            "rlnBeamTiltX": _beam_tilt(rows, 0),
            "rlnBeamTiltY": _beam_tilt(rows, 1),
        }
    )
    group = optics.groupby(list(optics.columns), sort=False, dropna=False).ngroup().to_numpy(np.int64)
    _, first = np.unique(group, return_index=True)
    optics = optics.iloc[first].reset_index(drop=True)
    names = "exposureGroup" + optics.pop("exposure_group").astype(str)
    # An exposure group whose particles differ becomes several groups, whose names must differ too.
    again = names.groupby(names).cumcount()
    optics.insert(0, "rlnOpticsGroup", np.arange(1, len(optics) + 1))
    optics.insert(1, "rlnOpticsGroupName", names.where(again == 0, names + "_" + (again + 1).astype(str)))
    return optics, group


def _beam_tilt(rows: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Beam tilt in mrad: ``ctf/tilt_A`` is the displacement Cs sin(tilt) that it causes, in Å."""
    if "ctf/tilt_A" not in (rows.dtype.names or ()):
        return np.zeros(len(rows))
    displacement = rows["ctf/tilt_A"][:, axis].astype(np.float64)
    aberration = 1e7 * rows["ctf/cs_mm"].astype(np.float64)
    # Without spherical aberration beam tilt shifts nothing.
    sine = np.divide(displacement, aberration, out=np.zeros(len(rows)), where=aberration > 0)
    # What no tilt causes is not a number, which is refused with the group.
    with np.errstate(invalid="ignore"):
        return 1e3 * np.arcsin(sine)


def _particle_table(rows: NDArray[Any]) -> "pd.DataFrame":
    """Particle table in RELION's columns and units, without optics groups."""
    import pandas as pd

    columns: dict[str, Any] = {
        "rlnImageName": text_column(
            f"{int(index) + 1:06d}@{_text(name)}"
            for index, name in zip(rows["blob/idx"], rows["blob/path"], strict=True)
        ),
        "rlnDefocusU": rows["ctf/df1_A"].astype(np.float64),
        "rlnDefocusV": rows["ctf/df2_A"].astype(np.float64),
        "rlnDefocusAngle": np.rad2deg(rows["ctf/df_angle_rad"].astype(np.float64)),
        "rlnPhaseShift": np.rad2deg(_column(rows, "ctf/phase_shift_rad", 0.0)),
        "rlnCtfBfactor": _column(rows, "ctf/bfactor", 0.0),
        "rlnCtfScalefactor": _column(rows, "ctf/scale", 1.0),
        **_alignment(rows),
        **_location(rows),
    }
    sign = _column(rows, "blob/sign", 1.0)
    if np.any(sign != 1.0):
        # What is no sign stays what it is, for the error that names it.
        columns[SIGN_COLUMN] = sign.astype(np.int64) if np.all(np.abs(sign) == 1.0) else sign
    if "uid" in (rows.dtype.names or ()):
        columns["cryosparcUid"] = rows["uid"].astype(np.uint64)
    return pd.DataFrame(columns)


def _alignment(rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Poses, half-sets and classes, as far as the file has them."""
    names = rows.dtype.names or ()
    columns: dict[str, NDArray[Any]] = {}
    if "alignments3D/pose" in names:
        pose = Rotation.from_rotvec(rows["alignments3D/pose"].astype(np.float64))
        angles = np.rad2deg(matrix_to_euler(pose.inv().as_matrix()))
        columns |= {name: angles[:, i] for i, name in enumerate(_ANGLES)}
    if "alignments3D/shift" in names:
        pixel = "alignments3D/psize_A" if "alignments3D/psize_A" in names else "blob/psize_A"
        shift = rows["alignments3D/shift"].astype(np.float64) * _decimal(rows[pixel])[:, None]
        columns |= {name: shift[:, i] for i, name in enumerate(ORIGINS_ANGSTROM)}
    # One value for all is no split into halves.
    if "alignments3D/split" in names and np.ptp(rows["alignments3D/split"]) > 0:
        columns["rlnRandomSubset"] = rows["alignments3D/split"].astype(np.int64) + 1
    if "alignments3D/class" in names:
        columns["rlnClassNumber"] = rows["alignments3D/class"].astype(np.int64) + 1
    return columns


def _location(rows: NDArray[Any]) -> dict[str, Any]:
    """Micrograph and place in it in pixels, as far as the file has them."""
    names = rows.dtype.names or ()
    columns: dict[str, Any] = {}
    if "location/micrograph_path" in names:
        columns["rlnMicrographName"] = text_column(map(_text, rows["location/micrograph_path"]))
    if {"location/center_x_frac", "location/center_y_frac", "location/micrograph_shape"} <= set(names):
        height, width = rows["location/micrograph_shape"].astype(np.float64).T
        columns["rlnCoordinateX"] = rows["location/center_x_frac"] * width
        columns["rlnCoordinateY"] = rows["location/center_y_frac"] * height
    return columns


def _column(rows: NDArray[Any], name: str, default: float) -> NDArray[np.float64]:
    """A column as float64, or the default where it is absent."""
    if name in (rows.dtype.names or ()):
        return rows[name].astype(np.float64)
    return np.full(len(rows), default)


def _decimal(values: NDArray[Any]) -> NDArray[np.float64]:
    """The decimal numbers that float32 values stand for: 2.7, not 2.7000000477."""
    unique, inverse = np.unique(values, return_inverse=True)
    return np.array([float(str(value)) for value in unique])[inverse]


def _text(name: bytes) -> str:
    """A path, without the mark ``>`` that CryoSPARC puts before those it manages.

    Bytes that are not UTF-8 stay what they are, as in names of files that are on disk.
    """
    return os.fsdecode(name).removeprefix(">")


def _is_name(text: str) -> bool:
    """Whether a text may be the name of a file: none has line breaks or other control characters."""
    return not any(ord(character) < ord(" ") for character in text)
