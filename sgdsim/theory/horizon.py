"""Learning-rate schedules for a run of T steps: the best piecewise-constant one, beside the usual forms.

All losses are exact for the spectral-diagonal regime, by its recurrence; gradients are the recurrence's adjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize

from sgdsim import schedules
from sgdsim.checks import InputError, integer, number
from sgdsim.methods import EMA
from sgdsim.problem import QuadraticProblem
from sgdsim.sampling import RESHUFFLE
from sgdsim.schedules import Schedule
from sgdsim.sgd import SGD
from sgdsim.theory import _adjoint, stability

_UNSTABLE = 1e100  # loss that stands for infinity in an optimisation


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A schedule of the learning rate, the final loss with it, and the name of its form."""

    name: str
    lr: Schedule | float
    loss: float


def final_loss(
    problem: QuadraticProblem, sgd: SGD, horizon: int, *, lr: np.ndarray | None = None, tau: float = 1.0
) -> tuple[float, np.ndarray, np.ndarray]:
    """L_T and its derivatives by every learning rate and every momentum, (T,) each.

    `lr`: (T,) in place of those of `sgd`. Heavy ball on the last iterate, with or without noisy labels; InputError for
    anything else.
    """
    horizon = integer("horizon", horizon, minimum=1)
    if not replace(sgd, label_noise=0.0).is_plain or sgd.sampling == RESHUFFLE:
        raise InputError("horizon: expected heavy ball with independent batches and no average, got another algorithm")
    values = sgd.values(problem.n, 0, horizon)
    counts = np.ones(problem.eigenvalues.size) if problem.multiplicity is None else problem.multiplicity
    total, by_lr, by_momentum = _adjoint.final_loss(
        problem.eigenvalues, counts, problem.coefficients**2, values.lr if lr is None else lr, values.momentum,
        values.noise, sgd.label_source(problem.n, values.batch_size), float(tau),
    )  # fmt: skip
    scale = 2 * problem.n
    return total / scale, by_lr / scale, by_momentum / scale


def best_schedule(
    problem: QuadraticProblem, sgd: SGD, horizon: int, pieces: int = 12, *, tau: float = 1.0, start: float | None = None
) -> Scheduled:
    """The piecewise-constant learning rate with the least loss after `horizon` steps; momentum and batch size as in
    `sgd`, whose own lr is not looked at.

    Pieces are short at both ends (where rates change most), each at least one step. L-BFGS on the logarithms, from
    `start` and from the best polynomial decay; the result is a local minimum, as good as the closed forms at least up
    to their piecewise approximation. Raises InputError as `final_loss`.
    """
    pieces = integer("pieces", pieces, minimum=1, maximum=horizon)
    starts = _breaks(horizon, pieces)
    owner = np.searchsorted(starts, np.arange(horizon), side="right") - 1
    limit = stability.max_lr(problem, replace(sgd, lr=1.0, label_noise=0.0), tau=tau) if sgd.is_constant else 1.0

    def cost(logs: np.ndarray) -> tuple[float, np.ndarray]:
        rates = np.exp(logs)
        with np.errstate(over="ignore", invalid="ignore"):
            loss, by_lr, _ = final_loss(problem, sgd, horizon, lr=rates[owner], tau=tau)
        if not np.isfinite(loss) or loss > _UNSTABLE:
            return np.log(_UNSTABLE), np.zeros(pieces)
        return float(np.log(loss)), np.bincount(owner, by_lr, pieces) * rates / loss

    first = 0.5 * limit if start is None else number("start", start)
    decayed = best_of_form("polynomial", problem, sgd, horizon, tau=tau).lr
    middles = (np.append(starts[1:], horizon) + starts) // 2
    found = None
    for guess in (np.full(pieces, first), np.maximum(decayed(middles), 1e-6 * limit)):
        one = scipy.optimize.minimize(
            cost, np.log(guess), jac=True, method="L-BFGS-B", bounds=[(np.log(limit) - 25, np.log(limit) + 3)] * pieces,
            options={"maxiter": 500, "ftol": 1e-12},
        )  # fmt: skip
        found = one if found is None or one.fun < found.fun else found
    rates = tuple(float(v) for v in np.exp(found.x))
    schedule = schedules.Piecewise(tuple(int(v) for v in starts), rates) if pieces > 1 else rates[0]
    return Scheduled(f"best of {pieces} pieces", schedule, float(np.exp(found.fun)))


def _breaks(horizon: int, pieces: int) -> np.ndarray:
    """First steps of the pieces: at quantiles of the arcsine law, and different."""
    ends = horizon * 0.5 * (1 - np.cos(np.pi * np.arange(pieces) / pieces))
    starts = np.maximum(ends.astype(int), np.arange(pieces))
    return np.minimum(starts, horizon - pieces + np.arange(pieces))


# Each form by its peak rate, the horizon and one more number in (0, 1).
_FORMS: dict[str, Callable[[float, int, float], Schedule | float]] = {
    "constant": lambda peak, horizon, _: peak,
    "cosine": lambda peak, horizon, _: schedules.WarmupCosine(peak, 0, horizon),
    "warmup-stable-decay": lambda peak, horizon, share: schedules.WarmupStableDecay(
        peak, horizon, max(1, int(share * horizon))
    ),
    "polynomial": lambda peak, horizon, share: schedules.Polynomial(peak, horizon, 3 * share),
    "power": lambda peak, horizon, share: schedules.Power(peak, share, max(1.0, 0.01 * horizon)),
}
FORMS = tuple(_FORMS)


def best_of_form(form: str, problem: QuadraticProblem, sgd: SGD, horizon: int, *, tau: float = 1.0) -> Scheduled:
    """The best schedule of one of `FORMS`: its peak, and the share of decay or the exponent where it has one."""
    make = _FORMS[form]
    limit = stability.max_lr(problem, replace(sgd, lr=1.0, label_noise=0.0), tau=tau) if sgd.is_constant else 1.0

    def loss(peak: float, share: float) -> float:
        schedule = make(peak, horizon, share)
        with np.errstate(over="ignore", invalid="ignore"):
            value = final_loss(problem, replace(sgd, lr=schedule), horizon, tau=tau)[0]
        return float(np.log(value)) if np.isfinite(value) and value < _UNSTABLE else float(np.log(_UNSTABLE))

    def over_peak(share: float) -> tuple[float, float]:
        one = scipy.optimize.minimize_scalar(
            lambda log: loss(float(np.exp(log)), share), bounds=(np.log(limit) - 8, np.log(limit) + 0.7),
            method="bounded", options={"xatol": 1e-4},
        )  # fmt: skip
        return float(one.fun), float(np.exp(one.x))

    share = 0.5
    if form in ("warmup-stable-decay", "polynomial", "power"):
        outer = scipy.optimize.minimize_scalar(
            lambda s: over_peak(float(s))[0], bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-2}
        )
        share = float(outer.x)
    value, peak = over_peak(share)
    return Scheduled(form, make(peak, horizon, share), float(np.exp(value)))


def compare(
    problem: QuadraticProblem, sgd: SGD, horizon: int, pieces: int = 12, *, tau: float = 1.0
) -> list[Scheduled]:
    """The best of every form and of piecewise-constant schedules, by final loss, the least first."""
    forms = [best_of_form(form, problem, sgd, horizon, tau=tau) for form in FORMS]
    return sorted([*forms, best_schedule(problem, sgd, horizon, pieces, tau=tau)], key=lambda one: one.loss)


def best_average(problem: QuadraticProblem, sgd: SGD, horizon: int, *, tau: float = 1.0) -> Scheduled:
    """The decay of an exponential average with the least loss after `horizon` steps; `lr` of the answer is `sgd.lr`,
    its name the average's text form (`none` where no average is better). From 1 − decay = 1 down to 0.1/horizon."""
    from sgdsim.regimes import SpectralDiagonal

    regime = SpectralDiagonal(tau)

    def loss(log: float) -> float:
        one = replace(sgd, average=EMA(1 - float(np.exp(log))))
        state = regime.init(problem, one, replicates=1, seed=0, test=False)
        regime.advance(state, 0, horizon)
        return float(np.log(regime.observe(state, ("loss",))["loss"][0]))

    lowest = float(np.log(0.1 / horizon))
    grid = np.linspace(lowest, 0.0, 9)
    values = [loss(log) for log in grid]
    at = int(np.argmin(values))
    bounds = (grid[max(at - 1, 0)], grid[min(at + 1, grid.size - 1)])
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    log, value = (found.x, found.fun) if found.fun < values[at] else (grid[at], values[at])
    name = "none" if log == 0 else f"ema:{1 - float(np.exp(log)):.6g}"
    return Scheduled(name, sgd.lr, float(np.exp(value)))


def best_constant(problem: QuadraticProblem, sgd: SGD, horizon: int, *, tau: float = 1.0) -> tuple[SGD, float]:
    """The constant learning rate (and momentum, where the method takes one) with the least loss after `horizon` steps.

    For any stationary method, with noisy labels and averages: by stepping the spectral-diagonal regime, on a thinned
    spectrum to find the basin. Returns the algorithm with these values, and its loss on the whole spectrum.
    """
    from sgdsim.regimes import SpectralDiagonal
    from sgdsim.theory import optimal

    horizon, regime = integer("horizon", horizon, minimum=1), SpectralDiagonal(tau)
    thin = optimal.sketch(problem)

    def loss(on: QuadraticProblem, one: SGD) -> float:
        state = regime.init(on, one, replicates=1, seed=0, test=False)
        with np.errstate(over="ignore", invalid="ignore"):
            regime.advance(state, 0, horizon)
        value = float(regime.observe(state, ("loss",))["loss"][0])
        return float(np.log(value)) if 0 < value < _UNSTABLE else float(np.log(_UNSTABLE))

    def over_lr(momentum: float) -> tuple[float, float]:
        one = replace(sgd, lr=1.0, momentum=momentum)
        top = np.log(stability.max_lr(thin, replace(one, label_noise=0.0, average=None), tau=tau))
        rates = np.linspace(top - 6, top, 13)[:-1]
        at = int(np.argmin([loss(thin, replace(one, lr=float(np.exp(r)))) for r in rates]))
        found = scipy.optimize.minimize_scalar(
            lambda r: loss(thin, replace(one, lr=float(np.exp(r)))), method="bounded",
            bounds=(rates[max(at - 1, 0)], rates[at + 1] if at + 1 < rates.size else top), options={"xatol": 1e-3},
        )  # fmt: skip
        return float(found.fun), float(np.exp(found.x))

    momentum = 0.0
    if sgd.method.uses_momentum:
        grid = [-0.6, -0.3, 0.0, 0.3, 0.6, 0.8, 0.9, 0.97]
        at = int(np.argmin([over_lr(beta)[0] for beta in grid]))
        found = scipy.optimize.minimize_scalar(
            lambda beta: over_lr(beta)[0], method="bounded", options={"xatol": 1e-2},
            bounds=(grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]),
        )  # fmt: skip
        momentum = float(found.x)
    _, rate = over_lr(momentum)
    found = replace(sgd, lr=rate, momentum=momentum)
    return found, float(np.exp(loss(problem, found)))
