"""Newton steps on a running quadratic: each minibatch's gradient, carried along by its curvature."""

from dataclasses import dataclass
from typing import ClassVar

from cryograd.steps.protocol import Local, Move, Needs, Stepper, Volume
from cryograd.steps.quadratic import Quadratic, quadratic_bytes


@dataclass(frozen=True)
class IncrementalState:
    """The quadratic of each minibatch at its last visit; None before its first."""

    parts: tuple[Quadratic | None, ...]

    def resized(self, size: int) -> "IncrementalState":
        """The state for maps of another box."""
        return IncrementalState(tuple(part and part.resized(size) for part in self.parts))

    def replaced(self, number: int, minibatches: int, seen: Quadratic) -> "IncrementalState":
        """The state with a new quadratic of one of the minibatches."""
        parts = list(self.parts or (None,) * minibatches)
        parts[number] = seen
        return IncrementalState(tuple(parts))

    def mean(self) -> Quadratic:
        """What all minibatches seen say. It is not kept: it would be the largest part of a refinement."""
        return Quadratic.mean([part for part in self.parts if part is not None])


@dataclass(frozen=True)
class Incremental(Stepper):
    """V ← V − η H̄⁻¹ ∇̄, with ∇̄ = Σ_k (g_k + H_k (V − V_k)) over the minibatches, each at its last visit.

    A minibatch's gradient grows old as V moves on, and steps along a mean of old gradients swing. But most of
    what makes it old is known: it changes by the curvature times the way that V has gone. Carried along so,
    it costs nothing to keep up to date, and the mean has the variance of a full pass at the cost of a
    minibatch. At known poses the objective is quadratic, and ∇̄ is the exact gradient of all images seen.
    With unknown poses H_k is the Hessian of the complete data, and this is incremental EM (Neal & Hinton,
    1998; a case of MISO, Mairal, 2013): responsibilities stay those of the last visit.

    Parameters
    ----------
    iterations, tolerance
        Of conjugate gradients for H̄⁻¹; they look at no image.
    floor
        Least curvature of their preconditioner as a fraction of its mean over the open frequencies.
    """

    needs: ClassVar[Needs] = Needs(takes="parts")

    iterations: int = 8
    tolerance: float = 0.03
    floor: float = 0.02

    def init(self, volume: Volume) -> IncrementalState:
        """State before the first step."""
        del volume
        return IncrementalState(())

    def step(self, state: IncrementalState, volume: Volume, local: Local) -> Move:
        """Put the minibatch's quadratic in the place of its last one, and step to the minimum of the sum."""
        number, minibatches = local.minibatch
        state = state.replaced(number, minibatches, Quadratic.of(local, volume, 1.0 / minibatches))
        mean = state.mean()
        bend = float(mean.curvature[local.spectrum.open].mean())
        if bend == 0.0:
            return Move(volume, state, 0.0)
        step = mean.newton_step(volume, local, self.floor, self.iterations, self.tolerance)
        return Move(volume - local.rate * step, state, local.rate / bend)

    def minibatch_bytes(self, size: int, radius: float) -> int:
        """A quadratic with weights of three digits."""
        return quadratic_bytes(size, radius, weight=2)

    def fixed_bytes(self, size: int, radius: float) -> int:
        """Their sum."""
        return quadratic_bytes(size, radius)


SOLVER = Incremental()
