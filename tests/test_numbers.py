"""Numbers at the ends of what a float holds, names of values, and divergence where a run starts at its targets."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import sgdsim as ss
from sgdsim import cli, plot, regimes
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.common.specs import readable, shortest
from sgdsim.datasets import formats
from sgdsim.datasets.formats import RawData
from sgdsim.problem.kernel_files import load_kernel
from sgdsim.runs import follow
from sgdsim.runs.sweeps import Grid
from sgdsim.studies import budgets, comparison, validation

# Divergence.


@pytest.mark.parametrize("regime", [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()])
def test_noisy_labels_move_a_run_that_starts_at_its_targets(tiny, regime):
    """They end where runs from another start end."""
    at_targets = dataclasses.replace(tiny, coefficients=np.zeros(5), test=None)
    sgd = SGD(0.5, batch_size=2, label_noise=0.1)
    options = {"n_steps": 4000, "record": [4000], "replicates": 200, "seed": 3}
    ends = [ss.simulate(p, sgd, regime, **options)["loss"].values[0, :, -1] for p in (at_targets, tiny)]
    assert np.isfinite(ends).all()
    assert ends[0].mean() == pytest.approx(ends[1].mean(), rel=0.1 if regime.stochastic else 0.01)
    assert ends[0].mean() > 0


def test_a_network_at_its_targets_is_not_moved_by_rounding(digits_network):
    outputs = digits_network.initial_outputs
    data = dataclasses.replace(digits_network.data, y=outputs[0], x_test=None, y_test=None)
    problem = ss.NetworkProblem(digits_network.network, data, device="cpu")
    for regime in (ss.RealNetwork(), ss.RealNetwork("float32")):
        result = ss.simulate(problem, SGD(0.5, batch_size=10), regime, 20)
        assert (result["outcome"] == follow.OUTCOMES.index("completed")).all()
        assert result["loss"].max() < 1e-10
    noisy = ss.simulate(problem, SGD(0.5, batch_size=10, label_noise=0.1), ss.RealNetwork(), 20)
    assert (noisy["outcome"] == follow.OUTCOMES.index("completed")).all()
    assert noisy["loss"].values[0, 0, -1] > 0


def test_a_training_with_noisy_labels_from_its_targets(digits_network):
    data = dataclasses.replace(digits_network.data, y=digits_network.initial_outputs[0], x_test=None, y_test=None)
    problem = ss.NetworkProblem(digits_network.network, data, device="cpu")
    run = validation.train(problem, SGD(0.3, batch_size=10, label_noise=0.1), 20, replicates=2)
    assert np.isfinite(run.network).all()
    assert np.isfinite(run.sampled).all()


@pytest.mark.parametrize(
    ("loss", "initial", "least", "diverged"),
    [
        (1.0, 1.0, 0.0, False), (2e10, 1.0, 0.0, True), (2e10, 1.0, 10.0, False), (math.nan, 1.0, 0.0, True),
        (0.0, 0.0, 0.0, False), (1e-300, 0.0, 0.0, True), (math.inf, 1e300, 0.0, True), (1.0, 0.0, 0.5, False),
    ],
)  # fmt: skip
def test_the_rule(loss, initial, least, diverged):
    assert follow.has_diverged(np.array([loss]), np.array([initial]), least).tolist() == [diverged]


def test_a_hessian_run_at_its_targets_does_not_diverge(digits_network):
    data = dataclasses.replace(digits_network.data, y=digits_network.initial_outputs[0], x_test=None, y_test=None)
    found = ss.hessians.hessian_spectra(
        digits_network.network, data, lr=0.01, batch_size=10, steps=[0, 5], top=2, lanczos_steps=3, n_probes=1
    )
    assert (found.diverged_at, len(found.at)) == (None, 2)


# Results whose cells have steps of their own.


@pytest.fixture(scope="module")
def budget():
    problem = ss.QuadraticProblem.power_law(100, 1.5, 0.5)
    return budgets.run(problem, ss.SpectralDiagonal(), batch_sizes=[1, 5, 20], lr=0.01, n_steps=1000), problem


def test_a_table_has_the_last_step_of_each_cell(budget, tmp_path):
    result, problem = budget
    comparison.export(result, tmp_path / "b.csv")
    table = pd.read_csv(tmp_path / "b.csv")
    assert table["step"].tolist() == [1000, 200, 50]
    for row, curve in zip(table.itertuples(), budgets.curves(result, problem), strict=True):
        assert row.loss == curve.loss[-1]
    rows = comparison.frame(result, curves=True)
    assert not rows["loss"].isna().any()
    assert len(rows) == int(result["loss"].notnull().sum())


def test_a_failed_cell_keeps_its_row():
    grid = ss.Grid.product(lr=[0.5], n=[20, 5], batch_size=[10])
    with pytest.warns(RuntimeWarning, match="1 of 2 runs"):
        result = ss.sweep(lambda n: ss.QuadraticProblem.power_law(n, 1.5, 1.0), grid, ss.SpectralDiagonal(), 20)
    for curves, rows in ((False, 2), (True, result.sizes["step"] + 1)):
        table = comparison.frame(result, curves=curves)
        assert len(table) == rows
        assert table.loc[table["outcome"] == "failed", "error"].str.contains("batch_size").tolist() == [True]


def test_a_picture_joins_the_steps_that_a_cell_recorded(budget):
    figure = plot.comparison(budget[0])
    drawn = [line.get_ydata() for ax in figure.axes[:3] for line in ax.lines]
    assert len(drawn) == 3
    assert all(np.isfinite(y).all() for y in drawn)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.drop_vars("outcome"), "expected outcome over regime, replicate"),
        (lambda r: r.drop_vars("done"), "expected a variable done"),
        (lambda r: r.drop_vars("diverged_at"), "expected a variable diverged_at"),
        (lambda r: r.assign(outcome=r["done"]), "expected outcome over"),
        (lambda r: r.assign(loss=r["loss"].isel(step=0)), "expected loss over"),
        (lambda r: r.assign(seconds=r["loss"]), "expected seconds over"),
        (lambda r: r.assign(outcome=r["outcome"] + 100), "outcomes from 0"),
        (lambda r: r.assign(outcome=r["outcome"].astype(str)), "outcomes from 0"),
        (lambda r: r.assign(loss=r["loss"].astype(str)), "losses as floats"),
        (lambda r: r.assign(test_loss=r["loss"].isel(regime=0)), "expected test_loss over"),
    ],
)
@pytest.mark.parametrize("curves", [False, True])
def test_a_result_with_other_variables_is_refused(budget, change, words, curves):
    with pytest.raises(InputError, match=words):
        comparison.frame(change(budget[0]), curves=curves)


# Names.


@pytest.mark.parametrize("tau", [1 / 3, 1.0, -1.0, 0.0, -0.0, 0.1, 1e-300, 1e22, 0.1234567890123456, 5e-324])
def test_a_closures_name_is_exact_and_the_same_everywhere(tau):
    regime = ss.SpectralDiagonal(tau)
    assert regimes.parse(regime.name) == regime
    problem, grid = ss.QuadraticProblem.power_law(20, 1.5, 1.0), Grid.product(lr=[0.5])
    result = ss.sweep(problem, grid, [regime], 1)
    assert list(comparison.ComparedCells.of(result, problem, grid).rows[0].stable_by_closure) == [regime.name]


def test_usual_names_stay_short():
    assert [ss.SpectralDiagonal(tau).name for tau in (1, -1.0, 0.5, -0.0)] == [
        "diagonal:tau=1", "diagonal:tau=-1", "diagonal:tau=0.5", "diagonal:tau=0",
    ]  # fmt: skip


@pytest.mark.parametrize("tolerance", [1e-3, 1e-4 / 3, 0.0])
def test_a_tolerance_is_named_exactly(tolerance):
    assert regimes.parse(ss.BatchAveraged(tolerance).name) == ss.BatchAveraged(tolerance)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9999999999999999, "0.9999999999999999"), (-0.9999999999, "-0.9999999999"), (0.9, "0.9"), (1.0, "1"),
        (1 / 3, "0.333333"), (0.99999949, "0.999999"), (1.0000001, "1.0000001"), (1234567, "1234567"), (0, "0"),
        (1e-320, "9.99989e-321"), (1e300, "1e+300"),
    ],
)  # fmt: skip
def test_a_number_is_not_shown_as_one_with_another_meaning(value, text):
    assert readable(value) == text


def test_shortest_reads_back():
    for value in (1 / 3, 1.0, 1e16, 5e-324, -0.1):
        assert float(shortest(value)) == value


def test_momentum_close_to_one_is_shown_as_such(capsys):
    words = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "20", "--momentum", "0.9999999999999999"]
    assert cli.main(["compare", *words, "--n-steps", "5", "--regimes", "diagonal", "--lr", "0.1"]) == 0
    assert "0.9999999999999999" in capsys.readouterr().out
    assert cli.main(["stability", *words, "--batch-size", "2"]) == 0
    assert "0.9999999999999999" in capsys.readouterr().out


def test_adams_learning_rate_is_its_own(capsys):
    words = ["--n", "20", "--width", "5", "--n-steps", "3", "--replicates", "2", "--json"]
    line = ["compare", "--method", "adam", "heavy-ball", "--regimes", "sampled", "--lr", "0.01", "--momentum", "0"]
    assert cli.main([*line, *words]) == 0
    facts = json.loads(capsys.readouterr().out)
    adam, plain = (row["torch_lr"] for row in facts["rows"])
    assert adam == 0.01
    assert plain == pytest.approx(0.01 * 20 / facts["lambda_max"])
    line = ["landscape", "--method", "adam", "--regime", "sampled", "--lr", "0.01", "--momentum", "0"]
    assert cli.main([*line, *words]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch_lr_per_alpha"] == 1.0
    assert facts["rows"][0]["max_lr_spectral_diagonal"] is None


# Data.


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e307, 1e-300])
def test_values_far_from_one_are_standardised_like_others(monkeypatch, size):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 3)), rng.standard_normal(50)

    def load(factor):
        raw = RawData(x * factor, y * factor, "table", (3,), 1.0, False)
        monkeypatch.setitem(formats.READERS, "bike_sharing", lambda folder: raw)
        return ss.datasets.load("bike_sharing", 40)

    usual, extreme = load(1.0), load(size)
    for name in ("x", "y", "x_test", "y_test"):
        np.testing.assert_allclose(getattr(extreme, name), getattr(usual, name), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.array(extreme.info["input_std"]) / size, usual.info["input_std"], rtol=1e-9)


@pytest.mark.parametrize("name", ["targets", "test_targets"])
def test_complex_targets_are_refused(tmp_path, name):
    arrays = {"kernel": np.eye(3), "targets": np.ones(3), "cross_kernel": np.ones((2, 3)), "test_targets": np.ones(2)}
    np.savez(tmp_path / "k.npz", **(arrays | {name: arrays[name] + 1j}))
    with pytest.raises(InputError, match="targets: expected an array of real numbers"):
        load_kernel(tmp_path / "k.npz")


@pytest.mark.parametrize("size", [1e-280, 1e-200, 1e200, 1e306])
def test_a_kernel_in_any_units_is_the_same_problem(tiny, size):
    kernel, residual = tiny.kernel * 3.0, tiny.residual
    plain, scaled = (ss.QuadraticProblem.from_kernel(kernel * by, residual) for by in (1.0, size))
    np.testing.assert_allclose(scaled.eigenvalues, plain.eigenvalues, rtol=1e-12, atol=1e-15)
    assert scaled.spectrum.scale / size == pytest.approx(plain.spectrum.scale, rel=1e-12)
    losses = [ss.simulate(p, ss.SGD(0.5, 0, 2), ss.SampledLinearized(), 20)["loss"].values for p in (plain, scaled)]
    np.testing.assert_allclose(*losses, rtol=1e-9)


def test_what_no_float_holds_is_refused(tiny):
    with pytest.raises(InputError, match="scale it up"):
        ss.QuadraticProblem.from_kernel(tiny.kernel * 1e-300, tiny.residual)
    with pytest.raises(InputError, match="residual: expected values up to 1e"):
        ss.QuadraticProblem.from_kernel(tiny.kernel, tiny.residual * 1e160)


def test_steps_and_names_that_can_be_read_only_once(tiny):
    grid = ss.Grid.product(lr=[0.3])
    found = ss.sweep(tiny, grid, ss.SpectralDiagonal(), 10, record=(step for step in (3, 7)), observe=iter(["loss"]))
    assert found["step"].values.tolist() == [0, 3, 7, 10]
    assert json.loads(found.attrs["call"])["record"] == [3, 7]
    with pytest.raises(InputError, match="observe: expected"):
        ss.sweep(ss.QuadraticProblem.power_law, ss.Grid.product(lr=1, n=5, nu=2, kappa=1), ss.SpectralDiagonal(), 10,
                 observe=None)  # fmt: skip


@pytest.mark.parametrize("grad", [True, False])
def test_a_kernel_with_requires_grad(tmp_path, grad):
    kernel = torch.eye(3, dtype=torch.float64) + 0.5
    held = torch.nn.ParameterDict({"kernel": kernel, "residual": torch.ones(3)}) if grad else None
    stored = dict(held.items()) if grad else {"kernel": kernel, "residual": torch.ones(3)}
    torch.save(stored, tmp_path / "k.pt")
    with torch.no_grad():
        problem = load_kernel(tmp_path / "k.pt")
    np.testing.assert_allclose(problem.kernel * problem.spectrum.scale, kernel.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.assign(loss=r["loss"].astype(str)),
        lambda r: r.assign(done=r["done"].astype(str)),
        lambda r: r.drop_vars("done"),
        lambda r: r.drop_vars("outcome"),
        lambda r: r.assign_attrs(problem="null"),
        lambda r: r.assign_attrs(problem=""),
    ],
)
@pytest.mark.parametrize(
    "line", ["plot landscape r.nc --out p.png", "plot loss r.nc --out p.png", "export r.nc --out t.csv"]
)
def test_damaged_results_are_drawn_or_refused_in_one_line(change, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    problem = ss.QuadraticProblem.power_law(10, 1.5, 3.0)
    grid = ss.Grid.product(lr=[0.1, 0.5], momentum=[0.0, 0.5], batch_size=[2])
    ss.save(change(ss.sweep(problem, grid, ss.SpectralDiagonal(), 5)), "r.nc")
    code = cli.main(line.split(" "))
    err = capsys.readouterr().err
    assert (code, err.count("\n")) in ((0, 0), (2, 1))
    assert code == 2 or not line.startswith("plot landscape")


def test_batch_sizes_beyond_the_integers_are_refused_without_a_warning(recwarn):
    sgd = SGD(0.1, batch_size=ss.schedules.Power(1e308, -300.0))
    with pytest.raises(InputError, match="batch_size: expected values from 1 to 20"):
        sgd.check(20, 5)
    assert not recwarn.list


def test_a_horizon_that_no_memory_holds(capsys):
    words = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "10", "--horizon"]
    for horizon in ("1e300", "1e15"):
        assert cli.main(["schedule", *words, horizon]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["validate", "--n", "8", "--widths", "5", "--n-steps", "1e100"], "n_steps: expected an integer from"),
        (["validate", "--n", "8", "--widths", "5", "--threshold-steps", "1e100"], "threshold_steps: expected"),
        (
            ["validate", "--n", "8", "--widths", "9223372036854775808", "--batch-size", "4"],
            "width: expected an integer from 1 to",
        ),
        (["validate", "--n", "8", "--widths", "5", "--replicates", "1e160"], "replicates: expected an integer from"),
        (["hessian", "--n", "20", "--width", "9223372036854775808"], "width: expected an integer from 1 to"),
        (["hessian", "--n", "20", "--width", "4", "--steps", "1e200"], "steps: expected an integer from 0 to"),
    ],
)
def test_sizes_that_are_none(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "--out", "new.json"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert line in err
    assert not list(tmp_path.iterdir())
