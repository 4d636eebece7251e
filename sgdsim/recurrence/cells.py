"""Losses of many settings of plain heavy ball: by contour, in closed form without noise, or by the recurrence.

What `sgdsim.recurrence.contour` asks for each cell; pieces of all cells' work are shared among threads together.
"""

from __future__ import annotations

import copy

import numpy as np

from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import contour_kernels, hyperbola, share, turning
from sgdsim.recurrence.hyperbola import GOOD

#: How a value may have been found.
USED = ("recurrence", "contour", "closed form")
CONTOUR_STEPS = 200  # one value by contour costs about as much as this many steps of the recurrence
# What has grown by e^2000, however it oscillates, needs no recurrence beyond this share of the steps of others.
_BEYOND, _SURE = 2000.0, 0.01
_LONG = 1e4  # steps from which on they are worth a larger error, in proportion
_UNSEEN = -50.0  # log of what no value's error shows
_ROOT, _STEP, _POWERS = 10, 0.3, 15  # costs per mode in terms of the contour: of σ₁, a step, a closed form


class Cells:
    """The modes that matter, and hyperparameters of several cells of plain heavy ball, each (cells,)."""

    def __init__(
        self, problem: QuadraticProblem, alpha: np.ndarray, beta: np.ndarray, gamma: np.ndarray, tau: np.ndarray
    ) -> None:
        counts = problem.spectrum.counts
        lam, c = problem.eigenvalues, problem.coefficients**2
        kept = (lam > 0) & ((c > 0) | (counts > 0))
        # Modes without curvature never move: one of them stands for all.
        still = float(c[lam == 0].sum())
        rest = [still] if still > 0 else []
        self.lam = np.concatenate([lam[kept], np.zeros(len(rest))])
        self.c = np.concatenate([c[kept], rest])
        self.counts = np.concatenate([counts[kept], np.zeros(len(rest))])
        self.single = problem.multiplicity is None and not rest
        self.occupied, self.still = int(kept.sum()), still > 0
        self.total = float(c.sum())
        self.alpha, self.beta, self.gamma, self.tau = alpha, beta, gamma, tau

    def rightmost(self, tolerance: np.ndarray) -> np.ndarray:
        lam, counts = self.lam, self.counts
        # Without noise only modes that hold an error count.
        active = self.c[: self.occupied] > 0
        quiet = self.gamma == 0
        out, still = np.empty(self.alpha.size), np.empty(quiet.sum())
        hyper = (self.alpha, self.beta, self.gamma, self.gamma * self.tau, tolerance)
        work = share.pieces(
            contour_kernels.rightmost_of, (lam, counts, self.occupied, *hyper, out), out.size, _ROOT * self.occupied
        )
        only_active = quiet.any() and not active.all()
        if only_active:
            some = lam[: self.occupied][active]
            hyper = (self.alpha[quiet], self.beta[quiet], *np.zeros((2, still.size)), tolerance[quiet])
            arguments = (some, np.ones(some.size), some.size, *hyper, still)
            work += share.pieces(contour_kernels.rightmost_of, arguments, still.size, _ROOT * some.size)
        share.run(work)
        if only_active:
            out[quiet] = still
        return np.maximum(out, 0.0) if self.still else out

    def follow(self, times: np.ndarray, method: str, patience: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log s, relative error and method, each (cells, T), at ascending times."""
        log_s = np.full((self.alpha.size, times.size), np.log(self.total) if self.total > 0 else -np.inf)
        error, used = np.zeros(log_s.shape), np.zeros(log_s.shape)
        first = int(np.searchsorted(times, 1.0))  # s_0 is known
        if self.total == 0 or first == times.size:
            return log_s, error, used
        quiet = self.gamma == 0
        for some, follow in ((quiet, Cells._without_noise), (~quiet, Cells._with_noise)):
            if some.any():
                found = follow(self.only(some), times[first:], method, patience)
                log_s[some, first:], error[some, first:], used[some, first:] = found
        return log_s, error, used

    def only(self, some: np.ndarray) -> Cells:
        """These cells alone, by places or a mask."""
        cells = copy.copy(self)
        cells.alpha, cells.beta, cells.gamma, cells.tau = (
            v[some] for v in (self.alpha, self.beta, self.gamma, self.tau)
        )
        return cells

    def _without_noise(self, times: np.ndarray, method: str, _: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`follow` without noise, from step 1 on: in closed form, which also tells how far the recurrence is off."""
        log_s, error = self._closed(times)
        if method != "recurrence":
            return log_s, error, np.full(log_s.shape, USED.index("closed form"))
        stepped = np.empty(log_s.shape)
        share.run(self._recur(times, np.full(len(stepped), times.size), stepped))
        with np.errstate(invalid="ignore"):
            apart = np.where(stepped == log_s, 0.0, np.abs(np.expm1(log_s - stepped)))
        return stepped, apart + error, np.full(log_s.shape, USED.index("recurrence"))

    def _with_noise(self, times: np.ndarray, method: str, patience: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`follow` with noise, from step 1 on."""
        log_s, error, used = np.empty((3, self.alpha.size, times.size))
        cheap = hyperbola.cheap(times, CONTOUR_STEPS if method == "auto" else 0.0)
        early = times.size if method == "recurrence" else cheap
        counts, recurred = np.full(self.alpha.size, early), np.empty(log_s.shape)
        work, late = self._recur(times, counts, recurred), times[early:]
        if not late.size:
            share.run(work)
        else:  # one sharing of threads for both ways
            shift = self.rightmost(np.full(self.alpha.size, 0.02 / times[-1]))
            log_s[:, early:], error[:, early:] = self._contour(late, shift, work)
            used[:, early:] = USED.index("contour")
            if method == "auto":
                nothing = (log_s < contour_kernels.LOWEST) & (error < 1)  # no float, however it is found
                gone = (shift[:, None] * times > _BEYOND) & (times > _SURE * patience)
                enough = np.maximum(GOOD * np.maximum(times / _LONG, 1.0), self._rounding(times))
                poor = ~(error <= enough) & ~nothing & ~gone & (times <= patience)
                needed = np.where(poor, np.arange(1, times.size + 1), 0)[:, early:].max(1)
                share.run(self._recur(times, np.where(needed > counts, needed, 0), recurred))
                counts = np.maximum(counts, needed)
        stepped = np.arange(times.size) < counts[:, None]
        log_s[stepped] = recurred[stepped]
        error[stepped] = self._rounding(times)[stepped]
        used[stepped] = USED.index("recurrence")
        return log_s, error, used

    def _recur(self, times: np.ndarray, counts: np.ndarray, out: np.ndarray) -> list[tuple[float, share.Piece]]:
        """The work of stepping to the first `counts` (cells,) of the times, into out (cells, T)."""
        most = counts.max()
        if most == 0:
            return []
        multiplicity = None if self.single else self.counts
        hyper = (self.alpha, self.beta, self.gamma, self.tau)
        arguments = (self.lam, multiplicity, self.c, *hyper, times, counts, out)
        return share.pieces(contour_kernels.recur, arguments, counts.size, _STEP * self.lam.size * times[most - 1])

    def _closed(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log s and relative error without noise, (cells, T) each."""
        cells, columns = (a.ravel() for a in np.mgrid[: self.alpha.size, : times.size])
        at, shift = times[columns], self.rightmost(np.full(self.alpha.size, 0.02 / times[-1]))
        exact, size = np.empty((2, at.size))
        arguments = (self.lam, self.c, self.alpha, self.beta, shift, cells, at, exact, size)
        share.run(share.pieces(contour_kernels.noiseless, arguments, at.size, _POWERS * self.lam.size))
        with np.errstate(all="ignore"):
            error = 1e-12 + 1e-15 * at * np.sqrt(size / exact)
        return self._unscaled(exact, error, shift[cells] * at)

    def _contour(
        self, times: np.ndarray, shift: np.ndarray, work: list[tuple[float, share.Piece]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """log s and relative error at late times, (cells, T) each; does the other `work` beside. `shift`: σ₁."""
        cells, columns = (a.ravel() for a in np.mgrid[: self.alpha.size, : times.size])
        at, inverse = times[columns], np.empty((2, 2, cells.size))
        for contour, (value, terms) in zip(hyperbola.NARROW, inverse, strict=True):
            arguments = (*self._sums(), shift, cells, at, contour, value, terms)
            work = work + share.pieces(contour_kernels.invert, arguments, at.size, contour.nodes * self.lam.size)
        share.run(work)
        return self._unscaled(*self._judge(inverse[0], inverse[1], cells, at, shift), shift[cells] * at)

    def _unscaled(self, scaled: np.ndarray, error: np.ndarray, growth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):
            log_s = np.log(scaled) + growth
        error = np.where(scaled > 0, error + 2e-14 * np.abs(growth), np.inf)
        return log_s.reshape(self.alpha.size, -1), error.reshape(self.alpha.size, -1)

    def _rounding(self, times: np.ndarray) -> np.ndarray:
        """Of the recurrence, (cells, T): more where the first mode changes sign from step to step, and most where its
        two roots meet."""
        x = self.alpha * self.lam[0]
        apart = np.maximum(np.sqrt(np.abs((1 + x - self.beta) ** 2 - 4 * x))[:, None], 1 / times)
        amplified = ((1 + x) * (1 + x / apart.T)).T ** 2
        return 1e-15 * (10 + times) * np.where((x > 1 + self.beta)[:, None], amplified, 1.0)

    def _sums(self) -> tuple[np.ndarray, ...]:
        return self.lam, self.counts, self.c, self.alpha, self.beta, self.gamma, self.gamma * self.tau

    def _judge(
        self, better: np.ndarray, fewer: np.ndarray, cells: np.ndarray, at: np.ndarray, shift: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`e^{−shift·t} s_t` and its relative error, from two contours: each (value, size of what was summed)."""
        (scaled, size), (other, _) = better, fewer
        with np.errstate(all="ignore"):
            left = np.exp(at * (self._missed(shift, at.min()) - shift)[cells]) * hyperbola.AMPLITUDE * self.total
        # Of rounding the two contours are samples, which may agree by chance.
        return scaled, hyperbola.judged(scaled, scaled + 3 * (other - scaled), 4 * size, left)

    def _missed(self, shift: np.ndarray, first: float) -> np.ndarray:
        """Where s̃ is first singular off the real σ-axis, Re σ of each cell, or right of it; as far as that is seen at
        the `first` time."""
        some = self.lam if self.lam.size <= hyperbola.SAMPLE else np.linspace(0.0, self.lam[0], hyperbola.SAMPLE)
        sizes = turning.sizes(some, self.alpha, self.beta, self.gamma * self.tau)
        with np.errstate(divide="ignore"):
            seen = (sizes[1] > sizes[0]) & (first * (np.log(sizes[1]) - shift) > _UNSEEN)
            if seen.any():
                cells = self.only(seen)
                lam, counts, _, *hyper = cells._sums()
                found = sizes[:, seen]
                arguments = (lam, counts, self.occupied, *hyper, found)
                share.run(share.pieces(turning.alternating, arguments, len(found[0]), _ROOT * self.occupied))
                sizes[:, seen] = found
            return np.log(sizes.max(0))
