"""The priors on density by name: one module of this package each."""

from typing import TYPE_CHECKING

from cryograd.registry import PRIORS

if TYPE_CHECKING:
    # The names are wanted before torch is: help texts show them.
    from cryograd.objective.prior import Prior


def names() -> tuple[str, ...]:
    """Names of all priors, sorted."""
    return PRIORS.names()


def get(name: str) -> "type[Prior]":
    """The prior of a name, which its ``scaled`` brings onto the scale of some data."""
    return PRIORS.get(name)


def resolved(prior: "str | Prior", scale: float, weight: float) -> "Prior":
    """The prior of a name on the scale of some data, or the given one, which may be a user's own, as it is.

    Parameters
    ----------
    prior
        Name or prior.
    scale
        Root mean square density in the mask.
    weight
        Strength of the prior.
    """
    return get(prior).scaled(scale, weight) if isinstance(prior, str) else prior


def name_of(prior: "str | Prior") -> str:
    """The name of a prior."""
    return prior if isinstance(prior, str) else PRIORS.name_of(type(prior))
