"""The best constant setting of an algorithm that is not plain heavy ball: another method, weight decay, noisy labels,
averages, one pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short, tuned
from sgdsim.problem import Problem
from sgdsim.recurrence import contour
from sgdsim.studies.advice import Advice, Answer, LawHere, exact_in_seconds, limits
from sgdsim.studies.probing import Probe
from sgdsim.theory import best_schedules, linear
from sgdsim.theory.linear import Floor
from sgdsim.theory.verdicts import Verdict, verdict

_LONGEST = 1_000_000  # steps of an average that changes in time: there is no contour, they are stepped


@dataclass(frozen=True, eq=False, repr=False)
class MethodRecommendation(Advice):
    """What can be recommended for an algorithm.

    Parameters
    ----------
    best : the algorithm at its best learning rate and momentum, with its `loss` at the horizon (spectral-diagonal).
    known : whether it is exactly stable there.
    floor : what noisy labels and weight decay leave; None without, and where it is not known.
    probe : what real steps of the network said of it; None: not tried (weight decay alone is).
    """

    best: SGD
    loss: float
    known: Verdict
    floor: Floor | None
    probe: Probe | None = None

    @property
    def interrupted(self) -> bool:
        return self.probe is not None and self.probe.interrupted

    @property
    def lr(self) -> float:
        """The best learning rate."""
        return cast(float, self.best.lr)

    @property
    def answer(self) -> Answer | None:
        """The best setting, or, where that was tried on the network, the one that this follows."""
        return Answer(self.lr, cast(float, self.best.momentum), self.loss).tried(self.probe)

    @property
    def effective_lr(self) -> float:
        """How far one unit of gradient moves the iterate in the end, without weight decay."""
        return linear.effective_lr(linear.undecayed(self.best))

    def as_dict(self) -> dict[str, object]:
        """The keys of `Recommendation`."""
        setting = self.setting(self.lr, cast(float, self.best.momentum), self.loss, self.effective_lr)
        facts = super().as_dict() | {"best": setting | dict.fromkeys(("exact_loss", "closure_error"))}
        facts |= {"stable": self.known.stable, "stable_reason": self.known.reason}
        facts |= {"probe": self.probe and self.probe.as_dict()}
        if self.floor is not None:
            facts |= {"floor": finite_or_none(self.floor.loss), "floor_reached": self.floor.reached}
        return facts

    def table(self) -> Table:
        """The best setting, before it a lower one that a probe found; (torch): the lr for `torch.optim.SGD`."""
        named = {self.sgd.method.spec: Answer(self.lr, cast(float, self.best.momentum), self.loss)}
        if self.probe is not None and self.probe.lowered and self.answer is not None:
            named = {"recommended by the probe": self.answer} | named
        rows: list[list[Cell]] = [
            [name, at.lr, f"({short(self.in_torch(at.lr))})", tuned(at.momentum), finite_or_none(at.loss)]
            for name, at in named.items()
        ]
        return Table(["", "lr", "(torch)", "momentum", "predicted loss"], rows, "lr")

    def notes(self) -> list[str]:
        """Whether the setting is unstable, or not known to be stable."""
        if self.known.stable:
            return []
        unstable = self.known.stable is False
        what = "this setting is unstable" if unstable else "whether this setting is stable is not known"
        return [f"{what}: {self.known.reason}."]


def check(sgd: SGD, horizon: int) -> None:
    """InputError for algorithms that have no best constant setting, or none that is found in time."""
    if sgd.rule is not None:
        raise InputError(f"--method: expected one that is linear in the gradient, got {sgd.rule.spec}; try compare")
    if not sgd.is_constant:
        raise InputError(f"--method: expected one that does not change in time, got {sgd.method.spec}; try compare")
    sgd.check_average(horizon)
    if _has_tail(sgd) and horizon > _LONGEST:
        raise InputError(f"--horizon: expected at most {_LONGEST:g} steps with a tail average, got {horizon:g}")


def recommend(
    problem: Problem,
    sgd: SGD,
    horizon: int,
    *,
    tau: float = 1.0,
    heard: Callable[[], object] = lambda: None,
) -> MethodRecommendation:
    """The best constant learning rate and momentum after `horizon` steps, thresholds there, the floor of noisy labels
    and of weight decay.

    The search calls `heard` after each setting. Raises InputError as `check`, and for what theory refuses.
    """
    check(sgd, horizon)
    problem.check_squared("--weight-decay" if sgd.weight_decay else f"--method {sgd.method.spec}")
    began, modes = time.perf_counter(), problem.quadratic_for(sgd)
    best, loss = best_schedules.best_constant(modes, sgd, horizon, tau=tau, heard=heard)
    stationary = not _has_tail(sgd)  # else there is neither law nor floor
    floor = None
    if (sgd.label_noise or sgd.weight_decay) and stationary:
        latest = float(horizon) if sgd.weight_decay else linear.LATEST  # there all modes are stepped
        floor = linear.floor(modes, best, tau, latest)
    rate = contour.rate_of(modes, best, tau=tau) if stationary and not sgd.weight_decay else None
    law = LawHere.at(modes, best, horizon, loss, tau)
    levels = limits(modes, best, tau, exact_in_seconds(modes, best))
    known = verdict(modes, best)
    took = {"theory": time.perf_counter() - began}
    return MethodRecommendation(modes, sgd, horizon, tau, (levels,), rate, law, took, best, loss, known, floor)


def _has_tail(sgd: SGD) -> bool:
    return getattr(sgd.average, "name", "") == "tail"
