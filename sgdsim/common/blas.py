"""How many threads BLAS takes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    import threadpoolctl

_SMALL = 1000  # two threads save a tenth of 200 products there, and lose a hundred times as much on a busy machine


@functools.cache
def _pools() -> tuple[threadpoolctl.ThreadpoolController, int]:
    """The controller of BLAS, and the threads that it had when first asked."""
    import threadpoolctl

    pools = threadpoolctl.ThreadpoolController()
    return pools, max((pool["num_threads"] for pool in pools.info() if pool["user_api"] == "blas"), default=1)


def one_blas_thread() -> contextlib.AbstractContextManager:
    """BLAS on one thread: small products gain little from two, and where other work waits they lose a lot. As many as
    there are where nothing can tell it."""
    try:
        return _pools()[0].limit(limits=1, user_api="blas")
    except ImportError:
        return contextlib.nullcontext()


def threads_for(n: int) -> contextlib.AbstractContextManager:
    """For products of n × n matrices: one thread where they are small, else as many as there are now."""
    return one_blas_thread() if n <= _SMALL else contextlib.nullcontext()


class _OfModes(Protocol):
    @property
    def n_modes(self) -> int: ...


class _Owning(Protocol):
    @property
    def problem(self) -> _OfModes: ...


_Owner = TypeVar("_Owner", bound=_Owning)
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def calm(method: Callable[Concatenate[_Owner, _Given], _Found]) -> Callable[Concatenate[_Owner, _Given], _Found]:
    """A method of something with a `problem`, on `threads_for` that."""

    @functools.wraps(method)
    def on_few(self: _Owner, *arguments: _Given.args, **options: _Given.kwargs) -> _Found:
        with threads_for(self.problem.n_modes):
            return method(self, *arguments, **options)

    return on_few


def all_blas_threads() -> contextlib.AbstractContextManager:
    """As many threads as there were, within `one_blas_thread`."""
    try:
        pools, threads = _pools()
    except ImportError:
        return contextlib.nullcontext()
    return pools.limit(limits=threads, user_api="blas")
