"""Several batch sizes in one answer: a row for each, the answer that it has alone."""

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
