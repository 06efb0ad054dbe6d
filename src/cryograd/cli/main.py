"""The ``cryograd`` command: parse, dispatch, and turn errors into one line and an exit status.

Each command is a model in `cryograd.config` and a module here with ``run(config)``, which returns what a
machine would want to know, and ``summary(result)``, which says it to a person. Modules are imported when
their command runs, so that help and errors in options answer at once.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnusedCliTokensError

from cryograd.cli.options import positional, resolve, signature
from cryograd.config import COMMANDS, Command
from cryograd.errors import CryogradError
from cryograd.printable import printable
from cryograd.version import __version__

# Torch reads this at its first tensor: faults in pages of 4 kB cost new arrays as much as their transforms.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

BAD_INPUT = 2
# What shells report for a program that SIGINT or SIGTERM ended.
INTERRUPTED = 130
TERMINATED = 143
# And for one whose output nobody reads any more.
UNREAD = 141


# The module of a command that has none of its own name.
_MODULES: dict[str, str] = dict.fromkeys(("abinitio", "refine", "reconstruct"), "runs")


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
    for place, (name, model) in enumerate(COMMANDS.items()):
        app.command(
            _declaration(name, model),
            name=name,
            sort_key=place,
            usage=" ".join(["Usage: cryograd", name, *positional(model), "[OPTIONS]"]),
            help_epilogue="\n\n".join(["Examples:", *(f"  {line}" for line in model.examples)]),
        )
    return app


def _declaration(name: str, model: type[Command]) -> Callable[..., None]:
    """Function from which the parser learns a command's options; it is never called."""

    def declared(**options: Any) -> None: ...

    declared.__name__ = name
    declared.__doc__ = model.__doc__
    declared.__signature__ = signature(model)  # pyright: ignore[reportFunctionMemberAccess]
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
    config = resolve(COMMANDS[name], name, bound.arguments)
    module = import_module(f"cryograd.cli.{_MODULES.get(name, name)}")
    result = module.run(config)
    if getattr(config, "json_output", False):
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        print(printable(module.summary(result)))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave as on Ctrl-C when a batch system ends the job."""
    raise SystemExit(TERMINATED)


def _fail(error: CryogradError) -> NoReturn:
    """Say what is wrong in one line, in which nothing from a file can command the terminal, and leave."""
    try:
        print("error: " + printable(" ".join(str(error).split())), file=sys.stderr, flush=True)
    except OSError:
        # The disk that has no room may be the one that this goes to: the status has to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(BAD_INPUT)


def _drop_output() -> None:
    """Give up what cannot be printed: Python would try again while it ends, and say that it failed."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 2 on bad input, 130 on Ctrl-C, 141 if nobody reads the output."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except CryogradError as error:
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        sys.exit(UNREAD)
    except OSError as error:
        # What the system refuses anywhere is not the program's fault.
        _drop_output()
        where = error.filename or "standard output"
        remedy = "check the path, its permissions and the room on the disk"
        _fail(CryogradError(f"the system refused ({error.strerror or error})", where, remedy))
