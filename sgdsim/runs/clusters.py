"""Chunks on a Dask cluster: of one's own, at an address, or a local one of a process for each core."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sgdsim.common.checks import InputError
from sgdsim.common.signals import held_back, not_for_children, raise_again
from sgdsim.problem import Problem
from sgdsim.runs.chunks import Chunk, Done
from sgdsim.runs.work import HEARD, Results, Work, apart, remote

if TYPE_CHECKING:
    from distributed import Client, Future

_RETRIES = 3  # of a chunk whose worker died, and of sending a problem while workers die
_PAUSE = 1.0  # seconds in which a cluster may see that a worker died
_PATIENCE = 10.0  # seconds until a scheduler must have answered


def stream(where: Client | str | None, work: Work, todo: Sequence[Chunk]) -> Results:
    """Compute `todo` by a client, by the scheduler at an address, or (None) on this machine."""
    with _client(where) as client:
        yield from _Submissions(client, work, todo).results()


@contextlib.contextmanager
def _client(where: Client | str | None) -> Iterator[Client]:
    try:
        import distributed
    except ImportError as error:
        raise InputError("executor: dask needs the package distributed; try: pip install 'sgdsim[dask]'") from error
    if where is None:
        with contextlib.ExitStack() as opened:
            with not_for_children(), held_back():  # a cluster stopped while it starts prints tracebacks for long
                cluster = opened.enter_context(
                    distributed.LocalCluster(
                        n_workers=os.cpu_count() or 1,
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address=None,
                        silence_logs=50,
                    )
                )
                client = opened.enter_context(distributed.Client(cluster))
            yield client
    elif isinstance(where, str):
        try:
            client = distributed.Client(where, timeout=_PATIENCE)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"scheduler: expected a Dask scheduler at {where}, found none: {error}") from error
        with client:
            yield client
    else:
        yield where


class _Submissions:
    """The chunks of `todo` submitted to `client`, a few for each worker at a time.

    `ended`: Dask's queue of the futures that are done; `scattered`: the problem of the present chunks on the workers,
    by the values that it is made of; `tries`: how often each chunk was computed, as workers may die.
    """

    def __init__(self, client: Client, work: Work, todo: Sequence[Chunk]) -> None:
        import distributed
        from distributed.comm import CommClosedError

        self.client, self.work, self.waiting = client, work, iter(todo)
        self.lost = (
            asyncio.CancelledError,
            concurrent.futures.CancelledError,
            distributed.KilledWorker,
            CommClosedError,
        )
        self.ended = distributed.as_completed()
        self.running: dict[Future, Chunk] = {}
        self.scattered: dict[tuple[tuple[str, object], ...], Future] = {}
        self.tries: collections.Counter[int] = collections.Counter()

    def results(self) -> Results:
        """Each chunk when it ends."""
        try:
            yield from self._fill()
            while self.running:
                chunk, done = self._next()
                if done is not None:
                    yield chunk, done
                    yield from self._fill()
        finally:
            apart(lambda: self.client.cancel(list(self.running)))

    def _fill(self) -> Iterator[tuple[Chunk, Done]]:
        """Submit until the workers have enough; gives the chunks that cannot be."""
        while len(self.running) < 2 * max(1, sum(apart(self.client.nthreads).values())):
            chunk = next(self.waiting, None)
            if chunk is None:
                return
            if (failed := self._submitted(chunk)) is not None:
                yield chunk, failed

    def _submitted(self, chunk: Chunk) -> Done | None:
        """None of a chunk that is submitted; what it gives where it cannot be."""
        try:
            self._submit(chunk)
        except Exception as error:
            return self.work.failed(chunk, error)
        return None

    def _submit(self, chunk: Chunk) -> None:
        if chunk.values not in self.scattered:
            for values in list(self.scattered)[:-1]:  # chunks come problem by problem
                del self.scattered[values]
            self.scattered[chunk.values] = self._send(self.work.problem_of(chunk))
        arguments = self.scattered[chunk.values], *self.work.arguments(chunk)
        future = self.client.submit(remote, *arguments, pure=False, retries=_RETRIES)
        self.running[future] = chunk
        with held_back():
            self.ended.add(future)

    def _send(self, problem: Problem) -> Future:
        """The problem on all workers. Again where that fails, as it does when one of them dies meanwhile."""
        for _ in range(_RETRIES):
            try:
                return apart(lambda: self.client.scatter(problem, broadcast=True, hash=False))
            except TimeoutError:  # there were no workers for long
                raise
            except Exception:
                time.sleep(_PAUSE)
        return apart(lambda: self.client.scatter(problem, broadcast=True, hash=False))

    def _next(self) -> tuple[Chunk, Done | None]:
        """The next chunk that ended; None of one that was lost with its worker and is submitted again."""
        while not self.ended.has_ready():  # its locks are not to be interrupted either
            time.sleep(HEARD / 10)
            raise_again()
        with held_back():
            future = next(self.ended)
        chunk = self.running.pop(future)
        self.tries[chunk.number] += 1
        # By its result, asked for once: its status may change between two looks while workers die.
        try:
            return chunk, apart(future.result)
        except self.lost as error:
            self.scattered.pop(chunk.values, None)  # the workers that held the problem died
            if self.tries[chunk.number] > _RETRIES:
                return chunk, self.work.failed(chunk, error)
        except Exception as error:
            return chunk, self.work.failed(chunk, error)
        return chunk, self._submitted(chunk)
