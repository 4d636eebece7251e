"""The contours around the negative real axis, shared by all generating functions that are inverted along them.

`s_t = (1/2πi)∫ e^{σt} s̃(e^{−σ}) dσ` on the hyperbola `σ = shift + μ(1 + sin(iu − α))` of Weideman & Trefethen (*Math.
Comp.* 76 (2007) 1341), which goes around everything real left of a `shift`: 16 nodes give about twelve digits. A wider
one goes around a sector of half-angle δ as well, where modes of a method with memory turn.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from sgdsim.common.compiled import numba

NODES, FEWER = 16, 12  # the second contour only tells how far the first can be trusted
GOOD = 1e-9  # relative error that is not worth the recurrence
EARLIEST = 40  # steps; before, nodes of the contour would wrap around |Im σ| = π
AMPLITUDE = 10.0  # what modes that turn may begin with, in units of the initial loss
SAMPLE = 65  # eigenvalues at which turning modes are looked for
# A division by zero gives infinity: poles are results.
OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@numba.njit(**OPTIONS)
def expm1(z):
    """`e^z − 1` of complex z."""
    half = math.sin(0.5 * z.imag)
    return complex(math.expm1(z.real) * math.cos(z.imag) - 2.0 * half * half, math.exp(z.real) * math.sin(z.imag))


class Contour(NamedTuple):
    """α, the distance of nodes in u, μt and the number of nodes in the upper half."""

    angle: float
    step: float
    scale: float
    nodes: int


NARROW = tuple(Contour(1.1721, 1.0818 / nodes, 4.4921 * nodes, nodes) for nodes in (NODES, FEWER))
_DIGITS, _GROWTH = 30.0, 6.0  # of a wide contour, logs of: its accuracy, and e^{σt} where it meets the real axis


@functools.cache
def wide(sector: float) -> tuple[Contour, Contour]:
    """The contour around a sector of this half-angle with the fewest nodes, and one with fewer, to tell its error.

    The error of the sum is `e^{−2πd/h}` for the distance d of a singularity in α, `π/2 − δ − α`, and `e^{μt − 2πα/h}`
    where α comes to 0; that of what is left out `e^{μt(1 − sin α cosh hn)}`. `e^{σt} ≤ e^{μt(1 − sin α)}` stays small,
    as rounding grows with it.
    """
    alpha = np.linspace(0.01, 0.99, 400) * (math.pi / 2 - sector)
    scale = _GROWTH / (1 - np.sin(alpha))
    width = np.minimum(math.pi / 2 - sector - alpha, alpha / (1 + scale / _DIGITS))
    step = 2 * math.pi * width / _DIGITS
    nodes = np.ceil(np.arccosh((1 + _DIGITS / scale) / np.sin(alpha)) / step)
    best = int(np.argmin(nodes))
    angle, most, count = float(alpha[best]), float(scale[best]), int(nodes[best])
    reach = float(step[best]) * count
    return Contour(angle, reach / count, most, count), Contour(angle, reach / (count * 0.85), most, int(count * 0.85))


@numba.njit(**OPTIONS)
def node(number, contour, t):
    """σ − shift of a node of the upper half, and its weight in the sum of real parts, of `(1/2πi)∫ … dσ / t`."""
    angle, step, scale, _ = contour
    turned = complex(-angle, (number + 0.5) * step)
    local = scale * (1.0 + np.sin(turned))
    return local / t, np.exp(local) * (scale / t / t) * np.cos(turned) * (step / math.pi)


def judged(value: np.ndarray, other: np.ndarray, size: np.ndarray, left: np.ndarray) -> np.ndarray:
    """The relative error of a value from another contour, the rounding of what was summed, of this `size`, and what is
    `left` of modes that turn, or change sign from step to step."""
    with np.errstate(all="ignore"):
        wrong = np.abs(value - other) + 3e-15 * size + left
        return np.where(wrong < value, wrong / (value - wrong), np.inf)


def cheap(times: np.ndarray, steps: float) -> int:
    """How many of the ascending times are reached sooner by one recurrence than by a contour each, which takes as long
    as so many `steps`."""
    later = times.size - np.arange(times.size + 1)
    best = int(np.argmin(np.concatenate([[0.0], times]) + steps * later))
    return max(best, int(np.searchsorted(times, EARLIEST)))
