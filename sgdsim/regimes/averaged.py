"""Batch-averaged regime: the exact expectation of the sampled dynamics over all batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.problem import NetworkProblem, QuadraticProblem
from sgdsim.regimes import _kernels
from sgdsim.regimes.base import Regime
from sgdsim.sgd import SGD, has_momentum


@dataclass
class _State:
    problem: QuadraticProblem
    sgd: SGD
    mean: np.ndarray  # E a, (n,)
    mean_velocity: np.ndarray
    c: np.ndarray  # noise parts of E a aᵀ, E a vᵀ, E v vᵀ in the eigenbasis, (n, n)
    j: np.ndarray
    p: np.ndarray
    with_momentum: bool
    gram: np.ndarray | None  # TᵀT/m of the test points


@dataclass(frozen=True)
class BatchAveraged(Regime):
    """`E L_t` without approximation, at two matrix products of size N a step.

    The mean obeys plain heavy ball; only the noise `E[aaᵀ] − E[a]E[a]ᵀ` needs a matrix. It is kept in the eigenbasis,
    where products with K̂ are elementwise, and symmetric by construction: the recursion as usually written amplifies
    the antisymmetric part of rounding errors like `(1 + α²(1−γ)λ_iλ_j)^t`.
    """

    stochastic: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return "averaged"

    def init(
        self, problem: QuadraticProblem | NetworkProblem, sgd: SGD, *, replicates: int, seed: int, test: bool
    ) -> _State:
        problem = problem.quadratic
        n = problem.n
        with_momentum = has_momentum(sgd)
        extra = (n, n) if with_momentum else (0, 0)
        transfer = problem.test.transfer if test else None
        return _State(
            problem, sgd, problem.coefficients.copy(), np.zeros(n), np.zeros((n, n)), np.zeros(extra), np.zeros(extra),
            with_momentum, transfer.T @ transfer / transfer.shape[0] if test else None,
        )  # fmt: skip

    def advance(self, state: _State, start: int, stop: int) -> None:
        values = state.sgd.values(state.problem.n, start, stop)
        lam, u = state.problem.eigenvalues, state.problem.eigenvectors
        for t in range(stop - start):
            if values.noise[t] > 0 or state.c.any():
                squares = (u @ state.mean) ** 2 + np.einsum("ik,ik->i", u @ state.c, u)  # E r_i²
                scaled = u * np.sqrt(np.maximum(squares, 0.0))[:, None]
                source = scaled.T @ scaled  # NumPy sees the one array and computes half of it
                _kernels.averaged_advance(
                    lam, state.c, state.j, state.p, state.mean, source, state.problem.n,
                    values.lr[t], values.momentum[t], values.noise[t], state.with_momentum,
                )  # fmt: skip
            _kernels.mean_advance(
                lam, state.mean, state.mean_velocity, values.lr[t : t + 1], values.momentum[t : t + 1]
            )

    def observe(self, state: _State, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        moments = state.mean**2 + np.diag(state.c)
        out = {"loss": np.array([moments.sum() / (2 * state.problem.n)])}
        if "test_loss" in what:
            test = state.problem.test
            e = test.residual + test.transfer @ (state.mean - state.problem.coefficients)
            out["test_loss"] = np.array([(np.mean(e**2) + np.vdot(state.gram, state.c)) / 2])
        if "moments" in what:
            out["moments"] = moments[None]
        return out
