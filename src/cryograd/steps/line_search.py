"""Lipschitz constant of the gradient by a line search on fixed pose samples (CVPR 2015)."""

from dataclasses import dataclass, replace

from cryograd.steps.protocol import Local, Volume


@dataclass(frozen=True)
class Lipschitz:
    """An estimate of the constant L, 0 for none, and the iteration and radius at which it was made."""

    constant: float = 0.0
    iteration: int = -1
    radius: float = 0.0

    @property
    def inverse(self) -> float:
        """1/L, the length of a step; 0 as long as there has been no slope to measure L on."""
        return 1.0 / self.constant if self.constant > 0 else 0.0

    def scaled(self, factor: float) -> "Lipschitz":
        """The estimate multiplied, for gradients in another unit."""
        return replace(self, constant=factor * self.constant)


@dataclass(frozen=True)
class LipschitzSearch:
    """Smallest tried L at which f(V − g/L) ≤ f(V) − ‖g‖²/2L.

    Parameters
    ----------
    every
        Iterations between searches while the radius does not change.
    decay
        A search first tries the known L times this, so that L can also fall.
    start
        The first L as a fraction of the Hessian's largest row sum, which bounds its eigenvalues; on the
        marginal objective they are far below it.
    longest
        Doublings after which the search gives up and keeps what it began with: differences are rounding.
    """

    every: int = 5
    decay: float = 0.7
    start: float = 0.125
    longest: int = 12

    def __call__(self, known: Lipschitz, volume: Volume, local: Local) -> Lipschitz:
        """The constant for a step from a volume; the known one where no search is due."""
        due = local.radius != known.radius or local.iteration >= known.iteration + self.every
        if not due:
            return known
        before = known.constant or self.start * float(local.curvature.max())
        first = before if known.constant == 0 else self.decay * before
        norm = float(local.gradient.double().square().sum())
        if norm == 0.0 or before == 0.0:
            return known
        for doublings in range(self.longest):
            constant = first * 2.0**doublings
            trial = volume - local.gradient / constant
            if local.value(trial) <= local.loss - 0.5 * norm / constant:
                return Lipschitz(constant, local.iteration, local.radius)
        return Lipschitz(before, local.iteration, local.radius)
