"""Jobs alone and beside ten busy processes: no one may be slower than its share of the cores explains.

Ten processes and a job of k threads that want c cores leave it `k/(10 + k)` of them, if the system is fair: a job that
had `min(k, c)` cores alone is then `min(k, c)(10 + k)/(ck)` times slower. One of many short parallel regions is slower
by far, as each waits for its unluckiest thread. Run by `make busy`, not among the others: it wants a quiet machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numba
import numpy as np

import sgdsim as ss
from sgdsim.recurrence import contour, exact
from sgdsim.theory import optimal, stability

SPINNERS, REPEATS = 10, 3


def jobs() -> dict[str, Callable[[], object]]:
    small, middle, large = (ss.QuadraticProblem.power_law(n, 1.5, 1.0) for n in (200, 1000, 10_000))
    steps, lr = np.geomspace(40, 1e9, 400).round(), np.geomspace(0.01, 0.5, 60)[:, None]
    grid = {"momentum": np.linspace(-0.9, 0.99, 300)[:, None], "noise": np.geomspace(1e-3, 1, 300)}
    averaged, threshold = ss.SGD(0.2, 0.5, 4), ss.QuadraticProblem.power_law(300, 1.5, 1.0)
    return {
        "losses of 400 times, N = 1000": lambda: contour.loss_at(middle, steps, lr=0.3, noise=0.1),
        "losses of 60 x 60 settings": lambda: contour.loss_at(
            middle, 10_000, lr=lr, momentum=np.linspace(-0.5, 0.9, 60), noise=0.1
        ),
        "thresholds of 300 x 300 cells": lambda: stability.diagonal_max_lr(large, **grid),
        "best learning rate and momentum": lambda: optimal.best(middle, batch_size=10, horizon=10_000),
        "exact threshold, N = 300": lambda: stability.max_lr(threshold, averaged, "exact"),
        "averaged regime, exact, 20 steps at N = 200": lambda: ss.simulate(small, averaged, ss.BatchAveraged(0.0), 20),
        "exact average, N = 200": lambda: exact.Averaged(small, averaged).losses(np.array([100, 10_000]), 1e-4),
    }


def fastest(job: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the fastest of some runs, and the cores that it had."""
    best, cores = float("inf"), 1.0
    for _ in range(REPEATS):
        began, used = time.perf_counter(), time.process_time()
        job()
        took = time.perf_counter() - began
        if took < best:
            best, cores = took, (time.process_time() - used) / took
    return best, cores


def rows() -> Iterator[dict[str, object]]:
    threads, cores = numba.get_num_threads(), len(os.sched_getaffinity(0))
    work = jobs()
    alone = {}
    for name, job in work.items():
        job()  # compiled
        alone[name] = fastest(job)
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(SPINNERS)]
    try:
        time.sleep(1)
        for name, job in work.items():
            seconds, had = alone[name]
            beside, _ = fastest(job)
            fair = min(had, cores) * (SPINNERS + threads) / (cores * min(threads, max(1.0, had)))
            yield {
                "job": name,
                "alone": f"{seconds:.3g} s on {had:.1f} cores",
                "beside": f"{beside:.3g} s",
                "slower": f"{beside / seconds:.1f} times",
                "by its share": f"{fair:.1f} times",
                "ratio": round(beside / seconds / fair, 2),
            }
    finally:
        for spinner in spinners:
            spinner.kill()


if __name__ == "__main__":
    for row in rows():
        print("  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
