"""Which class an image belongs to: the posterior over several maps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryograd.pose.posterior import Poses

# Rounds in which classes are made equally large.
ROUNDS = 30
# Least log probability of a class.
LEAST_LOG = -100.0


@dataclass(frozen=True)
class Mixture:
    """What the posterior over C classes says of a batch of B images.

    Parameters
    ----------
    probabilities
        Of each class, shape (C, B), float64; they add up to 1 for each image.
    poses
        Under each image's likeliest class; the log evidence is that of all classes.
    """

    probabilities: Tensor
    poses: Poses


def mixture(
    found: Sequence[Poses], shares: Sequence[float], temperature: float = 1.0, even: bool = False
) -> Mixture:
    """Infer the classes of a batch, and the poses in the likeliest.

    Parameters
    ----------
    found
        What the posterior of each class says of the images.
    shares
        The fraction π of all images that belongs to each.
    temperature, even
        As `memberships` takes them.
    """
    evidence = torch.stack([poses.log_evidence for poses in found])
    prior = torch.as_tensor(shares).to(evidence).log()[:, None]
    probabilities = memberships(evidence, prior, temperature, even)
    likeliest, rows = probabilities.argmax(dim=0), torch.arange(evidence.shape[1], device=evidence.device)
    columns = zip(*(vars(poses).values() for poses in found), strict=True)
    poses = Poses(*(torch.stack(column)[likeliest, rows] for column in columns))
    return Mixture(probabilities, replace(poses, log_evidence=torch.logsumexp(evidence + prior, dim=0)))


def memberships(
    log_evidence: Tensor, log_prior: Tensor, temperature: float = 1.0, even: bool = False
) -> Tensor:
    """Probabilities of classes γ_ci ∝ π_c p(X_i | V_c)^(1/T), shape (C, B), float64.

    Parameters
    ----------
    log_evidence, log_prior
        log p(X_i | V_c), shape (C, B), and log π_c, shape (C, 1).
    temperature
        T. Above 1 it leaves images undecided that maps still too blurred would decide on.
    even
        Whether to take the π at which each class has the same share of these images.
    """
    logits = log_evidence.double() / temperature + log_prior
    if even:
        for _ in range(ROUNDS):
            logits = logits - torch.logsumexp(torch.log_softmax(logits, dim=0), dim=1, keepdim=True)
    # None is zero, so that every class has images that are the nearest to it.
    return torch.log_softmax(logits, dim=0).clamp(min=LEAST_LOG).exp()
