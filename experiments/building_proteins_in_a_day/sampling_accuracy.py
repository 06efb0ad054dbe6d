"""Error of importance sampling against the exhaustive sum over the same quadrature, by number of draws.

What an image remembers comes from a visit at a map that is coarser and noisier than the one its evidence
is then estimated at, as in a run. For every s0 (draws as a multiple of a proposal's effective size) the
figure shows |Δ log p| over images and draws, the fraction of the quadrature that was evaluated, and the
cosine of the minibatch's gradient with the exhaustive one, at two maps. Relative errors are of log p of the
Fourier coefficients that are compared, with the constants of their normal distribution.

    python sampling_accuracy.py DATA -o FOLDER [--quick]
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from common import arguments, save, whitened
from converged import converged, drawn, set_map, visit
from cryograd.engine.run import Run
from cryograd.engine.state import State
from cryograd.fourier import lowpass_volume
from cryograd.model.projection import slice_points
from cryograd.model.shift import shift_phases
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.pose.posterior import Batch, Cells, evaluate_exhaustive, evaluate_local, local_statistics
from cryograd.pose.proposal import propose
from cryograd.pose.quadrature import PoseGrid
from cryograd.rotations import FloatArray

SAMPLES, DRAWS = (0.3, 1.0, 3.0, 10.0), 5
# Images and Fourier pixels that exhaustive sums can afford.
AFFORDABLE = {"paper": (200, 12.0), "small": (100, 10.0), "quick": (20, 6.0)}
# Maps, by their own resolution as a fraction of the radius: in a march newly opened frequencies have yet to
# be filled; at the truth the gradient is all noise, which is the harder to repeat.
MAPS = {"marching": 0.75, "converged": 1.0}
# The map of the visit before: a coarser resolution, and noise as a fraction of its root mean square.
COARSER, NOISE = 0.8, 0.3
# Share of the quadrature beyond which a sample is as good as the exhaustive sum, and not worth its time.
LARGEST_SHARE = 0.2
# Directions that are evaluated at a time, and responsibility below which a rotation is left out of gradients.
CHUNK, NEGLIGIBLE = 256, 1e-4


@dataclass(frozen=True)
class Reference:
    """Exhaustive sums over a quadrature at one map: one image at a time."""

    likelihood: MarginalLikelihood
    quadrature: PoseGrid
    grid: Tensor

    def chunks(self, anchors: FloatArray) -> Iterator[Tensor]:
        """All rotations, in-plane angles counting from anchors (D, 3, 3)."""
        angles, directions = np.arange(len(self.quadrature.in_plane)), np.arange(len(self.quadrature.angles))
        for start in range(0, len(directions), CHUNK):
            part = directions[start : start + CHUNK]
            rotations = self.quadrature.rotations(part, angles, anchors[part])
            yield torch.as_tensor(rotations, dtype=torch.float32, device=self.grid.device).flatten(0, 1)

    def evaluate(self, image: Batch, anchors: FloatArray) -> tuple[float, Tensor]:
        """log p(X | V), and the image's part of the gradient on the padded grid."""
        like = {"dtype": torch.float32, "device": self.grid.device}
        projector, points = self.likelihood.projector, slice_points(self.likelihood.disc, self.grid.device)
        frequencies = torch.as_tensor(self.likelihood.disc.frequencies / self.likelihood.extent, **like)
        shifts = torch.as_tensor(self.quadrature.shifts.shifts, **like)
        log_shift = torch.as_tensor(self.quadrature.shifts.log_weights, **like)
        phases = shift_phases(frequencies, shifts)
        found = []
        for rotations in self.chunks(anchors):
            slices = projector.sample(self.grid, rotations, points)
            part = evaluate_exhaustive(image, slices, phases, log_shift, "highest", statistics=False)
            # Of each part the weight of a rotation is one over the rotations of the part.
            found.append((rotations, part.rotation_marginal[0], part.log_evidence + math.log(len(rotations))))
        rotations, marginals, masses = zip(*found, strict=True)
        total = torch.logsumexp(torch.cat(masses), dim=0)
        weights = torch.cat([m * (mass - total).exp() for m, mass in zip(marginals, masses, strict=True)])
        kept = torch.cat(rotations)[weights > NEGLIGIBLE]
        cells = Cells(kept[None], shifts[None], self.quadrature.angle, self.quadrature.shifts.spacing)
        flat = torch.zeros(1, 1, device=self.grid.device)
        arguments = (self.grid, projector, points, frequencies, flat, log_shift[None])
        statistics, _ = local_statistics(image, cells, evaluate_local(image, cells, *arguments))
        misfit = statistics.power * statistics.slices - statistics.cross
        return float(total) - math.log(len(weights)), projector.insert(misfit, statistics.rotations, points)


def sampled(
    run: Run, state: State, current: Tensor, generator: torch.Generator
) -> tuple[list[dict[str, float]], list[FloatArray], int]:
    """Errors by s0 at one map, |Δ log p| of all images and draws, and the points of the quadrature."""
    indices, radius = np.arange(len(run.images.particles)), run.program.final_radius
    noise = torch.randn(current.shape, generator=generator).to(current) * current.square().mean().sqrt()
    set_map(state, lowpass_volume(current + NOISE * noise, COARSER * radius))
    visit(run, state, indices, 1)
    set_map(state, current)
    likelihood, sampler = run.likelihood(radius, run.symmetries[0]), run.sampler
    assert sampler is not None
    batch = whitened(run, state, indices, likelihood.disc)
    quadrature = drawn(run, state, indices).quadrature
    reference = Reference(likelihood, quadrature, likelihood.transform(current))
    evidence, total = [], torch.zeros_like(reference.grid)
    for i in indices:
        seen = state.memory.recall(i)
        assert seen is not None
        anchors = propose(seen, quadrature, sampler.group, sampler.annealing).anchors
        value, inserted = reference.evaluate(batch.part(slice(i, i + 1)), anchors)
        evidence.append(value)
        total += inserted
    exact, gradient = np.array(evidence), likelihood.projector.transform_adjoint(total).flatten()

    rows, errors = [], []
    for samples in SAMPLES:
        draws = [drawn(run, state, indices, number, samples) for number in range(DRAWS)]
        share = float(np.mean([len(d) for each in draws for d in each.draws])) / len(quadrature)
        rows.append({"s0": samples, "fraction_evaluated": share})
        if share < LARGEST_SHARE:
            found = [likelihood.evaluate(current, batch, each) for each in draws]
            error = np.stack([f.poses.log_evidence.double().cpu().numpy() for f in found]) - exact
            gradients = [likelihood.mean(f.sums).gradient.flatten() for f in found]
            cosines = [float(torch.cosine_similarity(g, gradient, dim=0)) for g in gradients]
            errors.append(np.abs(error).ravel())
            rows[-1] |= {
                "median_absolute_error_nats": float(np.median(np.abs(error))),
                "relative_rms_error_percent": float(100.0 * np.sqrt(np.mean((error / exact) ** 2))),
                "mean_error_nats": float(error.mean()),
                "gradient_cosine": float(np.mean(cosines)),
            }
        print(rows[-1], flush=True)
    return rows, errors, len(quadrature)


def main() -> None:
    options = arguments(__doc__)
    images, radius = AFFORDABLE[options.size.name]
    options.size = replace(options.size, particles=images)
    run, state = converged(options, "accuracy", max_resolution=options.size.extent / radius, max_shift=None)
    generator = torch.Generator().manual_seed(options.seed)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    record = {"images": images, "draws": DRAWS, "radius": radius, "by_map": {}}
    for number, (name, share) in enumerate(MAPS.items()):
        current = lowpass_volume(state.volume, share * radius)
        rows, errors, points = sampled(run, copy.deepcopy(state), current, generator)
        record["quadrature"] = points
        record["by_map"][name] = rows
        middle.loglog(SAMPLES, [row["fraction_evaluated"] for row in rows], "o-", label=name)
        reached = rows[: len(errors)]
        right.semilogx(SAMPLES[: len(errors)], [row["gradient_cosine"] for row in reached], "o-", label=name)
        places = np.arange(len(errors)) + 0.35 * number
        style = {"color": f"C{number}"}
        left.boxplot(errors, positions=places, widths=0.3, sym="", whis=(5, 95), boxprops=style)
    left.set_xticks(np.arange(len(SAMPLES)) + 0.18, [f"{s:g}" for s in SAMPLES])
    left.set(yscale="log", xlabel="$s_0$", ylabel="|Δ log p| in nats (5, 25, 50, 75, 95 %)")
    middle.set(xlabel="$s_0$", ylabel="fraction of the quadrature evaluated")
    right.set(xlabel="$s_0$", ylabel="cosine with the exhaustive gradient")
    right.legend()
    save(options, "sampling_accuracy", figure, record)


if __name__ == "__main__":
    main()
