"""Learning-rate schedules for a run of T steps: the best piecewise-constant one, beside the usual forms.

All losses are exact for the spectral-diagonal regime, by its recurrence; gradients are the recurrence's adjoint. Optima
of many modes are those of few (`sgdsim.problem.compression`), their losses those of all, to a told error of 10⁻⁹.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import scipy.optimize

from sgdsim.algorithm import schedules
from sgdsim.algorithm.methods import EMA, Average, Tail
from sgdsim.algorithm.samplers import refuse_weights
from sgdsim.algorithm.schedules import Schedule
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, choice, integer, number
from sgdsim.common.shown import Shown
from sgdsim.problem import Problem, QuadraticProblem, compression
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import adjoint, compressed, contour, diagonal, pair_maps
from sgdsim.theory import _pieces, _search, stability

AVERAGES = ("ema", "tail")
_MOVED, _WORK = 4, 1e6  # pieces up to which cuts are moved; modes × steps × rounds of that, about
_Pieces = tuple[float, np.ndarray, np.ndarray]  # loss, first steps and rates of the pieces


@dataclass(frozen=True, eq=False, repr=False)
class Scheduled(Shown):
    """A schedule of the learning rate, the final loss with it, and the name of its form; `average`: that of the
    iterates whose loss it is, None for the last iterate."""

    name: str
    lr: Schedule | float
    loss: float
    average: Average | None = None


@of_quadratic
def final_loss(
    problem: QuadraticProblem, sgd: SGD, horizon: int, *, lr: np.ndarray | None = None, tau: float = 1.0
) -> tuple[float, np.ndarray, np.ndarray]:
    """L_T and its derivatives by every learning rate and every momentum, (T,) each.

    `lr`: (T,) in place of those of `sgd`. Heavy ball on the last iterate, with or without noisy labels; InputError for
    anything else.
    """
    total, by_lr, by_momentum = adjoint.final_loss(*_arguments(problem, sgd, horizon, lr, tau))
    scale = 2 * problem.normaliser
    return total / scale, by_lr / scale, by_momentum / scale


def _arguments(problem: QuadraticProblem, sgd: SGD, horizon: int, lr: np.ndarray | None, tau: float) -> tuple:
    """What the loops take; InputError for what they cannot follow."""
    horizon = integer("horizon", horizon, minimum=1)
    number("tau", tau, maximum=1.0)  # beyond 1 the closure's noise, and then its loss, may become negative
    sgd = problem.with_errors(sgd)
    refuse_weights(sgd.sampling)
    if not replace(sgd, label_noise=0.0).is_plain or not sgd.sampler.independent:
        raise InputError("horizon: expected heavy ball with independent batches and no average, got another algorithm")
    values = problem.values(sgd, 0, horizon)
    counts = problem.spectrum.counts
    return (
        problem.eigenvalues,
        counts,
        problem.coefficients**2,
        values.lr if lr is None else lr,
        values.momentum,
        values.noise,
        problem.label_source(sgd, values.batch_size),
        float(tau),
    )


@of_quadratic
def best_schedule(
    problem: QuadraticProblem, sgd: SGD, horizon: int, pieces: int = 12, *, tau: float = 1.0, start: float | None = None
) -> Scheduled:
    """The piecewise-constant learning rate with the least loss after `horizon` steps; momentum and batch size as in
    `sgd`, whose own lr is not looked at.

    Three ways to cut the run are tried, with pieces short at both ends, short at the end alone and of equal length;
    each piece has one step at least. L-BFGS on the logarithms, from `start`, from the best polynomial decay and from
    the best with a warm-up; then, with up to 4 pieces, cuts move one by one and rates follow, while that gains 10⁻⁴.
    A local minimum, and no more is proved: few pieces may be worse than a closed form, which has as many rates as
    steps. Raises InputError as `final_loss`.
    """
    pieces, thin = integer("pieces", pieces, minimum=1, maximum=horizon), compression.sketch(problem)
    limit = stability.max_lr(problem, replace(sgd, lr=1.0, label_noise=0.0), tau=tau) if sgd.is_constant else 1.0
    first = 0.5 * limit if start is None else number("start", start)
    forms = [
        cast(schedules.Schedule, best_of_form(form, problem, sgd, horizon, tau=tau).lr)
        for form in ("polynomial", "warmup-stable-decay")
    ]

    def value(lr: np.ndarray) -> float:
        return float(adjoint.loss_alone(*_arguments(thin, sgd, horizon, lr, tau))) / (2 * thin.normaliser)

    def over(starts: np.ndarray, guesses: list[np.ndarray]) -> _Pieces:
        loss, rates = _pieces.minimise(
            lambda lr: final_loss(thin, sgd, horizon, lr=lr, tau=tau)[:2], starts, horizon, guesses, limit
        )
        return loss, starts, rates

    def begun(starts: np.ndarray) -> _Pieces:
        middles = (np.append(starts[1:], horizon) + starts) // 2
        return over(starts, [np.full(pieces, first), *(np.maximum(form(middles), 1e-6 * limit) for form in forms)])

    cuts = _pieces.partitions(horizon, pieces)[: 3 if pieces > 1 else 1]
    found = sorted(map(begun, cuts), key=lambda optimum: optimum[0])

    def settled(optimum: _Pieces) -> _Pieces:
        for _ in range(rounds):
            before, starts, rates = optimum
            starts, rates = _pieces.moved(value, starts, rates, horizon)
            optimum = over(starts, [rates])
            if optimum[0] > before * (1 - 1e-4):
                break
        return optimum

    work = thin.n_modes * horizon
    rounds = int(np.clip(_WORK / work, 1, 20)) if pieces <= _MOVED else 0
    loss, starts, rates = min(map(settled, found if 10 * work < _WORK else found[:1]), key=lambda optimum: optimum[0])
    schedule = schedules.Piecewise(tuple(starts.tolist()), tuple(rates.tolist())) if pieces > 1 else float(rates[0])
    if thin is not problem:
        loss = float(np.exp(_log_loss(problem, replace(sgd, lr=schedule), horizon, tau)))
    return Scheduled(f"best of {pieces} pieces", schedule, loss)


# Each form by its peak rate, the horizon and up to two more numbers in (0, 1).
_FORMS: dict[str, Callable[..., Schedule | float]] = {
    "constant": lambda peak, horizon: peak,
    "cosine": lambda peak, horizon: schedules.WarmupCosine(peak, 0, horizon),
    "linear": lambda peak, horizon: schedules.Polynomial(peak, horizon, 1.0),
    "warmup-stable-decay": lambda peak, horizon, share, rise=0.0: schedules.WarmupStableDecay(
        peak, horizon, max(1, int(share * horizon)), int(rise * (1 - share) * horizon)
    ),
    "polynomial": lambda peak, horizon, share: schedules.Polynomial(peak, horizon, 3 * share),
    "power": lambda peak, horizon, share: schedules.Power(peak, share, max(1.0, 0.01 * horizon)),
}
FORMS = tuple(_FORMS)


def best_of_form(form: str, problem: Problem, sgd: SGD, horizon: int, *, tau: float = 1.0) -> Scheduled:
    """The best schedule of one of `FORMS`: its peak, and what else it has.

    "warmup-stable-decay" the shares of warm-up and decay, "polynomial" the δ of (1 − t/T)^δ ("linear": δ = 1), "power"
    the exponent of (1 + 100t/T)^−p; "cosine" begins at its peak.
    """
    problem, make = problem.quadratic_for(sgd), _FORMS[choice("form", form, FORMS)]
    limit = stability.max_lr(problem, replace(sgd, lr=1.0, label_noise=0.0), tau=tau) if sgd.is_constant else 1.0

    thin = compression.sketch(problem)

    def loss(peak: float, *shares: float) -> float:
        arguments = _arguments(thin, replace(sgd, lr=make(peak, horizon, *shares)), horizon, None, tau)
        with np.errstate(over="ignore", invalid="ignore"):
            value = adjoint.loss_alone(*arguments) / (2 * problem.normaliser)
        return _finite_log(float(value))

    def over_peak(*shares: float) -> tuple[float, float]:
        top = np.log(limit)
        log_peak, log_loss = _search.between(lambda log: loss(float(np.exp(log)), *shares), top - 8, top + 0.7, 1e-4)
        return log_loss, float(np.exp(log_peak))

    def over_share(first: tuple[float, ...]) -> tuple[float, ...]:
        share, _ = _search.between(lambda share: over_peak(*first, float(share))[0], 0.01, 0.99, 1e-2)
        return (*first, share)

    candidates: list[tuple[float, ...]] = [()]
    if form in ("warmup-stable-decay", "polynomial", "power"):
        candidates = [over_share(())]
    if form in ("polynomial", "power"):
        candidates.append((0.0,))  # a constant
    if form == "warmup-stable-decay":
        candidates.append(over_share(candidates[0]))
    optima = [(*over_peak(*shares), shares) for shares in candidates]
    _, peak, shares = min(optima, key=lambda optimum: optimum[0])
    schedule = make(peak, horizon, *shares)
    return Scheduled(form, schedule, float(np.exp(_log_loss(problem, replace(sgd, lr=schedule), horizon, tau))))


@of_quadratic
def compare(
    problem: QuadraticProblem,
    sgd: SGD,
    horizon: int,
    pieces: int = 12,
    *,
    tau: float = 1.0,
    averages: bool = False,
) -> list[Scheduled]:
    """The best of every form and of piecewise-constant schedules, by final loss, the least first.

    `averages`: also the best averages of the iterates of constant learning rates (`best_averaged`).
    """
    best = [best_of_form(form, problem, sgd, horizon, tau=tau) for form in FORMS]
    best.append(best_schedule(problem, sgd, horizon, pieces, tau=tau))
    if averages:
        best += [best_averaged(kind, problem, sgd, horizon, tau=tau) for kind in AVERAGES]
    return sorted(best, key=lambda scheduled: scheduled.loss)


def best_averaged(kind: str, problem: Problem, sgd: SGD, horizon: int, *, tau: float = 1.0) -> Scheduled:
    """The constant learning rate and the average of its iterates with the least loss after `horizon` steps.

    `kind`: "ema", with the best decay, or "tail", the mean from the best step on. Averages allow for larger rates than
    the last iterate. Nelder–Mead on (log lr, the average's own number). Raises InputError for another kind.
    """
    problem = problem.quadratic_for(sgd)
    choice("kind", kind, AVERAGES)
    sgd.pull(None)  # refuses weight decay
    tau, horizon = number("tau", tau, maximum=1.0), integer("horizon", horizon, minimum=1)
    limit = stability.max_lr(problem, replace(sgd, lr=1.0, label_noise=0.0, average=None), tau=tau)

    def made(point: np.ndarray) -> SGD:
        rate, own = float(np.exp(min(point[0], np.log(2 * limit)))), float(point[1])
        average = EMA(1 - float(np.exp(min(own, 0.0)))) if kind == "ema" else Tail(_start(own, horizon))
        return replace(sgd, lr=rate, average=average)

    def loss(on: QuadraticProblem, point: np.ndarray) -> float:
        return _log_loss(on, made(point), horizon, tau)

    thin = compression.sketch(problem)
    grid = [np.array([np.log(share * limit), own]) for share in (0.1, 0.5, 0.9) for own in _OWN[kind](horizon)]
    begin = min(grid, key=lambda point: loss(thin, point))
    simplex = begin + np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.6 if kind == "ema" else 0.15]])
    point = scipy.optimize.minimize(
        lambda point: loss(thin, point),
        begin,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-7, "maxfev": 120},
    ).x
    best = made(point)
    return Scheduled(kind, best.lr, float(np.exp(loss(problem, point))), best.average)


# Where to begin, by kind: log(1 − decay), or the share of the run before the tail.
_OWN: dict[str, Callable[[int], np.ndarray]] = {
    "ema": lambda horizon: np.linspace(np.log(0.5 / horizon), -0.5, 4),
    "tail": lambda horizon: np.array([0.3, 0.6, 0.9, 0.98]),
}


def _start(share: float, horizon: int) -> int:
    return int(np.clip(round(share * horizon), 0, horizon))


@of_quadratic
def best_constant(
    problem: QuadraticProblem,
    sgd: SGD,
    horizon: int,
    *,
    tau: float = 1.0,
    heard: Callable[[], object] = lambda: None,
) -> tuple[SGD, float]:
    """The constant learning rate (and momentum, where the method takes one) with the least loss after `horizon` steps.

    For any stationary method, with noisy labels and averages: by the contour, or by stepping the spectral-diagonal
    regime where that is cheaper, on few modes to find the basin; `heard` is called after each setting. Returns the
    algorithm with these values, and its loss on the whole spectrum. With weight decay `problem` is the one that
    `Problem.quadratic_for` gives; where that has an origin, which every mode sees by itself, all are stepped.
    """
    horizon, tau = integer("horizon", horizon, minimum=1), number("tau", tau, maximum=1.0)
    thin = compression.sketch(problem) if problem.origin is None else problem

    def over_lr(momentum: float) -> tuple[float, float]:
        unscaled = replace(sgd, lr=1.0, momentum=momentum)
        top = np.log(stability.max_lr(thin, replace(unscaled, label_noise=0.0, average=None), tau=tau))
        # With noisy labels the best rate falls like 1/horizon.
        reach = max(6.0, np.log(horizon) + 2)
        rates = np.linspace(top - reach, top, 1 + round(2 * reach))[:-1]

        def loss(rate: float) -> float:
            log = _log_loss(thin, replace(unscaled, lr=float(np.exp(rate))), horizon, tau)
            heard()
            return log

        log_lr, log_loss = _search.near_grid(loss, rates, 1e-3, ends=(rates[0], top))
        return log_loss, float(np.exp(log_lr))

    momentum = 0.0
    if sgd.method.uses_momentum:
        grid = [-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.8, 0.9, 0.97, 0.99, 0.997, 0.999]
        momentum, _ = _search.near_grid(lambda beta: over_lr(beta)[0], grid, 1e-2)
    _, rate = over_lr(momentum)
    best = replace(sgd, lr=rate, momentum=momentum)
    return best, float(np.exp(_log_loss(problem, best, horizon, tau)))


def _log_loss(problem: QuadraticProblem, sgd: SGD, horizon: int, tau: float) -> float:
    """log of the spectral-diagonal loss after `horizon` steps; that of `UNSTABLE` where it diverges."""

    def found(modes: QuadraticProblem, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_contour = pair_maps.is_stationary(sgd) and modes.origin is None
        if by_contour and contour.is_cheaper(modes.spectrum.n_modes, sgd, at):
            known = contour.loss_curve(modes, sgd, at, tau=tau, compress=False)
            return known.log_loss, known.error
        return diagonal.log_losses(modes, sgd, at, tau)

    log, _ = compressed.log_loss(problem, horizon, found)
    return log if -np.inf < log < np.log(_pieces.UNSTABLE) else float(np.log(_pieces.UNSTABLE))


def _finite_log(loss: float) -> float:
    return float(np.log(loss if 0 < loss < _pieces.UNSTABLE else _pieces.UNSTABLE))
