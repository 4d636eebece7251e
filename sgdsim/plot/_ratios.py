"""The panel below losses: each regime over the expected loss of the linearised network. Where curves coincide it tells
by how much, and where they part, when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from sgdsim.plot._loss_curves import Curve, cross_at
from sgdsim.plot.spectral import prepare

MOST = 10.0  # beyond this ratio, or below its inverse, curves leave the panel
_TICKS = (1.1, 1.25, 1.5, 2.0, 5.0, 10.0)  # beside 1, with their inverses: the largest that the panel holds
_ROOM = 1.12  # by which the axis goes beyond its last tick

Limits = tuple[float, float]


def reference(curves: Sequence[Curve]) -> Curve | None:
    """What the others are divided by: the exact average, else a closure, else the sampled runs' mean; None where there
    is nothing to compare."""
    if len(curves) < 2:
        return None
    for found in ("averaged", "diagonal", "sampled"):
        for curve in curves:
            if curve.name.partition(":")[0] == found:
                return curve
    return None


def largest(panels: Sequence[Sequence[Curve]]) -> float | None:
    """By which factor means lie apart at most, on all panels; None where nothing can be compared."""
    found = [np.abs(np.log(ratio)) for curves in panels for _, ratio, _ in _over_reference(curves)]
    values = np.concatenate([v[np.isfinite(v)] for v in found]) if found else np.zeros(0)
    return float(np.exp(min(values.max(), 700.0))) if values.size else None


def draw_ratios(ax: Axes, curves: Sequence[Curve], xlim: Limits, factor: float) -> None:
    """The ratios of one cell's regimes, on an axis from about 1/`factor` to `factor`."""
    prepare(ax)
    tick = next((tick for tick in _TICKS if tick >= min(factor, MOST) * 0.999), MOST)
    low, high = 1 / (tick * _ROOM), tick * _ROOM
    ax.set(xlim=xlim, ylim=(low, high))
    ax.yaxis.set_major_locator(FixedLocator([1 / tick, 1.0, tick]))
    ax.yaxis.set_major_formatter(FixedFormatter([f"×{value:.3g}" for value in (1 / tick, 1.0, tick)]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.axhline(1.0, color="0.6", linewidth=0.7)
    for curve, ratio, band in _over_reference(curves):
        if band is not None:
            seen = np.isfinite(band[0])
            lower, upper = np.clip(band, low / 2, high * 2)
            ax.fill_between(curve.steps, lower, upper, where=seen, color=curve.look["color"], alpha=0.22, linewidth=0.4)
        ax.plot(curve.steps, ratio, **curve.look)
        if curve.diverged and np.isfinite(ratio).any():
            cross_at(ax, curve, ratio, high / (high / low) ** 0.06)


def _over_reference(curves: Sequence[Curve]) -> list[tuple[Curve, np.ndarray, np.ndarray | None]]:
    """Curves other than the reference, with the ratios of mean and band; NaN where either is unknown, 0 or infinite."""
    below = reference(curves)
    if below is None:
        return []
    out = []
    for curve in curves:
        if curve is below:
            continue
        at = np.searchsorted(below.steps, curve.steps).clip(max=below.steps.size - 1)
        with np.errstate(all="ignore"):
            under = np.where((below.steps[at] == curve.steps) & (below.mean[at] > 0), below.mean[at], np.nan)
            ratio = curve.mean / np.where(np.isfinite(under), under, np.nan)
            ratio[~(np.isfinite(ratio) & (ratio > 0))] = np.nan
            band = None if curve.band is None else curve.band / np.where(np.isfinite(under), under, np.nan)
        out.append((curve, ratio, band))
    return out
