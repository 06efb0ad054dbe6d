"""A progress line on the terminal; silent where there is none."""

from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cryograd.recipe import Moment

_STAGES = {
    "starts": "random starts",
    "march": "adding resolution",
    "settle": "settling",
    "refine": "refining",
    "ctf": "refining CTFs",
    "poses": "final poses",
}


class Progress:
    """Context that shows the state of a run on standard error.

    Parameters
    ----------
    console
        Where to show it.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = Console(stderr=True) if console is None else console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[resolution]:.1f} Å  log evidence {task.fields[evidence]:.5g}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("reading images", total=None, resolution=0.0, evidence=0.0)
        self._stack = ExitStack()

    def __enter__(self) -> "Progress":
        self._stack.enter_context(self._bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def say(self, text: str) -> None:
        """Print a line above the progress, terminal or not."""
        self._bar.console.print(text, highlight=False, soft_wrap=True)

    def reading(self, done: int, total: int) -> None:
        """Show how many images have been read."""
        self._bar.update(self._task, completed=done, total=total)

    def show(self, moment: Moment) -> None:
        """Show an iteration."""
        state = moment.state
        self._bar.update(
            self._task,
            description=_STAGES.get(state.stage, state.stage),
            completed=state.iteration,
            total=state.total_iterations,
            resolution=state.resolution,
            evidence=state.history[-1]["log_evidence"],
        )
