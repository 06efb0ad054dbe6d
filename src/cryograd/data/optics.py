"""Optics groups: what is common to the images of one microscope session, in Å and radians."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryograd.errors import CryogradError

REQUIRED_COLUMNS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
_MAGNIFICATION_COLUMNS = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")

# Farther from isotropic is no microscope, and nearly singular.
_LARGEST_DISTORTION = 0.2

# Pixel sizes that differ by less than this share are the same, written with few digits.
SAME_PIXEL_SIZE = 0.01

# No value of a particle file is as large, whatever its unit.
LARGEST_VALUE = 1e12

# RELION's constants: h / sqrt(2 m e) in Å √V, and e / (2 m c²) in 1/V.
_WAVELENGTH_SCALE = 12.2643247
_RELATIVITY = 0.978466e-6


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic electron wavelength in Å at an acceleration voltage in kV, with RELION's constants."""
    volts = 1e3 * voltage_kv
    return _WAVELENGTH_SCALE / math.sqrt(volts * (1.0 + _RELATIVITY * volts))


def voltage_kv(wavelength: float) -> float:
    """Acceleration voltage in kV of electrons of a wavelength in Å: the inverse of `electron_wavelength`."""
    target = (_WAVELENGTH_SCALE / wavelength) ** 2
    return 1e-3 * (math.sqrt(1.0 + 4.0 * _RELATIVITY * target) - 1.0) / (2.0 * _RELATIVITY)


@dataclass(frozen=True)
class Optics:
    """One optics group.

    Parameters
    ----------
    name
        RELION's ``rlnOpticsGroupName``.
    wavelength, spherical_aberration
        Å.
    amplitude_contrast
        Fraction.
    pixel_size
        Å, of the images.
    box_size
        Side of the images in pixels; 0 where it is not known because the images were not looked for.
    beam_tilt
        (x, y) in radians.
    odd_zernike, even_zernike
        RELION's antisymmetric and symmetric aberration coefficients, as they stand in the file.
    magnification
        RELION's anisotropic magnification matrix M = ((00, 01), (10, 11)): an image's coefficient at
        frequency k belongs to the true frequency M k, at which its aberrations are.
    premultiplied
        The images have been multiplied by their CTF.
    phase_flipped
        The images have been multiplied by the sign of their CTF.
    """

    name: str
    wavelength: float
    spherical_aberration: float
    amplitude_contrast: float
    pixel_size: float
    box_size: int
    beam_tilt: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    premultiplied: bool = False
    phase_flipped: bool = False

    @property
    def nyquist(self) -> float:
        """Finest true resolution in Å that the images have in every direction."""
        return 2.0 * self.pixel_size / float(np.linalg.norm(self.magnification, ord=-2))


def optics_from_row(
    row: Mapping[Hashable, Any], where: object, *, pixel_size: float | None, box_size: int
) -> Optics:
    """Convert a row of RELION's optics table, whose required columns are there.

    Parameters
    ----------
    row
        Values by RELION's column names: kV, mm, mrad.
    where
        File and group, for errors.
    pixel_size
        Å, replaces the row's.
    box_size
        Side of the images in pixels.

    Raises
    ------
    CryogradError
        A value is not a number or out of range.
    """
    if int(_number(row, "rlnImageDimensionality", where, 2)) != 2:
        raise CryogradError(
            "the images are three-dimensional (rlnImageDimensionality)",
            where,
            "give 2D particle images: subtomograms are not supported",
        )
    return Optics(
        name=str(row["rlnOpticsGroupName"]),
        wavelength=electron_wavelength(_positive(row, "rlnVoltage", where)),
        spherical_aberration=1e7 * _number(row, "rlnSphericalAberration", where),
        amplitude_contrast=_fraction(row, "rlnAmplitudeContrast", where),
        pixel_size=pixel_size_of_row(row, where) if pixel_size is None else pixel_size,
        box_size=box_size,
        beam_tilt=(
            1e-3 * _number(row, "rlnBeamTiltX", where, 0.0),
            1e-3 * _number(row, "rlnBeamTiltY", where, 0.0),
        ),
        odd_zernike=_coefficients(row, "rlnOddZernike", where),
        even_zernike=_coefficients(row, "rlnEvenZernike", where),
        magnification=_magnification(row, where),
        premultiplied=_number(row, "rlnCtfDataAreCtfPremultiplied", where, 0.0) != 0,
        phase_flipped=_number(row, "rlnCtfDataArePhaseFlipped", where, 0.0) != 0,
    )


def optics_to_row(optics: Optics, number: int) -> dict[str, Any]:
    """RELION's optics row of a group, in kV, mm and mrad; ``number`` is its ``rlnOpticsGroup``."""
    row: dict[str, Any] = {
        "rlnOpticsGroupName": optics.name,
        "rlnOpticsGroup": number,
        # Ten digits hide the rounding of kV → Å → kV.
        "rlnVoltage": float(f"{voltage_kv(optics.wavelength):.10g}"),
        "rlnSphericalAberration": float(f"{1e-7 * optics.spherical_aberration:.10g}"),
        "rlnAmplitudeContrast": optics.amplitude_contrast,
        "rlnImagePixelSize": optics.pixel_size,
        "rlnImageSize": optics.box_size,
        "rlnImageDimensionality": 2,
        "rlnCtfDataAreCtfPremultiplied": int(optics.premultiplied),
        "rlnCtfDataArePhaseFlipped": int(optics.phase_flipped),
        "rlnBeamTiltX": 1e3 * optics.beam_tilt[0],
        "rlnBeamTiltY": 1e3 * optics.beam_tilt[1],
    }
    for name, coefficients in (
        ("rlnOddZernike", optics.odd_zernike),
        ("rlnEvenZernike", optics.even_zernike),
    ):
        if coefficients:
            row[name] = f"[{','.join(map(str, coefficients))}]"
    if optics.magnification != ((1.0, 0.0), (0.0, 1.0)):
        row |= dict(zip(_MAGNIFICATION_COLUMNS, [m for r in optics.magnification for m in r], strict=True))
    return row


def true_shifts(
    shifts: NDArray[np.float64], optics: Sequence[Optics], index: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Shifts M⁻ᵀ t, shape (n, 2), of a file's origins t, which are in the frame of the distorted image.

    A particle shifted by t in an image has the factor exp(2πi k·t), which is exp(2πi q·M⁻ᵀt) at q = M k.
    """
    inverse = np.linalg.inv([group.magnification for group in optics])
    return np.einsum("nji,nj->ni", inverse[index], shifts)


def image_shifts(
    shifts: NDArray[np.float64], optics: Sequence[Optics], index: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Origins Mᵀ t for a file, shape (n, 2), of true shifts t: the inverse of `true_shifts`."""
    matrices = np.array([group.magnification for group in optics])
    return np.einsum("nji,nj->ni", matrices[index], shifts)


def has_pixel_size(columns: Mapping[Hashable, Any]) -> bool:
    """Whether a row's columns give the images' pixel size in one of RELION's ways."""
    return "rlnImagePixelSize" in columns or "rlnPixelSize" in columns or _has_detector(columns)


def pixel_size_of_row(row: Mapping[Hashable, Any], where: object) -> float:
    """Pixel size of the images in Å.

    It is ``rlnImagePixelSize``, or the detector's in µm over the magnification, which have to agree where
    both are there. ``rlnPixelSize``, which may be that of the micrograph, counts where neither is.
    """
    of_detector = _has_detector(row)
    if "rlnImagePixelSize" not in row:
        return _pixel_size_of_detector(row, where) if of_detector else _positive(row, "rlnPixelSize", where)
    size = _positive(row, "rlnImagePixelSize", where)
    if of_detector and not agrees_with_detector(row, size):
        raise CryogradError(
            f"rlnImagePixelSize is {size:g} Å, and rlnDetectorPixelSize over rlnMagnification is "
            f"{_pixel_size_of_detector(row, where):.4g} Å",
            where,
            "remove the wrong one from the file",
        )
    return size


def agrees_with_detector(row: Mapping[Hashable, Any], pixel_size: float) -> bool:
    """Whether detector and magnification, where a row has them, give a pixel size in Å."""
    if not _has_detector(row):
        return True
    return math.isclose(_pixel_size_of_detector(row, "the optics"), pixel_size, rel_tol=SAME_PIXEL_SIZE)


def _has_detector(row: Mapping[Hashable, Any]) -> bool:
    return "rlnDetectorPixelSize" in row and "rlnMagnification" in row


def _pixel_size_of_detector(row: Mapping[Hashable, Any], where: object) -> float:
    """Pixel size in Å of the detector's in µm and the magnification."""
    return 1e4 * _positive(row, "rlnDetectorPixelSize", where) / _positive(row, "rlnMagnification", where)


def box_size_of_row(row: Mapping[Hashable, Any], where: object) -> int:
    """Side of the images in pixels."""
    return int(_positive(row, "rlnImageSize", where))


def _number(row: Mapping[Hashable, Any], name: str, where: object, default: float = math.nan) -> float:
    """A finite number of a row, or the default where the column is absent."""
    try:
        value = float(row.get(name, default))
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise CryogradError(f"{name} is not a number: {row.get(name)}", where, "correct the value")
    if abs(value) > LARGEST_VALUE:
        raise CryogradError(f"{name} is {value:g}, out of all range", where, "correct the value")
    return value


def _positive(row: Mapping[Hashable, Any], name: str, where: object) -> float:
    """A number above zero."""
    value = _number(row, name, where)
    if value <= 0:
        raise CryogradError(f"{name} is {value:g}, not positive", where, "correct the value")
    return value


def _fraction(row: Mapping[Hashable, Any], name: str, where: object) -> float:
    """A number from 0 to 1."""
    value = _number(row, name, where)
    if not 0 <= value <= 1:
        raise CryogradError(f"{name} is {value:g}, not between 0 and 1", where, "correct the value")
    return value


def _magnification(
    row: Mapping[Hashable, Any], where: object
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The magnification matrix, which must be near identity."""
    a, b, c, d = (
        _number(row, name, where, identity)
        for name, identity in zip(_MAGNIFICATION_COLUMNS, (1.0, 0.0, 0.0, 1.0), strict=True)
    )
    if np.linalg.norm([[a - 1.0, b], [c, d - 1.0]], ord=2) > _LARGEST_DISTORTION:
        raise CryogradError(
            f"the magnification matrix ({a:g} {b:g}; {c:g} {d:g}) is more than "
            f"{100 * _LARGEST_DISTORTION:.0f} % away from isotropic",
            where,
            "correct or remove the rlnMagMat columns",
        )
    return ((a, b), (c, d))


def _coefficients(row: Mapping[Hashable, Any], name: str, where: object) -> tuple[float, ...]:
    """Numbers of a list that RELION writes as ``[a,b,c]``."""
    text = str(row.get(name, "[]")).strip().removeprefix("[").removesuffix("]")
    try:
        return tuple(float(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise CryogradError(f"{name} is not a list of numbers: [{text}]", where, "correct the list") from None
