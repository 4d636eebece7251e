"""The best learning rate and momentum for a batch size: for a horizon, or for the constant of the asymptotic law.

On the true spectrum, with the loss at the horizon from the contour evaluator: no power law has to hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.optimize
from scipy.special import eval_jacobi

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT, named
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.shown import Shown
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import compressed, contour, kernels
from sgdsim.theory import _basins, _search, power_law

_MOMENTA = 1 - np.geomspace(1.95, 1e-4, 40)  # −0.95 … 0.9999, dense near 1
_HUNTS = 4  # grids around the best, at most
_FRACTIONS = np.linspace(0.02, 0.99, 25)  # of the largest stable learning rate


@dataclass(frozen=True, repr=False)
class Optimum(Shown):
    """The best (α, β) found and how much it is worth.

    Parameters
    ----------
    lr, momentum : the optimum; `max_lr` is the largest stable learning rate at that momentum.
    loss : `L` at the horizon there; with no horizon the constant of the asymptotic law `L ≈ loss · t^{−exponent}`.
    plain_lr, plain_loss : the best without momentum.
    gain : 1 − loss/plain_loss, what momentum of the best sign and size brings.
    horizon : steps, or None.
    exponent : of the law, where there is no horizon.
    """

    lr: float
    momentum: float
    max_lr: float
    loss: float
    plain_lr: float
    plain_loss: float
    horizon: float | None
    exponent: float | None = None

    @property
    def gain(self) -> float:
        """Relative gain over the best run without momentum; 0 where both losses are too small for a float."""
        return 1 - self.loss / self.plain_loss if self.plain_loss > 0 else 0.0

    @property
    def negative_momentum(self) -> bool:
        """Whether the optimum has momentum below zero."""
        return self.momentum < 0


@of_quadratic
def best(
    problem: QuadraticProblem,
    *,
    batch_size: int | None = None,
    noise: float | None = None,
    horizon: float | None = None,
    tau: float = 1.0,
    sampling: str = WITHOUT_REPLACEMENT,
    law: power_law.PowerLaw | None = None,
) -> Optimum:
    """The (α, β) with the least loss after `horizon` steps (spectral-diagonal theory), or with the least asymptotic
    constant if `horizon` is None (the law is then `law`, or `PowerLaw.of(problem)`).

    A local minimum: near full batch the loss has as many narrow basins as modes turn, and none of them is proved to be
    the deepest. It is no worse than the best of a grid over the whole stable region, than heavy ball tuned to
    [λ_j, 1] (Polyak 1964) for any j, and than a fine grid around the result; Nelder–Mead from each of the best. All of
    it on few modes where they are many (`sgdsim.problem.compression`), the end on as many as keep the loss to 10⁻⁹.

    Raises
    ------
    InputError : both or neither of batch_size and noise, or horizon < 1. Without a horizon: any phase but the
        noise-dominated one (in the signal-dominated one the constant falls all the way to momentum 1, with the limit
        `power_law.budget`), and a residual that training cannot remove: it ends on a floor.
    """
    if (batch_size is None) == (noise is None):
        raise InputError("batch_size, noise: expected exactly one of them")
    if noise is None:
        size = integer("batch_size", batch_size, minimum=1)
        if named(sampling).bounded and size > problem.n:
            raise InputError(f"batch_size: expected an integer from 1 to {problem.n} (training points), got {size}")
        noise = float(problem.noise_factor(size, sampling))
    gamma, tau = number("noise", noise, minimum=0.0, maximum=1.0), number("tau", tau, maximum=1.0)
    if horizon is None and problem.still:
        raise InputError("horizon: expected a number of steps where part of the residual cannot be removed, got None")
    law = power_law.PowerLaw.of(problem) if horizon is None and law is None else law
    thin = compression.sketch(problem)
    value, _ = _objective(thin, gamma, tau, horizon, law)

    plane = _basins.Plane(thin, value, gamma, tau)
    near = _hunted(plane, horizon)
    end = plane.lr_and_momentum(near)
    on = thin if horizon is None else compressed.log_loss(problem, int(horizon), partial(_at, *end, gamma, tau))[1]
    value, exponent = _objective(on, gamma, tau, horizon, law)
    whole = _basins.Plane(on, value, gamma, tau)
    point, log_loss = whole.descend(near, 0.02, 1e-6)
    lr, beta = whole.lr_and_momentum(point)
    limit, plain_limit = (float(top) for top in whole.limits(np.array([beta, 0.0])))
    plain_lr, plain = best_lr(value, 0.0, plain_limit)
    if plain < log_loss:
        lr, beta, limit, log_loss = plain_lr, 0.0, plain_limit, plain
    return Optimum(lr, beta, limit, math.exp(log_loss), plain_lr, math.exp(plain), horizon, exponent)


def _hunted(plane: _basins.Plane, horizon: float | None) -> np.ndarray:
    """The point of the deepest basin that is found: from a grid, and with a horizon from Polyak's points and from finer
    grids around the best."""
    rates = _FRACTIONS * plane.limits(_MOMENTA)[:, None]
    starts = plane.least(_MOMENTA[:, None] + 0 * rates, rates, 1)
    if horizon is not None:
        starts += plane.least(*plane.polyak(), 3)
    found = min((plane.descend(start, 0.3 / (k + 1), 1e-4) for k, start in enumerate(starts)), key=_value_of)
    for _ in range(_HUNTS):
        if horizon is None:
            break
        nearby = plane.least(*plane.around(found[0], horizon), 3)
        better = min((plane.descend(start, 0.3 / horizon, 1e-4) for start in nearby), key=_value_of)
        if better[1] > found[1] - 1e-3:
            break
        found = better
    return found[0]


def _value_of(found: tuple[np.ndarray, float]) -> float:
    return found[1]


def best_lr(value: _basins.Value, beta: float, limit: float) -> tuple[float, float]:
    """The learning rate below `limit` with the least `value(lr, beta)`, and that value."""
    grid = limit * _FRACTIONS
    ends = (grid[0] * 1e-3, limit * (1 - 1e-9))
    return _search.near_grid(lambda lr: value(lr, beta), grid, 1e-9 * limit, on_grid=value(grid, beta), ends=ends)


def _at(
    lr: float, momentum: float, gamma: float, tau: float, problem: QuadraticProblem, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    known = contour.loss_at(problem, steps, lr=lr, momentum=momentum, noise=gamma, tau=tau, compress=False)
    return known.log_loss, known.error


@of_quadratic
def best_momentum(
    problem: QuadraticProblem, lr: float, *, noise: float, horizon: float, tau: float = 1.0
) -> tuple[float, float]:
    """The momentum with the least loss at the horizon at a given learning rate, and that loss ([VKY] fig. 5)."""
    value, _ = _objective(problem, noise, tau, horizon, None)
    grid = np.linspace(-0.98, 0.98, 99)
    with np.errstate(invalid="ignore"):
        on_grid = value(np.full(grid.size, lr), grid)
    momentum, log_loss = _search.near_grid(lambda beta: value(lr, beta), grid, 1e-9, on_grid=on_grid)
    return momentum, math.exp(log_loss)


@dataclass(frozen=True, repr=False)
class JacobiOptimum(Shown):
    """The best Jacobi-polynomial method for full batches: `SGD.jacobi(lr, a, b)`.

    `loss` after `horizon` steps without noise, `constant_loss` the best with constant hyperparameters; `noisy_loss` is
    what the same schedule gives at noise γ (spectral-diagonal, closure τ), infinite beyond floating point.
    """

    lr: float
    a: float
    b: float
    loss: float
    constant_loss: float
    noisy_loss: float
    horizon: int


@of_quadratic
def best_jacobi(problem: QuadraticProblem, *, horizon: int, noise: float = 0.0, tau: float = 1.0) -> JacobiOptimum:
    """The Jacobi method with the least full-batch loss at the horizon (Velikanov & Yarotsky, arXiv:2202.00992).

    The residual after t steps is `P_t^{(a,b)}(1 − αλ)/P_t^{(a,b)}(1)`; for `Σ_{l≥k} c_l ~ λ_k^ζ` the best a is near ζ
    and the loss falls like t^{−2ζ} instead of t^{−ζ}. Batch noise makes these schedules diverge: see `noisy_loss`.

    Raises InputError for a horizon below 1 or noise outside [0, 1].
    """
    problem.check_without_errors("jacobi")
    horizon, noise = integer("horizon", horizon, minimum=1), number("noise", noise, minimum=0.0, maximum=1.0)

    def loss(spectrum: QuadraticProblem, lr: float, a: float, b: float) -> float:
        factor = eval_jacobi(horizon, a, b, 1 - lr * spectrum.eigenvalues) / eval_jacobi(horizon, a, b, 1.0)
        return float((spectrum.coefficients * factor) @ (spectrum.coefficients * factor)) / (2 * problem.normaliser)

    thin = compression.sketch(problem)

    def cost(point: np.ndarray) -> float:
        lr, a, b = 2 * _squash(point[0]), math.exp(point[1]) - 0.99, math.exp(point[2]) - 0.99
        with np.errstate(all="ignore"):
            value = loss(thin, lr, a, b)
        return math.log(value) if 0 < value < math.inf else math.inf

    least = min(
        (
            scipy.optimize.minimize(
                cost,
                [4.0, math.log(a + 0.99), math.log(1.5)],
                method="Nelder-Mead",
                options={"xatol": 1e-3, "fatol": 1e-6, "maxfev": 150},
            )
            for a in (0.3, 1.5, 4.0)
        ),
        key=lambda minimum: minimum.fun,
    )
    lr = 2 * _squash(least.x[0])
    a, b = (math.exp(v) - 0.99 for v in least.x[1:])
    constant = best(problem, noise=0.0, horizon=horizon).loss
    noisy = _noisy_loss(problem, SGD.jacobi(lr, a, b), horizon, noise, tau)
    return JacobiOptimum(lr, a, b, loss(problem, lr, a, b), constant, noisy, horizon)


def _noisy_loss(problem: QuadraticProblem, sgd: SGD, horizon: int, noise: float, tau: float) -> float:
    """The loss of heavy ball with these schedules at noise γ; infinite beyond floating point."""
    values = problem.values(sgd, 0, horizon)
    c, zero = problem.coefficients**2, np.zeros((2, problem.eigenvalues.size))
    s = kernels.diagonal_advance(
        problem.eigenvalues,
        problem.multiplicity,
        c,
        zero[0],
        zero[1],
        c.sum(),
        values.lr,
        values.momentum,
        np.full(horizon, noise),
        tau,
    )
    return float(s / (2 * problem.normaliser)) if np.isfinite(s) else math.inf


def _objective(
    problem: QuadraticProblem, gamma: float, tau: float, horizon: float | None, law: power_law.PowerLaw | None
) -> tuple[_basins.Value, float | None]:
    """log of what is minimised, as a function of (α, β), and the exponent of the law where there is no horizon."""
    if horizon is not None:
        horizon = number("horizon", horizon, minimum=1.0)

        def at_horizon(lr: np.ndarray | float, beta: np.ndarray | float) -> np.ndarray:
            return contour.loss_at(problem, int(horizon), lr=lr, momentum=beta, noise=gamma, tau=tau).log_loss

        return at_horizon, None
    law = power_law.PowerLaw.of(problem) if law is None else law
    phase = power_law.phase(law.nu, law.zeta) if gamma > 0 else power_law.SIGNAL
    if phase != power_law.NOISE:
        reason = "its best momentum tends to 1: see power_law.budget" if phase == power_law.SIGNAL else "it has no law"
        raise InputError(f"horizon: expected a number of steps, as this spectrum is in {phase} and {reason}")

    def constant(lr: np.ndarray | float, beta: np.ndarray | float) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(power_law.constants(problem, law, lr=lr, momentum=beta, noise=gamma, tau=tau)[1])

    return constant, 2 - 1 / law.nu


def _squash(u: float) -> float:
    return 1 / (1 + math.exp(-u))


@of_quadratic
def negative_momentum_helps(problem: QuadraticProblem, nu: float) -> bool:
    """The condition `Σλ_k Σc_k > ((ν−1)/ν) Σλ_k² Σ(c_k/λ_k)` for β* < 0 in the noise-dominated phase.

    The sign of the constant's slope in β at the best learning rate without momentum, to leading order for small αλ, and
    exact at γτ = 1 (`sgdsim.symbolic.derive` derives it; compare [VKY] eq. 91). `best` needs no such limit.
    """
    if problem.still:  # Σ(c_k/λ_k) is infinite, and the loss ends on a floor
        return False
    lam, c = problem.eigenvalues, problem.coefficients**2
    moving = problem.spectrum.moving
    counts = problem.spectrum.counts
    left = np.sum(counts * lam) * np.sum(c)
    return bool(left > (nu - 1) / nu * np.sum(counts * lam**2) * np.sum(c[moving] / lam[moving]))
