"""Pictures of closures: sampled mean and band, exact average, spectral-diagonal losses for several τ; their errors."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sgdsim.common.checks import InputError
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import regime_style, style
from sgdsim.runs.followed import followed
from sgdsim.studies.closures import EXACT, SAMPLED, ErrorMap, curve, distances, nearest

if TYPE_CHECKING:
    import xarray as xr

MAX_CELLS = 5
_BAND = (0.1, 0.9)
_LARGEST = 3.0  # times the initial loss: what grows beyond is cut off
_WIDEST = 0.5  # of the relative difference shown below: what is farther off leaves the frame
_ERRORS = (-100, -50, -20, -5, -1, 1, 5, 20, 100, 1e9)  # per cent, where the colours of a map change
_DASHES = [(0, (1.2, 1.2)), (0, (3, 1.5)), (0, (6, 1.5, 1.2, 1.5)), (0, (6, 2)), (0, (8, 1.5, 1.2, 1.5, 1.2, 1.5))]


def tau_curves(result: xr.Dataset) -> Figure:
    """A column for each cell. Above: the sampled mean and its 10–90% band over replicates, the exact average and the
    spectral-diagonal losses for all τ of `result`. Below: relative difference from the exact average, and for the
    sampled mean ±2 standard errors. The τ nearest to the exact average (`sgdsim.studies.closures`) is in the title.

    Raises InputError for more than 5 cells, and for what `sgdsim.studies.closures.distances` refuses.
    """
    best = nearest(distances(result))
    grid = [str(name) for name in result["loss"].dims if name not in ("regime", "replicate", "step")]
    cells = [
        result.isel(dict(zip(grid, at, strict=True)))
        for at in itertools.product(*(range(result.sizes[name]) for name in grid))
    ]
    if len(cells) > MAX_CELLS:
        raise InputError(f"result: expected at most {MAX_CELLS} cells, got {len(cells)}; select some")
    regimes = followed(result)
    kinds = {name: regime.kind for name, regime in regimes.items()}
    with_tau = ((name, regime.tau) for name, regime in regimes.items() if regime.tau is not None)
    taus = sorted(with_tau, key=lambda entry: entry[1])
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.8, max(len(taus), 1)))
    looks = {
        name: {"color": shade, "linestyle": _DASHES[i % 5], "linewidth": 1.3}
        for i, ((name, _), shade) in enumerate(zip(taus, shades, strict=True))
    }
    with style():
        figure = ShownFigure(figsize=(2.75 * len(cells) + 1.3, 4.4), layout="constrained")
        axes = figure.subplots(2, len(cells), squeeze=False, sharex=True, height_ratios=[1.25, 1])
        for cell, top, bottom in zip(cells, axes[0], axes[1], strict=True):
            _losses(top, cell, kinds, looks)
            _differences(bottom, cell, kinds, looks)
            own = [distance for distance in best if all(cell[name].item() == v for name, v in distance.cell.items())]
            nearby = f"\nnearest: τ = {own[0].tau:g}" if own else ""
            top.set_title((_settings(cell) + nearby).replace("= -", "= −"))
            bottom.set_xlabel("SGD step t")
        axes[0, 0].set_ylabel("train loss")
        axes[1, 0].set_ylabel("relative to exact average")
        figure.legend(*_legend(kinds, taus, looks), loc="outside right center")
    return figure


def closure_errors(found: ErrorMap) -> Figure:
    """A row for each τ, a column for each batch size and momentum: the closure's relative error over the step and the
    learning rate. White: within 1%; blue: it promises too little loss; red: too much, or infinitely
    much; grey: the exact one is not known."""
    rows, columns = len(found.taus), len(found.settings)
    x = np.log10(found.steps)
    colors = matplotlib.colormaps["RdBu_r"](np.append(np.linspace(0.05, 0.42, 4), np.linspace(0.5, 0.95, 5)))
    norm = BoundaryNorm(_ERRORS, len(colors))
    with style():
        figure = ShownFigure(figsize=(1.75 * columns + 1.7, 1.75 * rows + 0.7), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for (k, i), ax in np.ndenumerate(axes):
            ax.set_facecolor("0.8")
            mesh = ax.pcolormesh(
                10 ** _edges(x),
                _edges(found.fractions),
                np.minimum(100 * found.error[k, i], _ERRORS[-1]),
                cmap=ListedColormap(colors),
                norm=norm,
                linewidth=0,
            )
            ax.set(xscale="log", ylim=(0, 1))
            ax.grid(False)
            if k == 0:
                ax.set_title("b = {}, β = {:g}".format(*found.settings[i]).replace("= -", "= −"))
            if i == 0:
                ax.set_ylabel(f"τ = {found.taus[k]:g}\nα over largest stable".replace("= -", "= −"))
            if k == rows - 1:
                ax.set_xlabel("SGD step t")
        bar = figure.colorbar(mesh, ax=axes, ticks=_ERRORS[1:-1], spacing="uniform", fraction=0.05)
        bar.ax.set_yticklabels([f"{tick:+g}%".replace("-", "−") for tick in _ERRORS[1:-1]], fontsize=7)
        bar.set_label("closure's loss against the exact average", fontsize=7.5)
        figure.suptitle(found.title)
    return figure


def _edges(centres: np.ndarray) -> np.ndarray:
    """Between neighbours, and as far beyond the first and the last."""
    if centres.size == 1:
        return centres + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _settings(cell: xr.Dataset) -> str:
    symbols = {"lr": "α", "momentum": "β", "batch_size": "b"}
    known = {name: cell[name] for name in symbols if name in cell.coords and cell[name].ndim == 0}
    return ", ".join(f"{symbols[name]} = {value.item():g}" for name, value in known.items())


def _exact(kinds: dict[str, str]) -> str:
    return next(name for name, kind in kinds.items() if kind == EXACT)


def _losses(ax: Axes, cell: xr.Dataset, kinds: dict[str, str], looks: dict) -> None:
    steps = cell["step"].values
    later = steps >= 1
    exact = curve(cell, _exact(kinds))[0]
    top = _LARGEST * exact[0]
    lowest = exact[later & np.isfinite(exact)].min()
    for name in sorted(kinds, key=lambda name: kinds[name] == EXACT):
        if name in looks:
            look = looks[name]
        elif kinds[name] in (SAMPLED, EXACT):
            look = {key: value for key, value in regime_style(kinds[name]).items() if key != "label"}
        else:
            continue
        mean = curve(cell, name)[0]
        if kinds[name] == SAMPLED:
            runs = cell["loss"].isel(regime=[*kinds].index(name)).transpose("replicate", "step").values
            runs = runs[~np.isnan(runs).all(1)]
            low, high = np.quantile(runs, _BAND, axis=0, method="inverted_cdf")
            ax.fill_between(
                steps[later],
                low[later],
                np.minimum(high[later], 10 * top),
                color=look["color"],
                alpha=0.22,
                linewidth=0,
            )
        with np.errstate(invalid="ignore"):
            ax.plot(steps[later], np.where(mean <= 10 * top, mean, np.nan)[later], **look)
    ax.set(xscale="log", yscale="log", ylim=(lowest / 1.5, min(top, 2 * max(exact[later][0], exact[0]))))


def _differences(ax: Axes, cell: xr.Dataset, kinds: dict[str, str], looks: dict) -> None:
    """Relative differences; the frame is as wide as the two τ that are farthest off, within ±50%."""
    steps = cell["step"].values
    later = steps >= 1
    x = steps[later]
    exact = curve(cell, _exact(kinds))[0][later]
    ax.axhline(0, color="black", linewidth=1.2, linestyle=regime_style(EXACT)["linestyle"], zorder=3)
    width = 0.0
    for name in kinds:
        mean, error = (None if v is None else v[later] for v in curve(cell, name))
        with np.errstate(invalid="ignore", over="ignore"):
            gap = mean / exact - 1
            gap = np.where(np.abs(gap) <= 100, gap, np.nan)
        if kinds[name] == SAMPLED:
            color = regime_style(SAMPLED)["color"]
            if error is not None:
                with np.errstate(invalid="ignore"):
                    two = 2 * error / exact
                ax.fill_between(x, gap - two, gap + two, color=color, alpha=0.22, linewidth=0)
        elif name in looks:
            ax.plot(x, gap, **looks[name])
            width = max(width, np.nanmax(np.abs(gap), initial=0.0))
    width = min(1.25 * width, _WIDEST) or 0.01
    ax.set(xscale="log", ylim=(-width, width))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:+.3g}%".replace("-", "−") if value else "0")
    )


def _legend(kinds: dict[str, str], taus: list[tuple[str, float]], looks: dict) -> tuple[list, list[str]]:
    handles: dict[str, object] = {}
    if SAMPLED in kinds.values():
        color = regime_style(SAMPLED)["color"]
        line = Line2D([], [], color=color, linewidth=1.1)
        handles["sampled mean;\nband: 10–90% of runs,\nbelow ±2 std. errors"] = (
            Patch(facecolor=color, alpha=0.22),
            line,
        )
    look = regime_style(EXACT)
    handles["exact average"] = Line2D([], [], **{key: look[key] for key in ("color", "linestyle", "linewidth")})
    for name, tau in taus:
        handles[f"τ = {tau:g}".replace("= -", "= −")] = Line2D([], [], **looks[name])
    return list(handles.values()), list(handles)
