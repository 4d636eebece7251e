"""Power laws of a spectrum and of the target in it: `λ_k ≈ Λ k^{−ν}` and `Σ_{l≥k} c_l ≈ A k^{−κ}`, with intervals.

Both laws are straight lines in log k, seen through noise of two kinds: from mode to mode, which averages out (the c_k
of data scatter like χ²₁ variates around a smooth law, because the a_k are roughly Gaussian), and smooth in log k, which
does not (neighbouring λ_k are off together; no real spectrum is an exact power law). Least squares knows only the first
kind, and its intervals are several times too narrow. Here the line is fitted by generalised least squares to means
over bins of equal width in log k, with covariance `s²(D + τR)`: D is the bins' share of the mode-to-mode noise, R a
stationary covariance in log k (Matérn, order 1/2 or 3/2, several correlation lengths). Line and s² are integrated out
exactly (flat in the line and in log s; for c, s² is tied to the scatter within bins), τ and R by a sum over a grid,
weighted by marginal likelihood: data on a straight line get the narrow interval, curved data a wide one. A law that
ends, by a cut-off such as `k^{−ν}e^{−k/K}` or a floor, is a competing model for λ, with one deviation of that shape
besides: where that is likelier, a warning says so, and the interval of ν holds the exponent before the end too. (C. E.
Rasmussen and C. K. I. Williams, *Gaussian Processes for Machine Learning*, MIT Press 2006, sec. 2.7 and 5.4.) The
intervals are credible intervals; that they also cover the truth as often as they say is a test.

κ is fitted to bin sums of c_k against exact sums of `k^{−κ−1}` over the same bins, never to tail sums: these share all
their noise, and at finite N they are no power law but drop to 0 at k = N. A is that of the infinite sum, C/κ for
`c_k ≈ C k^{−κ−1}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sgdsim.common.checks import InputError, array, integer, number
from sgdsim.common.jsonable import jsonable
from sgdsim.common.rooms import listing
from sgdsim.common.shown import Shown
from sgdsim.problem._fit_bins import FLOOR, Bend, Bins, MakeBins, bend, c_bins, lambda_bins, posterior, trimmed
from sgdsim.problem.spectrum import Spectrum

__dir__ = listing(__name__)

if TYPE_CHECKING:
    from sgdsim.problem import Problem

FEWEST_MODES = 30  # in the spectrum
FEWEST_IN_WINDOW = 12
BENT = 0.5  # probability from which on a cut-off or a floor is taken for one


@dataclass(frozen=True, repr=False)
class Estimate:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} … {self.high:.4g})"


@dataclass(frozen=True)
class Goodness:
    """How well a straight line in log k describes log λ_k, or the log of the bin means of c_k.

    Parameters
    ----------
    rms : root mean square of the bins' log-residuals from the line; bins weigh by their estimated precision.
    r_squared : share of the bins' variance that the line explains, same weights.
    rms_quadratic : as `rms`, from the best parabola in log k.
    exponent_start, exponent_end : local exponents of that parabola at the two ends of the window.
    """

    rms: float
    r_squared: float
    rms_quadratic: float
    exponent_start: float
    exponent_end: float

    @property
    def curved(self) -> bool:
        """Whether the parabola halves the rms and its exponent changes by over a fifth (0.1 at least) on the window."""
        size = max(0.2 * abs(self.exponent_start + self.exponent_end) / 2, 0.1)
        return self.rms > 2 * self.rms_quadratic and abs(self.exponent_end - self.exponent_start) > size


@dataclass(frozen=True, repr=False)
class PowerLawFit(Shown):
    """Both laws as `fit_power_law` gives them; without coefficients, `kappa`, `A`, `zeta` and all about tails are None.

    Parameters
    ----------
    nu, Lambda : of `λ_k ≈ Λ k^{−ν}`.
    kappa, A, zeta : of `Σ_{l≥k} c_l ≈ A k^{−κ}`, and ζ = κ/ν. Ends of A's interval may be infinite: κ near 0.
    window, tail_window : (k_min, k_max) for λ and for c, both ends included, k from 1.
    goodness, tail_goodness : of the line through log λ, and through log c.
    confidence, seed : as given.
    warnings : words that say where a power law is a poor description.
    """

    nu: Estimate
    Lambda: Estimate
    kappa: Estimate | None
    A: Estimate | None
    zeta: Estimate | None
    window: tuple[int, int]
    tail_window: tuple[int, int] | None
    goodness: Goodness
    tail_goodness: Goodness | None
    confidence: float
    seed: int
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, object]:
        """Exponents first, then where they were fitted, and the doubts."""
        found = {name: getattr(self, name) for name in ("nu", "kappa", "zeta", "Lambda", "A", "window", "tail_window")}
        return {k: v for k, v in found.items() if v is not None} | {"warnings": self.warnings}

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON-able values; what is infinite or undefined becomes None."""
        return {name: jsonable(value) for name, value in vars(self).items()}


def fit_power_law(
    problem: Problem | Spectrum,
    coefficients: np.ndarray | None = None,
    *,
    window: tuple[int, int] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> PowerLawFit:
    """Exponents and constants of `λ_k ≈ Λ k^{−ν}` and `Σ_{l≥k} c_l ≈ A k^{−κ}`, `c_k = a_k²`, with intervals.

    The method is described at the head of `sgdsim.problem.fits`. The window, where none is given, follows from two
    steps: (1) k from `max(3, M^{1/4})`, rounded up, to `M/2`, M the number of eigenvalues above rounding: the first
    few modes are often outliers, and at finite N the last ones bend down. (2) While the window spans a decade: fit a
    line to its middle, all but the first and last eighth of it in log k (or quarter); where such an end is off the
    line on average by 25% and by 5 (10) times the rms of the middle (for c relative to the scatter to be expected),
    cut the worst. Smaller deviations stay in and widen the interval: cutting them would be a choice of what fits. λ
    and c get windows of their own.

    The κ of a straight line laid by eye through tail sums at finite N is larger: for `c_k ∝ k^{−1.05}` cut off at
    N = 2000, the tail sums from k = 10 to 400 look like k^{−0.34}.

    Parameters
    ----------
    problem : a problem (its coefficients are used unless others are given) or a spectrum, of N ≥ 30 modes.
    coefficients : (N,) signed `a_k = ⟨u_k, r_0⟩`; with a spectrum and None, only ν and Λ are fitted.
    window : (k_min, k_max), both included, k from 1, for both laws.
    confidence : of each interval by itself, in (0, 1).
    seed : of the draws that the intervals are quantiles of.

    Returns
    -------
    PowerLawFit : also where the data are no power law; its `warnings` say so.

    Raises
    ------
    InputError : fewer than 30 non-zero eigenvalues, a window outside them or with fewer than 12 modes, sizes that
        differ, coefficients that vanish throughout or on a stretch of the window, confidence outside (0, 1).
    """
    confidence = number("confidence", confidence, minimum=0, maximum=1, open_ends=True)
    seed = integer("seed", seed)
    spectrum, coefficients = _inputs(problem, coefficients)
    usable = int((spectrum.eigenvalues > spectrum.n_modes * np.finfo(float).eps).sum())
    if usable < FEWEST_MODES:
        raise InputError(f"spectrum: expected at least {FEWEST_MODES} eigenvalues above rounding, got {usable}")
    start = (max(3, math.ceil(usable**0.25 - 1e-9)), usable // 2)
    if window is not None:
        start = _checked_window(window, usable)
    rng = np.random.default_rng(seed)
    line = _fitted(lambda_bins, spectrum.eigenvalues, start, window is None, rng)
    with np.errstate(over="ignore"):  # infinite ends are meant
        nu = _estimate(line.exponent, line.exponents, confidence)
        scale = _estimate(np.exp(line.level), np.exp(line.levels), confidence)
    warnings = _warnings("eigenvalues", line, start, nu)
    if nu.low <= 0:
        warnings.append("The interval of ν reaches 0: the eigenvalues hardly fall, and ζ is undetermined.")
    fit = PowerLawFit(
        nu, scale, None, None, None, line.window, None, line.goodness, None, confidence, seed, tuple(warnings)
    )
    if coefficients is None:
        return fit
    return _with_tail(fit, line, _fitted(c_bins, coefficients**2, start, window is None, rng), start)


@dataclass(frozen=True)
class _Line:
    """A line on its window: its value at k = 1 and its exponent, each as mean and as draws (DRAWS,)."""

    window: tuple[int, int]
    level: float
    exponent: float
    levels: np.ndarray
    exponents: np.ndarray
    goodness: Goodness
    bend: Bend | None  # where it is likelier than none


def _fitted(make: MakeBins, values: np.ndarray, window: tuple[int, int], trim: bool, rng: np.random.Generator) -> _Line:
    window = trimmed(make, values, window) if trim else window
    bins = make(values, window)
    line = posterior(bins, rng)
    draws, end = line.draws, bend(bins, line, rng.spawn(1)[0]) if make is lambda_bins else None
    if end is not None and end.probability > BENT:
        draws = np.where(np.arange(len(draws))[:, None] % 2 == 0, draws, end.draws)
    else:
        end = None
    goodness = _goodness(bins, line.variances)
    return _Line(window, line.mean[0], line.mean[1], draws[:, 0], draws[:, 1], goodness, end)


def _estimate(value: float, draws: np.ndarray, confidence: float) -> Estimate:
    low, high = np.quantile(draws, ((1 - confidence) / 2, (1 + confidence) / 2), method="nearest")
    return Estimate(float(value), float(low), float(high))


def _with_tail(fit: PowerLawFit, line: _Line, tail: _Line, start: tuple[int, int]) -> PowerLawFit:
    """The fit of λ and, from the line `c_k ≈ C k^{−κ−1}`, what there is to say of c."""
    kappa, kappas, nu, nus = tail.exponent - 1, tail.exponents - 1, line.exponent, line.exponents
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # infinite ends are meant
        constants = np.where(kappas > 0, np.exp(tail.levels) / np.maximum(kappas, 0), np.inf)
        zetas = np.where(nus > 0, kappas / nus, np.copysign(np.inf, kappas))
        constant = np.exp(tail.level) / kappa if kappa > 0 else math.inf
    estimate = _estimate(kappa, kappas, fit.confidence)
    warnings = _warnings("coefficients", tail, start, estimate)
    if estimate.low <= 0:
        warnings.append("The interval of κ reaches 0, where tail sums do not converge as N grows and A is infinite.")
    return replace(
        fit,
        kappa=estimate,
        A=_estimate(constant, constants, fit.confidence),
        zeta=_estimate(kappa / nu if nu > 0 else math.nan, zetas, fit.confidence),
        tail_window=tail.window,
        tail_goodness=tail.goodness,
        warnings=(*fit.warnings, *warnings),
    )


def _goodness(bins: Bins, variances: np.ndarray) -> Goodness:
    weight = variances**-0.5
    share = weight**2 / (weight**2).sum()

    def rms(degree: int) -> tuple[float, np.ndarray]:
        poly = np.polynomial.Polynomial.fit(bins.x, bins.y, degree, w=weight)
        slopes = -poly.deriv()(bins.x[[0, -1]])
        return math.sqrt(share @ (bins.y - poly(bins.x)) ** 2), slopes

    (level, _), (line, _), (parabola, slopes) = rms(0), rms(1), rms(2)
    r_squared = 1 - (line / level) ** 2 if level > 0 else 0.0
    # Where the line is exact to rounding, the parabola is no better in any sense that matters.
    return Goodness(line, r_squared, max(parabola, min(line, FLOOR)), float(slopes[0]), float(slopes[1]))


def _inputs(problem: Problem | Spectrum, coefficients: np.ndarray | None) -> tuple[Spectrum, np.ndarray | None]:
    quadratic = getattr(problem, "quadratic", None)
    if quadratic is not None:
        spectrum = quadratic.spectrum
        coefficients = quadratic.coefficients if coefficients is None else coefficients
    elif isinstance(problem, Spectrum):
        spectrum = problem
    else:
        raise InputError(f"problem: expected a problem or a Spectrum, got {type(problem).__name__}")
    if spectrum.multiplicity is not None:
        raise InputError("spectrum: expected every eigenvalue by itself, got modes with a multiplicity")
    if coefficients is not None:
        coefficients = array("coefficients", coefficients, ndim=1, shape=(spectrum.n_modes,))
        if not coefficients.any():
            raise InputError("coefficients: expected some that are not zero, got all zeros")
    return spectrum, coefficients


def _checked_window(window: tuple[int, int], usable: int) -> tuple[int, int]:
    try:
        first, last = window
    except (TypeError, ValueError) as error:
        raise InputError(f"window: expected two mode numbers (k_min, k_max), got {window!r}") from error
    first = integer("window: k_min", first, minimum=1, maximum=usable)
    last = integer("window: k_max", last, minimum=1, maximum=usable)
    if last - first + 1 < FEWEST_IN_WINDOW:
        raise InputError(f"window: expected at least {FEWEST_IN_WINDOW} modes, got {first} to {last}")
    return first, last


def _warnings(name: str, line: _Line, start: tuple[int, int], exponent: Estimate) -> list[str]:
    (first, last), goodness, words = line.window, line.goodness, []
    if goodness.curved:
        words.append(
            f"The {name} are curved in log k on modes {first} to {last}: the local exponent goes from "
            f"{goodness.exponent_start:.2f} to {goodness.exponent_end:.2f}, so no single power law describes them."
        )
    if line.bend is not None:
        words.append(
            f"The {name} bend on modes {first} to {last} as by a {line.bend.shape}: before it the exponent would be "
            f"{line.bend.exponent:.2f}, not {line.exponent:.2f}. The interval holds both."
        )
    if last < 10 * first:
        words.append(f"The window of the {name}, modes {first} to {last}, spans less than a decade.")
    if math.log(last / first) < 0.7 * math.log(start[1] / start[0]):
        words.append(f"Only modes {first} to {last} of {start[0]} to {start[1]} look like a power law in the {name}.")
    if exponent.high - exponent.low > max(0.5 * abs(exponent.value), 0.25):
        words.append(
            f"The exponent of the {name} is known poorly: {exponent.value:.2f}, from {exponent.low:.2f} to "
            f"{exponent.high:.2f}."
        )
    return words
