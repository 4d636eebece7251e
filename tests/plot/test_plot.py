"""Pictures of synthetic results: what is drawn, where, and that nothing global is touched."""

import itertools
import json
import re

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from sgdsim import plot
from sgdsim.common.checks import InputError
from sgdsim.plot.losses import RATIOS
from sgdsim.problem import QuadraticProblem
from sgdsim.regimes import SampledLinearized, SpectralDiagonal, names

REGIMES = ["network", "sampled", "averaged", "diagonal:tau=1", "diagonal:tau=-1"]
STEPS = np.unique(np.r_[0, np.geomspace(1, 1000, 25).round()].astype(int))


def make(axes=None, *, zipped=False, regimes=REGIMES, replicates=10, modes=50):
    """A result with power-law losses, noisy in the stochastic regimes; dims as sweep() gives them."""
    axes = axes or {}
    columns = list(axes.values())
    dims = ("cell",) if zipped else tuple(axes)
    shape = (len(columns[0]),) if zipped else tuple(map(len, columns))
    rng = np.random.default_rng(1)
    loss = np.full((*shape, len(regimes), replicates, len(STEPS)), np.nan)
    for i, name in enumerate(regimes):
        runs = replicates if name in ("network", "sampled") else 1
        noise = 0.2 * rng.normal(size=(*shape, runs, len(STEPS))) * (runs > 1)
        loss[..., i, :runs, :] = (1 + 0.1 * i) * 0.5 * (STEPS + 1.0) ** -0.4 * np.exp(noise)
    coords = {"regime": regimes, "replicate": np.arange(replicates), "step": STEPS}
    coords |= {name: ("cell" if zipped else name, values) for name, values in axes.items()}
    k = np.arange(1, modes + 1.0)
    variables = {
        name: ((*dims, "regime", "replicate", "step"), data) for name, data in [("loss", loss), ("test_loss", 2 * loss)]
    }
    variables |= {"eigenvalues": ("mode", k**-1.5), "coefficients": ("mode", -(k**-1.2))}
    return xr.Dataset(variables, coords=coords, attrs={"problem": json.dumps({"title": "power law, n = 50"})})


def line(ax, label):
    (found,) = [found for found in ax.lines if found.get_label() == label]
    return found


def crosses(ax):
    return [mark.get_xydata()[0] for mark in ax.lines if mark.get_label() == "_diverged"]


def panels(figure):
    """Of losses and spectra, without those of ratios below."""
    return [ax for ax in figure.axes if ax.axison and ax.get_label() != RATIOS]


def legend_labels(figure):
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend() and not ax.axison)]
    (legend,) = legends
    return [text.get_text() for text in legend.get_texts()]


def test_pictures_show_themselves_in_a_notebook_without_pyplot():
    """Figures and Axes alike: a cell that ends with one needs no backend."""
    ax = plot.spectrum(QuadraticProblem.power_law(50, 1.5, 0.5))
    assert ax._repr_png_() == ax.figure._repr_png_() == plot.show(ax).png
    assert ax._repr_png_().startswith(b"\x89PNG")


def test_curves_draw_the_means_and_quantiles_of_the_replicates():
    result = make({"lr": [0.5], "batch_size": [10]})
    ax = plot.loss_curves(result)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("SGD step t", "train loss")
    assert ax.get_title().replace("\xa0", " ") == "α = 0.5, b = 10"
    runs = result.loss.values[0, 0]
    for i, name in enumerate(REGIMES):
        x, y = line(ax, plot.regime_style(name)["label"]).get_data()
        np.testing.assert_array_equal(x, STEPS[1:])
        np.testing.assert_allclose(y, np.nanmean(runs[i], axis=0)[1:], rtol=1e-14)
    assert len(ax.collections) == 2  # bands of the two stochastic regimes
    corners = ax.collections[0].get_paths()[0].vertices[:, 1]
    ordered = np.sort(runs[0, :, 1:], axis=0)
    assert set(ordered[0]) | set(ordered[8]) <= set(corners)
    assert not crosses(ax)
    low, high = ax.get_ylim()
    assert low < ordered[0].min() < ordered[-2].max() < high < 10


def test_other_observable_given_axes_and_title():
    ax = Figure().subplots()
    assert plot.loss_curves(make(), ax=ax, observable="test_loss", title="mine") is ax
    assert (ax.get_ylabel(), ax.get_title()) == ("test loss", "mine")
    assert "mean, 10–90% of replicates" in [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("squeeze", [{"regime": 0}, {"regime": 0, "replicate": 0}])
def test_a_simulation_of_one_regime(squeeze):
    result = make(regimes=["sampled"]).isel(squeeze)
    ax = plot.loss_curves(result)
    expected = result.loss.values.reshape(-1, len(STEPS)).mean(axis=0)[1:]
    np.testing.assert_allclose(line(ax, "sampled").get_ydata(), expected)
    assert len(ax.collections) == ("replicate" not in squeeze)
    assert ax.get_title() == ""


def test_the_mean_ends_where_a_replicate_diverges_and_the_band_goes_on():
    result = make()
    result.loss[1, 3, 12:] = np.inf
    ax = plot.loss_curves(result)
    y = line(ax, "sampled").get_ydata()
    assert np.isfinite(y[:11]).all()
    assert np.isnan(y[11:]).all()
    np.testing.assert_allclose(crosses(ax), [[STEPS[11], y[10]]])
    assert ax.collections[1].get_paths()[0].vertices[:, 0].max() == STEPS[-1]
    assert ax.get_ylim()[1] < 1.5


def test_explosions_and_tiny_values_leave_the_limits_usable(tmp_path):
    result = make()
    result.loss[0, :, 5:] = np.geomspace(1, 1e250, len(STEPS) - 5)
    result.loss[0, :, -3:] = np.inf
    result.loss[2, 0, :] = np.inf
    result.loss[3, 0, 10:] = 1e-300
    result.loss[4, 0, 10:] = 0.0
    figure = plot.comparison(result)
    ax = panels(figure)[0]
    low, high = ax.get_ylim()
    assert high < 100
    assert 1e-19 < low < 1e-15
    seen = crosses(ax)
    assert len(seen) == 2
    assert all(1 <= x <= 1000 and low < y < high for x, y in seen)
    assert "diverges: leaves the picture here" in legend_labels(figure)
    plot.save(figure, tmp_path / "a.png")


def test_huge_finite_growth_has_no_cross():
    result = make(regimes=["averaged"])
    result.loss[0, 0] = np.geomspace(1, 1e300, len(STEPS))
    ax = plot.loss_curves(result)
    assert ax.get_ylim()[1] < 100
    assert not crosses(ax)


@pytest.mark.parametrize(
    ("axes", "zipped", "shape"),
    [
        ({"lr": [0.5]}, False, (1, 2)),
        ({"lr": [0.5, 1.0], "batch_size": [1, 10]}, False, (3, 2)),
        ({"lr": [0.1, 0.5, 1.0], "momentum": [0.0], "batch_size": [1, 10, 20, 30]}, False, (4, 4)),
        ({"lr": [0.1, 0.5, 1.0], "batch_size": [1, 10, 20]}, True, (2, 2)),
        ({"lr": list(np.linspace(0.1, 1, 24))}, False, (5, 5)),
    ],
)
def test_comparison_has_a_panel_per_cell_and_the_spectrum(axes, zipped, shape):
    figure = plot.comparison(make(axes, zipped=zipped, replicates=2))
    assert figure.axes[0].get_gridspec().get_geometry() == (2 * shape[0], shape[1])
    combinations = list(zip(*axes.values(), strict=True) if zipped else itertools.product(*axes.values()))
    drawn = panels(figure)
    assert len(drawn) == len(combinations) + 1
    assert drawn[-1].get_title() == "spectrum"
    symbols = {"lr": "α", "momentum": "β", "batch_size": "b"}
    for ax, values in zip(drawn, combinations, strict=False):
        title = ", ".join(f"{symbols[name]} = {value:.4g}" for name, value in zip(axes, values, strict=True))
        assert re.sub(r"\s", " ", ax.get_title()) == title
        assert ax.get_ylim() == drawn[0].get_ylim()
    assert legend_labels(figure)[:2] == ["network", "sampled"]
    assert figure.get_suptitle() == "power law, n = 50"


def test_schedules_on_the_axes_missing_cells_and_no_spectrum():
    jacobi = "jacobi:lr=1,a=0.5,b=0.5"
    axes = {"lr": ["0.5", jacobi], "momentum": ["-0.1", jacobi], "batch_size": [10, 10]}
    result = make(axes, zipped=True).drop_vars(["eigenvalues", "coefficients"])
    result.loss[0] = np.nan
    result.attrs = {}
    first, second = panels(plot.comparison(result))
    assert [text.get_text() for text in first.texts] == ["not computed"]
    assert first.get_title().replace("\xa0", " ") == "α = 0.5, β = −0.1, b = 10"
    assert re.sub(r"\s", " ", second.get_title()) == "α, β = jacobi(lr=1, a=0.5, b=0.5), b = 10"
    result.loss[:] = np.nan
    assert len(panels(plot.comparison(result))) == 2


def test_spectrum_draws_relative_eigenvalues_and_tail_sums():
    result = make()
    ax = plot.spectrum(result)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    values, tails = ax.lines
    c = result.coefficients.values**2
    np.testing.assert_array_equal(values.get_xdata(), np.arange(1, 51))
    np.testing.assert_allclose(values.get_ydata(), result.eigenvalues)
    np.testing.assert_allclose(tails.get_ydata(), [c[k:].sum() / c.sum() for k in range(50)])
    assert len(plot.spectrum([2.0, 1.0]).lines) == 1
    y = plot.spectrum([2.0, 1.0, 1e-17, 0.0, -1e-18], [1, 1, 1e-9, 0, 0]).lines
    np.testing.assert_allclose(y[0].get_ydata(), [1, 0.5, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(y[1].get_ydata(), [1, 0.5, np.nan, np.nan, np.nan])
    long = plot.spectrum(np.arange(1, 100_001.0) ** -1.5).lines[0].get_xdata()
    assert len(long) < 2001
    assert (long[0], long[-1]) == (1, 100_000)


def test_a_closure_has_the_colour_of_its_regime_in_the_stability_map():
    problem, tau = QuadraticProblem.power_law(20, 1.5, 1.0), 1 / 3
    axes = plot.stability_map(problem, [4], taus=[tau]).axes[0]
    bound = next(line for line in axes.lines if line.get_label().startswith("spectral-diagonal"))
    assert bound.get_color() == plot.regime_style(SpectralDiagonal(tau).name)["color"]


def test_regime_styles_are_fixed_and_distinct():
    styles = [plot.regime_style(name) for name in REGIMES]
    assert len({style["color"] for style in styles}) == len({style["linestyle"] for style in styles}) + 1 == 5
    assert styles[0]["linewidth"] > styles[1]["linewidth"]
    assert styles[-1]["label"] == "diagonal, τ = −1"
    assert plot.regime_style("diagonal:tau=0.5") == plot.regime_style("diagonal:tau=0.5")
    assert plot.regime_style("diagonal:tau=0.5")["color"] not in {style["color"] for style in styles}


def test_a_new_regime_has_a_style_by_what_it_is(monkeypatch):
    """Solid where replicates differ, like the stochastic regimes that have styles of their own; else broken."""
    for name in REGIMES:
        assert (plot.regime_style(name)["linestyle"] == "-") == names.parse(name).stochastic
    stochastic = type("Stochastic", (SampledLinearized,), {"name": "mine:k=2"})
    parse = names.parse
    monkeypatch.setattr(names, "parse", lambda text: stochastic() if text == "mine:k=2" else parse(text))
    look = plot.regime_style("mine:k=2")
    assert look["linestyle"] == "-"
    assert look["color"] not in {plot.regime_style(name)["color"] for name in REGIMES}
    assert look["label"] == "mine, k=2"
    for name in ("diagonal:tau=0.5", "no regime"):
        assert plot.regime_style(name)["linestyle"] != "-"


def test_saved_files_embed_their_text_and_are_reproducible(tmp_path):
    for ending in ("pdf", "svg", "PNG"):
        once, again = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
        ax = plot.loss_curves(make())
        plot.save(ax, once)
        plot.save(plot.loss_curves(make()).figure, again)
        assert once.read_bytes() == again.read_bytes()
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/CIDFontType2" in pdf or b"/Subtype /TrueType" in pdf
    assert b"<text" in (tmp_path / "a.svg").read_bytes()
    header = (tmp_path / "a.PNG").read_bytes()[16:24]
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    assert (width, height) == tuple(np.round(ax.figure.get_size_inches() * 200).astype(int))
    assert len(list(tmp_path.iterdir())) == 6


def test_what_cannot_be_saved_is_said_in_one_line(tmp_path):
    figure = plot.spectrum([1.0]).figure
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "a.jpg", tmp_path / "none" / "a.png", tmp_path / "folder.png", tmp_path / "plain"):
        with pytest.raises(InputError, match=r"^[^\n]+: expected [^\n]+$"):
            plot.save(figure, path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.loss_curves(make({"lr": [0.1, 0.2]})), r"lr \(2 values\).*result\.sel\(lr="),
        (lambda: plot.loss_curves(make({"lr": [0.1, 0.2]}, zipped=True)), r"cell \(2 values\).*isel\(cell=0\)"),
        (lambda: plot.loss_curves(make(), observable="speed"), "loss, test_loss"),
        (lambda: plot.loss_curves(make().isel(step=[0])), "step >= 1"),
        (lambda: plot.loss_curves([1.0, 0.5]), "xarray"),
        (lambda: plot.loss_curves(make().drop_vars(["loss", "test_loss"])), "over step"),
        (lambda: plot.loss_curves(make().drop_vars("regime")), "regime"),
        (lambda: plot.comparison(make({"lr": list(range(1, 26))})), "1 to 24 cells.*25.*sel"),
        (lambda: plot.spectrum(make().drop_vars("eigenvalues")), "eigenvalues"),
        (lambda: plot.spectrum([1.0, 0.5], [1.0]), "coefficients.*shape"),
        (lambda: plot.spectrum([0.0, 0.0]), "positive"),
    ],
)
def test_wrong_input_is_said_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_nothing_global_is_touched(tmp_path):
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    plot.save(plot.comparison(make()), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []
