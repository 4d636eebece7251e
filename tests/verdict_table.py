"""Yes, no or "?" of `theory.verdicts` against the truth: 40 problems of 60 to 5000 points, at and around thresholds.

`python tests/verdict_table.py [--up-to N]` prints a line for each problem and the counts. Nothing of the package's own
stability is in the truth: pairs of modes follow their 4 × 4 maps as one writes them down, and what decides is a second
moment S of residuals and velocities for the averaged step itself, a positive map (`certificate`, up to N = 64), or a
vector for the operator on squared residuals (`bound`, beyond; Collatz and Wielandt). Where neither decides, 20 sampled
runs do, if they diverge. In `--json` every cell stands.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import scipy.linalg

import sgdsim as ss
from sgdsim.theory import stability, verdicts

FACTORS = (0.5, 0.8, 0.95, 1.05, 1.2, 2.0)  # of the threshold
SETTINGS = (
    (1, 0.0, "heavy-ball"), (10, 0.9, "heavy-ball"), (100, -0.3, "heavy-ball"), (2, 0.5, "heavy-ball"),
    (4, 0.7, "nesterov"),
)  # fmt: skip
WHOLE = 64  # points up to which every second moment is followed
ROUNDING = 1e-9
_PRODUCTS, _LEADING = 400, 300


def literal(problem: ss.QuadraticProblem, sgd: ss.SGD, rows: slice, columns: np.ndarray | slice) -> np.ndarray:
    """4 × 4 maps of pairs of modes, (k, l, 4, 4), in the batch average without what single points add."""
    seen, step = _modes(problem, sgd)
    gamma, x = sgd.noise(problem.n), sgd.lr * problem.eigenvalues
    both = np.einsum("kab,lcd->klacbd", step[rows], step[columns]).reshape(-1, x[columns].size, 4, 4)
    weight = gamma * x[rows, None] * x[columns]
    return both - weight[..., None, None] * np.outer(np.ones(4), np.kron(seen, seen))


def _modes(problem: ss.QuadraticProblem, sgd: ss.SGD) -> tuple[np.ndarray, np.ndarray]:
    """Where gradients are taken in (r, v), (2,), and the full-batch step of every mode, (n, 2, 2)."""
    seen = np.array([1.0, sgd.momentum if sgd.method.spec == "nesterov" else 0.0])
    x = sgd.lr * problem.eigenvalues
    velocity = np.array([0.0, sgd.momentum]) - x[:, None] * seen
    return seen, np.stack([np.array([1.0, 0.0]) + velocity, velocity], 1)


def mean_converges(problem: ss.QuadraticProblem, sgd: ss.SGD) -> bool:
    return bool(np.abs(np.linalg.eigvals(_modes(problem, sgd)[1])).max() < 1)


def averaged(problem: ss.QuadraticProblem, sgd: ss.SGD, moments: np.ndarray) -> np.ndarray:
    """One step of the batch average on second moments of (r, v), (2n, 2n)."""
    n, kernel = problem.n, problem.kernel
    ahead = _modes(problem, sgd)[0][1]
    seen = np.hstack([np.eye(n), ahead * np.eye(n)])
    velocity = np.hstack([np.zeros((n, n)), sgd.momentum * np.eye(n)]) - sgd.lr * kernel @ seen
    step = np.vstack([np.hstack([np.eye(n), np.zeros((n, n))]) + velocity, velocity])
    c = seen @ moments @ seen.T
    noise = sgd.lr**2 * sgd.noise(n) * (n * (kernel * np.diag(c)) @ kernel - kernel @ c @ kernel)
    return step @ moments @ step.T + np.tile(noise, (2, 2))


def certificate(problem: ss.QuadraticProblem, sgd: ss.SGD) -> bool | None:
    """Stable by an S > 0 with `averaged(S) < S`, unstable by an S ≥ 0 with `z averaged(S) ≥ S`, z ≤ 1.

    S is what noise at squared residuals d becomes: `S = z A(S) + z noise(d)`, A the step without what points add.
    """
    if not mean_converges(problem, sgd):
        return False
    n, u, x = problem.n, problem.eigenvectors, sgd.lr * problem.eigenvalues
    maps, factor = literal(problem, sgd, slice(None), slice(None)), n * sgd.noise(n) * np.outer(x, x)
    read = np.kron(*[_modes(problem, sgd)[0]] * 2)
    products = np.einsum("ik,jk->ijk", u, u).reshape(-1, n)

    def moments(response: np.ndarray, points: np.ndarray, own: np.ndarray) -> np.ndarray:
        source = (factor * ((u.T * points) @ u))[..., None] + np.multiply.outer(np.diag(own), np.array([1.0, 0, 0, 1]))
        pairs = np.einsum("klab,klb->kla", response, source).reshape(n, n, 2, 2)
        found = np.einsum("ik,klab,jl->aibj", u, pairs, u, optimize=True).reshape(2 * n, 2 * n)
        return (found + found.T) / 2

    for z in 0.99 ** np.arange(300):
        response = z * np.linalg.inv(np.eye(4) - z * maps)
        operator = ((products @ (factor * (read @ response).sum(-1))) * products).sum(1).reshape(n, n)
        values, vectors = np.linalg.eigh((operator + operator.T) / 2)
        if values[-1] < 1:
            break
        s = moments(response, np.abs(vectors[:, -1]), np.zeros(n))
        grown = z * averaged(problem, sgd, s) - s
        if np.trace(grown) > 0 and min(_least(s), _least(grown)) > -ROUNDING * np.abs(s).max():
            return False
    if z < 1:
        return None
    own = np.einsum("ik,k->i", u**2, x * (read @ response)[..., [0, 3]].sum(-1).diagonal())
    s = moments(response, np.linalg.solve(np.eye(n) - operator, own), x)
    return True if min(_least(s), _least(s - averaged(problem, sgd, s))) > 0 else None


def _least(matrix: np.ndarray) -> float:
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[0])


def bound(problem: ss.QuadraticProblem, sgd: ss.SGD, whole: bool = True) -> bool | None:
    """By M, which has no negative entries for heavy ball: stable if `M^s 1 < 1`, unstable if `vᵀMv > vᵀv`.

    Not `whole`: stable by s = 1 alone, for which pairs k = l are enough, unstable by pairs of the leading modes alone.
    """
    if not mean_converges(problem, sgd):
        return False
    n, u, x, gamma = problem.n, problem.eigenvectors, sgd.lr * problem.eigenvalues, sgd.noise(problem.n)
    read = np.kron(*[_modes(problem, sgd)[0]] * 2)
    sources = np.ones((1, 1, 4, 1))

    def row(k: int, columns: np.ndarray) -> np.ndarray:
        maps = np.eye(4) - literal(problem, sgd, slice(k, k + 1), columns)
        return n * gamma * x[k] * x[columns] * (np.linalg.solve(maps, sources)[0, ..., 0] @ read)

    image = u**2 @ np.array([row(k, np.array([k]))[0] for k in range(n)])
    if image.max() < 1 - ROUNDING or image.mean() > 1 + ROUNDING:
        return bool(image.max() < 1)
    modes = n if whole else _LEADING
    u = u[:, :modes]
    weights = np.array([row(k, np.arange(modes)) for k in range(modes)])
    for _ in range(_PRODUCTS if whole else _PRODUCTS // 10):
        v, image = image, np.einsum("ik,ik->i", u @ (weights * ((u.T * image) @ u)), u)
        if v @ image > (1 + ROUNDING) * (v @ v):
            return False
        if whole and image.max() < 1 - ROUNDING:
            return True
    return None


def diverges(problem: ss.QuadraticProblem, sgd: ss.SGD) -> bool | None:
    """False (unstable) if one of 20 sampled runs diverges; None: that they do not proves nothing."""
    run = ss.simulate(problem, sgd, ss.SampledLinearized(), 20_000, replicates=20, record=[20_000], progress=False)
    return None if np.isfinite(run["loss"].values).all() else False


def truth(problem: ss.QuadraticProblem, sgd: ss.SGD) -> tuple[bool | None, str]:
    """Whether it is stable, and what decided."""
    if problem.n > stability.EXACT_UP_TO:
        return bound(problem, sgd, whole=False), "bound"
    known, by = (certificate(problem, sgd), "certificate") if problem.n <= WHOLE else (bound(problem, sgd), "bound")
    return (known, by) if known is not None else (diverges(problem, sgd), "runs")


def basis(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "hadamard":
        return scipy.linalg.hadamard(n) / np.sqrt(n)
    if kind == "points":
        return np.eye(n)[rng.permutation(n)]
    return np.linalg.qr((2 * np.sqrt(n) * np.eye(n) if kind == "local" else 0) + rng.standard_normal((n, n)))[0]


def power_law(kind: str, n: int, nu: float) -> ss.QuadraticProblem:
    values = np.arange(1, n + 1.0) ** -nu
    if kind == "not drawn":
        return ss.QuadraticProblem.power_law(n, nu, 1.0)
    return ss.QuadraticProblem(ss.Spectrum(values, basis(kind, n, np.random.default_rng(n))), np.ones(n))


def kernel(name: str, n: int) -> ss.QuadraticProblem:
    data = ss.datasets.load(name, n=n, seed=0)
    return ss.QuadraticProblem.from_kernel(ss.ntk.analytic_ntk(data.x), -data.y)


def problems() -> list[tuple[str, int, Callable[[], ss.QuadraticProblem]]]:
    """Name, number of points and what makes it, the smallest first."""
    made = [(kind, n, nu) for nu in (1.2, 1.5, 2.0) for kind, n in zip(_KINDS, (64, 60, 60, 60), strict=True)]
    made += [(kind, n, 1.5) for n in (256, 1024) for kind in _KINDS]
    made += [("random", 300, 1.2), ("local", 300, 2.0), ("random", 2000, 1.5), ("local", 1500, 1.5)]
    made += [("local", 2500, 1.5), ("hadamard", 4096, 1.5), ("points", 5000, 1.5), ("random", 5000, 1.5)]
    made += [("not drawn", 5000, 1.5)]
    real = [(name, 60) for name in ("digits", "mnist", "cifar10", "bike_sharing", "sgemm_product")]
    real += [("digits", 500), ("mnist", 800), ("cifar10", 300), ("olivetti", 200), ("bike_sharing", 600)]
    real += [("sgemm_product", 1000)]
    found: list[tuple[str, int, Callable[[], ss.QuadraticProblem]]] = []
    found += [(f"{kind}, ν = {nu}", n, lambda of=(kind, n, nu): power_law(*of)) for kind, n, nu in made]
    found += [(name, n, lambda of=(name, n): kernel(*of)) for name, n in real]
    return sorted(found, key=lambda one: one[1])


_KINDS = ("hadamard", "random", "local", "points")


def threshold(problem: ss.QuadraticProblem, sgd: ss.SGD) -> float:
    """About the largest exactly stable learning rate; beyond 4000 points that of the 400 leading modes."""
    if problem.n <= stability.EXACT_UP_TO:
        return stability.max_lr(problem, sgd, "exact", tolerance=1e-4)
    closure = stability.max_lr(problem, sgd)
    if problem.spectrum.eigenvectors is None:
        return closure
    values = np.where(np.arange(problem.n) < 400, problem.eigenvalues, 0.0)
    leading = ss.QuadraticProblem(ss.Spectrum(values, problem.eigenvectors), np.ones(problem.n))
    return min(closure, stability.max_lr(leading, sgd, "exact", tolerance=1e-3))


def cells(up_to: int = 5000, only: str = "") -> Iterator[dict[str, object]]:
    """One dict for each problem, setting and factor."""
    for index, (name, n, make) in enumerate(problems()):
        if n > up_to or only not in name:
            continue
        since, problem = time.perf_counter(), make()
        count = 5 if n <= WHOLE else 3 if n <= 300 else 1
        chosen = SETTINGS if count == 5 else [SETTINGS[(index + i) % 4] for i in range(count)]
        for batch, momentum, method in chosen:
            sgd = ss.SGD(1.0, momentum, min(batch, n // 2), method=method)
            limit = threshold(problem, sgd)
            for factor in FACTORS:
                at = replace(sgd, lr=factor * limit)
                known = verdicts.verdict(problem, at)
                true, by = (None, "") if known.stable is None and n > 1000 else truth(problem, at)
                yield {
                    "problem": name, "n": n, "batch_size": sgd.batch_size, "momentum": momentum, "method": method,
                    "factor": factor, "lr": at.lr, "verdict": known.word, "reason": known.reason, "truth": true,
                    "by": by, "seconds": time.perf_counter() - since,
                }  # fmt: skip


def counts(found: list[dict[str, object]]) -> dict[str, int]:
    """How many cells there are, how many are wrong or "?", and how many sampled runs decided, or nothing."""
    told = [(cell["verdict"], cell["truth"]) for cell in found]
    return {
        "cells": len(told),
        "wrong yes": sum(word == "yes" and true is False for word, true in told),
        "wrong no": sum(word == "no" and true is True for word, true in told),
        "?": sum(word == "?" for word, _ in told),
        "truth by runs": sum(cell["by"] == "runs" and cell["truth"] is False for cell in found),
        "truth open": sum(word != "?" and true is None for word, true in told),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/verdict_table.py", description=__doc__.splitlines()[0])
    parser.add_argument("--up-to", type=int, default=5000, metavar="N", help="points of the largest problem")
    parser.add_argument("--only", default="", metavar="NAME", help="problems whose names have this")
    parser.add_argument("--json", metavar="FILE", help="write every cell")
    args = parser.parse_args()
    found: list[dict[str, object]] = []
    for cell in cells(args.up_to, args.only):
        if found and (cell["problem"], cell["n"]) != (found[-1]["problem"], found[-1]["n"]):
            _line(found)
        found.append(cell)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(found, file)
    _line(found)
    total = counts(found)
    print(f"{len({(c['problem'], c['n']) for c in found})} problems: {total}")
    sys.exit(total["wrong yes"] + total["wrong no"] > 0)


def _line(found: list[dict[str, object]]) -> None:
    """The last problem's numbers."""
    own = [cell for cell in found if (cell["problem"], cell["n"]) == (found[-1]["problem"], found[-1]["n"])]
    print(f"N = {own[-1]['n']:4}  {own[-1]['problem']:20} {own[-1]['seconds']:6.1f} s  {counts(own)}", flush=True)


if __name__ == "__main__":
    main()
