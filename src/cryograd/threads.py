"""One setting for the number of CPU threads, for torch and for the compiled kernels."""

import numba
import torch
from numba.core import config

# numba's own pool: on a busy machine its wake-up costs microseconds where a spinning OpenMP barrier costs a
# scheduler's time slice (18 µs against 7 ms measured beside one other process on two cores).
config.THREADING_LAYER = "workqueue"  # pyright: ignore[reportAttributeAccessIssue]


def set_threads(threads: int) -> None:
    """Let torch and the compiled kernels use this many threads, at most as many as numba found cores."""
    torch.set_num_threads(threads)
    cores: int = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    numba.set_num_threads(max(1, min(threads, cores)))
