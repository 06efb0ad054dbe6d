"""In-plane shifts as phase factors."""

import math

import torch
from torch import Tensor


def shift_phases(frequencies: Tensor, shifts: Tensor) -> Tensor:
    """Factors exp(+2πi k·t), shape (..., K), that move a centred projection to where the image has it.

    The conjugate centres an image whose origin offset is ``t``.

    Parameters
    ----------
    frequencies
        (kx, ky) of each coefficient in 1/Å, shape (K, 2).
    shifts
        RELION's origin offsets t = (x, y) in Å, shape (..., 2).
    """
    turns = shifts.double() @ frequencies.double().T
    # Within half a turn float32 is exact to 10⁻⁷.
    angle = (2.0 * math.pi * (turns - turns.round())).float()
    return torch.complex(angle.cos(), angle.sin())
