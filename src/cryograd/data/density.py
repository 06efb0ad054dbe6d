"""Densities to simulate from: atomic models placed on their symmetry axes, and maps on another grid."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryograd.errors import CryogradError
from cryograd.fourier import inverse_fourier_3d, resize_volume
from cryograd.model.symmetry import group_matrices
from cryograd.rotations import FloatArray, angular_distance

# Atoms are sampled at least this finely, in Å, before the density is cropped in Fourier space.
_ATOM_SPACING = 1.0
# Two chains are copies when this fraction of residues is common and superposes to within so many Å.
_COPY_COVERAGE = 0.8
_COPY_RMSD = 5.0
# Two angles, or the cosines of two, are the same within this, in radians.
_AXIS_TOLERANCE = np.deg2rad(8.0)


def read_model(path: Path) -> gemmi.Structure:
    """Read the first model of a PDB or mmCIF file, gzipped or not, without waters and alternative atoms.

    Raises
    ------
    CryogradError
        If the file cannot be read or holds no atom.
    """
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise CryogradError(f"not an atomic model ({error})", path, "give a PDB or mmCIF file") from None
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise CryogradError("no atoms", path, "give a PDB or mmCIF file with coordinates")
    while len(structure) > 1:
        del structure[-1]
    structure.remove_alternative_conformations()
    structure.remove_waters()
    structure.remove_empty_chains()
    return structure


def merge(structures: Sequence[gemmi.Structure]) -> gemmi.Structure:
    """One structure with the chains of all."""
    merged = structures[0].clone()
    for structure in structures[1:]:
        for chain in structure[0]:
            merged[0].add_chain(chain)
    return merged


def moved(structure: gemmi.Structure, rotation: FloatArray, translation: FloatArray) -> gemmi.Structure:
    """A copy with every atom at ``rotation @ x + translation``, in Å."""
    copy = structure.clone()
    matrix = gemmi.Mat33(np.asarray(rotation).tolist())
    copy[0].transform_pos_and_adp(gemmi.Transform(matrix, gemmi.Vec3(*np.asarray(translation).tolist())))
    return copy


def _alpha_carbons(chain: gemmi.Chain) -> dict[tuple[str, str], list[float]]:
    """Position of each residue's alpha carbon by residue number and name."""
    return {
        (str(residue.seqid), residue.name): atom.pos.tolist()
        for residue in chain
        for atom in residue
        if atom.name == "CA"
    }


def _superposition(
    a: dict[tuple[str, str], list[float]], b: dict[tuple[str, str], list[float]]
) -> tuple[FloatArray, FloatArray] | None:
    """Rotation and translation that bring chain ``a`` onto its copy ``b``, None if it is no copy."""
    common = sorted(a.keys() & b.keys())
    if len(common) < max(3, _COPY_COVERAGE * max(len(a), len(b))):
        return None
    x, y = (np.array([chain[key] for key in common]) for chain in (a, b))
    matrix = Rotation.align_vectors(y - y.mean(axis=0), x - x.mean(axis=0))[0].as_matrix()
    translation = y.mean(axis=0) - matrix @ x.mean(axis=0)
    rmsd = np.sqrt(((x @ matrix.T + translation - y) ** 2).sum(axis=1).mean())
    return (matrix, translation) if rmsd < _COPY_RMSD else None


def _axes_and_angles(rotations: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Unit axes (n, 3) and angles (n,) in radians of rotations other than the identity."""
    vectors = Rotation.from_matrix(rotations).as_rotvec()
    angles = np.linalg.norm(vectors, axis=1)
    return vectors / angles[:, None], angles


def _frame_rotation(found: FloatArray, group: FloatArray) -> tuple[FloatArray, float]:
    """Rotation Q that takes every R found to a Q R Qᵀ of the group, and the largest angle it is off.

    Two of the axes found are matched with every pair of the group's axes of the same angles.
    """
    axes, angles = _axes_and_angles(found)
    targets, target_angles = _axes_and_angles(group[1:])
    second = int(np.abs(axes @ axes[0]).argmin())
    chosen = [0, second] if abs(axes[second] @ axes[0]) < np.cos(_AXIS_TOLERANCE) else [0]
    images = [targets[np.abs(target_angles - angles[i]) < _AXIS_TOLERANCE] for i in chosen]
    # The axis of a half turn has no sense: its negative will do as well.
    images = [np.concatenate([t, -t]) for t in images]
    best = np.eye(3), np.inf
    for pair in product(*images):
        target = np.array(pair)
        if np.abs(target @ target.T - axes[chosen] @ axes[chosen].T).max() > _AXIS_TOLERANCE:
            continue
        turn = Rotation.align_vectors(target, axes[chosen])[0].as_matrix()
        turned = turn @ found @ turn.T
        error = angular_distance(turned[:, None], group).min(axis=1).max()
        if error < best[1]:
            best = turn, float(error)
    return best


def symmetry_frame(structure: gemmi.Structure, symmetry: str) -> tuple[FloatArray, FloatArray]:
    """Find where the point group of a model of several equal chains lies.

    Parameters
    ----------
    structure
        Model in which the first chain has copies by every element of the group, in any order.
    symmetry
        Point group other than C1, as in `cryograd.model.symmetry.group_matrices`.

    Returns
    -------
    rotation, centre
        Q (3, 3) and c (3,) in Å: the atoms at ``Q @ (x - c)`` have the group on RELION's axes; along the axis
        of Cn the alpha carbons' mean is at the origin.

    Raises
    ------
    CryogradError
        If the chains are not related by the group.
    """
    group = group_matrices(symmetry)
    chains = [c for c in map(_alpha_carbons, structure[0]) if c]
    copies = [s for c in chains[1:] if (s := _superposition(chains[0], c)) is not None]
    if len(copies) != len(group) - 1:
        raise CryogradError(
            f"chain {structure[0][0].name} has {len(copies)} copies, {symmetry} needs {len(group) - 1}",
            structure.name,
            "give a complete model, or symmetry C1",
        )
    rotations, translations = (np.array(x) for x in zip(*copies, strict=True))
    turn, error = _frame_rotation(rotations, group)
    if error > _AXIS_TOLERANCE:
        raise CryogradError(
            f"the chains do not have symmetry {symmetry}", structure.name, "give their symmetry"
        )
    middle = np.mean([p for c in chains for p in c.values()], axis=0)
    # The fixed points c of all x → R x + t, of which the nearest to the middle: (1 − R) c = t.
    residual = translations - middle + rotations @ middle
    offset = np.linalg.lstsq((np.eye(3) - rotations).reshape(-1, 3), residual.ravel(), rcond=0.05)[0]
    return turn, middle + offset


def on_symmetry_axes(structure: gemmi.Structure, symmetry: str) -> gemmi.Structure:
    """A copy of a complete model moved such that its point group is on RELION's axes."""
    rotation, centre = symmetry_frame(structure, symmetry)
    return moved(structure, rotation, -rotation @ centre)


def assemble(
    subunits: Sequence[gemmi.Structure], symmetry: str, complete: gemmi.Structure
) -> gemmi.Structure:
    """Build a complex from subunits and the part of it that is complete, all in one frame.

    Parameters
    ----------
    subunits
        Models that are copied by every element of the group.
    symmetry
        Point group.
    complete
        Model that has all its copies already and so shows where the group lies.
    """
    rotation, centre = symmetry_frame(complete, symmetry)
    placed = [moved(s, rotation, -rotation @ centre) for s in subunits]
    copies = [moved(s, g, np.zeros(3)) for s in placed for g in group_matrices(symmetry)]
    return merge([moved(complete, rotation, -rotation @ centre), *copies])


def model_density(
    structure: gemmi.Structure, box: int, pixel_size: float, b_factor: float | None = None
) -> NDArray[np.float32]:
    """Electron scattering density of an atomic model, with its centre of mass at voxel ``box // 2``.

    Parameters
    ----------
    structure
        Atomic model.
    box
        Box size in voxels.
    pixel_size
        Å.
    b_factor
        Replaces the B-factor of every atom, Å²; None keeps the file's.

    Returns
    -------
    NDArray[np.float32]
        Density of shape (box, box, box), indexed zyx, without what is beyond Nyquist.

    Raises
    ------
    CryogradError
        If the model does not fit into the box.
    """
    factor = int(np.ceil(pixel_size / _ATOM_SPACING))
    n, spacing = box * factor, pixel_size / factor
    mass = structure[0].calculate_center_of_mass()
    copy = moved(structure, np.eye(3), np.full(3, n // 2 * spacing) - np.array(mass.tolist()))
    atoms = [site.atom for site in copy[0].all()]
    positions = np.array([atom.pos.tolist() for atom in atoms])
    if positions.min() < 0.0 or positions.max() > n * spacing:
        extent = np.abs(positions - n // 2 * spacing).max()
        raise CryogradError(
            f"the model reaches {extent:.0f} Å from its centre and the box {box * pixel_size / 2:.0f} Å",
            structure.name,
            "use a larger box or pixel size",
        )
    if b_factor is not None:
        for atom in atoms:
            atom.b_iso = b_factor
            atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.set_unit_cell(gemmi.UnitCell(n * spacing, n * spacing, n * spacing, 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.grid.set_size(n, n, n)
    calculator.add_model_density_to_grid(copy[0])
    density = np.ascontiguousarray(np.array(calculator.grid, copy=False).T)
    return resize_volume(torch.from_numpy(density), box).numpy()


def resample_map(
    density: NDArray[np.float32], pixel_size: float, box: int, new_pixel_size: float
) -> NDArray[np.float32]:
    """Put a map on another grid by trigonometric interpolation, values and centre kept.

    Parameters
    ----------
    density
        Map of shape (L, L, L).
    pixel_size, new_pixel_size
        Å.
    box
        New box size; what lies outside the new box is cut off, what lies outside the old one is zero.

    Returns
    -------
    NDArray[np.float32]
        Map of shape (box, box, box), without what is beyond either Nyquist frequency.
    """
    size = density.shape[0]
    if (size, pixel_size) == (box, new_pixel_size):
        return density
    x = (np.arange(size) - size // 2) * pixel_size
    inside = (x >= -(box // 2) * new_pixel_size - 1e-6) & (x < (box - box // 2) * new_pixel_size)
    half = min((box - 1) // 2, int(np.ceil(box * new_pixel_size / (2.0 * pixel_size))) - 1)
    k = np.arange(-half, half + 1)
    waves = np.exp(-2j * np.pi / (box * new_pixel_size) * np.outer(k, x[inside])).astype(np.complex64)
    cut = density[np.ix_(inside, inside, inside)]
    # One axis at a time: the transform is separable.
    coefficients = np.einsum("zyx,ax->zya", cut, waves[half:], optimize=True)
    coefficients = np.einsum("zya,by->zba", coefficients, waves, optimize=True)
    coefficients = np.einsum("zba,cz->cba", coefficients, waves, optimize=True)
    spectrum = np.zeros((box, box, box // 2 + 1), dtype=np.complex64)
    spectrum[np.ix_(k % box, k % box, k[half:])] = coefficients
    spectrum *= (pixel_size / new_pixel_size) ** 3
    return inverse_fourier_3d(torch.from_numpy(spectrum), box).numpy()
