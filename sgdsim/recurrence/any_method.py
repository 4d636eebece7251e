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
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.recurrence import diagonal, hyperbola, pair_kernels, pair_maps, share
from sgdsim.recurrence.cells import USED

_LEAST = 1e-15  # rounding of an eigenvalue's square; and what is smaller is gone at the first time of a contour
# Half-angles of the sectors that a contour goes around, and the step before which it would wrap around |Im σ| = π.
_SECTORS = ((0.0, hyperbola.EARLIEST), (0.8, 100), (1.1, 200))
_BEYOND = 800.0  # log of what has left the range of floats by far, however modes turn on the way
_AMPLITUDE = 100.0  # what modes that turn may begin with, in units of the initial loss and a step's noise of labels
_PATIENCE = 10.0  # seconds of a recurrence that is still run where the contour is poor


class Method:
    """One stationary algorithm on one problem. `labels`: whether their noise counts."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, tau: float, labels: bool = True) -> None:
        self.sgd = sgd
        seen = problem.with_errors(sgd)
        values = problem.values(seen, 0, 1)
        self.gamma = float(values.noise[0])
        self.label = float(problem.label_source(seen, values.batch_size)[0]) if labels else 0.0
        self.maps, self.step = pair_maps.of(seen, self.gamma * tau, problem), pair_maps.step(seen, problem)
        self.lam, self.counts, self.c = problem.eigenvalues, problem.spectrum.counts, problem.coefficients**2
        self.sums = (self.lam, self.counts, self.c, np.stack(self.maps[:3]), np.stack(self.maps[3:]))

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
        own = _largest(self.step, self.lam[there])
        tolerance = max(tolerance, 1e-12 * abs(own), _LEAST)
        own += tolerance
        if self.gamma > 0 and self._gap(own) <= 0:
            step = tolerance
            while self._gap(own + step) <= 0:
                step *= 4
            near = own if step == tolerance else own + step / 4
            own = scipy.optimize.brentq(self._gap, near, own + step, xtol=tolerance) + tolerance
        return max(own, lowest)

    def _gap(self, sigma: float) -> float:
        return max(pair_kernels.gap(*self.sums, self.gamma, sigma), -1e300)

    def turning(self) -> np.ndarray:
        """σ = log μ of the eigenvalues μ of the moments' maps that are not real and positive, at some modes."""
        places = np.unique(np.linspace(0, self.lam.size - 1, hyperbola.SAMPLE).astype(int))
        spread = np.linspace(0.0, self.lam[0], hyperbola.SAMPLE)
        changes = self.maps.changes(np.concatenate([self.lam[places], spread]))
        values = 1.0 + np.linalg.eigvals(changes).astype(complex)
        turns = (values.real <= 0) | (np.abs(values.imag) > 1e-7 * np.abs(values))
        own = np.log(values[turns & (values != 0)])
        return np.append(own, self._alternating(own.real.max(initial=-40.0)))

    def _alternating(self, own: float) -> np.ndarray:
        """σ = x + πi of the rightmost root of `γzŨ = 1` at z = −e^{−x}, right of a mode's `own`: where all modes change
        sign together. Empty if there is none."""
        sums = np.empty(8, complex)

        def gap(x: float) -> float:
            z = complex(-math.exp(-x))
            pair_kernels.transforms(*self.sums, 1 - z, z, False, sums)
            return float((1 - self.gamma * z * sums[0]).real)

        places = own + np.append(np.geomspace(1e-6, 1.0, 13), [2.0, 5.0, 20.0])
        below = [k for k, x in enumerate(places) if not gap(x) > 0] if self.gamma > 0 else []
        if not below:
            return np.empty(0, complex)
        x = places[below[-1]]
        if below[-1] + 1 < places.size and np.isfinite(gap(x)):
            x = scipy.optimize.brentq(gap, x, places[below[-1] + 1])
        return np.array([x + math.pi * 1j])

    def losses(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log s and its relative error at times ≥ `hyperbola.EARLIEST`, (T,) each."""
        start = self.c.sum() + self.label * float(self.counts @ self.lam**2)
        if start == 0:
            return np.full(times.size, -np.inf), np.zeros(times.size)
        shift, turning = self.rightmost(0.02 / times[-1]), self.turning()
        away = np.arctan2(np.abs(turning.imag), shift - turning.real)  # from the negative axis
        log_s, error = np.full(times.size, np.nan), np.full(times.size, np.inf)
        # Modes that turn and have died out take nothing from the first contour's digits.
        alive = times * (turning.real.max(initial=-math.inf) - shift) > math.log(_LEAST)
        for sector, earliest in _SECTORS:
            poor = np.flatnonzero(~(error <= hyperbola.GOOD) & (times >= earliest) & (alive | (sector == 0)))
            if poor.size:
                outside = turning.real[away > sector].max(initial=-math.inf)
                with np.errstate(over="ignore", divide="ignore"):
                    driven = np.minimum(times[poor], 1 / abs(outside))  # steps over which noise adds up in such a mode
                    left = np.exp(times[poor] * (outside - shift)) * _AMPLITUDE * np.maximum(driven, 1.0) * start
                again = self._along(sector, times[poor], shift, left)
                better = ~(again[1] >= error[poor])
                log_s[poor[better]], error[poor[better]] = (v[better] for v in again)
        gone = (error == np.inf) & (np.abs(shift * times + math.log(start)) > _BEYOND)
        return np.where(gone, shift * times, log_s), error

    def _along(self, sector: float, times: np.ndarray, shift: float, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`losses` by the contour around a sector, with what is `left` of modes outside of it."""
        found, work = np.empty((2, 2, times.size)), []
        cost = 0.1 * self.lam.size * self.maps.kick.size**3
        contours = hyperbola.wide(sector) if sector else hyperbola.NARROW
        for contour, (value, size) in zip(contours, found, strict=True):
            arguments = (*self.sums, self.gamma, self.label, shift, times, contour, value, size)
            work += share.pieces(pair_kernels.invert, arguments, times.size, contour.nodes * cost)
        share.run(work)
        with np.errstate(all="ignore"):
            scaled, other = found[:, 0]
            # Where modes turn near the contour, nodes less may agree by chance: three times what they differ by.
            error = hyperbola.judged(scaled, scaled + 3 * (other - scaled), found[0, 1], left)
            error += 2e-14 * np.abs(shift * times)
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


def rate(problem: QuadraticProblem, sgd: SGD, tau: float) -> float:
    """σ₁ of `L_t ~ e^{σ₁t}`, or of the approach to the floor of noisy labels; −∞ if nothing is left after one step."""
    if problem.noise(sgd) > 0:  # without noise the slowest mode decides that holds an error: bins blur which it is
        problem = compression.short(problem)
    return Method(problem, sgd, tau, labels=False).rightmost(0.0)


def seconds(n_modes: float, sgd: SGD) -> float:
    """Seconds of a value by contour, roughly."""
    components = sgd.components + (sgd.weight_decay > 0)
    pairs = components * (components + 1) // 2
    return 2 * hyperbola.NODES * n_modes * (2e-8 * pairs**2 + 1e-9 * pairs**3)


def contour_steps(n_modes: float, sgd: SGD) -> float:
    """How many steps of the recurrence take as long as one value by contour."""
    return seconds(n_modes, sgd) / _step(n_modes, sgd)


def _step(n_modes: float, sgd: SGD) -> float:
    """Seconds of a step of all modes."""
    return 1e-6 + 4e-10 * n_modes * sgd.components**2


def _largest(step: tuple[np.ndarray, np.ndarray], eigenvalues: np.ndarray) -> float:
    """2 log of the largest modulus of an eigenvalue of the maps of all modes; `step`: A and k."""
    transition, kick = step
    changes = np.tile(transition - np.eye(kick.size), (eigenvalues.size, 1, 1))
    changes[:, :, 0] += eigenvalues[:, None] * kick
    values = np.linalg.eigvals(changes)
    return float(np.log1p(np.maximum(2 * values.real + np.abs(values) ** 2, _LEAST - 1.0)).max())
