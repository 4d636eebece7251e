"""A command of the reader's own: a study with a frozen result, its options, and `deliver`."""

import argparse
import json
from dataclasses import dataclass

import pytest
from matplotlib.figure import Figure

from sgdsim import cli
from sgdsim.cli import problems
from sgdsim.cli.arguments import add_problem
from sgdsim.cli.deliver import add_output, deliver
from sgdsim.cli.registry import COMMANDS, Command
from sgdsim.common.checks import number
from sgdsim.common.table import Table
from sgdsim.studies.base import DRAWERS, Findings


@dataclass(frozen=True)
class Share(Findings):
    above: float
    modes: int

    def table(self) -> Table:
        return Table(["above", "modes"], [[self.above, self.modes]])


def add_parser(commands) -> None:
    parser = commands.add_parser("share", help="how many eigenvalues are large")
    add_problem(parser)
    parser.add_argument("--above", type=float, default=0.1, help="what is large")
    problems.add_common(parser)
    add_output(parser, plot="draw it (.png, .pdf or .svg)")


def draw(found: Share) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().bar(["above"], [found.modes])
    return figure


def share(args: argparse.Namespace) -> int:
    above = number("above", args.above, minimum=0.0)
    return deliver(Share(above, int((problems.load(args).quadratic.eigenvalues > above).sum())), args)


@pytest.fixture
def argv(monkeypatch):
    monkeypatch.setitem(COMMANDS, "share", Command(add_parser, share))
    monkeypatch.setitem(DRAWERS, "Share", draw)
    return ["share", "--dataset", "power_law", "--nu", "1", "--kappa", "1", "--n", "20"]


def test_it_prints(argv, capsys):
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == "above  modes\n------------\n  0.1      9\n"


def test_it_prints_json_and_writes_its_file(argv, capsys, tmp_path):
    path = tmp_path / "share.json"
    assert cli.main([*argv, "--above", "0.3", "--json", "--out", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"above": 0.3, "modes": 3, "out": str(path), "plot": None}
    assert json.loads(path.read_text()) == {"above": 0.3, "modes": 3}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--above", "-1"], "sgdsim share: error: above: expected a finite number with 0 <= above, got -1.0"),
        (["--above", "much"], "sgdsim share: error: argument --above: invalid float value: 'much'"),
        (["--kernel", "none.npy"], "sgdsim share: error: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv, more, words, capsys):
    assert cli.main([*argv, *more]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(words)
    assert (printed.err.count("\n"), printed.out) == (1, "")


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(argv, option, capsys, tmp_path):
    assert cli.main([*argv, option, str(tmp_path / "missing" / "share.png")]) == 2
    printed = capsys.readouterr()
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_it_draws(argv, capsys, tmp_path):
    path = tmp_path / "share.png"
    assert cli.main([*argv, "--plot", str(path)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {path}\n")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_told_after_the_numbers(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.delitem(DRAWERS, "Share")
    assert cli.main([*argv, "--plot", str(tmp_path / "share.png")]) == 2
    printed = capsys.readouterr()
    assert "9" in printed.out
    assert "expected a result with a picture, got Share" in printed.err


def test_the_help_lists_it(argv, capsys):
    assert cli.main(["--help"]) == 0
    assert "how many eigenvalues are large" in capsys.readouterr().out
