"""The best learning rate and momentum of heavy ball for a batch size and a horizon, and the loss to expect."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.common.jsonable import finite_or_none, jsonable
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short, steps, tuned
from sgdsim.problem import QuadraticProblem, fits
from sgdsim.problem.fits import PowerLawFit
from sgdsim.recurrence import contour, doubt
from sgdsim.studies.base import Findings
from sgdsim.studies.stable_rates import infinite_spectrum
from sgdsim.theory import exact, inside, optimal, power_law, stability
from sgdsim.theory.inside import ClosureError, Trusted
from sgdsim.theory.optimal import JacobiOptimum, Optimum
from sgdsim.theory.power_law import PowerLaw, Prediction

LEVELS = {"full_batch": "full batch", "spectral_diagonal": "spectral-diagonal", "exact": "exact"}
_PREDICTED = ("phase", "exponent", "constant", "signal", "noise", "crossover", "window", "within")


@dataclass(frozen=True)
class LateBudget:
    """The law that is left where more momentum always helps a little: α/(1 − β), β → 1."""

    effective_lr: float
    momentum: None
    constant: float
    exponent: float


@dataclass(frozen=True, eq=False)
class LawHere:
    """The spectrum's power law (None, and the `reason`, where it has none), the fit that gave it (None: it was made
    with that law), what it predicts at the best setting, its loss at the horizon over the best one, and the setting
    with the least constant."""

    law: PowerLaw | None
    fit: PowerLawFit | None
    reason: str | None
    prediction: Prediction | None = None
    ratio: float | None = None
    late: Optimum | LateBudget | None = None

    @property
    def source(self) -> str | None:
        """ "given" or "fitted"; None without a law."""
        return None if self.law is None else "given" if self.fit is None else "fitted"

    def as_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        facts: dict[str, object] = {"source": self.source, "reason": self.reason}
        facts |= {name: getattr(self.law, name, None) for name in ("nu", "kappa", "zeta")}
        facts["fit"] = None if self.fit is None else self.fit.as_dict()
        facts |= {name: jsonable(getattr(self.prediction, name, None)) for name in _PREDICTED}
        for name in ("signal", "noise"):
            pair = getattr(self.prediction, name, None)
            facts[name] = pair and {"exponent": pair[0], "constant": finite_or_none(pair[1])}
        return facts | {"asymptotic": self._late(), "ratio": self.ratio}

    def _late(self) -> dict[str, object] | None:
        late = self.late
        if not isinstance(late, Optimum):
            return None if late is None else vars(late)
        return {
            "lr": late.lr,
            "momentum": late.momentum,
            "constant": late.loss,
            "exponent": late.exponent,
            "plain_lr": late.plain_lr,
            "plain_constant": late.plain_loss,
            "gain": late.gain,
            "negative_momentum": late.negative_momentum,
        }


@dataclass(frozen=True, eq=False)
class Recommendation(Findings):
    """What can be recommended (`known`) for batches as `sgd` draws them, and how it was found.

    Parameters
    ----------
    searched : the search by the exact average, where it was asked for.
    loss_error : relative error of the best loss where Lanczos quadrature made the problem, else None.
    max_lr : momentum and the largest stable learning rates there by each of `LEVELS` (exact: None where it would take
        long), without momentum and at the best one.
    rate : σ₁ of the loss L ~ e^{σ₁t} at the best setting, t → ∞.
    jacobi : the best Jacobi schedule for full batches, where it was asked for.
    seconds : what the parts took.
    """

    problem: QuadraticProblem
    sgd: SGD
    horizon: int
    tau: float
    known: Trusted
    searched: exact.Searched | None
    loss_error: float | None
    max_lr: tuple[dict[str, float | None], ...]
    rate: float
    law: LawHere
    jacobi: JacobiOptimum | None
    seconds: dict[str, float]

    @property
    def noise(self) -> float:
        """γ."""
        return self.sgd.noise(self.problem.n)

    @property
    def cutoff(self) -> float | None:
        """Steps from which on the loss of this finite spectrum falls exponentially; None: never."""
        return 1 / abs(self.rate) if -math.inf < self.rate < 0 else None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the search."""
        return self.searched is not None and self.searched.interrupted

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON holds it."""
        known, best, closure, searched = self.known, self.known.best, self.known.closure, self.searched
        return {
            "best": self._setting(best.lr, best.momentum, best.loss, known.error),
            "plain": self._setting(best.plain_lr, 0.0, best.plain_loss, known.plain_error),
            "closure_best": self._setting(closure.lr, closure.momentum, closure.loss),
            "exact": searched and {name: getattr(searched, name) for name in ("settings", "interrupted", "settled")},
            "loss_error": finite_or_none(self.loss_error),
            "stable": known.stable.stable,
            "stable_reason": known.stable.reason,
            "gain": known.gain,
            "negative_momentum": best.negative_momentum,
            "max_lr": [levels | {"torch_lr": self._torch(levels)} for levels in self.max_lr],
            "rate": finite_or_none(self.rate),
            "cutoff": self.cutoff,
            "law": self.law.as_dict(),
            "jacobi": self.jacobi and {name: finite_or_none(value) for name, value in vars(self.jacobi).items()},
            "notes": self.notes(),
        }

    def _setting(
        self, lr: float, momentum: float, loss: float, error: ClosureError | None = None
    ) -> dict[str, float | None]:
        facts = {"lr": lr, "torch_lr": self.problem.torch_lr(lr), "momentum": momentum, "loss": finite_or_none(loss)}
        facts["effective_lr"] = lr / (1 - momentum)
        return facts if error is None else facts | {"exact_loss": error.loss, "closure_error": error.relative}

    def _torch(self, levels: dict[str, float | None]) -> dict[str, float | None]:
        return {name: None if (lr := levels[name]) is None else self.problem.torch_lr(lr) for name in LEVELS}

    def table(self) -> Table:
        """The best setting and the best without momentum; (torch): the lr for `torch.optim.SGD`."""
        best, known = self.known.best, self.known
        averaged = known.error.loss is not None
        rows: list[list[Cell]] = []
        for name, lr, momentum, loss, error in (
            ("best", best.lr, best.momentum, best.loss, known.error),
            ("best without momentum", best.plain_lr, 0.0, best.plain_loss, known.plain_error),
        ):
            rows.append([name, lr, f"({short(self.problem.torch_lr(lr))})", tuned(momentum)])
            rows[-1] += [finite_or_none(loss), *([error.loss] if averaged else [])]
        headers = ["", "lr", "(torch)", "momentum", "predicted loss", *(["exact average"] if averaged else [])]
        return Table(headers, rows, "lr")

    def limits(self) -> Table:
        """The largest stable learning rates, and in brackets those of `torch.optim.SGD`, by each level."""
        names = [name for name in LEVELS if self.max_lr[0][name] is not None]
        rows = []
        for levels in self.max_lr[: 1 if self.known.best.momentum == 0 else 2]:
            torch = self._torch(levels)
            cells = [f"{short(levels[name])} ({short(torch[name])})" for name in names]
            rows.append([f"momentum {tuned(levels['momentum'] or 0.0)}", *cells])
        return Table(["largest stable lr (torch)", *(LEVELS[name] for name in names)], rows, "lr")

    def notes(self) -> list[str]:
        """What makes the answer doubtful, a sentence or two each."""
        law, found, known = self.law.law, self.law.prediction, self.known.stable
        notes = [] if self.law.fit is None else list(self.law.fit.warnings)
        if self.loss_error is not None and self.loss_error > doubt.KNOWN:
            notes.append(
                f"The loss at the horizon may be off {doubt.off(self.loss_error)}: Lanczos quadrature does not tell "
                "the eigenvalues that decide it, nor then the best setting. Take more Lanczos steps, or a shorter "
                "horizon."
            )
        if law is not None and self.noise and law.nu <= 1:
            notes.append(
                f"No late law: ν = {law.nu:.3g} ≤ 1 ({power_law.phase(law.nu, law.zeta)} of the infinite spectrum)."
            )
        if found is not None and found.exponent is not None and found.window is None:
            notes.append("The law is nowhere within 10% of the exact curve at this N: do not rely on it.")
        if self.cutoff is not None and self.horizon > self.cutoff:
            notes.append(
                f"{steps(self.horizon)} is beyond the cut-off at {self.cutoff:.3g}. The loss falls exponentially "
                "there, and the best setting depends on the smallest eigenvalues of this N."
            )
        if known.stable is None:
            notes.append(f"Whether it is exactly stable is not known: {known.reason}. --verify sampled tells more.")
        return notes + (infinite_spectrum(self.problem) if self.noise > 0 else [])


@np.errstate(all="ignore")  # losses that underflow to 0 are results
def recommend(
    problem: QuadraticProblem,
    sgd: SGD,
    horizon: int,
    *,
    tau: float = 1.0,
    search: bool = False,
    jacobi: bool = False,
    heard: Callable[[], object] | None = None,
) -> Recommendation:
    """The best learning rate and momentum after `horizon` steps of heavy ball; `sgd` says batches.

    `search`: by the exact average (`theory.exact.best`, which calls `heard` after each setting), not by the closure
    with what is known of its errors (`theory.inside.trusted`). `jacobi`: also the best Jacobi schedule. Raises
    InputError for what theory refuses.
    """
    began = [time.perf_counter()]

    def seconds() -> float:
        began.append(time.perf_counter())
        return began[-1] - began[-2]

    noise = sgd.noise(problem.n)
    searched = exact.best(problem, sgd, horizon, tau, heard=heard) if search else None
    known = inside.trusted(problem, sgd, horizon, tau) if searched is None else searched.trusted
    best, error = known.best, None
    rate = float(contour.rate(problem, lr=best.lr, momentum=best.momentum, noise=noise, tau=tau))
    if problem.alternatives:
        follow = partial(contour.loss_at, steps=horizon, lr=best.lr, momentum=best.momentum, noise=noise, tau=tau)
        error = float(doubt.of(problem, np.array(best.loss), follow))
    law = _law(problem, replace(sgd, lr=best.lr, momentum=best.momentum), best, tau)
    took = {"theory": seconds()}
    limits = tuple(_limits(problem, replace(sgd, momentum=momentum), tau) for momentum in (0.0, best.momentum))
    took["exact"], schedule = seconds(), None
    if jacobi:
        schedule = optimal.best_jacobi(problem, horizon=horizon, noise=noise, tau=tau)
        took["jacobi"] = seconds()
    return Recommendation(problem, sgd, horizon, tau, known, searched, error, limits, rate, law, schedule, took)


def _law(problem: QuadraticProblem, sgd: SGD, best: Optimum, tau: float) -> LawHere:
    fit, noise = None, sgd.noise(problem.n)
    try:
        fit = None if problem.exponents is not None else fits.fit_power_law(problem)
        law = PowerLaw.of(problem)
    except InputError as error:
        return LawHere(None, fit, str(error))
    found, ratio = power_law.predict(problem, sgd, law, tau=tau), None
    late: Optimum | LateBudget | None = None
    if found.exponent is not None and found.constant is not None and math.isfinite(found.constant) and best.loss > 0:
        ratio = finite_or_none(found.constant * float(best.horizon or 1) ** -found.exponent / best.loss)
    phase = power_law.phase(law.nu, law.zeta)
    if noise and phase == power_law.SIGNAL:
        effective, constant, exponent = power_law.budget(problem, law, noise, tau=tau)
        late = LateBudget(effective, None, constant * noise**exponent, exponent)  # the constant of a law in t/γ
    elif noise and phase == power_law.NOISE:
        late = optimal.best(problem, noise=noise, tau=tau, law=law)
    return LawHere(law, fit, None, found, ratio, late)


def _limits(problem: QuadraticProblem, sgd: SGD, tau: float) -> dict[str, float | None]:
    exactly = problem.has_basis and problem.n <= stability.EXACT_IN_TABLES
    return {
        "momentum": float(sgd.momentum),  # type: ignore[arg-type] # constant
        "full_batch": stability.max_lr(problem, sgd, "full-batch"),
        "spectral_diagonal": stability.max_lr(problem, sgd, tau=tau),
        "exact": stability.max_lr(problem, sgd, "exact") if exactly else None,
    }
