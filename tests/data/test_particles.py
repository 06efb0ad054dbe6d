import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryograd.data.optics import electron_wavelength, optics_from_row, optics_to_row, voltage_kv
from cryograd.data.particles import BadImagesError
from cryograd.data.read import read_particles
from cryograd.data.star import write_particles_star
from cryograd.errors import CryogradError
from stacks import write_stack

Maker = Callable[..., Path]


def test_wavelength_agrees_with_the_constants_of_nature() -> None:
    from scipy.constants import c, e, h, m_e

    for kilovolts in (80, 100, 200, 300):
        energy = 1e3 * kilovolts * e
        expected = 1e10 * h * c / np.sqrt(energy * (energy + 2 * m_e * c**2))
        assert electron_wavelength(kilovolts) == pytest.approx(expected, rel=1e-5)


@given(st.floats(1.0, 3000.0))
def test_voltage_inverts_wavelength(kilovolts: float) -> None:
    assert voltage_kv(electron_wavelength(kilovolts)) == pytest.approx(kilovolts, rel=1e-9)


def test_optics_row_round_trip() -> None:
    row = {
        "rlnOpticsGroupName": "g",
        "rlnVoltage": 300.0,
        "rlnSphericalAberration": 2.7,
        "rlnAmplitudeContrast": 0.07,
        "rlnImagePixelSize": 1.25,
        "rlnBeamTiltX": 0.5,
        "rlnBeamTiltY": -0.25,
        "rlnOddZernike": "[1.5,-2,0]",
        "rlnEvenZernike": "[0.25]",
        "rlnMagMat00": 1.01,
        "rlnMagMat01": 0.02,
        "rlnMagMat10": 0.03,
        "rlnMagMat11": 0.99,
        "rlnCtfDataAreCtfPremultiplied": 1,
        "rlnCtfDataArePhaseFlipped": 0,
    }
    optics = optics_from_row(row, "here", pixel_size=None, box_size=32)
    assert optics.spherical_aberration == pytest.approx(2.7e7)
    assert optics.wavelength == pytest.approx(0.019687, abs=1e-6)
    assert optics.beam_tilt == pytest.approx((5e-4, -2.5e-4))
    assert optics.odd_zernike == (1.5, -2.0, 0.0)
    assert optics.even_zernike == (0.25,)
    assert optics.magnification == ((1.01, 0.02), (0.03, 0.99))
    assert optics.premultiplied
    assert not optics.phase_flipped
    back = optics_to_row(optics, 3)
    assert back["rlnOpticsGroup"] == 3
    assert back["rlnImageSize"] == 32
    assert {name: back[name] for name in ("rlnVoltage", "rlnSphericalAberration")} == {
        "rlnVoltage": 300.0,
        "rlnSphericalAberration": 2.7,
    }
    assert optics_from_row(back, "here", pixel_size=None, box_size=32) == optics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rlnVoltage": 0}, "rlnVoltage is 0, not positive"),
        ({"rlnVoltage": "abc"}, "rlnVoltage is not a number: abc"),
        ({"rlnAmplitudeContrast": 7}, "between 0 and 1"),
        ({"rlnSphericalAberration": float("nan")}, "rlnSphericalAberration is not a number"),
        ({"rlnOddZernike": "[1,x]"}, "not a list of numbers"),
        ({"rlnMagMat00": 1.25}, "more than 20 % away from isotropic.*rlnMagMat"),
        ({"rlnMagMat00": 0.0, "rlnMagMat11": 0.0}, "more than 20 % away from isotropic"),
        ({"rlnImageDimensionality": 3}, "three-dimensional"),
    ],
)
def test_bad_optics_are_refused(change: dict, message: str) -> None:
    row = {
        "rlnOpticsGroupName": "g",
        "rlnVoltage": 300,
        "rlnSphericalAberration": 2.7,
        "rlnAmplitudeContrast": 0.1,
        "rlnImagePixelSize": 1,
    }
    with pytest.raises(CryogradError, match=message):
        optics_from_row(row | change, "here", pixel_size=None, box_size=8)


def test_images_are_read_in_the_order_asked(make_star: Maker, images: np.ndarray, tmp_path: Path) -> None:
    write_stack(tmp_path / "b.mrcs", 10 + images[:2].astype(np.float16), 1.5)
    rows = [f"{n} 1 10000 9000 0" for n in ("3@a.mrcs", "2@b.mrcs", "1@a.mrcs", "1@b.mrcs")]
    particles = read_particles(make_star(rows=rows))
    read = particles.images([3, 0, 2, 1, 0])
    assert read.dtype == np.float32
    half = (10 + images[:2].astype(np.float16)).astype(np.float32)
    np.testing.assert_array_equal(read, [half[0], images[2], images[0], half[1], images[2]])
    np.testing.assert_array_equal(particles.images(np.array([False, True, False, False])), half[1:])
    with pytest.raises(ValueError, match=r"box sizes \[\]"):
        particles.images(np.arange(0))


def test_inverted_contrast_negates(make_star: Maker, images: np.ndarray) -> None:
    particles = read_particles(make_star(), invert_contrast=True)
    np.testing.assert_array_equal(particles.images([1]), -images[1:2])
    assert particles.select([1]).invert_contrast


def test_select_keeps_rows_together(make_star: Maker, images: np.ndarray) -> None:
    particles = read_particles(make_star())
    chosen = particles.select([3, 1])
    assert len(chosen) == 2
    np.testing.assert_array_equal(chosen.defocus_u, [10004, 10002])
    np.testing.assert_array_equal(chosen.images([0, 1]), images[[3, 1]])
    assert chosen.table["rlnImageName"].tolist() == ["000004@a.mrcs", "000002@a.mrcs"]
    assert chosen.rotations is None
    np.testing.assert_array_equal(particles.select(particles.defocus_u > 10002).defocus_u, [10003, 10004])


def test_particles_of_one_image_have_one_number(make_star: Maker, images: np.ndarray, tmp_path: Path) -> None:
    write_stack(tmp_path / "b.mrcs", images, 1.5)
    # The second and the fourth are image 2 of a.mrcs, under two names of that stack.
    names = ["4@a.mrcs", "2@a.mrcs", "2@b.mrcs", f"2@{tmp_path}/a.mrcs", "4@a.mrcs"]
    particles = read_particles(make_star(rows=[f"{name} 1 10000 9000 0" for name in names]))
    assert len(particles.stacks) == 3
    np.testing.assert_array_equal(particles.image_number, [0, 1, 2, 1, 0])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_images_that_were_read_do_not_stay_in_memory(make_star: Maker) -> None:
    particles = read_particles(make_star())
    images = particles.images([0])
    assert images.any()
    assert "a.mrcs" not in Path("/proc/self/maps").read_text()


def test_particles_can_be_sent_to_another_process(make_star: Maker, images: np.ndarray) -> None:
    particles = read_particles(make_star())
    particles.images([0])
    copy = pickle.loads(pickle.dumps(particles))
    np.testing.assert_array_equal(copy.images([2]), images[2:3])


def test_batches_of_two_box_sizes_are_refused(make_star: Maker, tmp_path: Path) -> None:
    write_stack(tmp_path / "b.mrcs", np.random.default_rng(0).random((1, 6, 6)).astype(np.float32), 2.0)
    path = make_star(
        rows=["1@a.mrcs 1 10000 9000 0", "1@b.mrcs 2 10000 9000 0"],
        optics=["g1 1 300 2.7 0.1 1.5 8", "g2 2 300 2.7 0.1 2.0 6"],
    )
    particles = read_particles(path)
    assert particles.images([1]).shape == (1, 6, 6)
    with pytest.raises(ValueError, match="box sizes"):
        particles.images([0, 1])


def test_missing_stack_names_the_places_tried(make_star: Maker, tmp_path: Path) -> None:
    path = make_star(rows=["1@Extract/job1/gone.mrcs 1 10000 9000 0"])
    with pytest.raises(CryogradError, match=r"Extract/job1/gone\.mrcs does not exist") as error:
        read_particles(path)
    assert str(tmp_path / "Extract" / "job1" / "gone.mrcs") in str(error.value)
    assert str(Path.cwd() / "Extract" / "job1" / "gone.mrcs") in str(error.value)
    assert len(read_particles(path, require_images=False)) == 1


def test_truncated_stack_is_refused(make_star: Maker, tmp_path: Path) -> None:
    path = make_star()
    stack = tmp_path / "a.mrcs"
    stack.write_bytes(stack.read_bytes()[:-1])
    with pytest.raises(CryogradError, match=r"truncated: 3 of its 4 sections.*a\.mrcs"):
        read_particles(path)


def test_image_beyond_the_stack_is_refused(make_star: Maker) -> None:
    path = make_star(rows=["000005@a.mrcs 1 10000 9000 0"])
    with pytest.raises(CryogradError, match=r"image 5 is beyond the end of the stack, which has 4.*a\.mrcs"):
        read_particles(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0@a.mrcs", r"no valid image number, row 1 of .*particles\.star"),
        ("x@a.mrcs", r"the image stack x@a\.mrcs does not exist"),
        ("1.5@a.mrcs", r"the image stack 1\.5@a\.mrcs does not exist"),
    ],
)
def test_bad_image_number_is_refused(make_star: Maker, name: str, message: str) -> None:
    with pytest.raises(CryogradError, match=message):
        read_particles(make_star(rows=[f"{name} 1 10000 9000 0"]))


def test_box_mismatch_is_refused(make_star: Maker) -> None:
    path = make_star(optics=["opticsGroup1 1 300 2.7 0.1 1.5 16"])
    with pytest.raises(CryogradError, match=r"8 × 8 pixels, but optics group opticsGroup1 has box size 16"):
        read_particles(path)


def test_box_comes_from_the_stack_where_the_file_does_not_say(make_star: Maker) -> None:
    columns = [
        f"rln{n}"
        for n in ["OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast", "ImagePixelSize"]
    ]
    particles = read_particles(make_star(optics_columns=columns, optics=["1 300 2.7 0.1 1.5"]))
    assert particles.optics[0].box_size == 8
    assert particles.optics[0].name == "opticsGroup1"


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity")])
def test_image_that_is_not_finite_is_named(
    make_star: Maker, images: np.ndarray, value: float, message: str
) -> None:
    path = make_star()
    images[2, 4, 4] = value
    write_stack(path.with_name("a.mrcs"), images, 1.5)
    particles = read_particles(path)
    assert particles.images([0, 1, 3]).shape == (3, 8, 8)
    with pytest.raises(CryogradError, match=rf"{message}, image 3 of .*a\.mrcs"):
        particles.images([0, 2])


def test_constant_image_is_named(make_star: Maker, images: np.ndarray) -> None:
    images[1] = 0.5
    particles = read_particles(make_star(stack=images))
    with pytest.raises(CryogradError, match=r"the image is constant \(0\.5\), image 2 of .*a\.mrcs"):
        particles.images([0, 1])


def test_all_bad_images_are_listed(make_star: Maker, images: np.ndarray) -> None:
    images[[0, 3]] = 0.0
    images[2, 1, 1] = np.nan
    particles = read_particles(make_star(stack=images))
    with pytest.raises(BadImagesError) as error:
        particles.images([0, 1, 2, 3])
    assert error.value.faults == {
        0: "the image is constant (0)",
        2: "the image has NaN or infinity",
        3: "the image is constant (0)",
    }
    assert error.value.what == "3 images cannot be used; of the first, the image is constant (0)"
    assert "image 1 of" in error.value.where
    assert "particles 1, 3, 4 of" in error.value.where
    assert pickle.loads(pickle.dumps(error.value)).faults == error.value.faults


@pytest.mark.parametrize("shape", [(4, 8, 6), (4, 6, 8)])
@pytest.mark.parametrize("box", ["", " 8"])
def test_images_that_are_not_square_are_told_so(make_star: Maker, shape: tuple[int, ...], box: str) -> None:
    path = make_star(stack=np.random.default_rng(0).random(shape, dtype=np.float32))
    if not box:
        path.write_text(path.read_text().replace("_rlnImageSize #7\n", "").replace(" 1.5 8\n", " 1.5\n"))
    with pytest.raises(
        CryogradError, match=f"the images are {shape[2]} × {shape[1]} pixels, not square"
    ) as error:
        read_particles(path)
    assert error.value.remedy == "extract the particles again in square boxes"


def test_one_stack_under_two_names_has_each_image_once(make_star: Maker) -> None:
    rows = [f"{i}@{name} 1 10000 9000 30" for i in (1, 2) for name in ("a.mrcs", "link.mrc")]
    path = make_star(rows=rows)
    path.with_name("link.mrc").symlink_to("a.mrcs")
    np.testing.assert_array_equal(read_particles(path).image_number, [0, 0, 1, 1])


def test_origins_are_those_of_the_distorted_image(make_star: Maker, tmp_path: Path) -> None:
    matrix = np.array([[1.1, 0.05], [-0.02, 0.95]])
    names = ["OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast", "ImagePixelSize"]
    optics = [f"rln{name}" for name in (*names, "MagMat00", "MagMat01", "MagMat10", "MagMat11")]
    columns = ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU", "rlnOriginXAngst", "rlnOriginYAngst"]
    values = " ".join(map(str, matrix.ravel()))
    path = make_star(columns, ["1@a.mrcs 1 10000 3.0 -1.5"], optics, [f"1 300 2.7 0.1 1.5 {values}"])
    particles = read_particles(path)
    assert particles.shifts is not None
    # One phase, k·t in the image and q·t' at the true frequency q = M k.
    k = np.array([[0.02, 0.05], [-0.1, 0.03], [0.07, 0.0]])
    np.testing.assert_allclose((k @ matrix.T) @ particles.shifts[0], k @ [3.0, -1.5])
    write_particles_star(tmp_path / "out.star", particles)
    table = read_particles(tmp_path / "out.star").table
    np.testing.assert_allclose(table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float), [[3.0, -1.5]])


def test_pixel_size_override_rescales_shifts(make_star: Maker) -> None:
    columns = ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU", "rlnOriginXAngst", "rlnOriginYAngst"]
    path = make_star(columns, ["1@a.mrcs 1 10000 3.0 -1.5"])
    shifts = read_particles(path).shifts
    assert shifts is not None
    np.testing.assert_allclose(shifts, [[3.0, -1.5]])
    particles = read_particles(path, pixel_size=3.0)
    assert particles.optics[0].pixel_size == 3.0
    assert particles.shifts is not None
    # Two pixels and minus one pixel, whatever the pixel size.
    np.testing.assert_allclose(particles.shifts, [[6.0, -3.0]])
    np.testing.assert_array_equal(particles.defocus_v, particles.defocus_u)


@pytest.mark.parametrize("name", ["particles.txt", "particles"])
def test_unknown_file_types_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CryogradError, match="does not exist"):
        read_particles(tmp_path / name)
    (tmp_path / name).write_text("")
    with pytest.raises(CryogradError, match="not supported"):
        read_particles(tmp_path / name)


def test_stacks_are_found_from_the_current_folder_first(
    make_star: Maker, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_star()
    deep = tmp_path / "Refine3D" / "job7"
    deep.mkdir(parents=True)
    moved = path.rename(deep / "run_data.star")
    # From anywhere, the stack is found in a folder above the STAR file.
    np.testing.assert_array_equal(read_particles(moved).images([0]), images[:1])
    project = tmp_path / "elsewhere"
    write_stack(project / "a.mrcs", 2 * images, 1.0)
    monkeypatch.chdir(project)
    np.testing.assert_array_equal(read_particles(moved).images([0]), 2 * images[:1])


def test_parsers_start_quickly() -> None:
    code = "import sys, cryograd.data.read;sys.exit(any(m in sys.modules for m in ('torch', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.realdata
def test_real_particles(shared_data: Path) -> None:
    particles = read_particles(shared_data / "bgal-10204" / "particles_clean_1268.star")
    assert len(particles) == 1268
    assert particles.optics[0].wavelength == pytest.approx(0.0250793, abs=1e-6)
    assert particles.rotations is None
    assert particles.half_set is None
    # The second row is image 4 of the stack.
    np.testing.assert_array_equal(particles.image_index[:2], [0, 3])
    assert particles.astigmatism_angle[0] == pytest.approx(77.967194 * np.pi / 180)
    assert np.isfinite(particles.images(np.arange(len(particles)))).all()


@pytest.mark.parametrize("pixel_size", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_size_that_is_no_length_is_refused(pixel_size: float) -> None:
    with pytest.raises(CryogradError, match="not a length"):
        read_particles("particles.star", pixel_size=pixel_size)
