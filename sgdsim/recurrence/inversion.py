"""Where to invert a generating function: on a circle of z for early times, on hyperbolas in σ = −log z for later ones.

One hyperbola serves times up to a ratio of a thousand: `σ(u) = μ(1 + sin(iu − φ))`, by the midpoint rule in u
(Weideman & Trefethen, *Math. Comp.* 76 (2007) 1341, sec. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.optimize

_TOGETHER = 1000.0  # ratio of the latest to the earliest time of one contour


@dataclass(frozen=True)
class Inversion:
    """Values at `times` from those of the generating function at each σ: `Im Σ weight·f(σ) e^{σt}`."""

    times: np.ndarray
    sigmas: np.ndarray
    weights: np.ndarray

    def of(self, values: np.ndarray, near: float = 1.0) -> np.ndarray:
        """At `near` times the times."""
        return (np.exp(np.multiply.outer(near * self.times, self.sigmas)) @ (self.weights * values)).imag


def circle(times: np.ndarray, alias: float) -> Inversion:
    """For early times: there is a share `alias` in each value of that eight times the latest time later."""
    count = 4 * int(times.max()) + 4
    sigmas = -np.log(alias) / (2 * count) + 1j * np.pi * (np.arange(count) + 0.5) / count
    return Inversion(times, sigmas, np.full(count, 1j / count))


def contour(times: np.ndarray, tolerance: float, finer: float = 0.0) -> Inversion:
    """For ascending times, by nodes on half a hyperbola: as many as the tolerance takes, and the share `finer` more."""
    count, path = best(times[-1] / times[0], tolerance)
    sigmas, weights = path.nodes(count + math.ceil(finer * count), times[-1])
    return Inversion(times, sigmas, weights)


def groups(times: np.ndarray) -> list[slice]:
    """The ascending times in groups, of which one contour each."""
    out, first = [], 0
    while first < times.size:
        stop = int(np.searchsorted(times, _TOGETHER * times[first], side="right"))
        out.append(slice(first, stop))
        first = stop
    return out


@dataclass(frozen=True)
class Path:
    """A hyperbola for times in a given ratio. `angle`: φ; `width`: n·h of n nodes; `scale`: μ·t_last/n."""

    angle: float
    width: float
    scale: float

    def nodes(self, count: int, last: float) -> tuple[np.ndarray, np.ndarray]:
        """σ and the weights of the nodes on the upper half, for times up to `last`."""
        step, mu = self.width / count, self.scale * count / last
        turned = 1j * (np.arange(count) + 0.5) * step - self.angle
        weights = 1j * mu * np.cos(turned) * step / np.pi
        return mu * (1 + np.sin(turned)), weights


def best(ratio: float, tolerance: float) -> tuple[int, Path]:
    """The path for times that are `ratio` apart, and how many nodes it takes to `tolerance`: the angle with the
    fastest convergence, `e^{−rate·n}`."""

    def width(angle: float) -> float:
        inside = ((np.pi - 2 * angle) * ratio + 4 * angle - np.pi) / ((4 * angle - np.pi) * math.sin(angle))
        return math.acosh(inside)

    def rate(angle: float) -> float:
        return (np.pi**2 - 2 * np.pi * angle) / width(angle)

    found = scipy.optimize.minimize_scalar(
        lambda angle: -rate(angle), bounds=(np.pi / 4 + 1e-3, np.pi / 2 - 1e-3), method="bounded"
    )
    angle = float(found.x)
    count = max(5, math.ceil(math.log(1 / tolerance) / rate(angle)))
    return count, Path(angle, width(angle), (4 * np.pi * angle - np.pi**2) / width(angle))
