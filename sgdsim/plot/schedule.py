"""The picture of learning-rate schedules for a horizon: the rates over time, and the losses at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from sgdsim.common.statistics import mean_and_error
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sgdsim.theory.best_schedules import Scheduled

_LOOKS = {
    "constant": ("0.35", "-"),
    "cosine": (PALETTE[1], (0, (6, 2))),
    "linear": (PALETTE[5], (0, (1.2, 1.2))),
    "warmup-stable-decay": (PALETTE[0], (0, (6, 1.5, 1.2, 1.5))),
    "polynomial": (PALETTE[2], (0, (3, 1.5))),
    "power": (PALETTE[4], (0, (3, 1, 1, 1, 1, 1))),
    "ema": (PALETTE[3], (0, (8, 2))),
    "tail": (PALETTE[9], (0, (2, 2))),
}
_BEST = ("black", "-")
_NAMES = {
    "warmup-stable-decay": "warm-up, stable, decay",
    "polynomial": "(1 − t/T)^δ",
    "power": "(1 + 100t/T)^−p",
    "ema": "constant, EMA",
    "tail": "constant, tail average",
}
_POINTS = 400


def schedules(
    compared: Sequence[Scheduled], horizon: int, *, sampled: np.ndarray | None = None, title: str | None = None
) -> Figure:
    """Schedules as `sgdsim.theory.best_schedules.compare` returns them, for a run of `horizon` steps.

    Left: the learning rate over t/T, at its best for each form. Right: the final loss relative to that of the best
    constant rate, by theory. `sampled` (schedules, replicates): final losses of sampled runs, whose means are circles
    with two standard errors; schedules with a diverged run have none.
    """
    constant = next(schedule.loss for schedule in compared if schedule.name == "constant")
    names = [_NAMES.get(schedule.name, schedule.name) for schedule in compared]
    steps = np.unique(np.linspace(0, horizon - 1, min(horizon, _POINTS)).round().astype(int))
    with style():
        figure = ShownFigure(figsize=(6.8, 3.1), layout="constrained")
        rates, losses = figure.subplots(1, 2, width_ratios=(1.25, 1))
        for i, schedule in enumerate(compared):
            color, line = _LOOKS.get(schedule.name, _BEST)
            best = schedule.name not in _LOOKS
            values = schedule.lr(steps) if callable(schedule.lr) else np.full(steps.size, schedule.lr)
            width, drawn, order = (1.8, "steps-post", 3) if best else (1.3, "default", 2)
            x = steps / horizon
            rates.plot(x, values, color=color, linestyle=line, linewidth=width, drawstyle=drawn, zorder=order)
            losses.plot(schedule.loss / constant, i, "o", color=color, markersize=5, zorder=3)
            losses.plot([], [], color=color, linestyle=line, label=names[i])
        if sampled is not None:
            _circles(losses, sampled, constant)
        rates.set(xlabel="t/T", ylabel="learning rate α", xlim=(0, 1))
        rates.set_ylim(bottom=0)
        losses.axvline(1, color="0.35", linewidth=0.8, zorder=1)
        losses.set_yticks(range(len(compared)), names)
        for label, schedule in zip(losses.get_yticklabels(), compared, strict=True):
            label.set_color(_LOOKS.get(schedule.name, _BEST)[0])
        losses.tick_params(axis="y", length=0)
        losses.invert_yaxis()
        losses.set_xlabel("final loss / best constant")
        _scale(losses, [schedule.loss for schedule in compared], sampled, constant)
        handles, labels = losses.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=2.6)
        if title:
            figure.suptitle(title)
    return figure


def _scale(ax: Axes, losses: list[float], sampled: np.ndarray | None, constant: float) -> None:
    """A log axis where losses span more than a decade."""
    seen = np.array(losses + ([] if sampled is None else sampled.mean(1).tolist()))
    seen = seen[np.isfinite(seen) & (seen > 0)]
    if seen.max() > 10 * seen.min():
        ax.set_xscale("log", nonpositive="clip")
        ax.set_xlim(seen.min() / constant / 1.5, seen.max() / constant * 1.5)


def _circles(ax: Axes, sampled: np.ndarray, reference: float) -> None:
    mean, error = mean_and_error(sampled, 1)
    good = np.flatnonzero(np.isfinite(mean))
    look: Look = {"fmt": "o", "markersize": 7, "markerfacecolor": "none", "markeredgecolor": "0.25"}
    look |= {"ecolor": "0.25", "elinewidth": 0.9, "capsize": 2, "zorder": 2, "label": "sampled, ± 2 s.e."}
    ax.errorbar(mean[good] / reference, good, xerr=2 * error[good] / reference, **look)
