"""`sgdsim epochs`: reshuffled epochs beside independent batches, against exact means, by hand, and as a command."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import plot
from sgdsim.common.checks import InputError
from sgdsim.regimes import _sampled_plain
from sgdsim.studies import epoch_comparison
from sgdsim.theory import epochs, stability

SMALL = ["--n", "100", "--width", "60", "--epochs", "1", "5", "50"]
POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "6", "--batch-size", "2", "--epochs", "1", "3"]


@pytest.fixture(scope="module")
def five() -> ss.QuadraticProblem:
    rng = np.random.default_rng(2)
    features = rng.standard_normal((5, 6))
    return ss.QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal(5))


@pytest.fixture(scope="module")
def found(five):
    """Batches of 2 of 5 points (one left over) and of all."""
    return epoch_comparison.compare(five, [2, 5], lr=0.6, momentum=0.3, epochs=(1, 2, 5, 10), replicates=4000)


def test_means_are_the_exact_ones(five, found):
    """Reshuffled: the mean over all orders of the epochs. Independent: the averaged regime."""
    one = found.sel(batch_size=2)
    every = epochs.reshuffled_loss(five, ss.SGD(0.6, 0.3, 2, sampling="reshuffle"), 10)
    np.testing.assert_allclose(one["reshuffled_exact"], every[one["epoch"].values * 2], rtol=1e-12)
    for sampling, exact in (("reshuffle", "reshuffled_exact"), ("without-replacement", "theory")):
        away = (one["mean"] - one[exact]).sel(sampling=sampling) / one["stderr"].sel(sampling=sampling)
        assert float(abs(away).max()) < 4
    run = ss.simulate(five, ss.SGD(0.6, 0.3, 2), ss.BatchAveraged(0), 20, record=2)["loss"].values.ravel()
    np.testing.assert_allclose(one["theory"], run[one["epoch"].values], rtol=1e-10)
    assert float(one["to_theory_high"].sel(epoch=10)) < 0.9  # the two processes are not the same


def test_full_batches_are_the_same(found):
    one = found.sel(batch_size=5)
    np.testing.assert_allclose(one["ratio"], 1.0, rtol=1e-14)
    np.testing.assert_array_equal(one["stderr"], 0.0)
    np.testing.assert_allclose(one["to_theory"], 1.0, rtol=1e-12)
    assert float(one["noise"]) == 0


def test_ratios_and_intervals_by_hand(found):
    at = found.sel(batch_size=2, epoch=5)
    apart, together = at["loss"].sel(sampling="without-replacement").values, at["loss"].sel(sampling="reshuffle").values
    assert float(at["ratio"]) == pytest.approx(together.mean() / apart.mean())
    assert float(at["to_theory"]) == pytest.approx(together.mean() / float(at["theory"]))
    errors = [x.std(ddof=1) / np.sqrt(4000) / x.mean() for x in (apart, together)]
    assert float(at["ratio_high"] / at["ratio"]) == pytest.approx(np.exp(1.96 * np.hypot(*errors)))
    assert float(at["to_theory"] / at["to_theory_low"]) == pytest.approx(np.exp(1.96 * errors[1]))
    # the two kinds of batches are independent of each other: their losses too
    assert abs(np.corrcoef(apart, together)[0, 1]) < 4 / np.sqrt(4000)


def test_runs_are_those_of_simulate_and_of_the_seed(five, found):
    sgd = ss.SGD(0.6, 0.3, 2, sampling="reshuffle")
    run = ss.simulate(five, sgd, ss.SampledLinearized(), 20, record=2, replicates=4000)["loss"].values[0]
    mine = found["loss"].sel(batch_size=2, sampling="reshuffle", epoch=10)
    assert np.array_equal(mine.values, run[:, 10])
    options = {"lr": 0.6, "epochs": [3], "replicates": 5}
    first, again, other = (epoch_comparison.compare(five, [2], seed=s, **options)["loss"].values for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_usual_learning_rate(five):
    found = epoch_comparison.compare(five, [1, 3], momentum=0.2, epochs=[1], replicates=2)
    for size in (1, 3):
        limit = stability.max_lr(five, ss.SGD(1.0, 0.2, size))
        assert float(found["lr"].sel(batch_size=size)) == pytest.approx(limit / 2, rel=0.005)


def test_other_regimes(digits_network):
    """The network itself on both kinds of batches, and the diagonal closure as theory."""
    found = epoch_comparison.compare(
        digits_network, [10], lr=0.5, epochs=[1, 3], replicates=2, regime=ss.RealNetwork(), theory=ss.SpectralDiagonal()
    )
    sgd = ss.SGD(0.5, 0.0, 10, sampling="reshuffle")
    run = ss.simulate(digits_network, sgd, ss.RealNetwork(), 18, record=[18], replicates=2)["loss"].values[0, :, -1]
    np.testing.assert_allclose(found["loss"].sel(sampling="reshuffle", epoch=3).values[0], run, rtol=1e-9)
    diagonal = ss.simulate(digits_network, ss.SGD(0.5, 0.0, 10), ss.SpectralDiagonal(), 18)["loss"].values.ravel()[-1]
    assert float(found["theory"].sel(batch_size=10, epoch=3)) == pytest.approx(diagonal, rel=1e-9)
    assert found["reshuffled_exact"].isnull().all()


def test_command_on_digits(run):
    words = ["epochs", *SMALL, "--batch-size", "5", "100", "--replicates", "300"]
    document = json.loads(run(*words, "--json", "--plot", "e.png"))
    rows = {(row["batch_size"], row["epochs"]): row for row in document["rows"]}
    assert list(rows) == [(size, epoch) for size in (5, 100) for epoch in (1, 5, 50)]
    assert rows[5, 50]["steps"] == 1000
    for row in document["rows"]:
        if row["batch_size"] == 5:
            assert abs(row["independent"] - row["theory"]) < 4 * row["independent_stderr"]
        else:
            assert row["ratio"] == pytest.approx(1, abs=1e-14)
    assert rows[5, 50]["to_theory_high"] < 1  # on these data reshuffling helps, seen beyond chance after 50 epochs
    assert Path("e.png").read_bytes()[:4] == b"\x89PNG"
    text = run(*words)
    end = rows[5, 50]
    assert f"a loss {1 - end['to_theory']:.1%} below the theory's" in text
    assert "batch 100: the whole data in each step" in text
    assert f"{end['reshuffled']:.4g} ± " in text


REAL = os.environ.get("SGDSIM_DATA")


@pytest.mark.skipif(not REAL, reason="needs the real data: set SGDSIM_DATA to the folder that holds them")
def test_command_on_bike_sharing(run):
    words = ["epochs", *SMALL, "--dataset", "bike_sharing", "--batch-size", "10", "--replicates", "300", "--json"]
    for row in json.loads(run(*words))["rows"]:
        assert abs(row["independent"] - row["theory"]) < 4 * row["independent_stderr"]
        assert row["ratio_low"] < row["ratio"] < row["ratio_high"]


def test_tiny_problems_have_the_exact_mean_too(run):
    text = run("epochs", *POWER)
    assert "exact: the mean over all orders of an epoch" in text
    rows = json.loads(run("epochs", *POWER, "--json", "--replicates", "2000"))["rows"]
    for row in rows:
        assert abs(row["reshuffled"] - row["reshuffled_exact"]) < 4 * row["reshuffled_stderr"]
    assert f"{rows[-1]['reshuffled_exact'] / rows[-1]['theory']:.3g} times the theory's loss, exactly" in text


def test_diverged_runs_are_told(run):
    words = ["epochs", *POWER, "--lr", "9", "--epochs", "20"]
    row = json.loads(run(*words, "--json", "--plot", "e.png"))["rows"][0]
    assert row["independent"] is None
    assert row["ratio"] is None
    assert row["reshuffled_diverged"] == 400
    assert "batch 2: runs diverge; lower --lr" in run(*words)


def test_ctrl_c_keeps_the_batch_sizes_that_are_done(run, monkeypatch):
    advance = _sampled_plain.HeavyBall.advance

    def stop(cell, start, end):
        if cell.sgd.batch_size == 3:
            raise KeyboardInterrupt
        advance(cell, start, end)

    monkeypatch.setattr(_sampled_plain.HeavyBall, "advance", stop)
    words = ["epochs", *POWER, "--batch-size", "2", "3"]
    document = json.loads(run(*words, "--json", code=130))
    assert document["interrupted"]
    assert {row["batch_size"] for row in document["rows"]} == {2}
    assert run("epochs", *POWER, "--batch-size", "3", code=130) == ""


def test_picture(found):
    figure = plot.epochs(found)
    above, _, below, _ = figure.axes
    assert [ax.get_title() for ax in figure.axes[:2]] == ["b = 2, α = 0.6", "b = 5, α = 0.6"]
    lines = {line.get_label(): line for line in above.lines}
    theory = lines["theory (averaged)"]
    assert theory.get_linestyle() == "--"
    np.testing.assert_array_equal(theory.get_ydata(), found["theory"].sel(batch_size=2))
    np.testing.assert_array_equal(
        lines["reshuffled epochs"].get_ydata(), found["mean"].sel(batch_size=2, sampling="reshuffle")
    )
    np.testing.assert_allclose(below.lines[1].get_ydata(), found["to_theory"].sel(batch_size=2))
    assert "mean over all orders" in lines


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch-size", "7"], "batch_size: expected an integer from 1 to 6, got 7"),
        (["--batch-size", "0"], "batch_size: expected an integer from 1 to 1e+18"),
        (["--batch-size", "2", "2"], "batch_size: expected one or more different sizes, got 2, 2"),
        (["--lr", "0"], "lr: expected a number > 0"),
        (["--momentum", "1"], "momentum: expected a finite number"),
        (["--epochs", "0"], "epochs: expected an integer >= 1"),
        (["--replicates", "1"], "replicates: expected an integer >= 2"),
        (["--theory", "sampled"], "--theory: expected averaged or diagonal"),
        (["--regime", "network"], "--regime: expected sampled, as this problem has no network"),
        (["--plot", "e.txt"], "expected a name ending in .png"),
        (["--plot", "e.png", "--batch-size", *"1234567"], "batch_size: expected at most 6 sizes to draw, got 7"),
        (["--epochs", "x"], "expected an integer"),
    ],
)
def test_bad_input(run, words, told):
    assert told in run("epochs", *POWER, *words, code=2)


def test_refusals(five):
    with pytest.raises(InputError, match="one that samples and one that averages"):
        epoch_comparison.compare(five, [2], regime=ss.BatchAveraged())
    with pytest.raises(InputError, match="epochs: expected at least one"):
        epoch_comparison.compare(five, [2], epochs=[])
    with pytest.raises(InputError, match="got none"):
        epoch_comparison.compare(five, [])
