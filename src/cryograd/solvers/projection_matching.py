"""Projection matching: expectation maximisation in which each image counts at its best pose alone."""

from dataclasses import dataclass
from typing import ClassVar

from cryograd.solvers.em import EM
from cryograd.steps.protocol import Needs


@dataclass(frozen=True)
class ProjectionMatching(EM):
    """The steps of `EM`, for responsibilities that are 0 or 1."""

    needs: ClassVar[Needs] = Needs(takes="all", hard=True, stages=(6, 12, 4))


SOLVER = ProjectionMatching()
