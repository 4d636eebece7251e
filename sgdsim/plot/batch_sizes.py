"""The picture of batch sizes: learning rates, and steps and samples to a target, against b."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, style

if TYPE_CHECKING:
    from sgdsim.studies.batch_sizes import BatchSizes


def batch_curves(found: BatchSizes) -> Figure:
    """Left: the largest stable, the best and the first step's best learning rate; right: steps and samples to the
    target. Log-log over b; vertical lines at the critical batch sizes that are known."""
    rows = found.rows
    size = np.array([row.batch_size for row in rows])
    column = {
        name: np.array([getattr(row, name) if getattr(row, name) is not None else np.nan for row in rows], dtype=float)
        for name in ("max_lr", "best_lr", "first_lr", "steps", "samples", "noise")
    }
    with style():
        figure = ShownFigure(figsize=(6.6, 2.9), layout="constrained")
        rates, counts = figure.subplots(1, 2)
        looks = (("max_lr", "largest stable", "-"), ("best_lr", "best to the target", "o-"),
                 ("first_lr", "best first step", ":"))  # fmt: skip
        for k, (name, label, line) in enumerate(looks):
            rates.plot(size, column[name], line, color=PALETTE[k], markersize=3.5, linewidth=1.4, label=label)
        for k, name in enumerate(("steps", "samples")):
            counts.plot(size, column[name], "o", color=PALETTE[k], markersize=4, label=name)
        if found.relation is not None:
            fitted = found.relation.least_steps + found.relation.least_samples * column["noise"]
            for k, values in enumerate((fitted, fitted * size)):
                word = "relation fitted" if k == 0 else None
                counts.plot(size, values, "--", color=PALETTE[k], linewidth=1.0, label=word)
        lines = ((rates, found.half_limit_batch), (counts, found.critical))
        for ax, at in lines:
            ax.set(xscale="log", yscale="log", xlabel="batch size b")
            if at is not None and size.min() <= at <= size.max():
                ax.axvline(at, color="0.4", linewidth=0.9, label=f"b = {at:.3g}")
        rates.legend(loc="lower right")
        counts.legend(loc="center right")  # between few steps and many samples
        rates.set_ylabel("learning rate α")
        counts.set_ylabel(f"to {found.reach:.3g} of the initial loss")
        figure.suptitle(f"β = {found.momentum:g}, τ = {found.tau:g}".replace("-", "−"))
    return figure
