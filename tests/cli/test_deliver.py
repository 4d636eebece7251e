"""How a command ends."""

import argparse
import json

import pytest

from sgdsim.cli.deliver import Delivery, ending, lr_unit
from sgdsim.cli.outputs import write_json
from sgdsim.common.checks import InputError

FACTS = {"interrupted": False, "seconds": 1.26, "out": "a.nc", "plot": None}


def delivery(json=False):
    return Delivery(argparse.Namespace(json=json, out="a.nc", plot="b.png"))


@pytest.mark.parametrize(("interrupted", "code"), [(False, 0), (True, 130)])
def test_text_or_json_and_the_exit_code(capsys, interrupted, code):
    facts = FACTS | {"interrupted": interrupted}
    assert delivery().tell(facts, lambda: "text") == code
    assert capsys.readouterr().out == "text\n"
    assert delivery(json=True).tell(facts, lambda: "text") == code
    assert json.loads(capsys.readouterr().out) == facts


def test_the_first_failure_is_raised_after_the_numbers(capsys):
    end = delivery()
    with end.writing("plot"):
        pass
    for option in ("out", "plot"):
        with end.writing(option):
            raise InputError(f"{option}: expected a disk")
    assert (end.args.out, end.args.plot) == (None, None)
    with pytest.raises(InputError, match=r"^out: expected a disk"):
        end.tell(FACTS, lambda: "text")
    assert capsys.readouterr().out == "text\n"


def test_other_errors_are_not_held_back():
    with pytest.raises(ZeroDivisionError), delivery().writing("plot"):
        raise ZeroDivisionError


def test_last_lines():
    assert ending(FACTS) == ["1.3 s.", "wrote a.nc"]
    facts = {"interrupted": True, "seconds": 0.5, "plot": "b.png"}
    assert ending(facts, lr_unit(2.0), "half was not run") == [
        "Interrupted: half was not run.", "lr 1 is 2 in torch.optim.SGD. 0.5 s.", "wrote b.png"
    ]  # fmt: skip


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_json(FACTS, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == FACTS
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json({"loss": float("inf")}, tmp_path / "b.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
