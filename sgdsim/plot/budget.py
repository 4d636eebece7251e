"""The picture of budget independence: one loss curve per batch size, against t and against t·b."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sgdsim.common.specs import readable
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import regime_style, style
from sgdsim.studies.budgets import curves

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.problem import Problem

_GROWTH = 3.0  # times the loss at the start: what lies above is not drawn


def budget_curves(result: xr.Dataset, problem: Problem) -> Figure:
    """Mean losses of a result of `sgdsim.studies.budgets.run`: against the step t and the budget t·b, log-log.

    Where the budget alone counts, the curves that lie apart on the left fall onto one on the right. A run that diverges
    ends at the frame, with a cross.
    """
    runs = curves(result, problem)
    initial = problem.quadratic.initial_loss
    top = _GROWTH * initial
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(runs)))
    dashes = ["-", (0, (6, 2)), (0, (3, 1.5)), (0, (1.2, 1.2))]  # curves that coincide stay visible
    with style():
        figure = ShownFigure(figsize=(6.6, 2.9), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        ends = []  # where diverging runs leave the frame
        least = largest = initial
        for i, curve in enumerate(runs):
            good = np.isfinite(curve.loss) & (curve.loss > 0) & (curve.loss <= _GROWTH * initial)
            if good.any():
                least, largest = min(least, curve.loss[good].min()), max(largest, curve.loss[good].max())
            for ax, factor in zip(axes, (1, curve.batch_size), strict=True):
                x = curve.steps * factor
                look = {"color": colors[i], "linestyle": dashes[i % 4], "linewidth": 1.9 - 0.9 * i / len(runs)}
                ax.plot(x, np.where(good, curve.loss, np.nan), label=f"{curve.batch_size}, {curve.lr:.3g}", **look)
                if not np.isfinite(curve.loss).all():
                    ends.append((ax, x[np.argmin(good)], colors[i]))
        top = 1.3 * largest
        for ax, x, color in ends:
            ax.plot(x, top, "x", color=color, markersize=6, clip_on=False)
        for ax, label in zip(axes, ("SGD step t", "budget t·b"), strict=True):
            ax.set(xscale="log", yscale="log", xlabel=label, ylim=(least / 1.3, top))
        axes[0].set_ylabel("train loss")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, title="b, α", loc="outside right center", title_fontsize=7.5)
        title = json.loads(result.attrs["problem"]).get("title", "")
        momentum = float(np.ravel(result["momentum"].values)[0])
        regime = regime_style(str(result["regime"].values[0]))["label"]
        figure.suptitle(f"{title}: {regime}, β = {readable(momentum)}, equal γα".replace("= -", "= −"))
    return figure
