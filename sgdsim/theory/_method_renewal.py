"""Exact mean-square stability of any stationary linear method, through the variances of the points' residuals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse.linalg

from sgdsim.algorithm.sgd import SGD
from sgdsim.problem import QuadraticProblem
from sgdsim.theory import linear

_POWERS = 20  # power iterations, which may settle the matter, before Lanczos
_BASIS = 8  # vectors of Lanczos between two looks
_CONDITION = 1e3  # of eigenvectors; the weights' error is rounding times its square


def perron(image: Callable[[np.ndarray], np.ndarray], start: np.ndarray, tolerance: float) -> tuple[float, np.ndarray]:
    """The largest eigenvalue of a symmetric matrix with entries ≥ 0, to a relative `tolerance`, and its eigenvector
    (n,) with entries ≥ 0, by Lanczos from a vector `start` > 0.

    A power iteration would stop too early where the two largest lie close: its quotient errs by the square of the
    residual over their distance. Here the residual itself is within the tolerance.
    """
    n = start.size
    if n < 3:
        values, vectors = np.linalg.eigh(np.stack([image(unit) for unit in np.eye(n)], 1))
    else:
        matrix = scipy.sparse.linalg.LinearOperator((n, n), matvec=image, dtype=np.float64)
        first = start + 1e-3 * start.max()  # something of every point: an eigenvector may live on a few
        if not image(first).any():
            return 0.0, start
        values, vectors = scipy.sparse.linalg.eigsh(
            matrix, k=1, which="LA", v0=first, tol=tolerance, ncv=min(n, _BASIS)
        )
    return float(values[-1]), np.abs(vectors[:, -1])


class MethodRenewal:
    """The renewal operator M of the exact averaged regime, as `sgdsim.theory.stability.averaged_radius`, for any
    method. Asked for one algorithm after the other, it begins each time at the eigenvector found last."""

    def __init__(self, problem: QuadraticProblem) -> None:
        moves = problem.spectrum.moving
        self.problem, self.lam = problem, problem.eigenvalues[moves]
        self.u = np.ascontiguousarray(problem.eigenvectors[:, moves])
        self.v = np.full(problem.n, problem.n**-0.5)

    def radius(self, sgd: SGD, tolerance: float = 1e-10, *, side: bool = False) -> float:
        """ρ(M) to a relative `tolerance`; infinite where the mean diverges. `side`: only on which side of 1 it is.

        M is symmetric with entries ≥ 0, so for any v > 0 of length 1 `vᵀMv ≤ ρ ≤ max_i (Mv)_i/v_i`.
        """
        gamma = sgd.noise(self.problem.n)
        if not linear.mean_is_stable(self.problem, sgd):
            return math.inf
        if gamma == 0:
            return 0.0
        weights = self._pairs(sgd, gamma)
        for _ in range(_POWERS):
            image = np.maximum(self._image(weights, self.v), 0.0)
            found, highest = float(self.v @ image), float((image / self.v).max())
            self.v = np.maximum(image / np.linalg.norm(image), 1e-12)
            if highest - found <= tolerance * found or (side and (found > 1 or highest < 1)):
                return found
        found, self.v = perron(lambda v: self._image(weights, v), self.v, tolerance)
        self.v = np.maximum(self.v, 1e-12)
        return found

    def _image(self, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """`M v`, (n,)."""
        inner = (self.u * v[:, None]).T @ self.u
        return np.einsum("ik,ik->i", self.u @ (weights * inner), self.u)

    def max_lr(self, sgd: SGD, tolerance: float) -> float:
        """The learning rate at which the radius passes 1, going up."""
        near = linear.critical_lr(sgd, lambda one: linear.at_one(self.problem, one).stable, 1e-2)
        start = 0.1 * near if math.isfinite(near) else 1e-3
        return linear.critical_lr(sgd, lambda one: self.radius(one, side=True) < 1, tolerance, start=start)

    def _pairs(self, sgd: SGD, gamma: float) -> np.ndarray:
        """`γNλ_kλ_l T/(1 + γλ_kλ_l T)`, (n, n), with `T_kl = Σ_t (e₀ᵀR_k^t k)(e₀ᵀR_l^t k)`.

        From the eigenvalues μ of R and the responses' weights w on them, `T_kl = Σ_ab w_ka w_lb/(1 − μ_ka μ_lb)`. Near
        a double eigenvalue, such as Nesterov's 0 at αλ = 1, the weights grow without bound and cancel: such a mode's
        row is `T_kl = X_00` of `X = R_k X R_lᵀ + k kᵀ`.
        """
        _, kick = linear.step(replace(sgd, average=None))
        maps = linear.mode_maps(self.lam, sgd)
        n, m = self.lam.size, kick.size
        mu, vectors = np.linalg.eig(maps)
        double = ~(np.linalg.cond(vectors) < _CONDITION)
        vectors[double] = np.eye(m)
        weights = vectors[:, 0, :] * np.linalg.solve(vectors, np.broadcast_to(kick[:, None], (n, m, 1)))[..., 0]
        total = np.zeros((n, n))
        for a in range(m):
            for b in range(a, m):
                term = ((weights[:, a, None] * weights[:, b]) / (1 - mu[:, a, None] * mu[:, b])).real
                total += term if a == b else term + term.T
        source = np.broadcast_to(np.outer(kick, kick).reshape(-1, 1), (n, m * m, 1))
        for k in np.flatnonzero(double):
            twice = np.einsum("ab,lcd->lacbd", maps[k], maps).reshape(n, m * m, m * m)
            total[k] = total[:, k] = np.linalg.solve(np.eye(m * m) - twice, source)[:, 0, 0]
        product = gamma * np.outer(self.lam, self.lam)
        return self.problem.n * product * total / (1 + product * total)
