"""Up to which learning rate a criterion of stability holds: found by trying, with one closed form.

Ũ(1) and the mean's maps are smooth in log λ, so long spectra are asked on the few modes of `compression`, and the
answer is that of two compressions that agree, of the whole spectrum otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.optimize

from sgdsim.algorithm.methods import HeavyBall
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import number
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.problem.linearised import of_quadratic
from sgdsim.theory.linear import mean_is_stable, noise_at_one

_LEAST, _MOST = 1e-300, 1e300  # learning rates


@of_quadratic
def decayed_max_lr(problem: QuadraticProblem, sgd: SGD, tau: float | None = 1.0) -> float:
    """Up to which α heavy ball with weight decay is stable: where Ũ(1) = 1 (spectral-diagonal, closure `tau` ≤ 1 where
    there is noise), or where the mean diverges, `2(1+β)/(λ_max + ω)` (`tau` None), ω in units of the curvature.

    On μ = λ + ω heavy ball's `p = α(1+β)/((1−β)μ(2(1+β) − αμ))` has a closed form, and Ũ(1) grows with α: there is one
    threshold, found by bisection to the last digits.
    """
    beta, gamma = float(problem.values(sgd, 0, 1).momentum[0]), problem.noise(sgd)
    spectrum = compression.short(problem).spectrum
    lam, counts = (x[spectrum.moving] for x in (spectrum.eigenvalues, spectrum.counts))
    whole = lam + problem.pull(sgd)
    most = float(2 * (1 + beta) / whole.max())
    if tau is None or gamma == 0:
        return most
    number("tau", tau, maximum=1.0)

    def stable(lr: float) -> bool:
        drawn = gamma * lam**2 * lr * (1 + beta) / ((1 - beta) * whole * (2 * (1 + beta) - lr * whole))
        own = 1 + tau * drawn
        return bool((own > 0).all() and np.sum(counts * drawn / own) < 1)

    low, high = 0.0, most
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def is_decayed_heavy_ball(sgd: SGD) -> bool:
    """Whether `decayed_max_lr` knows it."""
    return isinstance(sgd.method, HeavyBall) and sgd.weight_decay > 0


@of_quadratic
def noise_max_lr(problem: QuadraticProblem, sgd: SGD, tau: float = 1.0, tolerance: float = 1e-9) -> float:
    """Where Ũ(1) of any stationary linear method is 1 or its mean diverges, going up from small rates; to a share of
    `tolerance`. Infinite if nowhere. Raises InputError as `noise_at_one`."""
    return _on_few_modes(problem, sgd, lambda some, tried: noise_at_one(some, tried, tau) - 1, tolerance)


@of_quadratic
def mean_max_lr(problem: QuadraticProblem, sgd: SGD, tolerance: float = 1e-9) -> float:
    """Where the mean of any stationary linear method begins to diverge, as `noise_max_lr`."""
    return _on_few_modes(problem, sgd, lambda some, tried: unless(mean_is_stable(some, tried)), tolerance)


def _on_few_modes(
    problem: QuadraticProblem, sgd: SGD, excess: Callable[[QuadraticProblem, SGD], float], tolerance: float
) -> float:
    def found_on(some: QuadraticProblem, share: float = 0.25) -> float:
        return critical_lr(sgd, lambda tried: excess(some, tried), share * tolerance)

    found = compression.agreed(problem, found_on, tolerance / 2)
    # Modes between those that were asked may diverge by themselves, as in a gap of a memory's region of stability.
    surely = 0 < found < math.inf and mean_is_stable(problem, replace(sgd, lr=(1 - tolerance) * found))
    return found if surely else found_on(problem, 1.0)


def critical_lr(sgd: SGD, excess: Callable[[SGD], float], tolerance: float = 1e-9, *, start: float = 1e-3) -> float:
    """The learning rate up to which `excess(sgd with that lr)` is negative, going up from `start`; infinite if always.

    `excess` may be infinite where no more is known than that it is not negative (see `unless`).
    """

    def at(lr: float) -> float:
        return excess(replace(sgd, lr=lr))

    low = start
    while (below := at(low)) >= 0:
        low *= 0.1
        if low < _LEAST:
            return 0.0
    high = 1.25 * low
    while (above := at(high)) < 0:
        low, below, high = high, above, (1.25 if high < 1e9 else 10.0) * high
        if high > _MOST:
            return math.inf
    while high - low > tolerance * high and not (math.isfinite(below) and math.isfinite(above)):
        middle = 0.5 * (low + high)
        value = at(middle)
        low, below, high, above = (middle, value, high, above) if value < 0 else (low, below, middle, value)
    if high - low <= tolerance * high:
        return low
    found = scipy.optimize.brentq(at, low, high, xtol=tolerance * low / 2)
    return found if at(found) < 0 else max(low, found - tolerance * low)


def unless(holds: bool) -> float:
    """An excess for `critical_lr` where only is known whether a criterion holds."""
    return -math.inf if holds else math.inf
