"""Matrix products of the E-step, in bfloat16 arithmetic where the hardware makes that faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set how float32 products are computed inside the block: ``"highest"``, or ``"medium"`` in bfloat16.

    Inputs, accumulation and results stay float32 either way.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _seconds(a: Tensor, b: Tensor, precision: str) -> float:
    with matmul_precision(precision):
        a @ b  # the first call builds the kernel
        times = []
        for _ in range(3):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
    return min(times)


@cache
def scoring_precision(device_type: str) -> str:
    """Precision for scoring on this machine, chosen by a self-test of a few milliseconds.

    Rounding the factors to bfloat16 changes a score by 3e-3 of its spread, far below the noise of the images.
    """
    if device_type == "cuda":
        return "medium"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(168, 796, generator=generator), torch.randn(796, 2304, generator=generator)
    return "medium" if _seconds(a, b, "medium") < 0.7 * _seconds(a, b, "highest") else "highest"
