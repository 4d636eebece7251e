"""The picture of Hessian spectra along training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdsim.common.checks import InputError
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, style

if TYPE_CHECKING:
    from sgdsim.studies.hessians import HessianAt, HessianSpectra

MAX_STEPS, MAX_RUNS = 6, 4  # panels of one picture: columns, rows

_COLORS = [PALETTE[i] for i in (0, 1, 2, 4)]
LEADING = 10  # eigenvectors whose share of the gradient is given beside that of the outliers
_RESOLUTION = 0.006  # width of the Gaussian, in units of the row's range of eigenvalues


def hessian_spectra(runs: HessianSpectra | Mapping[str, HessianSpectra]) -> Figure:
    """Eigenvalue densities at the steps of one or several runs: a row per run (named by its key), a column per step.

    Eigenvalues are over the largest of their panel, λ₁, as batch norm changes the Hessian's scale; so all panels share
    one axis. The density is per unit of λ/λ₁ on a log axis, smoothed by a Gaussian of 0.6% of the range; triangles mark
    the outliers. In each panel: the loss, λ₁, the outliers' share of ‖∇L‖² and that of the leading eigenvectors. Steps
    that a run did not reach say why. Raises InputError for no runs, more than 4, or more than 6 steps.
    """
    runs = runs if isinstance(runs, Mapping) else {"": runs}
    steps = check_panels(len(runs), {step for run in runs.values() for step in run.steps})
    width, height = len(steps) * 1.66 + 0.5, len(runs) * 1.42 + 0.25
    with style():
        figure = ShownFigure(figsize=(max(width, 3.2), height), layout="constrained")
        axes = figure.subplots(len(runs), len(steps), squeeze=False, sharex=True, sharey=True)
        low, high = _range(runs)
        for row, (name, run), color in zip(axes, runs.items(), _COLORS, strict=False):
            _draw_row(dict(zip(steps, row, strict=True)), run, color, low, high)
            row[0].set_ylabel(f"{name}\ndensity" if name else "density of eigenvalues", linespacing=1.6)
        for ax, step in zip(axes[0], steps, strict=True):
            ax.set_title(f"step {step}")
        for ax in axes[-1]:
            ax.set_xlabel("Hessian eigenvalue λ/λ₁")
    return figure


def check_panels(runs: int, steps: set[int]) -> list[int]:
    """The steps in ascending order; InputError where they and the runs are more than one picture holds."""
    if not 1 <= runs <= MAX_RUNS:
        raise InputError(f"runs: expected 1 to {MAX_RUNS} to draw, got {runs}")
    if len(steps) > MAX_STEPS:
        raise InputError(f"steps: expected at most {MAX_STEPS} to draw, got {len(steps)}")
    return sorted(steps)


def _largest(record: HessianAt) -> float:
    """λ₁, or where nothing is above 0 what is largest in size."""
    largest = float(record.density.nodes.max(initial=record.eigenvalues[0]))
    return largest if largest > 0 else float(np.abs(record.density.nodes).max(initial=1e-300))


def _range(runs: Mapping[str, HessianSpectra]) -> tuple[float, float]:
    """Of λ/λ₁ over all panels."""
    ends = [record.density.nodes / _largest(record) for run in runs.values() for record in run.at]
    return (min(e.min() for e in ends), max(e.max() for e in ends)) if ends else (0.0, 1.0)


def _draw_row(axes: Mapping[int, Axes], run: HessianSpectra, color: str, low: float, high: float) -> None:
    records = {record.step: record for record in run.at}
    sigma = max(high - low, 1e-3) * _RESOLUTION
    grid = np.linspace(low - 6 * sigma, high + 6 * sigma, 1500)
    single = 1.0 / (run.n_parameters * sigma * np.sqrt(2 * np.pi))  # height of one eigenvalue by itself
    for step, ax in axes.items():
        ax.set_yscale("log")
        # ticks are made when drawn, outside the style: set what the style says
        ax.tick_params(which="major", length=3, width=0.6, labelsize=7)
        ax.tick_params(which="minor", length=0)
        if step in records:
            record, unit = records[step], _largest(records[step])
            curve = record.density.evaluate(grid * unit, sigma * unit) * unit
            ax.fill_between(grid, single * 0.1, curve, color=color, alpha=0.25, linewidth=0)
            ax.plot(grid, np.where(curve > single * 0.1, curve, np.nan), color=color, linewidth=0.9)
            outliers = record.eigenvalues[: record.n_outliers]
            heights = record.density.evaluate(outliers, sigma * unit) * unit * 2.5
            ax.plot(outliers / unit, heights, "v", color="black", markersize=3.5, linestyle="none")
            ax.text(0.97, 0.96, _words(record), transform=ax.transAxes, ha="right", va="top", fontsize=7)
        else:
            reached = run.diverged_at is not None and step >= run.diverged_at
            text = f"diverged\nat step {run.diverged_at}" if reached else "not reached"
            ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="0.4", fontsize=8)
    if records:
        ax.set_xlim(low - 6 * sigma - 0.02 * (high - low), high + 6 * sigma + 0.04 * (high - low))
        ax.set_ylim(single * 0.25, 60 / sigma)


def _words(record: HessianAt) -> str:
    """The numbers written into a panel."""
    count, leading = record.n_outliers, min(LEADING, record.captured.size)
    share = f": {record.gradient_fraction:.0%} of ‖∇L‖²" if count else ""
    return "\n".join(
        [
            f"L = {record.loss:.2g}",
            f"λ₁ = {record.eigenvalues[0]:.2g} = {record.leading_ratio:.1f} λ₂",
            f"{count} outlier{'s' if count > 1 else ''}{share}" if count else "no outlier",
            f"{leading} leading: {record.captured[leading - 1]:.0%}",
        ]
    )
