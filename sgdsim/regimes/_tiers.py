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


class Block:
    """The covariance of the noise among some modes, in full: (b, b) each of E aaᵀ, E avᵀ, E vvᵀ."""

    def __init__(self, problem, modes: np.ndarray, with_momentum: bool) -> None:
        b, extra = modes.size, modes.size if with_momentum else 0
        self.modes, self.lam = modes, problem.eigenvalues[modes]
        self.basis = np.ascontiguousarray(problem.eigenvectors[:, modes])
        self.c, self.j, self.p = np.zeros((b, b)), np.zeros((extra, extra)), np.zeros((extra, extra))

    def squares(self) -> np.ndarray:
        """Its share of the noise part of E r_i², (N,)."""
        return np.einsum("ik,ik->i", self.basis @ self.c, self.basis)


class Tiers:
    """The noise covariance: `exact` leading modes in full, `diagonal` more by their variance, the rest closed.

    `probe`: modes beyond the leading ones that keep a full covariance among themselves as well.
    """

    def __init__(
        self, problem, exact: int, diagonal: int, with_momentum: bool, probe: np.ndarray | None = None
    ) -> None:
        n = problem.n
        self.exact, self.diagonal = exact, min(diagonal, n - exact)
        probe = np.arange(0) if probe is None else probe
        self.blocks = [Block(problem, modes, with_momentum) for modes in (np.arange(exact), probe) if modes.size]
        self.others = np.setdiff1d(np.arange(exact, n), probe)  # ascending: the diagonal tier, then the closed one
        self.kept = self.others[self.others < exact + self.diagonal]
        self.lam, self.n, self.with_momentum = problem.eigenvalues[self.others], n, with_momentum
        self.dc, self.dj, self.dp = np.zeros((3, self.others.size))

    def squares(self) -> np.ndarray:
        """Noise part of E r_i² but for the diagonal tier's, (N,)."""
        return sum(block.squares() for block in self.blocks) + self.dc[self.kept.size :].sum() / self.n

    def advance(self, mean: np.ndarray, squares: np.ndarray, source: np.ndarray, *hyper: float) -> None:
        """One step, from E a, E r_i² and `Σ_i U_ik² E r_i²` of all modes."""
        none = np.zeros(0)
        for block in self.blocks:
            full = (block.basis * squares[:, None]).T @ block.basis
            _kernels.tiers_advance(
                block.lam, block.c, block.j, block.p, none, none, none, mean[block.modes], full, none, 0.0,
                self.n, *hyper, self.with_momentum,
            )  # fmt: skip
        empty = np.zeros((0, 0))
        _kernels.tiers_advance(
            self.lam, empty, empty, empty, self.dc, self.dj, self.dp, mean[self.others], empty, source[self.kept],
            squares.sum() / self.n, self.n, *hyper, self.with_momentum,
        )  # fmt: skip

    def total(self) -> float:
        """Sum of all variances."""
        return float(sum(np.trace(block.c) for block in self.blocks) + self.dc.sum())

    def variances(self) -> np.ndarray:
        """Noise part of E a_k², (n,)."""
        out = np.empty(self.n)
        for block in self.blocks:
            out[block.modes] = np.diag(block.c)
        out[self.others] = self.dc
        return out


class Side:
    """Several `Tiers` of one problem, followed side by side, so that U∘U is read once for all of them.

    `single`: U∘U in float32, which costs the loss a relative error of about 1e-7 and halves the time.
    """

    def __init__(self, problem, tiers: list[Tiers], single: bool = False) -> None:
        self.tiers = tiers
        modes = max(t.exact + t.diagonal for t in tiers)
        kind = np.float32 if single else np.float64
        self.weights = np.ascontiguousarray(problem.eigenvectors[:, :modes] ** 2, kind)
        self.variances = np.zeros((len(tiers), modes), kind)  # of the diagonal tiers, 0 elsewhere
        self.noisy = False  # whether there has been any noise yet

    def step(self, mean: np.ndarray, residual: np.ndarray, lr: float, momentum: float, noise: float) -> None:
        """One step, from the mean before it in both bases."""
        if noise == 0 and not self.noisy:
            return
        self.noisy = True
        for own, t in zip(self.variances, self.tiers, strict=True):
            own[t.kept] = t.dc[: t.kept.size]
        squares = np.stack([residual**2 + t.squares() for t in self.tiers])  # E r_i², to be completed
        sources = _kernels.weigh_rows(self.weights, self.variances, squares)
        for row, source, t in zip(squares, sources, self.tiers, strict=True):
            t.advance(mean, row, source, lr, momentum, noise)
