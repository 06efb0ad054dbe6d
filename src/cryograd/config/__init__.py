"""What a command is asked to do: plain validated data, one model a command.

Every command-line option is a field, and its description is the help text. Lengths are in Å. ``None`` means
that the value is taken from the data.
"""

from cryograd.config.fields import Command, to_toml
from cryograd.config.runs import Abinitio, HalfSetRun, ParticleRun, Reconstruct, Refine
from cryograd.config.tools import Compare, Demo, Inspect, Report, Select, Simulate

# In the order of the help; a command is called as its model is.
COMMANDS: dict[str, type[Command]] = {
    model.__name__.lower(): model
    for model in (Demo, Simulate, Inspect, Select, Abinitio, Refine, Reconstruct, Compare, Report)
}

__all__ = [
    "COMMANDS",
    "Abinitio",
    "Command",
    "Compare",
    "Demo",
    "HalfSetRun",
    "Inspect",
    "ParticleRun",
    "Reconstruct",
    "Refine",
    "Report",
    "Select",
    "Simulate",
    "to_toml",
]
