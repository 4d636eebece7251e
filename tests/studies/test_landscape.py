"""`sgdsim landscape`: ranges, the numbers of its maps, where their minima lie, and the picture."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

import sgdsim as ss
from sgdsim import plot
from sgdsim.plot import maps as plot_maps
from sgdsim.regimes import SampledLinearized, SpectralDiagonal
from sgdsim.studies import landscape
from sgdsim.theory import stability

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "60"]
GRID = ["--lr", "0:3:6", "--momentum", "-1:1:5", "--batch-size", "1", "10"]
RUNS = ["--regime", "diagonal", "sampled", "--n-steps", "200", "--replicates", "3"]


@pytest.fixture(scope="module")
def problem():
    return ss.QuadraticProblem.power_law(60, 1.5, 1.0)


@pytest.fixture(scope="module")
def result(problem):
    grid = ss.Grid.product(
        lr=landscape.spaced("lr", 0, 3, 6), momentum=landscape.spaced("momentum", -1, 1, 5), batch_size=[1, 10]
    )
    return ss.sweep(problem, grid, [SpectralDiagonal(), SampledLinearized()], 200, record=[200], replicates=3)


def panel(loss, diverged=None, regime="sampled"):
    """A map with given losses over lr 0.1, 0.2, … and momentum 0, 0.1, …"""
    none = np.zeros(loss.shape, bool)
    lr, momentum = 0.1 * (1 + np.arange(loss.shape[0])), 0.1 * np.arange(loss.shape[1])
    diverged = none if diverged is None else diverged
    return landscape.LossMap(
        regime, 10, 0.1, 1.0, 100, lr, momentum, np.where(diverged, np.nan, loss), diverged, none.copy(),
        stochastic=regime == "sampled",
    )  # fmt: skip


# Ranges.


def test_ranges_hold_the_ends_that_are_allowed():
    assert landscape.spaced("lr", 0, 4, 100) == [round(0.04 * k, 2) for k in range(1, 101)]
    assert landscape.spaced("lr", 0.5, 2, 4) == [0.5, 1.0, 1.5, 2.0]
    assert landscape.spaced("momentum", -1, 1, 49) == [round(0.04 * k, 2) for k in range(-24, 25)]
    assert landscape.spaced("momentum", 0, 1, 4) == [0, 0.25, 0.5, 0.75]
    assert landscape.spaced("momentum", -0.5, 0.5, 3) == [-0.5, 0, 0.5]
    wide = landscape.spaced("momentum", -1, 1, 50)
    assert len(wide) == 50
    np.testing.assert_allclose(np.diff(wide), 2 / 51, rtol=1e-9)
    np.testing.assert_allclose(wide, -np.array(wide)[::-1])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lr", "0:4"], "expected a number or LOW:HIGH:COUNT, got '0:4'"),
        (["--lr", "0:4:5:6"], "expected a number or LOW:HIGH:COUNT"),
        (["--lr", "0:4:x"], "expected a number or LOW:HIGH:COUNT"),
        (["--lr", "0:4:1"], "COUNT >= 2"),
        (["--lr", "4:0:5"], "LOW < HIGH, got 4:0:5"),
        (["--lr", "-1:4:5"], "lr: expected a finite number with 0 <= lr"),
        (["--lr", "nan:4:5"], "lr: expected a finite number"),
        (["--lr", "0"], "lr: expected a number > 0"),
        (["--lr", "0.5", "0:1:2"], "lr: expected different values"),
        (["--momentum", "-2:1:5"], "momentum: expected a finite number with -1 <= momentum <= 1"),
        (["--momentum", "1"], "momentum"),
        (["--batch-size", "10", "61"], "batch_size: expected values from 1 to 60 (training points), got 61"),
        (["--batch-size", "0"], "batch_size: expected an integer from 1 to 1e+18"),
        (["--batch-size", *map(str, range(1, 31)), "--plot", "a.png"], "expected at most 24 maps to draw, got 1 × 30"),
        (["--regime", "diagonal", "diagonal:tau=1"], "regime: expected different ones"),
        (["--regime", "typical"], "regime: expected network, sampled"),
        (["--n-steps", "0"], "n_steps: expected an integer >= 1"),
        (["--replicates", "0"], "replicates: expected an integer >= 1"),
        (["--plot", "map.txt"], "map.txt"),
        (["--out", "a.png", "--plot", "a.png"], "expected another file"),
        (["--n-test", "5"], "--n-test: expected none"),
        (["--shard", "1/2"], "--shard"),
    ],
)
def test_bad_input_is_one_line(run, words, told):
    assert told in run("landscape", *POWER, *words, code=2)


# The numbers.


def test_cells_are_those_of_simulate(problem, result):
    found = landscape.panels(result, problem)
    assert [(m.regime, m.batch_size) for m in found] == [
        (regime, size) for regime in ("diagonal:tau=1", "sampled") for size in (1, 10)
    ]
    for each in found[:2]:
        for i, lr in enumerate(each.lr):
            for j, momentum in enumerate(each.momentum):
                sgd = ss.SGD(float(lr), float(momentum), each.batch_size)
                alone = ss.simulate(problem, sgd, SpectralDiagonal(), 200, record=[200])
                final = float(alone["loss"].values[0, 0, -1])
                assert each.diverged[i, j] == (not np.isfinite(final))
                assert each.diverged[i, j] or each.loss[i, j] == final
    sampled = result["loss"].sel(regime="sampled", batch_size=10).isel(step=-1, lr=0, momentum=2)
    assert found[3].loss[0, 2] == pytest.approx(float(sampled.mean()), rel=1e-15)
    assert not any(each.missing.any() for each in found)
    assert all(each.diverged.any() and not each.diverged.all() for each in found)


def test_a_single_diverged_replicate_makes_the_cell_diverged(problem, result):
    changed = result.copy(deep=True)
    where = {"lr": 0, "momentum": 2, "batch_size": 1, "regime": 1}
    changed["outcome"][{**where, "replicate": 1}] = 2
    changed["loss"][{**where, "replicate": 1, "step": -1}] = np.inf
    one = landscape.panels(changed, problem)[3]
    assert one.diverged[0, 2]
    assert np.isnan(one.loss[0, 2])
    assert not one.missing[0, 2]


def test_cells_without_a_result_are_missing_not_diverged(problem, result):
    changed = result.copy(deep=True)
    where = {"lr": 0, "momentum": 2, "batch_size": 0, "regime": 0}
    changed["done"][where] = False
    changed["outcome"][where] = 0
    one = landscape.panels(changed, problem)[0]
    assert (one.missing[0, 2], one.diverged[0, 2]) == (True, False)
    assert np.isnan(one.loss[0, 2])
    assert one.missing.sum() == 1


def test_panels_refuse_other_results(problem):
    cell = ss.simulate(problem, ss.SGD(0.5), SpectralDiagonal(), 10)
    with pytest.raises(ss.InputError, match="product grid over lr, momentum, batch_size"):
        landscape.panels(cell, problem)


# The minimum.


def test_minimum_of_a_noisy_parabola():
    """The smoothed map finds the bottom to about a cell; the bare minimum is led astray by the noise."""
    rows, columns = np.mgrid[:30, :20]
    smooth = 0.02 * ((rows - 17) ** 2 + (columns - 8) ** 2)
    off = {True: [], False: []}
    for seed in range(20):
        noisy = panel(np.exp(smooth + np.random.default_rng(seed).normal(0, 0.3, smooth.shape)))
        for smoothing in (True, False):
            least = landscape.minimum(noisy, width=None if smoothing else 0)
            assert least.smoothed is smoothing
            off[smoothing].append(np.hypot(least.lr / 0.1 - 18, least.momentum / 0.1 - 8))
    assert np.mean(off[True]) < 2 < np.mean(off[False])
    assert np.max(off[True]) < 4.5


def test_minimum_beside_diverged_cells():
    """Neither a slope that rises towards divergence nor the diverged cells themselves move the minimum."""
    rows, columns = np.mgrid[:12, :10]
    loss = np.exp(0.5 * np.abs(rows - 6) + 0.1 * (columns - 4) ** 2)
    least = landscape.minimum(panel(loss, diverged=rows > 7))
    assert (least.lr, least.momentum) == pytest.approx((0.7, 0.4))
    assert least.loss == pytest.approx(1.0)
    plane = panel(np.exp(0.3 * rows - 0.2 * columns), diverged=(rows + columns) % 5 == 0)
    np.testing.assert_allclose(landscape.smoothed(plane), landscape.log10_loss(plane), atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (3, 2)])
def test_small_maps_have_a_minimum(shape):
    loss = 1 + np.arange(np.prod(shape), dtype=float).reshape(shape)
    least = landscape.minimum(panel(loss))
    assert (least.lr, least.momentum, least.loss) == (0.1, 0.0, 1.0)
    assert least.at_edge == tuple(name for name, size in zip(("lr", "momentum"), shape, strict=True) if size > 1)


def test_no_minimum_where_all_diverged():
    everywhere = panel(np.ones((3, 4)), diverged=np.ones((3, 4), bool))
    assert landscape.minimum(everywhere) is None
    assert landscape.minimum(panel(np.ones((3, 4)), regime="diagonal:tau=1")).smoothed is False


# The command.


def test_table_and_document(run, problem, result):
    document = json.loads(run("landscape", *POWER, *GRID, *RUNS, "--json", "--out", "l.nc", "--plot", "l.png"))
    expected = landscape.panels(result, problem)
    assert len(document["rows"]) == 4
    for row, each in zip(document["rows"], expected, strict=True):
        least = landscape.minimum(each)
        assert (row["regime"], row["batch_size"]) == (each.regime, each.batch_size)
        assert (row["loss"], row["lr"], row["momentum"]) == (least.loss, least.lr, least.momentum)
        assert row["smoothed"] == (each.regime == "sampled")
        assert (row["diverged"], row["cells"], row["missing"]) == (each.diverged.sum(), 30, 0)
        sgd = ss.SGD(1.0, least.momentum, each.batch_size)
        assert row["max_lr_spectral_diagonal"] == pytest.approx(stability.max_lr(problem, sgd), rel=1e-12)
        assert row["max_lr_full_batch"] == 2 * (1 + least.momentum)
    assert ss.load("l.nc")["loss"].sizes["lr"] == 6
    text = run("landscape", *POWER, *GRID, *RUNS, "--out", "l.nc")
    assert "diagonal:tau=1" in text
    assert "~" in text
    assert f"{expected[0].diverged.sum()}/30" in text


def test_everything_diverged_is_told(run):
    document = json.loads(
        run("landscape", *POWER, "--lr", "50", "60", "--momentum", "0", "--n-steps", "300", "--json", "--plot", "l.pdf")
    )
    (row,) = document["rows"]
    assert (row["loss"], row["lr"], row["max_lr_spectral_diagonal"], row["diverged"]) == (None, None, None, 2)
    assert "2/2" in run("landscape", *POWER, "--lr", "50", "60", "--momentum", "0", "--n-steps", "300")


# The picture.


def visible(figure):
    return [ax for ax in figure.axes if ax.get_visible() and ax.get_title()]


def test_picture_has_a_panel_for_each_map(problem, result, tmp_path):
    figure = plot.loss_maps(result, problem)
    axes = visible(figure)
    assert [ax.get_title() for ax in axes] == [
        f"{regime}, b = {b}" for regime in ("diagonal, τ = 1", "sampled") for b in (1, 10)
    ]
    for ax, each in zip(axes, landscape.panels(result, problem), strict=True):
        least = landscape.minimum(each)
        (star,) = [line for line in ax.lines if line.get_marker() == "*"]
        assert star.get_xydata().tolist() == [[least.momentum, least.lr]]
        grey, colored = (mesh.get_array() for mesh in ax.collections)
        assert np.array_equal(~np.ma.getmaskarray(grey).reshape(each.diverged.shape), each.diverged)
        assert np.array_equal(np.ma.getmaskarray(colored).reshape(each.diverged.shape), each.diverged)
        solid = next(line for line in ax.lines if line.get_linestyle() == "-")
        beta, bound = solid.get_data()
        np.testing.assert_allclose(
            bound, stability.diagonal_max_lr(problem, momentum=beta, noise=each.noise), rtol=1e-12
        )
    scales = {(mesh.norm.vmin, mesh.norm.vmax) for ax in axes for mesh in ax.collections[1:]}
    assert len(scales) == 1
    for name in ("l.png", "l.pdf", "l.svg"):
        plot.save(figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000


def test_missing_cells_are_hatched_and_lone_values_have_cells(problem, result):
    changed = result.copy(deep=True)
    where = {"lr": 0, "momentum": 2, "batch_size": 0, "regime": 0}
    changed["done"][where] = False
    changed["outcome"][where] = 0
    figure = plot.loss_maps(changed, problem)
    assert visible(figure)[0].collections[0].get_hatch()
    assert [text.get_text() for text in figure.legends[0].get_texts()][-2:] == ["diverged", "no result"]
    lone = plot.loss_maps(result.isel(lr=[0], momentum=[2], batch_size=[1], regime=[0]), problem)
    (ax,) = visible(lone)
    assert ax.get_xlim() == pytest.approx((-0.1, 0.1))
    assert isinstance(lone, Figure)


def test_full_batch_has_one_boundary(problem):
    grid = ss.Grid.product(lr=[0.5, 1.5, 2.5], momentum=[-0.5, 0.0, 0.5], batch_size=[60])
    result = ss.sweep(problem, grid, [SpectralDiagonal()], 100, record=[100])
    figure = plot.loss_maps(result, problem)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert not any("spectral-diagonal" in label for label in labels)
    (ax,) = visible(figure)
    (line,) = [line for line in ax.lines if line.get_marker() != "*"]
    np.testing.assert_allclose(line.get_ydata(), 2 * (1 + line.get_xdata()))


def test_other_points_are_marked_in_every_panel(problem, result):
    figure = plot.loss_maps(result, problem, marks={"published": (0.7, -0.1), "another": (0.9, 0.2)})
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:3] == ["published", "another"]
    for ax in visible(figure):
        marked = {line.get_marker(): line.get_xydata().tolist() for line in ax.lines if line.get_marker() in ("o", "D")}
        assert marked == {"o": [[-0.1, 0.7]], "D": [[0.2, 0.9]]}


def test_too_many_panels_are_refused(problem, result, monkeypatch):
    monkeypatch.setattr(plot_maps, "MAX_PANELS", 3)
    with pytest.raises(ss.InputError, match="at most 3 maps to draw, got 2 × 2"):
        plot.loss_maps(result, problem)


def test_cell_borders_stay_in_range():
    assert plot_maps.edges(np.array([0.1, 0.3, 0.9]), 0, np.inf).tolist() == pytest.approx([0, 0.2, 0.6, 1.2])
    assert plot_maps.edges(np.array([-0.9, 0.0, 0.9]), -1, 1).tolist() == pytest.approx([-1, -0.45, 0.45, 1])


def test_a_method_without_a_known_threshold_has_its_map(run):
    words = ["landscape", "--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "12", "--lr", "0.1", "0.2"]
    words += ["--momentum", "0", "--batch-size", "2", "--n-steps", "7", "--method", "am1:nu=1.5", "--json"]
    (row,) = json.loads(run(*words))["rows"]
    assert row["loss"] > 0
    assert (row["max_lr_spectral_diagonal"], row["max_lr_full_batch"]) == (None, None)
