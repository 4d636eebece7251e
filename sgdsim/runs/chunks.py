"""The work of a sweep in chunks: some cells of one problem in one regime, the same chunks whoever computes them.

How the cells are cut depends on the sweep's specification alone, never on the machine or on what is done already, so
that a resumed, sharded or distributed sweep gives the numbers of an uninterrupted serial one to the last bit.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.observables import Observable, needed
from sgdsim.problem import Problem
from sgdsim.regimes.base import Regime
from sgdsim.runs.follow import OUTCOMES, Trace, follow, known_trace
from sgdsim.runs.grids import Cell

_CHUNK_SECONDS = 0.5  # of work in a chunk, roughly: then neither starting nor storing it counts
_LARGEST = 512  # cells of a chunk
FAILED, INTERRUPTED, NOT_RUN = (OUTCOMES.index(name) for name in ("failed", "interrupted", "not_run"))


@dataclass(frozen=True)
class Chunk:
    """Cells `cells` (flat numbers on the grid) of the problem made with `values`, in the regime number `regime`."""

    number: int
    regime: int
    values: tuple[tuple[str, Hashable], ...]
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """What all chunks of a sweep have in common; each regime observes what it knows of `observe`."""

    steps: np.ndarray
    observe: tuple[Observable, ...]
    replicates: int
    seed: int
    raising: bool = False  # exceptions end the work instead of being recorded


@dataclass
class Done:
    """What a chunk gives, an entry per cell: `values[variable]` (cells, R, T[, modes]), `outcome` and `diverged_at`
    (cells, R), `seconds` (cells,), `report[name]` (cells,), and the message where a cell failed, else ""."""

    regime: int
    cells: np.ndarray
    values: dict[str, np.ndarray]
    outcome: np.ndarray
    diverged_at: np.ndarray
    seconds: np.ndarray
    report: dict[str, np.ndarray] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def ended(self) -> np.ndarray:
        """Whether each cell came to its end, in whatever way, with all its replicates, (cells,)."""
        return np.logical_not(np.isin(self.outcome, (INTERRUPTED, NOT_RUN)).any(1))

    @property
    def failed(self) -> bool:
        """Whether a cell raised an exception."""
        return any(self.errors)


def plan(cells: Sequence[Cell], regimes: Sequence[Regime], settings: Settings, n: int | None) -> list[Chunk]:
    """All chunks, cell by cell and the regimes of each in turn. `n`: training points, None where cells differ in it."""
    by_problem: dict[tuple, list[int]] = {}
    for number, cell in enumerate(cells):
        by_problem.setdefault(tuple(cell.problem.items()), []).append(number)
    out = []
    for values, members in by_problem.items():
        size = dict(values).get("n", n)
        pieces = []
        for position, regime in enumerate(regimes):
            longest = max(
                regime.cost(size or 1000, cells[i].sgd, settings.steps, settings.replicates)
                for i in members[:: max(1, len(members) // 50)]
            )
            each = int(min(max(_CHUNK_SECONDS / max(longest, 1e-9), 1), _LARGEST))
            parts = [tuple(members[i : i + each]) for i in range(0, len(members), each)]
            pieces += [(part[0], position, part) for part in parts]
        out += [(values, *piece) for piece in sorted(pieces)]
    return [Chunk(i, position, values, part) for i, (values, _, position, part) in enumerate(out)]


def compute(
    problem: Problem,
    regime: Regime,
    chunk: Chunk,
    cells: Sequence[Cell],
    settings: Settings,
    tick: Callable[[float], None] | None = None,
) -> Done:
    """Follow the chunk's `cells`. A cell that raises is recorded as failed; Ctrl-C, or KeyboardInterrupt out of `tick`
    (told how many cells, or what part of one, are done), leaves the cell in work and those behind it interrupted."""
    traces: list[Trace | str] = []
    traces += _directly(problem, regime, cells, settings) or []
    for cell in cells[len(traces) :]:
        try:
            if chunk.values:  # what could not be checked before there was a problem
                _check(problem, regime, cell, settings)
            traces.append(_followed(problem, regime, cell, settings, tick))
        except Exception as error:  # it is data: the other cells do not depend on it
            if settings.raising:
                raise
            traces.append(message(error))
        if isinstance(traces[-1], Trace) and traces[-1].interrupted:
            break
    return _packed(chunk, regime, traces, len(cells), settings)


def skipped(chunk: Chunk, regime: Regime, settings: Settings) -> Done:
    """The chunk without anything done."""
    return _packed(chunk, regime, [], len(chunk.cells), settings)


def failed(chunk: Chunk, regime: Regime, settings: Settings, message: str) -> Done:
    """The chunk with `message` in every cell."""
    return _packed(chunk, regime, [message] * len(chunk.cells), len(chunk.cells), settings)


def message(error: BaseException) -> str:
    """The error in one line; ours need no name."""
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _check(problem: Problem, regime: Regime, cell: Cell, settings: Settings) -> None:
    """InputError where the regime cannot follow the cell on this problem, or it has no such observable."""
    cell.sgd.check(problem.n, int(settings.steps[-1]))
    regime.check(problem, cell.sgd)
    for observable in settings.observe:
        observable.check(problem)


def _followed(
    problem: Problem, regime: Regime, cell: Cell, settings: Settings, tick: Callable[[float], None] | None
) -> Trace:
    steps, last = settings.steps, int(settings.steps[-1])
    moved = None if tick is None else lambda taken: tick(taken / last)
    own = _with_tau(regime, cell)
    observe = regime.known(settings.observe)
    return follow(problem, cell.sgd, own, steps, observe, settings.replicates, settings.seed, moved)


def _with_tau(regime: Regime, cell: Cell) -> Regime:
    """The regime with the cell's τ, where that is an axis of the grid."""
    return regime if cell.tau is None else dataclasses.replace(regime, **{"tau": cell.tau})


def _directly(problem: Problem, regime: Regime, cells: Sequence[Cell], settings: Settings) -> list[Trace] | None:
    """All cells at once where the regime can."""
    if len(cells) < 2:
        return None
    since, steps, observe = time.perf_counter(), settings.steps, regime.known(settings.observe)
    algorithms, regimes = [cell.sgd for cell in cells], [_with_tau(regime, cell) for cell in cells]
    try:
        known = regime.direct_cells(problem, algorithms, regimes, steps, needed(observe))
    except Exception:  # one cell after the other then, to see which one it is
        return None
    if known is None:
        return None
    each = (time.perf_counter() - since) / len(cells)
    return [
        known_trace(problem, regime, given, report, steps, observe, each)
        for regime, (given, report) in zip(regimes, known, strict=True)
    ]


def _packed(chunk: Chunk, regime: Regime, traces: list[Trace | str], count: int, settings: Settings) -> Done:
    """The first cells' traces, or why they failed, as one; the cells behind them were not run."""
    shape = count, settings.replicates if regime.stochastic else 1
    outcome, diverged_at = np.full(shape, NOT_RUN, np.int8), np.full(shape, -1, np.int64)
    cells = np.array(chunk.cells, np.int64)
    done = Done(chunk.regime, cells, {}, outcome, diverged_at, np.zeros(count), errors=[""] * count)
    for number, trace in enumerate(traces):
        if isinstance(trace, str):
            done.errors[number], outcome[number] = trace or "unknown error", FAILED
            continue
        for name, values in trace.values.items():
            if name not in done.values:
                done.values[name] = np.full((count, *values.shape), np.nan)
            done.values[name][number] = values
        outcome[number], done.diverged_at[number] = trace.outcome, trace.diverged_at
        done.seconds[number] = trace.seconds
        for name, value in trace.report.items():
            done.report.setdefault(name, np.full(count, np.nan))[number] = value
    return done
