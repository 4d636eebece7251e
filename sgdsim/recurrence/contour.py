"""The loss of the spectral-diagonal regime at any time, without stepping there.

`s_t` is a Cauchy integral of `s̃(z) = Ṽ/(1 − zŨ)`. With `z = e^{−σ}` the singularities lie on the real σ-axis left of
σ₁, the root of `zŨ(z) = 1` (or the slowest mode's own rate), and, where modes turn or change sign from step to step,
off that axis further left: with momentum near `Re σ = log|β|`. A hyperbola around the real ones (Weideman & Trefethen,
*Math. Comp.* 76 (2007) 1341) with 16 nodes gives `s_t` to about twelve digits at a cost that does not depend on t.
Where the others have not died out yet, or few digits are left, it steps there by the recurrence. That σ₁ is real takes
noise that is never negative: τ ≤ 1.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT, named
from sgdsim.algorithm.sgd import SGD, noise_factor
from sgdsim.common.checks import InputError, choice, number
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.recurrence import any_method, compressed, contour_kernels, hyperbola, pair_maps, share
from sgdsim.recurrence.hyperbola import GOOD

METHODS = ("auto", "recurrence", "contour")
#: How a value may have been found.
USED = ("recurrence", "contour", "closed form")
_WORK = 1e10  # modes × steps of a recurrence that is still run where the contour is poor (some seconds)
_SECONDS = 6e-8  # of a mode in a value by contour, about
# What has grown by e^2000, however it oscillates, needs no recurrence beyond this share of the steps of others.
_BEYOND, _SURE = 2000.0, 0.01
_CONTOUR_STEPS = 200  # one value by contour costs about as much as this many steps of the recurrence
_ROOT, _STEP, _POWERS = 10, 0.3, 15  # costs per mode in terms of the contour: of σ₁, a step, a closed form
_LATEST = 1e15  # float64 counts steps exactly up to here


@dataclass(frozen=True)
class LossValues:
    """Losses `L = s/(2N)` of the spectral-diagonal regime, each array (cells…, T).

    `loss` may overflow to infinity or underflow to 0 where `log_loss` is still finite. `error`: estimate of the
    relative error. `method`: how each was found, an index into `sgdsim.recurrence.contour.USED`.
    """

    steps: np.ndarray
    loss: np.ndarray
    log_loss: np.ndarray
    error: np.ndarray
    method: np.ndarray


def loss_at(
    problem: QuadraticProblem,
    steps: np.ndarray | int,
    *,
    lr: np.ndarray | float,
    momentum: np.ndarray | float = 0.0,
    batch_size: np.ndarray | int | None = None,
    noise: np.ndarray | float | None = None,
    tau: np.ndarray | float = 1.0,
    sampling: str = WITHOUT_REPLACEMENT,
    method: str = "auto",
    compress: bool = True,
) -> LossValues:
    """The loss after `steps` steps of constant heavy ball, for all cells of the broadcast hyperparameters.

    Parameters
    ----------
    problem : a quadratic problem; only eigenvalues (with multiplicity) and c_k matter.
    steps : one number of steps or several, (T,), up to 10¹⁵.
    lr, momentum, tau : numbers or arrays that broadcast against each other: the cells. |β| < 1, α > 0, τ ≤ 1 (beyond,
        losses may be negative, and the first singularity need not be real: step with `ss.SpectralDiagonal`).
    batch_size or noise : b, or γ itself (from 0 to 1); exactly one of them.
    method : "auto" takes the contour where that is cheaper and good, else the recurrence; or one of them throughout,
        but for the first 40 steps, where a contour would wrap around.
    compress : whether fewer modes may stand for many (`sgdsim.recurrence.compressed`); `error` has what that makes.

    Returns
    -------
    LossValues with arrays of shape (cells…, T), or (cells…) for a single number of steps.

    Raises
    ------
    InputError : values out of range, both or neither of batch_size and noise.
    """
    choice("method", method, METHODS)
    problem.check_without_errors("contour")
    gamma = _noise(problem.n, batch_size, noise, sampling)
    cells, shape = _cells(problem, lr, momentum, gamma, tau)

    def found(modes: QuadraticProblem, times: np.ndarray, some: np.ndarray) -> tuple[np.ndarray, ...]:
        same = cells if modes is problem else _cells(modes, lr, momentum, gamma, tau)[0]
        return same.only(some).follow(times, method, _WORK / modes.spectrum.n_modes)

    return _values(problem, steps, found, shape, _SECONDS * problem.spectrum.n_modes if compress else 0.0)


def _values(
    problem: QuadraticProblem,
    steps: np.ndarray | int,
    found: compressed.CellLosses,
    shape: tuple[int, ...],
    seconds: float,
) -> LossValues:
    """What `found` tells of cells in this `shape` at ascending times, (cells, T) each, with few modes for many where
    that saves time; `seconds`: of a value with all modes."""
    times = np.atleast_1d(np.asarray(steps, dtype=np.float64))
    if times.ndim != 1 or times.size == 0 or not ((times >= 0) & (times <= _LATEST) & (times % 1 == 0)).all():
        raise InputError(f"steps: expected whole numbers from 0 to {_LATEST:.0e}, got {steps!r}")
    order, n_cells = np.argsort(times, kind="stable"), math.prod(shape)
    if compressed.worth(problem, seconds * times.size * n_cells):
        values, missed = compressed.of_cells(problem, times[order], found, n_cells)
    else:
        values, missed = found(problem, times[order], np.arange(n_cells)), np.zeros(1)
    log_s, error, used = values
    back = np.argsort(order) if np.ndim(steps) else 0
    log_loss, error, used = (
        v[..., back].reshape((*shape, *np.shape(steps)))
        for v in (log_s - np.log(2 * problem.normaliser), error + missed, used)
    )
    with np.errstate(over="ignore", under="ignore"):
        loss = np.exp(log_loss)
    return LossValues(np.asarray(steps), loss, log_loss, error, used.astype(np.int8))


def is_cheaper(n_modes: float, sgd: SGD, steps: np.ndarray) -> bool:
    """Whether some of the ascending `steps` are found sooner by contour than by stepping there."""
    as_steps = _CONTOUR_STEPS if sgd.is_plain else any_method.contour_steps(n_modes, sgd)
    return hyperbola.cheap(steps, as_steps) < len(steps)


def loss_curve(
    problem: QuadraticProblem,
    sgd: SGD,
    steps: np.ndarray | int,
    *,
    tau: float = 1.0,
    method: str = "auto",
    compress: bool = True,
) -> LossValues:
    """`loss_at` for one algorithm, any linear method: with memory, noisy labels, fresh points or an average.

    Raises
    ------
    InputError : as `loss_at`; and for what has no generating function: schedules, methods and averages that change in
        time, reshuffled epochs, points with weights.
    """
    pair_maps.step(sgd)
    if problem.with_errors(sgd).is_plain:
        lr, momentum, _, noise = (values[0] for values in sgd.values(problem.n, 0, 1))
        hyper = {"lr": lr, "momentum": momentum, "noise": noise, "tau": tau}
        return loss_at(problem, steps, **hyper, method=method, compress=compress)
    choice("method", method, METHODS)
    tau = number("tau", tau, maximum=1.0)

    def found(modes: QuadraticProblem, times: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(v[None] for v in any_method.follow(modes, sgd, times, tau, method))

    return _values(problem, steps, found, (), any_method.seconds(problem.spectrum.n_modes, sgd) if compress else 0.0)


def rate(
    problem: QuadraticProblem,
    *,
    lr: np.ndarray | float,
    momentum: np.ndarray | float = 0.0,
    batch_size: np.ndarray | int | None = None,
    noise: np.ndarray | float | None = None,
    tau: np.ndarray | float = 1.0,
    sampling: str = WITHOUT_REPLACEMENT,
) -> np.ndarray:
    """σ₁ of `L_t ~ e^{σ₁t}` as t → ∞: the growth rate where positive, the finite-N exponential tail where negative.

    `σ₁ = −log z₁` with z₁ the first root of `zŨ(z) = 1`, or the slowest rate of a single mode (2 log|μ| without noise).
    Arguments and cells as in `loss_at`; −∞ if nothing is left after one step.
    """
    gamma = _noise(problem.n, batch_size, noise, sampling)
    if (gamma > 0).all():  # without noise the slowest mode decides that holds an error, and bins blur which it is
        problem = compression.short(problem)
    cells, shape = _cells(problem, lr, momentum, gamma, tau)
    found = cells.rightmost(np.zeros(cells.alpha.size)).reshape(shape)
    return np.where(found <= contour_kernels.LOWEST, -np.inf, found)[()]


def rate_of(problem: QuadraticProblem, sgd: SGD, *, tau: float = 1.0) -> float:
    """`rate` of any stationary linear method; where labels are noisy it is that of the approach to the floor.

    Raises InputError as `loss_curve`.
    """
    tau, quiet = number("tau", tau, maximum=1.0), replace(sgd, label_noise=0.0)
    pair_maps.step(sgd)
    if quiet.is_plain:
        lr, momentum, _, noise = (values[0] for values in sgd.values(problem.n, 0, 1))
        return float(rate(problem, lr=lr, momentum=momentum, noise=noise, tau=tau))
    return any_method.rate(problem, quiet, tau)


class _Cells:
    """The modes that matter, and hyperparameters of several cells (each (cells,))."""

    def __init__(self, problem: QuadraticProblem, alpha, beta, gamma, tau) -> None:
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
        for some, follow in ((quiet, _Cells._without_noise), (~quiet, _Cells._with_noise)):
            if some.any():
                found = follow(self.only(some), times[first:], method, patience)
                log_s[some, first:], error[some, first:], used[some, first:] = found
        return log_s, error, used

    def only(self, some: np.ndarray) -> _Cells:
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
        cheap = hyperbola.cheap(times, _CONTOUR_STEPS if method == "auto" else 0.0)
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
                poor = ~(error <= GOOD) & ~nothing & ~gone & (times <= patience)
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
        for nodes, (value, terms) in zip((hyperbola.NODES, hyperbola.FEWER), inverse, strict=True):
            arguments = (*self._sums(), shift, cells, at, nodes, value, terms)
            work = work + share.pieces(contour_kernels.invert, arguments, at.size, nodes * self.lam.size)
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
        some = self.lam if self.lam.size <= hyperbola.SAMPLE else np.linspace(0.0, self.lam[0], hyperbola.SAMPLE)
        turning = contour_kernels.turning(some, self.alpha, self.beta, self.gamma * self.tau)
        with np.errstate(all="ignore"):
            left = np.exp(at * (np.log(turning) - shift)[cells]) * hyperbola.AMPLITUDE * self.total
        return scaled, hyperbola.judged(scaled, other, size, left)


def _cells(problem: QuadraticProblem, lr, momentum, gamma: np.ndarray, tau) -> tuple[_Cells, tuple[int, ...]]:
    """The cells of the broadcast hyperparameters, in a row, and their shape; InputError for values out of range."""
    arrays = np.broadcast_arrays(
        _within("lr", lr, 0.0, np.inf),
        _within("momentum", momentum, -1.0, 1.0),
        gamma,
        _within("tau", tau, high=1.0, closed=True),
    )  # fmt: skip
    return _Cells(problem, *(np.array(v, dtype=np.float64).ravel() for v in arrays)), arrays[0].shape


def _noise(n: int, batch_size, noise, sampling: str) -> np.ndarray:
    if (batch_size is None) == (noise is None):
        raise InputError("batch_size, noise: expected exactly one of them")
    if noise is not None:
        return _within("noise", noise, 0.0, 1.0, closed=True)
    b = np.asarray(batch_size, dtype=np.float64)
    if not ((b >= 1) & (b % 1 == 0)).all() or (named(sampling).bounded and (b > n).any()):
        raise InputError(f"batch_size: expected integers from 1 to {n} (training points), got {batch_size!r}")
    return noise_factor(n, b, sampling)


def _within(name: str, value, low: float = -np.inf, high: float = np.inf, closed: bool = False) -> np.ndarray:
    """`value` as a float array, all of it inside (low, high); one number is checked like everywhere else."""
    if np.ndim(value) == 0:
        bounds: dict[str, Any] = {"minimum": low, "maximum": high} if closed else {}
        if not closed and low > -np.inf and high < np.inf:
            bounds = {"minimum": low, "maximum": high, "open_ends": True}
        found = number(name, value, **bounds)
        if found <= low and not closed:
            raise InputError(f"{name}: expected a number > {low:g}, got {value!r}")
    values = np.asarray(value, dtype=np.float64)
    inside = (values >= low) & (values <= high) if closed else (values > low) & (values < high)
    if not inside.all() or not np.isfinite(values).all() or values.size == 0:
        raise InputError(f"{name}: expected finite numbers from {low:g} to {high:g}, got {value!r}")
    return values
