"""Is a run stable, and up to which learning rate? Three levels: full batch, spectral-diagonal, exact at finite N."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.optimize

from sgdsim.algorithm.methods import HeavyBall
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, choice, number
from sgdsim.common.specs import brief
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import contour_kernels, share, turning
from sgdsim.theory import linear, thresholds
from sgdsim.theory.generating import noise_propagator_at_one
from sgdsim.theory.renewal import Renewal
from sgdsim.theory.renewal_outputs import OverOutputs

LEVELS = ("full-batch", "spectral-diagonal", "exact")
# Numbers of points N up to which the exact level is worked out: where it is asked for (beyond, N × N eigenvectors and
# their products take gigabytes and many minutes); beside each row of a table; and beside one answer, where it takes
# seconds, for heavy ball and for other methods.
EXACT_UP_TO, EXACT_IN_TABLES, EXACT_BESIDE, EXACT_BESIDE_OF_METHODS = 4000, 2000, 1000, 500
_BISECTIONS = 15  # cost of a threshold per mode, in terms of the contour


@of_quadratic
def constants(problem: QuadraticProblem, sgd: SGD) -> tuple[float, float, float]:
    if not sgd.is_constant or not sgd.sampler.independent:
        raise InputError(
            "stability: expected hyperparameters and a method that do not change in time, and independent batches; got "
            f"{brief(str(sgd.spec()), 300)}"
        )
    values = problem.values(sgd, 0, 1)
    return float(values.lr[0]), float(values.momentum[0]), problem.noise(sgd)


def _is_closed(sgd: SGD) -> bool:
    """Whether it has closed forms: heavy ball without weight decay."""
    return isinstance(sgd.method, HeavyBall) and not sgd.weight_decay


@of_quadratic
def full_batch_is_stable(problem: QuadraticProblem, sgd: SGD) -> bool:
    """`α < 2(1+β)/λ_max`: the mean converges (Polyak 1964). Necessary for every kind of stability below.

    With weight decay ω it is `α < 2(1+β)/(λ_max + ω)`, ω in units of the curvature.
    """
    lr, momentum, _ = constants(problem, sgd)
    if not _is_closed(sgd):
        return linear.mean_is_stable(problem, sgd)
    return lr < 2 * (1 + momentum)


@of_quadratic
def diagonal_is_stable(problem: QuadraticProblem, sgd: SGD, tau: float = 1.0) -> bool:
    """Whether the loss of the spectral-diagonal regime converges: `Ũ(1) < 1` ([VKY] thm. 1), with `S > 0` on (0, 1).

    `S > 0` holds for `x < 2(1+β)` if `0 ≤ γτ ≤ 1`, and iff `x((1−g) − β(1+g)) < 2(1−β²)` if `g = γτ < 0`. For τ ≤ 1 no
    mode's noise `γ(s − τc_k)` is negative, and what decides is a real z in (0, 1); for τ > 1 a negative or complex one
    may come before it.

    Raises
    ------
    InputError : τ > 1, unless the mean diverges, Ũ(1) ≥ 1 or γ = 0; likewise where modes of multiplicity below τ would
        oscillate and grow by themselves; schedules or reshuffled epochs.
    """
    lr, momentum, noise = constants(problem, sgd)
    if not _is_closed(sgd):
        return linear.at_one(problem, sgd, tau).stable
    g = noise * tau
    if not full_batch_is_stable(problem, sgd) or lr * ((1 - g) - momentum * (1 + g)) >= 2 * (1 - momentum**2):
        return False
    total = noise_propagator_at_one(problem.eigenvalues, lr, momentum, noise, tau, problem.multiplicity)
    if noise > 0 and total < 1:
        number("tau", tau, maximum=1.0)
        _refuse_negative_noise(problem, lr, momentum, g, tau)
    return bool(total < 1)


def _refuse_negative_noise(problem: QuadraticProblem, lr: float, momentum: float, g: float, tau: float) -> None:
    """InputError where a mode that stands for less than τ eigenvalues, whose noise may be negative, would grow."""
    light = problem.eigenvalues[problem.spectrum.counts < tau]
    if turning.sizes(light, *np.array([[lr], [momentum], [g]])).max() >= 1:
        raise InputError(
            f"stability: expected a learning rate at which modes of multiplicity below tau = {tau:g} stay damped by "
            f"themselves, got {lr:g}; beyond, no criterion is known"
        )


@of_quadratic
def max_lr(
    problem: QuadraticProblem,
    sgd: SGD,
    level: str = "spectral-diagonal",
    *,
    tau: float = 1.0,
    tolerance: float = 1e-7,
    heard: Callable[[], object] = lambda: None,
) -> float:
    """The learning rate (in units of 1/λ_max) below which the loss converges; `sgd.lr` itself is not looked at.

    Parameters
    ----------
    level : "full-batch", `2(1+β)`: what the mean obeys. "spectral-diagonal", `Ũ(1) = 1` ([VKY] thm. 1) with closure τ.
        "exact": mean-square stability of the batch-averaged regime at this N and in this eigenbasis (`averaged_radius`
        equal to 1); needs eigenvectors and products of N × N matrices.
    tau : closure of the spectral-diagonal level. For τ > 1 the criterion is necessary only.
    tolerance : relative, from 1e-14 to 0.1: of the exact level, and of all levels that have no closed form.
    heard : called after each learning rate that the exact level tries.

    Raises
    ------
    InputError : schedules or reshuffled epochs, an unknown level, no eigenvectors for the exact level.

    For methods other than heavy ball, and with weight decay, it is where the criterion first fails, going up from small
    rates. Averages and noisy labels change no threshold; with one pass over Gaussian samples the exact level is τ = −1.

    >>> problem = ss.QuadraticProblem.power_law(n=10_000, nu=1.5, kappa=1.0)
    >>> f"{max_lr(problem, ss.SGD(lr=1.0, momentum=0.9, batch_size=1)):.4f}"
    '0.0903'
    """
    choice("level", level, LEVELS)
    number("tolerance", tolerance, minimum=1e-14, maximum=0.1)
    _, momentum, noise = constants(problem, sgd)
    if level == "exact" and sgd.is_one_pass:
        level, tau = "spectral-diagonal", -1.0  # exact for Gaussian features
    if level == "exact":
        return _exact_max_lr(problem, sgd, tolerance, heard)
    if thresholds.is_decayed_heavy_ball(sgd):
        return thresholds.decayed_max_lr(problem, sgd, None if level == "full-batch" else tau)
    if not _is_closed(sgd):
        if level == "full-batch":
            return thresholds.mean_max_lr(problem, sgd, tolerance)
        return thresholds.noise_max_lr(problem, sgd, tau, tolerance)
    if level == "full-batch":
        return 2 * (1 + momentum)
    return float(diagonal_max_lr(problem, momentum=momentum, noise=noise, tau=number("tau", tau)))


@of_quadratic
def diagonal_max_lr(
    problem: QuadraticProblem,
    *,
    momentum: np.ndarray | float,
    noise: np.ndarray | float,
    tau: np.ndarray | float = 1.0,
) -> np.ndarray:
    """`max_lr` of the spectral-diagonal level for all cells of the broadcast β, γ and τ; in their shape.

    Ũ(1) grows with α and every denominator falls, so there is one threshold; it is `2(1+β)` at most. For τ > 1 it is
    an upper bound: runs below it may diverge too.
    """
    beta, gamma, tau = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (momentum, noise, tau)))
    if not (np.abs(beta) < 1).all() or not ((gamma >= 0) & (gamma <= 1)).all():
        raise InputError("stability: expected |momentum| < 1 and noise from 0 to 1")
    spectrum = compression.short(problem).spectrum
    lam, counts = (x[spectrum.moving] for x in (spectrum.eigenvalues, spectrum.counts))
    cells = (np.array(v).ravel() for v in (beta, gamma, gamma * tau))
    out = np.empty(beta.size)
    share.run(share.pieces(contour_kernels.critical, (lam, counts, *cells, out), out.size, _BISECTIONS * lam.size))
    return out.reshape(beta.shape)[()]


def half_of(max_lr: float, share: float = 0.5) -> float:
    """The learning rate that is tried where none is given: half of the largest stable one (or another share of it), to
    three digits."""
    return float(f"{share * max_lr:.3g}")


@of_quadratic
def critical_eigenvalue(problem: QuadraticProblem, tau: float = 1.0) -> float:
    """λ_crit, the root of `Σ_k λ_k/(λ_crit + τλ_k) = 1` ([VKY] sec. 4): as β → 1 stable iff `α_eff < 2/(γλ_crit)`.

    0 where noise alone cannot destabilise (Σ_k 1/τ ≤ 1, as for a single mode with τ = 1).
    """
    moving = problem.spectrum.moving
    lam = problem.eigenvalues[moving]
    counts = problem.spectrum.counts[moving]
    tau = number("tau", tau)
    if abs(tau) < 1e-15:
        return float(np.sum(counts * lam))

    def excess(value: float) -> float:
        return float(np.sum(counts * lam / (value + tau * lam))) - 1

    if tau > 0 and np.sum(counts) / tau <= 1:
        return 0.0
    low = max(-tau, 0.0) * (1 + 1e-15) + 1e-300  # the pole of the first mode for τ < 0, which bounds it by itself too
    high = (float(np.sum(counts * lam)) + abs(tau)) * (1 + 1e-9)
    if excess(low) <= 0:  # the first mode only holds an error
        return -tau
    return float(scipy.optimize.brentq(excess, low, high, xtol=1e-300, rtol=1e-14))


@of_quadratic
def averaged_radius(problem: QuadraticProblem, sgd: SGD, *, tolerance: float = 1e-8) -> float:
    """Spectral radius ρ(M) of the renewal operator of the exact averaged regime; mean-square stable iff ρ < 1.

    Module `sgdsim.theory.renewal` has the operator and its properties.

    Returns infinity if the mean diverges already. Raises InputError for schedules or reshuffled epochs.
    """
    _, _, noise = constants(problem, sgd)
    _refuse_one_pass(sgd)
    if not full_batch_is_stable(problem, sgd):
        return math.inf
    if noise == 0:
        return 0.0
    if problem.spectrum.outputs > 1:
        return OverOutputs(problem).radius(sgd, tolerance)
    work = Renewal(problem)
    return work.radius(work.pairs(sgd), tolerance)


def _exact_max_lr(problem: QuadraticProblem, sgd: SGD, tolerance: float, heard: Callable[[], object]) -> float:
    if not _is_closed(sgd):
        if thresholds.is_decayed_heavy_ball(sgd):
            near = thresholds.decayed_max_lr(problem, sgd)
        else:
            near = thresholds.noise_max_lr(problem, sgd, tolerance=1e-2)
        start = 0.1 * near if math.isfinite(near) else 1e-3
        stable = _in_turn(problem, heard)
        return thresholds.critical_lr(sgd, lambda other: thresholds.unless(stable(other)), tolerance, start=start)
    _, momentum, noise = constants(problem, sgd)
    full = 2 * (1 + momentum)
    if noise == 0:
        return full
    top = full * (1 - 1e-12)
    start = min(float(diagonal_max_lr(problem, momentum=momentum, noise=noise)), 0.9 * top)
    work = Renewal(problem) if problem.spectrum.outputs == 1 else OverOutputs(problem)
    lr = work.max_lr(sgd, start, top, tolerance, heard)
    return lr if lr < top else full


def _in_turn(problem: QuadraticProblem, heard: Callable[[], object] = lambda: None) -> Callable[[SGD], bool]:
    """`averaged_is_stable` of one algorithm after the other, for which the operator is made once."""
    several = problem.spectrum.outputs > 1
    work = OverOutputs(problem) if several else Renewal(problem)

    def stable(sgd: SGD) -> bool:
        heard()
        if not full_batch_is_stable(problem, sgd):
            return False
        return problem.noise(sgd) == 0 or work.below_one(sgd) is True

    return stable


@of_quadratic
def averaged_is_stable(problem: QuadraticProblem, sgd: SGD) -> bool:
    """Whether `E L_t` over batches stays bounded and decays, exactly at finite N: `averaged_radius < 1`, proved.

    `sgdsim.theory.verdicts.verdict` says also why, and knows more cases. Raises InputError as `averaged_radius`.
    """
    _refuse_one_pass(sgd)
    constants(problem, sgd)
    return _in_turn(problem)(sgd)


def _refuse_one_pass(sgd: SGD) -> None:
    if sgd.is_one_pass:
        raise InputError("stability: expected batches of fixed points, got one-pass; use diagonal_is_stable, tau -1")
