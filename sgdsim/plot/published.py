"""Pictures of the reproduction report: published values beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sgdsim.common.checks import InputError
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, style
from sgdsim.plot.theory import phase_diagram

if TYPE_CHECKING:
    from sgdsim.problem import QuadraticProblem
    from sgdsim.problem.fits import PowerLawFit
    from sgdsim.theory.power_law import PowerLaw

_PUBLISHED: Look = {
    "color": PALETTE[3],
    "marker": "*",
    "markersize": 9,
    "linestyle": "none",
    "markeredgecolor": "white",
}
_OURS: Look = {"color": "black", "marker": "o", "markersize": 4, "linestyle": "none"}
_LINES = [
    ("black", "-", 2.0),
    (PALETTE[1], (0, (5, 2)), 1.6),
    (PALETTE[2], (0, (1.2, 1.2)), 1.8),
    (PALETTE[0], "-", 1.0),
]


def _ticks(ax: Axes) -> None:
    # ticks are made when drawn, outside the style: set what the style says
    ax.tick_params(which="major", length=3, width=0.6, labelsize=7)
    ax.tick_params(which="minor", length=1.5, width=0.4, labelsize=6)


def momentum_profiles(profiles: Sequence[tuple[float, float, np.ndarray, np.ndarray, float, float]]) -> Figure:
    """Loss over momentum at a fixed learning rate, a panel per spectrum.

    Each profile: ν, κ, momenta (M,), losses relative to that without momentum (M,), our best momentum, the published.
    """
    with style():
        figure = ShownFigure(figsize=(1.75 * len(profiles) + 0.5, 2.5), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(profiles), sharey=True))
        for ax, (nu, kappa, beta, loss, ours, published) in zip(axes, profiles, strict=True):
            ax.plot(beta, loss, color=PALETTE[2], linewidth=1.6)
            ax.axvline(0, color="0.6", linewidth=0.7, linestyle=":")
            for place, look in ((published, _PUBLISHED), (ours, _OURS)):
                ax.plot(place, np.interp(place, beta, loss), **look)
            ax.set(title=f"ν = {nu:g}, κ = {kappa:g}", xlabel="momentum β", ylim=(0.98, 1.05), xlim=(-0.42, 0.22))
            _ticks(ax)
        axes[0].set_ylabel("loss / loss at β = 0")
        handles = [Line2D([], [], **_OURS), Line2D([], [], **_PUBLISHED)]
        figure.legend(handles, ["least loss, without a grid", "published"], loc="outside lower center", ncols=2)
    return figure


def negative_momentum_region(
    nu: np.ndarray,
    kappa: np.ndarray,
    helps: np.ndarray,
    border: Sequence[tuple[float, float]],
    checked: Sequence[tuple[float, float, float]],
) -> Figure:
    """Where the condition for negative momentum holds, (ν, κ) of shape (len(nu), len(kappa)), and exact signs.

    `border`: points (ν, κ) of the noise-dominated phase's border; `checked`: (ν, κ, exact best momentum).
    """
    with style():
        figure = ShownFigure(figsize=(3.6, 3.1), layout="constrained")
        ax = figure.subplots()
        ax.contourf(nu, kappa, helps.T.astype(float), levels=[0.5, 1.5], colors=[PALETTE[9]], alpha=0.45)
        ax.plot(*np.transpose(border), color="black", linewidth=1.2, linestyle=(0, (4, 2)))
        looks: dict[bool, Look] = {
            True: {**_OURS, "marker": "v"},
            False: {**_OURS, "marker": "^", "markerfacecolor": "white"},
        }
        for x, y, best in checked:
            ax.plot(x, y, **looks[best < 0])
        ax.set(xlabel="exponent ν of the eigenvalues", ylabel="exponent κ of the target's tail")
        ax.set(xlim=(nu[0], nu[-1]), ylim=(kappa[0], kappa[-1]))
        ax.grid(False)
        _ticks(ax)
        handles = {
            "condition holds": Patch(facecolor=PALETTE[9], alpha=0.45),
            "ζ = 2 − 1/ν; noise dominates above": Line2D([], [], color="black", linestyle=(0, (4, 2)), linewidth=1.2),
        }
        for negative, words in ((True, "best β < 0, exactly"), (False, "best β ≥ 0, exactly")):
            if any((best < 0) == negative for *_, best in checked):
                handles[words] = Line2D([], [], **looks[negative])
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=1)
    return figure


def local_exponents(curves: Sequence[tuple[str, QuadraticProblem, float, float]]) -> Figure:
    """Local exponents of λ_k (top) and of tail sums (bottom) over k, a column per data set.

    Slopes over a factor of 2 either side of k. Each curve: name, problem, published ν and κ. Dotted: the tail of
    `c_k ∝ 1/k` (κ = 0) cut off at the same N.
    """
    with style():
        figure = ShownFigure(figsize=(2.7 * len(curves) + 0.4, 4.0), layout="constrained")
        axes = figure.subplots(2, len(curves), squeeze=False, sharex="col", sharey="row")
        for column, (name, problem, nu, kappa) in zip(axes.T, curves, strict=True):
            n = problem.n
            k = np.unique(np.geomspace(4, n // 3, 60).astype(int))
            c = problem.coefficients**2
            flat = 1 / np.arange(1, n + 1.0)
            column[0].plot(k, _slopes(problem.eigenvalues, k), color="black", linewidth=1.5)
            column[0].axhline(nu, color=PALETTE[3], linewidth=1.1, linestyle=(0, (5, 2)))
            tails = [np.cumsum(values[::-1])[::-1] for values in (c, flat)]
            column[1].plot(k, _slopes(tails[0], k), color="black", linewidth=1.5)
            column[1].plot(k, _slopes(tails[1], k), color="0.35", linewidth=1.3, linestyle=":")
            column[1].axhline(kappa, color=PALETTE[3], linewidth=1.1, linestyle=(0, (5, 2)))
            column[0].set_title(f"{name.replace('_', ' ')}, N = {n}")
            column[1].set(xlabel="mode index k", xscale="log", ylim=(0, 1.2))
            column[0].set_ylim(0, 3.2)
            for ax in column:
                _ticks(ax)
        axes[0, 0].set_ylabel(r"local exponent of $\lambda_k$")
        axes[1, 0].set_ylabel(r"local exponent of $\sum_{l \geq k} c_l$")
        handles = {
            "data, network of width 1000": Line2D([], [], color="black", linewidth=1.5),
            "published": Line2D([], [], color=PALETTE[3], linewidth=1.1, linestyle=(0, (5, 2))),
            r"$c_k \propto 1/k$, so κ = 0, cut off at N": Line2D([], [], color="0.35", linewidth=1.3, linestyle=":"),
        }
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
    return figure


def _slopes(values: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Local exponents at modes k ≥ 2 (counted from 1): least squares over log k from k/2 to 2k."""
    out = []
    for centre in k:
        window = np.arange(max(centre // 2, 1), min(2 * centre, values.size) + 1)
        out.append(-np.polyfit(np.log(window), np.log(values[window - 1]), 1, w=window**-0.5)[0])
    return np.array(out)


def phases_with_data(laws: Mapping[str, PowerLaw], fitted: Mapping[str, tuple[PowerLawFit, PowerLaw]], /) -> Figure:
    """The phase diagram with given laws; for each data set our fit with its intervals, and the published point."""
    with style():
        figure = ShownFigure(figsize=(4.6, 3.1), layout="constrained")
        ax = phase_diagram(laws, ax=figure.subplots())
        handles = {}
        for (name, (fit, published)), color in zip(fitted.items(), (PALETTE[3], PALETTE[2]), strict=False):
            if fit.zeta is None:
                raise InputError(f"fitted: expected fits of coefficients too, got one without for {name!r}")
            (left, x, right), (low, y, high) = ((e.low, e.value, e.high) for e in (fit.nu, fit.zeta))
            ax.plot([left, right], [max(y, 0.02)] * 2, color=color, linewidth=1.4)
            ax.plot([x, x], [max(low, 0), max(high, 0)], color=color, linewidth=1.4)
            ax.plot(published.nu, published.zeta, **{**_PUBLISHED, "color": color})
            handles[f"{name}: intervals"] = Line2D([], [], color=color, linewidth=1.4)
            handles[f"{name}: published"] = Line2D([], [], **{**_PUBLISHED, "color": color})
        _ticks(ax)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)
    return figure


def valley(
    momentum: np.ndarray,
    least: np.ndarray,
    marks: np.ndarray,
    printed: np.ndarray,
    samples: np.ndarray,
    star: float,
) -> Figure:
    """The least loss over α at each momentum (M,); at `marks` (K,) the losses printed (K,) and ours (samples, K)."""
    with style():
        figure = ShownFigure(figsize=(4.0, 2.9), layout="constrained")
        ax = figure.subplots()
        seen = np.isfinite(least)
        ax.plot(momentum[seen], least[seen], color=PALETTE[2], linewidth=1.5, label="least loss over α, one sample")
        ax.plot(
            np.tile(marks, len(samples)),
            samples.ravel(),
            "o",
            color="black",
            markersize=3,
            label="ours, several samples",
        )
        ax.plot(marks, printed, **{**_PUBLISHED, "marker": "D", "markersize": 5}, label="printed in the notebook")
        at = np.argmin(np.abs(marks - star))
        ax.annotate(
            "published star",
            (marks[at], printed[at]),
            xytext=(-95, -26),
            textcoords="offset points",
            fontsize=7.5,
            arrowprops={"arrowstyle": "->", "linewidth": 0.7, "color": "black"},
        )
        low, high = 0.4, 1.0
        inside = seen & (momentum > low)
        bottom = min(least[inside].min(), samples.min(), printed.min())
        ax.set(yscale="log", xlim=(low, high), xlabel="momentum β", ylabel="loss at t = 10⁴")
        ax.set_ylim(0.6 * bottom, 1.5 * least[inside].max())
        ax.legend(loc="upper right")
        _ticks(ax)
    return figure


def loss_lines(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Losses (T,) against steps (T,) on log-log axes, by name; four at most."""
    with style():
        figure = ShownFigure(figsize=(5.4, 2.9), layout="constrained")
        ax = figure.subplots()
        for (name, (steps, loss)), (color, dashes, width) in zip(curves.items(), _LINES, strict=False):
            ax.plot(steps, np.where(loss > 0, loss, np.nan), color=color, linestyle=dashes, linewidth=width, label=name)
        ax.set(xscale="log", yscale="log", xlabel="SGD step t", ylabel="train loss")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right center")
        _ticks(ax)
    return figure
