"""Tables as RELION writes them, for tests of what becomes of them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cryograd.data.particles import Particles
from cryograd.data.tables import particles_from_tables
from cryograd.errors import CryogradError

SOURCE = Path("/project/Extract/job3/particles.star")
ANGSTROM = {"rlnOriginXAngst": [3.0, 0.0], "rlnOriginYAngst": [-1.5, 6.0]}
PIXEL = {"rlnOriginX": [2.0, 0.0], "rlnOriginY": [-1.0, 4.0]}


def optics_table(drop: tuple[str, ...] = (), **columns: Any) -> pd.DataFrame:
    """An optics table of one group, number 1, of 8 px images of 1.5 Å; columns may be added or replaced."""
    values = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["one"],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnImagePixelSize": [1.5],
        "rlnImageSize": [8],
    } | columns
    return pd.DataFrame({name: value for name, value in values.items() if name not in drop})


def two_groups(**columns: Any) -> pd.DataFrame:
    """An optics table of the groups 7 and 3, of 1 Å and 2 Å."""
    values: dict[str, Any] = {"rlnOpticsGroup": [7, 3], "rlnOpticsGroupName": ["seven", "three"]}
    values |= {"rlnImagePixelSize": [1.0, 2.0], "rlnVoltage": [300.0, 200.0]}
    common = {"rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1, "rlnImageSize": 8}
    return pd.DataFrame(values | columns).assign(**common)


def particle_table(drop: tuple[str, ...] = (), **columns: Any) -> pd.DataFrame:
    """A table of two particles of group 1; columns may be added or replaced."""
    values = {
        "rlnImageName": ["1@a.mrcs", "2@a.mrcs"],
        "rlnOpticsGroup": [1, 1],
        "rlnDefocusU": [10000.0, 20000.0],
        "rlnDefocusV": [9000.0, 19000.0],
        "rlnDefocusAngle": [30.0, -45.0],
    } | columns
    return pd.DataFrame({name: value for name, value in values.items() if name not in drop})


def convert(
    optics: pd.DataFrame | None = None,
    table: pd.DataFrame | None = None,
    pixel_size: float | None = None,
) -> Particles:
    """The particles of two tables, without their images."""
    return particles_from_tables(
        optics_table() if optics is None else optics,
        particle_table() if table is None else table,
        SOURCE,
        pixel_size=pixel_size,
        require_images=False,
    )


def refusal(
    optics: pd.DataFrame | None = None, table: pd.DataFrame | None = None, pixel_size: float | None = None
) -> CryogradError:
    """The error with which two tables are refused."""
    with pytest.raises(CryogradError) as error:
        convert(optics, table, pixel_size)
    return error.value
