"""At which learning rate does a real run become unstable? Bisection, beside the levels that theory predicts.

A run of T steps is judged in two ways, because a network that is unstable at its start need not diverge: its loss may
grow until its tangent kernel has shrunk, and then fall (a "catapult"; Lewkowycz et al., arXiv:2003.02218). A linear
model has no way back.

* "bounded": at the recorded steps the loss never exceeds 10 times the initial one.
* "settles": late in the run (geometric mean over T/2 to T) the loss is below the initial one and below that of the best
  constant output, which a network with all its ReLUs off after too large a step may have. Or, where it never rose
  100-fold, it is below what it was early (T/20 to T/10): in stable runs at small batches sampling noise lifts the loss
  about 1/(1 − Ũ(1)) times above that of the mean, and it comes down slowly, with the slow modes.

An α counts as stable if at least half of the replicates (batch sequences) are: what a typical run does. Theory's exact
threshold is that of the mean over all batch sequences. Just above it rare sequences alone let the mean grow, so typical
runs of the very same linear model may be stable further out; `sampled`, judged by the same criterion on the same
batches as `network`, shows how far. Network against sampled is the error of linearisation, sampled against theory that
of averages and of finite T.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.progress import Bar
from sgdsim.common.specs import shortest
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short
from sgdsim.observables import Loss
from sgdsim.problem import Problem
from sgdsim.regimes import RealNetwork, Regime, SampledLinearized
from sgdsim.runs import follow
from sgdsim.studies.base import Findings
from sgdsim.theory import stability

CRITERIA = ("bounded", "settles")
GROWTH = 10.0  # times the initial loss: more than noise does to a stable run, less than a catapult of a wide network
_LOOKS = 30  # recorded steps, log-spaced and evenly spaced each: transient growth is not missed
_FARTHEST = 64.0  # the search ends at this multiple of the full-batch threshold, or at 1/64 of the exact one
_IDLE = 0.99  # of the loss of the best constant output: what lies above is no training
_LIFTED = 100.0  # times the initial loss: more than sampling noise lifts a typical stable run
_START = 0.93  # of the exact threshold: off it, so that no run is made just where theory leaves the answer open
_FIRST_STEP = 1.15  # from the start of the search; each further step is larger


@dataclass(frozen=True)
class Bracket:
    """A threshold in α: stable at `low`, not at `high`. `low` 0 or `high` infinite where the search ended before."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """Geometric mean, or the end that is known."""
        if self.low == 0 or math.isinf(self.high):
            return self.high if self.low == 0 else self.low
        return math.sqrt(self.low * self.high)

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"> {short(self.low)}"
        digits = 2 if self.high < 9.995 else 1  # three figures, as many as a bracket of 4% needs
        return f"{self.low:.{digits}f}–{self.high:.{digits}f}" if self.low else f"< {short(self.high)}"


@dataclass(frozen=True)
class Trial:
    """What runs at α = `lr` did.

    `bounded`, `settles`: shares of replicates. `peak`, `early`, `late`: medians over replicates of the largest
    recorded loss and of the geometric means over T/20 to T/10 and T/2 to T, relative to the initial loss; infinite
    where they diverged.
    """

    lr: float
    bounded: float
    settles: float
    peak: float
    early: float
    late: float

    def meets(self, criterion: str) -> bool:
        """Whether the typical run is stable by "bounded" or "settles"."""
        return getattr(self, criterion) >= 0.5


@dataclass(frozen=True, repr=False)
class Thresholds(Findings):
    """Predicted and measured thresholds for one batch size and momentum.

    Parameters
    ----------
    full_batch, exact : levels of `sgdsim.theory.stability.max_lr`.
    diagonal : τ → the spectral-diagonal level.
    measured : regime ("sampled", "network") → criterion → bracket.
    trials : regime → all runs that were made, by ascending α.
    """

    batch_size: int
    momentum: float
    n_steps: int
    replicates: int
    seed: int
    full_batch: float
    diagonal: dict[float, float]
    exact: float
    measured: dict[str, dict[str, Bracket]]
    trials: dict[str, tuple[Trial, ...]]

    def table(self) -> Table:
        """The levels that theory predicts, then the measured brackets, in α."""
        levels = {"full batch": self.full_batch}
        levels |= {f"spectral-diagonal, τ = {shortest(tau)}": lr for tau, lr in self.diagonal.items()}
        rows: list[list[Cell]] = [[name, lr] for name, lr in {**levels, "exact": self.exact}.items()]
        for regime, brackets in self.measured.items():
            rows += [[f"{regime} {criterion}", str(bracket)] for criterion, bracket in brackets.items()]
        return Table(["threshold", "lr"], rows, "lr")


def thresholds(
    problem: Problem,
    batch_size: int,
    *,
    momentum: float = 0.0,
    n_steps: int = 1000,
    replicates: int = 8,
    width: float = 0.04,
    taus: Sequence[float] = (1.0, -1.0),
    regimes: Sequence[Regime] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Thresholds:
    """The thresholds that theory predicts, and those of sampled and network runs by bisection on the same batches.

    Parameters
    ----------
    n_steps : T of both criteria. Growth that needs longer is not seen: thresholds are over-estimated by the more, the
        shorter the runs.
    replicates : batch sequences, at least half of which have to be stable; the same ones for every α and both regimes.
    width : of the final brackets, relative.
    regimes : what is measured; None: sampled, and network where the problem has one.
    progress : count the runs on standard error.

    Raises InputError for values out of range; KeyboardInterrupt ends it without a result.
    """
    problem.check_squared("thresholds")
    n_steps, replicates = (
        integer("n_steps", n_steps, minimum=40, maximum=follow.MAX_STEPS),
        integer("replicates", replicates, minimum=1),
    )
    width = number("width", width, minimum=0.0, maximum=1.0, open_ends=True)
    sgd = SGD(1.0, momentum, batch_size)
    sgd.check(problem.n, n_steps)
    if regimes is None:
        network = [RealNetwork()] if problem.has_network else []
        regimes = [SampledLinearized(), *network]
    quadratic = problem.quadratic
    exact = stability.max_lr(quadratic, sgd, "exact", tolerance=1e-4)
    full = stability.max_lr(quadratic, sgd, "full-batch")
    measured: dict[str, dict[str, Bracket]] = {}
    trials: dict[str, tuple[Trial, ...]] = {}
    with Bar(progress, unit="run") as bar:
        for regime in regimes:
            if not regime.stochastic:
                raise InputError(f"regimes: expected some that sample batches, got {regime.name}")
            bar.describe(f"b = {batch_size}, {regime.name}")

            def trial(lr: float, regime: Regime = regime) -> Trial:
                made = _trial(problem, SGD(lr, momentum, batch_size), regime, n_steps, replicates, seed)
                bar.update()
                return made

            limits = (exact / _FARTHEST, full * _FARTHEST)
            measured[regime.name], trials[regime.name] = _measured(trial, _START * exact, width, limits)
    diagonal = {float(tau): stability.max_lr(quadratic, sgd, tau=tau) for tau in taus}
    return Thresholds(batch_size, float(momentum), n_steps, replicates, seed, full, diagonal, exact, measured, trials)


def _measured(
    trial: Callable[[float], Trial], start: float, width: float, limits: tuple[float, float]
) -> tuple[dict[str, Bracket], tuple[Trial, ...]]:
    """The thresholds by each criterion, and all trials by their learning rate; each is made once."""
    seen: dict[float, Trial] = {}

    def meets(criterion: str, lr: float) -> bool:
        if lr not in seen:
            seen[lr] = trial(lr)
        return seen[lr].meets(criterion)

    found = {name: bisect(functools.partial(meets, name), start, width, limits) for name in CRITERIA}
    return found, tuple(seen[lr] for lr in sorted(seen))


def bisect(stable: Callable[[float], bool], start: float, width: float, limits: tuple[float, float]) -> Bracket:
    """Where `stable` changes from True to False, searched outwards from `start`, to a bracket of relative `width`.

    One change is assumed. Where there are several, the bracket holds one of them. The search ends at `limits`.
    """
    low, high, step = start, start, _FIRST_STEP
    if stable(start):
        while True:
            if low >= limits[1]:
                return Bracket(low, math.inf)
            high = min(low * step, limits[1])
            if not stable(high):
                break
            low, step = high, step**1.5
    else:
        while True:
            if high <= limits[0]:
                return Bracket(0.0, high)
            low = max(high / step, limits[0])
            if stable(low):
                break
            high, step = low, step**1.5
    while high / low > 1 + width:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if stable(middle) else (low, middle)
    return Bracket(low, high)


def _trial(problem: Problem, sgd: SGD, regime: Regime, n_steps: int, replicates: int, seed: int) -> Trial:
    looks = np.concatenate([np.geomspace(1, n_steps, _LOOKS), np.linspace(0, n_steps, _LOOKS + 1)])
    steps = follow.record_steps(n_steps, np.unique(looks.round().astype(int)).tolist())
    trace = follow.follow(problem, sgd, regime, steps, (Loss(),), replicates, seed)
    if trace.interrupted:
        raise KeyboardInterrupt
    initial = trace.values["loss"][:, 0]
    loss = trace.values["loss"] / initial[:, None]
    peak = loss.max(1)
    with np.errstate(divide="ignore"):
        early, late = (
            np.exp(np.log(loss[:, (steps >= low * n_steps) & (steps <= high * n_steps)]).mean(1))
            for low, high in ((0.05, 0.1), (0.5, 1.0))
        )
    idle = np.inf if problem.targets is None else _IDLE * np.var(problem.targets, axis=0).sum() / 2
    settled = (late < np.minimum(1.0, idle / initial)) | ((late < early) & (peak <= _LIFTED))
    shares = float((peak <= GROWTH).mean()), float(settled.mean())
    return Trial(float(cast(float, sgd.lr)), *shares, *(float(np.median(values)) for values in (peak, early, late)))
