"""Curves of the regimes of one cell: collected from a result, their common limits, and drawn on an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from sgdsim.common.checks import InputError
from sgdsim.plot.spectral import SMALLEST, prepare
from sgdsim.plot.styles import Look, regime_style
from sgdsim.runs.followed import followed

LARGEST = 10.0  # relative to the start: growth beyond this leaves the frame
BELOW, ABOVE = -0.5, 2.0  # relative to the start, on a linear axis
BAND = (0.1, 0.9)
SHARES = (-0.03, 1.03)  # of the linear axis of shares
UNTIL: Look = {"color": "0.4", "linewidth": 0.9, "linestyle": (0, (1, 1.5))}


@dataclass(frozen=True)
class Curve:
    """One regime in one cell, at the steps >= 1: the mean (inf once a run has diverged) and, for several, a band."""

    steps: np.ndarray  # (n,)
    mean: np.ndarray  # (n,)
    band: np.ndarray | None  # (2, n)
    start: float  # the first recorded mean, step 0 included: the scale of the axes
    look: Look
    name: str  # of the regime

    @property
    def diverged(self) -> bool:
        return bool(np.isinf(self.mean).any())


def curves_of(cell: xr.Dataset, observable: str) -> list[Curve]:
    """The regimes of one cell that have data; a replicate that is NaN throughout was not run."""
    data = cell[observable]
    for name in ("regime", "replicate"):
        data = data if name in data.dims else data.expand_dims(name)
    every = data["step"].values
    if not (every >= 1).any():
        raise InputError("result: expected at least one recorded step >= 1, got step 0 only")
    names, known = np.atleast_1d(data["regime"].values), followed(cell)
    curves = []
    for name, runs in zip(names, data.transpose("regime", "replicate", "step").values, strict=True):
        runs = runs[~np.isnan(runs).all(axis=1)].astype(float)
        if not len(runs):
            continue
        recorded = ~np.isnan(runs).all(axis=0)  # cells of `sgdsim.studies.budgets.run` have steps of their own
        runs, steps = runs[:, recorded], every[recorded]
        if not (steps >= 1).any():
            continue
        with np.errstate(over="ignore"):
            mean = runs.mean(axis=0)
        # inverted_cdf picks among the runs instead of interpolating, so that infinite ones are harmless
        band = np.quantile(runs, BAND, axis=0, method="inverted_cdf") if len(runs) > 1 else None
        later = steps >= 1
        start = mean[np.isfinite(mean) & (mean > 0)]
        first = float(start[0]) if start.size else math.nan
        look = regime_style(str(name), known[str(name)].stochastic)
        band = None if band is None else band[:, later]
        curves.append(Curve(steps[later], mean[later], band, first, look, str(name)))
    return curves


def limits(
    curves: Sequence[Curve], linear: bool = False, shares: bool = False
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Common x and y limits: all steps, and the losses between SMALLEST and LARGEST times the start; on a linear axis
    between BELOW and ABOVE times it, of `shares` from 0 to 1, with room."""
    starts = [curve.start for curve in curves if not math.isnan(curve.start)]
    if not starts:
        return (1, 10), (0.1, 1)
    scale = max(starts)
    parts = [part.ravel() for curve in curves for part in (curve.mean, curve.band) if part is not None]
    values = np.concatenate(parts)
    last = max(int(curve.steps[-1]) for curve in curves)
    steps = min(int(curve.steps[0]) for curve in curves), max(last, 2)
    if shares:
        return steps, SHARES
    if linear:
        seen = np.clip(values[np.isfinite(values)], BELOW * scale, ABOVE * scale)
        low, high = seen.min(initial=0.0), seen.max(initial=scale)
        return steps, (low - 0.05 * (high - low), high + 0.05 * (high - low))
    values = values[np.isfinite(values) & (values > 0)]
    low, high = np.clip([values.min(initial=scale), values.max(initial=scale)], scale * SMALLEST, scale * LARGEST)
    margin = max((high / low) ** 0.05, 1.1)
    return steps, (low / margin, high * margin)


def draw(
    ax: Axes,
    curves: Sequence[Curve],
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    linear: bool = False,
    until: float = math.nan,
) -> None:
    prepare(ax)
    if linear:
        ax.set_yscale("linear")
    if not math.isnan(until):
        ax.axvline(until, **UNTIL)
    ax.set(xlim=xlim, ylim=ylim)  # first: matplotlib's own choice of limits overflows for losses near 1e300
    for curve in curves:
        look = curve.look
        finite = np.where(np.isfinite(curve.mean) & (linear | (curve.mean > 0)), curve.mean, np.nan)
        if curve.band is not None:
            span = ylim[1] - ylim[0]  # far outside: a log axis takes neither 0 nor inf
            low, high = np.clip(
                curve.band, *((ylim[0] - span, ylim[1] + span) if linear else (ylim[0] / 10, ylim[1] * 10))
            )
            drawn = np.isfinite(curve.band[0])
            ax.fill_between(curve.steps, low, high, where=drawn, color=look["color"], alpha=0.22, linewidth=0.4)
        ax.plot(curve.steps, finite, marker="o" if np.isfinite(finite).sum() == 1 else None, markersize=3, **look)
        if curve.diverged:
            top = ylim[1] - 0.03 * (ylim[1] - ylim[0]) if linear else ylim[1] / (ylim[1] / ylim[0]) ** 0.03
            cross_at(ax, curve, finite, top, linear)
    if not curves:
        ax.text(0.5, 0.5, "not computed", transform=ax.transAxes, ha="center", va="center", color="0.4", fontsize=8)


def cross_at(ax: Axes, curve: Curve, values: np.ndarray, top: float, linear: bool = False) -> None:
    """The mark of a run that diverges, where these `values` of it are last seen below `top`."""
    x, y = _end(curve.steps, values, top, linear)
    cross: Look = {"marker": "x", "markersize": 5, "markeredgewidth": 1.6, "linestyle": "none"}
    ax.plot([x], [y], color=curve.look["color"], clip_on=False, zorder=5, label="_diverged", **cross)


def _end(steps: np.ndarray, mean: np.ndarray, top: float, linear: bool = False) -> tuple[float, float]:
    """Where a diverging curve is last seen: its last finite point, or where it rises through `top`."""
    seen = np.isfinite(mean)
    t, y, height = np.log(steps[seen]), mean[seen] if linear else np.log(mean[seen]), top if linear else math.log(top)
    if not (y <= height).any():
        return float(steps[0]), top
    last = int(np.flatnonzero(y <= height)[-1])
    if last == len(t) - 1:
        return math.exp(t[-1]), float(mean[seen][-1])
    return math.exp(np.interp(height, y[last : last + 2], t[last : last + 2])), top
