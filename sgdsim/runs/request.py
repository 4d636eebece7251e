"""What a sweep is asked to do: its arguments checked together, and what of them tells it from another."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np

from sgdsim.common import identity
from sgdsim.common.checks import InputError, integer
from sgdsim.observables import Observable, parse_all
from sgdsim.problem import Problem
from sgdsim.regimes.base import Regime
from sgdsim.runs import results
from sgdsim.runs.chunks import Settings
from sgdsim.runs.follow import MAX_REPLICATES, record_steps
from sgdsim.runs.grids import Cell, Grid

ProblemSource = Problem | Callable[..., Problem]


class Problems:
    """The problem of each chunk: the one, or what the function makes of the values; the last one is kept."""

    def __init__(self, source: ProblemSource) -> None:
        self.source, self.lock = source, threading.Lock()
        self.last: tuple[dict[str, object], Problem] | None = None

    @property
    def only(self) -> Problem | None:
        """The one problem; None where a function makes them."""
        return None if callable(self.source) else self.source

    def __call__(self, values: dict[str, object]) -> Problem:
        if not callable(self.source):
            return self.source
        with self.lock:
            if self.last is None or self.last[0] != values:
                self.last = dict(values), self.source(**values)
            return self.last[1]

    def identity(self, values: dict[str, object]) -> str:
        """What tells the problem, or the function that makes problems, from others. Of a function that is its name, its
        code and arguments as far as Python shows them, and the problem that it makes of `values`."""
        if not callable(self.source):
            return self.source.fingerprint
        try:
            first = self(values).fingerprint
        except Exception:  # its cells fail, and say why
            first = "none"
        return f"{identity.of_function(self.source)} {first}"


@dataclasses.dataclass(frozen=True)
class Request:
    """The checked arguments of a sweep: each cell in each regime, with what all runs have in common in `settings`."""

    problems: Problems
    grid: Grid
    cells: list[Cell]
    regimes: list[Regime]
    settings: Settings
    record: int | Sequence[int] | None

    @property
    def names(self) -> list[str]:
        """Of the regimes."""
        return [regime.name for regime in self.regimes]

    def without_spare_replicates(self) -> Request:
        """With one replicate where no regime is stochastic."""
        if any(regime.stochastic for regime in self.regimes):
            return self
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, replicates=1))

    def asked(self) -> dict[str, object]:
        """All that decides the numbers, JSON-able."""
        settings = self.settings
        return {
            "schema": results.SCHEMA,
            "grid": self.grid.spec(),
            "axes": list(self.grid.axes),  # chunks number the cells in this order
            "zip": self.grid.zipped,
            "regimes": self.names,
            "regime_parameters": [dataclasses.asdict(regime) for regime in self.regimes],
            "n_steps": int(settings.steps[-1]),
            "record": "log" if self.record is None else np.asarray(self.record).tolist(),
            "observe": [observable.spec for observable in settings.observe],
            "replicates": settings.replicates,
            "seed": str(settings.seed),
            "problem": self.problems.identity(self.cells[0].problem),
            "sgdsim_version": importlib.metadata.version("sgdsim"),
        }


def checked(
    problem: ProblemSource,
    grid: Grid,
    regimes: Regime | Sequence[Regime],
    n_steps: int,
    *,
    record: int | Sequence[int] | None,
    observe: Sequence[str | Observable],
    replicates: int,
    seed: int,
    on_error: str,
) -> Request:
    """The arguments as `sgdsim.sweep` describes them; InputError for what can be told before the work."""
    followed = cast(list[Regime], list(regimes) if isinstance(regimes, (list, tuple)) else [regimes])
    _check_kinds(problem, grid, followed)
    record = list(record) if isinstance(record, Iterator) else record  # it is asked for twice
    settings = Settings(
        record_steps(n_steps, record),
        _observe(problem, observe),
        integer("replicates", replicates, minimum=1, maximum=MAX_REPLICATES),
        integer("seed", seed),
        on_error == "raise",
    )
    if on_error not in ("record", "raise"):
        raise InputError(f"on_error: expected record or raise, got {on_error!r}")
    last = int(settings.steps[-1])
    grid = grid.over(last)
    request = Request(Problems(problem), grid, list(grid.whole_cells()), followed, settings, record)
    _check_axes(problem, grid, request.cells, followed)
    for observable in settings.observe:
        if all(regime.lacks(observable) for regime in followed):
            followed[0].check_observable(observable)
    for cell in request.cells:
        cell.sgd.check_average(last)
    if not callable(problem):  # else each problem may refuse its cells
        problem.check_unchanged()
        for cell in request.cells:
            cell.sgd.check(problem.n, last)
            for regime in followed:
                regime.check(problem, cell.sgd)
    return request


def _check_kinds(problem: object, grid: object, regimes: list[Regime]) -> None:
    """InputError for what is of another kind, and for regimes of one name."""
    problem_fits = isinstance(problem, Problem) or callable(problem)
    for name, given, fits, expected in (
        ("grid", grid, isinstance(grid, Grid), "a Grid"),
        ("problem", problem, problem_fits, "a problem, or a function that makes one"),
        *(("regimes", r, isinstance(r, Regime), "regimes, such as SpectralDiagonal()") for r in regimes),
    ):
        if not fits:
            raise InputError(f"{name}: expected {expected}, got {given!r}"[:300])
    names = [regime.name for regime in regimes]
    if not names or len(set(names)) < len(names):
        raise InputError(f"regimes: expected different regimes, at least one; got {names}")


def _observe(problem: ProblemSource, observe: Sequence[str | Observable]) -> tuple[Observable, ...]:
    """The observables, the loss first. Where the problem is on the grid, each may refuse them in its cells."""
    out = parse_all(observe)
    for observable in out:
        if not callable(problem):
            observable.check(problem)
        elif observable.dims:
            raise InputError(
                f"observe: expected a number at each step where the problem is on the grid, got {observable.spec}, "
                f"which is one for each {observable.dims[0]}"
            )
    return out


def _check_axes(problem: ProblemSource, grid: Grid, cells: list[Cell], regimes: list[Regime]) -> None:
    """Axes that the problem's function does not take, or that have no function; τ where a regime has none."""
    if bool(grid.problem_axes) and not callable(problem):
        axes = ", ".join(grid.problem_axes)
        raise InputError(
            f"grid: expected axes from lr, momentum, batch_size, sampling and tau, or parameters of a schedule, got "
            f"{axes}; others need a function that makes the problem from them, such as QuadraticProblem.power_law"
        )
    if callable(problem):
        if not grid.problem_axes:
            raise InputError("grid: expected axes for the function that makes the problem, got none")
        try:
            inspect.signature(problem).bind(**cells[0].problem)
        except TypeError as error:
            raise InputError(f"grid: expected axes that the problem's function takes, got: {error}") from error
    if "tau" in grid.axes:
        for regime in regimes:
            if not hasattr(regime, "tau"):
                raise InputError(f"tau: expected the diagonal regime alone where tau is an axis, got {regime.name}")


def checked_shard(shard: object, path: str | os.PathLike | None, resume: bool) -> tuple[int, int]:
    """(i, k), the i-th of k shares; InputError for anything else, and without a path to bring them together at."""
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise InputError(f"shard: expected (i, k), the i-th of k shares, such as (3, 16), got {shard!r}")
    if path is None:
        raise InputError("shard: expected a path, where the shards are brought together; got none")
    if not resume:
        raise InputError("resume: expected True with a shard, as the other shards' parts are at the same path")
    count = integer("shard", shard[1], minimum=1)
    return integer("shard", shard[0], minimum=1, maximum=count), count
