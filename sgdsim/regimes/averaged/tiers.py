"""The batch-averaged noise in tiers, by how fast they change.

At every step: the covariance among the leading modes, in full, and every mode's variance. The next few hundred
variances have their exact source `N Σ_i U_ik² E r_i²`; in the far tail it is a share of `Σ_i E r_i²` that is brought up
to date now and then (the spectral-diagonal closure with τ = 1 would have it the same for all modes). All other pairs of
modes take longer intervals: `sgdsim.regimes.averaged.slow_pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.blas import all_blas_threads
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import kernels
from sgdsim.regimes import _kernels
from sgdsim.regimes.averaged.slow_pairs import SlowPairs, Trend, until_abrupt

BLOCK = 64  # steps for which the mean residual is brought to the data basis in one matrix product


class Stretch(NamedTuple):
    """Steps from `step` on: E a before each and after the last, (T + 1, n); E r before each, (T, N); learning rate,
    momentum and noise, (T, 3)."""

    step: int
    means: np.ndarray
    residuals: np.ndarray
    hypers: np.ndarray


class MeanPath:
    """The noiseless mean, which is known for all times: E a and U E a for a whole block of steps at once.

    Blocks begin at multiples of `BLOCK`, whoever asks for which step, so that how a run is cut changes no digit.
    """

    def __init__(self, problem: QuadraticProblem, sgd: SGD) -> None:
        self.problem, self.sgd = problem, sgd
        self.mean, self.velocity = problem.coefficients.copy(), np.zeros(problem.n)
        self.first = -BLOCK  # step of the block; `block` has all of it

    def until(self, step: int, stop: int) -> Stretch:
        """Steps from `step` to `stop`, or to where the block ends; asked for in ascending order."""
        while step >= self.first + BLOCK:
            self.first += BLOCK
            values = self.problem.values(self.sgd, self.first, self.first + BLOCK, checked=False)
            lam = self.problem.eigenvalues
            path = kernels.mean_path(lam, self.mean, self.velocity, values.lr, values.momentum)
            hypers = np.stack([values.lr, values.momentum, values.noise], 1)
            means = np.vstack([path, self.mean])
            self.block = Stretch(self.first, means, path @ self.problem.eigenvectors.T, hypers)
        low, high = step - self.first, min(stop, self.first + BLOCK) - self.first
        block = self.block
        return Stretch(step, block.means[low : high + 1], block.residuals[low:high], block.hypers[low:high])


@dataclass(frozen=True)
class Sizes:
    """What `Tiers` keep: `exact` modes in full and `diagonal` variances at every step, pairs among the first `pairs`
    modes in intervals of `ratio` times the time passed."""

    exact: int
    diagonal: int
    pairs: int
    ratio: float


class Tiers:
    """The noise covariance, see above. `vectors`: the eigenvectors, in the precision of the slow pairs and sources.

    Among the first `exact` modes it is kept in full: `block` are E aaᵀ, E avᵀ and E vvᵀ; of the others `variances` are
    those of a, a with v, and v, the next ones up to `kept` with their exact source, those in `far` with a share of it;
    `slow` has all other pairs. `gram` (n, n): what is observed of the covariance, see `observed`.
    """

    def __init__(
        self, problem: QuadraticProblem, vectors: np.ndarray, sizes: Sizes, with_momentum: bool,
        gram: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        n, exact, self.kept = problem.n, sizes.exact, min(sizes.exact + sizes.diagonal, problem.n)
        self.n, self.exact, self.lam, self.with_momentum, self.gram = n, exact, problem.eigenvalues, with_momentum, gram
        self.near, self.far = np.ascontiguousarray(vectors[:, : self.kept].T), vectors[:, self.kept :]
        moved = exact if with_momentum else 0
        self.block = np.zeros((exact, exact)), np.zeros((moved, moved)), np.zeros((moved, moved))
        self.variances = np.zeros(n - exact), np.zeros(n - exact), np.zeros(n - exact)
        self.slow = SlowPairs(problem, vectors, exact, min(sizes.pairs, n), sizes.ratio, with_momentum)
        # What the slow pairs give to E r², per S; how the far variances spread over the points; what is observed.
        self.trend = Trend(np.concatenate([np.zeros(n), np.full(n, 1 / n), [0.0]]))
        self.shares = Trend(np.ones(n - self.kept))  # Σ_i U_ik² E r_i² of the far modes, per S
        self.noisy = False  # whether there has been any noise yet

    def advance(self, part: Stretch) -> np.ndarray:
        """Take these steps; the sum of all variances after each, (T,)."""
        count = len(part.hypers)
        totals, at = np.zeros(count), 0
        if not self.noisy:
            at = int(np.append(part.hypers[:, 2] != 0, True).argmax())
            if at < count:
                self._guess(part.residuals[at])
        while at < count:
            step = part.step + at
            if self.slow.ends(step, tuple(part.hypers[at].tolist())):
                self._close(step, part.means[at])
            self.slow.open(step)
            last = at + min(until_abrupt(part.hypers[at:]), self.slow.end - step)
            totals[at:last] = self._take(step, part.means[at:last], part.residuals[at:last], part.hypers[at:last])
            at = last
        return totals

    def _take(self, step: int, means: np.ndarray, residuals: np.ndarray, hypers: np.ndarray) -> np.ndarray:
        """Steps within an interval of the slow pairs."""
        times = [self.slow.time(step + t) for t in range(len(means))]
        (weights, values), (share_weights, shares) = self.trend.at(times), self.shares.at(times)
        scales, totals = _kernels.tiers_advance(
            self.lam, self.near, self.block, self.variances, means, residuals**2,
            (weights, values[:, : self.n], values[:, self.n : -1]), (share_weights, shares), hypers,
            self.slow.level, self.slow.rise, step - self.slow.begin, self.with_momentum,
        )  # fmt: skip
        self.slow.note(means, scales, hypers)
        return totals

    def _guess(self, residual: np.ndarray) -> None:
        """What is expected of the far modes before there is any noise, from E r, (N,)."""
        self.noisy, far = True, self.far
        profile = residual**2 / max(float(np.square(residual).mean()), 1e-300)
        shares = np.einsum("lk,lk,l->k", far, far, profile.astype(far.dtype))
        weights = shares * self.lam[self.kept :] ** 2
        spread = np.einsum("lk,lk,k->l", far, far, weights / max(weights.sum(), 1e-300))
        self.shares.guess = shares.astype(np.float64)
        self.trend.guess = np.concatenate([np.zeros(self.n), spread, [0.0]])

    def _close(self, step: int, mean: np.ndarray) -> None:
        """End the slow pairs' interval, before `step`."""
        with all_blas_threads():
            given, profile, observed = self.slow.close(self.gram)
        scale, far = max(self.scale(mean), 1e-300), self.far
        variances = self.variances[0][self.kept - self.exact :]
        spread = np.einsum("lk,lk,k->l", far, far, (variances / max(variances.sum(), 1e-300)).astype(far.dtype))
        self.trend.add(self.slow.time(step), np.concatenate([given / scale, spread, [observed / scale]]))
        middle = 0.0 if self.slow.abrupt else self.slow.middle
        shares = np.einsum("lk,lk,l->k", far, far, profile.astype(far.dtype))
        self.shares.add(middle, shares.astype(np.float64))

    def scale(self, mean: np.ndarray) -> float:
        """S, the mean of E r_i²."""
        return (float(mean @ mean) + float(self.diagonal().sum())) / self.n

    def diagonal(self) -> np.ndarray:
        """Noise part of E a_k², (n,)."""
        return np.concatenate([np.diag(self.block[0]), self.variances[0]])

    def observed(self, step: int, mean: np.ndarray) -> float:
        """`Σ gram∘C` before `step`."""
        assert self.gram is not None
        weights, values = self.trend.at([self.slow.time(step)])
        pairs = self.scale(mean) * float(weights[0] @ values[:, -1])
        full = float(np.vdot(self.gram[: self.exact, : self.exact], self.block[0]))
        return pairs + full + float(np.diag(self.gram)[self.exact :] @ self.variances[0])
