"""The loss of any stationary linear method at any time, without stepping there: with memory, noisy labels, fresh points
or an average that does not act back, for any closure τ ≤ 1.

As in `sgdsim.recurrence.contour`, whose heavy ball has a closed form for each mode; here a mode is a linear system of
m(m+1)/2 moments (`sgdsim.recurrence.pair_maps`), and the noise of labels is one more pole, at z = 1, whose residue is
the floor.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.optimize

from sgdsim.algorithm.sgd import SGD
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import diagonal, hyperbola, pair_kernels, pair_maps, share

USED = ("recurrence", "contour")  # as the first two of `sgdsim.recurrence.contour.USED`
_LEAST = 1e-15  # of a square of an eigenvalue: what is smaller is gone at the first time of a contour
_PATIENCE = 10.0  # seconds of a recurrence that is still run where the contour is poor


class Method:
    """One stationary algorithm on one problem."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, tau: float) -> None:
        self.problem, self.sgd, self.tau = problem, sgd, tau
        seen = problem.with_errors(sgd)
        values = seen.values(problem.n, 0, 1)
        self.gamma = float(values.noise[0])
        self.label = float(seen.label_source(problem.normaliser, values.batch_size)[0])
        self.maps = pair_maps.of(seen, self.gamma * tau)
        self.lam, self.counts, self.c = problem.eigenvalues, problem.spectrum.counts, problem.coefficients**2
        self.sums = (
            self.lam, self.counts, self.c, np.stack(self.maps[:3]), np.stack(self.maps[3:]),
        )  # fmt: skip

    def rightmost(self, tolerance: float) -> float:
        """Where s̃ is first singular, coming from the right on the σ-axis, to within `tolerance`, never left of it.

        Right of 2 log of the largest eigenvalue of a mode that counts Ũ is finite and falls; beyond, the root of
        `γzŨ = 1`, which is right of it for multiplicities ≥ 1 ≥ τ; and 0 where labels are noisy.
        """
        noisy = self.gamma > 0 or self.label > 0
        there = (self.c > 0) | (noisy & (self.counts > 0) & (self.lam > 0))
        lowest = 0.0 if self.label > 0 else -math.inf
        if not there.any():
            return lowest
        own = _largest(self.sgd, self.lam[there]) + tolerance
        if self.gamma > 0 and self._gap(own) <= 0:
            step = tolerance
            while self._gap(own + step) <= 0:
                step *= 4
            near = own if step == tolerance else own + step / 4
            own = scipy.optimize.brentq(self._gap, near, own + step, xtol=tolerance) + tolerance
        return max(own, lowest)

    def _gap(self, sigma: float) -> float:
        return max(pair_kernels.gap(*self.sums, self.gamma, sigma), -1e300)

    def turning(self) -> float:
        """log of the largest modulus of a mode's eigenvalues that are not real and positive."""
        places = np.unique(np.linspace(0, self.lam.size - 1, hyperbola.SAMPLE).astype(int))
        spread = np.linspace(0.0, self.lam[0], hyperbola.SAMPLE)
        changes = self.maps.changes(np.concatenate([self.lam[places], spread]))
        values = 1.0 + np.linalg.eigvals(changes)
        size = np.abs(values)
        turns = (values.real <= 0) | (np.abs(values.imag) > 1e-7 * size)
        return math.log(max(size[turns].max(initial=0.0), 1e-300))

    def losses(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log s and its relative error at times ≥ `hyperbola.EARLIEST`, (T,) each."""
        start = self.c.sum() + self.label * float(self.counts @ self.lam**2)
        if start == 0:
            return np.full(times.size, -np.inf), np.zeros(times.size)
        shift = self.rightmost(0.02 / times[-1])
        found, work = np.empty((2, 2, times.size)), []
        cost = 0.1 * self.lam.size * self.maps.kick.size**3
        for nodes, (value, size) in zip((hyperbola.NODES, hyperbola.FEWER), found, strict=True):
            arguments = (*self.sums, self.gamma, self.label, shift, times, nodes, value, size)
            work += share.pieces(pair_kernels.invert, arguments, times.size, nodes * cost)
        share.run(work)
        with np.errstate(all="ignore"):
            left = np.exp(times * (self.turning() - shift)) * hyperbola.AMPLITUDE * start
            scaled, other = found[:, 0]
            error = hyperbola.judged(scaled, other, found[0, 1], left) + 2e-14 * np.abs(shift * times)
            return np.log(scaled) + shift * times, np.where(scaled > 0, error, np.inf)


def follow(
    problem: QuadraticProblem, sgd: SGD, times: np.ndarray, tau: float, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log s, its relative error and the way it was found, an index into `USED`, at ascending times, (T,) each.

    `method`: "auto", "recurrence" or "contour", as `sgdsim.recurrence.contour.loss_at`.
    """
    log_s, error, used = np.full((3, times.size), np.nan)
    n_modes = problem.spectrum.n_modes
    early = times.size
    if method != "recurrence":
        early = hyperbola.cheap(times, contour_steps(n_modes, sgd) if method == "auto" else 0.0)
        if early < times.size:
            log_s[early:], error[early:] = Method(problem, sgd, tau).losses(times[early:])
            used[early:] = USED.index("contour")
        if method == "auto":
            poor = np.flatnonzero((~(error <= hyperbola.GOOD) & (times * _step(n_modes, sgd) <= _PATIENCE))[early:])
            early += int(poor.max(initial=-1)) + 1
    stepped, rounding = diagonal.log_losses(problem, sgd, times[:early].astype(np.int64), tau)
    stepped += np.log(2 * problem.normaliser)
    # A loss beyond the range of floats has no stepped value: the contour's, with its error, is all that is known.
    known = np.flatnonzero(np.isfinite(stepped) | (used[:early] != USED.index("contour")))
    log_s[known], error[known], used[known] = stepped[known], rounding[known], USED.index("recurrence")
    return log_s, error, used


def seconds(n_modes: float, sgd: SGD) -> float:
    """Seconds of a value by contour, roughly."""
    pairs = sgd.components * (sgd.components + 1) // 2
    return 2 * hyperbola.NODES * n_modes * (4e-8 * pairs**2 + 1e-9 * pairs**3)


def contour_steps(n_modes: float, sgd: SGD) -> float:
    """How many steps of the recurrence take as long as one value by contour."""
    return seconds(n_modes, sgd) / _step(n_modes, sgd)


def _step(n_modes: float, sgd: SGD) -> float:
    """Seconds of a step of all modes."""
    return 1e-6 + 4e-10 * n_modes * sgd.components**2


def _largest(sgd: SGD, eigenvalues: np.ndarray) -> float:
    """2 log of the largest modulus of an eigenvalue of the maps of all modes."""
    transition, kick = pair_maps.step(sgd)
    changes = np.tile(transition - np.eye(kick.size), (eigenvalues.size, 1, 1))
    changes[:, :, 0] += eigenvalues[:, None] * kick
    values = np.linalg.eigvals(changes)
    return float(np.log1p(np.maximum(2 * values.real + np.abs(values) ** 2, _LEAST - 1.0)).max())
