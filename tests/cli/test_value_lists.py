"""Numbers on the command line: lists, ranges, and one language of steps, epochs and regimes for all commands."""

import argparse
import json
import re

import pytest

from sgdsim.cli.base import Parser
from sgdsim.cli.parser import build_parser
from sgdsim.cli.values import Several, real, schedule_of, several, whole

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "20"]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("1", [1.0]),
        ("1 2 5", [1.0, 2.0, 5.0]),
        ("1,2,5", [1.0, 2.0, 5.0]),
        ("1,2 5", [1.0, 2.0, 5.0]),
        ("0.1:0.5:5", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("-1:1:3,7", [-1.0, 0.0, 1.0, 7.0]),
        ("log:0.01:100:5", [0.01, 0.1, 1.0, 10.0, 100.0]),
        ("-.5,1e-3", [-0.5, 0.001]),
    ],
)
def test_forms_of_a_list(words, values):
    parser = Parser()
    parser.add_argument("--tau", type=several(real, "tau"), action=Several, nargs="+")
    assert parser.parse_args(["--tau", *words.split()]).tau == values


def test_whole_numbers_are_rounded_and_come_once():
    assert several(whole)("log:1:1000:7") == [1, 3, 10, 32, 100, 316, 1000]
    assert several(whole)("1:4:7") == [1, 2, 3, 4]
    assert several(schedule_of("batch_size"), "batch_size")("log:1:100:3") == [1, 10, 100]


def test_ends_that_are_no_allowed_value_are_left_out():
    assert several(real, "lr")("0:1:4") == [0.25, 0.5, 0.75, 1.0]
    assert several(real, "momentum")("-1:1:3") == [-0.5, 0.0, 0.5]


def test_a_schedule_is_one_value():
    (schedule,) = several(schedule_of("lr"), "lr")("power:start=1,exponent=0.5")
    assert schedule.spec == "power:start=1,exponent=0.5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1:2", "LOW:HIGH:COUNT"),
        ("1:2:3:4", "LOW:HIGH:COUNT"),
        ("2:1:3", "LOW < HIGH"),
        ("1:2:1", "COUNT >= 2"),
        ("1:2:1e9", "at most 100000"),
        ("0:inf:3", "finite"),
        ("log:0:1:3", "0 < LOW"),
        ("log:1", "log:LOW:HIGH:COUNT"),
        ("1,,2", "both sides of each comma"),
        ("1,x", "expected a number"),
    ],
)
def test_other_forms_are_refused(text, words):
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        several(real)(text)


def every_action():
    """The (command, action) pairs of the commands."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [(name, action) for name, sub in commands.choices.items() for action in sub._actions]


def test_every_list_of_numbers_takes_every_form():
    lists = [action for _, action in every_action() if action.nargs == "+" and action.type is not None]
    assert len(lists) > 12
    assert all(isinstance(action, Several) for action in lists)


def test_steps_have_one_language():
    both = {name: {*action.option_strings} for name, action in every_action() if action.dest in ("n_steps", "horizon")}
    assert {*both} == {"compare", "simulate", "landscape", "budget", "validate", "recommend", "schedule"}
    assert all(options == {"--n-steps", "--horizon"} for options in both.values())
    assert {name for name, action in every_action() if "--epochs" in action.option_strings} == {*both, "epochs"}


def untimed(text):
    """A JSON document without the times in it."""
    return json.loads(re.sub(r'"seconds": (\{[^}]*\}|[\d.e-]+)', '"seconds": 0', text))


def test_synonyms_give_the_same(run):
    for words in (["simulate", *POWER], ["recommend", *POWER, "--batch-size", "3"]):
        once, again = (run(*words, option, "30", "--json") for option in ("--n-steps", "--horizon"))
        assert untimed(once) == untimed(again) != untimed(run(*words, "--n-steps", "31", "--json"))


@pytest.mark.parametrize(
    ("command", "key", "words", "steps"),
    [
        ("simulate", "n_steps", ["--batch-size", "5", "--epochs", "3"], 12),
        ("simulate", "n_steps", ["--batch-size", "8", "--epochs", "3"], 8),  # 7.5
        ("simulate", "n_steps", ["--batch-size", "8", "--epochs", "0.5"], 2),  # 1.25
        ("simulate", "n_steps", ["--batch-size", "8", "--epochs", "3", "--sampling", "reshuffle"], 6),
        ("landscape", "n_steps", ["--batch-size", "5", "--epochs", "2", "--lr", "1", "--momentum", "0"], 8),
        ("schedule", "horizon", ["--batch-size", "5", "--epochs", "4", "--pieces", "2"], 16),
        ("recommend", "horizon", ["--batch-size", "5", "--epochs", "4"], 16),
    ],
)
def test_epochs(run, command, key, words, steps):
    regime = ["--regime", "sampled", "--replicates", "1"] if "--sampling" in words else []
    assert json.loads(run(command, *POWER, *words, *regime, "--json"))[key] == steps


def test_a_budget_is_as_many_epochs_for_all(run):
    words = ["--batch-size", "1,2,4", "--lr", "0.02", "--epochs", "3"]
    found = json.loads(run("budget", *POWER, *words, "--json"))
    assert [row["n_steps"] for row in found["runs"]] == [60, 30, 15]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", *POWER, "--batch-size", "2,4", "--epochs", "3"], "expected one batch size"),
        (["simulate", *POWER, "--epochs", "3", "--n-steps", "3"], "not allowed with"),
        (["simulate", *POWER, "--epochs", "0"], "above 0"),
        (["simulate", *POWER, "--epochs", "-1"], "epochs"),
        (["simulate", *POWER[:-1], "inf", "--epochs", "1"], "finitely many"),
        (
            ["simulate", *POWER, "--regime", "sampled", "--batch-size", "piecewise:0=2,3=4", "--epochs", "1"],
            "constant batch size",
        ),
    ],
)
def test_epochs_that_are_not_known_are_refused(run, words, said):
    assert said in run(*words, code=2)


def test_regimes_by_both_names(run):
    words = ["compare", *POWER, "--batch-size", "2", "--n-steps", "5", "--momentum", "0", "--json"]
    new, old = (run(*words, option, "diagonal", "averaged") for option in ("--regime", "--regimes"))
    assert untimed(new)["rows"] == untimed(old)["rows"]
    assert "--regimes" not in run("compare", "--help")
    one = json.loads(run("simulate", *words[1:-1], "--regime", "diagonal", "averaged", "--json"))
    assert [*one["rows"][0]["regimes"]] == ["diagonal:tau=1", "averaged"]
