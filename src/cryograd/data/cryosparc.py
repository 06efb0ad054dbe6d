"""CryoSPARC particle files (.cs) translated to RELION's tables.

A .cs file is a NumPy structured array, a row for each particle. Conventions:

- ``alignments3D/pose`` is a rotation vector that takes the image's frame to the molecule's, so that RELION's
  matrix, which takes the molecule's to the image's, is its transpose: R = exp([pose]×)ᵀ.
- ``alignments3D/shift`` is RELION's origin in pixels of ``alignments3D/psize_A``, the sampling at which the
  images were aligned, which need not be that of the images.
- ``blob/sign`` is −1 for images as the microscope gives them, protein dark. It becomes the column
  ``cryogradImageSign``, so that images are bright in memory and a STAR file written from them reads the same.
- ``alignments3D/split`` 0 and 1 become the half-sets 1 and 2.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryograd.data.tables import ORIGINS_ANGSTROM, SIGN_COLUMN
from cryograd.errors import CryogradError
from cryograd.rotations import matrix_to_euler

if TYPE_CHECKING:
    import pandas as pd

_REQUIRED = (
    "blob/path",
    "blob/idx",
    "blob/shape",
    "blob/psize_A",
    "ctf/accel_kv",
    "ctf/cs_mm",
    "ctf/amp_contrast",
    "ctf/df1_A",
    "ctf/df2_A",
    "ctf/df_angle_rad",
)
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
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        rows = None
    if not isinstance(rows, np.ndarray) or rows.dtype.names is None or rows.ndim != 1:
        raise CryogradError(
            "the file is not a CryoSPARC particle file",
            path,
            "export the particles from CryoSPARC as a .cs file",
        )
    return rows


def _check(rows: NDArray[Any], path: Path) -> None:
    """Refuse what is incomplete or would have to be ignored."""
    names = rows.dtype.names or ()
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise CryogradError(
            f"missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            path,
            "give the particles' own .cs file, not its passthrough, or join the two on uid",
        )
    if not (rows["blob/shape"][:, 0] == rows["blob/shape"][:, 1]).all():
        raise CryogradError("the images are not square (blob/shape)", path, "extract square particles")
    used = [name for name in _UNSUPPORTED if name in names and np.any(rows[name] != 0)]
    if used:
        raise CryogradError(
            f"the aberrations {', '.join(used)} are not supported",
            path,
            "reset the higher-order CTF terms in CryoSPARC, or give a RELION STAR file",
        )


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
    return 1e3 * np.arcsin(sine)


def _particle_table(rows: NDArray[Any]) -> "pd.DataFrame":
    """Particle table in RELION's columns and units, without optics groups."""
    import pandas as pd

    columns: dict[str, NDArray[Any] | list[str]] = {
        "rlnImageName": [
            f"{int(index) + 1:06d}@{_text(name)}"
            for index, name in zip(rows["blob/idx"], rows["blob/path"], strict=True)
        ],
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
        columns[SIGN_COLUMN] = sign.astype(np.int64)
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
    for name, source in (("rlnRandomSubset", "alignments3D/split"), ("rlnClassNumber", "alignments3D/class")):
        if source in names:
            columns[name] = rows[source].astype(np.int64) + 1
    return columns


def _location(rows: NDArray[Any]) -> dict[str, Any]:
    """Micrograph and place in it in pixels, as far as the file has them."""
    names = rows.dtype.names or ()
    columns: dict[str, Any] = {}
    if "location/micrograph_path" in names:
        columns["rlnMicrographName"] = [_text(name) for name in rows["location/micrograph_path"]]
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


def _text(name: bytes | str) -> str:
    """A path, without the mark ``>`` that CryoSPARC puts before those it manages."""
    text = name.decode() if isinstance(name, bytes) else str(name)
    return text.removeprefix(">")
