"""The best learning rate and momentum inside the region that is exactly stable, and how far the closure errs there.

`sgdsim.theory.optimal` knows the spectrum alone. In an eigenbasis that is localised its optimum can lie far beyond the
exact threshold, and near the threshold the loss is larger than the closure says, as batch noise is amplified by
1/(1 − ρ(M)) in the exact average (`sgdsim.theory.renewal`) and by 1/(1 − Ũ(1)) in the closure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import contour, exact
from sgdsim.theory import optimal, stability
from sgdsim.theory.generating import noise_propagator_at_one
from sgdsim.theory.renewal import Renewal, mode_noise
from sgdsim.theory.verdicts import Verdict, verdict

AVERAGED_UP_TO = 300  # points N up to which the exact average is worked out beside an answer: seconds
MOMENTA = 1 - np.geomspace(1.9, 1e-3, 41)
_KNOTS = np.array([-0.9, -0.6, -0.3, 0.0, 0.5, 0.9, 0.99, 0.999])  # whose thresholds are worked out
FRACTIONS = np.append(np.linspace(0.02, 0.94, 24), [0.96, 0.98])  # of the largest stable learning rate
_GOOD = 0.1  # relative error of a loss that asks for no other setting
_LOOSE = 1e-3  # relative tolerance of these thresholds


@dataclass(frozen=True)
class ClosureError:
    """How far the exact average is from the closure's loss: `relative` is exact/closure − 1, None where it is not
    known. `loss`: the exact one, where it was worked out; else it is the amplification of noise that is compared."""

    relative: float | None
    loss: float | None = None


@dataclass(frozen=True)
class Trusted:
    """What can be recommended.

    `best`: its lr and momentum are exactly stable (`stable`) wherever that can be known. `closure`: the closure's own
    optimum, perhaps the same. `error`, `plain_error`: of the closure at `best`, and without momentum.
    """

    best: optimal.Optimum
    closure: optimal.Optimum
    stable: Verdict
    error: ClosureError
    plain_error: ClosureError

    @property
    def gain(self) -> float | None:
        """What momentum gains over the best run without: by the exact average where both are known, else by the
        closure; None where its own error is larger than that."""
        if self.error.loss is not None and self.plain_error.loss is not None:
            return 1 - self.error.loss / self.plain_error.loss
        errors = [abs(e.relative) for e in (self.error, self.plain_error) if e.relative is not None]
        if not self.best.plain_loss > 0 or (errors and self.best.gain <= max(errors)):
            return None
        return self.best.gain


@of_quadratic
def trusted(problem: QuadraticProblem, sgd: SGD, horizon: int, tau: float = 1.0) -> Trusted:
    """The best learning rate and momentum of heavy ball after `horizon` steps, as far as it can be known.

    The closure's optimum where it is exactly stable and the exact average is within 10% of its loss; else the better
    one of that and `best`. Up to N = 300 losses are compared with the exact average itself, which also decides between
    momentum and none. `sgd` says batches. Raises InputError as `sgdsim.theory.optimal.best`.
    """
    noise = problem.noise(sgd)
    closure = optimal.best(problem, noise=noise, horizon=horizon, tau=tau)
    averaged = problem.has_basis and problem.n <= AVERAGED_UP_TO and closure.loss > 0 and not sgd.is_one_pass

    def judged(found: optimal.Optimum) -> Trusted:
        at, plain = replace(sgd, lr=found.lr, momentum=found.momentum), replace(sgd, lr=found.plain_lr, momentum=0.0)
        stable = verdict(problem, at)
        error = closure_error(problem, at, horizon, found.loss, averaged=averaged and stable.stable is not False)
        beside = (
            error
            if found.momentum == 0
            else closure_error(
                problem,
                plain,
                horizon,
                found.plain_loss,
                averaged=averaged and verdict(problem, plain).stable is not False,
            )
        )
        return Trusted(found, closure, stable, error, beside)

    answer = judged(closure)
    unsure = answer.stable.stable is False or (answer.error.relative is not None and abs(answer.error.relative) > _GOOD)
    if unsure and problem.has_basis and problem.n <= stability.EXACT_IN_TABLES:
        other = judged(best(Region(problem, sgd, horizon, tau), closure))
        if answer.stable.stable is False or (other.error.loss or math.inf) < (answer.error.loss or math.inf):
            answer = other
    if answer.gain is not None and answer.gain < 0:
        found = answer.best
        limit = stability.max_lr(problem, replace(sgd, lr=1.0, momentum=0.0))
        plain = replace(found, lr=found.plain_lr, momentum=0.0, loss=found.plain_loss, max_lr=limit)
        answer = replace(
            answer, best=plain, error=answer.plain_error, stable=verdict(problem, replace(sgd, lr=plain.lr))
        )
    return answer


def best(region: Region, found: optimal.Optimum) -> optimal.Optimum:
    """The best setting of heavy ball that is exactly stable, where `found`, the closure's optimum, is not.

    On a grid of 41 momenta and 26 fractions of the exact threshold the least that `Region.losses` expects. `loss` is
    the closure's, `max_lr` the exact threshold.
    """
    settings = []
    for momenta in (MOMENTA, np.zeros(1)):
        rates, log_loss, judged = region.losses(momenta[:, None], FRACTIONS)
        at = np.unravel_index(np.nanargmin(judged), judged.shape)
        settings.append((float(judged[at]), float(rates[at]), float(momenta[at[0]]), math.exp(log_loss[at])))
    _, plain_lr, _, plain_loss = settings[1]
    _, lr, momentum, loss = min(settings)
    return replace(
        found,
        lr=lr,
        momentum=momentum,
        max_lr=float(region.limit(np.array([momentum]))[0]),
        loss=loss,
        plain_lr=plain_lr,
        plain_loss=plain_loss,
    )


class Region:
    """The learning rates and momenta that are exactly stable, and the loss to expect there; `sgd` says batches.

    Raises InputError for a problem without eigenvectors.
    """

    def __init__(self, problem: QuadraticProblem, sgd: SGD, horizon: int, tau: float) -> None:
        self.thin, self.horizon, self.tau, self.noise = compression.sketch(problem), horizon, tau, problem.noise(sgd)
        work, effective = Renewal(problem), []
        for momentum in _KNOTS:
            at, top = replace(sgd, momentum=float(momentum)), 2 * (1 + momentum)
            start = float(stability.diagonal_max_lr(problem, momentum=momentum, noise=self.noise))
            effective.append(work.max_lr(at, min(start, 0.9 * top), top, _LOOSE) / (1 - momentum))
        self._effective = np.log(effective[::-1])

    def limit(self, momenta: np.ndarray) -> np.ndarray:
        """The exact threshold: α/(1 − β) hardly changes, and is interpolated in log(1 − β)."""
        between = np.interp(np.log(1 - momenta), np.log(1 - _KNOTS[::-1]), self._effective)
        return np.minimum((1 - momenta) * np.exp(between), 2 * (1 + momenta))

    def losses(self, momenta: np.ndarray, fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At fractions of the threshold, in their broadcast shape: learning rate, log of the closure's loss, and log of
        it times (1 − Ũ(1))/(1 − fraction), about how much more the exact average amplifies batch noise."""
        lr = self.limit(momenta) * fractions
        known = contour.loss_at(self.thin, self.horizon, lr=lr, momentum=momenta, noise=self.noise, tau=self.tau)
        closure = noise_propagator_at_one(
            self.thin.eigenvalues, lr, momenta, self.noise, 1.0, self.thin.spectrum.counts
        )
        amplified = np.log(np.maximum((1 - closure) / (1 - fractions), 1.0))
        return lr, known.log_loss, known.log_loss + amplified


@of_quadratic
def closure_error(problem: QuadraticProblem, sgd: SGD, horizon: int, loss: float, *, averaged: bool) -> ClosureError:
    """How far the closure's `loss` after `horizon` steps is from the exact average, at a stable setting.

    `averaged`: work out the exact average itself. Otherwise, up to N = 2000, how much more it amplifies batch noise:
    most of the error where noise makes the loss, too much where the signal does. Unknown without eigenvectors.
    """
    if not problem.has_basis or not loss > 0 or sgd.is_one_pass:
        return ClosureError(None)
    if problem.noise(sgd) == 0:
        return ClosureError(0.0)
    if averaged:
        known = exact.losses(problem, sgd, np.array([horizon]), 1e-6)
        if known.error[0] < 0.01:
            return ClosureError(float(known.loss[0]) / loss - 1, float(known.loss[0]))
    if problem.n > stability.EXACT_IN_TABLES:
        return ClosureError(None)
    closure = float(mode_noise(problem, sgd).sum())
    work = Renewal(problem)
    radius = work.radius(work.pairs(sgd), 1e-6)
    return ClosureError((1 - closure) / (1 - radius) - 1 if radius < 1 else None)
