"""One regime of several cells on common axes: methods, averages or schedules against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from sgdsim.common.checks import InputError, choice
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.spectral import prepare
from sgdsim.plot.styles import PALETTE, Look, style
from sgdsim.runs.results import check_squared

if TYPE_CHECKING:
    import xarray as xr

MAX_CURVES = 8
_COLORS = ["black", *(PALETTE[i] for i in (1, 2, 4, 0, 3, 8, 5))]
_ABOVE = 1.25
_GROWTH = 3.0  # times the loss at the start: what lies above is not drawn


def overlay(
    result: xr.Dataset,
    along: str,
    *,
    regime: str | None = None,
    exponents: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The mean loss of one regime against the step, log-log, a curve for each value along the axis `along`.

    Parameters
    ----------
    result : from `simulate` or `sweep`, with length 1 along all other grid axes; `along` may be one of the
        hyperparameters of a zipped grid.
    regime : its name; None where the result has one regime only.
    exponents : ξ for some of the values, by their names: a dashed power law t^−ξ over the last decade, beginning a
        little above the curve, so that both are seen.

    A diverged run ends where it passes three times the initial loss. InputError for an unknown axis or regime, several
    cells for one curve, or more than MAX_CURVES values.
    """
    check_squared("overlay", result)
    labels, loss = _along(result, along, regime)
    steps = result["step"].values
    exponents = exponents or {}
    with style():
        if ax is None:
            ax = ShownFigure(figsize=(4.6, 3.1), layout="constrained").subplots()
        prepare(ax)
        drawn = []
        for place, (label, curve) in enumerate(zip(labels, loss, strict=True)):
            good = (curve > 0) & (curve <= _GROWTH * curve[0]) & (steps >= 1)  # not NaN, not infinite
            drawn.append(curve[good])
            look: Look = {"color": _COLORS[place], "linewidth": 2.0 - 1.2 * place / len(loss)}
            ax.plot(steps[good], curve[good], label=label, **look)
            if label in exponents and good.any():
                after = steps[good] >= steps[-1] / 10
                law = (steps[good] / steps[good][after][0]) ** -exponents[label] * curve[good][after][0]
                law *= _ABOVE
                ax.plot(steps[good][after], law[after], color=look["color"], linewidth=0.9, linestyle=(0, (5, 2)))
        seen = np.concatenate(drawn)
        if seen.size:
            ax.set_ylim(seen.min() / 1.5, seen.max() * 1.5)
        ax.set(xlabel="SGD step t", ylabel="train loss")
        ax.legend(title=along, title_fontsize=7.5, loc="lower left")
    return ax


def _along(result: xr.Dataset, along: str, regime: str | None) -> tuple[list[str], np.ndarray]:
    """The values along the axis, and the mean loss of the regime for each, (values, steps)."""
    if along in result.coords and result[along].dims == ("cell",):
        result = result.swap_dims(cell=along)
    others = [str(name) for name in result["loss"].dims if name not in ("regime", "replicate", "step")]
    if not others:
        raise InputError("result: expected a grid axis, such as lr or method, got a single cell; use loss_curves")
    along = choice("along", along, others)
    long = [name for name in others if name != along and result.sizes[name] > 1]
    if long:
        raise InputError(f"result: expected one cell for each {along}, got several values of {', '.join(long)}")
    if result.sizes[along] > MAX_CURVES:
        raise InputError(f"{along}: expected at most {MAX_CURVES} values to draw, got {result.sizes[along]}")
    names = [str(name) for name in np.atleast_1d(result["regime"].values)]
    if regime is None and len(names) > 1:
        raise InputError(f"regime: expected one of {', '.join(names)}, as the result has several; got none")
    regime = choice("regime", regime or names[0], names)
    cells = result["loss"].isel({name: 0 for name in others if name != along})
    loss = cells.isel(regime=names.index(regime)).mean("replicate").transpose(along, "step").values
    return [str(value) for value in result[along].values], loss
