"""The explorer's picture: exact curve with its law, the stable region, the phase; redrawn in some ten milliseconds.

Axes, legends and the phase diagram are drawn once and kept as an image. Only what a setting changes is drawn over it,
so all axes have fixed limits: settings can be compared by eye while a slider moves.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib.image
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle

from sgdsim.plot.showing import ShownFigure
from sgdsim.plot.styles import PALETTE, Look, style
from sgdsim.plot.theory import phase_diagram

if TYPE_CHECKING:
    from sgdsim.studies.explorer import View

_STEPS, _LOSS, _LR = (1, 1e8), (1e-16, 1e3), (1e-3, 4.5)
_GREEN, _RED = PALETTE[2], PALETTE[3]
_LAW: Look = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.1}
_EXACT: Look = {"color": _GREEN, "linewidth": 1.8}
_FULL: Look = {"color": "0.35", "linewidth": 1.0}
_LIMIT: Look = {"color": _GREEN, "linewidth": 1.1, "linestyle": ":"}
_WINDOW: Look = {"facecolor": _GREEN, "alpha": 0.15, "linewidth": 0}
_Artist = TypeVar("_Artist", bound=Artist)


class ExplorerCanvas:
    """Draws a `View` as PNG bytes with `png`; keep one of them for a series of settings."""

    def __init__(self, dpi: float = 100) -> None:
        with style():
            figure = ShownFigure(figsize=(9.2, 2.8), dpi=dpi)
            figure.subplots_adjust(left=0.062, right=0.99, bottom=0.165, top=0.9, wspace=0.24)
            self._curve, self._region, self._place = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
            self._canvas = FigureCanvasAgg(figure)
            self._moving: list[tuple[Axes, Artist]] = []
            self._set_up_curve(self._curve)
            self._set_up_region(self._region)
            phase_diagram(ax=self._place)
            self._point = self._line(self._place, color="black", marker="o", markersize=5.5, clip_on=False)
            for ax in (self._curve, self._region, self._place):
                ax.tick_params(which="major", length=3, width=0.6, labelsize=7)
                ax.tick_params(which="minor", length=1.5, width=0.4)
            self._canvas.draw()
            self._background = self._canvas.copy_from_bbox(figure.bbox)

    def _add(self, ax: Axes, artist: _Artist) -> _Artist:
        artist.set_animated(True)
        self._moving.append((ax, artist))
        return artist

    def _line(self, ax: Axes, **look: Any) -> Line2D:
        return self._add(ax, ax.plot([], [], **look)[0])

    def _set_up_curve(self, ax: Axes) -> None:
        ax.set(
            xscale="log", yscale="log", xlim=_STEPS, ylim=_LOSS, xlabel="SGD step t", ylabel="train loss / initial loss"
        )
        ax.set_yticks(10.0 ** np.arange(-15, 4, 3))
        within = Rectangle((0, 0), 1, 1, label="law within 10%", **_WINDOW)
        handles = [Line2D([], [], label="exact", **_EXACT), Line2D([], [], label="law", **_LAW), within]
        ax.legend(handles=handles, loc="lower left")
        self._alarm = self._add(ax, Rectangle((0, 0), 1, 1, transform=ax.transAxes, facecolor=_RED, alpha=0.16))
        self._window = self._add(ax, Rectangle((1, 0), 1, 1, transform=ax.get_xaxis_transform(), **_WINDOW))
        ax.add_patch(self._alarm)
        ax.add_patch(self._window)
        self._exact, self._law = self._line(ax, **_EXACT), self._line(ax, **_LAW)
        self._headline = self._add(
            ax, ax.text(0.98, 0.95, "", transform=ax.transAxes, ha="right", va="top", fontsize=8.5)
        )

    def _set_up_region(self, ax: Axes) -> None:
        ax.set(yscale="log", xlim=(-1, 1), ylim=_LR, xlabel="momentum β", ylabel="learning rate α")
        handles = [
            Line2D([], [], label="spectral-diagonal", color=_GREEN, linewidth=1.5),
            Line2D([], [], label="its limit at β → 1", **_LIMIT),
            Line2D([], [], label="full batch", **_FULL),
        ]
        ax.legend(handles=handles, loc="lower center")
        self._stable = self._add(ax, Polygon([[0, 1]], facecolor=PALETTE[9], alpha=0.3, linewidth=0))
        ax.add_patch(self._stable)
        self._full, self._limit = self._line(ax, **_FULL), self._line(ax, **_LIMIT)
        self._bound = self._line(ax, color=_GREEN, linewidth=1.5)
        self._here = self._line(ax, marker="o", markersize=7.5, markeredgecolor="white", clip_on=False)

    def png(self, view: View, compress_level: int = 3) -> bytes:
        """The picture of one setting; zlib's `compress_level`: 3 is quick, 9 a fifth smaller."""
        prediction = view.prediction
        start = view.initial_loss
        with np.errstate(over="ignore"):
            relative = np.clip(prediction.loss / start, 1e-30, 1e30)
            law = np.clip(prediction.law / start, 1e-30, 1e30)
        self._exact.set_data(prediction.steps, relative)
        self._exact.set_color(_GREEN if view.stable else _RED)
        self._law.set_data(prediction.steps, law)
        low, high = prediction.window or (1, 1)
        self._window.set_bounds(low, 0, high - low, 1)
        self._window.set_visible(prediction.window is not None)
        self._alarm.set_visible(not view.stable)
        self._headline.set(text=view.headline, color="black" if view.stable else _RED)
        self._headline.set_fontweight("normal" if view.stable else "bold")
        around = np.concatenate([view.momenta, view.momenta[::-1]])
        floor = np.full(view.momenta.size, _LR[0])
        self._stable.set_xy(np.column_stack([around, np.concatenate([np.maximum(view.bound, _LR[0]), floor])]))
        self._bound.set_data(view.momenta, view.bound)
        self._full.set_data(view.momenta, view.full_batch)
        self._limit.set_data(
            view.momenta, np.full(view.momenta.size, np.nan) if view.asymptote is None else view.asymptote
        )
        self._here.set_data([view.momentum], [view.lr])
        self._here.set(marker="o" if view.stable else "X", color=_GREEN if view.stable else _RED)
        right, top = self._place.get_xlim()[1], self._place.get_ylim()[1]
        inside = view.law.nu <= right and view.law.zeta <= top
        self._point.set_data([min(view.law.nu, right)], [min(view.law.zeta, top)])
        self._point.set_marker("o" if inside else "^")
        self._canvas.restore_region(self._background)
        for ax, artist in self._moving:
            ax.draw_artist(artist)
        buffer = io.BytesIO()
        pixels = np.asarray(self._canvas.buffer_rgba())[..., :3]  # nothing is transparent
        metadata: dict[str, str] = {"Software": None}  # type: ignore[dict-item] # None: left out
        options = {"compress_level": compress_level}
        matplotlib.image.imsave(buffer, pixels, format="png", metadata=metadata, pil_kwargs=options)
        return buffer.getvalue()
