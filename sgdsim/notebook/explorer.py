"""Sliders for a notebook: exact curve, law and stable region of a power-law spectrum redraw as they move.

`explore()` needs ipywidgets; `sgdsim.studies.explorer.view` computes and `picture` draws without it. The picture is
PNG bytes in an image widget, so it looks the same in JupyterLab, Notebook, Voila and Colab and needs no extension of
theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sgdsim.common.checks import InputError, integer, number
from sgdsim.studies.explorer import BATCH_SIZES, DEFAULTS, view

if TYPE_CHECKING:
    import ipywidgets

    from sgdsim.plot.showing import Picture


def picture(**setting: float) -> Picture:
    """The explorer's picture for one setting (see `view`; what is not given is as in `DEFAULTS`), for a notebook."""
    from sgdsim.plot.explorer import ExplorerCanvas
    from sgdsim.plot.showing import Picture

    whole: dict[str, Any] = {**DEFAULTS, **setting}
    return Picture(ExplorerCanvas(dpi=88).png(view(**whole), compress_level=9))


def explore(*, n: int = 10_000, **start: float) -> ipywidgets.VBox:
    """Sliders for ν, κ, α, β and b over the picture that they redraw, as an ipywidgets box.

    Parameters
    ----------
    n : size N of the spectrum.
    start : where sliders begin: nu, kappa, lr, momentum, batch_size; as in `DEFAULTS` where not given.

    Returns
    -------
    An `ipywidgets.VBox` with attributes `sliders` (a dict by name), `image` and `message`.

    Raises
    ------
    InputError : ipywidgets is not installed, an unknown name, or a value outside its slider.
    """
    widgets = _widgets_package()
    from sgdsim.plot.explorer import ExplorerCanvas

    n = integer("n", n, minimum=2)
    unknown = [name for name in start if name not in DEFAULTS]
    if unknown:
        raise InputError(f"explore: expected some of {', '.join(DEFAULTS)}; got {unknown[0]!r}")
    values = {**DEFAULTS, **start}
    for name, low, high in (("nu", 0.6, 3.0), ("kappa", 0.2, 8.0), ("lr", 1e-3, 4.0), ("momentum", -0.98, 0.995)):
        number(name, values[name], minimum=low, maximum=high)
    sizes = [b for b in BATCH_SIZES if b < n] + [n]
    if values["batch_size"] not in sizes:
        raise InputError(f"batch_size: expected one of {', '.join(map(str, sizes))}; got {values['batch_size']!r}")
    sliders = _sliders(widgets, values, sizes)
    canvas = ExplorerCanvas()
    image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
    message = widgets.HTML()

    def redraw(_: Any = None) -> None:
        shown = view(n=n, **{name: slider.value for name, slider in sliders.items()})
        image.value = canvas.png(shown)
        weight = "normal" if shown.stable else "bold"
        message.value = f'<span style="font-weight: {weight}">{shown.summary}</span>'

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    redraw()
    columns = widgets.HBox(
        [widgets.VBox([sliders[k] for k in ("nu", "kappa")]), widgets.VBox([sliders[k] for k in ("lr", "momentum")])]
    )
    box = widgets.VBox([columns, sliders["batch_size"], message, image])
    box.sliders, box.image, box.message = sliders, image, message
    return box


def _sliders(widgets: ModuleType, values: Mapping[str, float], sizes: list[int]) -> dict[str, ipywidgets.Widget]:
    wide = {"layout": widgets.Layout(width="30em"), "style": {"description_width": "9em"}}
    return {
        "nu": widgets.FloatSlider(
            values["nu"], min=_grid(values["nu"], 0.6, 0.05), max=3.0, step=0.05, description="ν, eigenvalues", **wide
        ),
        "kappa": widgets.FloatSlider(
            values["kappa"], min=_grid(values["kappa"], 0.2, 0.1), max=8.0, step=0.1, description="κ, target", **wide
        ),
        "lr": widgets.FloatLogSlider(
            values["lr"],
            min=_grid(math.log10(values["lr"]), -3, 0.01),
            max=math.log10(4),
            step=0.01,
            description="learning rate α",
            readout_format=".3g",
            **wide,
        ),
        "momentum": widgets.FloatSlider(
            values["momentum"],
            min=_grid(values["momentum"], -0.98, 0.005),
            max=0.995,
            step=0.005,
            description="momentum β",
            readout_format=".3f",
            **wide,
        ),
        "batch_size": widgets.SelectionSlider(
            options=sizes, value=values["batch_size"], description="batch size b", **wide
        ),
    }


def _grid(start: float, low: float, step: float) -> float:
    """The least value from `low` on that whole steps lead from to `start`. A browser moves a slider that stands between
    two steps to one of them, sooner or later, and with it the setting."""
    return start - step * math.floor((start - low) / step + 1e-9)


def _widgets_package() -> ModuleType:
    try:
        import ipywidgets
    except ImportError:
        raise InputError(
            "explore: expected the package ipywidgets, got an installation without it; "
            "try: pip install 'sgdsim[notebooks]'"
        ) from None
    return ipywidgets
