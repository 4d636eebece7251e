"""The exact average over batches at any time, without a closure: losses, and the best setting.

Exact at this N and in this eigenbasis, where `sgdsim.theory.optimal` and `generating` know the spectrum alone. The
mathematics, and the class whose losses these are, stand in `sgdsim.recurrence.exact`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.shown import Shown
from sgdsim.problem import QuadraticProblem
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import contour
from sgdsim.recurrence.all_pairs import Stepped
from sgdsim.recurrence.exact import Averaged, ExactLosses, follows
from sgdsim.recurrence.exact import losses as averaged_losses
from sgdsim.theory import _kriging, inside, optimal
from sgdsim.theory.verdicts import verdict

__all__ = ["MOST", "SETTINGS", "ExactLosses", "Searched", "best", "follows", "losses"]

MOST = 1000  # points N up to which the best setting is searched for
SETTINGS = 40  # whose exact loss is worked out for it, at most
_PLAIN = 14  # of them until the best one without momentum is left, at most
_WORTH = 2e-3  # relative gain below which a search ends
_DEVIATIONS = 2.5  # by which a loss that is not worked out may be lower than it seems
_NEAR = 0.3 * np.linspace(-1, 1, 21)  # around the best setting, in the coordinates of `_Search`
_BESIDE = 0.5 * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5], [0.0, -0.5]])  # of it: tried before a model is believed
_EDGE = 0.999  # of the largest stable learning rate
_STEPPED = 1e10  # N³ · steps up to which a loss that the contour does not tell is stepped


@of_quadratic
def losses(problem: QuadraticProblem, sgd: SGD, steps: np.ndarray | list[int], tolerance: float = 1e-9) -> ExactLosses:
    """Training and test loss after so many steps, averaged over all batch sequences.

    A late step costs what an early one does: some 0.1 s at N = 250, some seconds at N = 1000, where a decade of steps
    costs twice what one does.

    Parameters
    ----------
    steps : (T,) ascending whole numbers from 0 on.
    tolerance : relative; `error`, (T,), is what each training loss can be off by, more than that where a loss has
        fallen far. An unstable run's losses are right as well: they grow.

    Raises
    ------
    InputError : steps that are no such numbers; an algorithm that `follows` does not (heavy ball or Nesterov, with
        constant hyperparameters and independent batches of equally likely points, labels noisy or not); a problem
        without eigenvectors.
    """
    at, tolerance = np.asarray(steps, dtype=np.float64), number("tolerance", tolerance, minimum=1e-13, maximum=0.1)
    if (
        at.ndim != 1
        or not at.size
        or not np.isfinite(at).all()
        or (at % 1 != 0).any()
        or at[0] < 0
        or (np.diff(at) < 0).any()
    ):
        raise InputError(f"steps: expected ascending whole numbers from 0 on, got {steps}")
    return averaged_losses(problem, sgd, at, tolerance)


@dataclass(frozen=True, repr=False)
class Searched(Shown):
    """What `best` found: `trusted`, whose errors are exact; the number of `settings` whose exact loss was worked out;
    whether Ctrl-C ended it (`interrupted`), and these are the best so far; whether no better one was likely
    (`settled`), not the number of settings what ended it."""

    trusted: inside.Trusted
    settings: int
    interrupted: bool
    settled: bool = True


@of_quadratic
def best(
    problem: QuadraticProblem, sgd: SGD, horizon: int, tau: float = 1.0, heard: Callable[[], object] | None = None
) -> Searched:
    """The learning rate and momentum of heavy ball with the least exact average loss after `horizon` steps, among those
    that are exactly stable, and the best without momentum.

    The closure is corrected by what it missed at the settings tried so far (kriging), and the next one is where the
    loss may be least by that, until none may be 0.2% better and none beside the best is, or 40 were tried. On small
    problems a dense grid finds up to 1% less, where several basins compete. Never worse, by the exact loss, than the
    closure's own optimum where that is stable, than `inside.best`, or than the best without momentum. N = 100 takes
    seconds, N = 500 minutes.

    Parameters
    ----------
    sgd : says batches.
    tau : of the closure that is corrected.
    heard : called after each exact loss.

    Raises InputError for more than 1000 points, without eigenvectors, and for what `losses` does.
    """
    horizon = integer("horizon", horizon, minimum=1)
    if not problem.has_basis or not follows(sgd):
        raise InputError("exact: expected a problem with eigenvectors and independent batches of its points")
    if problem.n > MOST:
        raise InputError(f"exact: expected at most {MOST} training points to search with, got {problem.n}")
    noise = problem.noise(sgd)
    if not problem.coefficients.any():
        raise InputError("exact: expected an initial residual that is not zero")
    closure = optimal.best(problem, noise=noise, horizon=horizon, tau=tau)
    if noise == 0:  # the closure is exact
        return Searched(inside.trusted(problem, sgd, horizon, tau), 0, False)
    search, interrupted, settled = _Search(problem, sgd, horizon, tau, heard), False, False
    expected = inside.best(search.region, closure)
    try:
        search.try_setting(closure.plain_lr, 0.0)
        search.try_setting(expected.plain_lr, 0.0)
        if not search.tried:
            raise InputError(f"horizon: expected one at which the exact average has digits, got {horizon}")
        for start in (expected, closure):
            search.try_setting(start.lr, start.momentum)
        settled = search.refine(np.zeros(1), np.linspace(0.02, 0.995, 60), _PLAIN)
        settled &= horizon == 1 or search.refine(inside.MOMENTA, np.append(inside.FRACTIONS, [0.99, 0.998]), SETTINGS)
    except KeyboardInterrupt:
        if not search.tried:
            raise
        interrupted = True
    return Searched(search.answer(closure), len(search.tried), interrupted, settled and not interrupted)


@dataclass(frozen=True)
class _Tried:
    lr: float
    momentum: float
    point: np.ndarray  # logit of the fraction of the threshold, log(1 − β)
    missed: float  # log of the exact loss over the expected one
    log_loss: float


class _Search:
    def __init__(
        self, problem: QuadraticProblem, sgd: SGD, horizon: int, tau: float, heard: Callable[[], object] | None
    ) -> None:
        self.problem, self.sgd, self.horizon, self.tau, self.heard = problem, sgd, horizon, tau, heard
        self.region = inside.Region(problem, sgd, horizon, tau)
        self.tried: list[_Tried] = []

    def try_setting(self, lr: float, momentum: float) -> bool:
        """Work out its exact loss; False if it is not stable, or not known, or was tried before."""
        sgd = replace(self.sgd, lr=lr, momentum=momentum)
        if (
            any((each.lr, each.momentum) == (lr, momentum) for each in self.tried)
            or not verdict(self.problem, sgd).stable
        ):
            return False
        loss = self._loss(sgd)
        if not 0 < loss < math.inf:
            return False
        fraction = min(lr / float(self.region.limit(np.array([momentum]))[0]), _EDGE)
        point = np.array([_logit(fraction), math.log(1 - momentum)])
        expected = float(self._expected(point[None])[0])
        self.tried.append(_Tried(lr, momentum, point, math.log(loss) - expected, math.log(loss)))
        if self.heard is not None:
            self.heard()
        return True

    def _loss(self, sgd: SGD) -> float:
        return sum(self._loss_of(output, sgd) for output in self.problem.by_output())

    def _loss_of(self, problem: QuadraticProblem, sgd: SGD) -> float:
        averaged = Averaged(problem, sgd)
        known = averaged.losses(np.array([self.horizon]), 1e-5)
        if known.error[0] > _WORTH / 2 and float(self.problem.n) ** 3 * self.horizon < _STEPPED:
            return Stepped(averaged).to(self.horizon)[0]
        return float(known.loss[0]) if known.error[0] < 0.05 else math.nan

    def _expected(self, points: np.ndarray) -> np.ndarray:
        """log of the loss without what the closure missed, (m,), at points (m, 2)."""
        return self.region.losses(1 - np.exp(points[:, 1]), 1 / (1 + np.exp(-points[:, 0])))[2]

    def refine(self, momenta: np.ndarray, fractions: np.ndarray, most: int) -> bool:
        """Try settings among these, and near the best one, until `most` were tried in all (then False)."""
        plain = momenta.size == 1
        grid = np.stack(np.broadcast_arrays(_logit(fractions), np.log(1 - momenta)[:, None]), -1).reshape(-1, 2)
        expected, refused = self._expected(grid), list[np.ndarray]()
        while len(self.tried) + len(refused) < most:
            least = self.least(plain)
            near = least.point + np.stack(np.meshgrid(_NEAR, [0.0] if plain else _NEAR), -1).reshape(-1, 2)
            near = near[_allowed(near)]
            points, known = np.concatenate([grid, near]), np.array([each.point for each in self.tried])
            missed, unsure = _kriging.between(known, np.array([each.missed for each in self.tried]), points)
            hoped = np.append(expected, self._expected(near)) + missed - _DEVIATIONS * unsure
            for point in refused:
                hoped[np.abs(points - point).max(1) < 1e-6] = math.inf
            k = int(np.argmin(np.where(np.isnan(hoped), math.inf, hoped)))
            point = points[k]
            if hoped[k] > least.log_loss - _WORTH:
                beside = _untried(least.point, np.array([*known, *refused]), _BESIDE[: 2 if plain else 4])
                if not len(beside):
                    return True
                point = beside[0]
            momentum = 1 - math.exp(point[1])
            limit = float(self.region.limit(np.array([momentum]))[0])
            if not self.try_setting(limit / (1 + math.exp(-point[0])), momentum):
                refused.append(point)
        return False

    def least(self, plain: bool) -> _Tried:
        """The best setting so far; `plain`: without momentum."""
        return min((each for each in self.tried if not plain or each.momentum == 0), key=lambda each: each.log_loss)

    def answer(self, closure: optimal.Optimum) -> inside.Trusted:
        """The best of what was tried, with the closure's losses beside the exact ones."""
        best, plain = self.least(False), self.least(True)
        losses = contour.loss_at(
            self.problem,
            self.horizon,
            lr=np.array([best.lr, plain.lr]),
            momentum=np.array([best.momentum, 0.0]),
            noise=self.region.noise,
            tau=self.tau,
        ).loss
        exact = [math.exp(each.log_loss) for each in (best, plain)]
        errors = [inside.ClosureError(e / float(c) - 1, e) for e, c in zip(exact, losses, strict=True)]
        found = replace(
            closure,
            lr=best.lr,
            momentum=best.momentum,
            loss=float(losses[0]),
            plain_lr=plain.lr,
            plain_loss=float(losses[1]),
            max_lr=float(self.region.limit(np.array([best.momentum]))[0]),
        )
        stable = verdict(self.problem, replace(self.sgd, lr=best.lr, momentum=best.momentum))
        return inside.Trusted(found, closure, stable, *errors)


def _allowed(points: np.ndarray) -> np.ndarray:
    return (points[:, 0] < _logit(_EDGE)) & (points[:, 1] < math.log(1.97))


def _untried(point: np.ndarray, known: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """The allowed points of `point` + `beside` in whose direction none is known between it and twice as far."""
    away = known - point
    left = []
    for step in beside:
        along = away @ step / (step @ step)
        across = np.abs(away - along[:, None] * step).max(1)
        left.append(not ((along > 0.1) & (along < 2) & (across < 0.2)).any())
    points = point + beside
    return points[np.array(left) & _allowed(points)]


def _logit(fraction: np.ndarray | float) -> np.ndarray:
    return np.log(fraction / (1 - np.asarray(fraction)))
