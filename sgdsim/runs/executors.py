"""Where the chunks of a sweep are computed: here, in threads, by an executor of the user's, or on a Dask cluster.

Each is a generator of (chunk, what it gave), in the order in which they end. Closing it, or Ctrl-C, stops the work:
what was begun in this process is given back as far as it got.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from sgdsim.common.checks import InputError
from sgdsim.common.compiled import numba, threads
from sgdsim.common.signals import held_back, raise_again
from sgdsim.problem import Problem
from sgdsim.runs import chunks, clusters
from sgdsim.runs.chunks import Chunk, Done
from sgdsim.runs.work import Results, Stored, Work, remote, some_done, stored, threads_may_overlap

if TYPE_CHECKING:
    from distributed import Client

KINDS = ("serial", "threads", "dask")
Executor: TypeAlias = "str | concurrent.futures.Executor | Client"
Future = concurrent.futures.Future[Done]
Tick = Callable[[Chunk, float], None]


def stream(executor: Executor | None, work: Work, todo: Sequence[Chunk], tick: Tick) -> Results:
    """Compute `todo` by `executor`: None, one of `KINDS`, "dask:ADDRESS", a `concurrent.futures.Executor` or a
    `distributed.Client`. InputError for anything else."""
    if executor is None:
        executor = "threads" if len(todo) > 1 else "serial"
    if isinstance(executor, concurrent.futures.ProcessPoolExecutor):
        _check_start(executor)
    if isinstance(executor, concurrent.futures.Executor):
        return _submitted(executor, work, todo)
    if isinstance(executor, str) and (executor in KINDS or executor.startswith("dask:")):
        if executor.startswith("dask"):
            return clusters.stream(executor.partition(":")[2] or None, work, todo)
        return (_threads if executor == "threads" else _serial)(work, todo, tick)
    if not isinstance(executor, str) and hasattr(executor, "scatter") and hasattr(executor, "submit"):
        return clusters.stream(executor, work, todo)
    raise InputError(
        f"executor: expected {', '.join(KINDS)}, dask:ADDRESS, a concurrent.futures.Executor or a Dask client, "
        f"got {executor!r}"
    )


def _check_start(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """InputError for a pool that forks: its children inherit locks and thread teams of OpenMP that nobody runs."""
    context = getattr(pool, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise InputError(
            "executor: expected processes that start afresh, got a pool that forks; make it with "
            "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
        )


class _Stop:
    """Whether threads are to end. A plain value: an `Event` has a lock, which an interruption may leave locked."""

    asked = False


def _computed(work: Work, chunk: Chunk, tick: Tick, stop: _Stop) -> Done:
    """In this thread; as far as it got when `stop` is asked. Where the problem cannot be made its cells fail, the
    others do not."""

    def moved(part: float) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        tick(chunk, part)

    tick(chunk, 0.0)
    try:
        problem = work.problem_of(chunk)
    except Exception as error:
        return work.failed(chunk, error)
    return chunks.compute(problem, *work.arguments(chunk), moved)


def _serial(work: Work, todo: Iterable[Chunk], tick: Tick) -> Results:
    for chunk in todo:
        done = _computed(work, chunk, tick, _Stop())
        yield chunk, done
        if not done.ended.all():
            return


def _threads(work: Work, todo: Sequence[Chunk], tick: Tick) -> Results:
    """Compiled loops that leave the interpreter free in as many threads as there are cores, one core each; after them,
    one by one, what uses all cores by itself."""
    light = [chunk for chunk in todo if not work.regimes[chunk.regime].uses_all_cores]
    heavy = [chunk for chunk in todo if work.regimes[chunk.regime].uses_all_cores]
    if len(light) < 2 or threads() < 2 or not threads_may_overlap():
        yield from _serial(work, todo, tick)
        return
    stop = _Stop()

    def run(chunk: Chunk) -> Done:
        numba.set_num_threads(1)  # of this thread alone
        if stop.asked:
            return chunks.skipped(chunk, work.regimes[chunk.regime], work.settings)
        done = _computed(work, chunk, tick, stop)
        if not done.ended.all():
            stop.asked = True
        return done

    pool = concurrent.futures.ThreadPoolExecutor(threads())
    try:
        yield from _Submissions(pool, work, light, lambda chunk: pool.submit(run, chunk)).results(stop)
        interrupted = stop.asked
    finally:
        stop.asked = True
        with held_back():
            pool.shutdown(wait=False, cancel_futures=True)
        pool.shutdown()
    if not interrupted:
        yield from _serial(work, heavy, tick)


def _submitted(pool: concurrent.futures.Executor, work: Work, todo: Sequence[Chunk]) -> Results:
    """By a pool of the user's. The one problem of all chunks goes to processes once, in a file, as a pool would pickle
    it for each chunk; other problems as they are."""
    once = isinstance(pool, concurrent.futures.ProcessPoolExecutor) and len({chunk.values for chunk in todo}) <= 1
    sender: contextlib.AbstractContextManager[Callable[[Problem], Problem | Stored]]
    sender = stored() if once else contextlib.nullcontext(lambda problem: problem)
    with sender as send:

        def submit(chunk: Chunk) -> Future:
            return pool.submit(remote, send(work.problem_of(chunk)), *work.arguments(chunk))

        yield from _Submissions(pool, work, todo, submit).results(_Stop())


class _Submissions:
    """The chunks of `todo` handed to `submit`, a few at a time, so that problems are made when they are needed.

    A signal is heard between calls of the pool and its futures, never inside: an exception there leaves locks locked.
    """

    def __init__(
        self, pool: concurrent.futures.Executor, work: Work, todo: Sequence[Chunk], submit: Callable[[Chunk], Future]
    ) -> None:
        self.work, self.submit, self.waiting = work, submit, iter(todo)
        self.running: dict[Future, Chunk] = {}
        self.most = 2 * (getattr(pool, "_max_workers", None) or os.cpu_count() or 1)  # that run or wait in the pool

    def results(self, stop: _Stop) -> Results:
        """Each chunk when it ends. At Ctrl-C `stop` is asked, and what is begun is given back before it is raised."""
        try:
            yield from self._fill()
            while self.running:
                raise_again()
                for future in some_done(self.running):
                    yield self._take(future)
                yield from self._fill()
        except KeyboardInterrupt:
            stop.asked = True
            with held_back():
                begun = [future for future in self.running if not future.cancel()]
            for future in begun:
                some_done([future])
                yield self._take(future)
            raise
        finally:
            with held_back():
                for future in self.running:
                    future.cancel()

    def _fill(self) -> Iterator[tuple[Chunk, Done]]:
        """Submit until there are enough; gives the chunks that cannot be."""
        for chunk in self.waiting:
            try:
                with held_back():
                    self.running[self.submit(chunk)] = chunk
            except concurrent.futures.BrokenExecutor:
                raise
            except Exception as error:
                yield chunk, self.work.failed(chunk, error)
            if len(self.running) >= self.most:
                return

    def _take(self, future: Future) -> tuple[Chunk, Done]:
        """What a future that is done gives."""
        with held_back():
            chunk, error = self.running.pop(future), future.exception()
        if isinstance(error, concurrent.futures.BrokenExecutor):
            raise error
        if error is not None:
            return chunk, self.work.failed(chunk, error)
        with held_back():
            return chunk, future.result()
