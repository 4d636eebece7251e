"""The weight decay that is best for the test loss at the setting that is recommended with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.common.specs import shortest
from sgdsim.common.text import short
from sgdsim.problem import Problem
from sgdsim.theory import best_schedules, weight_decay

_ROUNDS = 6  # of setting and weight decay in turn
_SETTLED = 0.02  # relative change from one round to the next


@dataclass(frozen=True)
class DecayFound:
    """`weight_decay`, in torch's units, 0 where none helps; the test loss with it and `without` any, at the best
    learning rate and momentum for it; whether it is the largest that was tried; whether the rounds `settled`."""

    weight_decay: float
    test_loss: float
    without: float
    at_edge: bool
    settled: bool

    def sentence(self) -> str:
        """What was found."""
        if not self.weight_decay:
            return f"No weight decay lowers the test loss at this setting, {short(self.without)} by theory."
        edge = ", the largest that was tried" if self.at_edge else ""
        unsure = "" if self.settled else "; the search did not settle, so that another may be better"
        return (
            f"Weight decay {shortest(self.weight_decay)}{edge} is the best for the test loss at this "
            f"setting: {short(self.test_loss)} with it, {short(self.without)} without (spectral-diagonal){unsure}."
        )


def check(problem: Problem) -> None:
    """InputError where there is no test loss."""
    problem.check_squared("--weight-decay best")
    if not problem.has_test:
        raise InputError(
            "--weight-decay: expected a problem with test points for best, which is that of the test loss, got one "
            "without; give a number"
        )


def find(
    problem: Problem, sgd: SGD, horizon: int, *, tau: float = 1.0, heard: Callable[[], object] = lambda: None
) -> DecayFound:
    """The weight decay with the least test loss after `horizon` steps of spectral-diagonal theory (closure `tau`).

    Learning rate and momentum are, as `recommend` has them, the best for the training loss with that weight decay; they
    and the weight decay (`theory.weight_decay.best`) are looked for in turn, from none, until it stays. `heard` is
    called after each setting. Raises InputError as `check` and `theory`.
    """
    check(problem)
    now = 0.0
    for _ in range(_ROUNDS):
        modes = problem.quadratic_for(replace(sgd, weight_decay=now))
        setting, _ = best_schedules.best_constant(modes, replace(sgd, weight_decay=now), horizon, tau=tau, heard=heard)
        found = weight_decay.best(problem, setting, horizon, tau=tau)
        settled = abs(found.weight_decay - now) <= _SETTLED * now
        before, now = now, float(f"{found.weight_decay:.4g}")
        if settled:
            break
    kept = before if settled else now  # the one that the setting is the best with
    return DecayFound(cast(float, kept), found.value, found.without, found.at_edge, settled)
