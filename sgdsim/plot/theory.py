"""Pictures of the theory: stable regions, phases, laws beside exact curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.common.checks import InputError, number
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, closure_style, style
from sgdsim.problem.fits import Estimate, PowerLawFit

if TYPE_CHECKING:
    from sgdsim.problem import QuadraticProblem
    from sgdsim.theory.power_law import PowerLaw, Prediction

MAX_PANELS, MAX_TAUS = 12, 4  # of one stability map

_MOMENTA = np.linspace(-0.995, 0.999, 240)
_STABLE = PALETTE[9]
_FULL_BATCH: Look = {"color": "0.35", "linestyle": "-", "linewidth": 1.0}
_EXACT: Look = {"color": "black", "marker": "o", "markersize": 3.6, "linestyle": "none"}


def check_panels(batch_sizes: int, taus: int) -> None:
    """InputError where there are more batch sizes or closures than one stability map holds."""
    if not 1 <= batch_sizes <= MAX_PANELS:
        raise InputError(f"--plot: expected 1 to {MAX_PANELS} batch sizes to draw, got {batch_sizes}")
    if not 1 <= taus <= MAX_TAUS:
        raise InputError(f"--plot: expected 1 to {MAX_TAUS} values of tau to draw, got {taus}")


def stability_map(
    problem: QuadraticProblem,
    batch_sizes: Sequence[int],
    *,
    taus: Sequence[float] = (1.0,),
    sampling: str = WITHOUT_REPLACEMENT,
    exact: Sequence[tuple[int, float, float]] = (),
) -> Figure:
    """The stable learning rates over momentum: a panel per batch size, its boundaries, the stable region shaded.

    Parameters
    ----------
    taus : closures of the spectral-diagonal boundary, solid; the shaded region is below the first of them. Dotted, in
        the same colour, its asymptote α = 2(1−β)/(γλ_crit) at β → 1.
    exact : points (batch size, momentum, largest stable learning rate) of the exact level.

    Raises InputError for no batch size, more than 12, more than 4 closures, or a first one above 1.
    """
    from sgdsim.theory import stability

    check_panels(len(batch_sizes), len(taus))
    number("tau", taus[0], maximum=1.0)  # beyond, nothing is known to be stable
    gammas = [float(problem.noise_factor(b, sampling)) for b in batch_sizes]
    bounds = stability.diagonal_max_lr(
        problem, momentum=_MOMENTA, noise=np.array(gammas)[:, None, None], tau=np.array(taus)[:, None]
    )  # (batch sizes, taus, momenta)
    critical = [stability.critical_eigenvalue(problem, tau) for tau in taus]
    columns = min(len(batch_sizes), 4 if len(batch_sizes) == 4 or len(batch_sizes) > 6 else 3)
    rows = math.ceil(len(batch_sizes) / columns)
    top = 1.08 * max(bounds.max(), max((lr for *_, lr in exact), default=0.0))
    with style():
        figure = ShownFigure(figsize=(max(2.3 * columns + 0.3, 3.6), 2.2 * rows + 0.75), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for ax, b, gamma, curves in zip(axes, batch_sizes, gammas, bounds, strict=False):
            ax.fill_between(_MOMENTA, 0, curves[0], color=_STABLE, alpha=0.3, linewidth=0)
            ax.plot(_MOMENTA, 2 * (1 + _MOMENTA), label="full batch", **_FULL_BATCH)
            for tau, eigenvalue, curve in zip(taus, critical, curves, strict=True):
                _draw_closure(ax, tau, curve, gamma * eigenvalue)
            points = [(beta, lr) for size, beta, lr in exact if size == b]
            if points:
                ax.plot(*zip(*points, strict=True), label="exact", **_EXACT)
            ax.set_title(f"b = {b}")
            ax.set(xlim=(-1, 1), ylim=(0, top), xticks=[-1, -0.5, 0, 0.5, 1])
        for ax in axes[len(batch_sizes) :]:
            ax.set_axis_off()
        for i, ax in enumerate(axes[: len(batch_sizes)]):
            lowest, first = i + columns >= len(batch_sizes), i % columns == 0
            ax.tick_params(labelbottom=lowest)
            ax.set(xlabel="momentum β" if lowest else "", ylabel="learning rate α" if first else "")
        _map_legend(figure, taus, bool(exact), columns)
        figure.suptitle(problem.description.get("title", ""))
    return figure


def _draw_closure(ax: Axes, tau: float, bound: np.ndarray, pull: float) -> None:
    """The bound of one closure over momentum, dotted its asymptote; `pull`: γλ_crit."""
    color = closure_style(tau)["color"]
    ax.plot(_MOMENTA, bound, color=color, linewidth=1.5, label=_closure(tau))
    if pull > 0:
        line = 2 * (1 - _MOMENTA) / pull
        ax.plot(_MOMENTA, line, color=color, linewidth=1.0, linestyle=":", label=_asymptote(tau))


def _closure(tau: float) -> str:
    return f"spectral-diagonal, τ = {tau:g}".replace("= -", "= −")


def _asymptote(tau: float) -> str:
    return f"limit at β → 1, τ = {tau:g}".replace("= -", "= −")


def _map_legend(figure: Figure, taus: Sequence[float], exact: bool, columns: int) -> None:
    handles: dict[str, Artist] = {"full batch: 2(1 + β)": Line2D([], [], **_FULL_BATCH)}
    for tau in taus:
        handles[_closure(tau)] = Line2D([], [], color=closure_style(tau)["color"])
    handles["limit at β → 1: $2(1-\\beta)/(\\gamma\\lambda_{crit})$"] = Line2D(
        [], [], color="0.3", linewidth=1.0, linestyle=":"
    )
    if exact:
        handles["exact, in this eigenbasis"] = Line2D([], [], **_EXACT)
    handles[f"stable by {_closure(taus[0])}"] = Patch(facecolor=_STABLE, alpha=0.3)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=max(1, min(columns, 3)))


def phase_diagram(
    points: PowerLaw | PowerLawFit | Mapping[str, PowerLaw | PowerLawFit] | None = None, *, ax: Axes | None = None
) -> Axes:
    """The phases of mini-batch SGD on infinite power-law spectra over (ν, ζ), and what t^−ξ the loss follows in each.

    `points` marks problems, by name where there are several; a fit comes with its intervals.
    """
    points = {} if points is None else points if isinstance(points, Mapping) else {"": points}
    places = {name: _place(point) for name, point in points.items()}
    right = max(3.0, *(1.15 * max(p[0], p[2][1]) for p in places.values())) if places else 3.0
    top = max(3.0, *(1.15 * max(p[1], p[3][1]) for p in places.values())) if places else 3.0
    right, top = min(right, 8.0), min(top, 8.0)
    with style():
        if ax is None:
            ax = ShownFigure(figsize=(3.4, 2.8), layout="constrained").subplots()
        nu = np.linspace(1, right, 200)
        border = 2 - 1 / nu
        ax.axvspan(0, 0.5, color="0.72", linewidth=0)
        ax.axvspan(0.5, 1, color="0.86", linewidth=0)
        ax.fill_between(nu, 0, border, color=PALETTE[0], alpha=0.25, linewidth=0)
        ax.fill_between(nu, border, top, color=PALETTE[1], alpha=0.25, linewidth=0)
        ax.plot(nu, border, color="black", linewidth=1.2, label="ζ = 2 − 1/ν")
        size: Look = {"fontsize": 7.5, "linespacing": 1.5}
        for y, where, words in (
            (0.02, "bottom", "signal-dominated\n$L\\propto t^{-\\zeta}$"),
            (0.98, "top", "noise-dominated\n$L\\propto t^{-(2-1/\\nu)}$"),
        ):
            ax.text(0.98, y, words, ha="right", va=where, transform=ax.transAxes, **size)
        for at, words in ((0.25, "diverges at once"), (0.75, "diverges eventually")):
            ax.text(at, top / 2, words, rotation=90, ha="center", va="center", **size)
        for (name, (x, y, across, up)), color in zip(places.items(), _colors(len(places)), strict=True):
            xerr, yerr = [[x - across[0]], [across[1] - x]], [[y - up[0]], [up[1] - y]]
            label = name or "_problem"
            ax.errorbar(x, y, yerr, xerr, fmt="o", color=color, markersize=4.5, linewidth=1.0, label=label)
            ax.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7.5, color=color)
        ax.set(xlim=(0, right), ylim=(0, top), xlabel="exponent ν of the eigenvalues", ylabel="ζ = κ/ν of the target")
        ax.grid(False)
    return ax


def _place(point: PowerLaw | PowerLawFit) -> tuple[float, float, tuple[float, float], tuple[float, float]]:
    """ν, ζ and their intervals."""
    if not isinstance(point, PowerLawFit):
        return point.nu, point.zeta, (point.nu, point.nu), (point.zeta, point.zeta)
    if point.zeta is None:
        raise InputError("points: expected fits of eigenvalues and coefficients, got one without coefficients")
    nu, zeta = point.nu, point.zeta
    return nu.value, zeta.value, _ends(nu), _ends(zeta)


def _ends(estimate: Estimate) -> tuple[float, float]:
    """Of its interval, which may be infinite, within what an axis takes."""
    low, high = np.clip((estimate.low, estimate.high), -1e3, 1e3)
    return float(low), float(high)


def _colors(count: int) -> list[str]:
    return ["black"] if count == 1 else [PALETTE[i % len(PALETTE)] for i in range(count)]


def prediction(
    predicted: Prediction, *, ax: Axes | None = None, horizon: float | None = None, title: str | None = None
) -> Axes:
    """The exact curve of a `Prediction` on log-log axes, its law dashed, the window where both agree shaded; a law that
    nowhere holds is not drawn, and the title says so.

    Vertical lines: where the noise's share overtakes the signal's, where the finite spectrum's exponential fall begins
    (cut-off), and the horizon if one is given. `title` replaces the phase above the panel.
    """
    with style():
        ax = curve(ax, predicted.steps, predicted.loss, predicted.cutoff)
        if predicted.window is not None and predicted.exponent is not None and predicted.constant is not None:
            label = f"${_scientific(predicted.constant)}\\,t^{{-{predicted.exponent:.3g}}}$"
            ax.plot(predicted.steps, predicted.law, color="black", linestyle=(0, (4, 2)), linewidth=1.1, label=label)
        if predicted.window is not None:
            ax.axvspan(
                *predicted.window, color=PALETTE[2], alpha=0.15, linewidth=0, label=f"within {predicted.within:.0%}"
            )
        marks = {"noise overtakes": predicted.crossover, "cut-off": predicted.cutoff, "horizon": horizon}
        mark(ax, marks)
        ax.set_title(_said(predicted) if title is None else title)
        ax.legend(
            loc="lower left" if predicted.stable else "upper left",
            handlelength=1.6,
            facecolor="white",
            framealpha=0.8,
            frameon=True,
            edgecolor="none",
        )
    return ax


def _said(predicted: Prediction) -> str:
    """The phase, where its law is seen."""
    if not predicted.stable:
        return "unstable"
    return predicted.phase if predicted.window else f"the law holds nowhere to {predicted.within:.0%}"


def _scientific(value: float) -> str:
    """A number in three digits, for mathematical text."""
    digits, _, power = f"{value:.3g}".partition("e")
    return digits if not power else f"{digits}\\times 10^{{{int(power)}}}"


def curve(ax: Axes | None, steps: np.ndarray, loss: np.ndarray, cutoff: float | None) -> Axes:
    """An exact curve on log-log axes; of the exponential tail three decades are shown, more would hide the rest."""
    if ax is None:
        ax = ShownFigure(figsize=(3.8, 2.8), layout="constrained").subplots()
    ax.set(xscale="log", yscale="log", xlabel="SGD step t", ylabel="train loss")
    seen = (loss > 0) & np.isfinite(loss) & (steps >= 1)
    if cutoff is not None and (seen & (steps <= cutoff)).any():
        seen &= loss >= 1e-3 * loss[seen & (steps <= cutoff)].min()
    ax.plot(steps, np.where(loss > 0, loss, np.nan), color=PALETTE[2], linewidth=1.8, label="spectral-diagonal, exact")
    if seen.any():
        ax.set(xlim=(1, max(steps[seen][-1], 2)), ylim=(loss[seen].min() / 1.5, loss[seen].max() * 2))
    return ax


def mark(ax: Axes, marks: Mapping[str, float | None]) -> None:
    first, last = ax.get_xlim()
    for words, step in marks.items():
        if step is not None and first < step < last:
            ax.axvline(step, color="0.45", linewidth=0.8, linestyle=":", label=f"_{words}")
            text: Look = {"rotation": 90, "ha": "right", "va": "top", "fontsize": 7, "color": "0.35"}
            box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
            ax.text(step, 0.97, words, transform=ax.get_xaxis_transform(), bbox=box, **text)
