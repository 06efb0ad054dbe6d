"""At which poses an iteration looks at its images: searched, drawn, or known."""

from collections.abc import Sequence

import numpy as np

from cryograd.draws import Stream, generator
from cryograd.engine.program import Step
from cryograd.engine.run import Run, group_of
from cryograd.engine.state import State
from cryograd.objective.likelihood import Looked
from cryograd.objective.picks import LEAST_STRAY
from cryograd.pose.proposal import Remembered
from cryograd.pose.quadrature import PoseGrid, RotationGrid, ShiftGrid, ShiftPrior, angular_spacing
from cryograd.pose.sampling import Sampler, Sampling
from cryograd.pose.search import Level, Search

# Radius in Fourier pixels up to which the pose search is exhaustive.
COARSE_RADIUS = 8.0
# Radii up to which one refinement is enough, and two, three, ...: each halves the cells.
MIDDLE_RADIUS, FINE_RADII = 14.0, (32.0, 64.0, 128.0, 256.0)
# Side of the shared grid's cells in angles atan(1/r), and shift spacings per resolution element; beyond the
# middle radius, where two refinements have to reach the angles that the final radius needs, they are finer.
ANGLE_CELLS, SHIFT_CELLS = 1.5, 2.5
FINE_ANGLE_CELLS, FINE_SHIFT_CELLS = 1.25, 3.2
# Before it is known where particles lie in their images: width of the shifts' prior as a fraction of the
# largest shift. A random start whose map may form anywhere is wrong more often: of 200 simulated images of a
# membrane protein one of five starts is wrong with a width of 0.45, and right with 0.2.
SHIFT_SIGMA = 0.2
# Slices that the drawn poses of one image may take, since they are in memory together.
MOST_SLICES = 4096
# Rotations of an image that the first refinement splits, at least and at most, and those after it; and
# shifts. Where an image says little of its pose, fewer would be surer of it than it is, and find its noise in
# the map.
FIRST, LATER, SHIFTS = (24, 96), (12, 48), 8
# Part of an image's probability that may be lost with the cells that are not split, where a sampler is to
# find all of it again, and otherwise.
LOST_REMEMBERED, LOST = 1e-3, 3e-2


def search_at(
    run: Run,
    radius: float,
    turn: int,
    symmetry: str,
    hard: bool = False,
    remembered: bool = False,
    own: bool = False,
    prior: ShiftPrior | None = None,
) -> Search:
    """How poses are searched at a radius: exhaustively up to a point, from there on by refining cells.

    Parameters
    ----------
    run, radius
        The run, and the radius in Fourier pixels.
    turn
        Number that the grids are turned by.
    symmetry
        Point group: poses of its asymmetric unit are looked at.
    hard
        Whether each image is to count at its best pose alone.
    remembered
        Whether a sampler is to remember the posterior; what is lost here it cannot find: less is.
    own
        Whether each image is to have poses of its own at any radius, by which something is said of it.
    prior
        Where particles lie in their images; None where it is not known.
    """
    rng = generator(run.seed, Stream.GRID, turn)
    coarse, fine = min(radius, COARSE_RADIUS), radius > MIDDLE_RADIUS
    angle_cells, shift_cells = (FINE_ANGLE_CELLS, FINE_SHIFT_CELLS) if fine else (ANGLE_CELLS, SHIFT_CELLS)
    spacing = angle_cells * angular_spacing(coarse)
    rotations = RotationGrid.covering(spacing, group_of(symmetry)).turned(rng)
    shifts = _shifts(run, coarse, shift_cells, rng.uniform(-0.5, 0.5, 2), prior)
    if radius <= COARSE_RADIUS and not (hard or own):
        levels = ()
    elif fine:
        radii = [*(r for r in FINE_RADII if r < radius), radius]
        later = (Level(LATER[1], SHIFTS, r, LATER[0]) for r in radii)
        levels = (Level(FIRST[1], SHIFTS, MIDDLE_RADIUS, FIRST[0]), *later)
    else:
        levels = (Level(FIRST[1], SHIFTS, radius, FIRST[0]),)
    lost = LOST_REMEMBERED if remembered else LOST
    return Search(coarse, rotations, shifts, levels, turn if remembered else None, hard, lost)


def poses_of(run: Run, state: State, number: int, step: Step, indices: np.ndarray, symmetry: str) -> Looked:
    """The poses of a step's images for the maps of a point group.

    They are drawn where that slices the volume less often than a search.
    """
    assert step.radius is not None
    if run.known is not None:
        return run.known.at(indices)
    if step.stage == "poses" and not run.apart:
        # The unturned grid of one number: the last pass does not depend on how it is divided.
        return search_at(run, step.radius, run.program.moves, symmetry)
    # While starts compete their posteriors differ: what one leaves is of no use to another.
    alone = len(state.sides[number].tracks) == 1
    sampler = run.sampler if alone else None
    hard = run.solver.needs.hard and step.changes_maps
    own = step.stage == "ctf"
    picks = state.sides[number].picks
    prior = None if picks is None else picks.shift_prior
    search = search_at(run, step.radius, state.iteration, symmetry, hard, sampler is not None, own, prior)
    sampling = None if sampler is None else drawn_poses(run, sampler, state, indices, step.radius)
    if sampling is None or sampler is None:
        return search
    costly = sampling.slices > search.slices(len(indices)) or sampling.most > MOST_SLICES
    return search if costly and not sampler.only else sampling


def drawn_poses(
    run: Run, sampler: Sampler, state: State, indices: np.ndarray, radius: float
) -> Sampling | None:
    """Poses drawn for each image of a minibatch.

    None if an image has not been visited before, and as long as proposals are uniform, since a sample would
    save nothing.
    """
    remembered = [state.memory.recall(i) for i in indices]
    trusted: Sequence[Remembered] = [
        seen for seen in remembered if seen is not None and seen.iteration >= sampler.annealing.period
    ]
    if len(trusted) < len(remembered):
        return None
    shifts = _shifts(run, radius, FINE_SHIFT_CELLS)
    quadrature = PoseGrid.covering(angular_spacing(radius), sampler.group, shifts)
    draws = [
        sampler.draw(seen, quadrature, generator(run.seed, Stream.POSES, state.iteration, int(index)))
        for index, seen in zip(indices, trusted, strict=True)
    ]
    return Sampling(quadrature, draws, state.iteration)


def _shifts(
    run: Run, radius: float, cells: float, offset: np.ndarray | None = None, prior: ShiftPrior | None = None
) -> ShiftGrid:
    """Shifts with so many spacings per resolution element of a radius."""
    extent = run.images.extent
    if prior is None:
        sigma = max(SHIFT_SIGMA * run.max_shift, extent / run.images.size)
        prior = ShiftPrior(sigma, LEAST_STRAY, max(run.max_shift, sigma))
    return ShiftGrid.covering(extent / radius / cells, run.max_shift, prior, offset)
