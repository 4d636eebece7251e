"""The look that all pictures share."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import matplotlib
import seaborn

from sgdsim.common.checks import InputError
from sgdsim.regimes import names

PALETTE = seaborn.color_palette("colorblind").as_hex()
Look: TypeAlias = dict[str, Any]  # keywords of matplotlib's lines and patches

_OTHER_COLORS = [PALETTE[i] for i in (3, 5, 7, 9)]
_OTHER_LINES = [(0, (3, 1, 1, 1, 1, 1)), (0, (2, 1)), (0, (8, 2)), (0, (5, 1, 1, 1, 1, 1, 1, 1))]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The one look of all figures, for the length of a `with` block; the global settings are left as they were."""
    settings = {**seaborn.axes_style("ticks"), **seaborn.plotting_context("paper")}
    settings |= {"font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8}
    settings |= {"xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7.5, "figure.titlesize": 9}
    settings |= {"axes.linewidth": 0.7, "axes.grid": True, "axes.grid.which": "major", "axes.titlepad": 4}
    settings |= {"grid.color": "0.9", "grid.linewidth": 0.5, "axes.axisbelow": True, "legend.frameon": False}
    settings |= {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "sgdsim", "savefig.dpi": 200}
    with matplotlib.rc_context(settings):
        yield


def regime_style(name: str, stochastic: bool | None = None) -> Look:
    """Colour, line style, width and label of a regime, the same in every figure; keywords for `Axes.plot`.

    Colours are from seaborn's colour-blind safe palette. A regime that registers no look of its own
    (`sgdsim.regimes.names`) gets one that depends on its name: a solid line where it is `stochastic` (None: where a
    regime of that name is), as for those that are, a broken one where not or not known.
    """
    base, _, rest = name.partition(":")
    label = f"{base}, {rest.replace('tau=', 'τ = ').replace('-', '−')}" if rest else base
    own = names.look(name)
    if own is None:
        code = zlib.crc32(name.encode())
        solid = _stochastic(name) if stochastic is None else stochastic
        line = "-" if solid else _OTHER_LINES[code // 4 % 4]
        return {"color": _OTHER_COLORS[code % 4], "linestyle": line, "linewidth": 1.4, "label": label}
    color = own.color if isinstance(own.color, str) else PALETTE[own.color]
    return {"color": color, "linestyle": (0, own.dashes) if own.dashes else "-", "linewidth": own.width, "label": label}


def closure_style(tau: float) -> Look:
    """`regime_style` of the diagonal regime with this τ."""
    from sgdsim.regimes import SpectralDiagonal  # late: with the kernels of all regimes

    return regime_style(SpectralDiagonal(tau).name)


def _stochastic(name: str) -> bool:
    """Whether replicates of the regime called `name` differ; False for a name of no regime."""
    try:
        return names.parse(name).stochastic
    except InputError:
        return False
