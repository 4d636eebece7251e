"""How many threads BLAS takes."""

from __future__ import annotations

import contextlib
import functools

import threadpoolctl


@functools.cache
def _pools() -> tuple[threadpoolctl.ThreadpoolController, int]:
    """The controller of BLAS, and the threads that it had when first asked."""
    pools = threadpoolctl.ThreadpoolController()
    return pools, max((pool["num_threads"] for pool in pools.info() if pool["user_api"] == "blas"), default=1)


def one_blas_thread() -> contextlib.AbstractContextManager:
    """BLAS on one thread: small products gain little from two, and where other work waits they lose a lot."""
    return _pools()[0].limit(limits=1, user_api="blas")


def all_blas_threads() -> contextlib.AbstractContextManager:
    """As many threads as there were, within `one_blas_thread`."""
    pools, threads = _pools()
    return pools.limit(limits=threads, user_api="blas")
