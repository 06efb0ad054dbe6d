"""How early in a run the map is there: its central sections and the resolution against time.

Time is that of the iterations; at the end it includes the last pass for the poses, which keeps the map as is.

    python time_course.py DATA -o OUT [--quick]
"""

import numpy as np
from matplotlib import pyplot as plt

from common import agreement, aligned, arguments, save
from main_run import load_or_run

# Maps that are shown, besides the truth; every one is scored.
COLUMNS = 8


def main() -> None:
    """Draw the map at times, and its agreement with the truth."""
    options = arguments(__doc__)
    run = load_or_run(options)
    maps = [aligned(snapshot.map, run.truth) for snapshot in run.snapshots]
    scores = [agreement(volume, run.truth) for volume in maps]
    rows = [
        {name: getattr(snapshot, name) for name in ("passes", "iteration", "radius", "seconds")} | found
        for snapshot, found in zip(run.snapshots, scores, strict=True)
    ]
    shown = np.unique(np.linspace(0, len(maps) - 1, COLUMNS).round().astype(int))
    figure = plt.figure(figsize=(1.6 * (len(shown) + 1), 6.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1.0))
    axes = above.subplots(2, len(shown) + 1)
    titles = [f"{rows[i]['passes']:.3g} passes\n{_angstrom(rows[i]['fsc05_angstrom'])}" for i in shown]
    middle = len(run.truth.values) // 2
    for column, volume, title in zip(
        axes.T, [*(maps[i] for i in shown), run.truth], [*titles, "truth"], strict=True
    ):
        # Sections that hold the axis of symmetry, and across it.
        for ax, section in zip(column, (volume.values[:, middle], volume.values[middle]), strict=True):
            ax.imshow(section, cmap="gray", origin="lower")
            ax.set_axis_off()
        column[0].set_title(title, fontsize=8)
    left, right = below.subplots(1, 2)
    seconds = [row["seconds"] for row in rows]
    reached = [1.0 / (row["fsc05_angstrom"] or np.inf) for row in rows]
    left.plot(seconds, reached, "o-", label="where the FSC falls to 0.5")
    left.plot(
        seconds, [row["radius"] / options.size.extent for row in rows], color="0.6", label="used by the run"
    )
    left.set_xlabel("time (s)")
    left.set_ylabel("spatial frequency (1/Å)")
    left.legend()
    for i in shown:
        right.plot(rows[i]["fsc"], label=f"{rows[i]['passes']:.3g} passes")
    right.set_xlabel("Fourier pixel")
    right.set_ylabel("FSC with the truth")
    right.legend(fontsize=7)
    save(options, "time_course", figure, {"snapshots": rows})


def _angstrom(resolution: float | None) -> str:
    return "no agreement" if resolution is None else f"{resolution:.3g} Å"


if __name__ == "__main__":
    main()
