"""The columns of a particle file, as numbers or as text."""

import difflib
import re

import numpy as np
from numpy.typing import NDArray

from cryograd.data.particles import Particles
from cryograd.data.star_text import text_column
from cryograd.errors import CryogradError
from cryograd.rotations import FloatArray

# Names that an error lists of a file that has none like the one that is asked for.
_NAMED = 8


class Columns:
    """Columns of particles by their names, with the underscore that they have in STAR files or without it.

    What particles do not have is that of their optics group.

    Parameters
    ----------
    particles
        The particles.
    """

    def __init__(self, particles: Particles) -> None:
        self._particles = particles
        # A condition may name a column many times.
        self._texts: dict[str, NDArray[np.object_]] = {}
        self._numbers: dict[str, FloatArray] = {}

    def __len__(self) -> int:
        """The number of particles."""
        return len(self._particles)

    def __contains__(self, name: str) -> bool:
        return name.removeprefix("_") in self._names()

    def like(self, pattern: str) -> list[str]:
        """Names of the columns that a regular expression describes, in the order of the file."""
        return [name for name in self._names() if re.fullmatch(pattern, name)]

    def texts(self, name: str) -> NDArray[np.object_]:
        """A column as it stands in the file, shape (n,).

        Raises
        ------
        CryogradError
            There is none of this name.
        """
        bare, particles = name.removeprefix("_"), self._particles
        if bare in self._texts:
            return self._texts[bare]
        if bare in particles.table:
            column = particles.table[bare].to_numpy()
        elif bare in particles.optics_table:
            column = particles.optics_table[bare].to_numpy()[particles.optics_index]
        else:
            names = self._names()
            near = difflib.get_close_matches(bare, names, n=3, cutoff=0.5)
            known = f"the nearest are {', '.join(near)}" if near else f"it has {', '.join(names[:_NAMED])} …"
            raise CryogradError(f"there is no column {bare[:80]}", particles.source, known)
        return self._texts.setdefault(bare, np.array(list(map(str, column)), dtype=object))

    def numbers(self, name: str) -> FloatArray:
        """A column as numbers, shape (n,).

        Raises
        ------
        CryogradError
            There is none of this name, or a value is no number.
        """
        import pandas as pd

        if name in self._numbers:
            return self._numbers[name]
        texts = self.texts(name)
        values = np.asarray(pd.to_numeric(text_column(texts), errors="coerce"), dtype=np.float64)
        odd = [row for row in np.flatnonzero(np.isnan(values)) if texts[row].lower() != "nan"]
        if odd:
            raise CryogradError(
                f"{name.removeprefix('_')} is no number: {texts[odd[0]]}",
                f"row {odd[0] + 1} of {self._particles.source}",
                "compare it with a text in quotation marks, or correct the row",
            )
        return self._numbers.setdefault(name, values)

    def _names(self) -> list[str]:
        """All names, those of the particles first."""
        tables = (self._particles.table, self._particles.optics_table)
        return list(dict.fromkeys(str(name) for table in tables for name in table.columns))
