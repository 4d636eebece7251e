"""Any linear method in the averaged regime, exactly, with a kernel over all C outputs of all points.

For batches of points `E[G C Gᵀ] = γN K̂ blockdiag(C) K̂ + (1 − γ) K̂CK̂`, where blockdiag keeps the C × C block of each
point of `C = E r rᵀ`: outputs of a point are drawn together.
"""

from __future__ import annotations

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.blas import calm
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import linear_kernels
from sgdsim.regimes import _linear_kernels
from sgdsim.regimes.averaged import linear
from sgdsim.regimes.base import FLOPS


def seconds(modes: float, n_steps: float) -> float:
    """Very roughly, of `n_steps` steps with NC `modes`: two products of matrices each."""
    return n_steps * (1e-4 + 4 * modes**3 / FLOPS)


class OverOutputs(linear.Averaged):
    """The mean of all components, (NC, m), and the covariance of the noise for all pairs of modes, (NC, NC, m, m)."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, test: bool) -> None:
        super().__init__(problem, sgd, test)
        vectors = np.asarray(problem.spectrum.eigenvectors)
        self.vectors = vectors.reshape(problem.n, problem.n_outputs, len(vectors))

    @calm
    def advance(self, start: int, stop: int) -> None:
        lam, n, strength = self.problem.eigenvalues, self.problem.n, 1 / self.problem.share
        for _, values, transition, kick, where in self.blocks(start, stop):
            label = self.label(values.batch_size) * (self.inclusion is None)
            for t in range(values.lr.size):
                _linear_kernels.averaged(
                    lam, self.second, self.first, self._source(), n, transition[t], kick[t],
                    values.noise[t] * strength, label[t], *where,
                )  # fmt: skip
                linear_kernels.mean(lam, self.first, transition[t : t + 1], kick[t : t + 1], *where)

    def _source(self) -> np.ndarray:
        """`Uᵀ blockdiag(E r rᵀ) U`, (NC, NC), as a product of a matrix with its transpose: symmetric."""
        u, modes = self.vectors, len(self.first)
        mean = u @ self.first[:, 0]  # (N, C)
        spread = (u.reshape(modes, modes) @ np.ascontiguousarray(self.second[:, :, 0, 0])).reshape(u.shape)
        blocks = spread @ u.transpose(0, 2, 1) + mean[:, :, None] * mean[:, None, :]
        if self.inclusion is not None:  # the labels' errors are weighted as the residuals are
            blocks += self.sgd.label_noise**2 * np.eye(u.shape[1])
            blocks *= self.inclusion[:, None, None]
        values, axes = np.linalg.eigh((blocks + blocks.transpose(0, 2, 1)) / 2)
        roots = axes * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        scaled = (roots.transpose(0, 2, 1) @ u).reshape(modes, modes)
        return scaled.T @ scaled
