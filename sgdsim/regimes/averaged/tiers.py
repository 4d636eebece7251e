"""The batch-averaged noise in tiers, by how fast they change.

At every step: the covariance among the leading modes, in full, and every mode's variance. The next few hundred
variances have their exact source `N Σ_i U_ik² E r_i²`; in the far tail it is a share of `Σ_i E r_i²` that is brought up
to date now and then (the spectral-diagonal closure with τ = 1 would have it the same for all modes). All other pairs of
modes take longer intervals: `sgdsim.regimes.averaged.slow_pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.blas import all_blas_threads
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import kernels
from sgdsim.regimes import _kernels
from sgdsim.regimes.averaged.slow_pairs import SlowPairs, Trend

BLOCK = 64  # steps for which the mean residual is brought to the data basis in one matrix product


class MeanPath:
    """The noiseless mean, which is known for all times: E a and U E a for a whole block of steps at once.

    Blocks begin at multiples of `BLOCK`, whoever asks for which step, so that how a run is cut changes no digit.
    """

    def __init__(self, problem: QuadraticProblem, sgd: SGD) -> None:
        self.problem, self.sgd = problem, sgd
        self.mean, self.velocity = problem.coefficients.copy(), np.zeros(problem.n)
        self.first = -BLOCK  # step of the block; path and data (BLOCK, N): before each step of it

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """E a and E r before `step`, (N,) each; asked for in ascending order."""
        if step >= self.first + BLOCK:
            self.first = step - step % BLOCK
            self.values = self.sgd.values(self.problem.n, self.first, self.first + BLOCK, checked=False)
            self.path = kernels.mean_path(
                self.problem.eigenvalues, self.mean, self.velocity, self.values.lr, self.values.momentum
            )
            self.data = self.path @ self.problem.eigenvectors.T
        return self.path[step - self.first], self.data[step - self.first]

    def hyperparameters(self, step: int) -> tuple[float, float, float]:
        """Learning rate, momentum and noise of `step`, which is in the present block."""
        values = self.values
        t = step - self.first
        return float(values.lr[t]), float(values.momentum[t]), float(values.noise[t])


class Block:
    """The covariance of the noise among some modes, in full: (b, b) each of E aaᵀ, E avᵀ, E vvᵀ."""

    def __init__(self, problem: QuadraticProblem, modes: np.ndarray, with_momentum: bool) -> None:
        b, extra = modes.size, modes.size if with_momentum else 0
        self.modes, self.lam = modes, problem.eigenvalues[modes]
        self.basis = np.ascontiguousarray(problem.eigenvectors[:, modes])
        self.c, self.j, self.p = np.zeros((b, b)), np.zeros((extra, extra)), np.zeros((extra, extra))

    def squares(self) -> np.ndarray:
        """Its share of the noise part of E r_i², (N,)."""
        return np.einsum("ik,ik->i", self.basis @ self.c, self.basis)


@dataclass(frozen=True)
class Sizes:
    """What `Tiers` keep: `exact` modes in full and `diagonal` variances at every step, pairs among the first `pairs`
    modes in intervals of `ratio` times the time passed."""

    exact: int
    diagonal: int
    pairs: int
    ratio: float


class Tiers:
    """The noise covariance, see above. `basis`: the eigenvectors, in the precision of the slow pairs.

    The first `exact` modes are a `block`; of the others `dc`, `dj`, `dp` are the variances of a, a with v, and v, those
    in `kept` with their exact source and those in `far` with a share of it; `slow` has all other pairs. `now`: S at the
    present step.
    """

    def __init__(self, problem: QuadraticProblem, basis: np.ndarray, sizes: Sizes, with_momentum: bool) -> None:
        n, exact, last = problem.n, sizes.exact, min(sizes.exact + sizes.diagonal, problem.n)
        self.n, self.exact, self.kept, self.far = n, exact, slice(exact, last), slice(last, n)
        self.basis, self.lam, self.with_momentum = basis, problem.eigenvalues[exact:], with_momentum
        self.block = Block(problem, np.arange(exact), with_momentum)
        self.dc, self.dj, self.dp = np.zeros((3, n - exact))
        self.slow = SlowPairs(problem, basis, exact, min(sizes.pairs, n), sizes.ratio, with_momentum)
        # What the slow pairs give to E r², per S, and to an observable; how the far variances spread over the points.
        self.trend = Trend(np.concatenate([np.zeros(n), [0.0], np.full(n, 1 / n)]))
        self.shares = Trend(np.ones(n - last))  # Σ_i U_ik² E r_i² of the far modes, per S

    def guess(self, residual: np.ndarray) -> None:
        """What is expected of the far modes before there is any noise, from E r, (N,)."""
        far = self.basis[:, self.far]
        profile = residual**2 / max(float(np.square(residual).mean()), 1e-300)
        shares = np.einsum("lk,lk,l->k", far, far, profile.astype(far.dtype))
        weights = shares * self.lam[self.far.start - self.exact :] ** 2
        spread = np.einsum("lk,lk,k->l", far, far, weights / max(weights.sum(), 1e-300))
        self.shares.guess = shares
        self.trend.guess = np.concatenate([np.zeros(self.n + 1), spread])

    def begin(self, step: int, mean: np.ndarray, hyper: tuple[float, float, float], gram: np.ndarray | None) -> None:
        """Before a step: end the slow pairs' interval if it is due."""
        if not self.slow.ends(step, hyper):
            return
        with all_blas_threads():
            given, profile, observed = self.slow.close(gram)
        scale = max(self.scale(mean), 1e-300)
        far, variances = self.basis[:, self.far], self.dc[self.far.start - self.exact :]
        spread = np.einsum("lk,lk,k->l", far, far, (variances / max(variances.sum(), 1e-300)).astype(far.dtype))
        self.trend.add(self.slow.time(step), np.concatenate([given / scale, [observed / scale], spread]))
        middle = 0.0 if self.slow.abrupt else self.slow.middle
        self.shares.add(middle, np.einsum("lk,lk,l->k", far, far, profile.astype(far.dtype)))

    def scale(self, mean: np.ndarray) -> float:
        """S, the mean of E r_i²."""
        return (float(mean @ mean) + self.total()) / self.n

    def squares(self, step: int, mean: np.ndarray) -> np.ndarray:
        """Noise part of E r_i² but for the diagonal tier's, (N,)."""
        self.now, expected = self.scale(mean), self.trend.at(self.slow.time(step))
        given, spread = expected[: self.n], expected[self.n + 1 :]
        far = self.dc[self.far.start - self.exact :].sum()
        return self.block.squares() + self.now * given + far * spread

    def advance(
        self, step: int, mean: np.ndarray, squares: np.ndarray, source: np.ndarray, hyper: tuple[float, float, float]
    ) -> None:
        """One step, from E a, E r_i² and `Σ_i U_ik² E r_i²` of all modes."""
        self.slow.note(step, mean, squares, hyper)
        block, none, empty = self.block, np.zeros(0), np.zeros((0, 0))
        full = (block.basis * squares[:, None]).T @ block.basis
        _kernels.tiers_advance(
            block.lam, block.c, block.j, block.p, none, none, none, mean[: self.exact], full, none, self.n, *hyper,
            self.with_momentum,
        )  # fmt: skip
        sources = np.concatenate([source[self.kept], self.now * self.shares.at(self.slow.time(step))])
        _kernels.tiers_advance(
            self.lam, empty, empty, empty, self.dc, self.dj, self.dp, mean[self.exact :], empty, sources, self.n,
            *hyper, self.with_momentum,
        )  # fmt: skip

    def total(self) -> float:
        """Sum of all variances."""
        return float(np.trace(self.block.c) + self.dc.sum())

    def variances(self) -> np.ndarray:
        """Noise part of E a_k², (n,)."""
        return np.concatenate([np.diag(self.block.c), self.dc])

    def observed(self, step: int, mean: np.ndarray) -> float:
        """`Σ gram∘C` over the slow pairs before `step`, with the gram that `begin` was given."""
        return self.scale(mean) * float(self.trend.at(self.slow.time(step))[self.n])


class Side:
    """Several `Tiers` of one problem, followed side by side, so that U∘U is read once for all of them.

    `single`: U∘U and the slow pairs in float32, which costs the loss a relative error of about 1e-7 and halves the
    time. `gram` (n, n): what is observed of their covariances, see `Tiers.observed`.
    """

    def __init__(
        self,
        problem: QuadraticProblem,
        sizes: list[Sizes],
        with_momentum: bool,
        single: bool = False,
        gram: np.ndarray | None = None,
    ) -> None:
        kind = np.float32 if single else np.float64
        basis = problem.eigenvectors.astype(kind, copy=False)
        self.tiers, self.gram = [Tiers(problem, basis, s, with_momentum) for s in sizes], gram
        modes = max(t.kept.stop for t in self.tiers)
        self.weights = np.ascontiguousarray(basis[:, :modes] ** 2)
        self.variances = np.zeros((len(self.tiers), modes), kind)  # of the diagonal tiers, 0 elsewhere
        self.noisy = False  # whether there has been any noise yet

    def step(self, step: int, mean: np.ndarray, residual: np.ndarray, hyper: tuple[float, float, float]) -> None:
        """One step, from the mean before it in both bases; learning rate, momentum and noise."""
        if hyper[2] == 0 and not self.noisy:
            return
        if not self.noisy:
            for t in self.tiers:
                t.guess(residual)
        self.noisy = True
        for own, t in zip(self.variances, self.tiers, strict=True):
            t.begin(step, mean, hyper, self.gram)
            own[t.kept] = t.dc[: t.kept.stop - t.exact]
        squares = np.stack([residual**2 + t.squares(step, mean) for t in self.tiers])  # E r_i², to be completed
        sources = _kernels.weigh_rows(self.weights, self.variances, squares)
        for row, source, t in zip(squares, sources, self.tiers, strict=True):
            t.advance(step, mean, row, source, hyper)
