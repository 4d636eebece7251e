"""The batch-averaged noise in three tiers: exact among the leading modes, by itself in each of the next, closed beyond.

The covariance of the noise is driven by sources that scale as λ_iλ_k, so only the leading eigendirections need its
off-diagonal part. The next few hundred modes keep their variance alone, with the exact source `N Σ_i U_ik² E r_i²`; in
the far tail that source is `Σ_i E r_i²` (the spectral-diagonal closure with τ = 1).
"""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import threadpoolctl

from sgdsim.regimes import _kernels

BLOCK = 64  # steps for which the mean residual is brought to the data basis in one matrix product


@functools.cache
def _pools() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def one_blas_thread() -> contextlib.AbstractContextManager:
    """BLAS on one thread: products this small gain little from two, and where other work waits they lose a lot."""
    return _pools().limit(limits=1, user_api="blas")


class MeanPath:
    """The noiseless mean, which is known for all times: E a and U E a for a whole block of steps at once.

    Blocks begin at multiples of `BLOCK`, whoever asks for which step, so that how a run is cut changes no digit.
    """

    def __init__(self, problem, sgd) -> None:
        self.problem, self.sgd = problem, sgd
        self.mean, self.velocity = problem.coefficients.copy(), np.zeros(problem.n)
        self.first, self.path, self.data, self.values = 0, None, None, None  # (BLOCK, N): before each step of it

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """E a and E r before `step`, (N,) each; asked for in ascending order."""
        if self.path is None or step >= self.first + BLOCK:
            self.first = step - step % BLOCK
            self.values = self.sgd.values(self.problem.n, self.first, self.first + BLOCK, checked=False)
            self.path = _kernels.mean_path(
                self.problem.eigenvalues, self.mean, self.velocity, self.values.lr, self.values.momentum
            )
            self.data = self.path @ self.problem.eigenvectors.T
        return self.path[step - self.first], self.data[step - self.first]

    def hyperparameters(self, step: int) -> tuple[float, float, float]:
        """Learning rate, momentum and noise of `step`, which is in the present block."""
        values = self.values
        return tuple(float(v[step - self.first]) for v in (values.lr, values.momentum, values.noise))


class Tiers:
    """The noise covariance with `exact` modes in full and `diagonal` more by their variance; (n,) modes in all."""

    def __init__(self, problem, exact: int, diagonal: int, with_momentum: bool) -> None:
        n = problem.n
        self.exact, self.diagonal = exact, min(diagonal, n - exact)
        self.basis = np.ascontiguousarray(problem.eigenvectors[:, :exact])
        self.lam, self.n, self.with_momentum = problem.eigenvalues, n, with_momentum
        extra = exact if with_momentum else 0
        self.c, self.j, self.p = np.zeros((exact, exact)), np.zeros((extra, extra)), np.zeros((extra, extra))
        self.dc, self.dj, self.dp = np.zeros((3, n - exact))

    def total(self) -> float:
        """Sum of all variances."""
        return float(np.trace(self.c) + self.dc.sum())

    def variances(self) -> np.ndarray:
        """Noise part of E a_k², (n,)."""
        return np.concatenate([np.diag(self.c), self.dc])


class Side:
    """Several `Tiers` of one problem, followed side by side, so that U∘U is read once for all of them."""

    def __init__(self, problem, sizes: list[tuple[int, int]], with_momentum: bool) -> None:
        self.tiers = [Tiers(problem, exact, diagonal, with_momentum) for exact, diagonal in sizes]
        modes = max(t.exact + t.diagonal for t in self.tiers)
        self.weights = problem.eigenvectors[:, :modes] ** 2
        self.variances = np.zeros((len(sizes), modes))  # of the diagonal tiers, 0 elsewhere
        self.noisy = False  # whether there has been any noise yet

    def step(self, mean: np.ndarray, residual: np.ndarray, lr: float, momentum: float, noise: float) -> None:
        """One step, from the mean before it in both bases."""
        if noise == 0 and not self.noisy:
            return
        self.noisy = True
        for row, t in zip(self.variances, self.tiers, strict=True):
            row[t.exact : t.exact + t.diagonal] = t.dc[: t.diagonal]
        squares = self.variances @ self.weights.T + residual**2  # E r_i², to be completed
        for row, t in zip(squares, self.tiers, strict=True):
            row += np.einsum("ik,ik->i", t.basis @ t.c, t.basis) + t.dc[t.diagonal :].sum() / t.n
        sources = squares @ self.weights
        for row, own, t in zip(squares, sources, self.tiers, strict=True):
            _kernels.tiers_advance(
                t.lam, t.c, t.j, t.p, t.dc, t.dj, t.dp, mean, (t.basis * row[:, None]).T @ t.basis,
                own[t.exact : t.exact + t.diagonal], row.sum() / t.n, t.n, lr, momentum, noise, t.with_momentum,
            )  # fmt: skip
