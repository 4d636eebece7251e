"""The exact threshold with a kernel over all C outputs of all points: `sgdsim.theory.renewal` for blocks.

The noise of a batch acts on the C × C block of each point, so that M maps blocks V_i to
`(MV)_i = U_i [W ∘ (Σ_j U_jᵀ V_j U_j)] U_iᵀ`, U_i (C, modes) a point's rows. It is symmetric and takes positive
semidefinite blocks to such: its largest eigenvalue is its spectral radius, and below 1 where (M1)_i < 1 for all points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.optimize
import scipy.sparse.linalg

from sgdsim.algorithm.sgd import SGD
from sgdsim.common import arpack
from sgdsim.common.blas import calm
from sgdsim.problem import QuadraticProblem
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import pairs
from sgdsim.theory.renewal import closed_pairs, method_pairs, mode_noise

MOST = 4000  # modes up to which products of matrices are taken
_BASIS = 40
_RADIUS = 1e-9  # relative, of ρ(M)


@of_quadratic
def largest_local_noise(problem: QuadraticProblem, sgd: SGD) -> float:
    """The largest eigenvalue of any point's (M1)_i: below 1 every run is stable."""
    moving = problem.spectrum.moving
    u = _rows(problem, moving)
    blocks = (u * (mode_noise(problem, sgd) * problem.n / problem.share)) @ u.transpose(0, 2, 1)
    return float(np.linalg.eigvalsh(blocks).max())


class OverOutputs:
    """M of one problem. Asked for one algorithm after the other, it begins each time at the blocks found last."""

    def __init__(self, problem: QuadraticProblem) -> None:
        moving = problem.spectrum.moving
        self.problem, self.lam, self.u = problem, problem.eigenvalues[moving], _rows(problem, moving)
        self.flat = self.u.reshape(-1, self.lam.size)
        self.shape = (problem.n, problem.n_outputs, problem.n_outputs)
        self.v = np.tile(np.eye(problem.n_outputs), (problem.n, 1, 1)).ravel()

    def pairs(self, sgd: SGD) -> np.ndarray:
        """W, (modes that move,) twice; the mean must converge."""
        n, form = self.problem.n, pairs.form_of(sgd)
        gamma = self.problem.noise(sgd) / self.problem.share
        if form is None:
            return method_pairs(self.lam, sgd, gamma, n, self.problem.pull(sgd))
        values = sgd.values(n, 0, 1)
        return closed_pairs(form, values.lr[0] * self.lam, float(values.momentum[0]), gamma, n)

    def image(self, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """`MV`, of blocks in a row, (NC²,)."""
        inner = self.flat.T @ (v.reshape(self.shape) @ self.u).reshape(self.flat.shape)
        inner *= weights
        return ((self.flat @ inner).reshape(self.u.shape) @ self.u.transpose(0, 2, 1)).ravel()

    @calm
    def radius(self, sgd: SGD, tolerance: float = _RADIUS) -> float:
        """ρ(M) to a relative `tolerance`, by Lanczos."""
        weights, size = self.pairs(sgd), self.v.size
        first = self.v + 1e-3 * np.abs(self.v).max() * np.tile(np.eye(self.shape[1]), (self.shape[0], 1, 1)).ravel()
        if not self.image(weights, first).any():
            return 0.0
        matrix = scipy.sparse.linalg.LinearOperator((size, size), lambda v: self.image(weights, v), dtype=np.float64)
        values, vectors = arpack.largest(matrix, 1, first, tolerance, min(size, _BASIS))
        self.v = vectors[:, -1] * np.sign(vectors[:, -1].sum() or 1.0)
        return float(values[-1])

    @calm
    def below_one(self, sgd: SGD) -> bool | None:
        """Whether ρ(M) < 1; None where rounding leaves it open."""
        radius = self.radius(sgd)
        return None if abs(radius - 1) <= 10 * _RADIUS else radius < 1

    @calm
    def max_lr(
        self, sgd: SGD, start: float, top: float, tolerance: float, heard: Callable[[], object] = lambda: None
    ) -> float:
        """The learning rate at which ρ(M) is 1, looked for from `start` on; at most `top`, where the mean diverges.
        `heard` is called at each that is tried."""

        def excess(log_lr: float) -> float:
            heard()
            return math.log(max(self.radius(replace(sgd, lr=math.exp(log_lr)), 0.1 * tolerance), 1e-300))

        low = high = min(math.log(start), math.log(top))
        while excess(low) > 0:
            low -= 0.5
        while high < math.log(top) and excess(high) <= 0:
            high = min(high + 0.5, math.log(top))
        if excess(high) <= 0:
            return top
        return math.exp(scipy.optimize.brentq(excess, low, high, xtol=tolerance))


def _rows(problem: QuadraticProblem, moving: np.ndarray) -> np.ndarray:
    """U_i of the modes that move, (N, C, modes)."""
    vectors = np.asarray(problem.spectrum.eigenvectors)[:, moving]
    return np.ascontiguousarray(vectors).reshape(problem.n, problem.n_outputs, -1)
