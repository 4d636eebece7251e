"""Many cells: hyperparameter grids followed in several regimes, in one labelled result that survives what may come."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
from collections.abc import Callable, Sequence

import xarray as xr

from sgdsim.common import files
from sgdsim.common.checks import InputError
from sgdsim.common.signals import held_back, one_interruption
from sgdsim.common.warning import warn
from sgdsim.observables import Observable
from sgdsim.problem import Problem
from sgdsim.regimes.base import Regime
from sgdsim.runs import assembly, estimates, executors, parts, results
from sgdsim.runs.assembly import merge
from sgdsim.runs.chunks import Chunk, Done, plan
from sgdsim.runs.executors import Executor
from sgdsim.runs.follow import warn_interrupted
from sgdsim.runs.grids import Grid
from sgdsim.runs.progress import Progress, check_log
from sgdsim.runs.request import checked, checked_shard
from sgdsim.runs.work import Work

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
    executor: Executor | None = None,
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
    progress : show how far it is on standard error: a bar on a terminal and in Jupyter, else a line now and then.
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
        problem,
        grid,
        regimes,
        n_steps,
        record=record,
        observe=observe,
        replicates=replicates,
        seed=seed,
        on_error=on_error,
    )
    costs = estimates.check(problem, request.cells, request.regimes, request.settings)
    share = None if shard is None else checked_shard(shard, path, resume)
    request = request.without_spare_replicates()
    asked = request.asked()
    result = assembly.empty(request, asked)
    work = Work(request.problems, request.regimes, request.cells, request.settings)
    only = request.problems.only
    chunks = plan(work.cells, work.regimes, work.settings, None if only is None else only.n)
    check_log(log_file)
    if path is not None:
        files.check_writable(path)
    with one_interruption() as ended, _opened(path, asked, alone=share is None) as store:
        _take_over(result, store, asked, resume)
        filled = _Filled(result, request.grid, store if len(chunks) > 1 or share is not None else None)
        with contextlib.suppress(KeyboardInterrupt):
            filled.take_back()
            mine = chunks if share is None else [one for one in chunks if one.number % share[1] == share[0] - 1]
            todo = [chunk for chunk in mine if not assembly.is_done(result, grid, chunk, retry_failed)]
            with Progress(progress, chunks, todo, grid, request.regimes, request.settings, costs, log_file) as bar:
                filled.follow(executor, work, todo, bar)
        if store is not None and share is None:
            with held_back():
                _save(result, store)
        elif filled.failure is not None:
            raise NotSaved(str(filled.failure), result)
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


def _take_over(result: xr.Dataset, store: parts.Parts | None, asked: parts.Asked, resume: bool) -> None:
    """What an earlier sweep has left at the store; gone, where it is not to be resumed."""
    if store is not None and resume:
        store.check()
        assembly.take_over(result, store.path, asked)
    elif store is not None:
        store.remove()


def _save(result: xr.Dataset, store: parts.Parts) -> None:
    """Write the result, then remove the parts; NotSaved if it cannot be written."""
    try:
        results.save(result, store.path)
    except InputError as error:
        raise NotSaved(str(error), result) from error
    try:
        store.remove()
    except InputError as error:
        warn(str(error))


class _Filled:
    """The result as it fills up chunk by chunk; each is kept in `store`, if there is one, as long as that can be
    written: `failure` says why no longer. The result's `interrupted` is 1 until the last chunk is done."""

    def __init__(self, result: xr.Dataset, grid: Grid, store: parts.Parts | None) -> None:
        self.result, self.grid, self.store = result, grid, store
        self.failure: InputError | None = None
        self.result.attrs["interrupted"] = 1

    def take_back(self) -> None:
        """What the store has from before."""
        if self.store is not None:
            self.store.begin(self.result)
            for done in self.store.finished():
                assembly.enter(self.result, self.grid.shape, done)

    def follow(self, executor: Executor | None, work: Work, todo: Sequence[Chunk], bar: Progress) -> None:
        """Compute `todo`, until the end or an interruption."""
        whole = True
        with contextlib.suppress(KeyboardInterrupt):  # also between two chunks
            try:
                with contextlib.closing(executors.stream(executor, work, todo, bar.tick)) as stream:
                    for chunk, done in stream:
                        with held_back():
                            self._enter(chunk, done, bar)
                        whole &= bool(done.ended.all())
                    self.result.attrs["interrupted"] = int(not whole)
            except concurrent.futures.BrokenExecutor as error:
                warn(
                    f"a worker process of the executor died ({error}); the same call goes on with what is missing",
                )

    def _enter(self, chunk: Chunk, done: Done, bar: Progress) -> None:
        assembly.enter(self.result, self.grid.shape, done)
        bar.add(chunk, done)
        if self.store is not None and done.ended.all() and self.failure is None:
            try:
                self.store.write(chunk.number, done)
            except InputError as error:  # the disk is full: go on, it may still hold the result
                self.failure = error


def _warn_of_failures(result: xr.Dataset) -> None:
    """Say, where the caller of `sweep` sees it, which cells failed."""
    messages = [text for text in result["error"].values.ravel() if text] if "error" in result else []
    if messages:
        warn(
            f"{len(messages)} of {result['error'].size} runs of cells failed, the first with: {messages[0]}",
        )
