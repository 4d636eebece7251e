"""The covariances of most pairs of modes, which change slowly, in intervals that grow with time.

A pair (i, k) of the batch-averaged regime forgets at the rate `α(λ_i + λ_k)`, and its source `N Σ_l U_li U_lk E r_l²`
changes as the loss does. Over an interval that is a fraction of the time passed, `E r_l²` is its mean S, known at every
step, times a profile over the points that is nearly a straight line in time. So the pairs take whole intervals at once:
level and slope of the source by two products of matrices, the response of each pair over the interval exactly, and what
the pairs give back to `E r_l²` by a third product. Where every interval is one step, this is the exact recursion.
"""

from __future__ import annotations

import math

import numpy as np

from sgdsim.problem import QuadraticProblem
from sgdsim.regimes import _kernels

_ROWS = 512  # of the matrices of pairs, worked on at once
_LONGEST = 2048  # steps of an interval: the mean's path over it is kept
_ABRUPT = 0.2  # change of a hyperparameter from one step to the next after which intervals begin short again


class SlowPairs:
    """The covariances among the first `modes` modes, but for variances and for pairs among the first `exact`.

    `ratio`: length of an interval over the time since the start (or since an abrupt change of the algorithm). `c`, `p`
    (lower triangles) and `j`: E aaᵀ, E vvᵀ and E avᵀ at the start of the interval, which goes from step `begin` to
    `end`, with intervals growing since `origin`. Noted in it: `hypers`, (learning rate, momentum, noise) of each step,
    `means`, E a, and `scales`, the mean of E r²; `level` and `rise`, (N,), sum E r² and its product with the time.
    """

    def __init__(
        self, problem: QuadraticProblem, basis: np.ndarray, exact: int, modes: int, ratio: float, with_momentum: bool
    ) -> None:
        self.n, self.exact, self.modes, self.ratio = problem.n, exact, modes, ratio
        self.lam, self.basis = problem.eigenvalues[:modes], basis[:, :modes]
        self.with_momentum, kind, extra = with_momentum, basis.dtype, modes if with_momentum else 0
        self.c, self.j, self.p = (np.zeros((size, size), kind) for size in (modes, extra, extra))
        self.origin = self.begin = self.end = 0
        self.middle = 0.0  # of the last interval, as `time`
        self.abrupt = True  # whether the next interval is the first since the start or since an abrupt change
        self.hypers: list[tuple[float, float, float]] = []

    def ends(self, step: int, hyper: tuple[float, float, float]) -> bool:
        """Whether an interval ends before `step` is taken."""
        self.abrupt |= bool(self.hypers) and until_abrupt(np.array([self.hypers[-1], hyper])) == 1
        return bool(self.hypers) and (step == self.end or self.abrupt)

    def open(self, step: int) -> None:
        """Begin an interval at `step`, unless there is one."""
        if self.hypers:
            return
        self.begin, self.origin = step, step if self.abrupt else self.origin
        self.abrupt, self.means, self.scales = False, list[np.ndarray](), list[float]()
        self.level, self.rise = np.zeros((2, self.n))
        self.end = step + min(max(1, int((step - self.origin) * self.ratio)), _LONGEST)

    def note(self, means: np.ndarray, scales: np.ndarray, hypers: np.ndarray) -> None:
        """Take down steps: E a before each, the mean of E r², learning rate, momentum and noise; who took them has
        added to `level` and `rise`."""
        self.means.extend(means[:, : self.modes])
        self.scales.extend(scales)
        self.hypers.extend(map(tuple, hypers.tolist()))

    def time(self, step: int) -> float:
        """What trends are drawn against."""
        return 0.0 if self.abrupt else math.log1p(step - self.origin)

    def close(self, gram: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, float]:
        """Take the interval, all steps noted. Returns what the pairs now give to E r², (N,); the mean profile of E r²
        over the interval, E r²/S; and `Σ gram∘C` over the pairs."""
        kind, scales, count = self.c.dtype, np.array(self.scales), len(self.scales)
        lr, momentum, noise = np.array(self.hypers).T.copy()
        residual, velocity, maps = _kernels.impulse_responses(self.lam, lr, momentum)
        # The source is S(t)·(profile + slope·offset) less the product of the means, all times the noise.
        total = max(scales.sum(), 1e-300)
        middle = (scales * np.arange(count)).sum() / total
        offset = np.arange(count) - middle
        self.middle = math.log1p(self.begin - self.origin + middle)
        profile, slope = self.level / total, np.zeros(self.n)
        if count > 1:
            slope = (self.rise - middle * self.level) / max((scales * offset**2).sum(), 1e-300)
        kicks = [residual, velocity] if self.with_momentum else [residual]
        scaled = [(k * np.sqrt(noise * scales)[:, None]).astype(kind) for k in kicks]
        tilted = [(k * offset[:, None]).astype(kind) for k in scaled]
        mean = [(k * np.sqrt(noise)[:, None] * np.array(self.means)).astype(kind) for k in kicks]
        combined = [(a, b) for a in range(len(kicks)) for b in range(len(kicks))]
        given, observed = np.zeros(self.n), 0.0
        for first in range(0, self.modes, _ROWS):
            last = min(first + _ROWS, self.modes)
            left, own = self.basis[:, :last], self.basis[:, first:last]
            level, rise = ((own * (self.n * part).astype(kind)[:, None]).T @ left for part in (profile, slope))
            responses = np.empty((len(combined), 3, last - first, last), kind)
            for which, (a, b) in enumerate(combined):
                for part, (x, y) in enumerate(((scaled[a], scaled[b]), (tilted[a], scaled[b]), (mean[a], mean[b]))):
                    np.matmul(x[:, first:last].T, y[:, :last], out=responses[which, part])
            _kernels.slow_pairs_advance(
                first, self.exact, self.c, self.j, self.p, maps.astype(kind), level, rise, responses,
                kind.type(1 / max(scales[0], 1e-300)), self.with_momentum,
            )  # fmt: skip
            tile = self.c[first:last, :last]
            given += 2 * np.einsum("lk,lk->l", left @ tile.T, own)
            if gram is not None:
                observed += 2 * float(np.vdot(gram[first:last, :last], tile))
        self.hypers = []
        return given, profile, observed


def until_abrupt(hypers: np.ndarray) -> int:
    """How many steps of hypers (T, 3) come before the next abrupt change."""
    compared = hypers * (1, -1, 1) + (0, 1, 0)
    before, now = compared[:-1], compared[1:]
    abrupt = (np.abs(now - before) > _ABRUPT * np.maximum(np.abs(before), np.abs(now))).any(1)
    return 1 + int(abrupt.argmax()) if abrupt.any() else len(hypers)


class Trend:
    """A vector known at the ends of intervals, continued by the parabola through the last three of them."""

    def __init__(self, value: np.ndarray) -> None:
        self.guess, self.values, self.times = value, list[np.ndarray](), list[float]()

    def add(self, time: float, value: np.ndarray) -> None:
        """The value at `time`; a time that is not after the last begins the trend anew."""
        if self.times and time <= self.times[-1]:
            self.values, self.times = [], []
        self.values, self.times = [*self.values[-2:], value], [*self.times[-2:], time]

    def at(self, times: list[float]) -> tuple[np.ndarray, np.ndarray]:
        """The values expected at `times` (T,): weights (T, V) of V vectors, (V, size)."""
        if not self.values:
            return np.ones((len(times), 1)), self.guess[None]
        weights = np.ones((len(times), len(self.times)))
        for i, own in enumerate(self.times):
            for other in (*self.times[:i], *self.times[i + 1 :]):
                weights[:, i] *= (np.array(times) - other) / (own - other)
        return weights, np.stack(self.values)
