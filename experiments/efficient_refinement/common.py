"""What the experiments on conditioning share: options, poses and CTFs."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryograd.data.optics import electron_wavelength
from cryograd.model.ctf import ctf
from cryograd.simulation.simulate import Simulation, draw_rotations
from cryograd.threads import set_threads
from cryograd.validation.conditioning import whole_slice

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated import PREFERRED_VIEWS, save

__all__ = ["EXTENT", "arguments", "rotations", "save", "squared_ctf"]

# Of the paper's particles of the 50S ribosome's assembly (EMPIAR-10076): side of the box in Å.
EXTENT = 419.0
DEFOCUS = (10_000.0, 30_000.0)
_DEFOCUS_STREAM = 76


def arguments(description: str | None, argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for figures and numbers")
    parser.add_argument("--quick", action="store_true", help="a size that takes seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    set_threads(options.threads)
    return options


def rotations(number: int, biased: bool, seed: int) -> Tensor:
    """Rotations (n, 3, 3) whose views are uniform, or gathered around three of them."""
    views = PREFERRED_VIEWS if biased else ()
    simulation = Simulation(number, (), preferred_views=views, seed=seed)
    return torch.from_numpy(draw_rotations(simulation)).float()


def squared_ctf(number: int, radius: float, seed: int) -> Callable[[slice], Tensor]:
    """C² of some of the images at the points of a slice, (·, 1 + K): 300 kV, Cs 2.7 mm, 10 % amplitude."""
    frequencies = whole_slice(radius)[:, :2] / EXTENT
    # A stream of its own: drawn from that of the rotations, the defocus would go with the views.
    defocus = torch.from_numpy(np.random.default_rng((seed, _DEFOCUS_STREAM)).uniform(*DEFOCUS, number))
    zero, one = torch.zeros(number), torch.ones(number)

    def of(part: slice) -> Tensor:
        columns = (column[part] for column in (defocus, defocus, zero, zero, zero, one))
        return ctf(frequencies, electron_wavelength(300.0), 2.7e7, 0.1, *columns).square()

    return of
