"""Cryo-EM reconstruction by stochastic gradient optimisation with marginalised poses.

The functions of this package are those of the command line, with its options as keyword arguments; see
`cryograd.library`. They are imported when they are first asked for, since torch takes a second to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cryograd.version import __version__

if TYPE_CHECKING:
    from cryograd.data.particles import Particles
    from cryograd.data.read import read_particles
    from cryograd.errors import CryogradError
    from cryograd.library import abinitio, compare, reconstruct, refine, select, simulate
    from cryograd.maps import Map
    from cryograd.objective.prior import Prior
    from cryograd.results import Result
    from cryograd.steps.protocol import Solver

# Where what is exported lives.
_HOMES = {
    "CryogradError": "cryograd.errors",
    "Map": "cryograd.maps",
    "Particles": "cryograd.data.particles",
    "Prior": "cryograd.objective.prior",
    "Result": "cryograd.results",
    "Solver": "cryograd.steps.protocol",
    "abinitio": "cryograd.library",
    "compare": "cryograd.library",
    "read_particles": "cryograd.data.read",
    "reconstruct": "cryograd.library",
    "refine": "cryograd.library",
    "select": "cryograd.library",
    "simulate": "cryograd.library",
}

__all__ = [
    "CryogradError",
    "Map",
    "Particles",
    "Prior",
    "Result",
    "Solver",
    "__version__",
    "abinitio",
    "compare",
    "read_particles",
    "reconstruct",
    "refine",
    "select",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cryograd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
