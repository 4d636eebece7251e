"""The four regimes against the same job stepped in eager PyTorch (float32), as research code does it.

Each row: seconds per step of ours and of the plain version in the same run, their ratio, how far their losses are
apart, the peak memory so far, and how close ours comes to this machine's limit (memory bandwidth or multiply-add rate,
measured here) where one of them is the limit.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import sgdsim as ss
from benchmarks.theory import stepped, timed
from sgdsim.recurrence import contour


def bandwidth() -> float:
    """GB/s of reading and adding two arrays far larger than the caches."""
    a = np.ones(20_000_000)
    out = np.empty_like(a)
    seconds, _ = timed(lambda: np.add(a, a, out=out))
    return 2 * a.nbytes / seconds / 1e9


def multiply_adds(dtype: type) -> float:
    """GFLOP/s of a matrix product."""
    a = np.ones((1500, 1500), dtype)
    seconds, _ = timed(lambda: a @ a)
    return 2 * 1500**3 / seconds / 1e9


def per_step(problem: Any, sgd: ss.SGD, regime: Any, n_steps: int, **options: Any) -> tuple[float, Any]:
    """Seconds per step of one run, after a short one that loads the compiled code; and the result."""
    ss.simulate(problem, sgd, regime, 3, **{**options, "record": None})
    result = ss.simulate(problem, sgd, regime, n_steps, **options)
    return float(result["seconds"].values.item()) / n_steps, result


def plain_averaged(problem: ss.QuadraticProblem, sgd: ss.SGD, n_steps: int) -> tuple[float, float]:
    """Seconds per step and final loss of the recursion for E[rrᵀ] as usually written (unstable in the long run)."""
    n, gamma = problem.n, float(sgd.values(problem.n, 0, 1).noise[0])
    k = torch.as_tensor(problem.kernel, dtype=torch.float32)
    r = torch.as_tensor(problem.residual, dtype=torch.float32)
    c = torch.outer(r, r)
    j, p = torch.zeros_like(c), torch.zeros_like(c)
    a, b = float(sgd.lr), float(sgd.momentum)
    since = time.perf_counter()
    for _ in range(n_steps):
        kc = k @ c
        q = gamma * n * (k * torch.diag(c)) @ k + (1 - gamma) * kc @ k
        p = b**2 * p - a * b * (k @ j + (k @ j).T) + a**2 * q if b else a**2 * q
        drift = b * j - a * kc.T
        j, c = drift + p, c + drift + drift.T + p
    return (time.perf_counter() - since) / n_steps, float(torch.trace(c)) / (2 * n)


def plain_sampled(problem: ss.QuadraticProblem, sgd: ss.SGD, n_steps: int) -> float:
    """Seconds per step of one run of the linearised model."""
    k = torch.as_tensor(problem.kernel, dtype=torch.float32)
    r = torch.as_tensor(problem.residual, dtype=torch.float32)
    v, losses = torch.zeros_like(r), []
    b = int(sgd.batch_size)
    since = time.perf_counter()
    for _ in range(n_steps):
        batch = torch.randperm(problem.n)[:b]
        v = sgd.momentum * v - sgd.lr * problem.n / b * (k[:, batch] @ r[batch])
        r = r + v
        losses.append((r**2).mean() / 2)
    return (time.perf_counter() - since) / n_steps


def plain_one_pass(problem: ss.QuadraticProblem, sgd: ss.SGD, n_steps: int) -> float:
    """Seconds per step of one run on fresh Gaussian samples, drawn number by number."""
    rng, b, lam = np.random.default_rng(0), int(sgd.batch_size), problem.eigenvalues
    a, v, losses = problem.coefficients.copy(), np.zeros(problem.n), []
    since = time.perf_counter()
    for _ in range(n_steps):
        z = rng.standard_normal((b, problem.n))
        v = sgd.momentum * v - sgd.lr / b * lam * (z.T @ (z @ a))
        a = a + v
        losses.append((a**2).mean() / 2)
    return (time.perf_counter() - since) / n_steps


def plain_network(problem: ss.NetworkProblem, lr: float, sgd: ss.SGD, n_steps: int) -> float:
    """Seconds per step of torch.optim.SGD with the training loss over all points after every step."""
    import copy

    network = copy.deepcopy(problem.network)
    x, y = (torch.as_tensor(v, dtype=torch.float32) for v in (problem.data.x, problem.data.y))
    network = network.float()
    optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=sgd.momentum)
    since = time.perf_counter()
    for _ in range(n_steps):
        batch = torch.randperm(problem.n)[: sgd.batch_size]
        optimiser.zero_grad()
        (0.5 * ((network(x[batch]).reshape(-1) - y[batch]) ** 2).mean()).backward()
        optimiser.step()
        with torch.no_grad():
            float(0.5 * ((network(x).reshape(-1) - y) ** 2).mean())
    return (time.perf_counter() - since) / n_steps


def _row(job: str, ours: float, plain: float, **more: Any) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    row = {"job": job, "us_per_step": float(f"{ours * 1e6:.3g}"), "plain_us_per_step": float(f"{plain * 1e6:.3g}")}
    return {**row, "ratio": float(f"{plain / ours:.3g}"), **more, "peak_gb": round(peak, 2)}


def rows() -> Iterator[dict[str, Any]]:
    """One row per engine and size."""
    speed = {"GB/s": bandwidth(), "GFLOP/s": multiply_adds(np.float64), "GFLOP/s, float32": multiply_adds(np.float32)}
    yield {"job": "this machine", **{name: round(value, 1) for name, value in speed.items()}}
    yield from _diagonal(speed)
    yield from _linear()
    yield from _averaged()
    yield from _sampled(speed)
    yield from _one_pass()
    yield from _network()


def _diagonal(speed: dict[str, float]) -> Iterator[dict[str, Any]]:
    sizes = ((1000, 200_000, False), (10_000, 20_000, False), (1_000_000, 200, False))
    for n, n_steps, compress in (*sizes, (10_000, 200_000, True), (1_000_000, 200_000, True)):
        problem = ss.QuadraticProblem.power_law(n, 1.5, 1.0)
        regime = ss.SpectralDiagonal(method="recurrence", compress=compress)
        sgd = ss.SGD(0.3, 0.5, 10)
        gamma = float(sgd.values(n, 0, 1).noise[0])
        plain, loss = stepped(problem, 0.3, 0.5, gamma, 2000 if n < 1e6 else 200)
        ours, result = per_step(problem, sgd, regime, n_steps, record=[2000 if n < 1e6 else 200])
        difference = abs(result["loss"].values.ravel()[1] / loss - 1)
        flops = 16 * n / ours / 1e9  # multiplications and additions of the recurrence
        share = {"gflops": round(flops, 1), "share_of_multiply_adds": round(flops / speed["GFLOP/s"], 2)}
        if compress:  # what it takes to make fewer modes is in the steps' time
            share = {"error_estimate": float(f"{result['error_estimate'].values.item():.1g}")}
        title = f"diagonal, N = {n}" + ", on fewer modes" * compress
        yield _row(title, ours, plain, difference=float(f"{difference:.1g}"), **share)
    for n, name, options in (
        (1000, "", {}),
        (10_000, "", {}),
        (1_000_000, "", {}),
        (1000, "nesterov, ", {"method": "nesterov"}),
    ):
        problem, sgd = ss.QuadraticProblem.power_law(n, 1.5, 1.0), ss.SGD(0.3, 0.5, 10, **options)
        plain, _ = stepped(problem, 0.3, 0.5, 0.1, 2000 if n < 1e6 else 200)
        ours, _ = per_step(problem, sgd, ss.SpectralDiagonal(), 100_000)
        yield _row(f"diagonal as it is run, {name}N = {n}, 10^5 steps at 106 log-spaced times", ours, plain)
    small, cells = ss.QuadraticProblem.power_law(1000, 1.5, 1.0), (100, 50)
    lr, momentum = np.linspace(0.04, 2, cells[0])[:, None], np.linspace(-0.5, 0.8, cells[1])
    plain, _ = stepped(small, 0.3, 0.5, 0.1, 2000)
    since = time.perf_counter()
    found = contour.loss_at(small, 1000, lr=lr, momentum=momentum, noise=0.1, method="recurrence")
    ours = (time.perf_counter() - since) / (1000 * found.loss.size)
    other = contour.loss_at(small, 1000, lr=lr, momentum=momentum, noise=0.1, method="contour")
    apart = np.abs(found.log_loss - other.log_loss)[other.error < 1e-9].max()
    yield _row("diagonal, landscape 100 x 50 by recurrence, each cell", ours, plain, difference=float(f"{apart:.1g}"))


def _linear() -> Iterator[dict[str, Any]]:
    """Other linear methods beside plain heavy ball, ours and the plain loop's, which has less to do."""
    problem, n_steps = ss.QuadraticProblem.power_law(1000, 1.5, 1.0), 100_000
    regime, plain_sgd = ss.SpectralDiagonal(method="recurrence", compress=False), ss.SGD(0.3, 0.5, 10)
    algorithms = {
        "heavy ball": plain_sgd,
        "label noise": ss.SGD(0.3, 0.5, 10, label_noise=0.1),
        "one pass": ss.SGD(0.3, 0.5, 10, sampling="one-pass"),
        "nesterov": ss.SGD(0.3, 0.5, 10, method="nesterov"),
        "EMA": ss.SGD(0.3, 0.5, 10, average="ema:0.99"),
        "nesterov, scheduled, mean of the tail": ss.SGD(
            ss.schedules.Power(0.3, 0.1), 0.5, 10, method="nesterov", average="tail:start=100"
        ),
    }
    plain, fastest = stepped(problem, 0.3, 0.5, 0.1, 2000)[0], dict.fromkeys(algorithms, np.inf)
    for _ in range(5):
        for name, sgd in algorithms.items():
            fastest[name] = min(fastest[name], per_step(problem, sgd, regime, n_steps, record=[n_steps])[0])
    for name, ours in fastest.items():
        yield _row(f"diagonal, N = 1000, {name}", ours, plain, times_heavy_ball=round(ours / fastest["heavy ball"], 2))


def _averaged() -> Iterator[dict[str, Any]]:
    for n, n_steps, plain_steps in ((1000, 10_000, 20), (3000, 10_000, 3)):
        try:
            data = ss.datasets.load("mnist" if n > 1000 else "digits", n=n, n_test=1, seed=0)
            problem = ss.QuadraticProblem.from_kernel(ss.ntk.analytic_ntk(data.x), -data.y)
        except ss.InputError:  # MNIST is not here
            problem = ss.QuadraticProblem.power_law(n, 1.4, 0.4)
        title = problem.description["title"] if problem.basis_seed is not None else f"{data.name}, N = {n}"
        problem.residual  # noqa: B018 — the basis is made before the clock starts
        for lr, momentum, tolerance in ((1.0, 0.0, 1e-4), (0.3, 0.9, 1e-3)):
            sgd = ss.SGD(lr, momentum, 10)
            regime = ss.BatchAveraged(tolerance, method="recurrence")
            plain, loss = plain_averaged(problem, sgd, plain_steps)
            ours, result = per_step(problem, sgd, regime, n_steps, record=[plain_steps])
            found = result["loss"].values.ravel()[1]
            yield _row(
                f"averaged, {title}, momentum {momentum:g}", ours, plain,
                difference=float(f"{abs(found / loss - 1):.1g}"),
                error_estimate=float(f"{result['error_estimate'].values.item():.1g}"),
                exact_modes=int(result["exact_modes"].values.item()),
            )  # fmt: skip


def _sampled(speed: dict[str, float]) -> Iterator[dict[str, Any]]:
    problem = ss.QuadraticProblem.power_law(1000, 1.5, 1.0)
    sgd = ss.SGD(0.5, 0.5, 10)
    plain = plain_sampled(problem, sgd, 2000)
    ours, result = per_step(problem, sgd, ss.SampledLinearized(), 2000, replicates=100)
    mean = ss.simulate(problem, sgd, ss.BatchAveraged(), 2000)["loss"].values.ravel()[-1]
    final = result["loss"].values[0, :, -1]
    spread = abs(final.mean() - mean) / (final.std(ddof=1) / 10)
    flops = (2 * 10 + 3) * 1000 / (ours / 100) / 1e9
    yield _row(
        "sampled, N = 1000, b = 10, each of 100 replicates", ours / 100, plain,
        standard_errors_from_the_average=round(float(spread), 1), gflops=round(flops, 1),
        share_of_multiply_adds=round(flops / speed["GFLOP/s"], 2),
    )  # fmt: skip


def _one_pass() -> Iterator[dict[str, Any]]:
    problem = ss.QuadraticProblem.power_law(500, 1.5, 1.0)
    for b in (1, 64, 4096):
        sgd = ss.SGD(0.2, 0.5, b, sampling="one-pass")
        plain = plain_one_pass(problem, sgd, max(5, 2000 // b))
        runs = [per_step(problem, sgd, ss.SampledLinearized(), 1000, replicates=10, record=[1000]) for _ in range(3)]
        mean = ss.simulate(problem, sgd, ss.SpectralDiagonal(tau=-1), 1000)["loss"].values.ravel()[-1]
        final = runs[0][1]["loss"].values[0, :, -1]
        yield _row(
            f"sampled in one pass, N = 500, b = {b}, each of 10 replicates", min(r[0] for r in runs) / 10, plain,
            standard_errors_from_the_average=round(float(abs(final.mean() - mean) / (final.std(ddof=1) / 10**0.5)), 1),
        )  # fmt: skip


def _network() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    data = ss.Dataset(rng.standard_normal((1000, 784)), rng.standard_normal(1000), "gaussian")
    problem = ss.NetworkProblem(ss.networks.MLP(width=1000, seed=0), data)
    sgd = ss.SGD(0.5, 0.0, 10)
    lr = problem.quadratic.torch_lr(sgd.lr)
    plain = plain_network(problem, lr, sgd, 50)
    ours, result = per_step(problem, sgd, ss.RealNetwork(dtype="float32"), 2000, replicates=10)
    linear = ss.simulate(problem, sgd, ss.SampledLinearized(), 2000, replicates=10)
    apart = np.abs(result["loss"].values[0, :, -1] / linear["loss"].values[0, :, -1] - 1).max()
    yield _row(
        "network 784-1000-1, N = 1000, b = 10, each of 10 replicates", ours / 10, plain,
        difference_from_linearised=float(f"{apart:.1g}"),
    )  # fmt: skip
