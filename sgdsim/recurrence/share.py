"""Work shared among threads, so that one which the system takes the processor from holds up no more than its piece.

A compiled `prange` divides its work beforehand and then waits for every thread: on a busy machine each such region
lasts as long as its unluckiest thread, and an optimiser enters thousands. Here the kernels are serial and release the
interpreter's lock; each thread takes the next piece when it has done the last, the calling thread among them, which
waits only for pieces that another has begun. Little work is done without any other thread. Each item is computed on
its own, so results have the same bits whatever the number of threads and however the work is divided.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from sgdsim.common.compiled import numba, threads
from sgdsim.common.signals import held_back

Piece = Callable[[], object]
_PIECE = 1e6  # terms (some nanoseconds each) in a piece: a few milliseconds


def pieces(kernel: Callable[..., object], arguments: tuple, n_items: int, terms: float) -> list[tuple[float, Piece]]:
    """Calls `kernel(*arguments, low, high)` for items [low, high), each with its terms; `terms`: those of an item."""
    length = max(1, int(_PIECE / max(terms, 1.0)))
    ends = [(low, min(low + length, n_items)) for low in range(0, n_items, length)]
    return [((high - low) * terms, functools.partial(kernel, *arguments, low, high)) for low, high in ends]


def run(work: Iterable[tuple[float, Piece]]) -> None:
    """Do all pieces, given with their terms, in any order; with other threads where there is enough for them.

    As many threads at most as `compiled.threads` says. What a piece raises is raised here.
    """
    work = list(work)
    total = sum(terms for terms, _ in work)
    helpers = min(threads(), len(work), int(total / _PIECE)) - 1
    if helpers < 1:
        for _, piece in work:
            piece()
    else:
        among_threads([piece for _, piece in work], helpers)


def among_threads(todo: list[Piece], helpers: int) -> None:
    """Do all pieces in the calling thread and up to `helpers` others."""
    waiting = deque(todo)

    def take() -> None:
        while True:
            try:
                piece = waiting.popleft()  # atomic
            except IndexError:
                return
            piece()

    with held_back():  # an exception inside a pool or a future leaves its locks locked
        others = [_pool().submit(take) for _ in range(helpers)]
    try:
        take()
    finally:
        waiting.clear()
        with held_back():
            begun = [other for other in others if not other.cancel()]  # the others are not waited for
            for other in begun:
                other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay, as starting one waits for it to run."""
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return ThreadPoolExecutor(most, thread_name_prefix="sgdsim")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has none of these threads
