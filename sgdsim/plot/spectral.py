"""Pictures of spectra: eigenvalues and tail sums with their power laws, and whether the law holds for the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdsim.common.checks import InputError, array
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, style
from sgdsim.plot.theory import curve, mark, prediction
from sgdsim.problem.spectrum import LISTED, Spectrum

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from sgdsim.problem import Problem
    from sgdsim.problem.fits import PowerLawFit
    from sgdsim.studies.asymptotes import Asymptote

SMALLEST = 1e-16  # relative to the start: what lies below is rounding to the eye, and is not drawn


def spectrum(
    result_or_eigenvalues: xr.Dataset | Problem | ArrayLike,
    coefficients: ArrayLike | None = None,
    *,
    ax: Axes | None = None,
    fit: PowerLawFit | None = None,
) -> Axes:
    """Eigenvalues λ_k and tail sums Σ_{l≥k} c_l, both relative to k = 1, against k on log-log axes.

    Takes a result or a problem (anything with `eigenvalues` and `coefficients`), or descending eigenvalues (n,) and, if
    wanted, the signed coefficients a_k (n,), c_k = a_k². Values below 1e-16 of the first are not drawn; of more than
    2000 modes a log-spaced choice is. A `fit` (of `sgdsim.problem.fits.fit_power_law`) is drawn over its windows.
    Raises InputError where there is no spectrum or the shapes differ.
    """
    index, values, tails = _modes(result_or_eigenvalues, coefficients)
    if values[0] <= 0:
        raise InputError(f"eigenvalues: expected a positive first (largest) one, got {values[0]:g}")
    solid: Look = {"color": "black", "linestyle": "-", "linewidth": 1.6}
    drawn = [(values / values[0], r"$\lambda_k\,/\,\lambda_1$", solid)]
    if tails is not None and tails[0] > 0:
        look = {"color": PALETTE[3], "linestyle": (0, (4, 1.5)), "linewidth": 1.4}
        drawn.append((tails / tails[0], r"$\sum_{l\geq k}\, c_l\,/\,\sum_l\, c_l$", look))
    at = np.arange(len(values))
    if len(values) > 2000:
        at = np.unique(np.geomspace(1, len(values), 2000).round().astype(int)) - 1
    with style():
        if ax is None:
            ax = ShownFigure(figsize=(3.4, 2.8), layout="constrained").subplots()
        prepare(ax)
        for relative, label, look in drawn:
            visible = np.where(relative >= SMALLEST, relative, np.nan)[at]
            ax.plot(index[at], visible, marker="o" if len(values) == 1 else None, label=label, **look)
        if fit is not None:
            _draw_fit(ax, fit, len(values), values[0], None if tails is None or len(drawn) < 2 else tails[0])
        ax.set(xlabel="mode index k", ylabel="relative to k = 1", title="spectrum")
        ax.legend(loc="best")
    return ax


def _modes(
    given: xr.Dataset | Problem | ArrayLike, coefficients: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ranks, eigenvalues at them and, if there are coefficients, the tail sums of c there."""
    source = getattr(given, "quadratic", given)  # of a network: its linearisation
    index = tails = None
    if isinstance(source, xr.Dataset) and "eigenvalues" not in source:
        raise InputError("result: expected a variable 'eigenvalues' over mode, got none")
    if hasattr(source, "eigenvalues"):
        coefficients = getattr(source, "coefficients", None) if coefficients is None else coefficients
        counts = getattr(source, "multiplicity", None)
        source = source.eigenvalues
        if counts is not None:  # modes of a matrix-free problem: drawn at their ranks
            a = np.zeros(len(counts)) if coefficients is None else np.asarray(coefficients)
            modes = Spectrum(np.asarray(source), multiplicity=np.asarray(counts))
            if modes.n > LISTED:
                index, source, tails = modes.at_ranks(a**2, 2000)
                tails = None if coefficients is None else tails
            else:
                source, c = modes.by_rank(a**2)
                coefficients = None if coefficients is None else np.sqrt(c)
    values = array("eigenvalues", source, ndim=1)
    if coefficients is not None and tails is None:
        squares = array("coefficients", coefficients, ndim=1, shape=values.shape) ** 2
        tails = np.cumsum(squares[::-1])[::-1]
    return np.arange(len(values)) + 1 if index is None else index, values, tails


def _draw_fit(ax: Axes, fit: PowerLawFit, n: int, first: float, total: float | None) -> None:
    """The fitted laws over their windows, the tail sums' without what lies beyond mode n."""
    laws = [(fit.window, fit.Lambda.value / first, 0.0, fit.nu, "ν", "black")]
    if fit.kappa is not None and fit.tail_window is not None and fit.A is not None and total:
        beyond = n**-fit.kappa.value
        laws.append((fit.tail_window, fit.A.value / total, beyond, fit.kappa, "κ", PALETTE[3]))
    for window, amplitude, beyond, exponent, symbol, color in laws:
        k = np.geomspace(*window, 50)
        label = f"{symbol} = {exponent.value:.2f} ({exponent.low:.2f} … {exponent.high:.2f})"
        look: Look = {"color": color, "linewidth": 5, "alpha": 0.25, "solid_capstyle": "butt"}
        ax.plot(k, amplitude * (k**-exponent.value - beyond), label=label, **look)


def spectra(asymptotes: Mapping[str, Asymptote]) -> Figure:
    """A column for each problem: its spectrum with the fitted laws above; below the exact loss of the spectral-diagonal
    theory with the law that follows from the fit, dashed, where there is one, and where it holds, shaded."""
    if not asymptotes:
        raise InputError("asymptotes: expected at least one problem, got none")
    with style():
        figure = ShownFigure(figsize=(2.6 * len(asymptotes) + 0.3, 4.9), layout="constrained")
        axes = figure.subplots(2, len(asymptotes), squeeze=False, height_ratios=[1.1, 1])
        for (name, asymptote), top, bottom in zip(asymptotes.items(), axes[0], axes[1], strict=True):
            spectrum(asymptote.problem, ax=top, fit=asymptote.fit).set_title(f"{name}, N = {asymptote.problem.n}")
            if asymptote.prediction is not None:
                prediction(
                    asymptote.prediction,
                    ax=bottom,
                    title="within 10% of the law" if asymptote.holds else "not within 10% of the law",
                )
                low, high = bottom.get_ylim()  # a law that does not hold may lie above the loss at all times
                bottom.set_ylim(low, max(high, 1.5 * asymptote.prediction.law[-1]))
            else:
                mark(curve(bottom, asymptote.steps, asymptote.loss, asymptote.cutoff), {"cut-off": asymptote.cutoff})
                bottom.set_title("no law")
            for ax in (top, bottom):
                ax.legend(
                    loc="lower left", fontsize=6, handlelength=1.4, frameon=True, edgecolor="none", framealpha=0.8
                )
        for ax in axes[:, 1:].ravel():
            ax.set_ylabel("")
    return figure


def prepare(ax: Axes) -> None:
    """Log-log axes with the ticks, grid and text sizes of the style."""
    ax.set(xscale="log", yscale="log")
    # ticks are made when drawn, outside the style, and `ax` may be the caller's: set what the style says
    ax.tick_params(which="major", length=3, width=0.6, labelsize=7)
    ax.tick_params(which="minor", length=1.5, width=0.4, labelsize=6)
    ax.grid(visible=True, which="major", color="0.9", linewidth=0.5)
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
        text.set_fontsize(8)
