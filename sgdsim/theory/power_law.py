"""Power-law spectra: which phase, how fast the loss falls, with which constant, and from when to when ([VKY] sec. 4–5).

`λ_k ~ Λk^{−ν}`, `Σ_{l≥k} c_l ~ Ak^{−κ}`, `ζ = κ/ν`, `α_eff = α/(1−β)`. The constants come from expanding Ũ and Ṽ near
z = 1 (`sgdsim.symbolic.derive`); Ũ(1) and Ṽ(1) are those of the spectrum at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, number
from sgdsim.common.shown import Shown
from sgdsim.problem import Problem, QuadraticProblem, fits, power_modes
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import contour, pair_maps
from sgdsim.theory import _search, generating, linear, stability

SIGNAL, NOISE = "signal-dominated", "noise-dominated"
EVENTUAL, IMMEDIATE = "eventual divergence", "immediate divergence"
PHASES = (SIGNAL, NOISE, EVENTUAL, IMMEDIATE)


@dataclass(frozen=True)
class PowerLaw:
    """`λ_k ≈ Λk^{−ν}` and `Σ_{l≥k} c_l ≈ Ak^{−κ}`, all > 0."""

    nu: float
    kappa: float
    Lambda: float = 1.0
    A: float = 1.0

    def __post_init__(self) -> None:
        for name in ("nu", "kappa", "Lambda", "A"):
            if number(name, getattr(self, name)) <= 0:
                raise InputError(f"{name}: expected a number > 0, got {getattr(self, name)}")

    @property
    def zeta(self) -> float:
        """ζ = κ/ν, the exponent of full-batch decay."""
        return self.kappa / self.nu

    @classmethod
    def of(cls, problem: Problem) -> PowerLaw:
        """The law a synthetic problem was made with, else the one fitted (`sgdsim.fit_power_law`).

        Raises InputError for a spectrum that is too short or has no tail to fit.
        """
        problem = problem.quadratic
        if problem.exponents is not None:
            nu, kappa = problem.exponents
            return cls(nu, kappa, 1.0, 1.0 / (kappa * power_modes.total(problem.n, kappa)))
        fit = fits.fit_power_law(problem)
        if fit.kappa is None or fit.A is None or not (fit.nu.value > 0 and fit.kappa.value > 0):
            exponents = "no tail of c_k" if fit.kappa is None else f"ν = {fit.nu.value:.3g}, κ = {fit.kappa.value:.3g}"
            raise InputError(f"spectrum: expected a power law with ν > 0 and κ > 0; its fit gives {exponents}")
        return cls(fit.nu.value, fit.kappa.value, fit.Lambda.value, fit.A.value)


def phase(nu: float | np.ndarray, zeta: float | np.ndarray) -> str | np.ndarray:
    """The phase of mini-batch SGD on an infinite power-law spectrum ([VKY] fig. 2), one of `PHASES`.

    ν ≤ 1/2 diverges at once, 1/2 < ν ≤ 1 eventually (Σλ_k = ∞ whatever the learning rate); beyond that the initial
    error decides the late loss if `ζ < 2 − 1/ν`, else the sampling noise does.

    >>> phase(1.5, 0.5), phase(1.5, 2.0), phase(0.9, 0.5)
    ('signal-dominated', 'noise-dominated', 'eventual divergence')
    """
    nu, zeta = np.asarray(nu, dtype=np.float64), np.asarray(zeta, dtype=np.float64)
    if not ((nu > 0).all() and (zeta > 0).all()):
        raise InputError("phase: expected nu > 0 and zeta > 0")
    late = np.where(zeta < 2 - 1 / nu, SIGNAL, NOISE)
    phases = np.where(nu <= 0.5, IMMEDIATE, np.where(nu <= 1, EVENTUAL, late))
    return str(phases) if phases.ndim == 0 else phases


def possible_phases(fit: fits.PowerLawFit) -> tuple[str, ...]:
    """The phases over the intervals of a fit's ν and ζ, those of ζ > 0 alone; empty without coefficients, or where ζ
    is surely not above 0."""
    if fit.zeta is None or fit.zeta.high <= 0:
        return ()
    nu = np.linspace(max(fit.nu.low, 1e-9), max(fit.nu.high, 1e-9), 41)
    zeta = np.clip([fit.zeta.low, fit.zeta.high], 1e-9, 1e9)[:, None]
    found = set(np.ravel(phase(nu, zeta)).tolist())
    return tuple(name for name in PHASES if name in found)


def exponent(nu: float | np.ndarray, zeta: float | np.ndarray) -> np.ndarray | float:
    """ξ of `L ∝ t^{−ξ}` at constant learning rate: `min(ζ, 2 − 1/ν)`; NaN in the divergent phases."""
    nu, zeta = np.asarray(nu, dtype=np.float64), np.asarray(zeta, dtype=np.float64)
    return np.where(nu > 1, np.minimum(zeta, 2 - 1 / nu), np.nan)[()]


@dataclass(frozen=True, repr=False)
class Prediction(Shown):
    """What theory says about one run: `L_t ≈ constant · t^{−exponent}` for t in `window`.

    Parameters
    ----------
    phase : one of `PHASES` (without noise always signal-dominated), of the infinite spectrum.
    stable : whether the loss of this finite spectrum converges (spectral-diagonal level).
    exponent, constant : of the law in `phase`, of the loss `L = s/(2N)`; None where nothing converges.
    signal, noise : (exponent, constant) of either contribution; None where it has no law of its own.
    crossover : t at which the two contributions are equal; None where one is larger from the first step to the cutoff.
    cutoff : t beyond which the finite spectrum falls exponentially, `1/|σ₁|`; infinite if a mode never moves.
    rate : σ₁ of `L ~ e^{σ₁t}`, t → ∞ (positive: growth).
    window : (first, last) t at which the law is within `within` of the exact curve, half a decade at least, or None.
    within : relative deviation allowed in the window.
    steps, loss : the exact curve, (T,) each; `law` beside it.
    floor : what noisy labels leave in the end, a part of `law`; None where labels are exact or nothing converges.
    """

    phase: str
    stable: bool
    exponent: float | None
    constant: float | None
    signal: tuple[float, float] | None
    noise: tuple[float, float] | None
    crossover: float | None
    cutoff: float | None
    rate: float
    window: tuple[float, float] | None
    within: float
    steps: np.ndarray
    loss: np.ndarray
    floor: float | None = None

    @property
    def law(self) -> np.ndarray:
        """`floor + constant · t^{−exponent}` at `steps`, (T,); NaN where there is no law."""
        if self.exponent is None or self.constant is None:
            return np.full(self.steps.shape, np.nan)
        return self.constant * self.steps**-self.exponent + (self.floor or 0.0)


@of_quadratic
def constants(
    problem: QuadraticProblem,
    law: PowerLaw,
    *,
    lr: np.ndarray | float,
    momentum: np.ndarray | float = 0.0,
    noise: np.ndarray | float,
    tau: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The constants of both contributions to `L_t = s_t/(2N)`, broadcast over α, β, γ, τ:

    signal `A Γ(ζ+1)(2α_effΛ)^{−ζ}/(1−Ũ(1))` of t^{−ζ};
    noise `Ṽ(1)γα_eff²Λ^{1/ν}ν^{−1}Γ(2−1/ν)(2α_eff)^{1/ν−2}/(1−Ũ(1))²` of t^{1/ν−2}.
    Only meaningful below the stability threshold, Ũ(1) < 1, and the second for ν > 1/2.
    """
    problem.check_without_errors("law")
    return _constants(problem, law, lr, momentum, noise, tau)


def _constants(
    problem: QuadraticProblem,
    law: PowerLaw,
    lr: np.ndarray | float,
    momentum: np.ndarray | float,
    noise: np.ndarray | float,
    tau: np.ndarray | float,
) -> tuple[np.ndarray, np.ndarray]:
    lam, moving = problem.eigenvalues, problem.spectrum.moving
    c = np.where(moving, problem.coefficients**2, 0.0)
    u = generating.noise_propagator_at_one(lam, lr, momentum, noise, tau, problem.multiplicity)
    v = generating.signal_at_one(lam, c, lr, momentum, noise, tau)
    v = np.where(np.asarray(noise) > 0, np.inf, v) if problem.still else v  # never-ending noise, if there is any
    a, zeta, rest = np.asarray(lr) / (1 - np.asarray(momentum)), law.zeta, 2 - 1 / law.nu
    signal = law.A * _factorial(zeta) * (2 * a * law.Lambda) ** -zeta / (1 - u)
    noisy = v * noise * a**2 * law.Lambda ** (1 / law.nu) / law.nu * _gamma(rest) * (2 * a) ** -rest / (1 - u) ** 2
    return signal / (2 * problem.normaliser), noisy / (2 * problem.normaliser)


def _factorial(zeta: float) -> float:
    """Γ(ζ + 1); InputError where that is no float."""
    if not zeta < 170:
        raise InputError(f"law: expected an exponent ζ = κ/ν below 170, whose factorial is a float; got {zeta:.3g}")
    return math.gamma(zeta + 1)


def _gamma(rest: float) -> float:
    """Γ(2 − 1/ν); NaN for ν ≤ 1/2, where no such term is."""
    return math.gamma(rest) if rest > 0 else math.nan


@of_quadratic
def method_constants(problem: QuadraticProblem, law: PowerLaw, sgd: SGD, *, tau: float = 1.0) -> tuple[float, float]:
    """The constants of `t^{−ζ}` and `t^{1/ν−2}` in the loss, as `constants`, for any stationary method.

    At late times only slow modes are left, and all that a method does to them is its effective learning rate
    (Yarotsky & Velikanov, arXiv:2410.04228, thm. 3); Ũ(1) and Ṽ(1) are those of `sgdsim.theory.linear`.
    """
    problem.check_without_errors("law")
    return _method_constants(problem, law, sgd, tau)


def _method_constants(problem: QuadraticProblem, law: PowerLaw, sgd: SGD, tau: float) -> tuple[float, float]:
    sums, a, rest = linear.at_one(problem, sgd, tau), linear.effective_lr(sgd), 2 - 1 / law.nu
    gamma = problem.noise(sgd)
    signal = law.A * _factorial(law.zeta) * (2 * a * law.Lambda) ** -law.zeta / (1 - sums.noise)
    total = sums.signal if gamma else 0.0
    noisy = total * gamma * a**2 * law.Lambda ** (1 / law.nu) / law.nu * _gamma(rest)
    noisy *= (2 * a) ** -rest / (1 - sums.noise) ** 2
    return signal / (2 * problem.normaliser), noisy / (2 * problem.normaliser)


@of_quadratic
def predict(
    problem: QuadraticProblem,
    sgd: SGD,
    law: PowerLaw | None = None,
    *,
    tau: float = 1.0,
    horizon: float = 1e12,
    within: float = 0.1,
) -> Prediction:
    """Phase, exponent, constant and time window of the decay, with the exact curve beside it.

    Parameters
    ----------
    law : the power law of the spectrum; None: `PowerLaw.of(problem)`.
    horizon : last step of the exact curve (it stops sooner, after the exponential cut-off).
    within : relative deviation from the exact curve that the window allows.

    For any stationary linear method, with an average or not: late laws know no more of it than its effective learning
    rate. Where labels are noisy, `floor` is where the loss ends, and the law is of what it has above that while the
    signal decides: `window` says where that is.

    Raises
    ------
    InputError : schedules, methods or averages that change in time, reshuffled epochs, a spectrum without a power law.
    """
    law = PowerLaw.of(problem) if law is None else law
    pair_maps.step(sgd)
    quiet = replace(sgd, label_noise=0.0, average=None)
    plain = quiet.is_plain  # and then there are closed forms
    gamma = problem.noise(sgd)
    lr, beta, _ = stability.constants(problem, quiet)
    stable = lr < stability.max_lr(problem, sgd, tau=tau) if plain else linear.at_one(problem, quiet, tau).stable
    rate = contour.rate_of(problem, sgd, tau=tau)
    name = str(phase(law.nu, law.zeta)) if gamma > 0 else SIGNAL
    noisy = problem.with_errors(sgd).label_noise > 0
    floor = linear.floor(problem, sgd, tau).loss if stable and noisy else None
    end = min(number("horizon", horizon, minimum=10), max(40 / abs(rate), 100.0) if rate else horizon)
    steps = np.unique(np.geomspace(1, end, 241).round())
    loss = contour.loss_curve(problem, sgd, steps, tau=tau).loss
    signal = noise = crossover = best = None
    # Where the infinite spectrum diverges a finite one may be stable; there is no law then, only the exact curve.
    if stable and name in (SIGNAL, NOISE):
        if plain:
            first, second = map(float, _constants(problem, law, lr, beta, gamma, tau))
        else:
            first, second = _method_constants(problem, law, quiet, tau)
        signal = (law.zeta, first)
        # Below ζ = 1 the sum Ṽ(1) belongs to the cut-off: noise only repeats the signal's law.
        if gamma > 0 and law.zeta > 1 and not problem.still:  # else the noise has a floor, not a law
            noise = (2 - 1 / law.nu, second)
            crossover = _crossing(signal, noise, 1 / abs(rate) if rate else math.inf)
        best = {SIGNAL: signal, NOISE: noise}.get(name)
    window = None
    if best is not None:
        with np.errstate(divide="ignore", over="ignore"):
            close = np.abs((best[1] * steps ** -best[0] + (floor or 0.0)) / loss - 1) <= within
        window = _longest(steps, close)
    exponent, constant = best or (None, None)
    cutoff = 1 / abs(rate) if stable and rate else None if not stable else math.inf
    return Prediction(
        name,
        bool(stable),
        exponent,
        constant,
        signal,
        noise,
        crossover,
        cutoff,
        rate,
        window,
        within,
        steps,
        loss,
        floor,
    )


def _crossing(signal: tuple[float, float], noise: tuple[float, float], last: float) -> float | None:
    """Where two power laws meet, if that is between 1 and `last`."""
    if signal[0] == noise[0]:
        return None
    log_t = math.log(signal[1] / noise[1]) / (signal[0] - noise[0])
    return math.exp(log_t) if 0 < log_t < math.log(last) else None


def _longest(steps: np.ndarray, good: np.ndarray) -> tuple[float, float] | None:
    """The longest run (in log t) of steps that are good, at least half a decade: a crossing is not a law."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
    runs = [(steps[low], steps[high - 1]) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    runs = [(float(low), float(high)) for low, high in runs if high > math.sqrt(10) * low]
    return max(runs, key=lambda run: run[1] / run[0], default=None)


@of_quadratic
def budget(problem: QuadraticProblem, law: PowerLaw, noise: float, *, tau: float = 1.0) -> tuple[float, float, float]:
    """Budget independence in the signal-dominated phase: the best α_eff, and its law in `t/γ`.

    With momentum near 1 (or a small α) `Ũ(1) = Σ yλ_k/(2 + τyλ_k)` depends on `y = γα_eff` alone. Minimising
    `y^{−ζ}/(1 − Ũ(1))` over y gives one y for all batch sizes: α_eff is proportional to b while γ ≈ 1/b, and
    `L = constant · (t/γ)^{−ζ}`: t and b enter through the budget t·b only.

    Returns (α_eff, constant, ζ). Raises InputError outside the signal-dominated phase or for γ = 0.
    """
    if phase(law.nu, law.zeta) != SIGNAL or not noise > 0:
        raise InputError("budget: expected the signal-dominated phase and noise > 0")
    lam, zeta = problem.eigenvalues, law.zeta
    counts = problem.spectrum.counts
    crossing = stability.critical_eigenvalue(problem, tau)

    def cost(log_y: float) -> float:
        x = math.exp(log_y) * lam
        return -zeta * log_y - math.log1p(-float(np.sum(counts * x / (2 + tau * x))))

    top = math.log(2 / crossing) if crossing > 0 else math.log(1e6)  # Ũ(1) = 1 at y = 2/λ_crit
    log_y, log_cost = _search.between(cost, top - 20, top - 1e-9, 1e-10)
    scaled = math.exp(log_y)
    constant = law.A * _factorial(zeta) * (2 * law.Lambda) ** -zeta * math.exp(log_cost) / (2 * problem.normaliser)
    return scaled / noise, constant, zeta
