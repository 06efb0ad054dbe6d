"""Poses to RELION and back: files as RELION rewrites them, angles by scipy, and RELION's own projections."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryograd.data.mrc import read_map
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.data.star import write_particles_star, write_poses_star
from cryograd.fourier import HalfDisc, fourier_2d, pack_disc, resize_volume
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.rotations import random_rotations
from stacks import write_stack

Array = NDArray[np.float64]

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst"]
# Radians and Å: RELION writes six decimals.
EXACT = 1e-5


def relion_matrices(angles: Array) -> Array:
    """RELION's documented convention: the coordinate system turns about z, the new y and the new z."""
    return Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()


def relion_angles(rotations: Array, rng: np.random.Generator) -> Array:
    """Angles in (-180, 180], half of them with a negative tilt, as RELION's local searches give them."""
    with pytest.warns(UserWarning, match="[Gg]imbal lock"):
        angles = Rotation.from_matrix(rotations).inv().as_euler("ZYZ", degrees=True)
    angles[rng.random(len(angles)) < 0.5] *= [1.0, -1.0, 1.0]
    negative = angles[:, 1] < 0.0
    angles[negative] += [180.0, 0.0, 180.0]
    return 180.0 - (180.0 - angles) % 360.0


def some_rotations(rng: np.random.Generator) -> Array:
    """Uniform ones, and those along the axis and nearly so, where rot and psi are one angle."""
    tilts = np.repeat([0.0, 180.0, 1e-7, 1e-4, 180.0 - 1e-4, 90.0], 8)
    poles = np.stack([rng.uniform(-180, 180, len(tilts)), tilts, rng.uniform(-180, 180, len(tilts))], axis=1)
    quarters = [[rot, tilt, psi] for rot in (0, 90, 180) for tilt in (0, 90, 180) for psi in (-90, 0, 180)]
    return np.concatenate(
        [random_rotations(60, rng), relion_matrices(poles), relion_matrices(np.array(quarters))]
    )


def written_by_us(folder: Path, rotations: Array, shifts: Array, half: NDArray[np.int64]) -> Particles:
    """A particle file as a refinement leaves it, and what it was written from."""
    n = len(rotations)
    write_stack(folder / "s.mrcs", np.random.default_rng(0).random((n, 4, 4)).astype(np.float32), 1.1)
    optics = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    optics |= {"rlnOpticsGroup": [1], "rlnOpticsGroupName": "a", "rlnImagePixelSize": 1.1, "rlnImageSize": 4}
    table = {"rlnImageName": [f"{i + 1}@s.mrcs" for i in range(n)], "rlnOpticsGroup": 1}
    table |= {"rlnDefocusU": 1e4, "rlnMicrographName": "m.mrc"}
    starfile.write({"optics": pd.DataFrame(optics), "particles": pd.DataFrame(table)}, folder / "in.star")
    particles = read_particles(folder / "in.star")
    columns = {"rlnRandomSubset": half, "cryogradPoseEntropy": np.full(n, 0.5)}
    write_particles_star(folder / "ours.star", particles, rotations, shifts, columns)
    return particles


def written_by_relion(path: Path, blocks: dict[str, pd.DataFrame], angles: Array, order: list[int]) -> None:
    """The same particles as RELION writes them: its layout and digits, another order, no foreign columns."""
    table = blocks["particles"].drop(columns=["cryogradPoseEntropy"])
    table[ANGLES] = angles
    table = table[[*ORIGINS, *(name for name in table if name not in ORIGINS)]].iloc[order]
    text = ""
    for name, block in (("optics", blocks["optics"]), ("particles", table)):
        text += f"\n# version 50001\n\ndata_{name}\n\nloop_ \n"
        text += "".join(f"_{column} #{i} \n" for i, column in enumerate(block, 1))
        for row in block.itertuples(index=False):
            text += " ".join(f"{v:12.6f}" if isinstance(v, float) else f"{v!s:>12}" for v in row) + " \n"
        text += " \n"
    path.write_text(text)


def test_poses_survive_relion(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rotations = some_rotations(rng)
    n = len(rotations)
    shifts, half = rng.normal(0.0, 20.0, (n, 2)), rng.integers(1, 3, n)
    written_by_us(tmp_path, rotations, shifts, half)
    blocks = starfile.read(tmp_path / "ours.star")
    theirs = relion_matrices(blocks["particles"][ANGLES].to_numpy())
    np.testing.assert_allclose(theirs, rotations, atol=EXACT)
    np.testing.assert_allclose(blocks["particles"][ORIGINS], shifts, atol=EXACT)
    angles, order = relion_angles(theirs, rng), rng.permutation(n).tolist()
    assert (angles[:, 1] < 0.0).any()
    assert (np.abs(angles) <= 180.0).all()
    written_by_relion(tmp_path / "relion.star", blocks, angles, order)
    again = read_particles(tmp_path / "relion.star")
    assert again.rotations is not None
    assert again.shifts is not None
    np.testing.assert_allclose(again.rotations, rotations[order], atol=EXACT)
    np.testing.assert_allclose(again.shifts, shifts[order], atol=EXACT)
    assert np.array_equal(again.half_set, half[order])
    assert again.image_index.tolist() == order
    assert again.optics[0].pixel_size == 1.1


def test_several_poses_of_a_particle_are_in_the_same_convention(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rotations, shifts = some_rotations(rng), rng.normal(0.0, 20.0, (45, 3, 2))
    several = rotations[: 3 * 45].reshape(45, 3, 3, 3)
    particles = written_by_us(tmp_path, several[:, 0], shifts[:, 0], np.ones(45, dtype=np.int64))
    weights = np.sort(rng.uniform(0.1, 1.0, (45, 3)))[:, ::-1].copy()
    weights[::4, 2] = 0.0
    write_poses_star(tmp_path / "poses.star", particles, several, shifts, weights)
    table = starfile.read(tmp_path / "poses.star")
    numbers = table["rlnImageName"].str.partition("@")[0].astype(int).to_numpy() - 1
    ranks = table["cryogradPoseRank"].to_numpy() - 1
    assert len(table) == np.count_nonzero(weights)
    np.testing.assert_allclose(relion_matrices(table[ANGLES].to_numpy()), several[numbers, ranks], atol=EXACT)
    np.testing.assert_allclose(table[ORIGINS], shifts[numbers, ranks], atol=EXACT)


def projections(volume: torch.Tensor, particles: Particles, padding: int) -> torch.Tensor:
    """Images of a volume without CTF up to 30 Fourier pixels."""
    size, disc = len(volume), HalfDisc(30)
    projector = Projector(size, 30, padding)
    rotations = torch.tensor(particles.rotations, dtype=torch.float32)
    slices = projector.sample(projector.transform(volume), rotations, slice_points(disc))
    k = torch.as_tensor(disc.frequencies / (size * particles.optics[0].pixel_size))
    return slices * shift_phases(k, torch.as_tensor(particles.shifts))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest of all images."""
    return float((torch.linalg.norm(found - expected, dim=1) / torch.linalg.norm(expected, dim=1)).max())


@pytest.mark.parametrize("name", ["relion_proj_batch", "rln_proj_64_shifted"])
def test_relions_projections_keep_their_poses(tmp_path: Path, shared_data: Path, name: str) -> None:
    folder = shared_data / "conventions"
    blocks = starfile.read(folder / f"{name}.star", always_dict=True)
    # Some have no CTF.
    optics = blocks["optics"].assign(rlnAmplitudeContrast=0.1)
    table = blocks["particles"]
    if "rlnDefocusU" not in table:
        table = table.assign(rlnDefocusU=1e4)
    table = table.assign(rlnImageName=[f"{i + 1}@{folder / name}.mrcs" for i in range(len(table))])
    starfile.write({"optics": optics, "particles": table}, tmp_path / "in.star")
    before = read_particles(tmp_path / "in.star")
    write_particles_star(tmp_path / "out.star", before)
    after = read_particles(tmp_path / "out.star")
    density = "pointmass" if name == "relion_proj_batch" else "clean70SRibosome_vol_65p"
    volume = resize_volume(torch.tensor(read_map(folder / f"{density}.mrc", voxel_size=1.0)[0]), 64)
    expected = projections(volume, before, 2)
    assert relative_error(projections(volume, after, 2), expected) < 1e-5
    if name == "rln_proj_64_shifted":
        images = torch.from_numpy(after.images(np.arange(len(after))))
        assert (
            relative_error(projections(volume, after, 2), pack_disc(fourier_2d(images), HalfDisc(30))) < 1e-3
        )
