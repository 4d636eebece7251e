"""Sweeps: what a cell costs beyond its kernel, what the second core gives, and a hundred thousand cells at once.

Each row names the sweep and its limit; `overhead_ms` is wall time per cell, times the workers, less the time of the
same cells followed one after the other by `sgdsim.runs.follow.follow` in the same run.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import sgdsim as ss
from sgdsim.runs.follow import follow


def seconds_alone(problem: Any, grid: ss.Grid, regime: Any, steps: np.ndarray, replicates: int) -> float:
    """Seconds of all cells, one after the other, on one core, with nothing around them."""
    import numba

    numba.set_num_threads(1)
    cells = list(grid.cells())
    follow(problem, cells[0][1], regime, steps, ("loss",), replicates, 0)
    since = time.perf_counter()
    for _, sgd in cells:
        follow(problem, sgd, regime, steps, ("loss",), replicates, 0)
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    return time.perf_counter() - since


def swept(problem: Any, grid: ss.Grid, regime: Any, n_steps: int, **options: Any) -> tuple[float, Any]:
    """Seconds of a durable sweep, and its result."""
    with tempfile.TemporaryDirectory() as folder:
        since = time.perf_counter()
        result = ss.sweep(problem, grid, [regime], n_steps, path=Path(folder) / "r.nc", **options)
        return time.perf_counter() - since, result


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


def rows() -> Iterator[dict[str, Any]]:
    """One row per sweep."""
    problem = ss.QuadraticProblem.power_law(1000, 1.5, 1.0)
    problem.kernel  # noqa: B018 — made before the clock starts
    cores = os.cpu_count() or 1
    sampled = ss.SampledLinearized()
    for regime in (sampled, ss.SpectralDiagonal()):  # loads the compiled code
        swept(problem, ss.Grid.product(lr=np.linspace(0.1, 1, 600), batch_size=[10]), regime, 100, record=[100])
    for label, count, n_steps in (("1 ms", 2000, 100), ("10 ms", 400, 1000), ("100 ms", 60, 10_000)):
        grid = ss.Grid.product(lr=np.linspace(0.1, 1, count), batch_size=[10])
        options = {"record": [n_steps], "replicates": 10}
        alone = seconds_alone(problem, grid, sampled, np.array([0, n_steps]), 10)
        threads, whole = swept(problem, grid, sampled, n_steps, **options, executor="threads")
        row = {
            "job": f"sampled cells of about {label}, threads", "cells": count,
            "alone_ms": round(1e3 * alone / count, 2), "wall_ms": round(1e3 * threads / count, 2),
            "overhead_ms": round(1e3 * (threads * cores - alone) / count, 2),
            "efficiency": round(alone / (threads * cores), 3), "peak_gb": _peak(),
        }  # fmt: skip
        yield row
        if count == 400:
            yield _dask_row(problem, grid, sampled, n_steps, alone, whole, options)
    grid = ss.Grid.product(
        lr=np.linspace(0.004, 2, 500), momentum=np.linspace(-0.8, 0.9, 50), batch_size=[1, 10, 100, 1000]
    )
    wall, result = swept(problem, grid, ss.SpectralDiagonal(), 10_000, record=[10_000])
    yield {
        "job": "100,000 cells, diagonal by contour, N = 1000, 10,000 steps", "cells": grid.size,
        "seconds": round(wall, 1), "wall_ms": round(1e3 * wall / grid.size, 3),
        "diverged": int((result["outcome"].values == 2).sum()), "peak_gb": _peak(),
    }  # fmt: skip


def _dask_row(problem, grid, regime, n_steps: int, alone: float, whole: Any, options: dict) -> dict[str, Any]:
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster, distributed.Client(cluster) as client:  # fmt: skip
        swept(problem, ss.Grid.product(lr=np.linspace(0.1, 1, 100), batch_size=[10]), regime, 100, executor=client)
        wall, result = swept(problem, grid, regime, n_steps, **options, executor=client)
    return {
        "job": "the same, a Dask cluster of two processes", "cells": grid.size,
        "alone_ms": round(1e3 * alone / grid.size, 2), "wall_ms": round(1e3 * wall / grid.size, 2),
        "overhead_ms": round(1e3 * (wall * 2 - alone) / grid.size, 2),
        "difference": float(np.abs(result["loss"].values - whole["loss"].values).max()), "peak_gb": _peak(),
    }  # fmt: skip
