import gzip

import gemmi
import numpy as np
import pytest
import torch

from cryograd.data.density import (
    assemble,
    merge,
    model_density,
    moved,
    on_symmetry_axes,
    read_model,
    resample_map,
    symmetry_frame,
)
from cryograd.errors import CryogradError
from cryograd.fourier import lowpass_volume
from cryograd.model.symmetry import Symmetrizer, group_matrices
from cryograd.rotations import random_rotations


def model(chains):
    """Structure whose chains are arrays (n, 3) of alpha carbons."""
    structure = gemmi.Structure()
    structure.name = "toy"
    structure.add_model(gemmi.Model(1))
    for name, positions in zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz01234567", chains, strict=False
    ):
        chain = gemmi.Chain(name)
        for number, position in enumerate(positions, 1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(str(number))
            atom = gemmi.Atom()
            atom.name, atom.element, atom.b_iso = "CA", gemmi.Element("C"), 60.0
            atom.pos = gemmi.Position(*position)
            residue.add_atom(atom)
            chain.add_residue(residue)
        structure[0].add_chain(chain)
    return structure


def alpha_carbons(structure):
    return np.array([site.atom.pos.tolist() for site in structure[0].all()])


def symmetric_model(symmetry, seed=0):
    """Complex in an arbitrary frame, with its chains in an arbitrary order."""
    rng = np.random.default_rng(seed)
    chain = rng.normal((25.0, 12.0, 6.0), 8.0, (12, 3))
    rotation, translation = random_rotations(1, rng)[0], rng.normal(0, 50, 3)
    chains = [chain @ g.T @ rotation.T + translation for g in rng.permutation(group_matrices(symmetry))]
    return model(chains)


@pytest.mark.parametrize("symmetry", ["C2", "C7", "D2", "D7", "T", "O", "I1", "I3"])
def test_frame_of_a_symmetric_model_is_found(symmetry):
    structure = symmetric_model(symmetry)
    placed = alpha_carbons(on_symmetry_axes(structure, symmetry))
    for g in group_matrices(symmetry):
        image = placed @ g.T
        assert np.linalg.norm(image[:, None] - placed, axis=2).min(axis=1).max() < 1e-3


def test_frame_refuses_another_symmetry():
    structure = symmetric_model("D2")
    with pytest.raises(CryogradError, match="has 3 copies, C7 needs 6"):
        symmetry_frame(structure, "C7")
    with pytest.raises(CryogradError, match="do not have symmetry C4"):
        symmetry_frame(structure, "C4")


def test_subunits_are_assembled_around_the_complete_part():
    complete = symmetric_model("C5")
    subunit = model([np.random.default_rng(2).normal(0, 30, (9, 3))])
    whole = assemble([subunit, subunit], "C5", complete)
    assert len(whole[0]) == 5 + 2 * 5
    placed = alpha_carbons(whole)
    image = placed @ group_matrices("C5")[1].T
    assert np.linalg.norm(image[:, None] - placed, axis=2).min(axis=1).max() < 1e-3


def test_density_of_an_atom_is_at_its_place_and_the_centre_of_mass_in_the_middle():
    heavy, light = np.array([0.0, 0.0, 0.0]), np.array([12.0, -6.0, 9.0])
    density = model_density(model([[heavy + 5.0] * 3 + [light + 5.0]]), 32, 1.5, b_factor=80.0)
    z, y, x = np.unravel_index(density.argmax(), density.shape)
    # Three of four equal atoms at one place: the centre of mass is a quarter of the way to the other.
    assert (x - 16, y - 16, z - 16) in [(-2, 1, -2), (-2, 1, -1)]
    centre = (
        np.array([(density * (np.indices(density.shape)[i] - 16)).sum() for i in (2, 1, 0)]) / density.sum()
    )
    assert np.abs(centre).max() < 0.1


def test_density_does_not_depend_on_the_sampling():
    atoms = np.random.default_rng(0).normal(0, 5, (40, 3))
    coarse, fine = (model_density(model([atoms]), n, 32.0 / n, b_factor=150.0) for n in (16, 32))
    difference = coarse - resample_map(fine, 1.0, 16, 2.0)
    assert np.linalg.norm(difference) < 0.01 * np.linalg.norm(coarse)


def test_model_must_fit_into_the_box():
    with pytest.raises(CryogradError, match="the model reaches 30 Å"):
        model_density(model([[[0, 0, 0], [60, 0, 0]]]), 16, 2.0)


@pytest.mark.parametrize(("box", "pixel_size"), [(24, 2.0), (33, 1.7), (40, 1.3), (16, 2.0), (21, 3.0)])
def test_map_is_resampled_in_place(box, pixel_size):
    def blob(box, pixel_size):
        x = (np.arange(box) - box // 2) * pixel_size
        z, y, x = np.meshgrid(x, x, x, indexing="ij")
        return np.exp(-((x - 3) ** 2 + (y + 2) ** 2 + z**2) / (2 * 3.0**2)).astype(np.float32)

    resampled = resample_map(blob(31, 1.5), 1.5, box, pixel_size)
    assert resampled.shape == (box,) * 3
    assert np.abs(resampled - blob(box, pixel_size)).max() < 0.01


def test_model_is_read_with_and_without_gzip(tmp_path):
    structure = symmetric_model("C2")
    text = structure.make_pdb_string()
    (tmp_path / "a.pdb").write_text(text)
    with gzip.open(tmp_path / "b.pdb.gz", "wt") as file:
        file.write(text)
    structure.make_mmcif_document().write_file(str(tmp_path / "c.cif"))
    for name in ("a.pdb", "b.pdb.gz", "c.cif"):
        assert np.allclose(alpha_carbons(read_model(tmp_path / name)), alpha_carbons(structure), atol=1e-3)


@pytest.mark.parametrize("content", [None, "", "data_x\n_cell.length_a 1\n"])
def test_what_is_not_a_model_is_refused(tmp_path, content):
    path = tmp_path / "a.cif"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CryogradError, match=r"atom"):
        read_model(path)


def test_merge_and_move():
    a = symmetric_model("C2")
    shifted = moved(a, np.eye(3), np.array([1.0, 2.0, 3.0]))
    assert np.allclose(alpha_carbons(shifted) - alpha_carbons(a), [1.0, 2.0, 3.0])
    assert len(merge([a, shifted])[0]) == 4


@pytest.mark.parametrize(
    ("files", "symmetry", "tolerance"),
    [
        (["t20s_6bdf.pdb.gz"], "D7", 0.03),
        (["groes_1gru.pdb.gz", "groel_1gru_A.pdb.gz", "groel_1gru_H.pdb.gz"], "C7", 0.03),
    ],
)
def test_real_complexes_have_their_symmetry(shared_data, files, symmetry, tolerance):
    models = [read_model(shared_data / "structures" / name) for name in files]
    whole = assemble(models[1:], symmetry, models[0]) if models[1:] else on_symmetry_axes(models[0], symmetry)
    density = lowpass_volume(torch.from_numpy(model_density(whole, 48, 5.6)), 14)
    average = Symmetrizer(symmetry, 48, 20).forward(density)
    assert torch.linalg.norm(average - density) < tolerance * torch.linalg.norm(density)
