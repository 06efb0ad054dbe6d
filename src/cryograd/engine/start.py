"""How runs start: from random volumes, from a map that is to be divided into classes, or in two half-sets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Abinitio, HalfSetRun, ParticleRun
from cryograd.draws import Stream, generator
from cryograd.engine.curves import EDGE, first_curves
from cryograd.engine.frame import Frame, corner_noise
from cryograd.engine.run import Run
from cryograd.engine.setup import STARTS, PoseSource
from cryograd.engine.state import Side, State, Track
from cryograd.engine.table import PosteriorTable
from cryograd.errors import CryogradError
from cryograd.fourier import HalfDisc, lowpass_volume
from cryograd.images.store import Loaded, load
from cryograd.model.noise import Noise
from cryograd.model.projection import slice_points
from cryograd.pose.memory import Memory
from cryograd.rotations import random_rotations
from cryograd.simulation.blobs import random_blobs
from cryograd.steps.protocol import SolverState

# Images whose signal a start is scaled to.
_SIGNAL_SAMPLE = 500


@dataclass(frozen=True)
class Signal:
    """Some images of a side at the start's radius, which say how strong its maps are.

    Parameters
    ----------
    run
        The run.
    loaded
        The images.
    variance
        Of their noise, shape (n, K).
    """

    run: Run
    loaded: Loaded
    variance: Tensor

    @staticmethod
    def of(run: Run, number: int, noise: Noise) -> "Signal":
        """Of a side's first images."""
        disc, some = HalfDisc(run.program.start_radius), run.sides[number].train[:_SIGNAL_SAMPLE]
        loaded = load(run.images, some, disc, np.zeros((len(some), 2)), np.full(len(some), np.inf))
        return Signal(run, loaded, noise.on_disc(disc, loaded.group))

    def scaled(self, volume: Tensor, symmetry: str, rng: np.random.Generator) -> Tensor:
        """A volume (L, L, L) whose projections have the power of the images' signal."""
        likelihood = self.run.likelihood(self.run.program.start_radius, symmetry)
        rotations = torch.as_tensor(random_rotations(len(self.variance), rng)).to(volume)
        points = slice_points(likelihood.disc, volume.device)
        slices = likelihood.projector.sample(likelihood.transform(volume), rotations, points)
        signal = float((self.loaded.images.abs().square() / self.variance - 1.0).mean())
        model = float(((self.loaded.ctf * slices).abs().square() / self.variance).mean())
        # Images without excess power at low resolution still get a start of some size.
        return volume * math.sqrt(max(signal, 1e-3) / model)


def random_state(run: Run, config: Abinitio) -> State:
    """Random volumes."""
    count = run.classes if run.classes > 1 else config.starts or STARTS
    frame, members = Frame.of(run.images, config), run.sides[0]
    noise = corner_noise(run.images, frame.radius, members.every)
    signal = Signal.of(run, 0, noise)
    tracks = [_random_track(run, frame, signal, number) for number in range(count)]
    return _first_state(run, [Side(tuple(tracks), noise)], _nothing(run))


def given_state(run: Run, config: ParticleRun, volumes: Sequence[Tensor]) -> State:
    """Maps (W, W, W) of one side: one for each class, or starts that compete."""
    return _first_state(run, [_given_side(run, config, 0, volumes)], _nothing(run))


def halves_state(
    run: Run, config: HalfSetRun, starts: Sequence[Sequence[Tensor]], poses: PoseSource
) -> State:
    """Two half-sets that start from maps.

    Parameters
    ----------
    run, config
        The run and its options.
    starts
        Of each half-set, the map of each class in the images' box (W, W, W).
    poses
        What is known of poses.
    """
    sides = [_given_side(run, config, number, maps) for number, maps in enumerate(starts)]
    return _first_state(run, sides, poses.memory, max(1, config.top_poses))


def _given_side(run: Run, config: ParticleRun, number: int, maps: Sequence[Tensor]) -> Side:
    """A side that starts from given maps, each cut, symmetrised and scaled to the side's own images."""
    frame, members, radius = Frame.of(run.images, config), run.sides[number], run.program.start_radius
    noise = corner_noise(run.images, frame.radius, members.train)
    signal, tracks = Signal.of(run, number, noise), []
    for place, density in enumerate(maps):
        symmetry = run.symmetries[place % run.classes]
        cut = lowpass_volume(density, radius - 0.5 * EDGE, EDGE)
        if not cut.any():
            what = f"the map is empty inside the mask at {run.images.extent / radius:.3g} Å"
            raise CryogradError(what, "start of the refinement", "give a map with density")
        # Products with the Hessian take volumes of the point group.
        symmetric = run.likelihood(radius, symmetry).symmetrizer.forward(cut)
        volume = signal.scaled(symmetric, symmetry, generator(run.seed, Stream.SCALE))
        spare = _difference(run, volume)
        tracks.append(Track(symmetry, volume, run.solver.init(volume), *spare, share=1.0 / run.classes))
    return Side(tuple(tracks), noise)


def _random_track(run: Run, frame: Frame, signal: Signal, number: int) -> Track:
    """A random volume scaled so that its projections have half the amplitude of the images' signal."""
    rng, symmetry = generator(run.seed, Stream.START, number), run.symmetries[number % run.classes]
    volume = torch.as_tensor(random_blobs(run.images.size, frame.radius, rng)).to(run.mask) * run.mask
    volume = 0.5 * signal.scaled(volume, symmetry, rng)
    spare = _difference(run, volume)
    return Track(symmetry, volume, run.solver.init(volume), *spare, share=1.0 / run.classes)


def _difference(run: Run, volume: Tensor) -> tuple[Tensor | None, SolverState | None]:
    """Half the difference of two halves' maps at the start, and its solver's state, where it is followed."""
    if run.noise_halves is None:
        return None, None
    return torch.zeros_like(volume), run.solver.init(volume)


def _first_state(run: Run, sides: list[Side], memory: Memory, ranked: int = 1) -> State:
    """The state before the first iteration."""
    n, size, radius = len(run.images.particles), run.images.size, run.program.start_radius
    table = PosteriorTable.empty(n, ranked, run.classes)
    if run.apart:
        for half, members in enumerate(run.sides, 1):
            table.half[members.every] = half
    return State(
        iteration=0,
        place=0,
        total_iterations=run.program.ahead(0),
        stage=run.program.steps[0].stage,
        radius=radius,
        sides=sides,
        mask=run.mask,
        extent=run.images.extent,
        size=size,
        start_radius=radius,
        scale=_scale(run.mask, [track.volume for side in sides for track in side.tracks]),
        curves=first_curves(size, radius, run.classes) if run.apart else None,
        table=table,
        memory=memory,
        history=[],
    )


def _nothing(run: Run) -> Memory:
    """The memory of a sampler that has seen nothing; of no particle where there is no sampler."""
    return Memory.empty(0 if run.sampler is None else len(run.images.particles))


def _scale(mask: Tensor, volumes: Sequence[Tensor]) -> float:
    """Root mean square density of some volumes in the mask."""
    return float(np.mean([float(volume[mask > 0.5].square().mean().sqrt()) for volume in volumes]))
