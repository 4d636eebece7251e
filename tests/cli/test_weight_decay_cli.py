"""--weight-decay on the command line, on grids and in files."""

import json

import numpy as np
import pytest

import sgdsim as ss

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "20"]
SHORT = [*POWER, "--n-steps", "30", "--replicates", "2", "--lr", "0.3", "--momentum", "0.5", "--batch-size", "5"]


def test_weight_decay_is_an_axis(run):
    words = ["compare", *SHORT, "--regimes", "sampled", "diagonal", "--weight-decay", "0", "0.01"]
    rows = json.loads(run(*words, "--json"))["rows"]
    assert [row.get("weight_decay") for row in rows] == [None, 0.01]
    problem = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    for row, sgd in zip(rows, (ss.SGD(0.3, 0.5, 5), ss.SGD(0.3, 0.5, 5, weight_decay=0.01)), strict=True):
        alone = ss.simulate(problem, sgd, ss.SpectralDiagonal(), 30)["loss"].values.ravel()[-1]
        assert row["regimes"]["diagonal:tau=1"]["final_loss"] == pytest.approx(alone, rel=1e-12)
        assert row["stable"] is True
    text = run(*words)
    assert text.splitlines()[2].split()[:6] == ["lr", "momentum", "batch", "weight", "decay", "stable"]
    assert "pulls to the start, as where parameters begin at 0; weight decay 1 is 20 in units" in text


def test_simulate_says_where_it_pulls(run):
    words = ["--n", "12", "--width", "4", "--n-steps", "5", "--lr", "0.2", "--batch-size", "4", "--weight-decay", "0.1"]
    assert "pulls parameters to 0" in run("simulate", *words, "--regime", "sampled")
    assert "pulls" not in run("simulate", *words[:-2])
    assert "weight_decay: expected a finite number" in run("simulate", *words[:-1], "-1", code=2)


def test_a_grid_and_its_file_have_it(tmp_path):
    problem = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    grid = ss.Grid.product(lr=[0.3, 0.5], weight_decay=[0.0, 0.01, 0.1], batch_size=[5])
    result = ss.sweep(problem, grid, ss.SpectralDiagonal(), 20, path=tmp_path / "r.nc")
    np.testing.assert_array_equal(result["weight_decay"].values, [0.0, 0.01, 0.1])
    again = ss.sweep(problem, grid, ss.SpectralDiagonal(), 20, path=tmp_path / "r.nc")
    np.testing.assert_array_equal(again["loss"].values, result["loss"].values)
    last = result["loss"].isel(step=-1).squeeze()
    assert (last.diff("weight_decay") > 0).all()


def test_stability_and_recommend_have_it(run):
    words = ["stability", *POWER, "--batch-size", "4", "--momentum", "0.5", "--weight-decay", "0.01", "--json"]
    told = json.loads(run(*words))
    problem = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    sgd = ss.SGD(1.0, 0.5, 4, weight_decay=0.01)
    row = told["rows"][0]
    assert told["weight_decay"] == 0.01
    assert row["full_batch"] == pytest.approx(3 / (1 + problem.pull(sgd)), rel=1e-14)
    assert row["spectral_diagonal"] == ss.theory.stability.max_lr(problem, sgd)
    text = run("recommend", *POWER, "--batch-size", "4", "--horizon", "30", "--weight-decay", "0.01")
    assert "heavy-ball, batch 4, without-replacement, weight decay 0.01" in text
    assert "weight decay leaves a loss of " in text
    assert "weight_decay=0.01)  # for the loss" in text
    assert "weight_decay=0.02)  # for torch.nn.MSELoss()" in text


def test_weight_decay_of_mse_is_taken_in_its_units(run):
    words = ["stability", *POWER, "--batch-size", "4", "--momentum", "0.5", "--json"]
    half = json.loads(run(*words, "--weight-decay", "0.01"))
    mean = json.loads(run(*words, "--weight-decay", "0.02", "--torch-loss", "mse"))
    assert mean["weight_decay"] == 0.01
    assert mean["rows"] == half["rows"]
    text = run(*words[:-1], "--weight-decay", "0.02", "--torch-loss", "mse")
    assert "weight decay of torch.optim.SGD on nn.MSELoss, on ½·mean of squares as shown: 0.02 is 0.01" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stability", *POWER, "--weight-decay", "-1"], "weight_decay: expected a finite number"),
        (["stability", *POWER, "--weight-decay", "0.1", "--plot", "s.png"], "--plot: expected no --weight-decay"),
        (["batch", *POWER, "--weight-decay", "0.1"], "--weight-decay: expected 0, as steps to a target are not known"),
        (
            ["schedule", *POWER, "--weight-decay", "0.1"],
            "--weight-decay: expected 0, as the best schedules are not known",
        ),
        (["budget", *POWER, "--weight-decay", "-1"], "weight_decay: expected a finite number"),
        (["epochs", *POWER, "--weight-decay", "-1"], "weight_decay: expected a finite number"),
        (["landscape", *POWER, "--weight-decay", "-1"], "weight_decay: expected a finite number"),
        (["recommend", *POWER, "--weight-decay", "0.1", "--exact"], "--exact: expected only with heavy ball, without"),
    ],
)
def test_what_is_not_known_with_it_is_one_line(run, words, said):
    assert said in run(*words, code=2)


@pytest.mark.parametrize(
    "words",
    [
        ["landscape", "--lr", "0.2,0.4", "--momentum", "0", "--batch-size", "4", "--n-steps", "10", "--plot", "m.png"],
        ["budget", "--batch-size", "1,2", "--n-steps", "40", "--lr", "0.02"],
        ["epochs", "--batch-size", "4", "--epochs", "2", "--replicates", "2"],
    ],
    ids=lambda words: words[0],
)
def test_studies_say_it(run, words):
    own = [words[0], *POWER, *words[1:]]
    assert ", weight decay 0.02" in run(*own, "--weight-decay", "0.02")
    told, plain = json.loads(run(*own, "--weight-decay", "0.02", "--json")), json.loads(run(*own, "--json"))
    assert told["weight_decay"] == 0.02
    assert "weight_decay" not in plain
    assert told["rows"] != plain["rows"]


def test_recommend_finds_the_best_one(run):
    words = ["recommend", "--n", "12", "--width", "4", "--n-steps", "20", "--batch-size", "4", "--no-probe"]
    told = json.loads(run(*words, "--weight-decay", "best", "--json"))
    best = told["best_weight_decay"]
    assert told["weight_decay"] == best["weight_decay"]
    assert best["test_loss"] <= best["without"]
    held = json.loads(run(*words, "--weight-decay", repr(best["weight_decay"]), "--json"))
    assert held["best"]["lr"] == pytest.approx(told["best"]["lr"], rel=1e-6)
    said = "the best for the test loss at this setting" if best["weight_decay"] else "No weight decay lowers"
    assert said in " ".join(run(*words, "--weight-decay", "best").split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*POWER], "expected a problem with test points for best"),
        ([*POWER, "--batch-size", "1", "2"], "best with one --batch-size, got 2 sizes"),
        ([*POWER, "--verify"], "--verify: expected only with heavy ball, without weight decay"),
    ],
)
def test_best_is_refused_where_it_is_not_known(run, words, said):
    assert said in run("recommend", *words, "--n-steps", "20", "--weight-decay", "best", code=2)
