"""``cryograd select``: the particles of a file that are wanted."""

from typing import Any

from rich.console import Console
from rich.progress import Progress

from cryograd.config import Select
from cryograd.selection.select import selected
from cryograd.settings import spelling


def run(config: Select) -> dict[str, Any]:
    """Write the particles that are kept, and say how many and why."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading images", total=None)
        found = selected(config, progress=lambda done, n: bar.update(task, completed=done, total=n))
    return {
        "output": str(config.output),
        "n_particles": len(found.rows) + sum(found.dropped.values()),
        "n_kept": len(found.rows),
        "dropped": found.dropped,
        "unknown": {name: list(names) for name, names in found.unknown.items()},
    }


def summary(result: dict[str, Any]) -> str:
    """How many particles each criterion dropped, and where the others are."""
    lines = [f"{spelling(name)} dropped {count}" for name, count in result["dropped"].items()]
    lines += [
        f"! {len(names)} of the names in {spelling(name)} {'is' if len(names) == 1 else 'are'} not among the "
        f"particles, such as {names[0]}"
        for name, names in result["unknown"].items()
        if names
    ]
    kept = f"{result['n_kept']} of {result['n_particles']} particles kept"
    return "\n".join([*lines, kept, f"particles  {result['output']}"])
