"""Where to invert a generating function: one hyperbola in σ = −log z for all times within a decade.

`σ(u) = μ(1 + sin(iu − φ))`, by the midpoint rule in u (Weideman & Trefethen, *Math. Comp.* 76 (2007) 1341, sec. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.optimize

_TOGETHER = 10.0  # ratio of the latest to the earliest time of one contour


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

    def nodes(self, count: int, last: float) -> list[tuple[complex, complex]]:
        """σ and the weight of each node on the upper half, for times up to `last`."""
        step, mu = self.width / count, self.scale * count / last
        turned = 1j * (np.arange(count) + 0.5) * step - self.angle
        weights = 1j * mu * np.cos(turned) * step / np.pi
        return list(zip((mu * (1 + np.sin(turned))).tolist(), weights.tolist(), strict=True))


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
