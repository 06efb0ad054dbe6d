"""Every experiment, one after the other: figures and numbers into one folder.

python run_all.py DATA -o OUT [--quick]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

# Scripts, whether they need the data, and what else they are called with.
EXPERIMENTS: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("condition_number", False, ()),
    ("hutchinson_error", False, ()),
    ("known_poses", True, ()),
    *(("unknown_poses", True, (name,)) for name in ("t20s", "groel-groes", "ribosome", "beta-galactosidase")),
)


def main() -> None:
    """Run each script in a process of its own; each prints what it writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for name, needs_data, arguments in EXPERIMENTS:
        began = time.perf_counter()
        script = Path(__file__).with_name(f"{name}.py")
        data = (str(options.data),) if needs_data else ()
        quick = ("--quick",) if options.quick else ()
        command = [sys.executable, str(script), *arguments, *data, "-o", str(options.output), *quick]
        subprocess.run(command, check=True)
        print(f"{' '.join((name, *arguments))}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
