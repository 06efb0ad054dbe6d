"""The solvers by name: one module of this package each."""

from typing import TYPE_CHECKING

from cryograd.errors import CryogradError
from cryograd.registry import SOLVERS

if TYPE_CHECKING:
    # The names are wanted before torch is: help texts show them.
    from cryograd.steps.protocol import Solver


def names() -> tuple[str, ...]:
    """Names of all solvers, sorted."""
    return SOLVERS.names()


def get(name: str) -> "Solver":
    """The solver of a name, with its default settings."""
    return SOLVERS.get(name)


def resolved(solver: "str | Solver") -> "Solver":
    """The solver of a name, or the given one, which may be a user's own.

    Raises
    ------
    CryogradError
        The name is unknown, or what is given is no solver.
    """
    if isinstance(solver, str):
        return get(solver)
    missing = [name for name in ("needs", "init", "step") if not hasattr(solver, name)]
    if isinstance(solver, type) or missing:
        raise CryogradError(
            f"{solver!r} is no solver",
            "solver",
            "give a name or an object with `needs`, `init` and `step`, such as SGD()",
        )
    return solver


def name_of(solver: "str | Solver") -> str:
    """The name of a solver."""
    return solver if isinstance(solver, str) else SOLVERS.name_of(type(solver))
