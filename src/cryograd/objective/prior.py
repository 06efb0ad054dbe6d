"""What a prior on density is: a new one is a class with these methods in a module of `objective.priors`."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Density = Float[Tensor, "z y x"]


@runtime_checkable
class Prior(Protocol):
    """−log p(V), its gradient, and the projection onto the densities that it allows."""

    @classmethod
    def scaled(cls, scale: float, weight: float) -> "Prior":
        """The prior for data with a root mean square density in the mask, of a strength λ."""
        ...

    def value(self, volume: Density) -> float:
        """−log p(V) up to a constant."""
        ...

    def gradient(self, volume: Density) -> Density:
        """Gradient of the value."""
        ...

    def project(self, volume: Density) -> Density:
        """The nearest density that is allowed."""
        ...


class AnyDensity:
    """A prior that allows all densities."""

    def project(self, volume: Density) -> Density:
        """The volume itself."""
        return volume
