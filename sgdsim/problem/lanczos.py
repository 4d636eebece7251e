"""Spectra through products with a matrix alone: top eigenpairs, densities, spectral measures.

Operators are anything that `scipy.sparse.linalg.aslinearoperator` takes: an array, a sparse matrix, a `LinearOperator`
such as `sgdsim.networks.ntk.ntk_operator` or `sgdsim.networks.curvature.Curvature.hessian`. They must be symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, aslinearoperator

from sgdsim.common import arpack
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.rooms import listing
from sgdsim.common.shown import Shown

__dir__ = listing(__name__)

Operator: TypeAlias = np.ndarray | scipy.sparse.sparray | scipy.sparse.spmatrix | LinearOperator

_BREAKDOWN = 1e-13  # a new direction this short, relative to the operator, is rounding: the Krylov space is complete

_GLANCE = 1e-4  # relative: as well as the largest eigenvalue of what is left is known at first sight

_SMOOTHED = 10_000  # nodes smoothed at once: 80 MB on a grid of 1000


def tridiagonal(operator: Operator, start: np.ndarray, n_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lanczos from `start` (n,) with full reorthogonalisation (twice is enough: Parlett, *The symmetric eigenvalue
    problem*, sec. 6.9).

    Returns diagonal (m,), off-diagonal (m − 1,) and the basis (n, m); m < `n_steps` if the Krylov space is complete.
    """
    symmetric = _symmetric(operator)
    n_steps = min(integer("n_steps", n_steps, minimum=1), symmetric.shape[0])
    length = np.linalg.norm(start)
    if not length > 0:
        raise InputError("start: expected a vector that is not zero, got zeros")
    basis = np.empty((n_steps, symmetric.shape[0]))
    basis[0] = start / length
    diagonal: list[float] = []
    off: list[float] = []
    for step in range(n_steps):
        v = np.asarray(symmetric.matvec(basis[step]), dtype=np.float64).ravel()
        diagonal.append(float(basis[step] @ v))
        if not np.isfinite(diagonal[-1]):
            raise InputError("operator: expected finite products, got NaN or infinity")
        for _ in range(2):
            v -= basis[: step + 1].T @ (basis[: step + 1] @ v)
        rest = np.linalg.norm(v)
        size = np.abs(diagonal).max() + (max(off) if off else 0.0)
        if step + 1 == n_steps or rest <= _BREAKDOWN * size:
            break
        off.append(float(rest))
        basis[step + 1] = v / rest
    return np.array(diagonal), np.array(off), basis[: len(diagonal)].T


@dataclass(frozen=True, repr=False)
class SpectralMeasure(Shown):
    """`Σ_j weights_j δ(λ − nodes_j)`; nodes ascending. Exact for polynomials of degree ≤ 2m − 1 of the true measure."""

    nodes: np.ndarray
    weights: np.ndarray


def spectral_measure(operator: Operator, vector: np.ndarray, n_steps: int) -> SpectralMeasure:
    """The measure `Σ_k (u_k·vector)² δ(λ − λ_k)` by m Lanczos steps (Golub & Meurant 2010, ch. 7).

    Started from the residual its weights are the error coefficients c_k: with m steps the full-batch loss
    `Σ c_k (1 − αλ_k)^{2t}` is exact for t ≤ m − 1. Raises InputError as `tridiagonal` does.
    """
    vector = np.asarray(vector, dtype=np.float64).ravel()
    diagonal, off, _ = tridiagonal(operator, vector, n_steps)
    nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off)
    return SpectralMeasure(nodes, vectors[0] ** 2 * (vector @ vector))


@dataclass(frozen=True, repr=False)
class SpectralDensity(Shown):
    """Fraction of eigenvalues per unit of λ, smoothed: `density(grid)`; `nodes`, `weights` (probes, m) unsmoothed.

    `evaluate` gives it on other grids; `log_evaluate` per unit of log λ, for logarithmic axes.
    """

    nodes: np.ndarray
    weights: np.ndarray
    grid: np.ndarray
    density: np.ndarray
    sigma: float

    def evaluate(self, grid: np.ndarray, sigma: float | None = None) -> np.ndarray:
        """Gaussian-smoothed density at `grid`, width `sigma` in units of λ."""
        return _smooth(grid, self.nodes, self.weights, self.sigma if sigma is None else sigma)

    def log_evaluate(self, grid: np.ndarray, sigma: float = 0.1) -> np.ndarray:
        """Density per unit of log10 λ at positive `grid`, width `sigma` in decades; eigenvalues ≤ 0 are left out."""
        positive = self.nodes > 0
        nodes = np.log10(np.where(positive, self.nodes, 1.0))
        return _smooth(np.log10(grid), nodes, np.where(positive, self.weights, 0.0), sigma)


def _smooth(grid: np.ndarray, nodes: np.ndarray, weights: np.ndarray, sigma: float) -> np.ndarray:
    grid, total = np.asarray(grid, dtype=np.float64)[:, None], 0.0
    for low in range(0, nodes.size, _SMOOTHED):
        z = (grid - nodes.ravel()[low : low + _SMOOTHED]) / sigma
        total = total + np.exp(-0.5 * z**2) @ weights.ravel()[low : low + _SMOOTHED]
    return total / (sigma * np.sqrt(2 * np.pi))


def smoothed(
    nodes: np.ndarray, weights: np.ndarray, *, sigma: float | None = None, n_grid: int = 1000
) -> SpectralDensity:
    """The density of `nodes` with `weights` (probes, m), sum 1; `sigma` and `n_grid` as in `spectral_density`."""
    span = max(np.ptp(nodes), np.abs(nodes).max() * 1e-3, 1e-300)
    sigma = 0.01 * span if sigma is None else number("sigma", sigma)
    if sigma <= 0:
        raise InputError(f"sigma: expected a number > 0, got {sigma}")
    grid = np.linspace(nodes.min() - 5 * sigma, nodes.max() + 5 * sigma, integer("n_grid", n_grid, minimum=2))
    return SpectralDensity(nodes, weights, grid, _smooth(grid, nodes, weights, sigma), sigma)


def spectral_density(
    operator: Operator,
    *,
    n_steps: int = 80,
    n_probes: int = 10,
    sigma: float | None = None,
    n_grid: int = 1000,
    seed: int = 0,
) -> SpectralDensity:
    """Eigenvalue density by stochastic Lanczos quadrature with full reorthogonalisation (Ubaru, Chen & Saad, SIAM J.
    Matrix Anal. Appl. 38 (2017) 1075; for Hessians Ghorbani, Krishnan & Xiao, ICML 2019).

    Parameters
    ----------
    n_steps, n_probes : Lanczos steps m, and independent Gaussian probes; moments up to 2m − 1 are unbiased.
    sigma : width of the Gaussian; None: 1% of the spectrum's range.
    """
    nodes, weights = quadrature(operator, n_steps=n_steps, n_probes=n_probes, seed=seed)
    return smoothed(nodes, weights, sigma=sigma, n_grid=n_grid)


def quadrature(
    operator: Operator, *, n_steps: int, n_probes: int, seed: int, without: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (probes, m) of stochastic Lanczos quadrature; the weights sum to 1.

    `without` (n, k): orthonormal eigenvectors whose eigenvalues are left out. Probes are drawn orthogonal to them,
    which removes the variance that a few large eigenvalues cause (deflation).
    """
    symmetric = _symmetric(operator)
    rng = np.random.default_rng(integer("seed", seed))
    n, n_probes = symmetric.shape[0], integer("n_probes", n_probes, minimum=1)

    def project(v: np.ndarray) -> np.ndarray:
        return v if without is None else v - without @ (without.T @ v)

    rest = LinearOperator(symmetric.shape, matvec=lambda v: project(symmetric.matvec(v)), dtype=np.float64)
    nodes, weights = [], []
    for _ in range(n_probes):
        measure = spectral_measure(rest, project(rng.standard_normal(n)), n_steps)
        missing = min(n_steps, n) - measure.nodes.size  # an early end leaves fewer nodes: repeat one with no weight
        nodes.append(np.pad(measure.nodes, (0, missing), mode="edge"))
        weights.append(np.pad(measure.weights / (measure.weights.sum() * n_probes), (0, missing)))
    return np.array(nodes), np.array(weights)


@dataclass(frozen=True, eq=False, repr=False)
class TopEigenpairs(Shown):
    """The largest k eigenvalues (k,) descending, eigenvectors (n, k), and ‖A u − λ u‖ of each (k,), measured."""

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    residuals: np.ndarray


def top_eigenpairs(operator: Operator, k: int, *, tolerance: float = 1e-10, seed: int = 0) -> TopEigenpairs:
    """The k largest eigenpairs by implicitly restarted Lanczos (ARPACK), each with its measured residual.

    One start sees a multiple eigenvalue once, but for rounding. So further ones, from random vectors, look at what is
    left without the pairs found, until nothing is left above the k-th: all copies are found.

    Parameters
    ----------
    k : how many, below the operator's size n (the full size is done densely where the operator is an array).
    tolerance : largest residual accepted, relative to the largest eigenvalue.

    Raises
    ------
    InputError : k out of range, an operator that is not square, or residuals above the tolerance.
    """
    symmetric = _symmetric(operator)
    n = symmetric.shape[0]
    k = integer("k", k, minimum=1, maximum=n)
    if isinstance(operator, np.ndarray) and k > n // 4:  # ARPACK is slower than all of them there
        values, vectors = scipy.linalg.eigh(operator, subset_by_index=(n - k, n - 1))
    elif k >= n - 1:
        values, vectors = scipy.linalg.eigh(symmetric @ np.eye(n))
        values, vectors = values[n - k :], vectors[:, n - k :]
    else:
        values, vectors = _with_copies(symmetric, k, tolerance, np.random.default_rng(integer("seed", seed)))
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    residuals = np.linalg.norm(symmetric @ vectors - vectors * values, axis=0)
    if not residuals.max() <= tolerance * abs(values[0]):
        worst = residuals.max() / abs(values[0])
        raise InputError(
            f"operator: expected residuals below {tolerance:g} of λ_max, got {worst:.2g}; is it symmetric?"
        )
    return TopEigenpairs(values, vectors, residuals)


def _with_copies(
    operator: LinearOperator, k: int, tolerance: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues and their eigenvectors, multiple ones as often as they are there."""
    n = operator.shape[0]
    values, vectors = _largest(operator, k, rng.standard_normal(n), tolerance * 0.1)
    more = 1
    while True:
        size, least = np.abs(values).max(), values.min()

        def left(v: np.ndarray, u: np.ndarray = vectors, down: np.ndarray = values - (least - size)) -> np.ndarray:
            return operator.matvec(v) - u @ (down * (u.T @ v.ravel()))  # what is found, moved out of the way

        rest = LinearOperator(operator.shape, matvec=left, dtype=np.float64)
        start = rng.standard_normal(n)
        start -= vectors @ (vectors.T @ start)
        seen, hint = _largest(rest, 1, start, _GLANCE)
        if seen[0] <= least - _GLANCE * abs(seen[0]):
            return values, vectors
        seen, new = _largest(rest, more, hint[:, 0] if more == 1 else start, tolerance * 0.1)
        if seen.max() <= least + tolerance * size:
            return values, vectors
        basis, _ = np.linalg.qr(np.concatenate([vectors, new], axis=1))
        values, rotation = scipy.linalg.eigh(basis.T @ (operator @ basis))
        values, vectors = values[-k:], basis @ rotation[:, -k:]
        more = min(2 * more, k, n - k - 1)


def _largest(operator: LinearOperator, k: int, start: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    try:
        n = operator.shape[0]
        return arpack.largest(operator, k, start, tolerance, min(n, k + k // 2 + 20))
    except ArpackNoConvergence as error:
        raise InputError(
            f"operator: Lanczos found {len(error.eigenvalues)} of {k} eigenpairs; ask for fewer"
        ) from error


def nystrom(
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, k: int, *, landmarks: int, seed: int = 0
) -> TopEigenpairs:
    """The k largest eigenpairs of `kernel(x, x)`, (n, n), from n × m of its entries (Williams & Seeger, NIPS 2000).

    For n ≥ 20,000, where the matrix does not fit. The eigenpairs are those of the approximation
    `K_nm K_mm⁻¹ K_mn ≼ K` by m random landmarks; the residuals are measured against the rows of K at m other random
    points and scaled up, so they say how good the approximation is.

    Parameters
    ----------
    kernel : maps inputs (a, ...) and (b, ...) to (a, b).
    landmarks : m, at least k and at most n/2.
    """
    n = len(x)
    landmarks = integer("landmarks", landmarks, minimum=1, maximum=max(1, n // 2))
    k = integer("k", k, minimum=1, maximum=landmarks)
    order = np.random.default_rng(integer("seed", seed)).permutation(n)
    chosen, others = order[:landmarks], np.sort(order[landmarks : 2 * landmarks])
    columns = np.asarray(kernel(x, x[chosen]), dtype=np.float64)
    square = columns[chosen]
    values, vectors = scipy.linalg.eigh((square + square.T) * 0.5)
    kept = values > values[-1] * landmarks * np.finfo(float).eps
    factor = columns @ (vectors[:, kept] / np.sqrt(values[kept]))  # K ≈ factor factorᵀ
    u, s, _ = scipy.linalg.svd(factor, full_matrices=False, overwrite_a=True)
    k = min(k, s.size)
    eigenvalues, eigenvectors = s[:k] ** 2, np.ascontiguousarray(u[:, :k])
    rows = np.asarray(kernel(x[others], x), dtype=np.float64)
    missed = rows @ eigenvectors - eigenvectors[others] * eigenvalues
    return TopEigenpairs(eigenvalues, eigenvectors, np.linalg.norm(missed, axis=0) * np.sqrt(n / len(others)))


def _symmetric(operator: Operator) -> LinearOperator:
    try:
        symmetric = aslinearoperator(operator)
    except TypeError as error:
        raise InputError(f"operator: expected a matrix or LinearOperator, got {type(operator).__name__}") from error
    if symmetric.shape[0] != symmetric.shape[1] or symmetric.shape[0] == 0:
        raise InputError(f"operator: expected a square one, got shape {symmetric.shape}")
    return symmetric
