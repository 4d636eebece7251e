"""Where the chunks of a sweep are computed: here, in threads, by an executor of the user's, or on a Dask cluster.

Each is a generator of (chunk, what it gave), in the order in which they end. Closing it, or Ctrl-C, stops the work:
what was begun in this process is given back as far as it got.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba

from sgdsim.common.checks import InputError
from sgdsim.common.signals import held_back, not_for_children
from sgdsim.regimes.base import Regime
from sgdsim.runs import chunks
from sgdsim.runs.chunks import Chunk, Done, Settings
from sgdsim.runs.grids import Cell

KINDS = ("serial", "threads", "dask")
_RETRIES = 3  # of a chunk whose Dask worker died
_PATIENCE = 10.0  # seconds until a Dask scheduler must have answered
_HEARD = 0.1  # seconds after which at the latest a signal is heard
Tick = Callable[[Chunk, float], None]


@dataclass
class Work:
    """What the chunks of a sweep are computed from. `problem(values)` makes the problem of a chunk."""

    problem: Callable[[dict[str, Any]], Any]
    regimes: Sequence[Regime]
    cells: Sequence[Cell]
    settings: Settings

    def arguments(self, chunk: Chunk) -> tuple[Regime, Chunk, list[Cell], Settings]:
        """What `chunks.compute` needs beside the problem."""
        return self.regimes[chunk.regime], chunk, [self.cells[i] for i in chunk.cells], self.settings

    def failed(self, chunk: Chunk, error: BaseException) -> Done:
        """The chunk with the error's message in every cell."""
        if self.settings.raising:
            raise error
        return chunks.failed(chunk, self.regimes[chunk.regime], self.settings, chunks.message(error))


def stream(executor: Any, work: Work, todo: Sequence[Chunk], tick: Tick) -> Iterator[tuple[Chunk, Done]]:
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
            return _dask(executor.partition(":")[2] or None, work, todo)
        return (_threads if executor == "threads" else _serial)(work, todo, tick)
    if hasattr(executor, "scatter") and hasattr(executor, "submit"):
        return _dask(executor, work, todo)
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


def _serial(work: Work, todo: Iterable[Chunk], tick: Tick) -> Iterator[tuple[Chunk, Done]]:
    for chunk in todo:
        tick(chunk, 0.0)
        try:
            problem = work.problem(dict(chunk.values))
        except Exception as error:  # this problem's cells fail, the others do not
            yield chunk, work.failed(chunk, error)
            continue
        done = chunks.compute(problem, *work.arguments(chunk), lambda part, c=chunk: tick(c, part))
        yield chunk, done
        if not done.ended.all():
            return


class _Stop:
    """Whether threads are to end. A plain value: an `Event` has a lock, which an interruption may leave locked."""

    asked = False


def _threads(work: Work, todo: Sequence[Chunk], tick: Tick) -> Iterator[tuple[Chunk, Done]]:
    """Compiled loops that leave the interpreter free in as many threads as there are cores, one core each; after them,
    one by one, what uses all cores by itself."""
    light = [chunk for chunk in todo if not work.regimes[chunk.regime].uses_all_cores]
    heavy = [chunk for chunk in todo if work.regimes[chunk.regime].uses_all_cores]
    if len(light) < 2 or numba.get_num_threads() < 2 or not _threads_may_overlap():
        yield from _serial(work, todo, tick)
        return
    stop = _Stop()

    def run(chunk: Chunk) -> Done:
        numba.set_num_threads(1)  # of this thread alone
        if stop.asked:
            return chunks.skipped(chunk, work.regimes[chunk.regime], work.settings)

        def moved(part: float) -> None:
            if stop.asked:
                raise KeyboardInterrupt
            tick(chunk, part)

        try:
            problem = work.problem(dict(chunk.values))
        except Exception as error:
            return work.failed(chunk, error)
        tick(chunk, 0.0)
        done = chunks.compute(problem, *work.arguments(chunk), moved)
        if not done.ended.all():
            stop.asked = True
        return done

    pool = concurrent.futures.ThreadPoolExecutor(numba.get_num_threads())
    try:
        yield from _as_completed(pool, light, lambda chunk: pool.submit(run, chunk), work, stop)
        interrupted = stop.asked
    finally:
        stop.asked = True
        with held_back():
            pool.shutdown(wait=False, cancel_futures=True)
        pool.shutdown()
    if interrupted:
        return
    yield from _serial(work, heavy, tick)


def _threads_may_overlap() -> bool:
    """Whether two threads may run parallel loops at once: numba's own thread pool ends the process then."""
    _warm()
    return numba.threading_layer() != "workqueue"


@numba.njit(cache=True, parallel=True)
def _warm() -> int:
    total = 0
    for i in numba.prange(2):
        total += i
    return total


def _submitted(pool: concurrent.futures.Executor, work: Work, todo: Sequence[Chunk]) -> Iterator[tuple[Chunk, Done]]:
    with _sender(pool, todo) as send:

        def submit(chunk: Chunk) -> concurrent.futures.Future:
            return pool.submit(remote, send(work.problem(dict(chunk.values))), *work.arguments(chunk))

        yield from _as_completed(pool, todo, submit, work, _Stop())


@dataclass(frozen=True)
class _Stored:
    """A problem in a file, which each worker process of this machine reads once."""

    path: str

    def problem(self) -> Any:
        return _read_problem(self.path)


@functools.lru_cache(maxsize=1)
def _read_problem(path: str) -> Any:
    return pickle.loads(Path(path).read_bytes())


@contextlib.contextmanager
def _sender(pool: concurrent.futures.Executor, todo: Sequence[Chunk]) -> Iterator[Callable[[Any], Any]]:
    """How the problem goes to the workers: as it is, or once in a file where a pool of processes would pickle the one
    problem of all chunks for each of them."""
    several = len({chunk.values for chunk in todo}) > 1
    if several or not isinstance(pool, concurrent.futures.ProcessPoolExecutor):
        yield lambda problem: problem
        return
    with tempfile.TemporaryDirectory(prefix="sgdsim-", ignore_cleanup_errors=True) as folder:
        file = Path(folder, "problem.pickle")

        def send(problem: Any) -> _Stored:
            if not file.exists():
                file.write_bytes(pickle.dumps(problem, protocol=5))
            return _Stored(str(file))

        yield send


_alone = threading.RLock()


def remote(problem: Any, *arguments: Any) -> Done:
    """`chunks.compute` as a worker calls it: one thread of compiled code, as there is a worker for each core."""
    problem = problem.problem() if isinstance(problem, _Stored) else problem
    before = numba.get_num_threads()
    numba.set_num_threads(1)  # of this thread alone
    try:
        with contextlib.nullcontext() if _threads_may_overlap() else _alone:
            return chunks.compute(problem, *arguments)
    finally:
        numba.set_num_threads(before)


def _as_completed(
    pool: Any, todo: Sequence[Chunk], submit: Callable[[Chunk], Any], work: Work, stop: _Stop
) -> Iterator[tuple[Chunk, Done]]:
    """Submit a few chunks at a time, so that problems are made when they are needed.

    A signal is heard between calls of the pool and its futures, never inside: an exception there leaves locks locked.
    """
    waiting, running = iter(todo), {}
    window = 2 * (getattr(pool, "_max_workers", None) or os.cpu_count() or 1)

    def fill() -> Iterator[tuple[Chunk, Done]]:
        for chunk in waiting:
            try:
                with held_back():
                    running[submit(chunk)] = chunk
            except concurrent.futures.BrokenExecutor:
                raise
            except Exception as error:
                yield chunk, work.failed(chunk, error)
            if len(running) >= window:
                return

    def take(future: Any) -> tuple[Chunk, Done]:
        with held_back():
            chunk, error = running.pop(future), future.exception()
            done = future.result() if error is None else None
        if isinstance(error, concurrent.futures.BrokenExecutor):
            raise error
        return chunk, work.failed(chunk, error) if done is None else done

    try:
        yield from fill()
        while running:
            for future in _some_done(running):
                yield take(future)
            yield from fill()
    except KeyboardInterrupt:
        stop.asked = True
        with held_back():
            begun = [future for future in running if not future.cancel()]
        for future in begun:
            _some_done([future])
            yield take(future)
        raise
    finally:
        with held_back():
            for future in running:
                future.cancel()


def _some_done(futures: Iterable[concurrent.futures.Future]) -> set[concurrent.futures.Future]:
    """Wait until one at least is done."""
    done: set[concurrent.futures.Future] = set()
    while not done:
        with held_back():
            done, _ = concurrent.futures.wait(futures, _HEARD, concurrent.futures.FIRST_COMPLETED)
    return done


@contextlib.contextmanager
def _client(address: Any) -> Iterator[Any]:
    """A Dask client: the given one, one at an address, or one of a local cluster with a process for each core."""
    try:
        import distributed
    except ImportError as error:
        raise InputError("executor: dask needs the package distributed; try: pip install 'sgdsim[dask]'") from error
    if address is not None and not isinstance(address, str):
        yield address
        return
    if address is not None:
        try:
            client = distributed.Client(address, timeout=_PATIENCE)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"scheduler: expected a Dask scheduler at {address}, found none: {error}") from error
        with client:
            yield client
        return
    count = os.cpu_count() or 1
    with contextlib.ExitStack() as opened:
        with not_for_children(), held_back():  # a cluster that is stopped while it starts prints tracebacks for long
            cluster = opened.enter_context(
                distributed.LocalCluster(
                    n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
                )
            )
            client = opened.enter_context(distributed.Client(cluster))
        yield client


def _dask(address: Any, work: Work, todo: Sequence[Chunk]) -> Iterator[tuple[Chunk, Done]]:
    with _client(address) as client:
        import distributed

        lost = (asyncio.CancelledError, concurrent.futures.CancelledError, distributed.KilledWorker)
        running: dict[Any, Chunk] = {}
        ended = distributed.as_completed()
        scattered: dict[tuple, Any] = {}
        tries: dict[int, int] = {}
        waiting = iter(todo)

        def submit(chunk: Chunk) -> None:
            if chunk.values not in scattered:
                for key in list(scattered)[:-1]:  # chunks come problem by problem
                    del scattered[key]
                scattered[chunk.values] = client.scatter(work.problem(dict(chunk.values)), broadcast=True, hash=False)
            future = client.submit(
                remote, scattered[chunk.values], *work.arguments(chunk), pure=False, retries=_RETRIES
            )
            running[future] = chunk
            with held_back():
                ended.add(future)

        def fill() -> Iterator[tuple[Chunk, Done]]:
            while len(running) < 2 * max(1, sum(client.nthreads().values())):
                chunk = next(waiting, None)
                if chunk is None:
                    return
                try:
                    submit(chunk)
                except Exception as error:
                    yield chunk, work.failed(chunk, error)

        try:
            yield from fill()
            while running:
                while not ended.has_ready():  # its locks are not to be interrupted either
                    time.sleep(_HEARD / 10)
                with held_back():
                    future = next(ended)
                chunk = running.pop(future)
                tries[chunk.number] = tries.get(chunk.number, 0) + 1
                # By its result, asked for once: its status may change between two looks while workers die.
                try:
                    done = future.result()
                except lost as error:
                    scattered.pop(chunk.values, None)  # the workers that held the problem died
                    if tries[chunk.number] <= _RETRIES:
                        submit(chunk)
                        continue
                    done = work.failed(chunk, error)
                except Exception as error:
                    done = work.failed(chunk, error)
                yield chunk, done
                yield from fill()
        finally:
            client.cancel(list(running))
