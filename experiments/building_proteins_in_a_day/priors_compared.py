"""The four priors on density, on the same images and from the same random start.

python priors_compared.py DATA -o OUT [--quick]
"""

import numpy as np
from matplotlib import pyplot as plt

from common import agreement, aligned, arguments, configuration, map_of, particles_of, reconstruct, save

PRIORS = ("exponential", "car", "gaussian", "none")


def main() -> None:
    """Draw central sections of the maps beside the truth's, and their Fourier shell correlations with it."""
    options = arguments(__doc__)
    size, folder = options.size, options.output / "priors"
    particles, truth = particles_of("groel-groes", size, options.data, folder, seed=options.seed)
    maps, results = {}, {}
    for prior in PRIORS:
        config = configuration(size, folder, truth, prior=prior, seed=options.seed, device=options.device)
        found = map_of(reconstruct(particles, config), particles)
        maps[prior] = aligned(found, truth)
        results[prior] = agreement(maps[prior], truth)
        negative = np.minimum(found.values, 0.0)
        results[prior]["negative_share_of_energy"] = float((negative**2).sum() / (found.values**2).sum())
        print(prior, results[prior]["fsc05_angstrom"], flush=True)

    figure = plt.figure(figsize=(13.0, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.0, 1.0))
    axes = left.subplots(2, len(PRIORS) + 1)
    middle = len(truth.values) // 2
    for column, (name, volume) in zip(axes.T, (maps | {"truth": truth}).items(), strict=True):
        # Sections that hold the axis of symmetry, and across it.
        for ax, section in zip(column, (volume.values[:, middle], volume.values[middle]), strict=True):
            ax.imshow(section, cmap="gray", origin="lower", vmin=min(0.0, section.min()))
            ax.set_axis_off()
        column[0].set_title(name)
    curves = right.subplots()
    for prior in PRIORS:
        curves.plot(np.arange(len(results[prior]["fsc"])) / size.extent, results[prior]["fsc"], label=prior)
    curves.axhline(0.5, color="0.8")
    curves.set(xlabel="spatial frequency (1/Å)", ylabel="FSC with the truth", ylim=(-0.1, 1.05))
    curves.legend()
    save(options, "priors_compared", figure, {"priors": results})


if __name__ == "__main__":
    main()
