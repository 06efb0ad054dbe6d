import os
import struct
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryograd.data.mrc import (
    StackWriter,
    map_stack,
    read_header,
    read_map,
    write_map,
)
from cryograd.errors import CryogradError

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def raw_mrc(
    mode: int, shape: tuple[int, int, int], payload: bytes, order: str = "<", extended: int = 0
) -> bytes:
    """An MRC2014 file built word by word, independently of any MRC library."""
    nz, ny, nx = shape
    header = bytearray(1024)
    struct.pack_into(order + "10i", header, 0, nx, ny, nz, mode, 0, 0, 0, nx, ny, nz)
    struct.pack_into(order + "6f", header, 40, 2.0 * nx, 2.0 * ny, 2.0 * nz, 90, 90, 90)
    struct.pack_into(order + "3i", header, 64, 1, 2, 3)
    struct.pack_into(order + "i", header, 92, extended)
    header[208:212] = b"MAP "
    header[212:216] = b"\x44\x44\x00\x00" if order == "<" else b"\x11\x11\x00\x00"
    return bytes(header) + bytes(extended) + payload


@pytest.mark.parametrize("name", ["pipe", "folder", "a\0b"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CryogradError, match=r"cannot be read \((it is a folder or a pipe|embedded null)"):
        read_header(tmp_path / name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_mode_and_byte_order_is_mapped(tmp_path: Path, mode: int, order: str) -> None:
    values = np.arange(2 * 3 * 3).reshape(2, 3, 3) + (-5 if mode != 6 else 40000)
    data = values.astype(order + MODES[mode])
    path = tmp_path / "a.mrcs"
    path.write_bytes(raw_mrc(mode, (2, 3, 3), data.tobytes(), order, extended=80))
    stack = map_stack(path)
    assert isinstance(stack, np.memmap)
    np.testing.assert_array_equal(stack.astype(np.float64), values)


def test_imod_wrote_unsigned_bytes(tmp_path: Path) -> None:
    raw = bytearray(raw_mrc(0, (1, 1, 2), b"\xc8\x01"))
    struct.pack_into("<2i", raw, 152, 1146047817, 0)
    path = tmp_path / "a.mrc"
    path.write_bytes(raw)
    np.testing.assert_array_equal(map_stack(path)[0, 0], [200, 1])
    struct.pack_into("<2i", raw, 152, 1146047817, 1)
    path.write_bytes(raw)
    np.testing.assert_array_equal(map_stack(path)[0, 0], [-56, 1])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16, np.float32])
def test_files_of_mrcfile_are_mapped(tmp_path: Path, dtype: type) -> None:
    data = np.random.default_rng(0).integers(0, 100, (3, 4, 4)).astype(dtype)
    with mrcfile.new(tmp_path / "a.mrcs") as mrc:
        mrc.set_data(data)
    np.testing.assert_array_equal(map_stack(tmp_path / "a.mrcs"), data)


def test_a_single_image_is_a_stack_of_one(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(np.ones((4, 5), np.float32))
    assert map_stack(tmp_path / "a.mrc").shape == (1, 4, 5)


def test_a_large_stack_opens_at_once(tmp_path: Path) -> None:
    path = tmp_path / "large.mrcs"
    n, box = 5000, 256
    path.write_bytes(raw_mrc(2, (n, box, box), b""))
    with path.open("r+b") as file:
        file.truncate(1024 + 4 * n * box * box)
    start = time.perf_counter()
    stack = map_stack(path)
    assert time.perf_counter() - start < 0.1
    assert stack.shape == (n, box, box)


def test_truncated_stack_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    path.write_bytes(raw_mrc(2, (3, 4, 4), bytes(3 * 64 - 1)))
    with pytest.raises(CryogradError, match=r"truncated: 2 of its 3 sections.*a\.mrcs"):
        read_header(path)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(CryogradError, match="truncated: 100 bytes"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b" + bytes(2000), "compressed .gzip"),
        (b"not an MRC file at all, but some text " * 60, "not an MRC file"),
        (raw_mrc(4, (1, 2, 2), bytes(64)), "mode 4 is not supported"),
        (raw_mrc(2, (0, 2, 2), b""), "not an MRC file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.mrcs"
    path.write_bytes(content)
    with pytest.raises(CryogradError, match=message):
        read_header(path)


def test_absent_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CryogradError, match="does not exist"):
        read_header(tmp_path / "none.mrc")
    with pytest.raises(CryogradError, match="cannot be read"):
        read_header(tmp_path)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 9), voxel=st.floats(0.2, 20), seed=st.integers(0, 99))
def test_map_round_trip(tmp_path_factory: pytest.TempPathFactory, size: int, voxel: float, seed: int) -> None:
    density = np.random.default_rng(seed).standard_normal((size, size, size)).astype(np.float32)
    path = tmp_path_factory.mktemp("map") / "sub" / "a.mrc"
    write_map(path, density, voxel)
    read, read_voxel = read_map(path)
    np.testing.assert_array_equal(read, density)
    assert read_voxel == pytest.approx(voxel, rel=1e-6)
    assert mrcfile.validate(path)
    assert [p.name for p in path.parent.iterdir()] == ["a.mrc"]


def test_written_map_is_a_volume_for_others(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", np.zeros((4, 4, 4)), 1.25)
    with mrcfile.open(tmp_path / "a.mrc") as mrc:
        assert mrc.is_volume()
        assert mrc.voxel_size.item() == pytest.approx((1.25, 1.25, 1.25))


def test_same_map_gives_the_same_bytes(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", np.ones((4, 4, 4)), 1.0)
    # The labels hold no date.
    assert (tmp_path / "a.mrc").read_bytes()[224:1024].rstrip(b"\0 ") == b"Written by cryograd"
    write_map(tmp_path / "b.mrc", np.ones((4, 4, 4)), 1.0)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


def test_axis_order_is_undone(tmp_path: Path) -> None:
    zyx = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    # Columns along z, rows along x, sections along y.
    raw = bytearray(raw_mrc(2, (3, 3, 3), np.ascontiguousarray(zyx.transpose(1, 2, 0)).tobytes()))
    struct.pack_into("<3i", raw, 64, 3, 1, 2)
    (tmp_path / "a.mrc").write_bytes(raw)
    np.testing.assert_array_equal(read_map(tmp_path / "a.mrc")[0], zyx)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
def test_bad_maps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.ones((4, 4, 3), np.float32))
    with pytest.raises(CryogradError, match="not a cube: 4 × 4 × 3"):
        read_map(path)
    broken = np.ones((4, 4, 4), np.float32)
    broken[1, 2, 3] = np.nan
    write_map(path, broken, 1.0)
    with pytest.raises(CryogradError, match="1 voxels that are NaN"):
        read_map(path)
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(np.ones((4, 4, 4), np.float32))
    with pytest.raises(CryogradError, match="no voxel size"):
        read_map(path)
    assert read_map(path, voxel_size=2.0)[1] == 2.0
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(np.ones((4, 4, 4), np.float32))
        mrc.voxel_size = (1.0, 1.0, 1.1)
    with pytest.raises(CryogradError, match="not cubes"):
        read_map(path)


@pytest.mark.parametrize(
    ("grid", "cell"),
    [((4, 4, 4), 6.0), ((4, 4, 1), 6.0), ((4, 4, 1), 1.5)],
)
def test_a_volume_may_be_flagged_as_a_stack(tmp_path: Path, grid: tuple[int, ...], cell: float) -> None:
    path = tmp_path / "a.mrc"
    write_map(path, np.arange(64, dtype=np.float32).reshape(4, 4, 4), 1.5)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<3i3f", raw, 28, *grid, 6.0, 6.0, cell)
    struct.pack_into("<i", raw, 88, 0)
    path.write_bytes(raw)
    assert read_map(path)[1] == pytest.approx(1.5)


@pytest.mark.parametrize("cell", [7.0, 24.0, 0.5])
def test_a_stack_whose_cell_fits_no_cube_is_refused(tmp_path: Path, cell: float) -> None:
    path = tmp_path / "a.mrc"
    write_map(path, np.ones((4, 4, 4), np.float32), 1.5)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<3i3f", raw, 28, 4, 4, 1, 6.0, 6.0, cell)
    path.write_bytes(raw)
    with pytest.raises(CryogradError, match=r"not cubes: 1\.5 × 1\.5 × .*correct the cell in its header"):
        read_map(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_stack_round_trip(tmp_path: Path, dtype: type) -> None:
    images = np.random.default_rng(1).standard_normal((5, 6, 6)).astype(dtype)
    with StackWriter(tmp_path / "a.mrcs", 5, 6, 1.7, dtype) as writer:
        writer.append(images)
    stack = map_stack(tmp_path / "a.mrcs")
    assert stack.dtype == dtype
    np.testing.assert_array_equal(stack, images)
    with mrcfile.open(tmp_path / "a.mrcs") as mrc:
        assert mrc.is_image_stack()
        assert mrc.voxel_size.item() == pytest.approx((1.7, 1.7, 1.7))


def test_stack_writer_appends_and_is_atomic(tmp_path: Path) -> None:
    images = np.random.default_rng(1).standard_normal((5, 6, 6)).astype(np.float32)
    path = tmp_path / "a.mrcs"
    with StackWriter(path, 5, 6, 1.0) as writer:
        writer.append(images[:2])
        assert not path.exists()
        writer.append(images[2:])
    np.testing.assert_array_equal(map_stack(path), images)
    path.unlink()
    with pytest.raises(ValueError, match="2 of 5 images"), StackWriter(path, 5, 6, 1.0) as writer:
        writer.append(images[:2])
    with pytest.raises(ValueError, match="do not fit"), StackWriter(path, 5, 6, 1.0) as writer:
        writer.append(np.concatenate([images, images]))
    assert list(tmp_path.iterdir()) == []


def test_stack_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float64"):
        StackWriter(tmp_path / "a.mrcs", 1, 4, 1.0, np.float64)


def test_real_stack(shared_data: Path) -> None:
    stack = map_stack(shared_data / "bgal-10204" / "particles.mrcs")
    assert stack.dtype == np.float16
    with mrcfile.mmap(shared_data / "bgal-10204" / "particles.mrcs") as mrc:
        np.testing.assert_array_equal(stack[[0, 2373]], mrc.data[[0, 2373]])
    density, voxel = read_map(shared_data / "bgal-10204" / "reference_5a1a_64px.mrc")
    assert density.shape == (64, 64, 64)
    assert voxel == pytest.approx(3.54, rel=1e-5)


def test_a_map_in_memory_outlives_its_file(tmp_path: Path) -> None:
    path, density = tmp_path / "map.mrc", np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    write_map(path, density, 1.0)
    read, _ = read_map(path)
    path.write_bytes(b"")
    read += 1.0
    assert np.array_equal(read, density + 1.0)
