"""Losses of the diagonal regime by every path there is: 40 random problems, one table of differences.

`python tests/path_table.py [--count N] [--seed S]` follows each problem by a literal NumPy recurrence of all second
moments in float64, and prints how far the others are from it at five times: the compiled recurrence, the same on few
modes, the contour on all modes and on few, each as a relative difference and, where an error is told, as a multiple of
it; and, for one pass over a population, the mean of sampled runs in standard errors. Exit code 1 where a difference is
larger than what is told (with 10⁻¹⁵ a step for rounding), or the mean off by more than 5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

import sgdsim as ss
from sgdsim.common.table import Table
from sgdsim.recurrence import compressed, contour, diagonal
from sgdsim.theory import stability

TIMES = np.array([1, 10, 60, 200, 1000])
KINDS = ("power law", "disturbed", "clusters", "exponential", "gaps", "few")
ALGORITHMS: dict[str, dict[str, object]] = {
    "heavy ball": {},
    "nesterov": {"method": "nesterov"},
    "noisy labels": {"label_noise": 0.03},
    "average": {"average": "ema:0.98"},
    "average, noisy labels": {"average": "ema:0.9", "label_noise": 0.1},
    "one pass": {"sampling": "one-pass"},
    "corner": {"method": "corner:theta=1.3,memory=2"},
}
REPLICATES, SAMPLED = 4000, 1  # and at which of the times: later ones are skewed, and few runs make their mean


def spectrum(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """λ and c of a random problem, (n,) each."""
    n = int(10 ** rng.uniform(1, 4))
    k = np.arange(1, n + 1.0)
    values, c = k ** -rng.uniform(0.8, 3), k ** -rng.uniform(1.1, 4)
    if kind == "disturbed":
        values, c = values * np.exp(rng.normal(0, 0.7, n)), c * np.exp(rng.normal(0, 1.5, n))
    elif kind == "clusters":
        values = 10 ** rng.uniform(-6, 0, 4)[rng.integers(0, 4, n)] * (1 + 1e-4 * rng.random(n))
    elif kind == "exponential":
        values = np.exp(-rng.uniform(5, 30) * k / n)
    elif kind == "gaps":
        values = np.where(rng.random(n) < 0.5, values, 1e-8 * values)
    elif kind == "few":
        values, c = values[:9], c[:9]
    return values, c


def literal(problem: ss.QuadraticProblem, sgd: ss.SGD, tau: float) -> np.ndarray:
    """Losses at `TIMES`, one step of all moments after the other."""
    maps = sgd.maps(0, 1)
    k, lam, n = maps.kick[0], problem.eigenvalues, problem.n
    step = np.repeat(maps.transition[0][None], lam.size, 0)
    step[:, :, 0] += lam[:, None] * k
    values = sgd.values(n, 0, 1)
    gamma, label = values.noise[0], sgd.label_noise**2 * n / values.batch_size[0]
    moments = problem.coefficients[:, None, None] ** 2 * np.outer(sgd.begins, sgd.begins)
    out, now = [], 0
    for time in TIMES:
        for _ in range(time - now):
            c = moments[:, 0, 0]
            drawn = lam**2 * (gamma * (c.sum() - tau * c) + label)
            moments = step @ moments @ step.swapaxes(1, 2) + drawn[:, None, None] * np.outer(k, k)
        now = time
        out.append(np.einsum("a,kab,b->", sgd.readout, moments, sgd.readout) / (2 * n))
    return np.array(out)


def problems(count: int, seed: int) -> Iterator[tuple[str, str, ss.QuadraticProblem, ss.SGD, float]]:
    rng = np.random.default_rng(seed)
    for number in range(count):
        kind, name = KINDS[number % len(KINDS)], list(ALGORITHMS)[number % len(ALGORITHMS)]
        values, c = spectrum(kind, rng)
        problem = ss.QuadraticProblem(ss.Spectrum(np.sort(values / values.max())[::-1]), np.sqrt(c), basis_seed=number)
        momentum = 0.0 if name == "corner" else float(rng.choice([0.0, rng.uniform(-0.8, 0.95)]))
        size = int(rng.integers(1, problem.n // 2 + 1))
        sgd = ss.SGD(1.0, momentum, size, **ALGORITHMS[name])
        tau = -1.0 if name == "one pass" else float(rng.choice([1.0, 0.0, rng.uniform(-1, 1)]))
        limit = stability.max_lr(problem, sgd, tau=tau)
        lr = float(min(limit, 2.0) * rng.choice([0.1, 0.5, 0.95]))
        yield kind, name, problem, ss.SGD(lr, momentum, size, **ALGORITHMS[name]), tau


def row(problem: ss.QuadraticProblem, sgd: ss.SGD, tau: float) -> tuple[list[float | None], bool]:
    """The differences, in the order of the columns, and whether all are within what is told."""
    right = literal(problem, sgd, tau)
    rounding = 1e-15 * (10 + TIMES) * sgd.components**2

    def off(losses: np.ndarray) -> np.ndarray:
        return np.abs(losses / right - 1)

    stepped, told = diagonal.log_losses(problem, sgd, TIMES, tau)
    cells, good = [float(off(np.exp(stepped)).max())], bool((off(np.exp(stepped)) <= told + rounding).all())
    few = compressed.follow(problem, lambda modes: diagonal.log_losses(modes, sgd, TIMES, tau))
    ways = [None if few is None else (np.exp(few[0][0]), few[1] + few[0][1])]
    for compress in (False, True):
        curve = contour.loss_curve(problem, sgd, TIMES, tau=tau, method="contour", compress=compress)
        ways.append((curve.loss, curve.error))
    for way in ways:
        if way is None:
            cells += [None, None]
            continue
        known = way[1] < 1e-3
        wrong, allowed = off(way[0])[known], (way[1] + rounding)[known]
        cells += [float(wrong.max()), float((wrong / allowed).max())]
        good &= bool((wrong <= allowed).all())
    if sgd.is_one_pass and problem.n <= 300:
        last = int(TIMES[SAMPLED])
        runs = ss.simulate(problem, sgd, ss.SampledLinearized(), last, replicates=REPLICATES, progress=False)
        losses = runs["loss"].values.reshape(REPLICATES, -1)[:, -1]
        cells.append(float((losses.mean() - right[SAMPLED]) / (losses.std(ddof=1) / REPLICATES**0.5)))
        good &= abs(cells[-1]) < 5
    else:
        cells.append(None)
    return cells, good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="problems")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, bad = [], 0
    for kind, name, problem, sgd, tau in problems(args.count, args.seed):
        cells, good = row(problem, sgd, tau)
        bad += not good
        shown = ["" if cell is None else f"{cell:.1g}" for cell in cells]
        rows.append([kind, problem.n, name, f"{sgd.momentum:.2g}", f"{tau:.2g}", *shown, "" if good else "WRONG"])
        print(" ".join(map(str, rows[-1])), file=sys.stderr, flush=True)
    ways = [f"{way}{what}" for way in ("few modes", "contour", "contour, few") for what in ("", " / told")]
    print(Table(["spectrum", "N", "algorithm", "β", "τ", "recurrence", *ways, "sampled (s.e.)", ""], rows).text())
    print(f"{len(rows)} problems, {bad} beyond what is told")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
