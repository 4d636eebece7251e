"""Help: short usage, a description and an example that the parser itself takes, for every command."""

import itertools
import re

import pytest

from sgdsim.cli.parser import build_parser
from sgdsim.cli.registry import COMMANDS, QUESTIONS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_short_and_has_an_example(run, command):
    usage, shown, description, *_ = run(command, "--help").split("\n\n")
    assert usage.startswith(f"usage: sgdsim {command}")
    assert len(usage.splitlines()) == 1
    assert description.endswith(".")
    example = COMMANDS[command].example
    words = example.split()
    assert words[0] == command
    args, unknown = build_parser().parse_known_args(words)
    assert (args.command, unknown) == (command, [])
    assert shown == f"example: sgdsim {example}"


def test_commands_stand_under_the_question_that_they_answer(run):
    assert sorted(itertools.chain.from_iterable(QUESTIONS.values())) == sorted(COMMANDS)
    said = run("--help")
    for question, names in QUESTIONS.items():
        section = said.split(f"\n{question}")[1].split("\n\n")[0]
        assert re.findall(r"^  (\w+)", section, re.M) == list(names)


def test_usage_names_the_groups(run):
    assert run("recommend", "--help").startswith(
        "usage: sgdsim recommend [problem] [algorithm] [check by simulation] [output]\n"
    )
    assert run("plot", "--help").startswith("usage: sgdsim plot what FILE --out FILE [options]\n")


def test_no_test_points_are_no_mistake(run):
    words = ["stability", "--batch-size", "4", "--momentum", "0"]
    power = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "20"]
    for problem in (power, ["--n", "20", "--width", "5"]):
        with_zero, without = (run(*words, *problem, *more).splitlines()[1:-1] for more in (["--n-test", "0"], []))
        assert with_zero == without
    assert "--n-test: expected none or 0" in run(*words, "--n-test", "3", code=2)
