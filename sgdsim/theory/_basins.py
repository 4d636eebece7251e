"""Where a function of learning rate and momentum is least, among many narrow basins.

A point is (logit of α over its largest stable value, log(1 − β)), so that all of the plane is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize

from sgdsim.problem import QuadraticProblem
from sgdsim.theory import stability

_LOWEST = -1e6  # log of a loss that is 0
_CELLS = 6e5  # modes × points of a grid around one point
Value = Callable[[np.ndarray | float, np.ndarray | float], np.ndarray]  # log of what is minimised, of α and β


@dataclass(frozen=True, eq=False)
class Plane:
    """`value` over the stable learning rates and momenta of a problem, for a noise γ and a closure τ."""

    problem: QuadraticProblem
    value: Value
    noise: float
    tau: float

    def limits(self, momentum: np.ndarray | float) -> np.ndarray:
        """The largest stable learning rates."""
        return stability.diagonal_max_lr(self.problem, momentum=momentum, noise=self.noise, tau=self.tau)

    def lr_and_momentum(self, point: np.ndarray) -> tuple[float, float]:
        """α and β of a point."""
        beta = 1 - math.exp(point[1])
        return float(self.limits(beta)) / (1 + math.exp(-point[0])), beta

    def least(self, momenta: np.ndarray, rates: np.ndarray, count: int) -> list[np.ndarray]:
        """The `count` best of these β and α, as points."""
        shares = rates / self.limits(momenta)
        inside = (shares > 0) & (shares < 1)
        momenta, shares, values = momenta[inside], shares[inside], self.value(rates[inside], momenta[inside])
        order = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")[:count]
        return [np.array([math.log(shares[k] / (1 - shares[k])), math.log(1 - momenta[k])]) for k in order]

    def polyak(self) -> tuple[np.ndarray, np.ndarray]:
        """β and α of the heavy balls that are best without noise on eigenvalues from each λ_j to 1 (Polyak 1964), or
        a smaller α that noise allows."""
        root = np.sqrt(self.problem.eigenvalues[self.problem.spectrum.moving])
        momenta = np.minimum(((1 - root) / (1 + root)) ** 2, 1 - 1e-4)
        rates = np.minimum((2 / (1 + root)) ** 2, 0.99 * self.limits(momenta))
        # Small λ_j all end at the bounds: each point once, in the order of the λ_j.
        _, first = np.unique(np.stack([momenta, rates]), axis=1, return_index=True)
        return momenta[np.sort(first)], rates[np.sort(first)]

    def around(self, point: np.ndarray, horizon: float) -> tuple[np.ndarray, np.ndarray]:
        """A grid of β and α around a point, as fine as the basins of modes that turn for `horizon` steps."""
        lr, beta = self.lr_and_momentum(point)
        shift = np.linspace(-1, 1, int(np.clip((_CELLS / self.problem.n_modes) ** 0.5, 21, 101)))
        momenta = np.clip(beta + shift * min(2 / horizon, (1 - beta) / 2), -0.95, None)[:, None]
        rates = lr * (1 + shift * min(8 / horizon, 0.5))
        return momenta + 0 * rates, rates + 0 * momenta

    def descend(self, start: np.ndarray, size: float, tolerance: float) -> tuple[np.ndarray, float]:
        """Nelder–Mead from `start` and points `size` away; the point it ends at, and the value there."""

        def at(point: np.ndarray) -> float:
            if not -1 < 1 - math.exp(min(point[1], 1.0)) < 1:
                return math.inf
            value = float(self.value(*self.lr_and_momentum(point)))
            return math.inf if math.isnan(value) else max(value, _LOWEST)

        least = scipy.optimize.minimize(
            at,
            start,
            method="Nelder-Mead",
            options={
                "initial_simplex": start + size * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.5]]),
                "xatol": tolerance,
                "fatol": tolerance**2,
                "maxfev": 200,
            },
        )
        return least.x, float(least.fun)
