"""The picture of theory against the training of real networks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sgdsim.common.checks import InputError
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, closure_style, regime_style, style
from sgdsim.studies.validation_tables import ValidationCell, data_name

MAX_ROWS = 8  # data sets in one picture

_LEVELS = {  # of theory, all dashed: name, style
    "full": ("full batch, 2(1+β)", {"color": "0.45", "linestyle": (0, (5, 2)), "linewidth": 1.0}),
    "diagonal": ("spectral-diagonal, τ = 1", {"color": PALETTE[2], "linestyle": (0, (6, 1.5, 1.2, 1.5))}),
    "exact": ("exact in mean square", {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.2}),
}
_MEASURED = {  # regime and criterion: name, marker
    ("sampled", "settles"): ("linearised: settles", {"marker": "s", "markerfacecolor": PALETTE[1]}),
    ("network", "bounded"): ("network: within 10× of the start", {"marker": "o", "markerfacecolor": "white"}),
    ("network", "settles"): ("network: settles", {"marker": "o", "markerfacecolor": PALETTE[0]}),
}
_CURVES = ("diagonal", "sampled", "network")
_DASHES = ["-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5))]


def validation(cells: Sequence[ValidationCell]) -> Figure:
    """Thresholds, loss ratio and exponents, a row for each data set.

    Left: predicted levels and measured thresholds over the batch size, one column of marks per width (narrow to wide
    from left to right); an arrow where the search ended before. Middle: network over linearised loss on the same
    batches. Right: exponents over decades of t, of the widest network.

    Parameters
    ----------
    cells : as `sgdsim validate --out` writes them.

    Raises InputError for no cells, or more than 8 data sets.
    """
    names = list(dict.fromkeys(map(data_name, cells)))
    if not 1 <= len(names) <= MAX_ROWS:
        raise InputError(f"--plot: expected 1 to {MAX_ROWS} data sets to draw, got {len(names)}")
    widths = sorted({cell["network"].get("width", 0) for cell in cells})
    colors = dict(zip(widths, matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(widths))), strict=True))
    sizes = sorted({cell["batch_size"] for cell in cells if cell["training"]})
    dashes = {size: _DASHES[i % len(_DASHES)] for i, size in enumerate(sizes)}
    with style():
        figure = ShownFigure(figsize=(7.6, 1.9 * len(names) + 1.0), layout="constrained")
        axes = figure.subplots(len(names), 3, squeeze=False)
        for row, name in zip(axes, names, strict=True):
            of_name = [cell for cell in cells if data_name(cell) == name]
            _draw_thresholds(row[0], [cell for cell in of_name if cell["thresholds"]], name)
            trained = [cell for cell in of_name if cell["training"]]
            _draw_ratios(row[1], trained, colors, dashes)
            _draw_exponents(row[2], trained, dashes)
        titles = ("stability threshold α", "network/linearised loss", "exponent ξ (in grey: b)")
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title)
        for ax, label in zip(axes[-1], ("batch size b", "SGD step t", "t of the decade"), strict=True):
            ax.set_xlabel(label)
        _legend(figure, colors, dashes)
    return figure


def _draw_thresholds(ax: Axes, cells: Sequence[Mapping[str, Any]], name: str) -> None:
    ax.set_ylabel(name)
    sizes = sorted({cell["batch_size"] for cell in cells})
    for place, size in enumerate(sizes):
        here = sorted((c for c in cells if c["batch_size"] == size), key=lambda c: c["network"].get("width", 0))
        offsets = np.linspace(-0.24, 0.24, 2 * len(here) + 1)[1::2]
        half = 0.5 if len(here) == 1 else (offsets[1] - offsets[0]) / 2 + 0.02
        for offset, cell in zip(offsets, here, strict=True):
            thresholds, x = cell["thresholds"], place + offset
            span = [x - min(half, 0.34), x + min(half, 0.34)]
            values = {
                "full": thresholds["full_batch"],
                "diagonal": thresholds["diagonal"]["1"],
                "exact": thresholds["exact"],
            }
            for level, (_, look) in _LEVELS.items():
                ax.plot(span, [values[level]] * 2, **look)
            for (regime, criterion), (_, look) in _MEASURED.items():
                ends = thresholds["measured"][regime][criterion]
                low, high = ends["low"], ends["high"]
                color = look["markerfacecolor"] if look["markerfacecolor"] != "white" else PALETTE[0]
                marks = {"color": color, "markeredgecolor": color, "markersize": 4.2, "zorder": 3, **look}
                if not low or not high:  # the search ended before
                    known = low or high
                    marks |= {"marker": "^" if low else "v"}
                    ax.plot(x, known, linestyle="none", **marks)
                else:
                    ax.plot(x, (low * high) ** 0.5, linestyle="none", **marks)
    ax.set(yscale="log", xlim=(-0.6, max(len(sizes), 1) - 0.4))
    ax.set_xticks(range(len(sizes)), [f"{size}" for size in sizes])
    _plain_ticks(ax)
    if not cells:
        _empty(ax)


def _draw_ratios(ax: Axes, cells: Sequence[Mapping[str, Any]], colors: dict[int, Any], dashes: dict[int, Any]) -> None:
    for cell in cells:
        run = cell["training"]
        steps = np.array(run["steps"])
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = _mean(run["network"]) / _mean(run["sampled"])
        shown = (steps >= 1) & np.isfinite(ratio) & (ratio > 0)
        width = cell["network"].get("width", 0)
        ax.plot(steps[shown], ratio[shown], color=colors[width], linestyle=dashes[cell["batch_size"]], linewidth=1.2)
    if not any(np.size(line.get_xdata()) for line in ax.lines):  # a log axis needs limits above 0
        ax.set_xlim(1, max((cell["training"]["steps"][-1] for cell in cells), default=10))
    ax.axhline(1.0, color="black", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0.5)
    ax.set(xscale="log", yscale="log")
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.8), max(high, 1.25))
    _plain_ticks(ax)
    if not cells:
        _empty(ax)


def _draw_exponents(ax: Axes, cells: Sequence[Mapping[str, Any]], dashes: dict[int, Any]) -> None:
    """Of the widest network: the closure dashed, linearised and network as marks, the fitted law as a band."""
    widest = max((cell["network"].get("width", 0) for cell in cells), default=0)
    cells = [cell for cell in cells if cell["network"].get("width", 0) == widest]
    windows = sorted({tuple(slopes["window"]) for cell in cells for slopes in cell["slopes"]})
    shift = 0.12
    for i, cell in enumerate(cells):
        aside = (i - (len(cells) - 1) / 2) * 0.32
        for slopes in cell["slopes"]:
            x = windows.index(tuple(slopes["window"])) + aside
            if slopes["diagonal"]["value"] is not None:
                look = closure_style(1.0)
                span, value = [x - 0.14, x + 0.14], slopes["diagonal"]["value"]
                ax.plot(span, [value] * 2, color=look["color"], linestyle=look["linestyle"], linewidth=1.5)
            for name, sign in (("sampled", -1), ("network", 1)):
                if slopes[name]["value"] is None:
                    continue
                look = {"color": regime_style(name)["color"], "marker": "s" if name == "sampled" else "o"}
                look |= {"markersize": 3.6, "linewidth": 1.0, "linestyle": "none"}
                ax.errorbar(x + sign * shift / 2, slopes[name]["value"], slopes[name]["stderr"] or 0.0, **look)
            below: Look = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            ax.annotate(f"{cell['batch_size']}", (x, 0), (0, 2), ha="center", fontsize=5.5, color="0.4", **below)
    ax.set_xlim(-0.6, max(len(windows), 1) - 0.4)
    # The band of the law may reach far beyond all that was found.
    exponents = [slopes[name]["value"] or 0.0 for cell in cells for slopes in cell["slopes"] for name in _CURVES]
    low, high = min([0.0, *exponents]), max([0.5, *exponents])
    ax.set_ylim(low - 0.15 * (high - low), high + 0.1 * (high - low))
    law = next((cell["law"]["exponent"] for cell in cells if cell["law"]), None)
    if law is not None:
        ends = (far if law[end] is None else law[end] for end, far in zip(("low", "high"), ax.get_ylim(), strict=True))
        ax.axhspan(*ends, color=PALETTE[3], alpha=0.12, linewidth=0)
        if law["value"] is not None:
            ax.axhline(law["value"], color=PALETTE[3], linewidth=1.1, linestyle=(0, (4, 2)))
    ax.set_xticks(range(len(windows)), ["–".join(_short(step) for step in window) for window in windows])
    if not cells:
        _empty(ax)


def _mean(losses: list[list[float | None]]) -> np.ndarray:
    """Over replicates, NaN where one has diverged or was not reached."""
    return np.array(losses, dtype=np.float64).mean(0)


def _short(step: int) -> str:
    power = len(str(step)) - 1
    return f"$10^{power}$" if step == 10**power and power > 1 else f"{step}"


def _plain_ticks(ax: Axes) -> None:
    """1, 2, 5, 10 … written out on a log axis that spans few decades, or 0.8, 0.9, 1 … on part of one."""
    low, high = ax.get_ylim()
    for choice in ((1, 10), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        marks = [m * 10.0**p for p, m in itertools.product(range(-4, 5), choice) if low <= m * 10.0**p <= high]
        if len(marks) >= 4:
            break
    ax.set_yticks(marks, [f"{mark:g}" for mark in marks])
    ax.minorticks_off()


def _empty(ax: Axes) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", va="center", color="0.5")


def _legend(figure: Figure, colors: dict[int, Any], dashes: dict[int, Any]) -> None:
    handles: dict[str, Artist] = {name: Line2D([], [], **look) for name, look in _LEVELS.values()}
    for name, look in _MEASURED.values():
        color = look["markerfacecolor"] if look["markerfacecolor"] != "white" else PALETTE[0]
        handles[name] = Line2D([], [], linestyle="none", markersize=4.2, markeredgecolor=color, **look)
    handles["fitted law, 95% interval"] = Line2D([], [], color=PALETTE[3], linewidth=1.1, linestyle=(0, (4, 2)))
    handles |= {f"width {width}": Line2D([], [], color=color) for width, color in colors.items()}
    handles |= {f"b = {size}": Line2D([], [], color="0.3", linestyle=dash) for size, dash in dashes.items()}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=6.5)
