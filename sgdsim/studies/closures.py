"""Which τ is right? Spectral-diagonal losses beside the exact average, and why a τ fits a mode.

The closure replaces the noise source of mode k, exactly `γλ_k²(N Σ_i u_ki² D_i − c_k)` with `D_i = E[r_i²]`, by
`γλ_k²(s − τc_k)`. For a residual that lies in mode k alone, `D_i = c_k u_ki²` and `s = c_k`, so the two agree for
`τ = 2 − N Σ_i u_ki⁴`: 1 where the eigenvector is spread evenly over the points, −1 where its entries scatter like
Gaussian variates (their fourth moment is 3), lower where few points carry it.

`error_map` says how wrong the closures are at which learning rate, momentum, batch size and step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, number
from sgdsim.common.statistics import mean_and_error
from sgdsim.problem import Problem
from sgdsim.recurrence import contour
from sgdsim.runs.followed import followed
from sgdsim.runs.results import check_squared
from sgdsim.theory import exact as exact_average
from sgdsim.theory import stability

if TYPE_CHECKING:
    import xarray as xr

EXACT, SAMPLED = "averaged", "sampled"


@dataclass(frozen=True)
class Distance:
    """How far one loss curve is from the exact average in one cell, in `|log(L/L_exact)|`, small values: relative.

    Parameters
    ----------
    cell : the hyperparameters, by name.
    regime, tau : the curve; τ is None for the sampled mean.
    typical : root mean square over the recorded steps ≥ 1 (log-spaced by default: each decade counts alike).
    worst, worst_step : the largest, and where it is. Infinite where the curve diverges and the exact one does not.
    stderr : for the sampled mean, the root mean square of its relative standard error; None for the others.
    """

    cell: dict[str, float | str]
    regime: str
    tau: float | None
    typical: float
    worst: float
    worst_step: int
    stderr: float | None = None


def distances(result: xr.Dataset) -> list[Distance]:
    """The distances of all spectral-diagonal curves and of the sampled mean from the exact average, cell by cell.

    Steps at which the exact average is infinite, or was not reached, are left out. Raises InputError for a result
    without losses of the averaged regime and of another one beside it, or without a step ≥ 1.
    """
    check_squared("distances", result)
    names = followed(result) if "regime" in result.dims else {}
    exact = [name for name, regime in names.items() if regime.kind == EXACT]
    others = [name for name, regime in names.items() if regime.tau is not None or regime.kind == SAMPLED]
    if "loss" not in result or len(exact) != 1 or not others:
        raise InputError(
            "result: expected losses of the averaged regime, once, and of diagonal or sampled ones beside it; got "
            f"{', '.join(names) or 'no regimes'}"
        )
    steps = result["step"].values
    later = steps >= 1
    if not later.any():
        raise InputError("result: expected a recorded step >= 1, got step 0 only")
    grid = [str(name) for name in result["loss"].dims if name not in ("regime", "replicate", "step")]
    found = []
    for at in itertools.product(*(range(result.sizes[name]) for name in grid)):
        one = result.isel(dict(zip(grid, at, strict=True)))
        cell = {
            name: one[name].item()
            for name in ("lr", "momentum", "batch_size", *grid)
            if name in one.coords and one[name].ndim == 0
        }
        reference = curve(one, exact[0])[0]
        for name in others:
            mean, error = curve(one, name)
            known = later & np.isfinite(reference) & (reference > 0) & ~np.isnan(mean)
            if known.any():
                gap, spread = _gap(mean[known], reference[known]), None
                if error is not None:
                    with np.errstate(invalid="ignore"):
                        spread = _typical(error[known] / mean[known])
                worst = int(np.argmax(gap))
                found.append(
                    Distance(
                        cell,
                        name,
                        names[name].tau,
                        _typical(gap),
                        float(gap[worst]),
                        int(steps[known][worst]),
                        spread,
                    )
                )
    return found


def nearest(found: list[Distance]) -> list[Distance]:
    """Of each cell's spectral-diagonal curves the one with the least typical distance; cells in their order."""
    best: dict[tuple, Distance] = {}
    for entry in found:
        key = tuple(entry.cell.items())
        if entry.tau is not None and (key not in best or entry.typical < best[key].typical):
            best[key] = entry
    return list(best.values())


@dataclass(frozen=True)
class ErrorMap:
    """Losses of closures beside the exact average: over batch size and momentum, `settings` (S,) pairs of these;
    learning rate, as `fractions` (F,) of the largest that is exactly stable, `max_lr` (S,); and `steps` (T,).

    `exact` (S, F, T): NaN where it is not known to 1%. `closure` (K, S, F, T): for each of `taus` (K,).
    """

    title: str
    taus: tuple[float, ...]
    settings: tuple[tuple[int, float], ...]
    fractions: np.ndarray
    steps: np.ndarray
    max_lr: np.ndarray
    exact: np.ndarray
    closure: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """closure/exact − 1, (K, S, F, T)."""
        return self.closure / self.exact - 1

    @property
    def exponents(self) -> np.ndarray:
        """−d ln L/d ln t between neighbouring steps, (1 + K, S, F, T − 1): of the exact average and of each closure."""
        losses = np.concatenate([self.exact[None], self.closure])
        return -np.diff(np.log(np.where(losses > 0, losses, np.nan))) / np.diff(np.log(self.steps))


def error_map(
    problem: Problem,
    settings: Sequence[tuple[int, float]],
    *,
    fractions: Sequence[float] = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95),
    steps: Sequence[int] = (10, 30, 100, 300, 1000, 3000, 10_000),
    taus: Sequence[float] = (1.0, 0.0),
) -> ErrorMap:
    """How wrong closures are at these (batch size, momentum) `settings`. Times as many exact averages as settings and
    fractions: a second each at N = 250. Raises InputError as `sgdsim.theory.exact.losses`."""
    quadratic, times = problem.quadratic, np.asarray(steps)
    limits = np.empty(len(settings))
    exact = np.empty((len(settings), len(fractions), times.size))
    closure = np.empty((len(taus), *exact.shape))
    for i, (batch_size, momentum) in enumerate(settings):
        limits[i] = stability.max_lr(quadratic, SGD(1.0, momentum, batch_size), "exact", tolerance=1e-4)
        for j, fraction in enumerate(fractions):
            sgd = SGD(fraction * limits[i], momentum, batch_size)
            known = exact_average.losses(quadratic, sgd, times, 1e-4)
            exact[i, j] = np.where(known.error < 0.01, known.loss, np.nan)
            for k, tau in enumerate(taus):
                closure[k, i, j] = contour.loss_at(
                    quadratic, times, lr=fraction * limits[i], momentum=momentum, batch_size=batch_size, tau=tau
                ).loss
    title = str(quadratic.description.get("title", ""))
    return ErrorMap(title, tuple(taus), tuple(settings), np.asarray(fractions), times, limits, exact, closure)


def mode_tau(problem: Problem) -> np.ndarray:
    """`2 − N Σ_i u_ki⁴` of every mode, (n,): the τ that is exact for a residual in that mode alone.

    Raises InputError for a problem without eigenvectors.
    """
    vectors = problem.quadratic.eigenvectors
    return 2 - len(vectors) * (vectors**4).sum(0)


def noise_tau(problem: Problem, lr: float, momentum: float = 0.0) -> float:
    """The mean of `mode_tau`, weighted by how much each mode's own term matters at late times.

    With a τ_k for each mode, `Ũ(1) = γ Σ_k x_k/(2(1−β) − x_k((1−β)/(1+β) − γτ_k))`, `x_k = αλ_k`. One τ for all of them
    gives the same Ũ(1), to first order in γ, if it is their mean with weights `(x_k/(2(1+β) − x_k))²`: near the
    full-batch threshold the first mode decides, for small α all modes do in proportion to λ_k².

    Raises InputError unless 0 < α < 2(1+β), and without eigenvectors.
    """
    top = 2 * (1 + number("momentum", momentum, minimum=-1.0, maximum=1.0, open_ends=True))
    if not 0 < number("lr", lr) < top:
        raise InputError(f"lr: expected a number between 0 and 2(1 + momentum) = {top:g}, got {lr}")
    x = lr * problem.quadratic.eigenvalues
    weight = (x / (top - x)) ** 2
    return float(weight @ mode_tau(problem) / weight.sum())


def curve(cell: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean loss (T,) and its standard error over replicates, None for a single one."""
    at = [str(value) for value in cell["regime"].values].index(name)
    runs = cell["loss"].isel(regime=at).transpose("replicate", "step").values
    runs = runs[~np.isnan(runs).all(1)]
    if not len(runs):
        return np.full(cell.sizes["step"], np.nan), None
    mean, error = mean_and_error(runs, 0)
    return mean, error if len(runs) > 1 else None


def _gap(loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.abs(np.log(loss / reference))


def _typical(values: np.ndarray) -> float:
    return math.sqrt(float(np.mean(values**2)))
