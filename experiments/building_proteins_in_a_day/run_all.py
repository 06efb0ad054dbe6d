"""Every experiment, one after the other, with the same options: figures and numbers into one folder.

python run_all.py DATA -o OUT [--quick]
"""

import runpy
import sys
import time
from pathlib import Path

from common import arguments

EXPERIMENTS = (
    "pose_stability",
    "points_used",
    "view_distribution",
    "time_course",
    "sampling_accuracy",
    "sampling_speed",
    "solvers_compared",
    "priors_compared",
    "three_molecules",
)


def main() -> None:
    """Run each script as if from the command line; each prints what it writes."""
    output = arguments(__doc__).output
    for name in EXPERIMENTS:
        began = time.perf_counter()
        runpy.run_path(str(Path(__file__).with_name(f"{name}.py")), run_name="__main__")
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{len(EXPERIMENTS)} experiments in {output}, called with {' '.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
