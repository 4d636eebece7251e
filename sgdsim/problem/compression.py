"""A long spectrum as a short one: bins of eigenvalues, each replaced by the nodes of Gaussian quadratures.

The spectral-diagonal recurrence, its generating functions and its thresholds see of a spectrum the sums `Σ n_k f(λ_k)`
and `Σ c_k f(λ_k)` alone, over counts and error coefficients, of functions that are analytic in log λ. So in a bin each
of the two measures becomes its own quadrature of m nodes, exact for polynomials in log λ up to degree 2m − 1 (Golub &
Welsch, *Math. Comp.* 23 (1969) 221): all weights are positive, and the sums of n and c stay as they are.

Bins are an e-fold of λ wide, or some fraction of it. Then they get narrower towards both ends, by a factor each: at the
lower one decays are steep late in a run, at the upper one oscillations and the threshold are near.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from sgdsim.common.checks import InputError, number
from sgdsim.problem.spectrum import Spectrum

if TYPE_CHECKING:
    from sgdsim.problem.quadratic import QuadraticProblem

Modes = tuple[np.ndarray, np.ndarray, np.ndarray]  # λ, counts and c

WIDTHS = (1.0, 0.5, 0.25, 0.125)  # e-folds of a bin, from the one tried first to the last
_NODES = 8  # of each measure in a bin; one less for the estimate
_FIRST, _LAST = 40, 10  # modes that are kept as they are
_TIMES = 120  # decays by which a tolerance is judged

_made: weakref.WeakKeyDictionary[QuadraticProblem, dict[float, tuple[QuadraticProblem, QuadraticProblem]]]
_made = weakref.WeakKeyDictionary()
_making = threading.Lock()


def compress(problem: QuadraticProblem, tolerance: float = 1e-10) -> QuadraticProblem:
    """The same problem with fewer modes, for the diagonal regime and its theory; itself where that takes no fewer,
    where it has an origin, or where Lanczos quadrature made it: it has few modes, and larger errors of its own.

    `tolerance`: of `Σ c_k e^{−λ_k s}` and `Σ n_k λ_k² e^{−λ_k s}`, relative, at all s, by the difference of two
    compressions. Losses of momentum up to about 0.9 are as good; nearer to 1, modes oscillate that share a bin, and
    `ss.SpectralDiagonal` finds the bins that a run needs by itself. Eigenvectors and test points are dropped. Raises
    InputError for a tolerance outside (0, 1), or one that the narrowest bins do not reach.
    """
    if not 0 < number("tolerance", tolerance) < 1:
        raise InputError(f"tolerance: expected a number between 0 and 1, got {tolerance}")
    if (
        problem.origin is not None or problem.alternatives
    ):  # of a shorter one it is not known which other quadratures stand beside it
        return problem
    found = 1.0
    for width in WIDTHS:
        fine, coarse = pair(problem, width)
        if fine is problem or (found := _difference(fine, coarse)) <= tolerance:
            return fine
    raise InputError(f"tolerance: expected at least {found:.1g}, what the narrowest bins reach, got {tolerance}")


def pair(problem: QuadraticProblem, width: float) -> tuple[QuadraticProblem, QuadraticProblem]:
    """The problem in bins of this width, with as many nodes as are used, and with one less: made once. Twice the
    problem itself where that has no more modes."""
    with _making:
        known = _made.setdefault(problem, {})
        if width not in known:
            fine, coarse = modes(problem, width)
            if fine[0].size < problem.eigenvalues.size:
                known[width] = _problem(problem, fine), _problem(problem, coarse)
            else:
                known[width] = problem, problem
        return known[width]


def short(problem: QuadraticProblem) -> QuadraticProblem:
    """The problem on modes enough for what is asked of it at infinite times, Ũ(1) and its like, whose terms are smooth
    in log λ: relative errors are about 10⁻¹¹. Itself where that is more than half as long."""
    return _halved(problem, WIDTHS[1])


def sketch(problem: QuadraticProblem) -> QuadraticProblem:
    """The problem in the widest bins, to search on, or for the eye; itself where that is more than half as long."""
    return _halved(problem, WIDTHS[0])


def agreed(problem: QuadraticProblem, value: Callable[[QuadraticProblem], float], tolerance: float) -> float:
    """`value` on the fewest modes where one node less in each bin changes it by a share of `tolerance` at most; on the
    problem itself where none are half as long."""
    for width in WIDTHS[1:]:
        fine, coarse = pair(problem, width)
        if 2 * fine.spectrum.n_modes > problem.spectrum.n_modes:
            break
        found = value(fine)
        if math.isclose(found, value(coarse), rel_tol=tolerance):
            return found
    return value(problem)


def _halved(problem: QuadraticProblem, width: float) -> QuadraticProblem:
    found, _ = pair(problem, width)
    return found if 2 * found.spectrum.n_modes <= problem.spectrum.n_modes else problem


def modes(problem: QuadraticProblem, width: float) -> tuple[Modes, Modes]:
    """λ, counts and c of the problem in bins `width` e-folds wide, with all nodes and with one less in each; what never
    moves is one mode with λ = 0."""
    moving, c = problem.spectrum.moving, problem.coefficients**2
    values, counts, weights = (x[moving] for x in (problem.eigenvalues, problem.spectrum.counts, c))
    parts: tuple[list[Modes], list[Modes]] = ([], [])
    for low, high in itertools.pairwise(_cuts(values, width)):
        here = slice(low, high)
        if high - low <= 2 * _NODES:
            for part in parts:
                part.append((values[here], counts[here], weights[here]))
            continue
        x = np.log(values[here])
        for k, measure in enumerate((counts[here], weights[here])):
            for part, (places, shares) in zip(parts, gauss(x, measure, (_NODES, _NODES - 1)), strict=True):
                zero = np.zeros(shares.size)
                part.append((np.exp(places), zero if k else shares, shares if k else zero))
    if not moving.all():
        for part in parts:
            part.append((np.zeros(1), problem.spectrum.counts[~moving].sum()[None], np.array([problem.still])))
    return _sorted(parts[0]), _sorted(parts[1])


def _sorted(parts: list[Modes]) -> Modes:
    values, counts, c = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(-values, kind="stable")
    return values[order], counts[order], c[order]


def gauss(x: np.ndarray, weights: np.ndarray, nodes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Places and weights of the Gaussian quadratures with so many `nodes` of the measure `Σ weights δ_x`, or fewer
    where it has no more points; by Lanczos with reorthogonalisation. Points with weight 0 count for nothing."""
    if not (weights > 0).all():
        x, weights = x[weights > 0], weights[weights > 0]
    if not x.size:
        return [(x, weights)] * len(nodes)
    most = min(max(nodes), x.size)
    middle, half = (x[0] + x[-1]) / 2, max(abs(x[0] - x[-1]) / 2, 1e-300)
    scaled, total = (x - middle) / half, weights.sum()
    basis = np.empty((most, x.size))
    basis[0] = np.sqrt(weights / total)
    diagonal, beside = np.zeros(most), np.zeros(most)
    for j in range(most):
        new = scaled * basis[j]
        diagonal[j] = basis[j] @ new
        before, beside[j] = math.inf, np.linalg.norm(new)
        while beside[j] < 0.1 * before:  # Kahan's rule: again where much was taken away
            new -= (basis[: j + 1] @ new) @ basis[: j + 1]
            before, beside[j] = beside[j], np.linalg.norm(new)
        if j + 1 == most or beside[j] < 1e-12:  # as where fewer places than nodes differ
            break
        basis[j + 1] = new / beside[j]
    out = []
    for count in nodes:
        used = min(count, j + 1)
        places, vectors = scipy.linalg.eigh_tridiagonal(diagonal[:used], beside[: used - 1])
        out.append((middle + half * np.clip(places, -1.0, 1.0), total * vectors[0] ** 2))
    return out


def _cuts(values: np.ndarray, width: float) -> np.ndarray:
    """Where bins of the descending values begin, and their end; the first and the last are bins of one."""
    first = min(_FIRST, values.size)
    last = max(first, values.size - _LAST)
    inner = values[first:last]
    if not inner.size:
        return np.arange(values.size + 1)
    above, below = inner / values[last] - 1, 1 - inner / values[0]
    if width == WIDTHS[0]:
        rising, falling = np.log(above + 1) / width, np.zeros(inner.size)
    else:
        with np.errstate(divide="ignore"):
            rising = np.where(above < 1, np.log2(above) / (2 * width), np.log((above + 1) / 2) / width)
            falling = np.where(below < 0.5, np.log2(below) / (2 * width), 0.0)
    number = np.floor(np.stack([rising, falling]))
    changes = np.flatnonzero((number[:, 1:] != number[:, :-1]).any(0)) + 1
    return np.concatenate([np.arange(first), first + np.append(0, changes), np.arange(last, values.size + 1)])


def _problem(problem: QuadraticProblem, made: Modes) -> QuadraticProblem:
    values, counts, c = made
    n = problem.spectrum.n
    spectrum = Spectrum(
        values, scale=problem.spectrum.scale, multiplicity=counts, size=n, outputs=problem.spectrum.outputs
    )
    facts = {"modes": values.size, "n": n if math.isfinite(n) else "inf"}  # of which a file gives the size back
    description = problem.description | {"compressed": facts}
    return type(problem)(
        spectrum, np.sqrt(c), description=description, population=problem.population, n_outputs=problem.n_outputs,
        loss_offset=problem.loss_offset,
    )  # fmt: skip


def _difference(one: QuadraticProblem, other: QuadraticProblem) -> float:
    """The largest relative difference of the decays of both sums."""
    worst = 0.0
    for square in (False, True):
        measures = []
        for problem in (one, other):
            lam = problem.eigenvalues
            weights = problem.spectrum.counts * lam**2 if square else problem.coefficients**2
            there = (weights > 0) & (lam > 0)
            measures.append((lam[there], weights[there]))
        if measures[0][0].size:
            last = measures[0][0][-1]
            for s in np.append(0.0, np.geomspace(0.1, 1e3 / last, _TIMES)):
                first, second = (float(weights @ np.exp((last - lam) * s)) for lam, weights in measures)
                worst = max(worst, abs(second / first - 1))
    return worst
