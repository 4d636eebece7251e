"""How far losses of the spectral-diagonal system can be trusted where Lanczos quadrature made the problem."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common import warning
from sgdsim.problem import QuadraticProblem
from sgdsim.problem.alternatives import relative_error
from sgdsim.recurrence import diagonal
from sgdsim.recurrence.contour import LossValues
from sgdsim.recurrence.run import Run

KNOWN = 0.1  # relative error up to which a loss counts as known


def of(problem: QuadraticProblem, loss: np.ndarray, follow: Callable[[QuadraticProblem], LossValues]) -> np.ndarray:
    """Relative error of `loss`, which `follow` gives for `problem`; 0 where that is no quadrature."""
    if not problem.alternatives:
        return np.zeros(np.shape(loss))
    return relative_error(loss, [follow(other).loss for other in problem.alternatives])


def known_until(steps: np.ndarray, error: np.ndarray) -> float:
    """The last of the ascending `steps` up to which no error is above 10%; NaN where that of the first is."""
    poor = error > KNOWN
    count = int(poor.argmax()) if poor.any() else len(steps)
    return float(steps[count - 1]) if count else math.nan


def reports(problem: QuadraticProblem, name: str, steps: np.ndarray, error: np.ndarray) -> list[dict[str, float]]:
    """What the runs in regime `name` with these errors (cells, T) report; one warning where any has an error too large.

    Nothing is reported of a problem that is no quadrature.
    """
    if not problem.alternatives:
        return [{} for _ in error]
    known = np.where(np.isnan(error), 0.0, error)  # NaN: beyond divergence
    until = [known_until(steps, each) for each in known]
    if (known > KNOWN).any():
        first = int(np.argmin([np.inf if each[-1] <= KNOWN else end for each, end in zip(known, until, strict=True)]))
        warn(name, steps, known[first])
    return [{"error_estimate": float(each.max()), "known_until": end} for each, end in zip(known, until, strict=True)]


def off(error: float) -> str:
    """An error in words: by how much a loss may be off."""
    return f"by a factor of {1 + error:.2g}" if error > 1 else f"by {error:.0%}"


def warn(name: str, steps: np.ndarray, error: np.ndarray) -> None:
    """Say from where on the losses of Lanczos quadrature are not known: errors (T,)."""
    until = known_until(steps, error)
    known = "from no step on" if math.isnan(until) else f"to {KNOWN:.0%} up to step {until:g} only"
    warning.warn(
        f"{name}: Lanczos quadrature tells the loss {known}; at step {steps[-1]:g} it may be off {off(error[-1])}. "
        "More Lanczos steps or probes tell more",
    )


class Doubted(Run):
    """A problem's run by steps, and beside it those of its alternatives."""

    def __init__(self, name: str, problem: QuadraticProblem, sgd: SGD, tau: float) -> None:
        self.name, self.problem, self.now = name, problem, 0
        self.runs = [diagonal.start(one, sgd, tau) for one in (problem, *problem.alternatives)]
        self.steps: list[int] = []
        self.losses: list[list[float]] = []

    def advance(self, start: int, stop: int) -> None:
        for run in self.runs:
            run.advance(start, stop)
        self.now = stop

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        self.steps.append(self.now)
        self.losses.append([float(run.observe(("loss",))["loss"][0]) for run in self.runs])
        return self.runs[0].observe(what)

    def errors(self) -> np.ndarray:
        """Relative errors of the losses that were observed, (T,)."""
        loss, *others = np.array(self.losses).T
        return relative_error(loss, others)

    def report(self) -> dict[str, float]:
        return reports(self.problem, self.name, np.array(self.steps), self.errors()[None])[0]
