"""Optics groups by what their particles say: from files without an optics table, and where rows differ.

A file of RELION 3.0 has the constants of the optics in every particle row. In a file of 3.1 rows may have
some of them beside the optics table, and then theirs count, as RELION has it.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryograd.data.optics import has_pixel_size
from cryograd.data.star_text import text_column

if TYPE_CHECKING:
    import pandas as pd

IntArray = NDArray[np.int64]

_PIXEL_SIZE_COLUMNS = ("rlnImagePixelSize", "rlnPixelSize", "rlnDetectorPixelSize", "rlnMagnification")
# Constants of the CTF that RELION takes from the particle row where it has them.
_CTF_COLUMNS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
# Columns of RELION 3.0's particle table that belong to the optics table from 3.1 on.
_OPTICS_COLUMNS = (
    *_CTF_COLUMNS,
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnPixelSize",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnOddZernike",
    "rlnEvenZernike",
    "rlnMagMat00",
    "rlnMagMat01",
    "rlnMagMat10",
    "rlnMagMat11",
    "rlnCtfDataAreCtfPremultiplied",
    "rlnCtfDataArePhaseFlipped",
    "rlnMicrographOriginalPixelSize",
    "rlnMtfFileName",
)


def keys(column: Iterable[Any]) -> NDArray[Any]:
    """What the values of a column are compared by: numbers however they are written, and else text."""
    import pandas as pd

    texts = text_column(map(str, column)).to_numpy()
    numbers = np.asarray(pd.to_numeric(texts, errors="coerce"), dtype=np.float64)
    return np.where(np.isnan(numbers), texts, numbers.astype(object))


def optics_of_rows(table: "pd.DataFrame") -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Move RELION 3.0's optics columns into an optics table with a row for each combination.

    Groups of the file's own (``rlnOpticsGroup``) keep their numbers and are never joined.
    """
    columns = [name for name in _OPTICS_COLUMNS if name in table]
    own = [keys(table["rlnOpticsGroup"])] if "rlnOpticsGroup" in table else []
    group, first = _combinations(len(table), [*own, *(keys(table[name]) for name in columns)])
    numbers = [str(row + 1) for row in range(len(first))]
    if own:
        numbers = _distinct([str(value) for value in table["rlnOpticsGroup"].iloc[first]])
    optics = table.iloc[first][columns].reset_index(drop=True)
    optics.insert(0, "rlnOpticsGroup", text_column(numbers))
    of_rows = text_column(numbers[number] for number in group)
    return with_names(optics), table.drop(columns=columns).assign(rlnOpticsGroup=of_rows)


def with_names(optics: "pd.DataFrame") -> "pd.DataFrame":
    """Give optics groups without a name RELION's own: opticsGroup1 and so on."""
    if "rlnOpticsGroupName" in optics or "rlnOpticsGroup" not in optics:
        return optics
    names = text_column(f"opticsGroup{number}" for number in optics["rlnOpticsGroup"])
    return optics.assign(rlnOpticsGroupName=names)


def with_constants_of_rows(
    optics: "pd.DataFrame", table: "pd.DataFrame", index: IntArray
) -> "tuple[pd.DataFrame, IntArray]":
    """Optics rows in which the constants that particle rows have count, and each particle's row.

    A group whose particles differ in them becomes several groups.

    Parameters
    ----------
    optics, table
        Optics rows and particle rows, which stay as they are.
    index
        Optics row of each particle, shape (n,).
    """
    columns = [name for name in _CTF_COLUMNS if name in table]
    if not has_pixel_size(dict.fromkeys(optics.columns)):
        columns += [name for name in _PIXEL_SIZE_COLUMNS if name in table]
    if not columns:
        return optics, index
    group, first = _combinations(len(table), [index, *(keys(table[name]) for name in columns)])
    rows = optics.iloc[index[first]].reset_index(drop=True)
    rows = rows.assign(**{name: table[name].iloc[first].reset_index(drop=True) for name in columns})
    if len(rows) == len(np.unique(index)):
        return rows, group
    again = rows.groupby("rlnOpticsGroup").cumcount() + 1
    numbers = text_column(_distinct([str(value) for value in rows["rlnOpticsGroup"]]))
    names = zip(rows["rlnOpticsGroupName"], again, strict=True)
    distinct = text_column(f"{name}_{time}" if time > 1 else name for name, time in names)
    return rows.assign(rlnOpticsGroup=numbers, rlnOpticsGroupName=distinct), group


def _combinations(n: int, columns: Sequence[NDArray[Any]]) -> tuple[IntArray, IntArray]:
    """Number of each row's combination, from 0 in the order of the file, and the first row of each."""
    import pandas as pd

    group = np.zeros(n, dtype=np.int64)
    for column in columns:
        codes, values = pd.factorize(column)
        group = pd.factorize(group * len(values) + codes)[0].astype(np.int64)
    return group, np.unique(group, return_index=True)[1]


def _distinct(numbers: Sequence[str]) -> list[str]:
    """Numbers of groups, of which those that were there before are replaced by the next that are free."""
    taken, distinct = set(numbers), []
    free = 1 + max((int(number) for number in taken if re.fullmatch("[0-9]{1,9}", number)), default=0)
    for number in numbers:
        if number in distinct:
            number, free = str(free), free + 1
        distinct.append(number)
    return distinct
