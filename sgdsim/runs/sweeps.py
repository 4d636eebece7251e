"""Many cells: hyperparameter grids followed in several regimes, in one labelled result that survives what may come."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr

from sgdsim.common import files
from sgdsim.common.checks import InputError
from sgdsim.common.signals import held_back, one_interruption
from sgdsim.observables import Observable
from sgdsim.problem import Problem
from sgdsim.regimes.base import Regime
from sgdsim.runs import assembly, estimates, executors, parts, results
from sgdsim.runs.assembly import merge
from sgdsim.runs.chunks import Chunk, plan
from sgdsim.runs.follow import warn_interrupted
from sgdsim.runs.grids import Grid
from sgdsim.runs.progress import Progress, check_log
from sgdsim.runs.request import checked, checked_shard

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
    observe: Sequence[str | Observable] = ("loss",),
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
    request = checked(
        problem, grid, regimes, n_steps, record=record, observe=observe, replicates=replicates, seed=seed,
        on_error=on_error,
    )  # fmt: skip
    estimates.check(problem, request.cells, request.regimes, request.settings)
    if shard is not None:
        shard = checked_shard(shard, path, resume)
    request = request.without_spare_replicates()
    asked = request.asked()
    result = assembly.empty(request, asked)
    work = executors.Work(request.problems, request.regimes, request.cells, request.settings)
    chunks = plan(work.cells, work.regimes, work.settings, None if callable(problem) else problem.n)
    check_log(log_file)
    if path is not None:
        files.check_writable(path)
    with one_interruption() as ended, _opened(path, asked, alone=shard is None) as store:
        if store is not None and resume:
            store.check()
            assembly.take_over(result, path, asked)
        elif store is not None:
            store.remove()
        keeping = store is not None and (len(chunks) > 1 or shard is not None)
        failure, result.attrs["interrupted"] = None, 1  # until the last chunk is done
        with contextlib.suppress(KeyboardInterrupt):
            if keeping:
                store.begin(result)
                for done in store.finished():
                    assembly.enter(result, grid, done)
            todo = [chunk for chunk in chunks if not assembly.is_done(result, grid, chunk, retry_failed)]
            if shard is not None:
                todo = [chunk for chunk in todo if chunk.number % shard[1] == shard[0] - 1]
            with Progress(progress, chunks, todo, grid, request.names, log_file) as bar:
                failure = _follow(work, executor, todo, result, grid, store if keeping else None, bar)
        if store is not None and shard is None:
            with held_back():
                _save(result, path, store)
        elif failure is not None:
            raise NotSaved(str(failure), result)
    if ended:
        signal.raise_signal(signal.SIGTERM)  # saved: now the process ends, as whoever sent it wants
    if result.attrs["interrupted"]:
        warn_interrupted()
    _warn_of_failures(result)
    return result


def _save(result: xr.Dataset, path: str | os.PathLike, store: parts.Parts) -> None:
    """Write the result, then remove the parts; NotSaved if it cannot be written."""
    try:
        results.save(result, path)
    except InputError as error:
        raise NotSaved(str(error), result) from error
    try:
        store.remove()
    except InputError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=3)


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
                        assembly.enter(result, grid, done)
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
