"""Many cells: hyperparameter grids followed in several regimes, in one labelled result that survives what may come."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib.metadata
import inspect
import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sgdsim.common import files, identity
from sgdsim.common.checks import InputError, integer
from sgdsim.common.signals import held_back, one_interruption
from sgdsim.problem import Problem
from sgdsim.regimes.base import Regime
from sgdsim.runs import estimates, executors, parts, results
from sgdsim.runs.chunks import Chunk, Done, Settings, plan
from sgdsim.runs.follow import OUTCOMES, check_observe, record_steps, warn_interrupted
from sgdsim.runs.grids import Cell, Grid
from sgdsim.runs.progress import Progress, check_log

__all__ = ["Grid", "merge", "sweep"]


class NotSaved(InputError):
    """The sweep was run, but its `result` could not be written."""

    def __init__(self, message: str, result: xr.Dataset) -> None:
        super().__init__(message)
        self.result = result


def sweep(
    problem: Problem | Callable[..., Problem],
    grid: Grid,
    regimes: Sequence[Regime],
    n_steps: int,
    *,
    record: int | Sequence[int] | None = None,
    observe: Sequence[str] = ("loss",),
    replicates: int = 1,
    seed: int = 0,
    progress: bool = False,
    path: str | os.PathLike | None = None,
    resume: bool = True,
    retry_failed: bool = False,
    shard: tuple[int, int] | None = None,
    executor: Any = None,
    log_file: str | os.PathLike | None = None,
    on_error: str = "record",
) -> xr.Dataset:
    """Follow every cell of `grid` in every regime.

    Replicate r sees the same batches in every cell of equal batch size and in every regime, so that differences between
    cells and regimes are not sampling noise. The numbers depend on neither executor nor interruptions.

    Parameters
    ----------
    problem : a problem, or a function of the grid's problem axes that makes one, such as `QuadraticProblem.power_law`.
    n_steps, record, observe, replicates, seed : as in `simulate`.
    path : save the result there. While the sweep goes on, the cells that are done are kept in the folder `PATH.parts`
        (`sgdsim.runs.parts`), so that however it ends, the same call goes on with what is missing.
    resume : False: begin anew and replace what is at `path`.
    retry_failed : run the cells again that raised an exception before.
    shard : (3, 16): only the third of sixteen shares of the work, into the parts at `path`; see `merge`.
    executor : "serial", "threads" (as many as cores; the default), "dask" (a local cluster), "dask:ADDRESS", a
        `distributed.Client`, or any `concurrent.futures.Executor`.
    log_file : append a line of JSON for each chunk of cells that is done.
    on_error : what an exception in a cell does: "record" it and go on with the others, or "raise" it.

    Returns
    -------
    xarray.Dataset in the schema of `sgdsim.runs.results`, dims (grid…, regime, replicate, step). Where cells failed,
    `error` says why. After Ctrl-C or a broken executor the rest is NaN, `done` is False there and the attribute
    `interrupted` is 1; so is the file at `path` after SIGTERM, which then ends the process unless that has a handler
    of its own. A Ctrl-C that comes while the result is saved is raised when the file is whole.

    Raises
    ------
    InputError : before any step is taken: bad arguments, an unwritable `path` or another sweep there, or a regime that
        cannot follow a cell. Where the disk fills up meanwhile: after the work, and what could be kept is there.
    """
    regimes = [regimes] if isinstance(regimes, Regime) else regimes
    regimes = list(regimes) if isinstance(regimes, (list, tuple)) else [regimes]
    for name, given, kinds in (
        ("grid", grid, Grid), ("problem", problem, (Problem, Callable)),
        *(("regimes", regime, Regime) for regime in regimes),
    ):  # fmt: skip
        if not isinstance(given, kinds):
            expected = {"grid": "a Grid", "problem": "a problem, or a function that makes one"}
            told = expected.get(name, "regimes, such as SpectralDiagonal()")
            raise InputError(f"{name}: expected {told}, got {given!r}"[:300])
    names = [regime.name for regime in regimes]
    if not names or len(set(names)) < len(names):
        raise InputError(f"regimes: expected different regimes, at least one; got {names}")
    record = list(record) if isinstance(record, Iterator) else record  # it is asked for twice
    settings = Settings(
        record_steps(n_steps, record), _observe(problem, observe), integer("replicates", replicates, minimum=1),
        integer("seed", seed), on_error == "raise",
    )  # fmt: skip
    if on_error not in ("record", "raise"):
        raise InputError(f"on_error: expected record or raise, got {on_error!r}")
    cells = list(grid.whole_cells())
    _check(problem, grid, cells, regimes, settings)
    estimates.check(problem, cells, regimes, settings)
    if shard is not None:
        shard = _shard(shard, path, resume)
    held = settings.replicates if any(regime.stochastic for regime in regimes) else 1
    settings = dataclasses.replace(settings, replicates=held)
    problems = _Problems(problem)
    asked = _asked(problems, grid, cells, regimes, n_steps, record, settings)
    result = _empty(problem, grid, regimes, settings, asked)
    work = executors.Work(problems, regimes, cells, settings)
    chunks = plan(cells, regimes, settings, None if callable(problem) else problem.n)
    check_log(log_file)
    if path is not None:
        files.check_writable(path)
    with one_interruption() as ended, _opened(path, asked, alone=shard is None) as store:
        if store is not None and resume:
            store.check()
            _take_over(result, path, asked)
        elif store is not None:
            store.remove()
        keeping = store is not None and (len(chunks) > 1 or shard is not None)
        failure, result.attrs["interrupted"] = None, 1  # until the last chunk is done
        with contextlib.suppress(KeyboardInterrupt):
            if keeping:
                store.begin(result)
                for done in store.finished():
                    _enter(result, grid, done)
            todo = [chunk for chunk in chunks if not _is_done(result, grid, chunk, retry_failed)]
            if shard is not None:
                todo = [chunk for chunk in todo if chunk.number % shard[1] == shard[0] - 1]
            with Progress(progress, chunks, todo, grid, names, log_file) as bar:
                failure = _follow(work, executor, todo, result, grid, store if keeping else None, bar)
        if store is not None and shard is None:
            with held_back():
                try:
                    results.save(result, path)
                except InputError as error:
                    raise NotSaved(str(error), result) from error
                try:
                    store.remove()
                except InputError as error:
                    warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        elif failure is not None:
            raise NotSaved(str(failure), result)
    if ended:
        signal.raise_signal(signal.SIGTERM)  # saved: now the process ends, as whoever sent it wants
    if result.attrs["interrupted"]:
        warn_interrupted()
    _warn_of_failures(result)
    return result


def _opened(
    path: str | os.PathLike | None, asked: parts.Asked, *, alone: bool
) -> contextlib.AbstractContextManager[parts.Parts | None]:
    return contextlib.nullcontext() if path is None else parts.opened(path, asked, alone=alone)


def _follow(
    work: executors.Work,
    executor: Any,
    todo: Sequence[Chunk],
    result: xr.Dataset,
    grid: Grid,
    store: parts.Parts | None,
    bar: Progress,
) -> InputError | None:
    """Compute `todo` into `result` and the store, until the end or an interruption; why the store could not be written,
    or None."""
    failure, stopped = None, False
    with contextlib.suppress(KeyboardInterrupt):  # also between two chunks
        try:
            with contextlib.closing(executors.stream(executor, work, todo, bar.tick)) as stream:
                for chunk, done in stream:
                    with held_back():
                        _enter(result, grid, done)
                        bar.add(chunk, done)
                        stopped |= not done.ended.all()
                        if store is not None and done.ended.all() and failure is None:
                            try:
                                store.write(chunk.number, done)
                            except InputError as error:  # the disk is full: go on, it may still hold the result
                                failure = error
                result.attrs["interrupted"] = int(stopped)
        except concurrent.futures.BrokenExecutor as error:
            warnings.warn(
                f"a worker process of the executor died ({error}); the same call goes on with what is missing",
                RuntimeWarning,
                stacklevel=3,
            )
    return failure


def _warn_of_failures(result: xr.Dataset) -> None:
    """Say, where the caller of `sweep` sees it, which cells failed."""
    messages = [text for text in result["error"].values.ravel() if text] if "error" in result else []
    if messages:
        warnings.warn(
            f"{len(messages)} of {result['error'].size} runs of cells failed, the first with: {messages[0]}",
            RuntimeWarning,
            stacklevel=3,
        )


def _shard(shard: Any, path: Any, resume: bool) -> tuple[int, int]:
    """The checked shard, (i, k)."""
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise InputError(f"shard: expected (i, k), the i-th of k shares, such as (3, 16), got {shard!r}")
    if path is None:
        raise InputError("shard: expected a path, where the shards are brought together; got none")
    if not resume:
        raise InputError("resume: expected True with a shard, as the other shards' parts are at the same path")
    count = integer("shard", shard[1], minimum=1)
    return integer("shard", shard[0], minimum=1, maximum=count), count


def merge(path: str | os.PathLike, folders: Iterable[str | os.PathLike] = ()) -> xr.Dataset:
    """Bring the shards of a sweep together, into one result at `path`.

    `folders`: where the parts are; by default `PATH.parts`, where shards of one file system are. They stay there.
    Returns the result; cells that no shard has done are NaN, `done` is False there and `interrupted` is 1. Raises
    InputError for folders that hold no parts, or those of different sweeps.
    """
    homes = [Path(folder) for folder in folders] or [parts.folder(path)]
    result, asked = None, None
    files.check_writable(path)
    for home in homes:
        empty, other, chunks = parts.read(home)
        if result is None:
            result, asked = empty, other
        parts.check_same(os.fspath(home), other, asked)
        shape = result["done"].shape[:-1]
        for done in chunks:
            _enter(result, shape, done)
    result.attrs["interrupted"] = int(not result["done"].values.all())
    results.save(result, path)
    return result


def _observe(problem: Any, observe: Sequence[str]) -> tuple[str, ...]:
    if not callable(problem):
        return check_observe(problem, observe)
    if not np.iterable(observe):
        raise InputError(f"observe: expected loss where the problem is on the grid, got {observe!r}"[:300])
    observe = (observe,) if isinstance(observe, str) else tuple(map(str, observe))
    if observe != ("loss",):
        raise InputError(f"observe: expected loss where the problem is on the grid, got {', '.join(observe)}")
    return observe


def _check(problem: Any, grid: Grid, cells: list[Cell], regimes: list[Regime], settings: Settings) -> None:
    """InputError for what can be told before the work."""
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
    if callable(problem):
        return  # each problem may refuse its cells
    problem.check_unchanged()
    for cell in cells:
        cell.sgd.check(problem.n, int(settings.steps[-1]))
        for regime in regimes:
            regime.check(problem, cell.sgd)


def _asked(
    problems: _Problems,
    grid: Grid,
    cells: list[Cell],
    regimes: list[Regime],
    n_steps: int,
    record: Any,
    settings: Settings,
) -> dict[str, Any]:
    """All that decides the numbers, JSON-able."""
    return {
        "schema": results.SCHEMA,
        "grid": grid.spec(),
        "axes": list(grid.axes),  # chunks number the cells in this order
        "zip": grid.zipped,
        "regimes": [regime.name for regime in regimes],
        "regime_parameters": [dataclasses.asdict(regime) for regime in regimes],
        "n_steps": int(n_steps),
        "record": "log" if record is None else np.asarray(record).tolist(),
        "observe": list(settings.observe),
        "replicates": settings.replicates,
        "seed": str(settings.seed),
        "problem": problems.identity(cells[0].problem),
        "sgdsim_version": importlib.metadata.version("sgdsim"),
    }


def _empty(problem: Any, grid: Grid, regimes: list[Regime], settings: Settings, asked: dict[str, Any]) -> xr.Dataset:
    """The result without numbers."""
    axes, along = grid.coordinates()
    names = [regime.name for regime in regimes]
    one = None if callable(problem) else problem.quadratic
    spectrum: tuple = (np.zeros(0), np.zeros(0), None)
    if one is not None:
        spectrum = (one.eigenvalues, one.coefficients, one.multiplicity)
    result = results.allocate(axes, along, names, settings.replicates, settings.steps, settings.observe, *spectrum)
    kept = ("grid", "zip", "regimes", "regime_parameters", "n_steps", "record", "observe", "replicates")
    description = {"title": "problems on the grid", "made_by": asked["problem"]} if one is None else problem.description
    result.attrs = results.provenance(
        {key: asked[key] for key in kept}, description, asked["problem"] if one is None else one.fingerprint,
        settings.seed, getattr(problem, "device", "cpu"),
    )  # fmt: skip
    result.attrs["asked"] = json.dumps(asked)
    return result


def _take_over(result: xr.Dataset, path: str | os.PathLike, asked: dict[str, Any]) -> None:
    """Take what is done from the result at `path`, if there is one; InputError if it is of another sweep."""
    if not os.path.exists(path):
        return
    before = results.load(path)
    parts.check_same(os.fspath(path), results.asked_of(before, path), asked)
    for name, variable in result.variables.items():
        if name not in before.variables or before[name].dims != variable.dims or before[name].shape != variable.shape:
            raise InputError(f"{path}: expected a sweep with {name} {dict(variable.sizes)}, got one without; remove it")
    done = before["done"].values.astype(bool)
    for name, variable in result.data_vars.items():
        if variable.dims[: done.ndim] == result["done"].dims:
            variable.values[done] = before[name].values[done]
    if "error" in before:
        result["error"] = before["error"].astype(object)


def _is_done(result: xr.Dataset, grid: Grid, chunk: Chunk, retry_failed: bool) -> bool:
    where = (*np.unravel_index(np.array(chunk.cells), grid.shape), chunk.regime)
    if retry_failed and (result["outcome"].values[where] == OUTCOMES.index("failed")).any():
        return False
    return bool(result["done"].values[where].all())


def _enter(result: xr.Dataset, grid: Grid | tuple[int, ...], done: Done) -> None:
    """Write what a chunk gave into the result."""
    shape = grid if isinstance(grid, tuple) else grid.shape
    where = (*np.unravel_index(done.cells, shape), np.full(done.cells.size, done.regime))
    rows = slice(0, done.outcome.shape[1])
    for name, values in done.values.items():
        result[name].values[(*where, rows)] = values
    result["outcome"].values[(*where, rows)] = done.outcome
    result["diverged_at"].values[(*where, rows)] = done.diverged_at
    result["seconds"].values[where] = done.seconds
    for name, values in done.report.items():
        result[name].values[where] = values
    result["done"].values[where] = done.ended
    if done.failed and "error" not in result:
        dims = result["done"].dims
        text = {"long_name": "why a cell failed"}
        result["error"] = (dims, np.full(result["done"].shape, "", dtype=object), text)
    if "error" in result:
        result["error"].values[where] = np.array(done.errors, dtype=object)


class _Problems:
    """The problem of each chunk: the one, or what the function makes of the values; the last one is kept."""

    def __init__(self, source: Any) -> None:
        self.source, self.values, self.last, self.lock = source, None, None, threading.Lock()

    def __call__(self, values: dict[str, Any]) -> Problem:
        if not callable(self.source):
            return self.source
        with self.lock:
            if self.values != values:
                self.last, self.values = self.source(**values), dict(values)
            return self.last

    def identity(self, values: dict[str, Any]) -> str:
        """What tells the problem, or the function that makes problems, from others. Of a function that is its name, its
        code and arguments as far as Python shows them, and the problem that it makes of `values`."""
        if not callable(self.source):
            return self.source.fingerprint
        try:
            first = self(values).fingerprint
        except Exception:  # its cells fail, and say why
            first = "none"
        return f"{identity.of_function(self.source)} {first}"
