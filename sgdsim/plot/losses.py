"""Pictures of results: labelled numbers in, matplotlib Axes or Figures out.

Losses are drawn on log-log axes from step 1 on (step 0 has no place on a log axis, its loss only sets the scale),
accuracies on a linear axis from 0 to 1.
Several replicates appear as their mean and the band between their 10% and 90% quantiles. A diverged run counts as
infinite in both: the mean ends where the first replicate diverges, marked by a cross (at the frame if the curve left
it before), while the band goes on as long as its quantiles are finite. Averaging the survivors instead would show a
loss that nobody can expect. Losses of a quadratic model of another loss may be negative: their axis is linear then, and
a dotted line stands where the model is said to end (`model_until`). Nothing here touches pyplot's state or matplotlib's
global settings.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any, TypeAlias

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.common.checks import InputError, choice
from sgdsim.common.specs import readable
from sgdsim.observables import is_linear, label
from sgdsim.plot._loss_curves import UNTIL, Curve, curves_of, draw, limits
from sgdsim.plot._ratios import draw_ratios, largest, reference
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.spectral import spectrum
from sgdsim.plot.styles import style
from sgdsim.runs.results import has_offset

MAX_CELLS = 24  # panels of one `comparison`
RATIOS = "ratios"  # the label of axes that hold them
WITH_RATIOS = 8  # panels up to which each has one below it, of ratios

_Handles: TypeAlias = tuple[list[Any], list[str]]
_SYMBOLS = {"lr": "α", "momentum": "β", "batch_size": "b"}


def loss_curves(
    result: xr.Dataset, *, ax: Axes | None = None, observable: str = "loss", title: str | None = None
) -> Axes:
    """The losses of all regimes of one cell against the step, log-log, on `ax` or on a figure of its own.

    `result` holds one cell: select it with `.sel(...)` first; grid axes of length 1 are dropped. `observable` is "loss"
    or any other variable over (regime, replicate, step); `title` replaces the hyperparameters above the panel.
    Raises InputError for several cells, an unknown observable or a result without a step >= 1.
    """
    grid = _grid_axes(result, observable)
    long = {name: result.sizes[name] for name in grid if result.sizes[name] != 1}
    if long:
        have = ", ".join(f"{name} ({size} values)" for name, size in long.items())
        name = next(iter(long))
        how = "result.isel(cell=0)" if name == "cell" else f"result.sel({name}=...)"
        raise InputError(f"result: expected a single cell, got {have}; select one, e.g. {how}")
    cell = result.isel(dict.fromkeys(grid, 0))
    curves, linear = curves_of(cell, observable), _is_linear(result, observable)
    with style():
        own = ax is None
        if ax is None:
            ax = ShownFigure(figsize=(5.6, 3.1), layout="constrained").subplots()
        draw(ax, curves, *limits(curves, linear, is_linear(observable)), linear, _until(cell))
        ax.set(xlabel="SGD step t", ylabel=label(observable))
        ax.set_title(_cell_title(cell, grid, 48) if title is None else title)
        handles = _legend_handles(curves, "model_until" in cell)
        if handles and own:
            ax.figure.legend(*handles, loc="outside right center")
        elif handles:
            ax.legend(*handles, loc="best")
    return ax


def comparison(result: xr.Dataset, observable: str = "loss") -> Figure:
    """One panel of loss curves per cell, on common axes, the spectrum (if the result has one) and one legend; below
    each of up to 8 panels the curves' ratios to the exact average, or to the closure where that was not run.

    A product grid whose last axis fits keeps it as columns; other cells are laid out in reading order. Cells without
    data say so. Raises InputError for more than 24 cells and for what `loss_curves` refuses.
    """
    grid = _grid_axes(result, observable)
    sizes = [result.sizes[name] for name in grid]
    count = math.prod(sizes)
    if not 1 <= count <= MAX_CELLS:
        hint = "select some, e.g. result.sel(...) or result.isel(...)"
        raise InputError(f"result: expected 1 to {MAX_CELLS} cells to compare, got {count}; {hint}")
    cells = [result.isel(dict(zip(grid, at, strict=True))) for at in itertools.product(*map(range, sizes))]
    panels = [curves_of(cell, observable) for cell in cells]
    every, linear = list(itertools.chain.from_iterable(panels)), _is_linear(result, observable)
    with_spectrum = "eigenvalues" in result
    used = count + with_spectrum
    columns = _columns(used, [size for size in sizes if size > 1])
    rows = math.ceil(used / columns)
    width = {1: 4.0, 2: 3.2, 3: 2.5, 4: 2.2}.get(columns, 2.0)
    zipped = [str(name) for name in result.coords if result[name].dims == ("cell",)]
    titles = [_cell_title(cell, [*grid, *zipped], int(width * 13)) for cell in cells]
    extra = 0.13 * max(title.count("\n") for title in titles)
    factor = None if linear or count > WITH_RATIOS else largest(panels)
    with style():
        height = (0.68 if factor is None else 0.9) * width + 0.3 + extra
        figure = ShownFigure(figsize=(columns * width, rows * height + 0.6), layout="constrained")
        axes, below = _axes(figure, rows, columns, count if factor else 0)
        xlim, ylim = limits(every, linear, is_linear(observable))
        for i, (ax, curves, title) in enumerate(zip(axes, panels, titles, strict=False)):
            draw(ax, curves, xlim, ylim, linear, _until(cells[i]))
            ax.set_title(title)
            lowest, first = i + columns >= count, i % columns == 0
            ax.set_ylabel(label(observable) if first else "")
            if factor:
                ax.tick_params(labelbottom=False, labelleft=first, which="both")
                ax, name = below[i], _divided_by(panels)
                draw_ratios(ax, curves, xlim, factor)
                ax.set_ylabel(name if first else "")
            ax.tick_params(labelbottom=lowest, labelleft=first, which="both")
            ax.set_xlabel("SGD step t" if lowest else "")
        if with_spectrum:
            spectrum(result, ax=axes[count]).set_ylabel("")
        for ax in axes[used:]:
            ax.set_axis_off()
        handles = _legend_handles(every, "model_until" in result)
        _legend(figure, axes[used] if used < len(axes) else None, handles, columns * width)
        name = _problem_title(result)
        if name:
            figure.suptitle(textwrap.fill(name, int(columns * width * 12)))
    return figure


def _axes(figure: Figure, rows: int, columns: int, ratios: int) -> tuple[list[Axes], list[Axes]]:
    """Panels in reading order, and the lower ones of the first `ratios`; the others are as high as both."""
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[1.0, 0.32] * rows)
    places = list(itertools.product(range(rows), range(columns)))
    upper = [
        figure.add_subplot(grid[2 * row : 2 * row + (1 if i < ratios else 2), column])
        for i, (row, column) in enumerate(places)
    ]
    return upper, [figure.add_subplot(grid[2 * row + 1, column], label=RATIOS) for row, column in places[:ratios]]


def _divided_by(panels: Sequence[Sequence[Curve]]) -> str:
    """The label of the ratios, which have the same reference wherever the same regimes were run."""
    names = {under.look["label"] for curves in panels if (under := reference(curves))}
    return f"÷ {names.pop()}" if len(names) == 1 else "ratio"


def _is_linear(result: xr.Dataset, observable: str) -> bool:
    return is_linear(observable) or (observable in ("loss", "test_loss") and has_offset(result))


def _until(cell: xr.Dataset) -> float:
    return float(cell["model_until"]) if "model_until" in cell else math.nan


def _legend(figure: Figure, free: Axes | None, handles: _Handles | None, width: float) -> None:
    """One for all panels, in the `free` one where there is such, else below a figure `width` inches wide."""
    if handles and free is not None:
        free.legend(*handles, loc="center")
    elif handles:
        lines = math.ceil(len(handles[0]) / max(2, int(width / 1.5)))
        figure.legend(*handles, loc="outside lower center", ncols=math.ceil(len(handles[0]) / lines))


def _grid_axes(result: xr.Dataset, observable: str) -> list[str]:
    if not isinstance(result, xr.Dataset):
        raise InputError(f"result: expected an xarray.Dataset, got {type(result).__name__}")
    options = [str(name) for name, data in result.data_vars.items() if "step" in data.dims and "mode" not in data.dims]
    if not options:
        raise InputError("result: expected a variable over step, such as 'loss', got none")
    observable = choice("observable", observable, options)
    if "regime" not in result.coords:
        raise InputError("result: expected a coordinate 'regime', got none")
    return [str(name) for name in result[observable].dims if name not in ("regime", "replicate", "step")]


def _legend_handles(curves: Sequence[Curve], until: bool = False) -> _Handles | None:
    handles: dict[str, object] = {}  # lines, patches, or both over each other, which matplotlib's stubs know not
    for curve in curves:
        look = curve.look
        line = Line2D([], [], **look)
        if curve.band is not None:
            handles[look["label"]] = (Patch(facecolor=look["color"], alpha=0.22), line)
        else:
            handles.setdefault(look["label"], line)
    if any(curve.band is not None for curve in curves):
        grey = Line2D([], [], color="0.35", linewidth=1.2)
        handles["mean, 10–90% of replicates"] = (Patch(facecolor="0.35", alpha=0.22), grey)
    if any(curve.diverged for curve in curves):
        handles["diverges: leaves the picture here"] = Line2D(
            [], [], color="0.35", marker="x", markeredgewidth=1.6, linestyle="none"
        )
    if until and handles:
        handles["until here the quadratic model of the loss holds"] = Line2D([], [], **UNTIL)
    return (list(handles.values()), list(handles)) if handles else None


def _columns(panels: int, sizes: Sequence[int]) -> int:
    """The last axis of a product grid if it and the rows fit on a page; else the fullest of 3 to 5 columns."""
    if len(sizes) > 1 and sizes[-1] <= 5 and panels <= 6 * sizes[-1]:
        return sizes[-1]
    if panels in (1, 2, 4):
        return min(panels, 2)
    return min((3, 4, 5), key=lambda columns: (panels > 6 * columns, -panels % columns, columns))


def _cell_title(cell: xr.Dataset, grid: Sequence[str], width: int) -> str:
    """ "α = 0.1, β = 0.9, b = 10", wrapped at `width` characters; a schedule that sets two of them is written once."""
    symbols: dict[str, list[str]] = {}
    shown = [name for name in grid if name != "sampling" or cell[name].item() != WITHOUT_REPLACEMENT]
    for name in dict.fromkeys([*_SYMBOLS, *shown]):
        if name in cell.coords and cell[name].ndim == 0 and name != "cell":
            value = cell[name].item()
            with contextlib.suppress(ValueError):  # an axis that also holds schedules has its numbers as text
                value = float(value)
            schedule, _, arguments = str(value).partition(":")
            if isinstance(value, float):
                text = (f"{value:g}" if value.is_integer() else readable(value, 4)).replace("-", "−")
            else:
                text = f"{schedule}({arguments})".replace(",", ", ") if arguments else schedule
            symbols.setdefault(text if arguments else f"{text}#{name}", []).append(_SYMBOLS.get(name, name))
    # no-break spaces keep "α = 0.1" together
    parts = [f"{', '.join(names)}\xa0=\xa0{text.partition('#')[0]}" for text, names in symbols.items()]
    return textwrap.fill(", ".join(parts), width)


def _problem_title(result: xr.Dataset) -> str:
    try:
        return str(json.loads(result.attrs.get("problem", "{}")).get("title", ""))
    except (TypeError, ValueError, AttributeError):
        return ""
