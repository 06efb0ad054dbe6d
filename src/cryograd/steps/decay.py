"""How the size of steps falls with the iterations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepDecay:
    """ε = max(1/16, 2^(1 − ⌊iteration/150⌋)) (CVPR 2015).

    Parameters
    ----------
    first
        ε at the start.
    period
        Iterations in which ε is halved.
    least
        Its lower bound; below 1/16 the average gradient converges in theory.
    """

    first: float = 2.0
    period: int = 150
    least: float = 1.0 / 16.0

    def __call__(self, iteration: int) -> float:
        """ε at an iteration, from 0."""
        return max(self.least, self.first * 2.0 ** -(iteration // self.period))
