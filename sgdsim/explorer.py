"""Sliders for a notebook: exact curve, law and stable region of a power-law spectrum redraw as they move.

`explore()` needs ipywidgets; `view` computes and `picture` draws without it. The picture is PNG bytes in an image
widget, so it looks the same in JupyterLab, Notebook, Voila and Colab and needs no extension of theirs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sgdsim.checks import InputError, integer, number
from sgdsim.problem import QuadraticProblem
from sgdsim.sgd import SGD
from sgdsim.theory import optimal, power_law, stability

if TYPE_CHECKING:
    from sgdsim.plot_show import Picture

DEFAULTS = {"nu": 1.5, "kappa": 3.0, "lr": 0.2, "momentum": 0.0, "batch_size": 1}
BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_HORIZON = 1e8


@dataclass(frozen=True, eq=False)
class View:
    """What the explorer shows for one setting.

    Parameters
    ----------
    lr, momentum, batch_size, n : the setting. `stable`: by the spectral-diagonal theory (τ = 1).
    max_lr : the largest stable learning rate at this momentum and batch size. `initial_loss`: before any step.
    law, prediction : the power law and what it predicts, with the exact curve.
    momenta, bound, full_batch, asymptote : (M,) boundaries of the stable region; asymptote None without noise.
    """

    lr: float
    momentum: float
    batch_size: int
    n: int
    stable: bool
    max_lr: float
    initial_loss: float
    law: power_law.PowerLaw
    prediction: power_law.Prediction
    momenta: np.ndarray
    bound: np.ndarray
    full_batch: np.ndarray
    asymptote: np.ndarray | None

    @property
    def headline(self) -> str:
        """A few words for the picture."""
        if not self.stable:
            return f"UNSTABLE: α ≥ {self.max_lr:.3g}"
        found = self.prediction
        return found.phase if found.exponent is None else f"{found.phase}: L ∝ t^(−{found.exponent:.3g})"

    @property
    def summary(self) -> str:
        """One line: stable or not, and the law."""
        limit = f"α = {self.lr:.3g}, stable below {self.max_lr:.3g}"
        if not self.stable:
            return f"UNSTABLE: the loss grows like exp({self.prediction.rate:.3g}·t) ({limit})".replace("(-", "(−")
        found = self.prediction
        if found.exponent is None:
            return f"stable at this N, {found.phase} as N grows: no law ({limit})"
        return f"stable ({limit}); {found.phase}: L ≈ {found.constant:.3g} · t^−{found.exponent:.3g}"


@functools.lru_cache(maxsize=64)
def _spectrum(n: int, nu: float, kappa: float) -> tuple[QuadraticProblem, power_law.PowerLaw]:
    """The spectrum with neighbouring small eigenvalues merged, which the eye cannot tell from the whole; its law."""
    problem = QuadraticProblem.power_law(n, nu, kappa)
    return optimal.sketch(problem, exact=100, ratio=1.04), power_law.PowerLaw.of(problem)


def view(nu: float, kappa: float, lr: float, momentum: float, batch_size: int, *, n: int = 10_000) -> View:
    """Everything the explorer draws for one setting, from the contour evaluator.

    Raises InputError for exponents or a learning rate that are not positive, |β| ≥ 1 or a batch that N cannot fill.
    """
    n, batch_size = integer("n", n, minimum=2), integer("batch_size", batch_size, minimum=1)
    problem, law = _spectrum(n, number("nu", nu), number("kappa", kappa))
    sgd = SGD(lr, momentum, batch_size)
    gamma = float(sgd.values(n, 0, 1).noise[0])
    found = power_law.predict(problem, sgd, law, horizon=_HORIZON)
    momenta = np.tanh(np.linspace(-3.2, 3.8, 121))
    bound = stability.diagonal_max_lr(problem, momentum=momenta, noise=gamma)
    critical = stability.critical_eigenvalue(problem)
    asymptote = 2 * (1 - momenta) / (gamma * critical) if gamma * critical > 0 else None
    return View(
        float(lr), float(momentum), batch_size, n, found.stable, stability.max_lr(problem, sgd),
        problem.initial_loss, law, found, momenta, bound, 2 * (1 + momenta), asymptote,
    )  # fmt: skip


def picture(**setting: Any) -> Picture:
    """The explorer's picture for one setting (see `view`; what is not given is as in `DEFAULTS`), for a notebook."""
    from sgdsim.plot_explorer import ExplorerCanvas
    from sgdsim.plot_show import Picture

    return Picture(ExplorerCanvas(dpi=88).png(view(**{**DEFAULTS, **setting}), compress_level=9))


def explore(*, n: int = 10_000, **start: float) -> Any:
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
    from sgdsim.plot_explorer import ExplorerCanvas

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
    wide = {"layout": widgets.Layout(width="30em"), "style": {"description_width": "9em"}}
    sliders = {
        "nu": widgets.FloatSlider(
            values["nu"], min=_grid(values["nu"], 0.6, 0.05), max=3.0, step=0.05, description="ν, eigenvalues", **wide
        ),
        "kappa": widgets.FloatSlider(
            values["kappa"], min=_grid(values["kappa"], 0.2, 0.1), max=8.0, step=0.1, description="κ, target", **wide
        ),
        "lr": widgets.FloatLogSlider(
            values["lr"], min=_grid(math.log10(values["lr"]), -3, 0.01), max=math.log10(4), step=0.01,
            description="learning rate α", readout_format=".3g", **wide,
        ),
        "momentum": widgets.FloatSlider(
            values["momentum"], min=_grid(values["momentum"], -0.98, 0.005), max=0.995, step=0.005,
            description="momentum β", readout_format=".3f", **wide,
        ),
        "batch_size": widgets.SelectionSlider(
            options=sizes, value=values["batch_size"], description="batch size b", **wide
        ),
    }  # fmt: skip
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


def _grid(start: float, low: float, step: float) -> float:
    """The least value from `low` on that whole steps lead from to `start`. A browser moves a slider that stands between
    two steps to one of them, sooner or later, and with it the setting."""
    return start - step * math.floor((start - low) / step + 1e-9)


def _widgets_package() -> Any:
    try:
        import ipywidgets
    except ImportError:
        raise InputError(
            "explore: expected the package ipywidgets, got an installation without it; "
            "try: pip install 'sgdsim[notebooks]'"
        ) from None
    return ipywidgets
