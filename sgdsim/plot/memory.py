"""Pictures of methods with memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, style

_LOOKS = [("black", 1.3), (PALETTE[1], 1.8), (PALETTE[2], 1.3)]


def memory_losses(panels: Mapping[str, Sequence[tuple[str, np.ndarray, tuple[float, int, int] | None]]]) -> Figure:
    """Losses (T + 1,) of several methods from step 0 on, log-log, a panel for each title.

    Each curve: label, loss, and (exponent, first step, last step) of a dashed power law that begins at it, or None.
    """
    with style():
        figure = ShownFigure(figsize=(3.3 * len(panels) + 0.2, 2.9), layout="constrained")
        for ax, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for (label, loss, law), (color, width) in zip(curves, _LOOKS, strict=False):
                t = np.unique(np.geomspace(1, loss.size - 1, 300).astype(int))
                ax.plot(t, loss[t], color=color, linewidth=width, label=label)
                if law is not None:
                    exponent, first, last = law
                    steps = np.array([first, last])
                    above = color == "black"  # and below the faster ones, clear of both
                    guide = (1.2 if above else 0.65) * loss[first] * (steps / first) ** exponent
                    ax.plot(steps, guide, color=color, linewidth=1.0, linestyle=(0, (5, 2)))
                    place: Look = {"xytext": (2, 0), "ha": "left"} if above else {"xytext": (-3, -6), "ha": "right"}
                    place |= {"textcoords": "offset points", "color": color, "fontsize": 7.5}
                    ax.annotate(f"$t^{{{exponent:.2f}}}$", (steps[int(above)], guide[int(above)]), **place)
            low = min(loss.min() for _, loss, _ in curves)
            ax.set(xscale="log", yscale="log", title=title, xlabel="SGD step t", ylim=(max(0.25 * low, 0.0015), 1.5))
            ax.set_xlim(right=6 * max(loss.size for _, loss, _ in curves))
            ax.legend(loc="lower left")
            ax.tick_params(which="major", length=3, width=0.6, labelsize=7)
            ax.tick_params(which="minor", length=1.5, width=0.4)
        figure.axes[0].set_ylabel("loss / loss at t = 0")
    return figure
