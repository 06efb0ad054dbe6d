"""What a prior on density is: a new one is a class with these methods in a module of `objective.priors`."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Density = Float[Tensor, "z y x"]


@runtime_checkable
class Prior(Protocol):
    """What is taken as known of the density: −log p(V), its gradient, and which densities it allows."""

    @classmethod
    def scaled(cls, scale: float, weight: float) -> "Prior":
        """The prior for some data, which the program asks for where a prior is chosen by its name.

        Parameters
        ----------
        scale
            Root mean square density in the mask.
        weight
            Strength λ.
        """
        ...

    def value(self, volume: Density) -> float:
        """−log p(V) up to a constant.

        Parameters
        ----------
        volume
            Density, shape (L, L, L).
        """
        ...

    def gradient(self, volume: Density) -> Density:
        """Gradient of the value, shape (L, L, L).

        Parameters
        ----------
        volume
            Density, shape (L, L, L).
        """
        ...

    def project(self, volume: Density) -> Density:
        """The nearest density that is allowed, shape (L, L, L).

        Parameters
        ----------
        volume
            Density, shape (L, L, L).
        """
        ...


class AnyDensity:
    """A prior that allows all densities."""

    def project(self, volume: Density) -> Density:
        """The volume itself."""
        return volume
