"""The distribution of views that a run recovers, beside the true one of the biased particles.

The map is aligned to the truth; the same rotation and hand bring its poses into the frame of the truth. Both
distributions are folded by the molecule's point group, since equivalent views give the same image.

    python view_distribution.py DATA -o OUT [--quick]
"""

import healpix
import numpy as np
from matplotlib import pyplot as plt

from common import SYMMETRY, arguments, save
from cryograd.model.symmetry import group_matrices
from cryograd.validation.alignment import MIRROR_Z, Alignment, align
from main_run import MOLECULE, load_or_run

NSIDE = 4


def in_frame_of_truth(rotations: np.ndarray, alignment: Alignment) -> np.ndarray:
    """Rotations (n, 3, 3) of a map as those of the truth, see `cryograd.validation.pose_error`."""
    if alignment.hand_flipped:
        rotations = MIRROR_Z @ rotations @ MIRROR_Z
    return rotations @ alignment.rotation.T


def histogram(rotations: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Density of views per HEALPix pixel relative to uniform views, averaged over a point group."""
    views = (rotations[:, 2] @ group.swapaxes(1, 2)).reshape(-1, 3)
    pixels = healpix.vec2pix(NSIDE, *views.T)
    return np.bincount(pixels, minlength=healpix.nside2npix(NSIDE)) / len(views) * healpix.nside2npix(NSIDE)


def main() -> None:
    """Draw both distributions on the sphere."""
    options = arguments(__doc__)
    run = load_or_run(options)
    last, truth = run.snapshots[-1].map, run.truth
    alignment = align(last.values, truth.values, last.pixel_size, truth.pixel_size)
    group = group_matrices(SYMMETRY[MOLECULE])
    assert run.particles.rotations is not None
    estimated = in_frame_of_truth(run.rotations, alignment)
    true, found = histogram(run.particles.rotations, group), histogram(estimated, group)
    cosines = np.einsum("ni,gij,nj->ng", estimated[:, 2], group, run.particles.rotations[:, 2]).max(axis=1)
    errors = np.rad2deg(np.arccos(np.clip(cosines, -1.0, 1.0)))
    longitude, latitude = np.meshgrid(np.radians(np.arange(-180, 181)), np.radians(np.arange(-90, 91)))
    pixels = healpix.ang2pix(NSIDE, np.pi / 2 - latitude, longitude)
    figure, axes = plt.subplots(
        1, 2, figsize=(10.0, 3.2), subplot_kw={"projection": "mollweide"}, layout="constrained"
    )
    top = max(true.max(), found.max())
    for ax, values, title in zip(axes, (true, found), ("true", "recovered"), strict=True):
        image = ax.pcolormesh(longitude, latitude, values[pixels], vmin=0.0, vmax=top, shading="auto")
        ax.set_title(f"{title} views")
        ax.tick_params(labelbottom=False, labelleft=False)
    figure.colorbar(image, ax=axes, label="density relative to uniform", shrink=0.8)
    record = {
        "nside": NSIDE,
        "folded_by": SYMMETRY[MOLECULE],
        "pearson": float(np.corrcoef(true, found)[0, 1]),
        "true": true.tolist(),
        "recovered": found.tolist(),
        "view_error_median_degrees": float(np.median(errors)),
        "view_errors_below_10_degrees": float((errors < 10.0).mean()),
        "hand_flipped": alignment.hand_flipped,
    }
    save(options, "view_distribution", figure, record)


if __name__ == "__main__":
    main()
