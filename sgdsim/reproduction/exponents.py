"""Exponents of real spectra: what a line through tail sums says at finite N, and what the data determine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from sgdsim.problem import QuadraticProblem, fits
from sgdsim.problem.fits import Estimate, PowerLawFit
from sgdsim.recurrence import contour
from sgdsim.reproduction import kernels
from sgdsim.reproduction.base import Context, Drawing, Finding
from sgdsim.reproduction.verdicts import DIFFERS, REPRODUCED, UNDETERMINED, Row, judged, shown, span
from sgdsim.theory import stability

# data set: ν, κ and the decay exponent printed with the loss curves; N = 3000, a network of width 1000.
PUBLISHED = {"bike_sharing": (1.43, 0.29, 0.20), "mnist": (1.30, 0.34, 0.25)}
NU_WINDOW, KAPPA_WINDOW = (5, 300), (10, 310)  # in the authors' notebook
NETWORK = "network of width 1000"
_WINDOW_STARTS, _WINDOW_ENDS = (3, 5, 10, 20, 30, 50), (100, 200, 310, 500, 800, 1000, 1500, 2000)


@dataclass(frozen=True)
class _WindowSlopes:
    """Slopes of lines over many windows: their range, where they are nearest to a published one, the last k tried."""

    low: float
    high: float
    nearest_window: str
    nearest: float
    last: int


def line(values: np.ndarray, window: tuple[int, int], parts: int = 3) -> tuple[float, float]:
    """Exponent of a power law by eye: mean and standard deviation of the log-log slopes over equal parts of a window.

    The way of the authors' notebook: each part of the window has 50 equally spaced indices (counted from 0), so that
    large k decide; the deviation tells the curvature, not the error of the mean.
    """
    edges = np.linspace(*window, parts + 1)
    slopes = []
    for low, high in itertools.pairwise(edges):
        k = np.linspace(low, high, 50).astype(int)
        slopes.append(-np.polyfit(np.log(k), np.log(values[k]), 1)[0])
    return float(np.mean(slopes)), float(np.std(slopes))


def tail_shares(c: np.ndarray) -> np.ndarray:
    """`Σ_{l>k} c_l / Σ c_l`, (n,): what is left beyond mode k, as the notebook fits it."""
    return np.append(np.cumsum(c[::-1])[::-1][1:], 0.0) / c.sum()


def unit_tail(n: int) -> float:
    """The κ that `line` finds where it is 0, in `c_k ∝ 1/k` cut off at n: tail sums are `log(n/k)`, no power law."""
    return line(tail_shares(np.arange(1, n + 1.0) ** -1.0), KAPPA_WINDOW)[0]


def _problems(context: Context, name: str, n: int) -> dict[str, QuadraticProblem]:
    out = {NETWORK: context.network(name, n, 1000).quadratic}
    return out | {kind: context.analytic(name, n, kind) for kind in kernels.KERNELS}


def _fit(context: Context, name: str, n: int, kind: str, problem: QuadraticProblem) -> PowerLawFit:
    return context.once(("fit", name, n, kind), lambda: fits.fit_power_law(problem))


def _tail(fit: PowerLawFit) -> tuple[Estimate, tuple[int, int]]:
    """κ and the window of its fit, which problems with coefficients have."""
    assert fit.kappa is not None
    assert fit.tail_window is not None
    return fit.kappa, fit.tail_window


def decay(problem: QuadraticProblem, batch_size: int) -> list[float]:
    """Log-log slopes of the spectral-diagonal loss over the decades of t from 10 to 10⁴, at α = 1 or what is stable."""
    noise = float(problem.noise_factor(batch_size))
    lr = min(1.0, 0.5 * float(stability.diagonal_max_lr(problem, momentum=0.0, noise=noise)))
    edges = np.array([10, 100, 1000, 10_000])
    loss = contour.loss_at(problem, edges, lr=lr, momentum=0.0, noise=noise).log_loss
    return (-np.diff(loss) / np.log(10)).tolist()


def exponents(context: Context) -> Finding:
    """ν, κ and the decay of bike sharing and MNIST."""
    n = context.size(1000, 3000)
    rows, curves, notes = [], [], []
    null = unit_tail(n)
    for name in context.present(list(PUBLISHED)):
        nu, kappa, slope = PUBLISHED[name]
        problems = _problems(context, name, n)
        network = problems[NETWORK]
        nu_slopes = _window_slopes(network.eigenvalues, nu)
        kappa_slopes = _window_slopes(tail_shares(network.coefficients**2), kappa)
        for kind, problem in problems.items():
            fit = _fit(context, name, n, kind, problem)
            tails = tail_shares(problem.coefficients**2)
            by_eye = line(problem.eigenvalues, NU_WINDOW), line(tails, KAPPA_WINDOW)
            where = f"{name}, N = {n}, {kind}"
            if kind == NETWORK:
                rows += [
                    _nu_row(where, nu, fit, by_eye[0], n, nu_slopes),
                    *_kappa_rows(where, kappa, fit, by_eye[1], null, kappa_slopes),
                ]
            else:
                rows.append(_other_kernel(where, fit, by_eye))
        rows.append(_decay_row(f"{name}, N = {n}, {NETWORK}", slope, decay(network, 100), kappa / nu))
        notes.append(_note(name, nu_slopes, kappa_slopes))
        curves.append((name, network, nu, kappa))
    rows.append(
        Row.evidence(
            f"κ that a line through tail sums finds in c_k ∝ 1/k (κ = 0), N = {n}, k = {KAPPA_WINDOW[0]} … "
            f"{KAPPA_WINDOW[1]}",
            f"{null:.2f}",
            "no interval: deterministic",
            {"ours": null, "at N = 3000": unit_tail(3000)},
            "Tail sums of a spectrum cut off at N fall to 0 at k = N whatever κ is.",
        )
    )
    text = (
        "ν and κ by generalised least squares with credible intervals (`fit_power_law`, κ from bins of c_k), and "
        "beside them by straight lines through λ_k and through tail sums, the way of the authors' notebook (windows "
        f"{NU_WINDOW[0]} … {NU_WINDOW[1]} and {KAPPA_WINDOW[0]} … {KAPPA_WINDOW[1]}, three parts). A tail with κ = 0 "
        f"looks like κ = {unit_tail(3000):.2f} to such a line at N = 3000 and like {unit_tail(1000):.2f} at N = 1000, "
        "so a published κ of 0.29 or 0.34 does not tell a power law from none. "
        + " ".join([*notes, context.absent(list(PUBLISHED))])
    )
    caption = (
        f"Local exponents of λ_k and of tail sums, N = {n}; dashed: the published values; dotted: κ = 0 cut off at N."
    )
    return Finding(tuple(rows), text, (Drawing("exponents", "local_exponents", (curves,), caption),))


def _note(name: str, nu: _WindowSlopes, kappa: _WindowSlopes) -> str:
    return (
        f"{name}: over windows from k = {_WINDOW_STARTS[0]}…{_WINDOW_STARTS[-1]} to {_WINDOW_ENDS[0]}…{nu.last} the "
        f"lines' slopes run from {nu.low:.2f} to {nu.high:.2f} for ν and from {kappa.low:.2f} to {kappa.high:.2f} for "
        f"κ; nearest to the published values are k = {nu.nearest_window} (ν = {nu.nearest:.2f}) and k = "
        f"{kappa.nearest_window} (κ = {kappa.nearest:.2f})."
    )


def _decay_row(where: str, published: float, slopes: list[float], zeta: float) -> Row:
    low, high = min(slopes), max(slopes)
    verdict = judged(published, low, high, 2, loose=0.15)
    end = f"; κ/ν = {zeta:.2f} has the κ of a line through tail sums." if verdict == DIFFERS else "."
    return Row(
        f"decay of the loss, {where}, b = 100, t = 10 … 10⁴",
        f"t^−{published:.2f}",
        ", ".join(f"t^−{slope:.2f}" for slope in slopes),
        span(low, high, 2, "slopes of the 3 decades"),
        verdict,
        "The slope changes from decade to decade: no power law" + end,
        {"published": published, "ours": slopes},
    )


def _other_kernel(where: str, fit: PowerLawFit, by_eye: tuple[tuple[float, float], tuple[float, float]]) -> Row:
    """The same numbers for a kernel that is not the one they were published for."""
    (nu_line, nu_off), (kappa_line, kappa_off) = by_eye
    nu, kappa = fit.nu, _tail(fit)[0]
    return Row.evidence(
        f"ν and κ, {where}",
        f"{nu.value:.2f} and {shown(round(kappa.value, 2))}",
        f"{span(nu.low, nu.high)} and {span(kappa.low, kappa.high)} (95%)",
        {"nu": nu.value, "kappa": kappa.value, "nu by a line": nu_line, "kappa by a line": kappa_line},
        f"By lines: {nu_line:.2f} ± {nu_off:.2f} and {kappa_line:.2f} ± {kappa_off:.2f}.",
    )


def _nu_row(
    where: str, published: float, fit: PowerLawFit, by_eye: tuple[float, float], n: int, slopes: _WindowSlopes
) -> Row:
    verdict = judged(published, fit.nu.low, fit.nu.high, 2, loose=0.7 * fit.nu.value)
    reason = f"A line over k = {NU_WINDOW[0]} … {NU_WINDOW[1]} gives {by_eye[0]:.2f} ± {by_eye[1]:.2f}."
    if verdict == DIFFERS:
        reason += " The exponent changes along the spectrum: over the windows tried lines give "
        reason += f"{slopes.low:.2f} to {slopes.high:.2f}" + ("." if n == 3000 else f", at N = {n} instead of 3000.")
    values = {"published": published, "ours": fit.nu.value, "low": fit.nu.low, "high": fit.nu.high, "line": by_eye[0]}
    interval = span(fit.nu.low, fit.nu.high, 2, f"95%, k = {fit.window[0]} … {fit.window[1]}")
    return Row(f"ν, {where}", f"{published:.2f}", f"{fit.nu.value:.2f}", interval, verdict, reason, values)


def _kappa_rows(
    where: str, published: float, fit: PowerLawFit, by_eye: tuple[float, float], null: float, slopes: _WindowSlopes
) -> list[Row]:
    """κ of the coefficients, and κ by a line through tail sums."""
    kappa, window = _tail(fit)
    verdict = judged(published, kappa.low, kappa.high, 2, loose=0.3)
    reason = f"A line through tail sums sees κ = {null:.2f} where κ is 0 at this N." if verdict == DIFFERS else ""
    if verdict == UNDETERMINED:
        reason = "The coefficients scatter too much for an exponent."
    low, high = by_eye[0] - by_eye[1], by_eye[0] + by_eye[1]
    other = (
        f"Over the windows tried such lines give {slopes.low:.2f} to {slopes.high:.2f}; nearest to the published value "
        f"is k = {slopes.nearest_window} with {slopes.nearest:.2f}."
    )
    return [
        Row(
            f"κ, {where}",
            f"{published:.2f}",
            shown(round(kappa.value, 2)),
            span(kappa.low, kappa.high, 2, f"95%, k = {window[0]} … {window[1]}"),
            verdict,
            reason,
            {"published": published, "ours": kappa.value, "low": kappa.low, "high": kappa.high},
        ),
        Row(
            f"κ by a line through tail sums, {where}",
            f"{published:.2f}",
            f"{by_eye[0]:.2f}",
            span(low, high, 2, "± deviation of 3 parts"),
            judged(published, low, high, 2, loose=0.3),
            other,
            {"published": published, "ours": by_eye[0], "low": low, "high": high, "at kappa 0": null},
        ),
    ]


def _window_slopes(values: np.ndarray, published: float) -> _WindowSlopes:
    """Slopes of `values` over many windows, and the window where the slope is nearest to the published one."""
    ends = [end for end in _WINDOW_ENDS if end < 0.7 * values.size]
    slopes = {(a, b): line(values, (a, b))[0] for a in _WINDOW_STARTS for b in ends if b >= 5 * a}
    nearest = min(slopes, key=lambda window: abs(slopes[window] - published))
    least, most = min(slopes.values()), max(slopes.values())
    return _WindowSlopes(least, most, f"{nearest[0]} … {nearest[1]}", slopes[nearest], ends[-1])


def kernel(context: Context) -> Finding:
    """What the missing square-root factor changes."""
    rows, words = [], []
    names = [name for name in ("digits", *PUBLISHED) if context.has(name)]
    for name in names:
        n = 1000 if name == "digits" else context.size(1000, 3000)
        true, bare = (context.analytic(name, n, kind) for kind in (kernels.WITH_FACTOR, kernels.WITHOUT_FACTOR))
        a = _fit(context, name, n, kernels.WITH_FACTOR, true)
        b = _fit(context, name, n, kernels.WITHOUT_FACTOR, bare)
        crit = [stability.critical_eigenvalue(problem) for problem in (true, bare)]
        middle = n // 2
        ratio = float(bare.eigenvalues[middle] / true.eigenvalues[middle])
        for symbol, left, right in (("ν", a.nu, b.nu), ("κ", _tail(a)[0], _tail(b)[0])):
            rows.append(
                Row.evidence(
                    f"{symbol} without the square-root factor, {name}, N = {n}",
                    f"{right.value:.2f} instead of {left.value:.2f}".replace("-", "−"),
                    span(right.low, right.high, 2, "95%"),
                    {"without": right.value, "with": left.value, "low": right.low, "high": right.high},
                )
            )
        change = (crit[1] - crit[0]) / crit[0]
        words.append(
            f"{name}: ν {a.nu.value:.2f} → {b.nu.value:.2f}, λ_crit {crit[0]:.3f} → {crit[1]:.3f} ({change:+.1%}), "
            f"λ_{middle}/λ_1 times {ratio:.2f}"
        )
    text = (
        "The analytic two-layer kernel with the factor √(Σ(x,x)Σ(x',x')) of its second term left out is no network's "
        "kernel. It moves the exponents by less than their intervals, but the leading eigenvalues, λ_crit and the "
        f"late loss measurably. {'; '.join(words)}. {context.absent(('digits', *PUBLISHED))}"
    )
    return Finding(tuple(rows), text)


def phases(context: Context) -> Finding:
    """The phase diagram, with the data sets' fits on it."""
    from sgdsim.theory import power_law

    laws = {f"ν = 1.5, κ = {kappa:g}": power_law.PowerLaw(1.5, kappa) for kappa in (3.0, 0.75)}
    fitted = {}
    rows = []
    for name in context.present(list(PUBLISHED)):
        n = context.size(1000, 3000)
        fit = _fit(context, name, n, NETWORK, context.network(name, n, 1000).quadratic)
        nu, zeta = fit.nu, fit.zeta
        assert zeta is not None
        printed = PUBLISHED[name][1] / PUBLISHED[name][0]
        claimed = str(power_law.phase(PUBLISHED[name][0], printed))
        ends = {
            str(power_law.phase(v, max(z, 1e-6))) for v in (nu.low, nu.high) for z in (zeta.low, zeta.high) if v > 0
        }
        none = zeta.low <= 0  # no power law of the coefficients, and so no phase
        verdict = UNDETERMINED if claimed in ends else DIFFERS
        verdict = REPRODUCED if ends == {claimed} and not none else verdict
        reason = "The interval of ν reaches below 1, or that of ζ above 2 − 1/ν."
        if none:
            reason = "The interval of ζ reaches 0, where there is no law; where there is one, the phase is this."
        reason = "" if verdict == REPRODUCED else reason
        interval = f"corners of the 95% intervals of ν ({span(nu.low, nu.high)}) and ζ ({span(zeta.low, zeta.high)})"
        values = {"zeta": zeta.value, "low": zeta.low, "high": zeta.high}
        quantity = f"phase, {name}, N = {n}, {NETWORK}"
        rows.append(Row(quantity, claimed, " or ".join(sorted(ends)), interval, verdict, reason, values))
        fitted[name.replace("_", " ")] = (fit, power_law.PowerLaw(*PUBLISHED[name][:2]))
    text = (
        f"Phases over ν and ζ = κ/ν; at ν = 1.5 noise dominates from κ = {1.5 * (2 - 1 / 1.5):g} on. The data sets lie "
        "below ζ = 2 − 1/ν: signal-dominated where ν > 1. Bars are the 95% intervals of the fits. "
        + context.absent(list(PUBLISHED))
    )
    caption = "Phases of mini-batch SGD on infinite power laws, with the data sets."
    picture = Drawing("phases", "phases_with_data", (laws, fitted), caption)
    return Finding(tuple(rows), text, (picture,))
