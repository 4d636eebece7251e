"""Several batch sizes or regimes in one answer: a row for each, the answer that it has alone."""

import json

import pytest

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "20"]


def test_recommend_has_a_row_for_each(run):
    words = ["recommend", *POWER, "--epochs", "2"]
    told = json.loads(run(*words, "--batch-size", "2,8", "--json"))
    assert told["batch_size"] == [2, 8]
    assert [row["horizon"] for row in told["rows"]] == [20, 5]
    for row, answer, size in zip(told["rows"], told["answers"], ("2", "8"), strict=True):
        alone = json.loads(run(*words, "--batch-size", size, "--json"))
        assert answer == {name: alone[name] for name in answer}
        assert (row["lr"], row["momentum"], row["loss"]) == tuple(
            alone["best"][name] for name in ("lr", "momentum", "loss")
        )
    lines = run(*words, "--batch-size", "2,8").splitlines()
    assert lines[1].split()[:4] == ["batch", "steps", "lr", "(torch)"]
    assert [line.split()[:2] for line in lines[3:5]] == [["2", "20"], ["8", "5"]]


def test_a_network_is_tried_at_each(run):
    words = ["recommend", "--n", "12", "--width", "4", "--batch-size", "2,6", "--horizon", "10", "--json"]
    told = json.loads(run(*words))
    assert all(answer["probe"]["tried"] for answer in told["answers"])
    assert all(answer["probe"] is None for answer in json.loads(run(*words, "--no-probe"))["answers"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recommend", *POWER, "--batch-size", "2,2"], "batch_size: expected different sizes, got 2, 2"),
        (["recommend", *POWER, "--batch-size", "2,4", "--plot", "r.png"], "--plot: expected one --batch-size, got 2"),
        (["recommend", *POWER, "--batch-size", "2,4", "--verify"], "--verify: expected one --batch-size, got 2"),
        (["recommend", *POWER, "--batch-size", "2,21"], "batch_size: expected"),
    ],
)
def test_refused(run, words, said):
    assert said in run(*words, code=2)


def test_schedule_has_a_row_for_each(run):
    words = ["schedule", *POWER, "--epochs", "2", "--pieces", "2"]
    told = json.loads(run(*words, "--batch-size", "4,10", "--json"))
    for row, answer, size, steps in zip(told["rows"], told["answers"], ("4", "10"), (10, 4), strict=True):
        alone = json.loads(run(*words, "--batch-size", size, "--json"))
        assert (row["horizon"], alone["horizon"]) == (steps, steps)
        assert answer == {name: alone[name] for name in answer}
        best = alone["rows"][0]
        assert (row["schedule"], row["loss"]) == (best["name"], best["loss"])
        assert row["constant_loss"] == next(r["loss"] for r in alone["rows"] if r["name"] == "constant")
    lines = run(*words, "--batch-size", "4,10").splitlines()
    assert lines[1].split()[:3] == ["batch", "steps", "best"]
    assert [line.split()[:2] for line in lines[3:5]] == [["4", "10"], ["10", "4"]]
    assert "--plot: expected one --batch-size, got 2" in run(*words, "--batch-size", "4,10", "--plot", "s.png", code=2)


def test_budget_has_the_rows_of_each_regime(run):
    words = ["budget", *POWER, "--batch-size", "1,2", "--n-steps", "30", "--lr", "0.02", "--json"]
    told = json.loads(run(*words, "--regime", "averaged", "diagonal"))
    assert told["regime"] == ["averaged", "diagonal:tau=1"]
    for name in told["regime"]:
        alone = json.loads(run(*words, "--regime", name))
        own = [{k: v for k, v in row.items() if k != "regime"} for row in told["rows"] if row["regime"] == name]
        assert own == alone["rows"]
        assert [each for each in told["runs"] if each["regime"] == name] == alone["runs"]
    lines = run(*words[:-1], "--regime", "averaged", "diagonal").splitlines()
    assert next(line for line in lines if "t*b " in line).split()[0] == "regime"
    assert sum(line.startswith("averaged") for line in lines) == 6


def test_epochs_has_the_rows_of_each_regime(run):
    words = [
        "epochs",
        "--n",
        "12",
        "--width",
        "4",
        "--batch-size",
        "4",
        "--epochs",
        "1,2",
        "--replicates",
        "3",
        "--json",
    ]
    told = json.loads(run(*words, "--regime", "sampled", "network"))
    assert told["regime"] == "sampled, network"
    assert [row["regime"] for row in told["rows"]] == ["sampled"] * 2 + ["network"] * 2
    for name in ("sampled", "network"):
        alone = json.loads(run(*words, "--regime", name))
        assert [row for row in told["rows"] if row["regime"] == name] == alone["rows"]
    text = run(*words[:-1], "--regime", "sampled", "network").splitlines()
    assert text[1].split()[:2] == ["regime", "batch"]
    assert any(line.startswith("batch 4 (network): ") for line in text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget", *POWER, "--regime", "averaged", "averaged"], "regime: expected different ones"),
        (["budget", *POWER, "--regime", "averaged", "sampled", "--plot", "b.png"], "--plot: expected one --regime"),
        (
            ["epochs", *POWER, "--regime", "sampled", "averaged"],
            "--regime: expected sampled or network, got 'averaged'",
        ),
        (["epochs", *POWER, "--regime", "sampled", "network"], "as this problem has no network"),
        (["epochs", *POWER, "--regime", "sampled", "network", "--plot", "b.png"], "--plot: expected one --regime"),
    ],
)
def test_regimes_that_are_refused(run, words, said):
    assert said in run(*words, code=2)
