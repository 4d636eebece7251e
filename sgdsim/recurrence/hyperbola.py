"""The contour around the negative real axis, shared by all generating functions that are inverted along it.

`s_t = (1/2πi)∫ e^{σt} s̃(e^{−σ}) dσ` on the hyperbola of Weideman & Trefethen (*Math. Comp.* 76 (2007) 1341), which goes
around everything left of a `shift`; 16 nodes give about twelve digits where all that is singular is real.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

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


@numba.njit(**OPTIONS)
def node(number, n_nodes, t):
    """σ − shift of a node of the upper half, and its weight in the sum of real parts, of `(1/2πi)∫ … dσ / t`."""
    mu, step = 4.4921 * n_nodes / t, 1.0818 / n_nodes
    angle = complex(-1.1721, (number + 0.5) * step)
    local = mu * (1.0 + np.sin(angle))
    return local, np.exp(local * t) * (mu / t) * np.cos(angle) * (step / math.pi)


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
