"""The loss of a simulated set at its true poses, its minimum, and what each way of looking at it costs."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from cryograd.data.particles import Particles
from cryograd.fourier import HalfBall, HalfDisc, fourier_2d, fourier_3d, pack_ball, pack_disc
from cryograd.model.ctf import ctf
from cryograd.model.shift import shift_phases
from cryograd.model.voxels import FourierVoxels
from cryograd.objective.known_poses import KnownPoses, KnownSums, Turn
from cryograd.steps.conjugate_gradient import conjugate_gradient
from cryograd.steps.protocol import Local, dot

_CHUNK = 500


def loss_of(particles: Particles, radius: float) -> KnownPoses:
    """The loss of simulated particles of one optics group, whose noise has variance 1 in every pixel."""
    assert particles.rotations is not None
    assert particles.shifts is not None
    optics, disc = particles.optics[0], HalfDisc(radius)
    frequencies = torch.as_tensor(disc.frequencies / (optics.box_size * optics.pixel_size))
    columns = ("defocus_u", "defocus_v", "astigmatism_angle", "phase_shift", "b_factor", "scale")
    ctfs, images = [], []
    for chosen in torch.arange(len(particles)).split(_CHUNK):
        some = particles.select(chosen.numpy())
        values = (torch.as_tensor(getattr(some, name)) for name in columns)
        aberrations = (optics.wavelength, optics.spherical_aberration, optics.amplitude_contrast)
        ctfs.append(ctf(frequencies, *aberrations, *values))
        coefficients = pack_disc(fourier_2d(torch.as_tensor(some.images(range(len(some))))), disc)
        centred = coefficients * shift_phases(frequencies, torch.as_tensor(some.shifts)).conj()
        images.append(centred / optics.box_size)
    rotations = torch.as_tensor(particles.rotations, dtype=torch.float32)
    return KnownPoses.of_images(FourierVoxels(radius), rotations, torch.cat(ctfs), torch.cat(images))


def in_double(loss: KnownPoses) -> KnownPoses:
    """The same loss in double precision."""
    names = ("rotations", "power", "energy")
    doubled = {name: getattr(loss, name).double() for name in names}
    return replace(loss, cross=loss.cross.to(torch.complex128), **doubled)


@dataclass(frozen=True)
class Shells:
    """Correlation of two sets of unknowns in shells.

    Parameters
    ----------
    voxels
        What the unknowns are.
    """

    voxels: FourierVoxels

    @property
    def _shells(self) -> np.ndarray:
        return np.rint(np.linalg.norm(self.voxels.frequencies, axis=1)).astype(np.int64)

    def of_map(self, density: np.ndarray) -> Tensor:
        """Unknowns of a map (L, L, L); zero beyond the slices' radius."""
        ball, k = HalfBall(self.voxels.radius), self.voxels.frequencies
        values = torch.zeros(len(k), dtype=torch.complex128)
        inside = torch.as_tensor((k**2).sum(axis=1) <= self.voxels.radius**2)
        values[inside] = pack_ball(fourier_3d(torch.as_tensor(density).double()), ball)
        return values

    def correlation(self, a: Tensor, b: Tensor) -> np.ndarray:
        """Fourier shell correlation at radii 0 to the slices'."""

        def total(values: Tensor) -> np.ndarray:
            return np.bincount(self._shells, values.double().numpy())[: int(self.voxels.radius) + 1]

        cross, power = total((a.conj() * b).real), total(a.abs() ** 2) * total(b.abs() ** 2)
        return np.divide(cross, np.sqrt(power), out=np.zeros_like(cross), where=power > 0.0)


@dataclass(frozen=True)
class Quadratic:
    """The loss of all images, exactly, in double precision.

    Parameters
    ----------
    loss
        In double precision.
    sums
        Of all images.
    """

    loss: KnownPoses
    sums: KnownSums

    @staticmethod
    def of(loss: KnownPoses) -> "Quadratic":
        """From the images, in parts that fit into memory."""
        doubled = in_double(loss)
        return Quadratic(doubled, doubled.sums(torch.arange(len(loss))))

    def __call__(self, values: Tensor) -> tuple[float, Tensor]:
        """F and its gradient."""
        v = values.to(torch.complex128)
        image = self.loss.normal(self.sums.weights, v)
        return 0.5 * (dot(v, image) + self.sums.energy) - dot(v, self.sums.linear), image - self.sums.linear

    def minimum(self, tolerance: float = 1e-6, memory: int = 20) -> tuple[Tensor, int]:
        """The unknowns at which SciPy's L-BFGS ends, from zero, and its evaluations.

        Its variables are the unknowns times the root of the Hessian's diagonal. That takes 42 evaluations at
        the paper's size; with the unknowns themselves it had not ended after eight times as long.

        Parameters
        ----------
        tolerance
            Norm of the gradient there, for the unknowns, over that at zero.
        memory
            Pairs that L-BFGS keeps.
        """
        diagonal = self.loss.voxels.diagonal(self.sums.weights) + self.loss.regularisation
        root, goal = diagonal.sqrt(), tolerance * float(self.sums.linear.norm())
        evaluations, size = 0, goal

        def unknowns(x: np.ndarray) -> Tensor:
            return torch.view_as_complex(torch.from_numpy(x).view(-1, 2)) / root

        def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal evaluations, size
            value, gradient = self(unknowns(x))
            evaluations, size = evaluations + 1, float(gradient.norm())
            return value, torch.view_as_real(gradient / root).numpy().ravel()

        def judge(intermediate_result: object) -> None:
            # What was evaluated last is the iterate: its step was accepted.
            if size <= goal:
                raise StopIteration

        options = {"maxiter": 20000, "maxfun": 20000, "maxcor": memory, "ftol": 0.0, "gtol": 0.0}
        start = np.zeros(2 * len(self.loss.voxels))
        found = minimize(evaluate, start, jac=True, method="L-BFGS-B", callback=judge, options=options)
        return unknowns(found.x), evaluations


def measured_costs(loss: KnownPoses, images: int, repeats: int = 7) -> dict[str, float]:
    """Processor time of each operation over that of a gradient of as many images.

    Medians of interleaved repeats.

    ``normal`` is one iteration of conjugate gradients on sums, whatever the number of images.
    """
    some = torch.arange(min(images, len(loss)))
    values = torch.randn(len(loss.voxels), dtype=loss.cross.dtype)
    sums, ones = loss.sums(some), torch.ones(len(loss.voxels))
    iterations = 5

    def solve() -> None:
        conjugate_gradient(
            lambda v: loss.normal(sums.weights, v), sums.linear, lambda r: r * ones, iterations
        )

    operations: dict[str, Callable[[], object]] = {
        "gradient": lambda: loss.evaluate(values, some),
        "value": lambda: loss.value(values, some),
        "product": lambda: loss.product(values, some),
        "rows": lambda: loss.row_sums(some),
        "linear": lambda: loss.linear(some),
        "weights": lambda: loss.weights(some),
        "sums": lambda: loss.sums(some),
        "normal": solve,
    }
    times: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(repeats):
        for name, operation in operations.items():
            began = time.process_time()
            operation()
            times[name].append(time.process_time() - began)
    medians = {name: float(np.median(t)) for name, t in times.items()}
    medians["normal"] /= iterations
    seconds = medians["gradient"] / len(some)
    costs = {name: t / medians["gradient"] for name, t in medians.items()}
    # Not in proportion to the images: in gradients of one.
    costs["normal"] *= len(some)
    return costs | {"seconds": seconds}


@dataclass
class Meter:
    """What has been done, in images or, for ``normal``, in times, and its cost in epochs.

    Parameters
    ----------
    costs
        Of each operation on an image, in gradients of one image, as `measured_costs` gives them.
    images
        In an epoch.
    """

    costs: dict[str, float]
    images: int
    done: Counter = field(default_factory=Counter)

    @property
    def epochs(self) -> float:
        """Cost so far, in gradients of all images."""
        return sum(self.costs[name] * count for name, count in self.done.items()) / self.images

    def watched(self, local: Local, operations: tuple[str, str], count: int) -> Local:
        """The same objective, with its values and products counted."""

        def watching(operation: str, function: Callable) -> Callable:
            def call(*arguments: Tensor) -> float | Tensor:
                self.done[operation] += count
                return function(*arguments)

            return call

        value, normal = operations
        return replace(local, value=watching(value, local.value), normal=watching(normal, local.normal))

    def by_images(self, loss: KnownPoses, values: Tensor, images: Tensor, turn: Turn) -> Local:
        """The loss near some unknowns through the images, for solvers that use no row sums."""
        self.done["gradient"] += len(images)
        local = loss.local(values, images, torch.ones(()), turn)
        return self.watched(local, ("value", "product"), len(images))

    def by_sums(self, loss: KnownPoses, sums: KnownSums, values: Tensor, turn: Turn) -> Local:
        """The loss near some unknowns through sums; their own cost is counted where they are made."""
        # The gradient, and the row sums.
        self.done["normal"] += 2
        return self.watched(loss.local_of(sums, values, turn), ("normal", "normal"), 1)
