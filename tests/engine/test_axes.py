"""Maps that are not on the axes of the group that is imposed on them are refused, and no others."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryograd.data.particles import Particles
from cryograd.engine.axes import refuse_off_axes
from cryograd.errors import CryogradError
from cryograd.maps import Map
from cryograd.recipe import refine
from cryograd.simulation.molecule import molecule
from cryograd.validation.alignment import transform_map
from cryograd.validation.fsc import soft_sphere
from refinement import BOX, PIXEL, before, configuration, simulated

PLACE = Rotation.from_euler("ZYZ", [25.0, 40.0, 15.0], degrees=True).as_matrix()


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated"))


def moved(values: np.ndarray, rotation: np.ndarray, shift: tuple[float, float, float] = (0, 0, 0)) -> Map:
    turned = transform_map(values, PIXEL, rotation, np.array(shift), BOX, PIXEL)
    return Map(turned, PIXEL, Path("turned.mrc"))


def refuse(given: Map, particles: Particles, name: str) -> None:
    refuse_off_axes(given, particles, configuration(particles.source.parent), name)


@pytest.mark.parametrize("name", ["C1", "C2", "D2"])
def test_a_map_on_its_axes_is_taken(particles: Particles, name: str) -> None:
    refuse(Map(molecule(BOX, PIXEL), PIXEL), particles, name)


def test_noise_and_a_few_degrees_are_no_other_frame(particles: Particles) -> None:
    """Noise of half the variance of the density in the whole box, which averages away at 40 Å."""
    values = molecule(BOX, PIXEL)
    noise = np.random.default_rng(0).normal(scale=2.0 * values.std(), size=values.shape)
    slightly = Rotation.from_rotvec([0.05, 0.05, 0.05]).as_matrix()
    refuse(moved(values + noise.astype(np.float32), slightly), particles, "D2")


def test_a_map_without_symmetry_that_is_symmetric_at_low_resolution_is_taken(particles: Particles) -> None:
    values = molecule(BOX, PIXEL)
    values[:, :, BOX // 2 :] *= 1.3
    refuse(Map(values, PIXEL), particles, "D2")


@pytest.mark.parametrize("name", ["C7", "D3", "O", "I1"])
def test_a_ball_has_every_symmetry(particles: Particles, name: str) -> None:
    refuse(moved(soft_sphere(BOX, 0.2 * BOX, 3.0), PLACE), particles, name)


def test_a_turned_map_is_refused_with_the_way_back(particles: Particles) -> None:
    turned = moved(molecule(BOX, PIXEL), PLACE, (4.0, -6.0, 8.0))
    with pytest.raises(CryogradError, match=r"does not have D2 there, turned.mrc, it has D2 about") as error:
        refuse(turned, particles, "D2")
    vector, shift = (
        np.array(text.split(")")[0].split(", "), dtype=float) for text in error.value.remedy.split("(")[1:]
    )
    back = moved(turned.values, Rotation.from_rotvec(vector, degrees=True).as_matrix(), tuple(shift))
    refuse(back, particles, "D2")


@pytest.mark.parametrize("name", ["C3", "O"])
def test_a_map_without_the_group_is_refused(particles: Particles, name: str) -> None:
    with pytest.raises(CryogradError, match=f"does not have {name} there, turned.mrc, give a map that has"):
        refuse(moved(molecule(BOX, PIXEL), np.eye(3)), particles, name)


def test_a_map_that_is_off_the_centre_is_refused(particles: Particles) -> None:
    with pytest.raises(CryogradError, match="move it by"):
        refuse(moved(molecule(BOX, PIXEL), np.eye(3), (20.0, 15.0, -20.0)), particles, "D2")


@pytest.mark.parametrize(
    ("symmetry", "classes", "second", "taken"),
    [
        ("C1", 1, False, True),
        ("D2", 1, False, False),
        ("C1,D2", 2, False, False),
        ("D2", 1, True, False),
        ("D2,C1", 2, None, True),
    ],
    ids=["no group", "one map", "one map for two classes", "second half-set", "a map for each class"],
)
def test_every_map_is_looked_at_with_its_group(
    particles: Particles, symmetry: str, classes: int, second: bool | None, taken: bool
) -> None:
    """Maps of classes are each looked at with the class's own group."""
    folder, turned = particles.source.parent, moved(molecule(BOX, PIXEL), PLACE)
    turned.write(folder / "turned.mrc")
    on_axes = Map.read(folder / "start.mrc")
    config = configuration(
        folder,
        symmetry=symmetry,
        classes=classes,
        volume=(folder / "turned.mrc",) * (classes if second is None else 1),
        second_volume=folder / "turned.mrc" if second else None,
    )
    given = [on_axes, turned] if second is None else [on_axes if second else turned]
    moments = refine(particles, config, volumes=given)
    if taken:
        assert before(moments).state.place == 0
    else:
        with pytest.raises(CryogradError, match="about other axes"):
            next(moments)
