"""Maps of the final loss over learning rate and momentum, with theory's boundaries of stability drawn over them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from sgdsim.common.checks import InputError
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, regime_style, style
from sgdsim.studies.landscape import LossMap, Minimum, log10_loss, minimum, panels

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.problem import QuadraticProblem

MAX_PANELS = 24  # of one picture

_DIVERGED, _MISSING = "0.8", "white"
_HATCH = "//////"
_MARGIN = 0.02  # of the colour scale below its least value, so that the minimum is not the frame's darkest line
_FEW = 0.02  # share of a map's cells that the colour scale may leave out below, and five times that above
_BOUND: Look = {"color": "black", "linestyle": "-", "linewidth": 1.3}
_FULL_BATCH: Look = {"color": "black", "linestyle": (0, (5, 2)), "linewidth": 0.9}
_SURE: Look = {"color": "black", "linestyle": (0, (6, 1.5, 1, 1.5)), "linewidth": 0.9}
_ASYMPTOTE: Look = {"color": "black", "linestyle": (0, (1, 1.5)), "linewidth": 1.2}
_STAR: Look = {
    "color": PALETTE[3],
    "marker": "*",
    "markersize": 9.5,
    "markeredgecolor": "white",
    "linestyle": "none",
}
_MARK: Look = {"color": "white", "markersize": 6, "markeredgecolor": "black", "linestyle": "none"}
_MARKS = [{**_MARK, "marker": marker} for marker in "oDs"]


def check_panels(regimes: int, batch_sizes: int) -> None:
    """InputError where there are more maps than one picture holds."""
    if regimes * batch_sizes > MAX_PANELS:
        raise InputError(f"--plot: expected at most {MAX_PANELS} maps to draw, got {regimes} × {batch_sizes}")


def loss_maps(
    result: xr.Dataset,
    problem: QuadraticProblem,
    *,
    width: float | None = None,
    decades: float = 6.0,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """The final loss over momentum and learning rate: a panel per regime and batch size, one colour scale for all.

    Colour is log10 of the mean loss over replicates, up to the initial loss at most; cells with a diverged replicate
    are grey, those without a result hatched, and a star marks the minimum (`sgdsim.studies.landscape.minimum`).
    Boundaries: Ũ(1) = 1, that of the spectral-diagonal closure with the panel's γ and τ (τ = 1 for other regimes),
    solid; where every training point's own Ũ(1) is 1, dash-dotted, for up to 2000 points with eigenvectors: below it
    runs are surely stable; full batch, `2(1+β)`, dashed; `2(1−β)/(γλ_crit)`, what Ũ(1) = 1 tends to as β → 1, dotted
    ([VKY] sec. 4).

    Parameters
    ----------
    result : of a product grid over lr, momentum and batch_size (`sgdsim.sweep`).
    problem : the problem it was made with, for N and the boundaries.
    width : of the smoothing before the minimum is looked for, in cells; None: 1 for random batches, else 0.
    decades : length of the colour scale at most.
    marks : other points (α, β) to show in every panel, by what they are called.

    Raises
    ------
    InputError : another kind of result, or more than 24 panels.
    """
    quadratic = problem.quadratic
    maps = panels(result, quadratic)
    regimes = list(dict.fromkeys(panel.regime for panel in maps))
    sizes = len(maps) // len(regimes)
    check_panels(len(regimes), sizes)
    columns = sizes if sizes <= 5 else 4
    per_regime = math.ceil(sizes / columns)
    scale = _scale(maps, quadratic.initial_loss, decades)
    with style():
        shape = (len(regimes) * per_regime, columns)
        height = (2.05 if columns > 1 else 2.6) * shape[0] + 0.85
        figure = ShownFigure(figsize=(max(2.05 * columns + 0.95, 5.2), height), layout="constrained")
        axes = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
        for ax in axes.ravel():
            ax.set_visible(False)
        for i, panel in enumerate(maps):
            block, place = divmod(i, sizes)
            row, column = block * per_regime + place // columns, place % columns
            ax = axes[row, column]
            ax.set_visible(True)
            draw(ax, panel, quadratic, scale, minimum(panel, width=width))
            for (lr, momentum), look in zip((marks or {}).values(), itertools.cycle(_MARKS), strict=False):
                ax.plot(momentum, lr, zorder=4, clip_on=False, **look)
            last = place + columns >= sizes and block == len(regimes) - 1
            ax.tick_params(labelbottom=last, labelleft=column == 0)
            ax.set(xlabel="momentum β" if last else "", ylabel="learning rate α" if column == 0 else "")
            regime = f"{regime_style(panel.regime)['label']}, " if len(regimes) > 1 else ""
            ax.set_title(f"{regime}b = {panel.batch_size}")
        _color_bar(figure, [ax for ax in axes.ravel() if ax.get_visible()], maps, scale, aspect=16 * shape[0])
        _legend(figure, maps, columns, list(marks or ()), sure=_sure_line(quadratic))
        title = quadratic.description.get("title", "")
        figure.suptitle(title if len(regimes) > 1 else f"{title}: {regime_style(regimes[0])['label']}")
    return figure


def _color_bar(figure: Figure, axes: list[Axes], maps: list[LossMap], scale: Normalize, *, aspect: float) -> None:
    """Pointed where losses lie beyond the scale."""
    below = any((log10_loss(panel) < scale.vmin).any() for panel in maps)
    above = any((log10_loss(panel) > scale.vmax).any() for panel in maps)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    mapped = matplotlib.cm.ScalarMappable(scale, matplotlib.colormaps["viridis"])
    bar = figure.colorbar(mapped, ax=axes, pad=0.015, aspect=aspect, extend=extend[below, above])
    bar.set_label(f"log₁₀ of the loss at t = {maps[0].n_steps}", fontsize=7.5)
    bar.ax.tick_params(labelsize=7, length=2, width=0.5)


def draw(ax: Axes, panel: LossMap, problem: QuadraticProblem, scale: Normalize, least: Minimum | None) -> None:
    """One map with its boundaries, their names beside them, and a star at `least`."""
    x, y = edges(panel.momentum, -1.0, 1.0), edges(panel.lr, 0.0, math.inf)
    ax.set_facecolor(_MISSING)
    if panel.missing.any():
        blank = np.ma.masked_where(~panel.missing, np.zeros(panel.loss.shape))
        ax.pcolor(x, y, blank, cmap=ListedColormap([_MISSING]), hatch=_HATCH, edgecolor="0.6", linewidth=0, zorder=0.4)
    if panel.diverged.any():
        grey = np.ma.masked_where(~panel.diverged, np.zeros(panel.loss.shape))
        ax.pcolormesh(x, y, grey, cmap=ListedColormap([_DIVERGED]), rasterized=True, zorder=0.5)
    logs = np.ma.masked_invalid(log10_loss(panel))
    ax.pcolormesh(x, y, logs, norm=scale, cmap="viridis", rasterized=True, zorder=0.5)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.grid(False)
    _boundaries(ax, panel, problem)
    if least is not None:
        ax.plot(least.momentum, least.lr, zorder=4, clip_on=False, **_STAR)


def edges(centres: np.ndarray, low: float, high: float) -> np.ndarray:
    """(n + 1,) borders of cells around ascending `centres`: half-way between them, no further than `low` and `high`."""
    if centres.size == 1:
        around = 0.05 * (high - low) if math.isfinite(high - low) else 0.1 * abs(centres[0])
        borders = np.array([centres[0] - around, centres[0] + around])
    else:
        inner = (centres[1:] + centres[:-1]) / 2
        borders = np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])
    return np.clip(borders, low, high)


def _scale(maps: list[LossMap], initial: float, decades: float) -> Normalize:
    """From where all but few cells of the lowest map begin to where those of the highest end, or at the start."""
    top = math.log10(initial) if initial > 0 else 0.0
    logs = [log10_loss(panel)[np.isfinite(panel.loss)] for panel in maps]
    logs = [values for values in logs if values.size]
    low = min((float(np.quantile(values, _FEW)) for values in logs), default=top - 1)
    top = min(top, max((float(np.quantile(values, 1 - 5 * _FEW)) for values in logs), default=top))
    low = max(low, top - decades) if low < top else top - 1
    return Normalize(low - _MARGIN * (top - low), top)


def _sure_line(problem: QuadraticProblem) -> bool:
    """Whether eigenvectors are there, and few enough, for the boundary of what is surely stable."""
    from sgdsim.theory.stability import EXACT_IN_TABLES

    return problem.has_basis and problem.n <= EXACT_IN_TABLES


def _boundaries(ax: Axes, panel: LossMap, problem: QuadraticProblem) -> None:
    from sgdsim.theory import stability, verdicts

    if not panel.is_plain:
        return  # the formulas are heavy ball's, without weight decay
    left, right = ax.get_xlim()
    beta = np.clip(np.linspace(left, right, 400), -0.999, 0.9995)
    full = 2 * (1 + beta)
    bound = stability.diagonal_max_lr(problem, momentum=beta, noise=panel.noise, tau=panel.tau)
    halo = [withStroke(linewidth=2.4, foreground="white", alpha=0.75)]
    ax.plot(beta, full, path_effects=halo, **_FULL_BATCH)
    top = ax.get_ylim()[1]
    _label(ax, beta, full, "$2(1+\\beta)$", near=(0.1, 2.2), ha="right", va="bottom")
    if panel.noise == 0 or panel.tau > 1:
        return
    ax.plot(beta, bound, path_effects=halo, **_BOUND)
    if _sure_line(problem):
        some = beta[:: len(beta) // 25]
        ax.plot(some, verdicts.surely_stable(problem, some, panel.noise, 1e-3), path_effects=halo, **_SURE)
    critical = stability.critical_eigenvalue(problem, panel.tau)
    if critical > 0:
        line = 2 * (1 - beta) / (panel.noise * critical)
        ax.plot(beta[beta > 0], line[beta > 0], path_effects=halo, **_ASYMPTOTE)
        aim = 0.88 * top
        if (line > 0.55 * top)[beta > 0.7].any():  # it leaves the frame at the top, beside the right border
            where: Look = {"ha": "right", "near": (1 - aim * panel.noise * critical / 2, aim)}
        else:
            where = {"ha": "left", "near": (0.55, 0.0)}
        _label(ax, beta[beta > 0], line[beta > 0], r"$\lambda_{\rm crit}$", va="bottom", **where)
    height = float(np.interp(0.1, beta, bound)) / top  # a low curve has room below its top only, or above it
    place: Look = {"near": (0.0, 0.0), "va": "top" if height > 0.25 else "bottom"}
    if height > 0.4:
        place = {"near": (0.02, 2.0), "ha": "left", "va": "top"}
    _label(ax, beta, bound, r"$\tilde U(1)=1$", **place)


def _label(ax: Axes, x: np.ndarray, y: np.ndarray, words: str, *, near: tuple[float, float], **text: Any) -> None:
    """`words` beside the curve, at its point inside the frame that is nearest to `near` (x first)."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    inside = (y < low + 0.94 * (high - low)) & (y > low + 0.03 * (high - low)) & (x > left) & (x < right)
    inside &= x > left + 0.3 * (right - left) if text.get("ha") == "right" else x < right - 0.2 * (right - left)
    if not inside.any():
        return
    away = np.abs(x - near[0]) / (right - left) + 0.1 * np.abs(y - near[1]) / (high - low)
    i = np.flatnonzero(inside)[np.argmin(away[inside])]
    gap = {"right": -3, "left": 3, "center": 0}[text.setdefault("ha", "center")]
    shift, halo = (gap, -2 if text["va"] == "top" else 3), [withStroke(linewidth=2.2, foreground="white", alpha=0.85)]
    text |= {"textcoords": "offset points", "fontsize": 7.5, "zorder": 3, "path_effects": halo}
    ax.annotate(words, (x[i], y[i]), xytext=shift, **text)


def _legend(
    figure: Figure, maps: list[LossMap], columns: int, marks: Sequence[str] = (), *, sure: bool = False
) -> None:
    """What the colours and lines are; lines that no panel has are left out."""
    handles: dict[str, Artist] = {"least loss": Line2D([], [], **_STAR)}
    if any(panel.stochastic for panel in maps):
        handles = {"least loss (sampled: smoothed)": handles.popitem()[1]}
    for name, look in zip(marks, itertools.cycle(_MARKS), strict=False):
        handles[name] = Line2D([], [], **look)
    if any(panel.noise > 0 and panel.is_plain for panel in maps):
        handles["spectral-diagonal, $\\tilde U(1) = 1$"] = Line2D([], [], **_BOUND)
        handles["its limit at β → 1: $2(1-\\beta)/(\\gamma\\lambda_{\\rm crit})$"] = Line2D([], [], **_ASYMPTOTE)
        if sure:
            handles["surely stable below"] = Line2D([], [], **_SURE)
    if any(panel.is_plain for panel in maps):
        handles["full batch, $2(1+\\beta)$"] = Line2D([], [], **_FULL_BATCH)
    if any(panel.diverged.any() for panel in maps):
        handles["diverged"] = Patch(facecolor=_DIVERGED)
    if any(panel.missing.any() for panel in maps):
        handles["no result"] = Patch(facecolor=_MISSING, edgecolor="0.6", hatch=_HATCH, linewidth=0)
    widest = 2 if columns <= 2 and len(handles) > 5 else 3
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(columns + 1, widest))
