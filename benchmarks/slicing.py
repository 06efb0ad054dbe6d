"""Points a second of slicing and back-projection beside a copy of memory.

A point of a slice reads eight neighbours, 64 bytes; back-projection reads and writes them. The copy, of a
tensor far larger than the caches, says what the machine's memory gives at that time. All are timed in turn in
one process, so that what else the machine does falls on all alike.

Run as ``python benchmarks/slicing.py --output benchmarks/results/slicing.json``.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.rotations import random_rotations
from cryograd.threads import set_threads
from timing import interleaved

BOX, RADIUS, OVERSAMPLING, SLICES = 64, 25, 2, 4000
NEIGHBOUR_BYTES = 8 * 8
COPY_BYTES = 256 * 2**20


def measure(repeats: int) -> dict[str, float]:
    """Medians of interleaved repeats."""
    projector = Projector(BOX, RADIUS, OVERSAMPLING)
    points = slice_points(HalfDisc(RADIUS))
    rotations = torch.from_numpy(random_rotations(SLICES, np.random.default_rng(0))).float()
    grid = projector.transform(torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(0)))
    values = projector.sample(grid, rotations, points)
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    candidates: dict[str, Callable[[], object]] = {
        "slicing": lambda: projector.sample(grid, rotations, points),
        "back_projection": lambda: projector.insert(values, rotations, points),
        "copy": lambda: target.copy_(source),
    }
    times = interleaved(candidates, repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    # Every byte of a copy is read and written.
    copied = 2 * COPY_BYTES / medians["copy"]
    results = {"copy_gigabytes_per_second": round(copied / 1e9, 2)}
    for name, accesses in (("slicing", 1), ("back_projection", 2)):
        rate = values.numel() / medians[name]
        results[f"{name}_seconds"] = round(medians[name], 4)
        results[f"{name}_million_points_per_second"] = round(rate / 1e6, 1)
        results[f"{name}_bytes_over_copy"] = round(rate * accesses * NEIGHBOUR_BYTES / copied, 2)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--machine", default="unnamed", help="class of the machine, for the record")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    set_threads(options.threads)
    results = measure(options.repeats)
    for name in ("slicing", "back_projection"):
        print(
            f"{name:15} {results[f'{name}_million_points_per_second']:6.1f} million points/s,"
            f" {results[f'{name}_bytes_over_copy']:.2f} × the bytes of a copy"
            f" at {results['copy_gigabytes_per_second']:.1f} GB/s"
        )
    if options.output is not None:
        settings = f"--repeats {options.repeats} --threads {options.threads}"
        record = {
            "command": f"python benchmarks/slicing.py {settings}",
            "machine": options.machine,
            "problem": {
                "box": BOX,
                "radius": RADIUS,
                "oversampling": OVERSAMPLING,
                "slices": SLICES,
                "points_per_slice": len(HalfDisc(RADIUS)),
            },
            "results": results,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
