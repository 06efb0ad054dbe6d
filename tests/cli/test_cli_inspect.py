import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from .conftest import tree


@pytest.fixture
def inspect(cryograd_command: Callable) -> Callable[..., dict[str, Any]]:
    def run(*arguments: object) -> dict[str, Any]:
        outcome = cryograd_command("inspect", *arguments, "--json")
        assert outcome.status == 0, outcome.err
        return json.loads(outcome.out)

    return run


def copied(simulated: Path, folder: Path, change: Callable[[np.ndarray], None]) -> Path:
    """The simulated particles with their pixels changed."""
    for name in ("particles.star", "particles.mrcs"):
        (folder / name).write_bytes((simulated / name).read_bytes())
    with mrcfile.open(folder / "particles.mrcs", "r+") as mrc:
        assert mrc.data is not None
        change(mrc.data)
    return folder / "particles.star"


def test_good_particles_have_no_findings(simulated: Path, inspect: Callable) -> None:
    facts = inspect(simulated / "particles.star")
    assert facts["n_particles"] == 24
    assert facts["poses"]
    assert facts["half_sets"] == {"1": 12, "2": 12}
    assert facts["images"]["contrast"] == "bright"
    assert facts["images"]["broken"] == 0
    group = facts["optics_groups"][0]
    assert (group["box_size"], group["pixel_size"], group["nyquist"]) == (16, 4.0, 8.0)
    assert (group["voltage_kv"], group["spherical_aberration_mm"]) == (300.0, 2.7)
    assert [text for text in facts["findings"] if "Thon" not in text] == []


def test_dark_protein_is_found(simulated: Path, inspect: Callable, tmp_path: Path) -> None:
    def negate(images: np.ndarray) -> None:
        images *= -1

    path = copied(simulated, tmp_path, negate)
    assert "the protein is dark in the images; add --invert-contrast" in inspect(path)["findings"]
    assert inspect(path, "--invert-contrast")["images"]["contrast"] == "bright"
    wrong = inspect(simulated / "particles.star", "--invert-contrast")
    assert "the protein is dark in the images; leave out --invert-contrast" in wrong["findings"]


def test_broken_images_are_counted_and_named(simulated: Path, inspect: Callable, tmp_path: Path) -> None:
    def spoil(images: np.ndarray) -> None:
        images[3, 2, 1] = np.nan
        images[7] = 5.0

    facts = inspect(copied(simulated, tmp_path, spoil))
    assert facts["images"]["broken"] == 2
    assert facts["images"]["sampled"] == 22
    assert [(bad["particle"], bad["what"]) for bad in facts["images"]["broken_images"]] == [
        (4, "the image has NaN or infinity"),
        (8, "the image is constant (5)"),
    ]
    assert facts["images"]["broken_images"][1]["image"].startswith("image 8 of ")
    assert any(text.startswith("2 images cannot be used") for text in facts["findings"])


def test_filled_borders_are_found(simulated: Path, inspect: Callable, tmp_path: Path) -> None:
    def fill(images: np.ndarray) -> None:
        images[5, :, 12:] = images[5, :, 12:13]
        images[6, :5] = images[6, 5:6]

    assert inspect(simulated / "particles.star")["images"]["at_edge"] == 0
    assert inspect(copied(simulated, tmp_path, fill))["images"]["at_edge"] == 2


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-3])
def test_borders_of_one_value_are_found(
    simulated: Path, inspect: Callable, tmp_path: Path, value: float
) -> None:
    def fill(images: np.ndarray) -> None:
        images[5, :, 12:] = value
        images[6, :5] = value
        # Over the corner of the micrograph.
        images[7, 11:] = images[7, :, :4] = value
        images[8, 12:] = images[8].mean()

    facts = inspect(copied(simulated, tmp_path, fill))
    assert facts["images"]["at_edge"] == 4
    assert any(text.startswith("4 images reach over the edge") for text in facts["findings"])


def test_an_image_in_a_frame_of_one_value_is_masked_and_not_at_an_edge(
    simulated: Path, inspect: Callable, tmp_path: Path
) -> None:
    def frame(images: np.ndarray) -> None:
        inner = images[:3, 4:-4, 4:-4].copy()
        images[:3] = 0.0
        images[:3, 4:-4, 4:-4] = inner

    facts = inspect(copied(simulated, tmp_path, frame))
    assert facts["images"]["at_edge"] == 0
    assert facts["images"]["masked"] == 3


def test_a_header_that_contradicts_the_file_is_a_finding(
    simulated: Path, inspect: Callable, tmp_path: Path
) -> None:
    path = copied(simulated, tmp_path, lambda images: None)

    def findings(header: float, *options: str) -> list[str]:
        with mrcfile.open(tmp_path / "particles.mrcs", "r+") as mrc:
            mrc.voxel_size = header
        return [text for text in inspect(path, *options)["findings"] if "header" in text]

    assert findings(4.0) == findings(4.1) == findings(0.0) == findings(1.0) == []
    (text,) = findings(8.0)
    assert "say 8 Å per pixel, and the particle file 4 Å" in text
    assert findings(8.0, "--pixel-size", "8") == []


def test_bad_images_are_listed_on_the_page(
    simulated: Path, cryograd_command: Callable, tmp_path: Path
) -> None:
    def spoil(images: np.ndarray) -> None:
        images[2:12] = 0.0

    path = copied(simulated, tmp_path, spoil)
    assert cryograd_command("inspect", path, "-o", tmp_path / "page.html").status == 0
    page = (tmp_path / "page.html").read_text()
    assert all(f"image {number} of " in page for number in range(3, 13))


def test_names_are_printed_without_orders_to_the_terminal(
    simulated: Path, cryograd_command: Callable, tmp_path: Path
) -> None:
    path = copied(simulated, tmp_path, lambda images: None)
    text = path.read_text().encode().replace(b"group\t1\t", b"gr\x1b[31m\xb5\t1\t")
    assert b"\x1b" in text
    path.write_bytes(text)
    outcome = cryograd_command("inspect", path, "-o", tmp_path / "page.html")
    assert outcome.status == 0
    assert r"gr\x1b[31m\udcb5: 24 particles" in outcome.out
    assert "gr" in (tmp_path / "page.html").read_text()
    path.write_bytes(text.replace(b"particles.mrcs", b"a\x1b[2J.mrcs"))
    assert cryograd_command("inspect", path).err.startswith(r"error: the image stack a\x1b[2J.mrcs does not")


def test_images_in_other_units_are_noted(simulated: Path, inspect: Callable, tmp_path: Path) -> None:
    def scale(images: np.ndarray) -> None:
        images *= 30.0
        images += 100.0

    facts = inspect(copied(simulated, tmp_path, scale))
    assert not facts["images"]["normalised"]
    assert facts["images"]["background_mean"] == pytest.approx(100.0, abs=5.0)
    assert any("instead of 0 and 1" in text for text in facts["findings"])


def test_duplicates_and_strange_defocus_are_found(simulated: Path, inspect: Callable, tmp_path: Path) -> None:
    from cryograd.data.read import read_particles
    from cryograd.data.star import write_particles_star

    particles = read_particles(simulated / "particles.star").select([*range(24), 0, 1])
    table = particles.table.copy()
    table["rlnDefocusU"] = np.where(np.arange(26) == 5, 5e5, 10000.0)
    table["rlnDefocusV"] = table["rlnDefocusU"]
    table.loc[6, ["rlnDefocusU", "rlnDefocusV"]] = -20000.0
    from dataclasses import replace

    write_particles_star(tmp_path / "odd.star", replace(particles, table=table))
    facts = inspect(tmp_path / "odd.star")
    assert facts["duplicates"] == 2
    assert (facts["defocus"]["outliers"], facts["defocus"]["not_positive"]) == (2, 1)
    assert any("2 particles have the same image" in text for text in facts["findings"])


def test_the_page_is_one_file_without_references(
    simulated: Path, cryograd_command: Callable, tmp_path: Path
) -> None:
    outcome = cryograd_command("inspect", simulated / "particles.star", "-o", tmp_path / "a" / "page.html")
    assert outcome.status == 0
    page = (tmp_path / "a/page.html").read_text()
    assert page.count("<svg") >= 2
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert tree(tmp_path) == {"a", "a/page.html"}


def test_missing_particles_are_refused(refused: Callable, tmp_path: Path) -> None:
    refused("inspect", tmp_path / "absent.star", "-o", tmp_path / "page.html")
    assert tree(tmp_path) == set()


def test_an_output_below_a_file_is_refused(simulated: Path, refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused("inspect", simulated / "particles.star", "-o", tmp_path / "file" / "page.html")


def test_conditioning_is_reported_where_poses_are_given(
    simulated: Path, inspect: Callable, cryograd_command: Callable, tmp_path: Path
) -> None:
    star = simulated / "particles.star"
    assert inspect(star)["conditioning"] is None
    facts = inspect(star, "--conditioning", "--symmetry", "D2")["conditioning"]
    assert (facts["images"], facts["symmetry"], facts["radius"]) == (24, "D2", 6)
    outcome = cryograd_command("inspect", star, "--conditioning", "-o", tmp_path / "page.html")
    assert outcome.status == 0
    assert "poses and CTFs of 24 images, C1, up to 6 Fourier pixels" in outcome.out
    page = (tmp_path / "page.html").read_text()
    assert "curvature by shell" in page
    assert page.count("<svg") >= 4


def test_conditioning_without_poses_is_refused(simulated: Path, refused: Callable, tmp_path: Path) -> None:
    from dataclasses import replace

    from cryograd.data.read import read_particles
    from cryograd.data.star import write_particles_star

    particles = read_particles(simulated / "particles.star")
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    without = replace(particles, rotations=None, table=particles.table.drop(columns=angles))
    write_particles_star(tmp_path / "no.star", without)
    assert refused("inspect", tmp_path / "no.star", "--conditioning").startswith(
        "the particles have no poses"
    )


@pytest.mark.realdata
def test_masked_images_are_found(simulated: Path, inspect: Callable, tmp_path: Path) -> None:
    def mask(images: np.ndarray) -> None:
        axis = np.arange(images.shape[-1]) - images.shape[-1] // 2
        images[:3, np.hypot(*np.meshgrid(axis, axis)) > 5] = 0.0

    facts = inspect(copied(simulated, tmp_path, mask))
    assert any(text.startswith("3 of 24 sampled images have no noise") for text in facts["findings"])


def test_the_particle_file_is_not_overwritten(simulated: Path, refused: Callable) -> None:
    star = simulated / "particles.star"
    before = star.read_text()
    assert refused("inspect", star, "-o", star).startswith("the output file is an input")
    assert star.read_text() == before


def test_a_page_is_replaced_only_when_told(
    simulated: Path, cryograd_command: Callable, refused: Callable, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("precious")
    command = ("inspect", simulated / "particles.star", "-o", page)
    message = refused(*command)
    assert message == f"the output file is there already, {page}, choose another name, or add --overwrite"
    assert page.read_text() == "precious"
    assert cryograd_command(*command, "--overwrite").status == 0
    assert "<html" in page.read_text()


def test_a_wrong_ctf_of_real_particles_is_found(shared_data: Path, inspect: Callable) -> None:
    folder = shared_data / "bgal-10204"
    right = inspect(folder / "particles_clean_1268.star")
    wrong = inspect(folder / "particles_all_2374_wrong_ctf.star")
    assert right["ctf"][0]["agreement"] > 0.7
    assert wrong["ctf"][0]["agreement"] < 0.2
    assert not any("Thon" in text for text in right["findings"])
    assert any("Thon rings do not fit" in text for text in wrong["findings"])
    # Counted among the images that were looked at one by one: striped borders are about 1 in 14 of all picks.
    assert 150 < wrong["images"]["at_edge"] < 200


def test_a_point_group_without_conditioning_is_refused(simulated: Path, refused: Callable) -> None:
    message = refused("inspect", simulated / "particles.star", "--symmetry", "D2")
    assert "point group" in message
