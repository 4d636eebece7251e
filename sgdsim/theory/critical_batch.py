"""How learning rates and steps depend on the batch size, and from where on larger batches bring little."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.common.checks import InputError, number
from sgdsim.common.shown import Shown
from sgdsim.problem import QuadraticProblem
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import contour, doubt
from sgdsim.theory import stability

LATEST = 10**12  # steps in which a target has to be reached
_LOOKED_AT = 2000  # steps of oscillating losses
_GRIDS = 4  # of learning rates, the last to 1e-5 of the largest stable one


def batch_with(noise: float, n: float, sampling: str = WITHOUT_REPLACEMENT) -> float:
    """The batch size b, a real number, with sampling noise γ: `N/(1 + γ(N − 1))` without replacement, else 1/γ.

    >>> from sgdsim.theory.critical_batch import batch_with
    >>> batch_with(0.375, 5), batch_with(0.5, 5, "with-replacement")
    (2.0, 2.0)
    """
    if sampling == WITHOUT_REPLACEMENT and math.isfinite(n):
        return n / (1 + noise * (n - 1))
    return 1 / noise if noise > 0 else math.inf


@of_quadratic
def half_limit_noise(problem: QuadraticProblem, momentum: float = 0.0, tau: float = 1.0) -> float | None:
    """γ (of modes, `problem.noise`) at which the largest stable learning rate is half of the one without noise, 1 + β:
    where it bends, over b, by spectral-diagonal theory. None where it is no less at b = 1, γ = `problem.share`."""

    def above(log_noise: float) -> float:
        found = stability.diagonal_max_lr(problem, momentum=momentum, noise=math.exp(log_noise), tau=tau)
        return float(found) - (1 + momentum)

    most = math.log(problem.share)
    if above(most) >= 0:
        return None
    least = next(at for at in most - np.arange(1.0, 700.0, 4.0) if above(at) > 0)
    return math.exp(scipy.optimize.brentq(above, least, most, xtol=1e-9))


@dataclass(frozen=True, repr=False)
class Fewest(Shown):
    """The fewest steps to a target at one batch size, and the learning rate that takes them. None where it is not
    reached, or not known; `reason` says why."""

    steps: int | None
    lr: float | None
    reason: str = ""


@of_quadratic
def fewest_steps(
    problem: QuadraticProblem, reach: float, *, noise: float, momentum: float = 0.0, tau: float = 1.0
) -> Fewest:
    """The least T for which some constant, stable learning rate has a loss of `reach` times the initial one after T
    steps, by spectral-diagonal theory at sampling noise γ (of modes).

    T is looked for by doubling from 1 and then by bisection of the least loss over learning rates, which falls with T.
    With momentum losses may oscillate: then every earlier step up to T = 2000 is looked at, on some 100 rates;
    beyond, a T that is a little earlier may be missed.

    Raises
    ------
    InputError : `reach` outside (0, 1), noise outside [0, 1], τ > 1, |β| ≥ 1.
    """
    share = number("reach", reach, minimum=0.0, maximum=1.0, open_ends=True)
    beta = number("momentum", momentum, minimum=-1.0, maximum=1.0, open_ends=True)
    if problem.population is not None and problem.population.floor:
        return Fewest(None, None, "not known: residual risk and noisy labels hold every rate at a floor of its own")
    if not problem.initial_loss > 0:
        return Fewest(None, None, "not known: the initial loss is 0")
    left = problem.still / float(problem.coefficients @ problem.coefficients)
    if left >= share:
        return Fewest(None, None, f"never: {left:.3g} of the initial loss cannot be removed")
    limit = float(stability.diagonal_max_lr(problem, momentum=beta, noise=noise, tau=number("tau", tau, maximum=1.0)))
    aim = math.log(share) + math.log(problem.initial_loss)
    rates = limit * np.append(np.geomspace(1e-5, 5e-3, 6), np.linspace(0.01, 1 - 1e-9, 100 if beta else 30))

    def best(horizon: int) -> tuple[float, float]:
        return _best(lambda lr: _at(problem, horizon, lr, beta, noise, tau).log_loss, rates)

    steps = _bisected(lambda horizon: best(horizon)[1] <= aim)
    if steps is None:
        return Fewest(None, None, f"not in {LATEST:.0e} steps")
    if beta and 1 < steps <= _LOOKED_AT and (sooner := _sooner(problem, steps, rates, aim, beta, noise, tau)):
        steps = sooner
        while steps > 1 and best(steps - 1)[1] <= aim:
            steps -= 1
    return _known(problem, steps, best(steps)[0], beta, noise, tau)


def _bisected(reached: Callable[[int], bool]) -> int | None:
    """The least step that is `reached`, by doubling from 1 and bisection; None beyond `LATEST`."""
    low, high = 0, 1
    while not reached(high):
        low, high = high, 2 * high
        if high > LATEST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _best(log_loss: Callable[[np.ndarray], np.ndarray], rates: np.ndarray) -> tuple[float, float]:
    """The learning rate with the least log loss, on a grid and on finer ones between the neighbours of its best point,
    and that. Many rates at once, so that few modes may stand for many (`sgdsim.recurrence.compressed`)."""
    found = (math.nan, math.inf)
    for _ in range(_GRIDS):
        seen = log_loss(rates)
        at = int(np.argmin(np.where(np.isnan(seen), np.inf, seen)))
        found = min(found, (float(rates[at]), float(seen[at])), key=lambda known: known[1])
        rates = np.linspace(rates[max(at - 1, 0)], rates[min(at + 1, rates.size - 1)], 25)
    return found


def _sooner(
    problem: QuadraticProblem, steps: int, rates: np.ndarray, aim: float, beta: float, noise: float, tau: float
) -> int | None:
    """The first of the steps before these at which one of the learning rates reaches `aim`; None: at none."""
    times = np.arange(1, steps)
    losses = contour.loss_at(problem, times, lr=rates, momentum=beta, noise=noise, tau=tau).log_loss
    reached = (losses <= aim).any(0)
    return int(times[reached.argmax()]) if reached.any() else None


def _at(
    problem: QuadraticProblem, steps: int, lr: np.ndarray | float, beta: np.ndarray | float, noise: float, tau: float
) -> contour.LossValues:
    return contour.loss_at(problem, steps, lr=lr, momentum=beta, noise=noise, tau=tau)


def _known(problem: QuadraticProblem, steps: int, lr: float, beta: float, noise: float, tau: float) -> Fewest:
    """The answer, or that the loss there is not known well enough for one."""
    there = _at(problem, steps, lr, beta, noise, tau)
    error = doubt.of(problem, there.loss, lambda other: _at(other, steps, lr, beta, noise, tau))
    if not float(there.error) + float(error) <= doubt.KNOWN:
        return Fewest(None, None, f"not known: the loss after {steps} steps may be off by more than {doubt.KNOWN:.0%}")
    return Fewest(steps, lr)


@dataclass(frozen=True, repr=False)
class Tradeoff(Shown):
    """Steps against samples: `S = S_min + E_min γ`, with γ = 1/b `(S/S_min − 1)(E/E_min − 1) = 1` for E = Sb samples
    (McCandlish et al., eq. 2.11).

    `least_steps`: S_min, as b → ∞. `least_samples`: E_min, as b → 0. `critical_noise`: `S_min/E_min`, the γ of the
    critical batch, at which steps are twice S_min; None where one of them is 0. `misfit`: the largest relative
    deviation of the steps from this relation: where it is not small, it does not hold.
    """

    least_steps: float
    least_samples: float
    critical_noise: float | None
    misfit: float


def tradeoff(noise: np.ndarray, steps: np.ndarray) -> Tradeoff | None:
    """The relation fitted to steps (m,) at sampling noises γ (m,), by least squares of relative deviations with S_min,
    E_min ≥ 0; None for fewer than three different γ. InputError for steps that are not positive."""
    noise, steps = np.asarray(noise, dtype=np.float64), np.asarray(steps, dtype=np.float64)
    if (steps <= 0).any() or steps.shape != noise.shape:
        raise InputError("steps: expected a positive number for each noise")
    if np.unique(noise).size < 3:
        return None
    rows = np.stack([1 / steps, noise / steps], axis=1)
    scale = rows.max(0)
    parts, _ = scipy.optimize.nnls(rows / scale, np.ones(steps.size))
    fixed, slope = np.where(parts > 1e-9, parts, 0.0) / scale  # less of the steps is rounding
    critical = float(fixed / slope) if fixed > 0 and slope > 0 else None
    return Tradeoff(float(fixed), float(slope), critical, float(np.abs(rows @ [fixed, slope] - 1).max()))
