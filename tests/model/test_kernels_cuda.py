import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model import kernels_cpu
from cryograd.model.projection import Projector, insert_grid, sample_grid, slice_points
from cryograd.rotations import random_rotations

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: it comes with torch for CUDA"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def problem(dtype, half=9, seed=0):
    """Grid, rotations, points in a ball and values, none of them symmetric."""
    rng = np.random.default_rng(seed)
    grid = rng.normal(size=(2 * half + 1, 2 * half + 1, half + 1, 2))
    points = rng.uniform(-2.2, 2.2, (300, 3))
    arrays = grid, random_rotations(7, rng), points, rng.normal(size=(7, 300, 2))
    return tuple(torch.from_numpy(a.astype(dtype)) for a in arrays)


# Run in a process of its own: Triton reads TRITON_INTERPRET once, when it is imported.
def check_in_interpreter():
    from cryograd.model import kernels_cuda

    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        grid, rotations, points, values = problem(dtype)
        sampled = kernels_cuda.sample(grid, rotations, points, 2.0)
        expected = kernels_cpu.sample(grid.numpy(), rotations.numpy(), points.numpy(), 2.0)
        np.testing.assert_allclose(sampled.numpy(), expected, atol=tolerance)

        def insert(values, rotations, into=None, points=points):
            into = torch.zeros(19, 19, 10, 2, dtype=values.dtype) if into is None else into.clone()
            kernels_cuda.insert(into, values, rotations, points, 2.0)
            return into

        inserted, expected = insert(values, rotations), torch.zeros(19, 19, 10, 2, dtype=values.dtype)
        kernels_cpu.insert(expected.numpy(), values.numpy(), rotations.numpy(), points.numpy(), 2.0)
        np.testing.assert_allclose(inserted.numpy(), expected.numpy(), atol=10 * tolerance)
        real = torch.zeros(19, 19, 10, 1, dtype=values.dtype)
        kernels_cuda.insert(real, values[..., :1], rotations, points, 2.0)
        np.testing.assert_allclose(real[..., 0].numpy(), expected[..., 0].numpy(), atol=10 * tolerance)
        twice = insert(values, rotations, inserted)
        np.testing.assert_allclose(twice.numpy(), 2 * expected.numpy(), atol=20 * tolerance)
        # Any order of the slices gives the same bytes, so any order of the threads does.
        backwards = insert(values.flip(0), rotations.flip(0))
        assert inserted.numpy().tobytes() == backwards.numpy().tobytes()
        # Large and small values use the whole fixed-point range; zeros and none are no special case.
        for factor in (1e15, 1e-12):
            scaled = insert(factor * values, rotations) / factor
            np.testing.assert_allclose(scaled.numpy(), inserted.numpy(), atol=10 * tolerance)
        assert not insert(0 * values, rotations).any()
        assert not insert(values[:0], rotations[:0]).any()
        assert kernels_cuda.sample(grid, rotations[:0], points, 2.0).shape == (0, 300, 2)
        values[3, 5, 1] = np.nan
        assert insert(values, rotations).isnan().any()


# Compiles without a device: shows that what the interpreter accepts is also valid for the hardware.
def check_compilation():
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cryograd.model import kernels_cuda

    sizes = {"n_points": "i32", "m": "i32"}
    for real in ("*fp32", "*fp64"):
        pointers = {
            kernels_cuda._sample: dict.fromkeys(("grid", "rotations", "points", "out"), real),
            kernels_cuda._insert: dict.fromkeys(("values", "rotations", "points", "unit"), real)
            | {"total": "*i64"},
        }
        for kernel, signature in pointers.items():
            source = ASTSource(kernel, signature | sizes)
            compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
            # An atomic addition of floats would be fast, and different from run to run.
            assert "add.f" not in "".join(s for s in compiled.asm["ptx"].splitlines() if "global" in s)
            assert ("red.global.gpu.relaxed.add.u64" in compiled.asm["ptx"]) == ("total" in signature)


def run_here(function, **environment):
    done = subprocess.run(
        [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r})[{function.__name__!r}]()"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs_triton
def test_interpreted_kernels_agree_with_the_cpus_and_do_not_depend_on_the_order():
    run_here(check_in_interpreter, TRITON_INTERPRET="1")


@needs_triton
def test_kernels_compile_for_a_device_with_integer_atomics_only(tmp_path):
    run_here(check_compilation, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_device_agrees_with_the_cpu(dtype, tolerance):
    grid, rotations, points, values = problem(dtype)
    on_device = sample_grid(grid.cuda(), rotations.cuda(), points.cuda(), 2.0).cpu()
    assert torch.allclose(on_device, sample_grid(grid, rotations, points, 2.0), atol=tolerance)
    on_device = insert_grid(values.cuda(), rotations.cuda(), points.cuda(), 2.0, 9).cpu()
    assert torch.allclose(on_device, insert_grid(values, rotations, points, 2.0, 9), atol=10 * tolerance)


@pytest.mark.gpu
@needs_cuda
def test_insert_is_the_adjoint_of_sample_on_the_device():
    grid, rotations, points, values = (t.cuda() for t in problem("float64"))
    forward = (sample_grid(grid, rotations, points, 2.0) * values).sum()
    assert torch.isclose(forward, (insert_grid(values, rotations, points, 2.0, 9) * grid).sum(), rtol=1e-11)


@pytest.mark.gpu
@needs_cuda
def test_same_bytes_from_every_run_on_the_device():
    projector, points = Projector(64, 25), slice_points(HalfDisc(25), "cuda")
    rotations = torch.from_numpy(random_rotations(2000, np.random.default_rng(0))).float().cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    values = torch.randn(2000, len(points), dtype=torch.complex64, device="cuda", generator=generator)
    runs = {projector.insert(values, rotations, points).cpu().numpy().tobytes() for _ in range(5)}
    assert len(runs) == 1
