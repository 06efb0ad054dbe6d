"""Half maps whose shell correlation is known, because their signal and their noise are."""

import numpy as np

from cryograd.fourier import radius_grid


def shell_numbers(size):
    return np.rint(radius_grid(size, 3).numpy()).astype(int)


def shell_power(density):
    """Mean squared amplitude of each shell, corners of the box included."""
    shells = shell_numbers(len(density)).ravel()
    return np.bincount(shells, np.abs(np.fft.rfftn(density)).ravel() ** 2) / np.bincount(shells)


def filtered(density, gains):
    """A map with each shell's coefficients multiplied by a number."""
    spectrum = np.fft.rfftn(density) * np.asarray(gains)[shell_numbers(len(density))]
    return np.fft.irfftn(spectrum, s=density.shape, axes=(0, 1, 2)).astype(np.float32)


def ball(size, radius):
    x = np.arange(size) - size // 2
    return x[:, None, None] ** 2 + x[:, None] ** 2 + x**2 <= radius**2


def molecule(size, radius, atoms, seed=0):
    """Points anywhere in a ball; their mean amplitude is the same at all frequencies beyond the ball's."""
    rng = np.random.default_rng(seed)
    density = np.zeros((size,) * 3)
    inside = np.argwhere(ball(size, radius))
    np.add.at(density, tuple(inside[rng.integers(len(inside), size=atoms)].T), 1.0)
    return density


def halves(density, correlation, seed=0):
    """Two maps with a density and noise of their own, which correlate as wanted, and the noise's power."""
    power = shell_power(density)
    wanted = np.append(correlation, np.full(len(power) - len(correlation), correlation[-1]))
    noise = power * (1.0 - wanted) / wanted
    rng = np.random.default_rng(seed)
    size = len(density)
    gains = np.sqrt(noise / size**3)
    pair = tuple(
        (density + filtered(rng.standard_normal(density.shape), gains)).astype(np.float32) for _ in range(2)
    )
    return pair, noise


def falling(size, half, width):
    """A correlation of 1 at the origin that is one half at a shell."""
    return 1.0 / (1.0 + np.exp((np.arange(size // 2 + 1) - half) / width))
