"""The ``cryograd`` command: parse, dispatch, and turn errors into one line and an exit status.

Each command is a module with ``run(config)``, which returns what a machine would want to know, and
``summary(result)``, which says it to a person. Modules are imported when their command runs, so that help and
errors in options answer at once.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnusedCliTokensError

from cryograd import __version__
from cryograd.cli.options import positional, resolve, signature
from cryograd.config import Abinitio, Command, Compare, Demo, Inspect, Reconstruct, Refine, Report, Simulate
from cryograd.errors import CryogradError

# Torch reads this at its first tensor: faults in pages of 4 kB cost new arrays as much as their transforms.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

BAD_INPUT = 2
# What shells report for a program that SIGINT or SIGTERM ended.
INTERRUPTED = 130
TERMINATED = 143


@dataclass(frozen=True)
class CommandSpec:
    """A command: its options, the module that runs it, and examples for its help."""

    model: type[Command]
    module: str
    examples: tuple[str, ...]


COMMANDS = {
    "demo": CommandSpec(Demo, "cryograd.cli.demo", ("cryograd demo", "cryograd demo -o /tmp/demo --seed 7")),
    "simulate": CommandSpec(
        Simulate,
        "cryograd.cli.simulate",
        (
            "cryograd simulate molecule.pdb -o simulated --particles 5000",
            "cryograd simulate map.mrc -o simulated --symmetry D2 --snr 0.05",
        ),
    ),
    "inspect": CommandSpec(
        Inspect,
        "cryograd.cli.inspect",
        ("cryograd inspect particles.star", "cryograd inspect particles.cs -o inspection.html"),
    ),
    "abinitio": CommandSpec(
        Abinitio,
        "cryograd.cli.abinitio",
        (
            "cryograd abinitio particles.star -o run1",
            "cryograd abinitio particles.star -o run2 --symmetry D2 --particle-diameter 180",
            "cryograd abinitio -o run1 --resume",
            "cryograd abinitio --config run1/run.toml -o run3 --seed 1",
        ),
    ),
    "refine": CommandSpec(
        Refine,
        "cryograd.cli.refine",
        (
            "cryograd refine particles.star --volume run1/volume.mrc -o run2",
            "cryograd refine particles.star --volume run1/volume.mrc -o run2 --symmetry D2 --top-poses 5",
        ),
    ),
    "reconstruct": CommandSpec(
        Reconstruct,
        "cryograd.cli.reconstruct",
        (
            "cryograd reconstruct particles.star -o run1",
            "cryograd reconstruct particles.star -o run2 --symmetry D2 --particle-diameter 180",
            "cryograd reconstruct -o run1 --resume",
        ),
    ),
    "compare": CommandSpec(
        Compare,
        "cryograd.cli.compare",
        (
            "cryograd compare run1/volume.mrc reference.mrc --flip-hand -o aligned.mrc",
            "cryograd compare run1/particles.star run2/particles.star --symmetry D2",
        ),
    ),
    "report": CommandSpec(Report, "cryograd.cli.report", ("cryograd report run1",)),
}


def build_app() -> App:
    """The command-line application."""
    app = App(
        name="cryograd",
        version=__version__,
        help="Reconstruct 3D maps of molecules from cryo-EM particle images.",
        help_epilogue="Start with: cryograd demo. Help on a command: cryograd COMMAND --help.",
        help_format="plaintext",
        version_flags=["--version"],
    )
    for place, (name, command) in enumerate(COMMANDS.items()):
        app.command(
            _declaration(name, command),
            name=name,
            sort_key=place,
            usage=" ".join(["Usage: cryograd", name, *positional(command.model), "[OPTIONS]"]),
            help_epilogue="\n\n".join(["Examples:", *(f"  {line}" for line in command.examples)]),
        )
    return app


def _declaration(name: str, command: CommandSpec) -> Callable[..., None]:
    """Function from which the parser learns a command's options; it is never called."""

    def declared(**options: Any) -> None: ...

    declared.__name__ = name
    declared.__doc__ = command.model.__doc__
    declared.__signature__ = signature(command.model)  # pyright: ignore[reportFunctionMemberAccess]
    return declared


def _usage_error(error: CycloptsError) -> CryogradError:
    """Error of the command line as what, where, remedy."""
    text = " ".join(str(error).split())
    what, _, hint = text.partition(". ")
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        what = f"unexpected argument {error.unused_tokens[0]!r}"
    command = " ".join(["cryograd", *(error.command_chain or [])])
    remedy = hint.partition("?")[0] + "?" if "?" in hint else f"see {command} --help"
    return CryogradError(what[0].lower() + what[1:].rstrip("."), command, remedy[0].lower() + remedy[1:])


def _dispatch(arguments: Sequence[str]) -> None:
    """Parse, run one command and print its result."""
    app = build_app()
    try:
        chosen, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise _usage_error(error) from None
    name = chosen.__name__
    if name not in COMMANDS:  # help or version
        app(arguments)
        return
    command = COMMANDS[name]
    config = resolve(command.model, name, bound.arguments)
    module = import_module(command.module)
    result = module.run(config)
    if getattr(config, "json_output", False):
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        print(module.summary(result))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave as on Ctrl-C when a batch system ends the job."""
    raise SystemExit(TERMINATED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 2 on bad input, 130 on Ctrl-C."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _dispatch(sys.argv[1:] if arguments is None else arguments)
    except CryogradError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
