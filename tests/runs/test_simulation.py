"""Recording, divergence, grids, results: what holds for every regime."""

import json

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import results
from sgdsim.common.checks import InputError
from sgdsim.runs import follow

REGIMES = [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal(1.0), ss.SpectralDiagonal(-1.0)]


@pytest.fixture
def power():
    return ss.QuadraticProblem.power_law(40, 1.5, 1.0, seed=1)


def test_recorded_steps():
    steps = follow.record_steps(10**6)
    assert steps[0] == 0
    assert steps[1] == 1
    assert steps[-1] == 10**6
    assert 80 < steps.size < 130
    assert (np.diff(steps) > 0).all()
    np.testing.assert_array_equal(follow.record_steps(10, 4), [0, 4, 8, 10])
    np.testing.assert_array_equal(follow.record_steps(10, [7, 3]), [0, 3, 7, 10])
    for bad in (0, -1, 2.5, True, [11], [-1], ["a"]):
        with pytest.raises(InputError):
            follow.record_steps(10, bad)


@pytest.mark.parametrize("regime", REGIMES, ids=lambda r: r.name)
def test_recording_does_not_change_the_numbers(power, regime):
    sgd = ss.SGD(0.5, 0.4, 5)
    often = ss.simulate(power, sgd, regime, 60, record=1, replicates=2)["loss"]
    seldom = ss.simulate(power, sgd, regime, 60, record=[13, 50], replicates=2)["loss"]
    np.testing.assert_array_equal(seldom.values, often.sel(step=[0, 13, 50, 60]).values)


@pytest.mark.parametrize("regime", REGIMES, ids=lambda r: r.name)
def test_first_loss_is_before_any_update(power, regime):
    run = ss.simulate(power, ss.SGD(0.5, 0.4, 5), regime, 5, observe=["loss", "moments"])
    assert run["loss"].values[0, 0, 0] == pytest.approx(power.initial_loss, rel=1e-12)
    np.testing.assert_allclose(run["moments"].values[0, 0, 0], power.coefficients**2, rtol=1e-9, atol=1e-18)
    totals = run["moments"].sum("mode").values / 80
    np.testing.assert_allclose(totals, run["loss"].values, rtol=1e-11)


@pytest.mark.parametrize("regime", REGIMES, ids=lambda r: r.name)
def test_divergence_is_a_result(power, regime):
    run = ss.simulate(power, ss.SGD(3.5, 0.0, 5), regime, 5000, replicates=3)
    rows = 3 if regime.stochastic else 1
    assert (run["outcome"].values[0, :rows] == 2).all()
    at = run["diverged_at"].values[0, 0]
    loss = run["loss"].values[0, 0]
    steps = run["step"].values
    assert 0 < at < 5000
    assert np.isposinf(loss[steps >= at]).all()
    assert np.isfinite(loss[steps < at]).all()
    assert (loss[steps < at] <= follow.DIVERGED_ABOVE * loss[0]).all()
    assert run["done"].values.all()


def test_one_diverging_replicate_leaves_the_others_alone():
    """At the edge of stability some batch sequences blow up and others do not."""
    problem = ss.QuadraticProblem.power_law(8, 1.2, 1.0, seed=0)
    run = ss.simulate(problem, ss.SGD(1.2, 0.0, 2), ss.SampledLinearized(), 150, replicates=60, seed=3)
    outcome = run["outcome"].values[0]
    assert set(outcome) == {1, 2}
    alone = ss.simulate(problem, ss.SGD(1.2, 0.0, 2), ss.SampledLinearized(), 150, replicates=60, seed=3, record=1)
    survivors = outcome == 1
    np.testing.assert_array_equal(run["loss"].values[0, survivors, -1], alone["loss"].values[0, survivors, -1])


def test_a_result_names_what_is_not_the_default(power):
    """However it is given: what is stored of a call decides whether older files go on."""
    always = {"lr", "momentum", "batch_size", "sampling", "regime", "replicate", "step"}
    for method in ("heavy-ball", ss.methods.HeavyBall()):
        run = ss.simulate(power, ss.SGD(0.4, method=method), ss.SpectralDiagonal(), 5)
        assert always <= set(run.coords)
        assert not {"method", "average", "label_noise"} & set(run.coords)
    run = ss.simulate(power, ss.SGD(0.4, method="nesterov", average="ema:0.9"), ss.SpectralDiagonal(), 5)
    assert (str(run["method"].values), str(run["average"].values)) == ("nesterov", "ema:decay=0.9")


def test_deterministic_regimes_have_one_replicate(power):
    run = ss.sweep(power, ss.Grid.product(lr=[0.5]), REGIMES, 20, replicates=4)
    for regime in REGIMES:
        loss = run["loss"].sel(regime=regime.name, lr=0.5)
        assert np.isfinite(loss.isel(replicate=0)).all()
        assert np.isnan(loss.isel(replicate=slice(1, None))).all() != regime.stochastic
    assert (run["outcome"].sel(regime="averaged").values[..., 1:] == 0).all()


def test_seed_alone_decides(power):
    sgd = ss.SGD(0.6, 0.2, 4)
    runs = [ss.simulate(power, sgd, ss.SampledLinearized(), 50, replicates=3, seed=s)["loss"].values for s in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][..., 1:] != runs[2][..., 1:]).all()
    huge = ss.simulate(power, sgd, ss.SampledLinearized(), 5, seed=2**100)
    assert huge.attrs["seed"] == str(2**100)


def test_product_grid_has_the_axes_as_dims(power):
    grid = ss.Grid.product(lr=[0.2, 0.4], momentum=[0.0, 0.5, -0.3], batch_size=[2, 10])
    run = ss.sweep(power, grid, REGIMES, 30, replicates=2, seed=5)
    assert run["loss"].dims == ("lr", "momentum", "batch_size", "regime", "replicate", "step")
    one = ss.simulate(power, ss.SGD(0.4, -0.3, 10), REGIMES[0], 30, replicates=2, seed=5)
    picked = run["loss"].sel(lr=0.4, momentum=-0.3, batch_size=10, regime="sampled")
    np.testing.assert_array_equal(picked.values, one["loss"].values[0])
    assert run.attrs["interrupted"] == 0


def test_zip_grid_pairs(power):
    grid = ss.Grid.zip(lr=[0.2, 0.4, 0.6], momentum=[0.5], batch_size=[1, 2, 3])
    run = ss.sweep(power, grid, [REGIMES[2]], 30)
    assert run["loss"].dims == ("cell", "regime", "replicate", "step")
    assert run["batch_size"].values.tolist() == [1, 2, 3]
    one = ss.simulate(power, ss.SGD(0.6, 0.5, 3), REGIMES[2], 30)
    np.testing.assert_array_equal(run["loss"].sel(cell=2).values, one["loss"].values)
    assert float(one["lr"]) == 0.6


def test_schedules_on_an_axis_become_text(power):
    lr = [0.5, ss.schedules.Power(0.5, 0.5)]
    run = ss.sweep(power, ss.Grid.product(lr=lr), [REGIMES[2]], 30)
    assert run["lr"].values.tolist() == ["0.5", "power:start=0.5,exponent=0.5"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: ss.Grid.product(lr=[]), "at least one value"),
        (lambda p: ss.Grid.product(lr=[0.1, 0.1]), "different values"),
        (lambda p: ss.Grid.product(momentum=[0.1]), "values for lr"),
        (lambda p: ss.sweep(p, ss.Grid.product(lr=[0.1], beta=[0.1]), REGIMES, 5), "expected axes from"),
        (lambda p: ss.Grid.zip(lr=[0.1, 0.2, 0.3], momentum=[0.1, 0.2]), "equal length"),
        (lambda p: ss.sweep(p, ss.Grid.product(lr=[0.1, -0.2]), REGIMES, 5), "lr: expected a number > 0, got -0.2"),
        (
            lambda p: ss.sweep(p, ss.Grid.product(lr=[0.1], batch_size=[41]), REGIMES, 5),
            "batch_size: expected values from 1 to 40",
        ),
        (lambda p: ss.sweep(p, ss.Grid.product(lr=0.1), [], 5), "at least one"),
        (lambda p: ss.sweep(p, ss.Grid.product(lr=0.1), REGIMES[:1] * 2, 5), "different regimes"),
        (lambda p: ss.simulate(p, ss.SGD(0.1), REGIMES[0], 0), "n_steps"),
        (lambda p: ss.simulate(p, ss.SGD(0.1), REGIMES[0], 5, replicates=0), "replicates"),
        (lambda p: ss.simulate(p, ss.SGD(0.1), REGIMES[0], 5, seed=-1), "seed"),
        (lambda p: ss.simulate(p, ss.SGD(0.1), REGIMES[0], 5, observe=["speed"]), "observe"),
        (lambda p: ss.simulate(p, ss.SGD(0.1), REGIMES[0], 5, observe=["test_loss"]), "test points"),
        (lambda p: ss.SGD(0.1, 1.0), "momentum"),
        (lambda p: ss.SGD(0.1, float("nan")), "momentum"),
        (lambda p: ss.SGD(0.1, 0.0, 0), "batch_size"),
        (lambda p: ss.SGD(0.1, 0.0, 2.5), "batch_size"),
        (lambda p: ss.SGD("fast"), "lr"),
        (lambda p: ss.SpectralDiagonal(float("inf")), "tau"),
    ],
)
def test_bad_calls_are_refused_in_one_line(power, call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(power)
    assert "\n" not in str(caught.value)


def test_saved_and_loaded_results_are_identical(power, tmp_path):
    grid = ss.Grid.product(lr=[0.3, 3.5], batch_size=[3])
    run = ss.sweep(
        power, grid, REGIMES, 200, replicates=2, observe=["loss", "moments"], path=tmp_path / "r.nc", seed=2**80
    )
    again = ss.load(tmp_path / "r.nc")
    assert run.identical(again)
    for name in run.variables:
        assert run[name].dtype == again[name].dtype or run[name].dtype.kind in "OU", name
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]
    assert again["outcome"].attrs["flag_meanings"].split()[2] == "diverged"


def test_attributes_say_how_to_make_the_result_again(power):
    run = ss.sweep(power, ss.Grid.product(lr=[0.3], momentum=[0.1], batch_size=[3]), REGIMES, 30, seed=7)
    assert run.attrs["schema"] == results.SCHEMA
    facts, call = json.loads(run.attrs["problem"]), json.loads(run.attrs["call"])
    problem = ss.QuadraticProblem.power_law(facts["n"], facts["nu"], facts["kappa"], facts["lambda_min"], facts["seed"])
    again = ss.sweep(
        problem,
        (ss.Grid.zip if call["zip"] else ss.Grid.product)(**call["grid"]),
        [ss.regimes.parse(name) for name in call["regimes"]],
        call["n_steps"],
        seed=int(run.attrs["seed"]),
        replicates=call["replicates"],
    )
    np.testing.assert_array_equal(again["loss"].values.ravel(), run["loss"].values.ravel())
    assert again.attrs["problem_sha256"] == run.attrs["problem_sha256"]
    assert json.loads(run.attrs["versions"]).keys() >= {"python", "numpy", "torch", "numba"}


@pytest.mark.parametrize("content", [b"", b"not a file", b"\x89HDF\r\n\x1a\n"])
def test_files_that_are_no_results_are_refused(tmp_path, content):
    (tmp_path / "r.nc").write_bytes(content)
    with pytest.raises(InputError, match=r"r\.nc: expected a netCDF-4 file"):
        ss.load(tmp_path / "r.nc")
    with pytest.raises(InputError, match="found none"):
        ss.load(tmp_path / "none.nc")


def test_an_unwritable_path_is_refused_before_the_work(power, tmp_path, monkeypatch):
    monkeypatch.setattr("sgdsim.runs.chunks.follow", lambda *_: pytest.fail("the work was begun"))
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "r.nc", tmp_path / "none" / "r.nc", tmp_path):
        with pytest.raises(InputError, match="expected a f"):
            ss.sweep(power, ss.Grid.product(lr=0.1), REGIMES, 5, path=path)


def test_replicates_are_paired_across_cells(power):
    """Equal batches at different learning rates: as α → 0 the paths coincide, replicate by replicate."""
    run = ss.sweep(power, ss.Grid.product(lr=[1e-6, 2e-6], batch_size=[3]), [REGIMES[0]], 40, replicates=4)
    moved = (run["loss"].isel(step=0) - run["loss"].isel(step=-1)).squeeze().values
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-4)
    assert np.ptp(moved[0]) > 0.01 * moved[0].mean()
