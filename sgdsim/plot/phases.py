"""Pictures of power-law spectra: measured exponents against predicted ones, the best momentum, derivations checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from sgdsim.common.checks import InputError
from sgdsim.plot.maps import edges
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, style

if TYPE_CHECKING:
    from sgdsim.studies.phase_maps import BestMomentum, ClampedMomentum, ExponentMap, LocalExponents, MomentumMap
    from sgdsim.symbolic.series import SeriesCheck

_THEORY: Look = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.1}
_BORDER: Look = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.3}
_HALO = [withStroke(linewidth=2.6, foreground="white", alpha=0.85)]
_SMALLEST = 1e-17  # relative differences of 0 are drawn here


def derivation_check(checks: Sequence[SeriesCheck]) -> Figure:
    """Losses by stepping with those of the derived generating functions over them, and their relative differences.

    Raises InputError for no checks or more than four.
    """
    if not 1 <= len(checks) <= 4:
        raise InputError(f"checks: expected 1 to 4 of them, got {len(checks)}")
    with style():
        figure = ShownFigure(figsize=(7.0, 2.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        for check, color in zip(checks, PALETTE, strict=False):
            shown = check.steps >= 1
            steps = check.steps[shown]
            left.plot(steps, check.stepped[shown], color=color, linewidth=1.6, label=f"{check.method}, stepped")
            some = np.unique(np.geomspace(1, steps[-1], 14).round().astype(int))
            label = f"{check.method}, series of $\\tilde V/(1-z\\tilde U)$"
            left.plot(some, check.series[some], "o", color=color, markersize=4.5, markerfacecolor="white", label=label)
            errors = np.maximum(check.series_error[shown], _SMALLEST)
            right.plot(steps, errors, color=color, linewidth=0.9, label=f"{check.method}: series")
            if check.contour_error is not None:
                late = check.steps >= 40
                errors = np.maximum(check.contour_error[late], _SMALLEST)
                label = f"{check.method}: contour"
                right.plot(check.steps[late], errors, color=color, linestyle=":", linewidth=1.4, label=label)
        left.set(xscale="log", yscale="log", xlabel="SGD step t", ylabel="train loss")
        right.set(xscale="log", yscale="log", xlabel="SGD step t", ylabel="relative difference to stepping")
        right.set_ylim(_SMALLEST / 2, 1)
        left.legend(loc="lower left")
        right.legend(loc="upper left")
        _small_ticks(left, right)
    return figure


def exponent_map(exponents: ExponentMap) -> Figure:
    """Measured exponents over (ν, κ), and against ζ for each ν with `min(ζ, 2 − 1/ν)` dashed.

    The dashed line in the map is the transition κ = 2ν − 1; hatched: diverged.
    """
    with style():
        figure = ShownFigure(figsize=(7.2, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        x, y = edges(exponents.nu, 0.0, np.inf), edges(exponents.kappa, 0.0, np.inf)
        left.set_facecolor("0.85")
        values = np.ma.masked_invalid(exponents.measured.T)
        mesh = left.pcolormesh(x, y, values, cmap="viridis", rasterized=True, zorder=0.5)
        _transition(left, x, y)
        left.set(xlabel="exponent ν of the eigenvalues", ylabel="exponent κ of the target")
        for at, words in ((0.9, "noise-dominated"), (0.08, "signal-dominated")):
            across, side = (0.04, "left") if at > 0.5 else (0.96, "right")
            left.text(across, at, words, transform=left.transAxes, ha=side, fontsize=7.5, path_effects=_HALO)
        bar = figure.colorbar(mesh, ax=left, pad=0.02)
        bar.set_label(f"measured ξ, t = {exponents.steps[0]:g} … {exponents.steps[-1]:g}", fontsize=7.5)
        bar.ax.tick_params(labelsize=6.5, length=2, width=0.5)
        zeta = exponents.kappa / exponents.nu[:, None]
        colors = _shades(exponents.nu)
        top = min(float(zeta.max()), 1.6 * float(np.nanmax(exponents.predicted)))
        line = np.linspace(0, top, 200)
        for i, (nu, color) in enumerate(zip(exponents.nu, colors, strict=True)):
            right.plot(line, np.where(nu > 1, np.minimum(line, 2 - 1 / nu), np.nan), color=color, **_dashes())
            right.plot(zeta[i], exponents.measured[i], "o", color=color, markersize=3.4)
        right.set(xlabel="ζ = κ/ν", ylabel="exponent ξ", xlim=(0, 1.03 * top), ylim=(0, None))
        picks = sorted({0, len(colors) // 2, len(colors) - 1})
        handles = [
            Line2D([], [], color=colors[i], marker="o", markersize=3.4, linestyle="none", label=f"ν = {nu:g}")
            for i, nu in zip(picks, exponents.nu[picks], strict=True)
        ]
        handles.append(Line2D([], [], label="min(ζ, 2 − 1/ν)", **{**_THEORY, "color": "0.3"}))
        right.legend(handles=handles, loc="lower right")
        _small_ticks(left, right)
        figure.suptitle(_settings(exponents))
    return figure


def _settings(exponents: ExponentMap) -> str:
    parts = f"N = {exponents.n}, α = {exponents.lr:g}, β = {exponents.momentum:g}, "
    parts += f"γ = {exponents.noise:g}, τ = {exponents.tau:g}"
    return parts.replace("= -", "= −")


def transition(exponents: LocalExponents) -> Figure:
    """Exact losses of one ν on both sides of the transition, and how their local exponents settle."""
    with style():
        figure = ShownFigure(figsize=(7.2, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        colors = _shades(exponents.kappa)
        for i, color in enumerate(colors):
            look = {"color": color, "linewidth": 1.5}
            left.plot(exponents.steps, exponents.loss[i], label=f"κ = {exponents.kappa[i]:.3g}", **look)
            right.plot(exponents.middle, exponents.local[i], **look)
            right.plot(exponents.middle[[0, -1]], exponents.predicted[[i, i]], **{**_THEORY, "color": color})
        for ax in (left, right):
            end = exponents.cutoff.min()
            if end < exponents.steps[-1]:
                ax.axvline(end, color="0.45", linestyle=":", linewidth=0.9)
        left.set(xscale="log", yscale="log", xlabel="SGD step t", ylabel="train loss")
        top = 1.35 * float(np.nanmax(exponents.predicted))
        right.set(xscale="log", xlabel="SGD step t", ylabel="local exponent −d log L/d log t", ylim=(0, top))
        left.legend(loc="lower left")
        handles = [Line2D([], [], label="exact", color="0.3", linewidth=1.5)]
        handles.append(Line2D([], [], label="min(ζ, 2 − 1/ν)", **{**_THEORY, "color": "0.3"}))
        right.legend(handles=handles, loc="lower right")
        border = 2 * exponents.nu - 1
        figure.suptitle(f"ν = {exponents.nu:g}, transition at κ = 2ν − 1 = {border:g}; N = {exponents.n}")
        _small_ticks(left, right)
    return figure


def momentum_profile(
    results: Mapping[str, tuple[BestMomentum, np.ndarray, np.ndarray]], *, ax: Axes | None = None
) -> Axes:
    """The least loss over all learning rates at each momentum, relative to that at β = 0; a star at the best momentum.

    `results`: those of `sgdsim.studies.phase_maps.momentum_profile` by name.
    """
    with style():
        if ax is None:
            ax = ShownFigure(figsize=(5.4, 2.8), layout="constrained").subplots()
        lowest = 1.0
        for (name, (best, momenta, losses)), color in zip(results.items(), PALETTE, strict=False):
            relative = losses / best.plain_loss
            ax.plot(
                momenta,
                relative,
                color=color,
                linewidth=1.4,
                label=f"{name}: β* = {best.momentum:.2f}".replace("= -", "= −"),
            )
            at = best.loss / best.plain_loss
            ax.plot(best.momentum, at, "*", color=color, markersize=9, markeredgecolor="white", zorder=4)
            lowest = min(lowest, at)
        ax.axvline(0, color="0.6", linewidth=0.7)
        ax.axhline(1, color="0.6", linewidth=0.7)
        ax.set(xlim=(-1, 1), ylim=(lowest - 0.1 * (1 - lowest) - 0.002, 1 + 2 * (1 - lowest) + 0.01))
        ax.set(xlabel="momentum β", ylabel="best loss at β, over that at 0")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7)
        _small_ticks(ax)
    return ax


def momentum_map(best: MomentumMap, *, ax: Axes | None = None) -> Axes:
    """The best momentum over (ν, κ), blue where negative; dashed the transition κ = 2ν − 1, solid where β* = 0."""
    with style():
        if ax is None:
            ax = ShownFigure(figsize=(4.4, 3.1), layout="constrained").subplots()
        x, y = edges(best.nu, 0.0, np.inf), edges(best.kappa, 0.0, np.inf)
        scale = TwoSlopeNorm(
            0.0, vmin=min(float(best.momentum.min()), -0.01), vmax=max(float(best.momentum.max()), 0.01)
        )
        mesh = ax.pcolormesh(x, y, best.momentum.T, norm=scale, cmap="RdBu_r", rasterized=True, zorder=0.5)
        if best.momentum.min() < 0 < best.momentum.max() and min(best.momentum.shape) > 1:
            ax.contour(best.nu, best.kappa, best.momentum.T, levels=[0.0], colors="black", linewidths=1.1)
        _transition(ax, x, y)
        ax.set(xlabel="exponent ν of the eigenvalues", ylabel="exponent κ of the target")
        bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02)
        bar.set_label("best momentum β*", fontsize=7.5)
        bar.ax.tick_params(labelsize=6.5, length=2, width=0.5)
        zero = Line2D([], [], color="black", linewidth=1.1, label="β* = 0")
        handles = [Line2D([], [], label="κ = 2ν − 1", **_BORDER), zero]
        ax.legend(
            handles=handles, loc="lower right", frameon=True, facecolor="white", framealpha=0.85, edgecolor="none"
        )
        ax.set_title(f"N = {best.n}, t = {best.horizon:g}, γ = {best.noise:g}, τ = {best.tau:g}")
        _small_ticks(ax)
    return ax


def clamped_momentum(clamped: ClampedMomentum, *, ax: Axes | None = None) -> Axes:
    """The best momentum against the horizon, a curve for each lower bound of the spectrum.

    A filled marker: the horizon is beyond the beginning of the exponential tail, `1/|σ₁|` at half the stable learning
    rate; an open one: before it.
    """
    with style():
        if ax is None:
            ax = ShownFigure(figsize=(4.4, 2.8), layout="constrained").subplots()
        for i, (floor, color) in enumerate(zip(clamped.floors, _shades(clamped.floors), strict=True)):
            name = f"λ_min = {floor:g}".replace("λ_min", r"$\lambda_{\min}$")
            ax.plot(clamped.horizons, clamped.momentum[i], color=color, linewidth=1.4, label=name)
            tail = clamped.horizons > -1 / clamped.rate[i]
            for which, face in ((tail, color), (~tail, "white")):
                x, y = clamped.horizons[which], clamped.momentum[i][which]
                ax.plot(x, y, "o", color=color, markerfacecolor=face, markersize=4.2)
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set(xscale="log", xlabel="horizon t", ylabel="best momentum β*")
        ax.set_title(f"ν = {clamped.nu:g}, κ = {clamped.kappa:g}, N = {clamped.n}, γ = {clamped.noise:g}")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        _small_ticks(ax)
    return ax


def _transition(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    nu = np.linspace(max(x[0], 1.0), x[-1], 100)
    ax.plot(nu, 2 * nu - 1, path_effects=_HALO, **_BORDER)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.grid(False)


def _dashes() -> Look:
    return {"linestyle": _THEORY["linestyle"], "linewidth": 0.9}


def _shades(values: np.ndarray) -> list:
    """A colour for each of ascending values, from dark to light but never too light for a line."""
    scale = Normalize(0, max(len(values) - 1, 1))
    return [matplotlib.colormaps["viridis"](0.88 * scale(i)) for i in range(len(values))]


def _small_ticks(*axes: Axes) -> None:
    """What the style says about ticks; these are made when drawn, outside the style."""
    for ax in axes:
        ax.tick_params(which="major", length=3, width=0.6, labelsize=7)
        ax.tick_params(which="minor", length=1.5, width=0.4)
