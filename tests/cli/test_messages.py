"""What the command line says of words that it does not understand: the key, the option, the place."""

import json
import sys

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.common.table import wrapped

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "20", "--n-steps", "10"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "cosine:start=1"], "got 'start=1', without total"),
        (["--lr", "cosine:final=1"], "got 'final=1', without start and total"),
        (["--lr", "cosine:begin=1,total=10"], "got 'begin=1', whose key is none"),
        (["--lr", "cosine:strat=1,total=10"], "whose key is none; did you mean start?"),
        (["--lr", "cosine:start=1,total=x"], "got 'total=x', where total is a whole number"),
        (["--lr", "cosine:start=1,total=10,"], None),
        (["--lr", ","], "argument --lr: expected a value on both sides of each comma, got ','"),
        (
            ["--batch-size", "10", "5"],
            "argument --batch-size: expected one value, got 10 5; sgdsim compare takes several",
        ),
        (["--batch-size=10", "5"], "argument --batch-size: expected one value, got 10 5; sgdsim compare takes several"),
        (["--method", "nesterov", "adam"], "argument --method: expected one value, got nesterov adam"),
        (["--n-test", "0", "5"], "argument --n-test: expected one value, got 0 5 ("),
        (["--plot", "x.nc"], "--plot: expected a name ending in .png, .pdf or .svg, got 'x.nc'"),
        (["--plot", ""], "--plot: expected a name ending in"),
        (["--out", ""], "--out: expected the name of a file, got ''"),
        (["--out", "x.json"], "got 'x.json'; runs are kept as netCDF or as a table, and --json prints a document"),
        (
            ["--momentum", "power:start=1.5,exponent=0.5"],
            "momentum: expected values finite with -1 < momentum < 1, got 1.5 at",
        ),
    ],
)
def test_one_line_names_what_is_wrong(run, words, said):
    if said is None:
        run("simulate", *POWER, *words)
    else:
        assert said in run("simulate", *POWER, *words, code=2)


def test_lists_have_a_value_on_both_sides_of_a_comma(run):
    assert "expected a value on both sides of each comma, got '1,,2'" in run("compare", *POWER, "--lr", "1,,2", code=2)
    assert "expected a value on both sides" in run("compare", *POWER, "--batch-size", "2,", code=2)


@pytest.mark.parametrize("momentum", [[0.5, 1.0, 1.0, 0.5], [0.5, -1.0, -1.0, 0.5], [0.5, 1.2, 0.5, 0.5]])
def test_a_momentum_of_one_is_refused_but_for_single_steps(momentum):
    with pytest.raises(InputError, match="momentum: expected values finite with -1 < momentum < 1, got"):
        ss.SGD(0.1, np.array(momentum)).check(10, 4)
    ss.SGD(0.1, np.array([0.0, 1.0, 0.7, 0.6])).check(10, 4)  # as Chebyshev's method


def test_text_is_read_for_every_number():
    sgd = ss.SGD("0.1", "0.5", weight_decay="1e-3", label_noise="0.2")
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, sgd.label_noise) == (0.1, 0.5, 1e-3, 0.2)
    for bad in ("much", "-1", "inf"):
        with pytest.raises(InputError, match="weight_decay: expected a finite number"):
            ss.SGD(0.1, weight_decay=bad)


def test_prose_is_wrapped_in_a_terminal_alone(monkeypatch):
    words = "a sentence of several words " * 6
    pasted = "    torch.optim.SGD(net.parameters(), lr=0.1)" + " # for a loss" * 9
    table = "lr   momentum   " + "1   2   " * 20
    text = "\n".join([words.strip(), pasted, table, "wrote " + "a b/" * 40])
    assert wrapped(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = wrapped(text).splitlines()
    assert lines[-3:] == text.splitlines()[1:]
    assert max(map(len, lines[:-3])) <= 80
    assert " ".join(lines[:-3]) == words.strip()


def test_the_default_grid_is_where_weight_decay_leaves_runs_stable(run):
    words = ["landscape", *POWER[:-1], "30", "--momentum", "0", "--batch-size", "20", "--json"]
    plain, much = (json.loads(run(*words, "--weight-decay", decay))["rows"][0] for decay in ("0.0001", "1"))
    assert plain["diverged"] > 0
    assert much["max_lr_full_batch"] == pytest.approx(2 / 21)  # weight decay 1 is 20 in units of the curvature
    assert 0 < much["lr"] < 4 / 21
    assert 0 < much["diverged"] < 19


def test_a_horizon_beyond_the_cut_off_is_said_at_the_head(run):
    text = run("recommend", *POWER[:-1], "100000").splitlines()
    assert "is beyond the cut-off at" in text[1]
    assert sum("beyond the cut-off" in line for line in text) == 1
    assert not any("beyond the cut-off" in line for line in run("recommend", *POWER[:-1], "2").splitlines())


def test_compare_says_what_weight_decay_does_to_a_network(run):
    words = [
        "compare",
        "--n",
        "12",
        "--width",
        "4",
        "--n-steps",
        "3",
        "--lr",
        "0.2",
        "--momentum",
        "0",
        "--batch-size",
        "4",
    ]
    words += ["--regime", "diagonal"]
    assert "its kernel with them" in run(*words, "network", "--weight-decay", "0.1")
    assert "its kernel with them" not in run(*words, "--weight-decay", "0.1")
    assert "its kernel with them" not in run(*words, "network")
