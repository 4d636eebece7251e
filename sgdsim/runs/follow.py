"""The loop under every run: one cell, followed and recorded at given steps; and when a run counts as diverged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common import memory
from sgdsim.common.checks import InputError, integer
from sgdsim.common.compiled import launch
from sgdsim.common.signals import raise_again
from sgdsim.common.warning import warn
from sgdsim.observables import Observable, needed
from sgdsim.problem import Problem
from sgdsim.regimes.base import Regime, Run

# A loss beyond this multiple of a run's scale (`has_diverged`) counts as diverged. Below it transient growth is allowed
# for; above it float64 would still hold the number, but squares of it soon would not.
DIVERGED_ABOVE = 1e10
OUTCOMES = ("not_run", "completed", "diverged", "interrupted", "failed")
MAX_STEPS = 10**15  # float64 counts them exactly, and a schedule is a function of float64 steps
MAX_REPLICATES = 10**18  # an int64
_RECORDED = 120  # log-spaced steps by default
_CHUNK_SECONDS = 0.2  # how often progress moves and Ctrl-C is heard


@dataclass
class Trace:
    """What one cell gives: `values[variable]` (R, T[, modes]), `outcome`, `diverged_at` (R,), and how it went."""

    values: dict[str, np.ndarray]
    outcome: np.ndarray
    diverged_at: np.ndarray
    seconds: float
    interrupted: bool
    report: dict[str, float]


def record_steps(n_steps: int, record: int | Sequence[int] | None = None) -> np.ndarray:
    """The steps to record, ascending int64, always with 0 and `n_steps`.

    `record`: None: about 120 log-spaced; an integer k: every k steps; a sequence: just these (and 0 and the last).
    """
    n_steps = integer("n_steps", n_steps, minimum=1, maximum=MAX_STEPS)
    if record is None:
        inner: np.ndarray = np.geomspace(1, n_steps, _RECORDED).round()
    elif isinstance(record, (int, np.integer)) and not isinstance(record, bool):
        every = integer("record", record, minimum=1)
        memory.require(f"{n_steps // every:.3g} recorded steps", 24.0 * (n_steps // every), "record fewer")
        inner = np.arange(0, n_steps, every)
    else:
        if not np.iterable(record) or isinstance(record, str):
            raise InputError(f"record: expected None, an integer or a list of steps, got {record!r}")
        inner = np.asarray([integer("record", step, maximum=n_steps) for step in record])
    steps = np.sort(np.concatenate([[0], inner, [n_steps]]).astype(np.int64), kind="stable")
    return steps[np.append(True, np.diff(steps) > 0)]  # np.unique takes a hundred times as long on millions


@np.errstate(over="ignore", invalid="ignore")  # divergence is a result
def follow(
    problem: Problem,
    sgd: SGD,
    regime: Regime,
    steps: np.ndarray,
    observe: tuple[Observable, ...],
    replicates: int,
    seed: int,
    tick: Callable[[int], object] | None = None,
    look: Callable[[int, Run, np.ndarray], None] | None = None,
) -> Trace:
    """Run one cell and record it at `steps`; the loop under `simulate` and `sweep`.

    `look` is called after each recorded step at which a replicate still runs, with the step, the run and the replicates
    in it. Ctrl-C ends the run early: what was recorded stays, the rest is NaN, and `interrupted` is set.
    """
    launch()
    replicates = replicates if regime.stochastic else 1
    began = time.perf_counter()
    values: dict[str, np.ndarray] = {}
    diverged_at = np.full(replicates, -1, np.int64)
    outcome = np.full(replicates, OUTCOMES.index("completed"), np.int8)
    followed, report, interrupted = np.arange(replicates), regime.offset(problem), False
    least, quantities = least_scale(problem, sgd, regime), needed(observe)
    try:
        direct = regime.direct(problem, sgd, steps, quantities)
        if direct is not None:
            return known_trace(problem, regime, *direct, steps, observe, time.perf_counter() - began, least)
        test = any(name.startswith("test_") for name in quantities)
        run = regime.start(problem, sgd, replicates=replicates, seed=seed, test=test)
        driver = _Driver(run, tick)
        for column, step in enumerate(steps.tolist()):
            driver.advance_to(step)
            seen = regime.shown(problem, run.observe(quantities))
            _record(problem, seen, observe, values, followed, column, (replicates, steps.size))
            bad = has_diverged(values["loss"][:, column], values["loss"][:, 0], least)
            diverged_at[bad & (diverged_at < 0)] = step
            going_on = np.flatnonzero(diverged_at[followed] < 0)
            if not going_on.size:
                break
            if look:
                look(step, run, followed)
            if going_on.size < followed.size and run.keep(going_on):
                followed = followed[going_on]
        report |= run.report()
    except KeyboardInterrupt:
        interrupted = True
        outcome[:] = OUTCOMES.index("interrupted")
    _mark_diverged(values, outcome, diverged_at, steps, observe)
    return Trace(values, outcome, diverged_at, time.perf_counter() - began, interrupted, report)


class _Driver:
    """Takes a run's steps in pieces of about `_CHUNK_SECONDS`, after each of which `tick` is told how many; before the
    first after a recorded step, 0."""

    def __init__(self, run: Run, tick: Callable[[int], object] | None) -> None:
        self.run, self.tick, self.now, self.piece = run, tick, 0, 64

    def advance_to(self, step: int) -> None:
        if self.tick and self.now < step:
            self.tick(0)  # what a recorded step took is over
        while self.now < step:
            stop = min(step, self.now + self.piece)
            since = time.perf_counter()
            self.run.advance(self.now, stop)
            spent = time.perf_counter() - since
            raise_again()
            if self.tick:
                self.tick(stop - self.now)
            if spent < _CHUNK_SECONDS / 2 and stop - self.now == self.piece:
                self.piece *= 2
            elif spent > _CHUNK_SECONDS * 2:
                self.piece = max(1, self.piece // 2)
            self.now = stop


def _record(
    problem: Problem,
    quantities: dict[str, np.ndarray],
    observe: tuple[Observable, ...],
    values: dict[str, np.ndarray],
    followed: np.ndarray,
    column: int,
    shape: tuple[int, int],
) -> None:
    """Enter what the replicates `followed` show into the recorded step `column` of `values`, of `shape` (R, T)."""
    for observable in observe:
        seen, name = observable.compute(problem, quantities), observable.variable
        if name not in values:
            values[name] = np.full((*shape, *seen.shape[1:]), np.nan)
        values[name][followed, column] = seen


def has_diverged(loss: np.ndarray | float, initial: np.ndarray | float, least: float = 0.0) -> np.ndarray:
    """Whether losses have passed 10¹⁰ times their scale, or are no numbers: the one rule for all runs.

    The scale is the loss at the start, `initial`, which broadcasts against `loss`, but no less than `least_scale`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return ~(loss <= DIVERGED_ABOVE * np.maximum(initial, least)) | ~np.isfinite(loss)


def least_scale(problem: Problem, sgd: SGD, regime: Regime) -> float:
    """What a loss is measured by where a run starts at its targets, with a loss of 0 or of rounding errors alone.

    Noisy labels move such a run away, up to about the loss that they have themselves, σ²/2; a network's outputs are
    known to rounding errors of about eps times the targets. Weight decay moves it as far as the loss where it pulls to.
    """
    rounding = 0.0
    if sgd.weight_decay:
        quadratic, y = problem.quadratic, problem.targets
        pulled = quadratic.origin_squares.sum() / quadratic.normaliser if y is None else np.sum(y**2) / len(y)
        return 0.5 * float(max(problem.with_errors(sgd).label_noise ** 2, pulled))
    if problem.targets is not None:
        rounding = float(np.finfo(getattr(regime, "dtype", "float64")).eps) ** 2 * float(np.mean(problem.targets**2))
    return 0.5 * max(problem.with_errors(sgd).label_noise ** 2, rounding)


def known_trace(
    problem: Problem,
    regime: Regime,
    quantities: dict[str, np.ndarray],
    report: dict[str, float],
    steps: np.ndarray,
    observe: tuple[Observable, ...],
    seconds: float,
    least: float = 0.0,
) -> Trace:
    """The trace of a cell whose quantities `quantities` (R, T) at all `steps` are known without stepping there."""
    seen = regime.shown(problem, quantities)
    values = {observable.variable: np.array(observable.compute(problem, seen)) for observable in observe}
    bad = has_diverged(values["loss"], values["loss"][:, :1], least)
    diverged_at = np.where(bad.any(1), steps[bad.argmax(1)], -1)
    outcome = np.full(len(diverged_at), OUTCOMES.index("completed"), np.int8)
    _mark_diverged(values, outcome, diverged_at, steps, observe)
    return Trace(values, outcome, diverged_at, seconds, False, report | regime.offset(problem))


def _mark_diverged(
    values: dict[str, np.ndarray],
    outcome: np.ndarray,
    diverged_at: np.ndarray,
    steps: np.ndarray,
    observe: tuple[Observable, ...],
) -> None:
    """Infinity, or what an observable has for it, from where divergence was seen, in place."""
    for replicate in np.flatnonzero(diverged_at >= 0):
        outcome[replicate] = OUTCOMES.index("diverged")
        for observable in observe:
            if observable.variable in values:  # not where Ctrl-C came first
                values[observable.variable][replicate, steps >= diverged_at[replicate]] = observable.diverged


def warn_interrupted() -> None:
    """Say, where the caller sees it, that a result is partial."""
    warn("interrupted: the result holds what was done until then")
