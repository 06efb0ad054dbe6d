"""Lipschitz constant of the gradient by a line search on fixed pose samples (CVPR 2015)."""

from dataclasses import dataclass

from torch import Tensor

from cryograd.solvers.protocol import Local


@dataclass(frozen=True)
class Lipschitz:
    """An estimate of the constant L, and the iteration and radius at which it was made."""

    constant: float = 0.0
    iteration: int = -1
    radius: float = 0.0


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
        Doublings after which the search gives up: beyond it differences are rounding.
    """

    every: int = 5
    decay: float = 0.7
    start: float = 0.125
    longest: int = 12

    def __call__(self, known: Lipschitz, volume: Tensor, local: Local) -> Lipschitz:
        """The constant for a step from a volume; the known one where no search is due."""
        due = local.radius != known.radius or local.iteration >= known.iteration + self.every
        if not due:
            return known
        if known.constant > 0:
            constant = self.decay * known.constant
        else:
            constant = self.start * float(local.curvature.max())
        norm = float(local.gradient.double().square().sum())
        for _ in range(self.longest):
            trial = volume - local.gradient / constant
            if local.value(trial) <= local.loss - 0.5 * norm / constant:
                break
            constant *= 2.0
        return Lipschitz(constant, local.iteration, local.radius)
