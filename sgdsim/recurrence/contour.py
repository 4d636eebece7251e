"""The loss of the spectral-diagonal regime at any time, without stepping there.

`s_t` is a Cauchy integral of `s̃(z) = Ṽ/(1 − zŨ)`. With `z = e^{−σ}` the singularities lie on the real σ-axis left of
σ₁, the root of `zŨ(z) = 1` (or the slowest mode's own rate), and, where modes turn or change sign from step to step,
off that axis further left: with momentum near `Re σ = log|β|`. A hyperbola around the real ones (Weideman & Trefethen,
*Math. Comp.* 76 (2007) 1341) with 16 nodes gives `s_t` to about twelve digits at a cost that does not depend on t.
Where the others have not died out yet, or few digits are left, it steps there by the recurrence. That σ₁ is real takes
noise that is never negative: τ ≤ 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT, named
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, choice, number
from sgdsim.common.shown import ShownBySteps
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.recurrence import any_method, compressed, contour_kernels, hyperbola, pair_maps
from sgdsim.recurrence.cells import CONTOUR_STEPS, Cells
from sgdsim.recurrence.cells import USED as USED  # how a value may have been found

METHODS = ("auto", "recurrence", "contour")
_WORK = 1e10  # modes × steps of a recurrence that is still run where the contour is poor (some seconds)
_SECONDS = 6e-8  # of a mode in a value by contour, about
_LATEST = 1e15  # float64 counts steps exactly up to here


@dataclass(frozen=True, repr=False)
class LossValues(ShownBySteps):
    """Losses `L = s/(2N)` of the spectral-diagonal regime, each array (cells…, T).

    `loss` may overflow to infinity or underflow to 0 where `log_loss` is still finite. `error`: estimate of the
    relative error. `method`: how each was found, an index into `sgdsim.recurrence.cells.USED`.
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
    gamma = _noise(problem, batch_size, noise, sampling)
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
    as_steps = CONTOUR_STEPS if sgd.is_plain else any_method.contour_steps(n_modes, sgd)
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
        time, reshuffled epochs, points with weights; weight decay where it pulls elsewhere than to the start.
    """
    pair_maps.step(sgd, problem)
    if sgd.weight_decay and problem.origin is not None:
        raise InputError("weight_decay: expected 0 on a problem with an origin; follow it in the diagonal regime")
    if problem.with_errors(sgd).is_plain:
        lr, momentum, _, noise = (values[0] for values in problem.values(sgd, 0, 1))
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
    gamma = _noise(problem, batch_size, noise, sampling)
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
        lr, momentum, _, noise = (values[0] for values in problem.values(sgd, 0, 1))
        return float(rate(problem, lr=lr, momentum=momentum, noise=noise, tau=tau))
    return any_method.rate(problem, quiet, tau)


def _cells(problem: QuadraticProblem, lr, momentum, gamma: np.ndarray, tau) -> tuple[Cells, tuple[int, ...]]:
    """The cells of the broadcast hyperparameters, in a row, and their shape; InputError for values out of range."""
    arrays = np.broadcast_arrays(
        _within("lr", lr, 0.0, np.inf),
        _within("momentum", momentum, -1.0, 1.0),
        gamma,
        _within("tau", tau, high=1.0, closed=True),
    )  # fmt: skip
    return Cells(problem, *(np.array(v, dtype=np.float64).ravel() for v in arrays)), arrays[0].shape


def _noise(problem: QuadraticProblem, batch_size, noise, sampling: str) -> np.ndarray:
    if (batch_size is None) == (noise is None):
        raise InputError("batch_size, noise: expected exactly one of them")
    if noise is not None:
        return _within("noise", noise, 0.0, 1.0, closed=True)
    b = np.asarray(batch_size, dtype=np.float64)
    if not ((b >= 1) & (b % 1 == 0)).all() or (named(sampling).bounded and (b > problem.n).any()):
        raise InputError(f"batch_size: expected integers from 1 to {problem.n} (training points), got {batch_size!r}")
    return problem.noise_factor(b, sampling)


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
