"""Pictures of a recommendation: the loss over learning rate and momentum, the law at the optimum, the phase."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdsim.common.checks import InputError
from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, closure_style, style
from sgdsim.plot.theory import curve, mark, phase_diagram, prediction
from sgdsim.problem.fits import PowerLawFit

if TYPE_CHECKING:
    from sgdsim.problem import QuadraticProblem
    from sgdsim.theory.optimal import Optimum
    from sgdsim.theory.power_law import PowerLaw, Prediction

_FACTORS = (1, 1.02, 1.1, 1.3, 2, 5, 20, 100, 1e3, 1e5)  # of the least loss: colours of the landscape
_UNSTABLE = "0.9"


def landscape(
    problem: QuadraticProblem, best: Optimum, *, noise: float, tau: float = 1.0, ax: Axes | None = None
) -> Axes:
    """The loss after `best.horizon` steps over momentum and learning rate, relative to that at the optimum.

    Grey: unstable (spectral-diagonal level). Marked: the optimum, and the best learning rate without momentum. Raises
    InputError for an optimum without a horizon.
    """
    if best.horizon is None:
        raise InputError("best: expected an optimum for a horizon, got one of the asymptotic constant")
    beta, lr, bound, factor = _relative_loss(problem, best, int(best.horizon), noise, tau)
    with style():
        if ax is None:
            ax = ShownFigure(figsize=(4.0, 3.0), layout="constrained").subplots()
        ax.set_xscale("function", functions=(_atanh, np.tanh))
        ax.set_yscale("log")
        ax.set_facecolor(_UNSTABLE)
        mesh = ax.contourf(np.broadcast_to(beta, lr.shape), lr, factor, levels=_FACTORS, colors=_shades(), zorder=0.5)
        bar = ax.figure.colorbar(mesh, ax=ax, ticks=_FACTORS, format=lambda v, _: f"{v:g}", pad=0.02)
        bar.set_label(f"loss at t = {best.horizon:g}, over the least", fontsize=7)
        bar.ax.tick_params(labelsize=6.5, length=2, width=0.5)
        ax.plot(beta, bound, color=closure_style(1.0)["color"], linewidth=1.5, label="largest stable by the closure")
        ax.plot(best.momentum, best.lr, "*", color=PALETTE[3], markersize=9, markeredgecolor="white", label="best")
        ax.plot(0, best.plain_lr, "o", color=PALETTE[1], markersize=4.5, markeredgecolor="white", label="best at β = 0")
        ticks = [b for b in (-0.9, -0.5, 0, 0.5, 0.9, 0.99, 0.999, 0.9999) if beta[0] <= b <= beta[-1]]
        ax.set_xticks(ticks, [f"{b:g}".replace("-", "−") for b in ticks])
        ax.set(xlim=(beta[0], beta[-1]), ylim=(lr[0].min(), 1.6 * bound.max()))
        ax.set(xlabel="momentum β", ylabel="learning rate α")
        ax.grid(False)
        ax.legend(loc="lower left", fontsize=7, facecolor="white", framealpha=0.8, frameon=True, edgecolor="none")
    return ax


def _relative_loss(
    problem: QuadraticProblem, best: Optimum, horizon: int, noise: float, tau: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Momenta (M,), learning rates below their bound (L, M), that bound (M,), and the loss over that of `best` (L, M),
    within what has a colour."""
    from sgdsim.problem import compression
    from sgdsim.recurrence import contour
    from sgdsim.theory import stability

    end = max(0.99, 1 - 0.2 * (1 - best.momentum))
    beta = np.tanh(np.linspace(math.atanh(-0.97), math.atanh(end), 61))
    sketch = compression.sketch(problem)
    bound = stability.diagonal_max_lr(sketch, momentum=beta, noise=noise, tau=tau)
    lowest = min(0.3 * bound.min(), 0.1 * min(best.lr, best.plain_lr))
    toward = np.concatenate([np.linspace(0, 0.9, 28), 1 - np.geomspace(0.09, 1e-3, 14)])[:, None]  # dense at the bound
    lr = lowest ** (1 - toward) * bound**toward
    log_loss = contour.loss_at(sketch, horizon, lr=lr, momentum=beta, noise=noise, tau=tau).log_loss
    at_best = contour.loss_at(problem, horizon, lr=best.lr, momentum=best.momentum, noise=noise, tau=tau)
    least = at_best.log_loss
    with np.errstate(over="ignore", invalid="ignore"):  # a loss may be 0: one step with α = 1 ends a single mode
        factor = np.nan_to_num(np.exp(log_loss - least), nan=1.0)
    return beta, lr, bound, np.clip(factor, 1.0, _FACTORS[-1] * 0.999)


def _atanh(beta: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(beta, -1 + 1e-9, 1 - 1e-9))


def _shades() -> np.ndarray:
    return matplotlib.colormaps["viridis_r"](np.linspace(0, 1, len(_FACTORS) - 1))


def recommendation(
    problem: QuadraticProblem,
    best: Optimum,
    *,
    noise: float,
    tau: float = 1.0,
    found: Prediction | None = None,
    law: PowerLaw | PowerLawFit | None = None,
) -> Figure:
    """What `sgdsim recommend` says, in a row: the landscape, the law at the optimum and the phase, where there are."""
    from sgdsim.recurrence import contour

    problem.check_squared("plot")
    panels = 2 + (law is not None)
    with style():
        figure = ShownFigure(figsize=(0.6 + 2.9 * panels, 2.75), layout="constrained")
        axes = list(figure.subplots(1, panels, width_ratios=[1.25, 1, 1][:panels]))
        landscape(problem, best, noise=noise, tau=tau, ax=axes[0])
        if found is not None:
            prediction(found, ax=axes[1], horizon=best.horizon)
        else:
            assert best.horizon is not None  # `landscape` refuses others
            steps = np.unique(np.geomspace(1, 10 * best.horizon, 120).round())
            lr, momentum = best.lr, best.momentum
            rate = float(contour.rate(problem, lr=lr, momentum=momentum, noise=noise, tau=tau))
            loss = contour.loss_at(problem, steps, lr=lr, momentum=momentum, noise=noise, tau=tau).loss
            mark(curve(axes[1], steps, loss, -1 / rate if rate < 0 else None), {"horizon": best.horizon})
            axes[1].set_title("no power law")
        if law is not None:
            phase_diagram(law, ax=axes[2])
        figure.suptitle(problem.description.get("title", ""))
    return figure
