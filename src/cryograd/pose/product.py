"""Matrix products of the E-step, in bfloat16 arithmetic where the hardware makes that faster."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


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


@cache
def scoring_precision(device_type: str) -> str:
    """Precision for scoring on this machine: bfloat16 where there are matrix units for it.

    Rounding the factors to bfloat16 changes a score by 3e-3 of its spread, far below the noise of the images.
    The choice rests on what the hardware has and what a product gives, not on a timing, so that the same run
    on the same machine always makes the same one.
    """
    if device_type == "cuda":
        return "medium"
    # Releases before this query existed compute in full precision.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if not capabilities.get("amx_bf16", False):
        return "highest"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(32, 512, generator=generator), torch.randn(512, 64, generator=generator)
    with matmul_precision("medium"):
        error = (a @ b - (a.double() @ b.double()).float()).std()
    return "medium" if error < 0.01 * 512**0.5 else "highest"
