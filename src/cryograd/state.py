"""The state of a run after an iteration: all that a checkpoint needs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryograd.data.density import resample_map
from cryograd.data.particles import Particles
from cryograd.fourier import lowpass_volume, resize_transform
from cryograd.model.noise import Noise
from cryograd.model.symmetry import Symmetrizer
from cryograd.pose.memory import Memory
from cryograd.pose.posterior import Poses
from cryograd.posterior_table import PosteriorTable
from cryograd.solvers.schedule import Step
from cryograd.steps.protocol import SolverState
from cryograd.steps.state import as_plain, as_record, moved, tensors


@dataclass(frozen=True)
class Candidate:
    """One start, or class, on its way.

    Parameters
    ----------
    volume, difference
        V, and half the difference of the maps of two halves of the particles, which has V's noise: (W, W, W);
        None where it is not measured.
    solver, difference_solver
        What the solver remembers of each.
    evidence
        Running mean log evidence per coefficient.
    unfiltered
        In a refinement the map that the latest step made, with the prior, before it was masked, constrained
        and cut to become V; after the last iteration the likeliest map at the last poses, without the prior
        too. (W, W, W); None before the first step, and ab initio.
    share
        Fraction of the images that belongs to it; starts do not share them.
    """

    volume: Tensor
    solver: SolverState
    difference: Tensor | None
    difference_solver: SolverState | None
    evidence: float
    unfiltered: Tensor | None = None
    share: float = 1.0

    def to(self, device: torch.device) -> "Candidate":
        """The candidate with its tensors on a device."""
        return moved(self, device)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        solvers = {name: as_plain(getattr(self, name)) for name in ("solver", "difference_solver")}
        return vars(self) | solvers

    @staticmethod
    def from_state_dict(saved: dict[str, Any]) -> "Candidate":
        """Undo `state_dict`."""
        solvers = {name: as_record(saved[name]) for name in ("solver", "difference_solver")}
        return Candidate(**(saved | solvers))


@dataclass(frozen=True)
class State:
    """A run after an iteration.

    Parameters
    ----------
    iteration, total_iterations
        Iterations done, and to be done in all.
    stage
        ``starts``, ``march``, ``settle`` or ``poses``; ``refine`` in a refinement.
    radius, resolution
        Fourier pixels; Å.
    candidates
        The starts that are left, the one of most evidence first; or the classes.
    mask
        Solvent mask of the maps' box, which in a refinement grows with the radius.
    extent
        Side of the working box in Å.
    size
        Side of the images in pixels, W.
    noise
        Noise variance.
    images_drawn
        Images that the minibatches have drawn so far: the place in the endless shuffled sequence.
    history
        One row an iteration, JSON-able.
    posterior
        The latest posterior of every particle.
    symmetry
        Point group.
    memory
        What the sampler remembers; of no particle where poses are searched.
    """

    iteration: int
    total_iterations: int
    stage: str
    radius: float
    resolution: float
    candidates: tuple[Candidate, ...]
    mask: Tensor
    extent: float
    size: int
    noise: Noise
    images_drawn: int
    history: list[dict[str, Any]]
    posterior: PosteriorTable
    symmetry: str
    memory: Memory

    @property
    def best(self) -> Candidate:
        """The best start, or the class with most images."""
        return max(self.candidates, key=lambda candidate: candidate.share)

    @property
    def volume(self) -> Tensor:
        """The best candidate's volume, of the mask's shape."""
        return self.best.volume

    @property
    def classes(self) -> tuple["State", ...]:
        """The run with each of its classes alone."""
        return tuple(replace(self, candidates=(candidate,)) for candidate in self.candidates)

    @property
    def solver_bytes(self) -> int:
        """Memory that the best candidate's solver state takes."""
        return sum(tensor.nbytes for tensor in tensors((self.best.solver, self.best.difference_solver)))

    def following(
        self,
        step: Step,
        poses: Poses,
        candidates: tuple[Candidate, ...],
        noise: Noise,
        posterior: PosteriorTable,
        drawn: int,
    ) -> "State":
        """The state after an iteration that drew so many images, with its row in the history."""
        iteration, resolution = self.iteration + 1, self.extent / step.radius
        row = {
            "iteration": iteration,
            "stage": step.stage,
            "radius": step.radius,
            "resolution": resolution,
            "log_evidence": float(poses.log_evidence.double().mean()),
            "entropy": float(poses.entropy.double().mean()),
            "max_probability": float(poses.max_probability.double().mean()),
            "step": step.rate,
            "starts": len(candidates),
            "images_drawn": self.images_drawn + drawn,
            "noise": float(noise.variance[:, int(step.radius)].mean()) / self.size**2,
        }
        return replace(
            self,
            iteration=iteration,
            stage=step.stage,
            radius=step.radius,
            resolution=resolution,
            candidates=candidates,
            noise=noise,
            images_drawn=self.images_drawn + drawn,
            history=[*self.history, row],
            posterior=posterior,
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU and plain data, for `torch.save`."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str | list)}
        cpu = self.to(torch.device("cpu"))
        return plain | {
            "candidates": [c.state_dict() for c in cpu.candidates],
            "mask": cpu.mask,
            "noise": cpu.noise.variance,
            "posterior": {k: torch.from_numpy(v) for k, v in vars(self.posterior).items()},
            "memory": {k: torch.from_numpy(v) for k, v in self.memory.state_dict().items()},
        }

    @staticmethod
    def from_state_dict(saved: dict[str, Any]) -> "State":
        """Undo `state_dict`, on the CPU."""
        candidates = tuple(Candidate.from_state_dict(c) for c in saved["candidates"])
        posterior = PosteriorTable(**{k: v.numpy() for k, v in saved["posterior"].items()})
        memory = Memory.from_state_dict({k: v.numpy() for k, v in saved["memory"].items()})
        restored = {
            "candidates": candidates,
            "noise": Noise(saved["noise"]),
            "posterior": posterior,
            "memory": memory,
        }
        return State(**(saved | restored))

    def to(self, device: torch.device) -> "State":
        """The state with its tensors on a device."""
        candidates = tuple(c.to(device) for c in self.candidates)
        noise = Noise(self.noise.variance.to(device))
        return replace(self, candidates=candidates, mask=self.mask.to(device), noise=noise)


def full_volume(state: State, particles: Particles, volume: Tensor | None = None) -> tuple[np.ndarray, float]:
    """The map at the sampling of the first optics group.

    Parameters
    ----------
    state
        The state.
    particles
        Its particles.
    volume
        A map in the place of the state's.

    Returns
    -------
    tuple
        Density (L, L, L), float32, whose projections are sums of voxels, and its pixel size in Å.
    """
    optics = particles.optics[0]
    size = state.size
    volume = resize_transform(state.volume if volume is None else volume, size)
    volume = Symmetrizer(state.symmetry, size, state.radius).forward(volume)
    # What lies beyond the march's radius comes from positivity, not from the images.
    volume = lowpass_volume(volume, min(state.radius + 1.0, size / 2 - 1.0))
    pixel = state.extent / size
    density = resample_map(volume.cpu().numpy(), pixel, optics.box_size, optics.pixel_size)
    return density * np.float32(optics.pixel_size / pixel), optics.pixel_size
