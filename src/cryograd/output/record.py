"""``run.toml``: what a run was asked to do, to repeat it and to see that a continuation asks for the same."""

from cryograd.config import ParticleRun, to_toml
from cryograd.config.fields import described
from cryograd.errors import CryogradError
from cryograd.output.folder import RunFolder
from cryograd.settings import read_toml, validated
from cryograd.version import __version__

# What may differ between a run and its continuation; with other threads it ends with other rounding.
_FREE = {"output", "threads", "checkpoint_seconds"}


def write_record(folder: RunFolder, command: str, config: ParticleRun) -> None:
    """Write run.toml, which marks the folder as taken."""
    folder.write_record(f"# cryograd {__version__} {command}\n\n{to_toml(config)}")


def check_same_run(folder: RunFolder, command: str, config: ParticleRun) -> None:
    """Refuse to continue a run with other settings than it began with."""
    model = type(config)
    values = read_toml(folder.record) | {"output": folder.path}
    for name in ("solver", "prior", "start_solver", "start_prior"):
        now = getattr(config, name, None)
        if values.get(name) == described(now):
            # An object of Python, which the record only describes.
            values[name] = now
    before = validated(model, values, f"cryograd {command}", dict.fromkeys(values, folder.record))
    for name, field in model.model_fields.items():
        if field.exclude or name in _FREE:
            continue
        was, now = getattr(before, name), getattr(config, name)
        if was != now:
            raise CryogradError(
                f"{name} was {was} and is now {now}", folder.record, "resume with --resume and -o alone"
            )
