"""Hostile inputs of each kind: sound files that are spoiled, in a folder with what they need."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryograd.output import checkpoint
from cryograd.output.header import FORMAT, Header
from mutations import BINARY, BYTES, TABLES, TEXT, spoiled, spoiled_data
from seeds import Seeds

# Writes an input into an empty folder.
Write = Callable[[random.Random, Seeds, Path], None]


def _link_sim(seeds: Seeds, place: Path) -> None:
    """Put the sound particles beside a hostile file."""
    for path in (seeds.folder / "sim").iterdir():
        (place / path.name).symlink_to(path)


def _write_star(rng: random.Random, seeds: Seeds, place: Path) -> None:
    _link_sim(seeds, place)
    given = seeds.contents["star"]
    (place / "hostile.star").write_bytes(spoiled(rng.choice(given), rng, given, TABLES))


def _write_cs(rng: random.Random, seeds: Seeds, place: Path) -> None:
    _link_sim(seeds, place)
    given = seeds.contents["cs"]
    content = rng.choice(given)
    # Those of other people may be damaged already.
    own = seeds.contents["own cs"]
    match rng.randrange(3):
        case 0:
            content = spoiled(content, rng, given, BINARY)
        case 1:
            # The header is text, and says how long it is.
            size = int.from_bytes(content[8:10], "little")
            header = spoiled(content[10 : 10 + size], rng, [content[10 : 10 + size]], TEXT)[:60000]
            content = content[:8] + len(header).to_bytes(2, "little") + header + content[10 + size :]
        case _:
            content = _spoiled_rows(rng.choice(own), rng)
    (place / "hostile.cs").write_bytes(content)


_ODD = (0, 1, -1, 2, 255, 2**31, 2**32 - 1, 2**63, 1e12, 1e30, 3e38, 1e300, np.nan, np.inf, -np.inf, 1e-40)
_TYPES = (
    "f8",
    "f4",
    "f2",
    "i1",
    "u8",
    "S8",
    "U4",
    "c8",
    "?",
    "M8[s]",
    ">f4",
    ">u4",
    "(2,)f4",
    "(0,)f4",
    "V4",
)


def _spoiled_rows(content: bytes, rng: random.Random) -> bytes:
    """A .cs file that is sound as a file, with odd values, types or columns."""
    rows = np.load(io.BytesIO(content), max_header_size=1 << 20)
    for _ in range(rng.choice([1, 1, 2, 5])):
        names = list(rows.dtype.names or ())
        name = rng.choice(names)
        if rng.random() < 0.6:
            some = rng.choice([slice(None), slice(0, 1), slice(3, 4), slice(0, 0, 1)])
            value: Any = rng.choice(_ODD)
            if rows.dtype[name].base.kind == "S":
                value = rng.choice([b"", b">", b"\xff\x1b[2J", b"../p\n.mrcs", b"none.mrcs", b"/dev/zero"])
            with suppress(OverflowError, ValueError), np.errstate(all="ignore"):
                rows[name][some] = np.asarray(value).astype(rows.dtype[name].base)
            continue
        kinds = {one: rows.dtype[one] for one in names}
        match rng.randrange(4):
            case 0:
                del kinds[name]
            case 1:
                kinds[name] = np.dtype(rng.choice(_TYPES))
            case 2:
                kinds = {
                    (name + rng.choice(["x", "\x1b", "å"]) if k == name else k): v for k, v in kinds.items()
                }
            case _:
                rows = rows[: rng.choice([0, 1, 2])]
        if not kinds:
            continue
        new = np.zeros(len(rows), dtype=list(kinds.items()))
        for one in kinds:
            with (
                suppress(ValueError, KeyError, TypeError, np.exceptions.DTypePromotionError),
                np.errstate(all="ignore"),
            ):
                new[one] = rows[one]
        rows = new
    saved = io.BytesIO()
    np.save(saved, rows)
    return saved.getvalue()


def _write_mrc(rng: random.Random, seeds: Seeds, place: Path) -> None:
    given = seeds.contents["mrc"]
    path = place / "hostile.mrcs"
    path.write_bytes(spoiled(rng.choice(given), rng, given, BINARY))
    if rng.random() < 0.05:
        # Holes in a file take no room, so that any size may be there.
        os.truncate(path, rng.choice([2**31, 2**34, 2**40]))
    text = (seeds.folder / "sim" / rng.choice(["particles.star", "old.star"])).read_text()
    (place / "hostile.star").write_text(text.replace("particles.mrcs", "hostile.mrcs"))


def _write_toml(rng: random.Random, seeds: Seeds, place: Path) -> None:
    given = seeds.contents["toml"]
    (place / "hostile.toml").write_bytes(spoiled(rng.choice(given), rng, given, TEXT))


def _spoiled_checkpoint(content: bytes, rng: random.Random) -> bytes:
    """A checkpoint that is damaged, or one that someone made with a checksum that fits."""
    line, _, rest = content.partition(b"\n")
    match rng.randrange(4):
        case 0:
            return spoiled(content, rng, [content], BYTES)
        case 1:
            return spoiled(line, rng, [line], TEXT) + b"\n" + rest
        case 2:
            rest = spoiled(rest, rng, [rest], BYTES)
        case _:
            saved = io.BytesIO()
            data = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
            torch.save(spoiled_data(data, rng), saved)
            rest = saved.getvalue()
    header = Header(FORMAT, json.loads(line)["version"], json.loads(line)["record"])
    digest = checkpoint._Digested(io.BytesIO(), header.line())
    digest.write(rest)
    return replace(header, checksum=digest.digest.hexdigest()).line() + rest


def _write_checkpoint(rng: random.Random, seeds: Seeds, place: Path) -> None:
    shutil.copytree(rng.choice(seeds.runs), place / "run")
    path = place / "run/checkpoint/state.pt"
    path.write_bytes(_spoiled_checkpoint(path.read_bytes(), rng))
    if rng.random() < 0.5:
        (place / "run/metrics.json").unlink()


def _write_folder(rng: random.Random, seeds: Seeds, place: Path) -> None:
    run = place / "run"
    shutil.copytree(rng.choice(seeds.runs), run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    rng.shuffle(files)
    # Each is spoiled once: what is spoiled already cannot be taken apart.
    for path in files[: rng.choice([1, 1, 1, 2, 3])]:
        if rng.random() < 0.6:
            _spoil_file(path, rng, seeds)
        elif rng.random() < 0.7:
            path.unlink()
            _put_other(path, rng, rng.choice(files))
        else:
            odd = run / os.fsdecode(rng.choice(_ODD_NAMES))
            if not os.path.lexists(odd) and odd.parent.is_dir():
                _put_other(odd, rng, files[-1])


_ODD_NAMES = (
    *(
        b"\xff\xfe.mrc",
        b"class1",
        b"class7",
        b"class\xe9",
        b"checkpoint",
        b".cryograd-lock",
        b"a\nb\x1b[2J.star",
    ),
    *(b".volume.mrc.1.tmp", b".state.pt.77.tmp", b"checkpoint/.state.pt.7.tmp", b"class1/.volume.mrc.7.tmp"),
    *(b"fsc.star", b"comparison.json", b"truth.mrc", b"mask.mrc", b"symmetry.json", b"junk.star", b"x" * 255),
)


def _put_other(path: Path, rng: random.Random, other: Path) -> None:
    """Put something where a file might be."""
    match rng.randrange(9):
        case 0:
            path.mkdir()
        case 1:
            path.mkdir()
            (path / "x").touch()
        case 2:
            os.mkfifo(path)
        case 3:
            path.symlink_to(
                rng.choice(["nowhere", path.name, "/dev/zero", "/dev/null", ".", "/proc/self/mem"])
            )
        case 4:
            path.symlink_to(other)
        case 5:
            path.touch()
        case 6:
            path.write_bytes(rng.choice([b"\0" * 2000, b"{}", b"[]", b"null", b"1", b"\xff" * 9, b"\n"]))
        case 7:
            if other.is_file():
                shutil.copyfile(other, path)
        case _:
            pass


def _spoil_file(path: Path, rng: random.Random, seeds: Seeds) -> None:
    """Spoil a file of a run in the way of its kind."""
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.7:
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        number = rng.randrange(len(lines))
        lines[number] = json.dumps(spoiled_data(json.loads(lines[number]), rng))
        path.write_text("\n".join(lines) + "\n")
        return
    if path.suffix == ".pt":
        path.write_bytes(_spoiled_checkpoint(content, rng))
        return
    mutations = {".star": TABLES, ".mrc": BINARY}.get(path.suffix, TEXT)
    path.write_bytes(spoiled(content, rng, [content, *seeds.contents.get(path.suffix[1:], [])], mutations))


WRITERS: dict[str, Write] = {
    "star": _write_star,
    "cs": _write_cs,
    "mrc": _write_mrc,
    "toml": _write_toml,
    "checkpoint": _write_checkpoint,
    "folder": _write_folder,
}
