"""A power-law spectrum of more eigenvalues than anybody keeps: the leading ones as they are, bins for all others.

All that the spectral-diagonal regime and its theory know of a spectrum are sums `Σ_k n_k f(λ_k)` and `Σ_k c_k f(λ_k)`
of functions that are smooth in log λ. By Euler and Maclaurin, with K the last mode that is kept by itself,

    Σ_{k=K+1}^N f(k) = ∫_{K+½}^{N+½} f dk + (f(K+1) − f(K))/24 − … ,

up to fourth differences at K and to second ones at N, which is large. So 1/24 of an eigenvalue moves from mode K to one
at K + 1, and the integral, over bins half an e-fold of λ wide, is that of Gauss and Legendre in log k: its nodes become
modes with multiplicity. All weights are positive, the number of eigenvalues is exact, and the sum of c_k in a bin is
the difference of two Hurwitz zeta functions (to 10⁻¹¹, tested). At the last mode N, whose exponential tail is steep,
bins get narrower. An infinite spectrum ends in one mode for all that is beyond λ = `_LAST`, with the sums of λ, λ² and
c that those have: it moves by less than 10⁻⁷ in 10¹⁵ steps.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy.special

from sgdsim.common.checks import InputError, integer, number
from sgdsim.problem.spectrum import Spectrum

_MOST = 10**18  # of a finite N, and an int64
EXPLICIT = 10_000_000  # eigenvalues up to which each is a mode of its own
ABOUT = 2000  # modes, roughly, where there are more
_KEPT = 1000  # modes by themselves
_WIDTH, _NODES = 0.5, 8  # e-folds of λ in a bin, and the nodes in it
_LAST = 1e-22
_HALVINGS = 12  # of the last bin's width
_NEGLIGIBLE = 1e-290  # of λ: its square, times a count, is a float


@dataclass(frozen=True)
class Made:
    """The fields of a `QuadraticProblem`; `facts`: its description. `basis_seed`: None where modes are bins."""

    spectrum: Spectrum
    coefficients: np.ndarray
    facts: dict[str, object]
    basis_seed: int | None


def made(n: float, nu: float, kappa: float, lambda_min: float, seed: int) -> Made:
    """What `QuadraticProblem.power_law` makes; raises as that."""
    endless = isinstance(n, float) and math.isinf(n) and n > 0
    n = n if endless else integer("n", n, minimum=1, maximum=_MOST)
    for name, value in (("nu", nu), ("kappa", kappa)):
        if number(name, value) <= 0:
            raise InputError(f"{name}: expected a number > 0, got {value}")
    if not 0 <= number("lambda_min", lambda_min) < 1:
        raise InputError(f"lambda_min: expected a number from 0 to below 1, got {lambda_min}")
    seed = integer("seed", seed)
    if endless and (nu <= 1 or lambda_min > 0):
        raise InputError(
            "n: expected a finite number where the eigenvalues' sum is infinite and SGD with noise diverges at "
            f"every learning rate, as for ν = {nu:g} and lambda_min = {lambda_min:g}; got inf"
        )
    shown = "∞" if endless else f"{n:g}" if n > EXPLICIT and float(f"{n:g}") == n else f"{n}"
    description: dict[str, object] = {
        "kind": "power_law", "title": f"power law ν = {nu:g}, κ = {kappa:g}, N = {shown}",
        "n": "inf" if endless else n, "nu": nu, "kappa": kappa, "lambda_min": lambda_min, "seed": seed,
    }  # fmt: skip
    if n > EXPLICIT:
        values, counts, c = modes(n, nu, kappa, lambda_min)
        return Made(Spectrum(values, multiplicity=counts, size=n), np.sqrt(c), description, None)
    k = np.arange(1, n + 1, dtype=np.float64)
    c = k ** (-kappa - 1.0)
    eigenvalues = lambda_min + (1.0 - lambda_min) * k**-nu
    eigenvalues[0] = 1.0
    return Made(Spectrum(eigenvalues), np.sqrt(c / c.sum()), description, seed)


def tail_sum(kappa: float, first: float, last: float) -> float:
    """`Σ_{k=first}^{last} k^{−κ−1}`, `last` maybe infinite."""
    total = float(scipy.special.zeta(kappa + 1, first))
    return total if math.isinf(last) else total - float(scipy.special.zeta(kappa + 1, last + 1.0))


def total(n: float, kappa: float) -> float:
    """`Σ_{k=1}^n k^{−κ−1}`, summed up where n is no more than `EXPLICIT`."""
    return float(np.sum(np.arange(1, n + 1.0) ** (-kappa - 1))) if n <= EXPLICIT else tail_sum(kappa, 1.0, n)


def modes(n: float, nu: float, kappa: float, lambda_min: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """λ, counts and c of `λ_k = λ_min + (1 − λ_min) k^{−ν}`, `c_k ∝ k^{−κ−1}` of sum 1, k = 1 … n; n > `EXPLICIT`,
    maybe infinite, then for ν > 1 and λ_min = 0.

    Losses of the spectral-diagonal regime are those of all modes to a relative error of 10⁻⁹ where they fall like a
    power; in the exponential tail of a finite spectrum, to that of its exponent.
    """
    edges = _edges(n, nu)
    parts = zip(_leading(kappa), *_bins(edges, kappa), strict=True)
    k, counts, c = (np.concatenate(part) for part in parts)
    order = np.argsort(k, kind="stable")
    k, counts, c = k[order], counts[order], c[order]
    values = lambda_min + (1 - lambda_min) * k**-nu
    values[0] = 1.0
    if math.isinf(n):
        beyond = edges[-1]
        first, second = (float(scipy.special.zeta(power * nu, beyond)) for power in (1, 2))
        last = second / first if second > 0 else 0.0
        values = np.append(values, last)
        counts, c = np.append(counts, first / last if last else 0.0), np.append(c, tail_sum(kappa, beyond, n))
    return values, counts, c / c.sum()


def _edges(n: float, nu: float) -> np.ndarray:
    """Where bins begin, whole numbers, and where the last one ends: n + 1, or what λ = `_LAST` is at."""
    end = n + 1.0 if math.isfinite(n) else math.ceil(max(_LAST ** (-1 / nu), 10.0 * _KEPT))
    span, width = math.log(end / (_KEPT + 1)), _WIDTH / max(nu, 1.0)
    inner = math.log(_KEPT + 1) + np.linspace(0, span, math.ceil(span / width) + 1)
    if math.isfinite(n):
        steep = inner[-1] - (inner[-1] - inner[-2]) * 0.5 ** np.arange(1, _HALVINGS)
        inner = np.concatenate([inner[:-1], steep, inner[-1:]])
    whole = np.unique(np.round(np.exp(inner)))
    whole[0], whole[-1] = _KEPT + 1, end
    return whole


def _leading(kappa: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k, counts and c of the modes that are kept, and of the 1/24 beyond."""
    k, counts = np.arange(1.0, _KEPT + 2), np.ones(_KEPT + 1)
    counts[-2:] = 23 / 24, 1 / 24
    return k, counts, counts * k ** (-kappa - 1)


def _bins(edges: np.ndarray, kappa: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """k, counts and c of the nodes of each bin."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    out = []
    for a, b in itertools.pairwise(edges):
        low, high = math.log(a - 0.5), math.log(b - 0.5)
        k = np.exp(0.5 * (low + high) + 0.5 * (high - low) * nodes)
        counts = 0.5 * (high - low) * weights * k
        counts *= (b - a) / counts.sum()
        out.append((k, counts, counts * k ** (-kappa - 1)))
    return out
