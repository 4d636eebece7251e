"""The theory: losses at any time, landscapes, stability maps and exact thresholds, against stepping in eager PyTorch.

Stepping a whole landscape takes an hour, so the plain version is timed on some of its cells and scaled up; what it
computes there is compared with the theory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import sgdsim as ss
from sgdsim.recurrence import contour, exact
from sgdsim.theory import generating, linear, stability, thresholds, verdicts


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Median seconds, after one call that loads the compiled code; and the last result."""
    work()
    times = []
    for _ in range(repeats):
        since = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - since)
    return float(np.median(times)), found


def stepped(
    problem: ss.QuadraticProblem, lr: float, momentum: float, noise: float, n_steps: int
) -> tuple[float, float]:
    """Seconds per step and final loss of the spectral-diagonal recurrence as one writes it in PyTorch."""
    import torch

    x = torch.as_tensor(lr * problem.eigenvalues)
    c = torch.as_tensor(problem.coefficients**2)
    j, p = torch.zeros_like(c), torch.zeros_like(c)
    since = time.perf_counter()
    for _ in range(n_steps):
        p = x**2 * c - 2 * momentum * x * j + momentum**2 * p + noise * x**2 * (c.sum() - c)
        c, j = c - 2 * x * c + 2 * momentum * j + p, momentum * j - x * c + p
    return (time.perf_counter() - since) / n_steps, float(c.sum()) / (2 * problem.n)


def _row(job: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {"job": job, "seconds": float(f"{seconds:.3g}"), **more}


def rows() -> Iterator[dict[str, Any]]:
    """One row per job: seconds, and where there is a plain version its seconds, the ratio and the difference."""
    small = ss.QuadraticProblem.power_law(1000, 1.5, 1.0)
    step, plain = stepped(small, 0.3, 0.5, 0.1, 10_000)
    seconds, found = timed(
        lambda: contour.loss_at(small, 10_000, lr=0.3, momentum=0.5, noise=0.1, method="contour"), 20
    )
    difference = abs(float(found.loss) / plain - 1)
    yield _row(
        "loss at t = 10^4, N = 1000", seconds, plain_seconds=round(step * 1e4, 3),
        ratio=round(step * 1e4 / seconds), difference=float(f"{difference:.1g}"),
    )  # fmt: skip

    momentum = np.linspace(-0.98, 0.98, 50)
    lr = np.linspace(0.04, 4, 100)[:, None]
    seconds, found = timed(lambda: contour.loss_at(small, 10_000, lr=lr, momentum=momentum, noise=0.1))
    cells = [(10, 25), (40, 40), (3, 10)]
    checked = [
        abs(np.log(stepped(small, float(lr[i, 0]), float(momentum[k]), 0.1, 10_000)[1]) - found.log_loss[i, k])
        for i, k in cells
        if found.log_loss[i, k] < 100
    ]
    yield _row(
        "landscape 100 x 50, t = 10^4, N = 1000", seconds, plain_seconds=round(step * 5e7),
        ratio=round(step * 5e7 / seconds), difference=float(f"{max(checked):.1g}"),
        worst_error_estimate=float(f"{found.error[found.log_loss < 100].max():.1g}"),
    )  # fmt: skip

    large = ss.QuadraticProblem.power_law(1_000_000, 1.5, 1.0)
    times = np.unique(np.geomspace(1, 1e12, 60).round())
    seconds, _ = timed(lambda: contour.loss_at(large, times, lr=0.3, momentum=0.5, noise=0.1), 1)
    yield _row("60 log-spaced times to 10^12, N = 10^6", seconds)

    middle = ss.QuadraticProblem.power_law(10_000, 1.5, 1.0)
    momentum, lr = np.linspace(-0.98, 0.98, 100), np.linspace(0.02, 4, 100)[:, None]
    seconds, found = timed(lambda: lr < stability.diagonal_max_lr(middle, momentum=momentum, noise=0.1))
    plain, total = timed(lambda: generating.noise_propagator_at_one(middle.eigenvalues, lr, momentum, 0.1, 1.0), 1)
    expected = (total < 1) & (lr < 2 * (1 + momentum))
    yield _row(
        "stable or not on 100 x 100, N = 10^4", seconds, plain_seconds=round(plain, 3), ratio=round(plain / seconds),
        differing_cells=int((found != expected).sum()),
    )  # fmt: skip
    seconds, _ = timed(lambda: contour.rate(middle, lr=lr, momentum=momentum, noise=0.1), 1)
    yield _row("map of growth rates 100 x 100, N = 10^4", seconds)
    seconds, _ = timed(lambda: stability.diagonal_max_lr(middle, momentum=momentum, noise=0.1))
    yield _row("largest stable lr at 100 momenta, N = 10^4", seconds)

    yield _threshold_of_a_method()
    yield from _methods()
    yield from _averaged()
    for n in (1000, 3000):
        problem = ss.QuadraticProblem.power_law(n, 1.5, 1.0)
        problem.eigenvectors  # noqa: B018 — made once, before the clock starts
        stability.max_lr(ss.QuadraticProblem.power_law(10, 1.5, 1.0), ss.SGD(1.0, 0.5, 2), "exact")
        since = time.perf_counter()
        critical = stability.max_lr(problem, ss.SGD(1.0, 0.5, 10), "exact")
        spent = time.perf_counter() - since
        radius = stability.averaged_radius(problem, ss.SGD(critical, 0.5, 10), tolerance=1e-14) if n == 1000 else None
        more = {} if radius is None else {"difference": float(f"{abs(radius - 1):.1g}")}
        yield _row(f"exact threshold, N = {n}", spent, max_lr=round(critical, 6), **more)


def _threshold_of_a_method() -> dict[str, Any]:
    """Of Nesterov, which has no closed form, beside the same search on all modes."""
    problem, sgd = ss.QuadraticProblem.power_law(30_000, 1.5, 1.0), ss.SGD(1.0, 0.9, 10, method="nesterov")
    seconds, found = timed(lambda: stability.max_lr(problem, sgd))
    since = time.perf_counter()
    whole = thresholds.critical_lr(sgd, lambda tried: linear.noise_at_one(problem, tried) - 1, 1e-7)
    plain = time.perf_counter() - since
    return _row(
        "largest stable lr, Nesterov, N = 30,000", seconds, plain_seconds=round(plain, 3), ratio=round(plain / seconds),
        difference=f"{abs(found / whole - 1):.0e}",
    )  # fmt: skip


def _methods() -> Iterator[dict[str, Any]]:
    """What is not plain heavy ball, at late times: one late value beside the last of 10⁴ steps in NumPy."""
    problem, late = ss.QuadraticProblem.power_law(1000, 1.5, 1.0), np.geomspace(100, 1e12, 60).round()
    for name, options in {
        "nesterov": {"method": "nesterov"},
        "label noise": {"label_noise": 0.01},
        "one pass": {"sampling": "one-pass"},
        "average and label noise": {"average": "ema:0.99", "label_noise": 0.01},
    }.items():
        sgd = ss.SGD(0.1, 0.5, 10, **options)
        seconds, found = timed(partial(contour.loss_curve, problem, sgd, late, tau=-1.0))
        since = time.perf_counter()
        plain = stepped_moments(problem, sgd, -1.0, 10_000)
        step = (time.perf_counter() - since) / 10_000
        known = contour.loss_curve(problem, sgd, 10_000, tau=-1.0, method="contour")
        yield _row(
            f"60 times to 10^12, N = 1000, {name}", seconds, plain_step=float(f"{step:.3g}"),
            difference=f"{abs(float(known.loss) / plain - 1):.0e}", error_told=f"{found.error.max():.0e}",
        )  # fmt: skip


def stepped_moments(problem: ss.QuadraticProblem, sgd: ss.SGD, tau: float, n_steps: int) -> float:
    """The loss by all second moments of each mode, (modes, m, m), as one writes it in NumPy."""
    maps, values, lam = sgd.maps(0, 1), sgd.values(problem.n, 0, 1), problem.eigenvalues
    kick, gamma = maps.kick[0], values.noise[0]
    label = sgd.label_noise**2 * problem.n / values.batch_size[0]
    step = np.repeat(maps.transition[:1], lam.size, 0)
    step[:, :, 0] += lam[:, None] * kick
    moments = problem.coefficients[:, None, None] ** 2 * np.outer(sgd.begins, sgd.begins)
    for _ in range(n_steps):
        c = moments[:, 0, 0]
        drawn = lam**2 * (gamma * (c.sum() - tau * c) + label)
        moments = step @ moments @ step.swapaxes(1, 2) + drawn[:, None, None] * np.outer(kick, kick)
    return float(np.einsum("a,kab,b->", sgd.readout, moments, sgd.readout)) / (2 * problem.n)


def stepped_average(problem: ss.QuadraticProblem, lr: float, noise: float, n_steps: int) -> tuple[float, float]:
    """Seconds per step and final loss of the averaged regime as one writes it in NumPy, without momentum."""
    kernel, n = problem.kernel, problem.n
    c = np.outer(problem.residual, problem.residual)
    since = time.perf_counter()
    for _ in range(n_steps):
        drift = lr * kernel @ c
        spread = noise * n * np.diag(np.diag(c)) + (1 - noise) * c
        c = c - drift - drift.T + lr**2 * kernel @ spread @ kernel
        c = (c + c.T) / 2
    return (time.perf_counter() - since) / n_steps, float(np.trace(c)) / (2 * n)


def _digits(n: int) -> ss.QuadraticProblem:
    data = ss.datasets.load("digits", n=n, seed=0)
    return ss.QuadraticProblem.from_kernel(ss.ntk.analytic_ntk(data.x), -data.y)


def _averaged() -> Iterator[dict[str, Any]]:
    """The exact average at any time, b = 10, against stepping it; and what says yes or no at 3000 points."""
    for n, times, tolerance, lr, tried in (
        (250, [1000], 1e-6, 1.0, 1000),
        (250, np.geomspace(100, 1e9, 60), 1e-6, 1.0, 100),
        (1000, np.geomspace(1, 1e4, 120), 1e-4, 1.0, 20),
        (1000, np.geomspace(1, 1e12, 120), 1e-4, 1.0, 20),
        (3000, np.geomspace(1, 1e4, 120), 1e-4, 0.3, 2),
    ):
        problem = _digits(n) if n <= 1000 else ss.QuadraticProblem.power_law(n, 1.5, 1.0)
        problem.eigenvectors  # noqa: B018
        sgd = ss.SGD(lr, 0.0, 10)
        steps = np.unique(np.append(np.round(times), tried)).astype(np.int64)
        seconds, found = timed(
            lambda p=problem, a=sgd, s=steps, e=tolerance: exact.Averaged(p, a).losses(s, e), 3 if n == 250 else 1
        )
        step, plain = stepped_average(problem, lr, sgd.noise(n), tried)
        yield _row(
            f"exact average to {tolerance:.0e}, N = {n}, {steps.size} time(s) to {steps[-1]:.0e}", seconds,
            plain_seconds=float(f"{step * steps[-1]:.3g}"), ratio=round(step * steps[-1] / seconds),
            difference=float(f"{abs(found.loss[steps == tried][0] / plain - 1):.1g}"),
            worst_error_estimate=float(f"{found.error[found.loss > 1e-10 * found.loss[0]].max():.1g}"),
        )  # fmt: skip
    problem = ss.QuadraticProblem.power_law(3000, 1.5, 1.0)
    problem.eigenvectors  # noqa: B018
    for lr in (0.05, 0.4):
        since = time.perf_counter()
        known = verdicts.verdict(problem, ss.SGD(lr, 0.0, 1))
        yield _row(f"stable or not, N = 3000, lr {lr}: {known.word}", time.perf_counter() - since)
