"""The best learning rate and momentum of heavy ball for a batch size and a horizon, and the loss to expect."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short, steps, tuned
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.recurrence import contour, doubt
from sgdsim.studies.advice import LEVELS, Advice, Answer, LateBudget, LawHere, exact_in_seconds, limits
from sgdsim.studies.cross_entropy import CrossEntropyHorizon, looked_for
from sgdsim.studies.probing import Probe
from sgdsim.studies.stable_rates import infinite_spectrum
from sgdsim.theory import exact, inside, optimal, power_law, stability
from sgdsim.theory.inside import ClosureError, Trusted
from sgdsim.theory.optimal import JacobiOptimum, Optimum


@dataclass(frozen=True, eq=False, repr=False)
class Recommendation(Advice):
    """What can be recommended (`known`) for batches as `sgd` draws them, and how it was found.

    Parameters
    ----------
    searched : the search by the exact average, where it was asked for.
    loss_error : relative error of the best loss where Lanczos quadrature made the problem, else None.
    max_lr : without momentum and at the best one.
    jacobi : the best Jacobi schedule for full batches, where it was asked for.
    probe : what real steps of the network said of the best setting, where there is one and it was asked.
    horizon_of_model : of cross-entropy, until when its quadratic model holds at the best setting; None: not of such, or
        not known.

    `known`, `searched`, `law` and `jacobi` have losses of squares; `as_dict`, `table` and sentences add `loss_offset`.
    """

    known: Trusted
    searched: exact.Searched | None
    loss_error: float | None
    jacobi: JacobiOptimum | None
    probe: Probe | None = None
    horizon_of_model: CrossEntropyHorizon | None = None

    @property
    def interrupted(self) -> bool:
        return any(part is not None and part.interrupted for part in (self.searched, self.probe))

    @property
    def answer(self) -> Answer | None:
        """Theory's best setting, or, where that was tried on the network, the one that this follows."""
        best = self.known.best
        return Answer(best.lr, best.momentum, best.loss).tried(self.probe)

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON holds it."""
        known, best, closure, searched = self.known, self.known.best, self.known.closure, self.searched
        return super().as_dict() | {
            "best": self._setting(best.lr, best.momentum, best.loss, known.error),
            "plain": self._setting(best.plain_lr, 0.0, best.plain_loss, known.plain_error),
            "closure_best": self._setting(closure.lr, closure.momentum, closure.loss),
            "exact": searched and {name: getattr(searched, name) for name in ("settings", "interrupted", "settled")},
            "loss_error": finite_or_none(self.loss_error),
            "stable": known.stable.stable,
            "stable_reason": known.stable.reason,
            "gain": known.gain,
            "negative_momentum": best.negative_momentum,
            "jacobi": self.jacobi and {name: finite_or_none(value) for name, value in vars(self.jacobi).items()},
            "probe": self.probe and self.probe.as_dict(),
            **self._model(),
        }

    def _model(self) -> dict[str, object]:
        """Further keys, where losses are those of a quadratic model."""
        if self.problem.loss == "squared":
            return {}
        known = self.horizon_of_model
        return {
            "loss_of": self.problem.loss,
            "loss_offset": self.problem.loss_offset,
            "cross_entropy": known and known.as_dict(),
            "prediction_holds": None if known is None else not self.beyond_model,
        }

    @property
    def beyond_model(self) -> bool:
        """Whether the horizon lies where the quadratic model of cross-entropy is known not to hold."""
        known = self.horizon_of_model
        return known is not None and known.step is not None and known.step <= self.horizon

    def _of_model(self) -> list[str]:
        """What losses and stable rates mean where they are those of a quadratic model."""
        of = self.problem
        if of.loss == "squared":
            return []
        notes = [
            f"Losses are those of the quadratic model of {of.loss} at the start, whose least value is "
            f"{of.loss_offset:.4g}; percentages and laws are of the loss above that.",
            "Stable rates are those of the curvature at the start, which changes on the way, up or down.",
        ]
        known = self.horizon_of_model
        if known is None:
            return [*notes, "Until when the model holds is not known here, without the network that it is of."]
        unseen = known.step is None and known.n_steps < self.horizon
        return [*notes, f"Whether it holds beyond step {known.n_steps} was not looked for."] if unseen else notes

    def _setting(
        self, lr: float, momentum: float, loss: float, error: ClosureError | None = None
    ) -> dict[str, float | None]:
        facts = self.setting(lr, momentum, loss, lr / (1 - momentum))
        known = {} if error is None else {"exact_loss": self.loss_of(error.loss), "closure_error": error.relative}
        return facts | known

    def table(self) -> Table:
        """The best setting and the best without momentum, before them a lower one that a probe found; (torch): the lr
        for `torch.optim.SGD`."""
        best, known = self.known.best, self.known
        averaged = known.error.loss is not None
        rows: list[list[Cell]] = []
        if self.probe is not None and self.probe.lowered and (found := self.answer) is not None:
            torch = f"({short(self.in_torch(found.lr))})"
            rows.append(
                ["recommended by the probe", found.lr, torch, tuned(found.momentum), finite_or_none(found.loss)]
            )
            rows[-1] += [None] if averaged else []
        for name, lr, momentum, loss, error in (
            ("best", best.lr, best.momentum, best.loss, known.error),
            ("best without momentum", best.plain_lr, 0.0, best.plain_loss, known.plain_error),
        ):
            rows.append([name, lr, f"({short(self.in_torch(lr))})", tuned(momentum)])
            rows[-1] += [self.loss_of(loss), *([self.loss_of(error.loss)] if averaged else [])]
        headers = ["", "lr", "(torch)", "momentum", "predicted loss", *(["exact average"] if averaged else [])]
        return Table(headers, rows, "lr")

    def limits(self) -> Table:
        """The largest stable learning rates, and in brackets those of `torch.optim.SGD`, by each level."""
        names = [name for name in LEVELS if self.max_lr[0][name] is not None]
        rows = []
        for levels in self.max_lr[: 1 if self.known.best.momentum == 0 else 2]:
            torch = self.torch(levels)
            cells = [f"{short(levels[name])} ({short(torch[name])})" for name in names]
            rows.append([f"momentum {tuned(levels['momentum'] or 0.0)}", *cells])
        return Table(["largest stable lr (torch)", *(LEVELS[name] for name in names)], rows, "lr")

    def beyond_cutoff(self) -> list[str]:
        """What makes an answer doubtful where the horizon is beyond the cut-off; none before it."""
        if self.cutoff is None or self.horizon <= self.cutoff:
            return []
        return [
            f"{steps(self.horizon)} is beyond the cut-off at {self.cutoff:.3g}. The loss falls exponentially "
            "there, and the best setting depends on the smallest eigenvalues of this N."
        ]

    def notes(self) -> list[str]:
        """What makes the answer doubtful, a sentence or two each."""
        law, found, known = self.law.law, self.law.prediction, self.known.stable
        notes = [*self._of_model(), *([] if self.law.fit is None else self.law.fit.warnings)]
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
        notes += self.beyond_cutoff()
        if known.stable is None:
            notes.append(f"Whether it is exactly stable is not known: {known.reason}. --verify sampled tells more.")
        return notes + (infinite_spectrum(self.problem) if self.noise > 0 else [])


@np.errstate(all="ignore")  # losses that underflow to 0 are results
def recommend(
    problem: Problem,
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
    with what is known of its errors (`theory.inside.trusted`). `jacobi`: also the best Jacobi schedule. Of a
    `NetworkProblem` with cross-entropy it is measured until when the quadratic model holds. Raises InputError for what
    theory refuses.
    """
    network, problem = problem, problem.quadratic
    sgd.pull(None)  # refuses weight decay
    began = [time.perf_counter()]

    def seconds() -> float:
        began.append(time.perf_counter())
        return began[-1] - began[-2]

    noise = problem.noise(sgd)
    searched = exact.best(problem, sgd, horizon, tau, heard=heard) if search else None
    known = inside.trusted(problem, sgd, horizon, tau) if searched is None else searched.trusted
    best, error = known.best, None
    rate = float(contour.rate(problem, lr=best.lr, momentum=best.momentum, noise=noise, tau=tau))
    if problem.alternatives:
        follow = partial(contour.loss_at, steps=horizon, lr=best.lr, momentum=best.momentum, noise=noise, tau=tau)
        error = float(doubt.of(problem, np.array(best.loss), follow))
    law = _law(problem, replace(sgd, lr=best.lr, momentum=best.momentum), horizon, best.loss, tau)
    took = {"theory": seconds()}
    levels = tuple(_limits(problem, replace(sgd, momentum=momentum), tau) for momentum in (0.0, best.momentum))
    took["exact"], schedule = seconds(), None
    if jacobi:
        schedule = optimal.best_jacobi(problem, horizon=horizon, noise=noise, tau=tau)
        took["jacobi"] = seconds()
    until = looked_for(network, replace(sgd, lr=best.lr, momentum=best.momentum), horizon)
    return Recommendation(
        problem, sgd, horizon, tau, levels, rate, law, took, known, searched, error, schedule, horizon_of_model=until
    )


def _law(problem: QuadraticProblem, sgd: SGD, horizon: int, loss: float, tau: float) -> LawHere:
    here, noise = LawHere.at(problem, sgd, horizon, loss, tau), problem.noise(sgd)
    if here.law is None or not noise:
        return here
    late: Optimum | LateBudget | None = None
    phase = power_law.phase(here.law.nu, here.law.zeta)
    if phase == power_law.SIGNAL:
        effective, constant, exponent = power_law.budget(problem, here.law, noise, tau=tau)
        late = LateBudget(effective, None, constant * noise**exponent, exponent)  # the constant of a law in t/γ
    elif phase == power_law.NOISE:
        late = optimal.best(problem, noise=noise, tau=tau, law=here.law)
    return replace(here, late=late)


def _limits(problem: QuadraticProblem, sgd: SGD, tau: float) -> dict[str, float | None]:
    if problem.spectrum.outputs > 1:
        return limits(problem, sgd, tau, exact_in_seconds(problem, sgd))
    exactly = problem.has_basis and problem.n <= stability.EXACT_IN_TABLES
    return limits(problem, sgd, tau, stability.max_lr(problem, sgd, "exact") if exactly else None)
