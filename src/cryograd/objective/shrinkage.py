"""A Gaussian prior on the spectrum whose strength is measured as the run goes.

A shell of which the images have said little is mostly noise, and noise in the map draws the images into
false poses. How much of a shell is noise shows in half the difference D of two maps, one from either half
of the particles: they share the map V that the poses come from and no image, so that D has the
noise of V and none of its signal. The prior's precision is the one at which the maximum a posteriori is the
Wiener filter of the maximum likelihood.
"""

import torch
from torch import Tensor

from cryograd.fourier import fourier_3d, radius_grid

# A shell is not shrunk further, so that it can come back.
LARGEST_RATIO = 20.0


def shell_means(values: Tensor) -> Tensor:
    """Mean of a half-space array (L, L, L//2 + 1) in the shell of each of its coefficients."""
    shell = radius_grid(len(values), 3, values.device).round().long()
    count = torch.zeros(int(shell.max()) + 1, dtype=torch.float64, device=values.device)
    total = count.clone()
    count.index_add_(0, shell.flatten(), torch.ones_like(values, dtype=torch.float64).flatten())
    total.index_add_(0, shell.flatten(), values.double().flatten())
    return (total / count)[shell].to(values.dtype)


def noise_to_signal(volume: Tensor, difference: Tensor) -> Tensor:
    """Ratio of the noise's power to the signal's in the shell of each coefficient, (L, L, L//2 + 1).

    Parameters
    ----------
    volume, difference
        V and D, shape (L, L, L).
    """
    noise = shell_means(fourier_3d(difference).abs().square())
    signal = shell_means(fourier_3d(volume).abs().square()) - noise
    ratio = noise / signal.clamp(min=torch.finfo(noise.dtype).tiny)
    return torch.where(noise > 0, ratio.clamp(max=LARGEST_RATIO), 0.0)


def wiener_precision(ratio: Tensor, curvature: Tensor) -> Tensor:
    """Precision of the prior under which the maximum a posteriori is the Wiener filter of the likeliest map.

    Parameters
    ----------
    ratio
        Of noise to signal at each coefficient, shape (L, L, L//2 + 1).
    curvature
        The likelihood's, of the same shape; the precision is in its unit.
    """
    # Frequencies of the last shell beyond the radius are not open yet.
    return ratio * shell_means(curvature) * (curvature > 0)
