"""What a user chooses by name is one module of a package: adding the file is all that a new one takes."""

import difflib
import importlib
import importlib.util
import pkgutil
from typing import Any

from cryograd.errors import CryogradError

# Modules of such a package that are no choice themselves.
APART = frozenset({"registry"})


class Registry:
    """The choices that a package offers; each module of it holds one in a constant.

    The name of a choice is its module's with ``-`` for ``_``. Names are read from the folder: the help texts
    and the validation of options show and check them without the time that importing the modules takes.

    Parameters
    ----------
    package
        Dotted name of the package.
    kind
        What one choice is called, such as ``solver``; the constant has this name in capitals.
    """

    def __init__(self, package: str, kind: str) -> None:
        self.package, self.kind = package, kind

    def names(self) -> tuple[str, ...]:
        """All names, sorted; no module of the package is imported."""
        spec = importlib.util.find_spec(self.package)
        folders = spec.submodule_search_locations if spec else None
        found = (module.name for module in pkgutil.iter_modules(folders or ()))
        return tuple(sorted(name.replace("_", "-") for name in found if name not in APART))

    def module_of(self, name: str) -> str:
        """Dotted name of the module that has the choice of a name."""
        return f"{self.package}.{name.replace('-', '_')}"

    def get(self, name: str) -> Any:
        """The choice of a name.

        Raises
        ------
        CryogradError
            There is none of this name.
        """
        if name not in self.names():
            raise CryogradError(f"unknown {self.kind} {name!r}", self.package, self.remedy(name))
        return getattr(importlib.import_module(self.module_of(name)), self.kind.upper())

    def remedy(self, name: str) -> str:
        """What to do about a name that is unknown: take the nearest, or any."""
        names = self.names()
        close = difflib.get_close_matches(name, names, n=1)
        return f"did you mean {close[0]!r}?" if close else f"use {', '.join(names[:-1])} or {names[-1]}"

    def name_of(self, cls: type) -> str:
        """The name that a class has as a choice; module and class for one that lives elsewhere."""
        package, _, module = cls.__module__.rpartition(".")
        return module.replace("_", "-") if package == self.package else f"{cls.__module__}:{cls.__qualname__}"


SOLVERS = Registry("cryograd.solvers", "solver")
PRIORS = Registry("cryograd.objective.priors", "prior")
