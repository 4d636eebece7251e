"""Generating functions of pairs of modes: what one unit of noise, or of the initial error, is there later.

For modes with x = αλ and y, `Σ_t z^t g_x(t) g_y(t)` of their impulse responses is a rational function: a numerator over
the common determinant of both. A feedback of −γxy of the pair's own moment adds γzxy times the numerator of the noise
to the determinant. All are written in x, y and 1 − z, whose constant terms cancel: rounding must not bring them back
where z → 1 and x → 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sgdsim.algorithm.methods import HeavyBall, Nesterov
from sgdsim.algorithm.sgd import SGD

Pair = Callable[
    [np.ndarray, np.ndarray, float, complex, complex], tuple[np.ndarray, np.ndarray, np.ndarray]
]  # of x, y, β, z and 1 − z: numerators of the noise and of the start, and the determinant, as in `_heavy_ball`


@dataclass(frozen=True)
class Form:
    """A method whose mode steps by `r' = (1 − kick·x) r + carry·v, v' = βv − xr`, noise having moved both by −kick and
    −1 times itself; `kick`, `carry`: of β. Called, it gives `pair`."""

    pair: Pair
    kick: Callable[[float], float]
    carry: Callable[[float], float]

    def __call__(
        self, x: np.ndarray, y: np.ndarray, momentum: float, z: complex, rest: complex
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.pair(x, y, momentum, z, rest)

    def determinants(self, x: np.ndarray, momentum: float) -> np.ndarray:
        """Of each mode's step."""
        return momentum - (momentum * self.kick(momentum) - self.carry(momentum)) * x

    def sums(self, x: np.ndarray, momentum: float) -> np.ndarray:
        """2 − trace of each mode's step: with δ = 1 − μ, its roots μ are those of `δ² − sum·δ + x`."""
        return 1 - momentum + self.kick(momentum) * x

    def gaps(self, x: np.ndarray, momentum: float) -> tuple[np.ndarray, np.ndarray]:
        """δ = 1 − μ of each mode's roots, the smaller one first; complex. Roots μ near 1 have lost their digits."""
        total = self.sums(x, momentum)
        root = np.sqrt(total**2 - 4 * x + 0j)
        large = (total + np.where(total < 0, -root, root)) / 2
        return np.divide(x, large, out=np.zeros_like(large), where=large != 0), large


def responses(
    form: Form, x: np.ndarray, y: np.ndarray, momentum: float, gamma: float, z: complex, rest: complex
) -> tuple[np.ndarray, np.ndarray]:
    """What γxy times a unit of noise, and a unit of the initial error, are later, with the pair's own feedback −γxy."""
    noise, start, determinant = form(x, y, momentum, z, rest)
    fed = gamma * z * (x * y) * noise
    determinant = determinant + fed
    return fed / determinant, start / determinant


def _heavy_ball(
    x: np.ndarray, y: np.ndarray, momentum: float, z: complex, rest: complex
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerators of the noise and of the start, and the determinant, in the broadcast shape of x and y; rest = 1 − z.

    The determinant is `(1−β²z²)² − z(1+β²z²)ab + βz²(a²+b²)` with a = 1 + β − x, b = 1 + β − y.
    """
    beta, bz = momentum, 1 - momentum * z
    steady = rest * (1 - beta**2 * z)
    both = x + y
    noise = 1 - beta**2 * z**2 + 0 * both
    start = bz * (bz * (1 - beta**2 * z) + beta * z * both)
    determinant = bz**2 * (steady + z * (1 + beta) * both) + beta * z**2 * (x**2 + y**2)
    return noise, start, determinant - z * (1 + beta**2 * z**2) * (x * y)


def _nesterov(
    x: np.ndarray, y: np.ndarray, momentum: float, z: complex, rest: complex
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_heavy_ball`. The responses are `(1 + β − βζ)/(1 − aζ + pζ²)` to noise and `(1 − βζ)/(…)` to the start, with
    a = (1+β)(1−x), p = β(1−x); the determinant is `1 − abz + (a²q + b²p − 2pq)z² − abpqz³ + p²q²z⁴`."""
    beta, once = momentum, (1 + momentum) ** 2
    both, left = x + y, (1 - x) * (1 - y)
    gone = both - x * y  # 1 − left
    twice = 1 - beta**2 * z**2 * left
    noise = (once + beta**2 * z) * twice - beta * once * z * ((2 - both) - 2 * beta * z * left)
    start = (1 + beta**2 * z) * twice - beta * (1 + beta) * z * ((2 - both) - 2 * beta * z * left)
    first, second = once * z + 2 * beta**2 * z**2, once * beta * z**2
    third = beta**2 * z**3 * (once - beta**2 * z)
    steady = rest * (1 - beta * z) ** 2 * (1 - beta**2 * z)
    determinant = steady + gone * (first - 2 * second) - left * second * both + (2 - gone) * gone * third
    return noise, start, determinant


heavy_ball = Form(_heavy_ball, kick=lambda beta: 1.0, carry=lambda beta: beta)
nesterov = Form(_nesterov, kick=lambda beta: 1 + beta, carry=lambda beta: beta**2)
_FORMS: dict[type, Form] = {HeavyBall: heavy_ball, Nesterov: nesterov}


def form_of(sgd: SGD) -> Form | None:
    """The form of an algorithm's method; None where it has none here, as with weight decay."""
    if sgd.weight_decay:
        return None
    return next((form for kind, form in _FORMS.items() if isinstance(sgd.method, kind)), None)
