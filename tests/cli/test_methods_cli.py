"""--method, --label-noise, --average and --sampling one-pass on the command line."""

import json
from pathlib import Path

import pytest

import sgdsim as ss
from sgdsim.theory import linear, stability

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "30"]
SHORT = [*POWER, "--n-steps", "30", "--replicates", "2", "--lr", "0.3", "--momentum", "0", "--batch-size", "5"]


def test_methods_and_averages_are_axes(run):
    words = ["--method", "heavy-ball", "nesterov", "corner:theta=1.5,memory=2", "--average", "none", "ema:0.9"]
    rows = json.loads(run("compare", *SHORT, *words, "--label-noise", "0.1", "--json"))["rows"]
    assert [(row["method"], row["average"]) for row in rows] == [
        (m, a) for m in ("heavy-ball", "nesterov", "corner:theta=1.5,memory=2") for a in (None, "ema:decay=0.9")
    ]
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0)
    sgd = ss.SGD(0.3, 0.0, 5, method="nesterov", label_noise=0.1, average="ema:0.9")
    alone = ss.simulate(problem, sgd, ss.SpectralDiagonal(), 30)["loss"].values.ravel()[-1]
    assert rows[3]["regimes"]["diagonal:tau=1"]["final_loss"] == pytest.approx(alone, rel=1e-12)


def test_the_table_names_what_is_unusual(run):
    header = run("compare", *SHORT, "--method", "nesterov", "--average", "tail:start=10").splitlines()[2].split()
    assert header[:6] == ["lr", "momentum", "batch", "method", "average", "stable"]


def test_one_pass(run):
    words = ["--sampling", "one-pass", "--regimes", "sampled", "diagonal", "--tau", "-1"]
    rows = json.loads(run("compare", *SHORT, *words, "--json"))["rows"]
    assert set(rows[0]["regimes"]) == {"sampled", "diagonal:tau=-1"}
    refused = run("compare", *SHORT, "--sampling", "one-pass", "--regimes", "averaged", code=2)
    assert "has a fixed set of points" in refused


def test_by_default_the_regimes_that_can_and_why_others_are_left_out(run):
    words = ["compare", *SHORT, "--sampling", "one-pass"]
    facts = json.loads(run(*words, "--json"))
    assert set(facts["rows"][0]["regimes"]) == {"sampled", "diagonal:tau=1"}
    assert list(facts["left_out"]) == ["averaged"]
    assert f"left out: averaged: {facts['left_out']['averaged']}" in run(*words)
    assert json.loads(run("compare", *SHORT, "--json"))["left_out"] == {}
    network = ["compare", "--n", "20", "--width", "5", "--momentum", "0", "--batch-size", "4", "--n-steps", "5"]
    facts = json.loads(run(*network, "--sampling", "importance", "--replicates", "2", "--json"))
    assert set(facts["rows"][0]["regimes"]) == {"network", "sampled", "averaged"}


def test_thresholds_of_nesterov(run):
    words = ["--method", "nesterov", "--momentum", "0.5", "--batch-size", "5", "--exact", "--json"]
    (row,) = json.loads(run("stability", *POWER, *words))["rows"]
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0)
    sgd = ss.SGD(1.0, 0.5, 5, method="nesterov")
    assert row["spectral_diagonal"] == stability.max_lr(problem, sgd)
    assert row["exact"] == stability.max_lr(problem, sgd, "exact")
    assert row["full_batch"] == pytest.approx(2 * 1.5 / (1 + 2 * 0.5), rel=1e-6)  # Jury's condition at λ = 1
    assert "--plot: expected heavy ball" in run("stability", *POWER, *words[:2], "--plot", "m.png", code=2)


def test_recommendation_with_noisy_labels(run):
    words = ["--batch-size", "5", "--horizon", "300", "--label-noise", "0.05", "--method", "nesterov"]
    facts = json.loads(run("recommend", *POWER, *words, "--json"))
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0)
    sgd = ss.SGD(facts["best"]["lr"], facts["best"]["momentum"], 5, method="nesterov", label_noise=0.05)
    loss = ss.simulate(problem, sgd, ss.SpectralDiagonal(), 300)["loss"].values.ravel()[-1]
    assert facts["best"]["loss"] == pytest.approx(loss, rel=1e-9)
    assert facts["floor"] == pytest.approx(linear.floor(problem, sgd).loss, rel=1e-9)
    for lr, momentum in ((1.2, 0), (0.8, 0), (1, 0.03), (1, -0.03)):  # a minimum
        other = ss.SGD(lr * sgd.lr, momentum + sgd.momentum, 5, method="nesterov", label_noise=0.05)
        assert ss.simulate(problem, other, ss.SpectralDiagonal(), 300)["loss"].values.ravel()[-1] > 0.9999 * loss
    assert "best constant setting for 300 steps" in run("recommend", *POWER, *words)


def test_recommendation_with_the_exact_threshold_and_the_late_law(run):
    """The exact threshold, and the law beside the recurrence (at N = 2000: the cut-off of N = 30 comes too soon)."""
    words = ["--batch-size", "5", "--horizon", "30", "--method", "nesterov"]
    facts = json.loads(run("recommend", *POWER, *words, "--json"))
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0)
    (level,) = facts["max_lr"]
    assert level["momentum"] == facts["best"]["momentum"]
    sgd = ss.SGD(level["exact"], level["momentum"], 5, method="nesterov")
    assert stability.averaged_radius(problem, sgd) == pytest.approx(1, abs=1e-3)
    assert level["exact"] < level["spectral_diagonal"]

    long = ["recommend", "--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "2000", *words]
    facts = json.loads(run(*long, "--json"))
    assert facts["max_lr"][0]["exact"] is None  # too long to wait for
    law = facts["law"]
    assert law["exponent"] == pytest.approx(1 / 1.5)
    assert law["constant"] * 30 ** -law["exponent"] == pytest.approx(law["ratio"] * facts["best"]["loss"])
    wide = ss.QuadraticProblem.power_law(2000, 1.5, 1.0)
    sgd = ss.SGD(facts["best"]["lr"], facts["best"]["momentum"], 5, method="nesterov")
    late = ss.simulate(wide, sgd, ss.SpectralDiagonal(), 600, record=[600])["loss"].values.ravel()[-1]
    assert law["constant"] * 600 ** -law["exponent"] == pytest.approx(late, rel=0.1)
    assert "late law (signal-dominated" in run("recommend", *POWER, *words)


def shape(value):
    """The keys of a JSON document, of all objects that are there."""
    return {key: shape(entry) for key, entry in value.items()} if isinstance(value, dict) else None


def test_recommendations_have_one_schema(run):
    words = ["recommend", *POWER, "--batch-size", "5", "--horizon", "30", "--json"]
    plain = json.loads(run(*words))
    for more in (["--method", "nesterov"], ["--label-noise", "0.1"], ["--sampling", "one-pass"]):
        other = json.loads(run(*words, *more))
        assert list(other) == list(plain)
        for key in ("best", "law", "seconds"):
            assert list(other[key]) == list(plain[key])
        assert list(other["max_lr"][0]) == list(plain["max_lr"][0])
        assert shape(other["max_lr"][0]) == shape(plain["max_lr"][-1])
    searched = json.loads(run(*words, "--exact"))
    assert list(searched) == list(plain)
    assert plain["exact"] is None
    assert list(searched["exact"]) == ["settings", "interrupted", "settled"]
    assert searched["best"]["exact_loss"] <= plain["best"]["exact_loss"] * 1.0001
    assert "Both are the best" in run(*words[:-1], "--exact")


def test_a_landscape_of_another_method_has_its_thresholds(run):
    words = ["landscape", *POWER, "--lr", "0.2", "0.5", "--momentum", "0.5", "--n-steps", "20", "--method", "nesterov"]
    (row,) = json.loads(run(*words, "--json"))["rows"]
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0)
    sgd = ss.SGD(1.0, 0.5, 10, method="nesterov")
    assert row["max_lr_spectral_diagonal"] == stability.max_lr(problem, sgd)
    assert row["max_lr_full_batch"] == stability.max_lr(problem, sgd, "full-batch")
    run(*words, "--plot", "map.svg")
    assert "full batch" not in Path("map.svg").read_text()  # the lines that are drawn are heavy ball's
    run(*[word for word in words if word not in ("--method", "nesterov")], "--plot", "map.svg")
    assert "full batch" in Path("map.svg").read_text()


def test_one_step_is_one_step(run):
    assert "for 1 step: lr" in run("recommend", *POWER, "--horizon", "1", "--average", "tail:start=1")
    assert ": 1 step, " in run("simulate", *POWER, "--n-steps", "1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", *SHORT, "--method", "adagrad"], "method: name: expected one of heavy-ball"),
        (["compare", *SHORT, "--method", "adam"], "method: adam"),
        (["compare", *SHORT, "--average", "ema:1.5"], "ema: decay: expected"),
        (["recommend", *POWER, "--method", "polyak"], "--method: expected one that is linear in the gradient"),
        (["recommend", *POWER, "--method", "am1:nu=1.5"], "--method: expected one that does not change in time"),
        (["recommend", *POWER, "--horizon", "9", "--average", "tail:start=10"], "average: expected one that begins at"),
        (
            ["simulate", *POWER, "--n-steps", "9", "--average", "tail:start=10"],
            "at the last step, 9, or before; got 10",
        ),
        (["recommend", *POWER, "--method", "nesterov", "--exact"], "--exact: expected only with heavy ball, without"),
        (["recommend", *POWER, "--n", "1001", "--exact"], "exact: expected at most 1000 training points"),
        (["recommend", *POWER, "--method", "nesterov", "--verify"], "--verify: expected only with heavy ball, without"),
    ],
)
def test_bad_input(run, words, message):
    assert message in run(*words, code=2)


def test_the_unit_of_adams_learning_rate(run):
    words = ["compare", "--n", "40", "--width", "10", "--lr", "0.01", "--momentum", "0", "--batch-size", "4"]
    words += ["--n-steps", "5", "--replicates", "2", "--regimes", "sampled"]
    unit = "in torch.optim.SGD."
    assert unit in run(*words)
    alone = run(*words, "--method", "adam")
    assert unit not in alone
    assert "The lr of adam is torch.optim.Adam's." in alone
    assert unit in run(*words, "--method", "adam", "heavy-ball")
