"""The picture of reshuffled epochs beside independent batches: losses and their ratio over epochs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sgdsim.common.checks import InputError
from sgdsim.common.specs import readable
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, regime_style, style
from sgdsim.studies.epoch_comparison import COVERAGE

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

_KINDS: dict[str, Look] = {  # sampling: look
    "without-replacement": {"color": PALETTE[1], "label": "independent batches"},
    "reshuffle": {"color": PALETTE[0], "label": "reshuffled epochs"},
}
MAX_SIZES = 6
_BAND = (0.1, 0.9)
_GROWTH = 3.0  # times the loss at the start
_FEW = 200  # epochs, up to which ticks are 1, 2, 5, …
_FAR = 3.0  # ratios of ratios from which their axis is logarithmic


def check_sizes(count: int) -> None:
    """InputError for more batch sizes than fit on a picture."""
    if count > MAX_SIZES:
        raise InputError(f"batch_size: expected at most {MAX_SIZES} sizes to draw, got {count}")


def epochs(result: xr.Dataset) -> Figure:
    """A result of `sgdsim.studies.epoch_comparison.compare`, a column per batch size.

    Above: the loss over epochs, mean and the middle 80% of runs of both kinds of batches, the theory dashed; where it
    is known, the mean over all orders is dotted. Below: mean losses relative to the theory, with 95% intervals. What
    grows to over three times the loss at the start is not drawn, and said to diverge. InputError for more than
    MAX_SIZES batch sizes.
    """
    sizes = result["batch_size"].values
    check_sizes(sizes.size)
    last = int(result["epoch"].values[-1])
    with style():
        figure = ShownFigure(figsize=(max(2.5 * sizes.size + 0.5, 4.4), 4.3), layout="constrained")
        axes = figure.subplots(2, sizes.size, squeeze=False, sharex=True, sharey="row", height_ratios=(1.5, 1))
        ends = np.array(
            [_column(above, below, result.sel(batch_size=b)) for (above, below), b in zip(axes.T, sizes, strict=True)]
        )
        lowest, highest = ends[:, 0].min(), ends[:, 1].max()
        axes[0, 0].set_xlim(0.87, 1.15 * last)  # all by hand: where every run diverges there are no points
        if not np.isfinite(axes[0, 0].dataLim.height):
            axes[0, 0].set_ylim(result.attrs["initial_loss"] / _GROWTH, result.attrs["initial_loss"] * _GROWTH)
        if highest > _FAR * lowest:
            axes[1, 0].set_yscale("log")
        margin = max((highest / lowest) ** 0.08, 1.01)
        axes[1, 0].set_ylim(lowest / margin, highest * margin)
        if last <= _FEW:
            shown = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= last]
            axes[1, 0].set_xticks(shown, [f"{tick}" for tick in shown])
            axes[1, 0].xaxis.set_minor_locator(NullLocator())
        axes[0, 0].set_ylabel("train loss")
        axes[1, 0].set_ylabel("mean loss / theory")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        columns = 2 if len(labels) == 4 or sizes.size == 1 else 3
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        title = json.loads(result.attrs["problem"]).get("title", "")
        figure.suptitle(
            f"{title}: {result.attrs['regime']}, β = {readable(result.attrs['momentum'])}".replace("= -", "= −")
        )
    return figure


@np.errstate(all="ignore")  # of diverged runs
def _column(above: Axes, below: Axes, column: xr.Dataset) -> tuple[float, float]:
    """Draw one batch size; the least and the largest ratio that is seen."""
    top = _GROWTH * column.attrs["initial_loss"]
    epoch, marker = column["epoch"].values, "o" if column.sizes["epoch"] == 1 else None

    def seen(values: np.ndarray) -> np.ndarray:
        return np.where((values > 0) & (values <= top), values, np.nan)

    theory, exact = seen(column["theory"].values), seen(column["reshuffled_exact"].values)
    dashed = regime_style(str(column.attrs["theory"])) | {"label": f"theory ({column.attrs['theory']})"}
    ends = [1.0]
    for name, look in _KINDS.items():
        mean, error = (column[part].sel(sampling=name).values for part in ("mean", "stderr"))
        runs = column["loss"].sel(sampling=name).transpose("replicate", "epoch").values
        low, high = (seen(level) for level in np.quantile(runs, _BAND, axis=0, method="inverted_cdf"))
        ratio, spread = seen(mean) / theory, np.exp(COVERAGE * error / mean)
        soft: Look = {"color": look["color"], "alpha": 0.22, "linewidth": 0}
        above.fill_between(epoch, low, high, **soft)
        above.plot(epoch, seen(mean), linewidth=1.6, marker=marker, **look)
        below.fill_between(epoch, ratio / spread, ratio * spread, **soft)
        below.plot(epoch, ratio, linewidth=1.4, marker=marker, color=look["color"])
        known = np.isfinite(ratio)
        ends += [*(ratio / spread)[known], *(ratio * spread)[known]]
    above.plot(epoch, theory, zorder=4, marker=marker and "_", markersize=12, **dashed)
    below.axhline(1, zorder=4, **{key: dashed[key] for key in ("color", "linestyle", "linewidth")})
    if np.isfinite(column["reshuffled_exact"].values).any():
        dotted: Look = {"color": "black", "linestyle": (0, (1, 1.5)), "linewidth": 1.3, "zorder": 4}
        above.plot(epoch, exact, label="mean over all orders", **dotted)
        below.plot(epoch, exact / theory, **dotted)
    above.set(xscale="log", yscale="log", title=f"b = {int(column['batch_size'])}, α = {float(column['lr']):.3g}")
    below.set(xlabel="epochs")
    if (column["mean"].values > top).any():
        above.text(0.97, 0.95, "diverges", transform=above.transAxes, ha="right", va="top", color="0.35")
    return min(ends), max(ends)
