"""What the engine asks of images, and a minibatch of them as Fourier coefficients with their CTFs.

Another way to keep images is one class with the members of `ImageStore`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryograd.data.ctfs import ctf_of
from cryograd.data.particles import Particles
from cryograd.fourier import HalfDisc, fourier_2d, pack_disc

# Width in working pixels of the soft edge of the mask around a particle.
MASK_EDGE = 5.0
# Images whose transforms are made at a time.
_LOADED = 100


class ImageStore(Protocol):
    """Normalised images at one sampling; the working pixel is ``extent / size``."""

    @property
    def particles(self) -> Particles:
        """Their metadata."""
        ...

    @property
    def size(self) -> int:
        """Working box W in pixels."""
        ...

    @property
    def extent(self) -> float:
        """Side of the box in Å."""
        ...

    @property
    def diameter(self) -> float:
        """Particle diameter in Å, outside which is background."""
        ...

    @property
    def device(self) -> torch.device:
        """Where minibatches are made."""
        ...

    @property
    def strange(self) -> NDArray[np.bool_]:
        """Whether an image has a power that no particle has, shape (n,): it changes no map."""
        ...

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """Some of the images, shape (b, W, W), of any real type."""
        ...

    def expect(self, indices: np.ndarray) -> None:
        """Be told which images will be asked for next."""
        ...


@dataclass(frozen=True)
class Loaded:
    """Images of a minibatch before whitening.

    Parameters
    ----------
    images
        Fourier coefficients, shape (B, K), complex64.
    ctf
        Contrast transfer function, shape (B, K), float32.
    group
        Optics group of each image, shape (B,).
    area
        Fraction of the box inside each image's mask, shape (B,): what is left of the noise's power.
    """

    images: Tensor
    ctf: Tensor
    group: Tensor
    area: Tensor


def load(
    store: ImageStore,
    indices: np.ndarray,
    disc: HalfDisc,
    centres: np.ndarray,
    margins: np.ndarray,
    defocus_change: np.ndarray | float = 0.0,
) -> Loaded:
    """Images masked around their particles, and their CTFs, on a half-disc.

    Parameters
    ----------
    store
        Where the images are.
    indices
        Particles, shape (B,).
    disc
        Coefficients wanted.
    centres
        Current origin offsets (x, y) in Å, shape (B, 2): the mask is centred at minus this.
    margins
        Å by which each mask is wider than the particle, shape (B,); infinite for no mask.
    defocus_change
        Å by which the underfocus is more than the particles say, shape (B,).
    """
    device = store.device
    frequencies = torch.as_tensor(disc.frequencies / store.extent, device=device)
    change = np.broadcast_to(defocus_change, len(indices))
    coefficients = torch.empty(len(indices), len(disc), dtype=torch.complex64, device=device)
    ctf = torch.empty(len(indices), len(disc), device=device)
    area = torch.empty(len(indices), device=device)
    # Whole images take several times the memory of their coefficients.
    for start in range(0, len(indices), _LOADED):
        part = slice(start, start + _LOADED)
        mask = _masks(store, centres[part], margins[part])
        images = torch.as_tensor(store.pixels(indices[part])).to(device).float() * mask
        coefficients[part] = pack_disc(fourier_2d(images), disc)
        ctf[part] = ctf_of(store.particles, indices[part], frequencies, change[part])
        area[part] = mask.square().mean(dim=(1, 2)).clamp(min=1e-3)
    group = torch.as_tensor(store.particles.optics_index[indices], device=device)
    return Loaded(coefficients, ctf, group, area)


def _masks(store: ImageStore, centres: np.ndarray, margins: np.ndarray) -> Tensor:
    """Soft circles (b, W, W) around particles whose origins are given."""
    pixel, device = store.extent / store.size, store.device
    axis = torch.arange(store.size, device=device) - store.size // 2
    centre = torch.as_tensor(-centres / pixel, dtype=torch.float32, device=device)
    radius = torch.as_tensor((store.diameter / 2 + margins) / pixel, dtype=torch.float32, device=device)
    dx, dy = axis - centre[:, :1], axis - centre[:, 1:]
    distance = torch.sqrt(dx[:, None, :].square() + dy[:, :, None].square())
    edge = ((distance - radius[:, None, None]) / MASK_EDGE).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * edge)
