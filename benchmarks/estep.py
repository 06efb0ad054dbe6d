"""Time of the exhaustive E-step over the time of its bare matrix products.

The products are scores = templates · slicesᵀ and statistics = scoresᵀ · templates, for images × shifts
templates. The E-step adds the templates themselves, ‖C P V‖², the softmax over poses with its marginals, and
the power a. All are timed in turn in one process, so that what else the machine does falls on all alike.

Run as ``python benchmarks/estep.py --output benchmarks/results/estep.json``.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from cryograd.fourier import HalfDisc
from cryograd.pose.posterior import Batch, evaluate_exhaustive
from cryograd.pose.product import matmul_precision
from cryograd.threads import set_threads
from timing import interleaved

IMAGES, ROTATIONS, SHIFTS, RADIUS = 200, 4608, 21, 16
PRODUCT_IMAGES = 8


def problem() -> tuple[Batch, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random whitened images with a weak signal, slices, phases of shifts and log weights."""
    generator = torch.Generator().manual_seed(0)
    k = len(HalfDisc(RADIUS))

    def complex_normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.complex64, generator=generator)

    ctf = torch.rand(IMAGES, k, generator=generator) * 2 - 1
    batch = Batch(complex_normal(IMAGES, k), ctf, torch.zeros(IMAGES))
    angle = torch.randn(SHIFTS, k, generator=generator)
    phases = torch.polar(torch.ones_like(angle), angle)
    return batch, 0.3 * complex_normal(ROTATIONS, k), phases, torch.full((SHIFTS,), 1.0 / SHIFTS).log()


def bare_products(precision: str) -> Callable[[], None]:
    """The two products on blocks of eight images, with nothing before, between or after them."""
    generator = torch.Generator().manual_seed(0)
    length = 2 * len(HalfDisc(RADIUS))
    templates = torch.randn(PRODUCT_IMAGES * SHIFTS, length, generator=generator)
    slices = torch.randn(ROTATIONS, length, generator=generator)
    scores, total = torch.empty(len(templates), ROTATIONS), torch.zeros(ROTATIONS, length)

    def run() -> None:
        with matmul_precision(precision):
            for _ in range(IMAGES // PRODUCT_IMAGES):
                torch.mm(templates, slices.T, out=scores)
                total.addmm_(scores.T, templates, beta=0.0)

    return run


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved repeats, by arithmetic."""
    arguments = problem()
    candidates: dict[tuple[str, str], Callable[[], object]] = {}
    for name, precision in (("float32", "highest"), ("bfloat16", "medium")):
        candidates[name, "products"] = bare_products(precision)
        candidates[name, "estep"] = lambda precision=precision: evaluate_exhaustive(
            *arguments, precision, statistics=True
        )
        candidates[name, "estep_without_statistics"] = lambda precision=precision: evaluate_exhaustive(
            *arguments, precision, statistics=False
        )
    times = interleaved(candidates, repeats)
    results: dict[str, dict[str, float]] = {}
    for name in ("float32", "bfloat16"):
        medians = {part: statistics.median(times[name, part]) for key, part in candidates if key == name}
        ratios = [e / p for e, p in zip(times[name, "estep"], times[name, "products"], strict=True)]
        operations = 2 * 2 * IMAGES * SHIFTS * ROTATIONS * 2 * len(HalfDisc(RADIUS))
        results[name] = {f"{part}_seconds": round(t, 4) for part, t in medians.items()} | {
            "ratio": round(statistics.median(ratios), 2),
            "ratio_best": round(min(times[name, "estep"]) / min(times[name, "products"]), 2),
            "products_gflop_per_second": round(operations / medians["products"] / 1e9, 1),
            "images_per_second": round(IMAGES / medians["estep"], 1),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--machine", default="unnamed", help="class of the machine, for the record")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    set_threads(options.threads)
    results = measure(options.repeats)
    for name, figures in results.items():
        print(
            f"{name:9} products {figures['products_seconds']:.3f} s"
            f" ({figures['products_gflop_per_second']:.0f} GFLOP/s)"
            f"  E-step {figures['estep_seconds']:.3f} s ({figures['images_per_second']:.0f} images/s)"
            f"  ratio {figures['ratio']:.2f} (of the best {figures['ratio_best']:.2f})"
        )
    if options.output is not None:
        record = {
            "command": f"python benchmarks/estep.py --repeats {options.repeats} --threads {options.threads}",
            "machine": options.machine,
            "problem": {
                "images": IMAGES,
                "rotations": ROTATIONS,
                "shifts": SHIFTS,
                "coefficients": len(HalfDisc(RADIUS)),
            },
            "results": results,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
