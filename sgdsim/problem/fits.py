"""Power laws of a spectrum and of the target in it: `λ_k ≈ Λ k^{−ν}` and `Σ_{l≥k} c_l ≈ A k^{−κ}`, with intervals.

Both laws are straight lines in log k, seen through noise of two kinds: from mode to mode, which averages out (the c_k
of data scatter like χ²₁ variates around a smooth law, because the a_k are roughly Gaussian), and smooth in log k, which
does not (neighbouring λ_k are off together; no real spectrum is an exact power law). Least squares knows only the first
kind, and its intervals are several times too narrow. Here the line is fitted by generalised least squares to means
over bins of equal width in log k, with covariance `s²(D + τR)`: D is the bins' share of the mode-to-mode noise, R a
stationary covariance in log k (Matérn, order 1/2 or 3/2, several correlation lengths). Line and s² are integrated out
exactly (flat in the line and in log s; for c, s² is tied to the scatter within bins), τ and R by a sum over a grid,
weighted by marginal likelihood: data on a straight line get the narrow interval, curved data a wide one. (C. E.
Rasmussen and C. K. I. Williams, *Gaussian Processes for Machine Learning*, MIT Press 2006, sec. 2.7 and 5.4.) The
intervals are credible intervals; that they also cover the truth as often as they say is a test.

κ is fitted to bin sums of c_k against exact sums of `k^{−κ−1}` over the same bins, never to tail sums: these share all
their noise, and at finite N they are no power law but drop to 0 at k = N. A is that of the infinite sum, C/κ for
`c_k ≈ C k^{−κ−1}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sgdsim.common.checks import InputError, array, integer, number
from sgdsim.problem.fit_results import Estimate, Goodness, PowerLawFit
from sgdsim.problem.spectrum import Spectrum

if TYPE_CHECKING:
    from sgdsim.problem import Problem

FEWEST_MODES = 30  # in the spectrum
FEWEST_IN_WINDOW = 12
BINS = 12  # more would let the fine structure decide how far a smooth deviation may bend the line
MODES_PER_BIN = {"lambda": 2, "c": 6}  # the logarithm of a sum of 6 χ²₁ variates is nearly Gaussian
DRAWS = 20_000
WIDEST, STEEPEST = 100.0, 50.0  # bounds for φ and p while fitting, far from all that is a power law
OFF = 0.25  # in log λ or log c: less is no reason to cut the window
FLOOR = 1e-9  # relative noise that is always assumed: an exact power law gets an interval wider than rounding


@dataclass(frozen=True)
class _Bins:
    """Points of a line, y = const − exponent·x + noise.

    The noise variances hold up to a common factor, known to be about 1 with `dof` degrees of freedom; `plain` is the
    prior probability that there is no smooth deviation besides.
    """

    edges: np.ndarray
    x: np.ndarray
    y: np.ndarray
    noise: np.ndarray
    dof: float
    plain: float


def _edges(k_min: int, k_max: int, fewest: int) -> np.ndarray:
    """First modes of up to 12 bins, equally wide in log k but of at least `fewest` modes each, and k_max + 1."""
    edges = [k_min]
    for edge in np.rint(np.geomspace(k_min, k_max + 1, BINS + 1)).astype(int)[1:]:
        if edge - edges[-1] >= fewest and k_max + 1 - edge >= fewest:
            edges.append(int(edge))
    return np.array([*edges, k_max + 1])


def _lambda_bins(values: np.ndarray, window: tuple[int, int]) -> _Bins:
    edges = _edges(*window, MODES_PER_BIN["lambda"])
    sizes, starts = np.diff(edges), edges[:-1] - edges[0]
    k = np.arange(window[0], window[1] + 1)
    x, y = (np.add.reduceat(np.log(v), starts) / sizes for v in (k, values[k - 1]))
    return _Bins(edges, x, y, 1.0 / sizes, dof=0.0, plain=0.2)


def _c_bins(c: np.ndarray, window: tuple[int, int]) -> _Bins:
    """Logs of bin sums of c, less those of `Σ k^{−p}`, linearised in p at its estimate, and their noise.

    The dispersion φ of single c_k (2 for χ²₁) comes from their scatter within bins; a bin's sum is then nearly a Gamma
    variate, whose logarithm has mean ψ(shape) − log(shape) and variance ψ'(shape).
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    modes = window[1] - window[0] + 1
    edges = _edges(*window, min(MODES_PER_BIN["c"], modes // 5))
    sizes, starts = np.diff(edges), edges[:-1] - edges[0]
    k = np.arange(window[0], window[1] + 1)
    log_k, c = np.log(k), c[k - 1]
    sums = np.add.reduceat(c, starts)
    if (sums == 0).any():
        raise InputError(
            f"coefficients: expected some that are not zero among any few neighbouring modes, got zeros around mode "
            f"{int(edges[np.argmin(sums)])} (choose another window)"
        )
    p, tiny = 1.0, FLOOR**2

    def scattered(f: float) -> float:
        return float((sizes * (sizes - 1) * f / (sizes + f)).sum())

    for _ in range(20):
        law = k**-p
        law_sums = np.add.reduceat(law, starts)
        x = np.add.reduceat(law * log_k, starts) / law_sums
        ratios = c / law * np.repeat(law_sums / sums, sizes)  # of mean about 1 within each bin
        scatter = ((ratios / np.repeat(np.add.reduceat(ratios, starts) / sizes, sizes) - 1) ** 2).sum()
        # Gamma variates of shape 1/φ, divided by the mean of n of them, scatter by n(n − 1)φ/(n + φ).
        phi = WIDEST if scatter >= scattered(WIDEST) else brentq(lambda f, s=scatter: scattered(f) - s, 0.0, WIDEST)
        shape = 1 / (max(phi, tiny) * np.add.reduceat(law**2, starts) / law_sums**2)
        noise = polygamma(1, shape)
        y = np.log(sums) - np.log(law_sums) - p * x - (digamma(shape) - np.log(shape))
        old, p = p, float(np.clip(-np.polyfit(x, y, 1, w=noise**-0.5)[0], -STEEPEST, STEEPEST))
        if abs(p - old) < 1e-12:
            break
    # The variance of a χ²₁-like scatter over n modes is 14/n of its square: as good as n/7 degrees of freedom.
    return _Bins(edges, x, y, noise, dof=modes / 7, plain=0.5)


def _posterior(bins: _Bins, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (2,) and draws (DRAWS, 2) of the line's value at k = 1 and its exponent; the bins' total variances."""
    centre = bins.x.mean()
    distance = np.abs(bins.x[:, None] - bins.x)
    far = distance / (distance.max() / np.array([8.0, 4.0, 2.0, 1.0])[:, None, None])
    # Rough and smooth deviations. No squared exponential: it takes them for analytic, and extrapolates wildly.
    shapes = np.concatenate([np.exp(-far), (1 + math.sqrt(3) * far) * np.exp(-math.sqrt(3) * far)])
    taus = bins.noise.mean() * np.logspace(-2, 6, 17)
    smooth = (taus[:, None, None, None] * shapes).reshape(-1, *distance.shape)
    covariance = np.concatenate([np.zeros((1, *distance.shape)), smooth]) + np.diag(bins.noise)
    design = np.stack([np.ones_like(bins.x), centre - bins.x, bins.y], axis=1)
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, np.broadcast_to(design, (len(factor), *design.shape)))
    x, y = white[..., :2], white[..., 2:]
    precision = x.mT @ x
    beta = np.linalg.solve(precision, x.mT @ y)
    dof = bins.dof + bins.x.size - 2
    rss = bins.dof + ((y - x @ beta) ** 2).sum((1, 2)) + dof * FLOOR**2 / bins.noise.mean()
    log_weight = (
        -np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)
        - 0.5 * np.linalg.slogdet(precision)[1]
        - 0.5 * dof * np.log(rss)
    )
    log_weight[0] += math.log(bins.plain)
    log_weight[1:] += math.log((1 - bins.plain) / len(smooth))
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    pick = rng.choice(weight.size, DRAWS, p=weight)
    spread = np.linalg.cholesky(np.linalg.inv(precision))[pick]
    scale = np.sqrt(rss[pick] / rng.chisquare(dof, DRAWS))
    draws = beta[pick, :, 0] + scale[:, None] * (spread @ rng.standard_normal((DRAWS, 2, 1)))[..., 0]
    mean = weight @ beta[..., 0]
    at_one = np.array([[1.0, centre], [0.0, 1.0]])  # from the value at the centre to that at k = 1
    variances = (weight * rss / dof) @ np.diagonal(covariance, axis1=1, axis2=2)
    return at_one @ mean, draws @ at_one.T, variances


def _goodness(bins: _Bins, variances: np.ndarray) -> Goodness:
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


def _trim(make: Any, values: np.ndarray, window: tuple[int, int]) -> tuple[int, int]:
    """The rule's second step, for bins made by `make(values, window)`: see `fit_power_law`."""
    while window[1] >= 10 * window[0]:
        bins = make(values, window)
        # λ is off by about as much in every bin, c by what its noise says
        noise = bins.noise if bins.dof else np.ones_like(bins.noise)
        place = (bins.x - bins.x[0]) / (bins.x[-1] - bins.x[0])
        best, cut = 1.0, None
        for eighths in (1, 2):
            head, end = place < eighths / 8, place > 1 - eighths / 8
            rest = ~(head | end)
            line = np.polynomial.Polynomial.fit(bins.x[rest], bins.y[rest], 1, w=noise[rest] ** -0.5)
            off = bins.y - line(bins.x)
            usual = math.sqrt((off[rest] ** 2 / noise[rest]).sum() / max(rest.sum() - 2, 1))
            for edge in (head, end):
                bound = max(5 * eighths * usual * math.sqrt(noise[edge].mean()), OFF)
                if abs(off[edge].mean()) > best * bound:
                    best, cut = abs(off[edge].mean()) / bound, edge
        if cut is None:
            return window
        kept = np.flatnonzero(~cut)
        new = int(bins.edges[kept[0]]), int(bins.edges[kept[-1] + 1]) - 1
        if new[1] < 10 * new[0]:
            return window
        window = new
    return window


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
    values = spectrum.eigenvalues
    usable = int((values > spectrum.n * np.finfo(float).eps).sum())
    if usable < FEWEST_MODES:
        raise InputError(f"spectrum: expected at least {FEWEST_MODES} eigenvalues above rounding, got {usable}")
    chosen = None if window is None else _checked_window(window, usable)
    start = chosen or (max(3, math.ceil(usable**0.25 - 1e-9)), usable // 2)
    rng = np.random.default_rng(seed)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)

    def estimate(value: float, draws: np.ndarray) -> Estimate:
        low, high = np.quantile(draws, tails, method="nearest")
        return Estimate(float(value), float(low), float(high))

    own = chosen or _trim(_lambda_bins, values, start)
    bins = _lambda_bins(values, own)
    (level, nu), draws, variances = _posterior(bins, rng)
    goodness = _goodness(bins, variances)
    with np.errstate(over="ignore"):  # infinite ends are meant
        nu_estimate, scale = estimate(nu, draws[:, 1]), estimate(np.exp(level), np.exp(draws[:, 0]))
    warnings = _warnings("eigenvalues", own, start, goodness, nu_estimate)
    if nu_estimate.low <= 0:
        warnings.append("The interval of ν reaches 0: the eigenvalues hardly fall, and ζ is undetermined.")
    if coefficients is None:
        return PowerLawFit(
            nu_estimate, scale, None, None, None, own, None, goodness, None, confidence, seed, tuple(warnings)
        )

    c = coefficients**2
    tail_window = chosen or _trim(_c_bins, c, start)
    bins = _c_bins(c, tail_window)
    (level, p), tail_draws, variances = _posterior(bins, rng)
    tail_goodness = _goodness(bins, variances)
    kappa, kappas = p - 1, tail_draws[:, 1] - 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # infinite ends are meant
        constants = np.where(kappas > 0, np.exp(tail_draws[:, 0]) / np.maximum(kappas, 0), np.inf)
        zetas = np.where(draws[:, 1] > 0, kappas / draws[:, 1], np.copysign(np.inf, kappas))
        constant = np.exp(level) / kappa if kappa > 0 else math.inf
    kappa_estimate = estimate(kappa, kappas)
    a = estimate(constant, constants)
    zeta = estimate(kappa / nu if nu > 0 else math.nan, zetas)
    warnings += _warnings("coefficients", tail_window, start, tail_goodness, kappa_estimate)
    if kappa_estimate.low <= 0:
        warnings.append("The interval of κ reaches 0, where tail sums do not converge as N grows and A is infinite.")
    return PowerLawFit(
        nu_estimate, scale, kappa_estimate, a, zeta, own, tail_window, goodness, tail_goodness, confidence, seed,
        tuple(warnings),
    )  # fmt: skip


def _inputs(problem: Any, coefficients: Any) -> tuple[Spectrum, np.ndarray | None]:
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
        coefficients = array("coefficients", coefficients, ndim=1, shape=(spectrum.n,))
        if not coefficients.any():
            raise InputError("coefficients: expected some that are not zero, got all zeros")
    return spectrum, coefficients


def _checked_window(window: Any, usable: int) -> tuple[int, int]:
    try:
        first, last = window
    except (TypeError, ValueError) as error:
        raise InputError(f"window: expected two mode numbers (k_min, k_max), got {window!r}") from error
    first = integer("window: k_min", first, minimum=1, maximum=usable)
    last = integer("window: k_max", last, minimum=1, maximum=usable)
    if last - first + 1 < FEWEST_IN_WINDOW:
        raise InputError(f"window: expected at least {FEWEST_IN_WINDOW} modes, got {first} to {last}")
    return first, last


def _warnings(
    name: str, window: tuple[int, int], start: tuple[int, int], goodness: Goodness, exponent: Estimate
) -> list[str]:
    found = []
    first, last = window
    if goodness.curved:
        found.append(
            f"The {name} are curved in log k on modes {first} to {last}: the local exponent goes from "
            f"{goodness.exponent_start:.2f} to {goodness.exponent_end:.2f}, so no single power law describes them."
        )
    if last < 10 * first:
        found.append(f"The window of the {name}, modes {first} to {last}, spans less than a decade.")
    if math.log(last / first) < 0.7 * math.log(start[1] / start[0]):
        found.append(f"Only modes {first} to {last} of {start[0]} to {start[1]} look like a power law in the {name}.")
    if exponent.high - exponent.low > max(0.5 * abs(exponent.value), 0.25):
        found.append(
            f"The exponent of the {name} is known poorly: {exponent.value:.2f}, from {exponent.low:.2f} to "
            f"{exponent.high:.2f}."
        )
    return found
