"""Runs give the same bytes whether numba's cache is empty, full, or holds some of the kernels.

Numba compiles a kernel together with copies of those that it calls and optimises each copy once more. Which
copy a process runs depends on what it compiled or loaded before, so no optimisation may change a rounding.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

from numba.core.dispatcher import Dispatcher

import cryograd

# Every compiled kernel through the functions that the program calls, on sizes that leave remainders of
# vectors, of pieces of the softmax and of blocks of points.
COMPUTATION = """
import hashlib, json
import numpy as np, torch
from cryograd.model.kernels_cpu import insert, sample
from cryograd.model.stencil import stencil_product, stencil_weights
from cryograd.pose.epilogue import PIECE, softmax_poses
from cryograd.pose.kernels import fisher_spread, grouped
from cryograd.threads import set_threads

set_threads(1)
random = np.random.default_rng(0)
digests = {}

def seen(name, *arrays):
    data = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    digests[name] = hashlib.sha256(data).hexdigest()

def normal(*shape):
    return random.normal(size=shape).astype(np.float32)

rotations = PIECE + 905
arrays = 3 * normal(3, 7, rotations), normal(3, rotations), normal(7)
scores, power, log_shift = map(torch.from_numpy, arrays)
found = softmax_poses(scores, power, log_shift)
seen("softmax", scores, *found)

half = 9
side = 2 * half + 1
turns = np.linalg.qr(normal(37, 3, 3))[0].astype(np.float32)
points = normal(701, 3)
points *= (half - 1) / (1 + np.linalg.norm(points, axis=1, keepdims=True))
values = sample(normal(side, side, half + 1, 2), turns, points, 1.0)
seen("sample", values)
grid = np.zeros((side, side, half + 1, 2), dtype=np.float32)
insert(grid, values, turns, points, 1.0)
seen("insert", grid)
real = np.zeros((side, side, half + 1, 1), dtype=np.float32)
insert(real, np.ascontiguousarray(values[..., :1]), turns, points, 1.0)
seen("insert real", real)

c2 = torch.from_numpy(normal(37, 701)).square()
weights = stencil_weights(torch.from_numpy(turns), torch.from_numpy(points), c2, half)
seen("stencil", weights)
seen("product", stencil_product(weights, torch.from_numpy(grid), half - 1.0))

def unit(*shape):
    vectors = random.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

for d in (2, 3):
    seen(f"spread {d}", *fisher_spread(unit(53, d), unit(61, d), random.random(61), 0.3))
seen("grouped", *grouped(unit(53, 3), 0.9, 20))
print(json.dumps(digests))
"""


def digests(cache: Path) -> dict[str, str]:
    """What a new process with this folder as its cache computes."""
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONPATH": str(Path(cryograd.__file__).parents[1]),
    }
    found = subprocess.run(
        [sys.executable, "-c", COMPUTATION], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(found.stdout)


def test_bytes_do_not_depend_on_the_state_of_the_cache(tmp_path: Path) -> None:
    cold = digests(tmp_path)
    assert digests(tmp_path) == cold
    # Now one kernel, the one that takes the least time, is compiled with those that it calls from the cache.
    files = list(tmp_path.rglob("*._sample-*"))
    assert files
    for file in files:
        file.unlink()
    assert digests(tmp_path) == cold


def kernels() -> dict[str, Dispatcher]:
    """All compiled functions of the program."""
    modules = [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(cryograd.__path__, "cryograd.")
        if not m.name.endswith(("__main__", "kernels_cuda"))
    ]
    return {
        f"{m.__name__}.{name}": value
        for m in modules
        for name, value in vars(m).items()
        if isinstance(value, Dispatcher)
    }


def test_no_kernel_lets_the_compiler_change_roundings() -> None:
    found = kernels()
    assert len(found) >= 14
    assert [name for name, kernel in found.items() if kernel.targetoptions.get("fastmath")] == []
