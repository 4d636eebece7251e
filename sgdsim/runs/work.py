"""The work that a sweep hands out: what its chunks are computed from, and how a worker process does one."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import pickle
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sgdsim.common.compiled import launch, numba, threads
from sgdsim.common.signals import held_back
from sgdsim.problem import Problem
from sgdsim.regimes.base import Regime
from sgdsim.runs import chunks
from sgdsim.runs.chunks import Chunk, Done, Settings
from sgdsim.runs.grids import Cell

HEARD = 0.1  # seconds after which at the latest a signal is heard
Results = Generator[tuple[Chunk, Done], None, None]
Answer = TypeVar("Answer")


@dataclass
class Work:
    """What the chunks of a sweep are computed from. `problem(values)` makes the problem of a chunk."""

    problem: Callable[[dict[str, object]], Problem]
    regimes: Sequence[Regime]
    cells: Sequence[Cell]
    settings: Settings

    def problem_of(self, chunk: Chunk) -> Problem:
        """Made of the chunk's values."""
        return self.problem(dict(chunk.values))

    def arguments(self, chunk: Chunk) -> tuple[Regime, Chunk, list[Cell], Settings]:
        """What `chunks.compute` needs beside the problem."""
        return self.regimes[chunk.regime], chunk, [self.cells[i] for i in chunk.cells], self.settings

    def failed(self, chunk: Chunk, error: BaseException) -> Done:
        """The chunk with the error's message in every cell."""
        if self.settings.raising:
            raise error
        return chunks.failed(chunk, self.regimes[chunk.regime], self.settings, chunks.message(error))


@dataclass(frozen=True)
class Stored:
    """A problem in a file, which each worker process of this machine reads once."""

    path: str

    def problem(self) -> Problem:
        """As it was stored."""
        return _read_problem(self.path)


@functools.lru_cache(maxsize=1)
def _read_problem(path: str) -> Problem:
    return pickle.loads(Path(path).read_bytes())


@contextlib.contextmanager
def stored() -> Iterator[Callable[[Problem], Stored]]:
    """A function that stores the one problem of a sweep, at its first call, in a file that is there as long as this."""
    with tempfile.TemporaryDirectory(prefix="sgdsim-", ignore_cleanup_errors=True) as folder:
        file = Path(folder, "problem.pickle")

        def store(problem: Problem) -> Stored:
            if not file.exists():
                file.write_bytes(pickle.dumps(problem, protocol=5))
            return Stored(str(file))

        yield store


def some_done(futures: Iterable[concurrent.futures.Future[Answer]]) -> set[concurrent.futures.Future[Answer]]:
    """Wait until one at least is done; a signal is heard, but never inside of a lock."""
    done: set[concurrent.futures.Future[Answer]] = set()
    while not done:
        with held_back():
            done, _ = concurrent.futures.wait(futures, HEARD, concurrent.futures.FIRST_COMPLETED)
    return done


def apart(function: Callable[[], Answer]) -> Answer:
    """What the function gives, called in a thread of its own: it may wait for others, and a signal that stops the
    waiting here does not stop it inside of a lock."""
    answer: concurrent.futures.Future[Answer] = concurrent.futures.Future()

    def call() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    with held_back():
        threading.Thread(target=call, daemon=True).start()
    some_done([answer])
    with held_back():
        return answer.result()


def threads_may_overlap() -> bool:
    """Whether two threads may run parallel loops at once: numba's own thread pool ends the process then."""
    launch()
    return numba.threading_layer() != "workqueue"


_alone = threading.RLock()


def remote(problem: Problem | Stored, regime: Regime, chunk: Chunk, cells: list[Cell], settings: Settings) -> Done:
    """`chunks.compute` as a worker calls it: one thread of compiled code, as there is a worker for each core."""
    whole = problem.problem() if isinstance(problem, Stored) else problem
    before = threads()
    numba.set_num_threads(1)  # of this thread alone
    try:
        with contextlib.nullcontext() if threads_may_overlap() else _alone:
            return chunks.compute(whole, regime, chunk, cells, settings)
    finally:
        numba.set_num_threads(before)
