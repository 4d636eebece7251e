"""The fuzzer (`make fuzz` for its long form): some lines and files from a fixed seed; and it sees what is wrong."""

import json
import random
from pathlib import Path

import pytest
from fuzz import command_lines, files, inputs, outcome

SEED, LINES = 2, 30
FORMATS = (
    *("result", "result, resumed", "spectrum", "kernel.npz", "kernel.pt", "kernel.npy", "cells.csv", "validated.json"),
    *("mnist", "mnist, unpacked", "cifar10", "olivetti", "bike_sharing", "sgemm_product"),
)


@pytest.fixture(autouse=True)
def as_the_fuzzer_runs(monkeypatch):
    monkeypatch.delenv("SGDSIM_DATA", raising=False)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("sys.dont_write_bytecode", True)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SGDSIM_DATA", raising=False)
        return str(inputs.write(tmp_path_factory.mktemp("given")))


def test_command_lines(given):
    codes, wrong = [], {}
    for number, argv in enumerate(command_lines.lines(SEED, LINES)):
        code, *complaints = outcome.judge(argv, given)
        codes.append(code)
        if complaints:
            wrong[f"{number} {json.dumps(argv)}"] = complaints
    assert wrong == {}
    assert {"0", "2"} <= {*codes}  # neither all refused nor all accepted


def test_damaged_files(given):
    names = list(files.all_formats(Path(given)))
    assert {*FORMATS} < {*names}  # the rest: the files of a sweep that goes on
    judged = {(name, number): files.judge(name, SEED, number, given) for name in names for number in range(2)}
    assert {key: complaints for key, (_, *complaints) in judged.items() if complaints} == {}
    assert "2" in {code for code, *_ in judged.values()}


def test_lines_follow_from_the_seed_and_their_number_and_name_every_command():
    lines = command_lines.lines(SEED, 800)
    assert lines[:50] == command_lines.lines(SEED, 50) != command_lines.lines(SEED + 1, 50)
    assert {name for name in command_lines.leaves() if any(" ".join(line).startswith(name) for line in lines)} == {
        *command_lines.leaves()
    }


@pytest.mark.parametrize(
    ("code", "out", "err", "touched", "words"),
    [
        (None, "", "", [], "raised ValueError: odd at x.py:3"),
        (2, "", "sgdsim: error: n: expected 1, got 2\n", [], None),
        (2, "table", "sgdsim: error: n: expected 1, got 2\n", [], "standard output says"),
        (2, "", "sgdsim: warning\nsgdsim: error: n: expected 1, got 2\n", [], "2 lines"),
        (2, "", "sgdsim: error: no\n", [], "without a reason"),
        (2, "", "sgdsim: error: n: expected 1, got 2\n", ["new.nc"], "new.nc was touched"),
        (0, "{}", "", ["new.nc"], None),
        (0, "{}", "", ["new.nc.parts/"], "new.nc.parts/ was touched"),
        (0, "{}", "", [".new.nc.abc"], ".new.nc.abc was touched"),
        (0, '{"a": NaN}', "", [], "holds NaN"),
        (0, "{}\n{}", "", [], "one document"),
        (0, "{}", "Traceback (most recent call last):\n  x\nOSError: y\n", [], "OSError: y"),
        (1, "{}", "", [], "without a failed cell"),
        (3, "{}", "", [], "exit code 3"),
    ],
)
def test_the_oracle_sees(code, out, err, touched, words):
    argv = ["simulate", "--json", "--out", "new.nc"]
    trace = 'Traceback\n  File "/home/sgdsim/x.py", line 3, in f\nValueError: odd\n'
    wrong = outcome.complaints(argv, code, out, err, trace, {"a": b""}, {"a": b"", **dict.fromkeys(touched, b"1")})
    assert wrong == [] if words is None else words in "; ".join(wrong)


def test_another_answer_is_seen(given, tmp_path):
    form = files.all_formats(Path(given))["kernel.npy"]
    answer = ({"loss": 1.0},)
    for code, out, right in ((0, '{"loss": 1.0}', True), (0, '{"loss": 2.0}', False), (1, '{"loss": 1.0}', False)):
        wrong = files.complaints(form, code, out, "", "", tmp_path, answer)
        assert (wrong == []) is right
    assert files.complaints(form, 0, "no document", "", "", tmp_path, answer)[0].startswith("exit code 0, but")


def test_damage_stays_where_it_can_be_seen():
    content = bytes(range(128)) * 4
    form = files.Format(("x",), (), files.printed, "flip high", 10)
    for number in range(200):
        kind, data = files.damaged(random.Random(number), content, form, [])
        assert len(data) == len(content)
        if kind == "flip":
            assert data[10:] == content[10:]
        else:
            assert sum(value > 127 for value in data) == 1
