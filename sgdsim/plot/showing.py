"""A picture as a notebook shows it: PNG bytes of moderate size, without dates or versions."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdsim.common.checks import InputError, number
from sgdsim.plot.styles import style


class PngPicture:
    """A figure drawn once; notebooks show it by themselves. `png` holds the bytes."""

    def __init__(self, png: bytes) -> None:
        self.png = png

    def __repr__(self) -> str:
        return "<picture>"  # no address: notebooks run again stay the same

    def _repr_png_(self) -> bytes:
        return self.png


Picture = PngPicture  # as it was called before


class ShownAxes(Axes):
    """Axes that a notebook shows as the picture they stand in."""

    def _repr_png_(self) -> bytes:
        return show(self).png


class ShownFigure(Figure):
    """A figure that shows itself at the end of a notebook cell; it needs no pyplot, and no inline backend."""

    def add_subplot(self, *args: Any, **kwargs: Any) -> Axes:
        """As matplotlib's, with axes that show themselves where no others are asked for."""
        if "projection" not in kwargs and "polar" not in kwargs and not any(isinstance(a, Axes) for a in args):
            kwargs.setdefault("axes_class", ShownAxes)
        return super().add_subplot(*args, **kwargs)

    def _repr_png_(self) -> bytes:
        return show(self).png


def show(figure: Figure | Axes, *, dpi: float = 96) -> PngPicture:
    """A figure (or the figure of an Axes) for the end of a notebook cell, in the style of all pictures.

    Needs no backend and no pyplot. Figures made alike give the same bytes. Raises InputError for anything else,
    or a dpi outside 20 … 600.
    """
    drawn = figure.figure if isinstance(figure, Axes) else figure
    if not isinstance(drawn, Figure):
        raise InputError(f"figure: expected a matplotlib Figure or Axes, got {type(figure).__name__}")
    dpi = number("dpi", dpi, minimum=20, maximum=600)
    buffer = io.BytesIO()
    with style():
        drawn.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return PngPicture(buffer.getvalue())
