"""`--observe`: from the command line into tables, JSON, files, exports and pictures."""

import json

import numpy as np
import pandas as pd
import pytest

import sgdsim as ss
from sgdsim import cli

WORDS = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "20", "--lr", "0.4", "--batch-size", "4",
         "--n-steps", "30", "--replicates", "2", "--seed", "3"]  # fmt: skip
NAMES = {"distance": "distance", "leading_share:k=3": "leading_share_k3"}  # text → variable


@pytest.mark.parametrize("text", NAMES)
def test_compare_tells_saves_exports_and_draws_it(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    name = NAMES[text]
    assert cli.main(["compare", *WORDS, "--momentum", "0", "--observe", text, "--out", "r.nc", "--json"]) == 0
    regimes = json.loads(capsys.readouterr().out)["rows"][0]["regimes"]
    result = ss.load("r.nc")
    for regime, numbers in regimes.items():
        values = result[name].sel(regime=regime).isel(step=-1).values.ravel()
        assert numbers[f"final_{name}"] == pytest.approx(values[: numbers["replicates"]].mean(), rel=1e-12)

    assert cli.main(["export", "r.nc", "--out", "r.csv", "--curves"]) == 0
    table = pd.read_csv("r.csv")
    one = table[(table["regime"] == "sampled") & (table["replicate"] == 1)]
    assert one[name].tolist() == pytest.approx(
        result[name].sel(regime="sampled", replicate=1).values.ravel(), rel=1e-12
    )
    assert cli.main(["plot", "loss", "r.nc", "--observable", name, "--out", "r.png"]) == 0


def test_simulate_tells_it_in_words(capsys):
    assert cli.main(["simulate", *WORDS, "--observe", *NAMES]) == 0
    out = capsys.readouterr().out
    assert "final squared distance to the optimum" in out
    assert "final leading share k3" in out


def test_an_unknown_one_is_refused_before_data_are_read(capsys):
    assert cli.main(["compare", "--n", "20", "--observe", "speed"]) == 2
    assert "observe: expected names from loss, test_loss, moments, distance" in capsys.readouterr().err


def test_shards_are_merged_and_gone_on_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["compare", *WORDS, "--momentum", "0", "0.5", "--observe", *NAMES, "--out"]
    assert cli.main([*words, "whole.nc"]) == 0
    for shard in ("1/2", "2/2"):
        assert cli.main([*words, "r.nc", "--shard", shard]) == 0
    assert cli.main(["merge", "r.nc"]) == 0
    assert cli.main([*words, "again.nc", "--resume"]) == 0
    for name in NAMES.values():
        for path in ("r.nc", "again.nc"):
            assert ss.load(path)[name].identical(ss.load("whole.nc")[name])


@pytest.fixture
def classes(monkeypatch):
    """Digits as two classes, whatever the options of the data."""
    from sgdsim.cli import compare

    given = ss.datasets.load("digits", 20, 0, n_test=8)
    sign = lambda y: np.where(y > 0, 1.0, -1.0)  # noqa: E731
    data = ss.Dataset(given.x, sign(given.y), "two classes", given.x_test, sign(given.y_test))
    monkeypatch.setattr(
        compare,
        "described",
        lambda args: ss.NetworkProblem(ss.networks.MLP(8, seed=0), data, device="cpu", loss=args.loss),
    )


def test_accuracy_is_told_beside_the_averaged_losses(run, classes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--lr", "0.5", "--momentum", "0", "--batch-size", "4", "--n-steps", "5", "--replicates", "2"]
    both = "accuracy", "test_accuracy"
    text = run(*words, "--observe", *both, "--out", "r.nc", "--plot", "r.png")
    lines = text.splitlines()
    of = lines.index("final train accuracy")
    assert lines[of + 1].split()[3:] == ["network", "sampled", "averaged", "diagonal:tau=1"]
    assert lines[of + 3].split()[-2:] == ["-", "-"]
    assert "final test accuracy" in text
    assert "accuracy, test_accuracy: none in averaged, diagonal:tau=1: it is not a function of second moments" in text
    result, alone = ss.load("r.nc"), run(*words, "--observe", *both, "--regimes", "sampled", "--json")
    for name in both:
        assert set(json.loads(result[name].attrs["absent"])) == {"averaged", "diagonal:tau=1"}
        assert result[name].sel(regime=["averaged", "diagonal:tau=1"]).isnull().all()
        final = result[name].sel(regime="sampled").isel(step=-1).mean().item()
        assert json.loads(alone)["rows"][0]["regimes"]["sampled"][f"final_{name}"] == pytest.approx(final)
    assert result["loss"].sel(regime="averaged", replicate=0).notnull().all()
    assert run("export", "r.nc", "--out", "r.csv")
    assert pd.read_csv("r.csv").set_index(["regime", "replicate"])["accuracy"].isna().sum() == 2
    assert "absent" not in ss.load("r.nc")["test_loss"].attrs
    refused = run(*words, "--observe", "accuracy", "--regimes", "averaged", code=2)
    assert "it is not a function of second moments" in refused


def test_cross_entropy_is_asked_for_in_words(run, classes):
    words = ["compare", "--lr", "0.5", "--momentum", "0", "--batch-size", "4", "--n-steps", "5", "--replicates", "2"]
    text = run(*words, "--loss", "cross-entropy")
    assert "averaged" in text.splitlines()[2]
    assert "initial loss 0." in text
    assert "stable and lr are of its curvature there" in text
    assert "the quadratic model of cross-entropy holds until step" in text
    assert "only the network regime is cross-entropy" in text
    row = json.loads(run(*words, "--loss", "cross-entropy", "--json"))["rows"][0]
    assert row["cross_entropy"]["n_steps"] == 5
    assert row["regimes"]["sampled"]["ratio_to_network"] is None
    several = run(*words, "--loss", "cross-entropy", "--lr", "0.5", "9", "--n-steps", "60", "--regimes", "diagonal")
    assert "model until" in several.splitlines()[2]
    named = run(*words, "--regimes", "network:loss=cross-entropy")
    assert "stable and lr are of the squared loss" in named
    alone = ["simulate", "--lr", "0.5", "--batch-size", "4", "--n-steps", "5", "--regime", "network:loss=cross-entropy"]
    assert "network:loss=cross-entropy" in run(*alone)


def test_a_spectrum_of_cross_entropy_is_compared_and_advised_on_but_not_budgeted(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = ["--n", "12", "--width", "8", "--targets", "one-hot", "--loss", "cross-entropy"]
    run("spectrum", *digits, "--n-test", "0", "--out", "s.nc")
    text = run("compare", "--spectrum", "s.nc", "--momentum", "0", "--batch-size", "4", "--n-steps", "5", "--lr", "0.1")
    assert "until when the model holds is not known here" in text
    assert "--loss: expected cross-entropy only with data sets" in run(
        "compare", "--spectrum", "s.nc", "--loss", "cross-entropy", code=2
    )
    for command in ("budget", "schedule"):
        refused = run(command, "--spectrum", "s.nc", "--batch-size", "4", code=2)
        assert "expected a problem of the squared loss, got the quadratic model of cross-entropy" in refused
    asked = ["recommend", *digits, "--batch-size", "4", "--horizon", "200"]
    text = run(*asked)
    assert "200 steps go beyond that: the predicted losses do not hold there" in text
    assert "the curvature at the start, which changes on the way" in text
    assert "--jacobi: expected only with the squared loss" in run(*asked, "--jacobi", code=2)
    assert "--method nesterov: expected a problem of the squared loss" in run(*asked, "--method", "nesterov", code=2)
    assert "of cross-entropy: rates of its curvature at the start" in run("stability", *digits, "--batch-size", "4")
    analytic = json.loads(run("spectrum", *digits[:2], *digits[4:], "--analytic", "--json"))
    assert analytic["problem"]["loss"] == "cross-entropy"


def test_the_line_to_paste_says_that_its_loss_is_summed_over_outputs(run):
    """½·mean((f − y)²) over all entries would be C times smaller, and so would the steps."""
    asked = [
        "recommend",
        "--n",
        "12",
        "--n-test",
        "0",
        "--width",
        "8",
        "--batch-size",
        "4",
        "--horizon",
        "50",
        "--no-probe",
    ]
    assert "# for the loss ½·((f − y)²).sum(1).mean(), summed over outputs" in run(*asked, "--targets", "one-hot")
    assert "# for the loss ½·mean((f − y)²)" in run(*asked)
