"""Plain heavy ball in the averaged regime, exactly: the noise covariance of all pairs of modes at every step."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sgdsim.algorithm.sgd import SGD, has_momentum
from sgdsim.common.blas import calm
from sgdsim.common.checks import InputError
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import kernels
from sgdsim.regimes import _kernels
from sgdsim.regimes.base import Run


def test_gram(problem: QuadraticProblem) -> np.ndarray:
    """TᵀT/m of the m test points' transfer T, (modes, modes): the mean test residual's squared dependence on a.
    InputError without test points."""
    if problem.test is None:
        raise InputError("test_loss: expected a problem with test points, got one without")
    transfer = problem.test.transfer
    return transfer.T @ transfer / (len(transfer) // problem.spectrum.outputs)


def report(problem: QuadraticProblem, error: float = 0.0) -> dict[str, float]:
    """`Run.report` where nothing is left out; `error`: the largest estimate from before, where something was."""
    return {"error_estimate": error, "exact_modes": problem.spectrum.n_modes, "diagonal_modes": 0}


class Exact(Run):
    """The mean of a and v, (n,), and the noise parts c, j, p of E a aᵀ, E a vᵀ, E v vᵀ in the eigenbasis, (n, n)."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD) -> None:
        self.problem, self.sgd, self.with_momentum, n = problem, sgd, has_momentum(sgd), problem.n
        self.mean, self.velocity = problem.coefficients.copy(), np.zeros(n)
        extra = (n, n) if self.with_momentum else (0, 0)
        self.c, self.j, self.p = np.zeros((n, n)), np.zeros(extra), np.zeros(extra)

    @cached_property
    def gram(self) -> np.ndarray:
        """See `test_gram`."""
        return test_gram(self.problem)

    @calm
    def advance(self, start: int, stop: int) -> None:
        values = self.problem.values(self.sgd, start, stop)
        for lr, momentum, noise in zip(values.lr, values.momentum, values.noise, strict=True):
            if noise > 0 or self.c.any():
                self._add_noise(lr, momentum, noise)
            kernels.mean_advance(
                self.problem.eigenvalues, self.mean, self.velocity, np.array([lr]), np.array([momentum])
            )

    def _add_noise(self, lr: float, momentum: float, noise: float) -> None:
        u = self.problem.eigenvectors
        squares = (u @ self.mean) ** 2 + np.einsum("ik,ik->i", u @ self.c, u)  # E r_i²
        scaled = u * np.sqrt(np.maximum(squares, 0.0))[:, None]
        source = scaled.T @ scaled  # NumPy sees the one array and computes half of it
        _kernels.averaged_advance(
            self.problem.eigenvalues, self.c, self.j, self.p, self.mean, source, self.problem.n, lr, momentum, noise,
            self.with_momentum,
        )  # fmt: skip

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        moments = self.mean**2 + np.diag(self.c)
        out = {"loss": np.array([moments.sum() / (2 * self.problem.n)])}
        if "test_loss" in what:
            out["test_loss"] = self.problem.test_loss(self.mean, np.vdot(self.gram, self.c))
        if "moments" in what:
            out["moments"] = moments[None]
        return out

    def report(self) -> dict[str, float]:
        return report(self.problem)
