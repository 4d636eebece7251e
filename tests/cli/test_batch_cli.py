"""`sgdsim batch`."""

import json

import pytest

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "40"]


def test_it_tells_and_draws(run, tmp_path):
    words = ["batch", *POWER, "--batch-size", "1,4,40", "--reach", "0.2"]
    text = run(*words, "--plot", "batch.png").splitlines()
    assert text[0].endswith("momentum 0, tau 1; steps to 0.2 of the initial loss")
    assert text[1].split() == ["batch", "stable", "lr", "first-step", "lr", "best", "lr", "stable", "steps", "samples"]
    assert any(line.startswith("noise scale at the start: B_simple ") for line in text)
    assert text[-1] == "wrote batch.png"
    assert (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(run(*words, "--json"))
    assert [row["batch_size"] for row in facts["rows"]] == [1, 4, 40]
    assert facts["rows"][-1]["steps"] == int(text[5].split()[-2])
    assert facts["scale"]["known_by"] == "its eigenvectors"
    assert facts["measured"] is None


def test_a_network_is_measured(run):
    words = ["batch", "--n", "20", "--width", "5", "--batch-size", "2", "--pairs", "4", "--reach", "0.9"]
    text = run(*words)
    assert "(95%: " in text
    assert "from 4 pairs of batches of 1 and 5 points of the network" in text
    assert "two-batch" not in run(*words[:-4], "--pairs", "0", "--reach", "0.9")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--batch-size", "41"], "batch_size: expected"),
        (["--reach", "1"], "reach: expected a finite number with 0 < reach < 1, got 1.0"),
        (["--tau", "2"], "tau: expected"),
        (["--pairs", "2"], "pairs: expected 0, or 3 or more, got 2"),
        (["--batch-size", "4,4"], "batch_size: expected different sizes"),
    ],
)
def test_bad_values_are_one_line(run, more, words):
    assert words in run("batch", *POWER, *more, code=2)
