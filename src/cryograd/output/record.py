"""What a run was asked to do: the checkpoint is the truth, and ``run.toml`` a record of it for people.

A run that goes on takes its settings from the checkpoint. A record that says otherwise is refused, because
whoever changed it expects the run to follow.
"""

from typing import Any

from cryograd.config import ParticleRun
from cryograd.config.fields import described
from cryograd.errors import CryogradError
from cryograd.output.folder import RunFolder
from cryograd.output.header import read_header
from cryograd.settings import read_settings, recorded, validated

# What may differ between a run and its continuation; with other threads it ends with other rounding.
_FREE = {"output", "threads", "checkpoint_seconds"}


def resumed_settings(folder: RunFolder, command: str) -> dict[str, Any]:
    """Settings by field name that the run in a folder began with.

    Raises
    ------
    CryogradError
        There is no run that can go on, or it is one of another command.
    """
    folder.check(resume=True)
    began, settings = recorded(read_header(folder.checkpoint).record, folder.checkpoint)
    if began != command:
        raise CryogradError(
            f"the run in the folder is one of cryograd {began}, not of cryograd {command}",
            folder.path,
            f"continue it with: cryograd {began} -o {folder.path} --resume",
        )
    return settings


def check_same_run(folder: RunFolder, config: ParticleRun) -> None:
    """Refuse to continue a run with other settings than it began with, or with a record that says others."""
    settings = resumed_settings(folder, config.command)
    _check_record(folder)
    model, values = type(config), settings | {"output": folder.path}
    for name in ("solver", "prior", "start_solver", "start_prior"):
        now = getattr(config, name, None)
        if values.get(name) == described(now):
            # An object of Python, which the record only describes.
            values[name] = now
    before = validated(model, values, f"cryograd {config.command}", dict.fromkeys(values, folder.checkpoint))
    for name, field in model.model_fields.items():
        if field.exclude or name in _FREE:
            continue
        was, now = getattr(before, name), getattr(config, name)
        if was != now:
            raise CryogradError(
                f"{name} was {was} and is now {now}", folder.checkpoint, "resume with --resume and -o alone"
            )


def _check_record(folder: RunFolder) -> None:
    """Refuse a ``run.toml`` that was changed, and write one that is gone anew."""
    text = read_header(folder.checkpoint).record
    if not folder.record.exists():
        with folder.writing():
            folder.write_record(text)
        return
    remedy = "restore it, or remove the file: --resume writes it again"
    try:
        now = recorded(read_settings(folder.record), folder.record)
    except CryogradError as error:
        raise CryogradError(error.what, folder.record, remedy) from None
    before = recorded(text, folder.checkpoint)
    if now[0] != before[0]:
        raise CryogradError(f"the record names {now[0]}, and the run is {before[0]}", folder.record, remedy)
    for name in {**before[1], **now[1]}:
        was, says = before[1].get(name), now[1].get(name)
        if was != says:
            raise CryogradError(
                f"the record was changed: {name} is {says} there, and the run began with {was}",
                folder.record,
                remedy,
            )
