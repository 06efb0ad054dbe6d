"""Timing several functions in turn, so that what else the machine does falls on all alike."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Key = TypeVar("Key")


def interleaved(candidates: Mapping[Key, Callable[[], object]], repeats: int) -> dict[Key, list[float]]:
    """Wall times in seconds of each function; a first round, which compiles, is not counted."""
    times: dict[Key, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, function in candidates.items():
            start = time.perf_counter()
            function()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times
