"""The explorer: what its pictures say is what the theory says, and its sliders redraw."""

from __future__ import annotations

import builtins
import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

import sgdsim as ss
from sgdsim.notebook import explorer
from sgdsim.plot.explorer import ExplorerCanvas
from sgdsim.recurrence import contour
from sgdsim.studies import explorer as study
from sgdsim.theory import power_law, stability

widgets = pytest.importorskip("ipywidgets", reason="needs ipywidgets")


def pixels(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png))


def reddish(png: bytes) -> float:
    """Share of pixels in the curve's panel (left of a third) that are tinted red."""
    left = pixels(png)[:, : pixels(png).shape[1] // 3]
    return float(((left[..., 0] - left[..., 2]) > 0.1).mean())


def test_view_agrees_with_the_whole_spectrum():
    """The explorer merges neighbouring small eigenvalues; the exact curve and the limit hardly notice."""
    problem = ss.QuadraticProblem.power_law(10_000, 1.5, 3.0)
    shown = study.view(1.5, 3.0, 0.2, -0.3, 1)
    steps = shown.prediction.steps[::20]
    exact = contour.loss_at(problem, steps, lr=0.2, momentum=-0.3, batch_size=1).log_loss
    early = steps < 1e7  # beyond, the exponential tail magnifies
    assert np.abs(np.log(shown.prediction.loss[::20]) - exact)[early].max() < 0.005
    assert shown.max_lr == pytest.approx(stability.max_lr(problem, ss.SGD(0.2, -0.3, 1)), rel=1e-3)
    assert shown.prediction.constant == pytest.approx(
        power_law.predict(problem, ss.SGD(0.2, -0.3, 1), horizon=100).constant, rel=2e-3
    )
    assert shown.stable
    assert "noise-dominated" in shown.headline


def test_unstable_settings_show_as_such():
    shown = study.view(1.5, 3.0, 1.5, 0.0, 1)
    assert not shown.stable
    assert shown.headline.startswith("UNSTABLE")
    assert shown.summary.startswith("UNSTABLE")
    assert shown.prediction.rate > 0
    assert reddish(explorer.picture(lr=1.5).png) > 0.3 > 0.05 > reddish(explorer.picture().png)


def test_divergent_phase_of_a_stable_spectrum_has_no_law():
    shown = study.view(0.8, 0.5, 0.01, 0.5, 100)
    assert shown.stable
    assert shown.prediction.exponent is None
    assert "no law" in shown.summary


def test_one_canvas_draws_what_a_fresh_one_would():
    """Nothing of an earlier setting stays behind, though only parts are drawn again."""
    settings = [
        (1.5, 3.0, 0.2, 0.0, 1),
        (1.5, 3.0, 2.5, 0.0, 1),
        (0.8, 6.0, 0.01, 0.5, 10_000),
        (2.5, 1.0, 0.2, 0.9, 100),
    ]
    canvas = ExplorerCanvas(dpi=50)
    views = [study.view(*setting) for setting in settings]
    fresh = [ExplorerCanvas(dpi=50).png(shown) for shown in views]
    for shown, expected in zip([*views, *views[::-1]], [*fresh, *fresh[::-1]], strict=True):
        assert canvas.png(shown) == expected
    assert len(set(fresh)) == len(fresh)


def test_sliders_redraw():
    box = explorer.explore(n=2000)
    assert isinstance(box, widgets.VBox)
    assert set(box.sliders) == set(study.DEFAULTS)
    start = box.image.value
    assert pixels(start).shape[:2] == (280, 920)
    for name, value in (("kappa", 1.0), ("nu", 2.0), ("lr", 0.05), ("momentum", 0.9), ("batch_size", 100)):
        before = box.image.value
        box.sliders[name].value = value
        assert box.image.value != before
    assert "stable below" in box.message.value
    box.sliders["lr"].value = 4.0
    assert "UNSTABLE" in box.message.value
    for name, slider in box.sliders.items():
        slider.value = study.DEFAULTS[name]
    assert box.image.value == start


@pytest.mark.parametrize(
    "start",
    [{}, {"nu": 1.234, "kappa": 2.345, "lr": 0.1234, "momentum": -0.1234}, {"lr": 0.001, "momentum": -0.98}, {"lr": 4}],
)
def test_sliders_start_on_a_step(start):
    """A browser moves a slider that stands between two steps, and the picture with it."""
    sliders = explorer.explore(n=100, **start).sliders
    for name in ("nu", "kappa", "lr", "momentum"):
        slider = sliders[name]
        assert slider.value == {**study.DEFAULTS, **start}[name]
        steps = ((np.log10(slider.value) if name == "lr" else slider.value) - slider.min) / slider.step
        assert steps == pytest.approx(round(steps), abs=1e-9)
        low = {"nu": 0.6, "kappa": 0.2, "lr": -3, "momentum": -0.98}[name]
        assert low - 1e-12 <= slider.min < low + slider.step


def test_a_redraw_has_little_to_do(monkeypatch):
    """What makes it take some ten milliseconds: no new spectrum, few eigenvalues, and only what moves is drawn."""
    box = explorer.explore()
    box.sliders["lr"].value = 0.3
    called, sizes, predict = [], [], study.power_law.predict

    def counted(problem, *args, **kwargs):
        sizes.append(problem.spectrum.eigenvalues.size)
        return predict(problem, *args, **kwargs)

    monkeypatch.setattr(study.power_law, "predict", counted)
    monkeypatch.setattr(study.QuadraticProblem, "power_law", lambda *_: called.append("a new spectrum"))
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda *_: called.append("a whole figure"))
    for beta in np.linspace(-0.9, 0.9, 11):
        before = box.image.value
        box.sliders["momentum"].value = round(float(beta), 3)
        assert box.image.value != before
    assert called == []
    assert len(sizes) == 11
    assert max(sizes) < 400  # of 10,000


def test_bad_input(monkeypatch):
    with pytest.raises(ss.InputError, match="explore: expected some of nu, kappa, lr"):
        explorer.explore(alpha=1)
    with pytest.raises(ss.InputError, match="momentum: expected a finite number"):
        explorer.explore(momentum=1.5)
    with pytest.raises(ss.InputError, match="batch_size: expected one of 1, 2, 5, 10, 20, 50, 100"):
        explorer.explore(n=100, batch_size=200)
    with pytest.raises(ss.InputError, match="batch_size"):
        study.view(1.5, 1.0, 0.1, 0.0, 200, n=100)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "ipywidgets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ss.InputError, match=r"pip install 'sgdsim\[notebooks\]'"):
        explorer.explore()
    assert explorer.picture(n=100).png.startswith(b"\x89PNG")  # needs no widgets
