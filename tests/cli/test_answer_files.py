"""--out of commands whose answers are rows, not runs: netCDF that `ss.load` takes, tables, JSON; none replaced."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.studies import rows

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "20"]
COMMANDS = {
    "recommend": ["--batch-size", "4", "--horizon", "20"],
    "stability": ["--batch-size", "1,4", "--momentum", "0,0.5"],
    "epochs": ["--batch-size", "4", "--epochs", "1,2", "--replicates", "3"],
    "schedule": ["--batch-size", "4", "--horizon", "12", "--pieces", "2"],
    "batch": ["--batch-size", "1,4", "--reach", "0.5"],
}
# A column of each, and where the JSON of the command has it.
COLUMN = {"recommend": "lr", "stability": "full_batch", "epochs": "theory", "schedule": "loss", "batch": "max_lr"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_file_has_what_is_told(run, command):
    words = [command, *POWER, *COMMANDS[command]]
    told = json.loads(run(*words, "--json"))
    for name in ("r.nc", "r.csv", "r.json"):
        assert run(*words, "--out", name).splitlines()[-1] == f"wrote {name}"
    result, facts = ss.load("r.nc"), json.loads(Path("r.json").read_text("utf-8"))
    stored = json.loads(result.attrs["facts"])
    problem = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    assert result.attrs["problem_sha256"] == problem.fingerprint
    np.testing.assert_array_equal(result["coefficients"], problem.coefficients)
    timed = {"seconds", "out", "plot", "lambda_max"}
    for each in (facts, stored):
        assert set(each) <= set(told)
        for key in set(each) - timed:
            assert each[key] == told[key], key
    with open("r.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    expected = [told["best"]["lr"]] if command == "recommend" else [row[COLUMN[command]] for row in told["rows"]]
    assert [float(line[COLUMN[command]]) for line in lines] == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_written_over(run, tmp_path, command):
    words = [command, *POWER, *COMMANDS[command]]
    (tmp_path / "r.csv").write_text("older")
    assert "--out: expected a new file, got 'r.csv'" in run(*words, "--out", "r.csv", code=2)
    assert (tmp_path / "r.csv").read_text() == "older"
    run(*words, "--out", "r.csv", "--force")
    assert (tmp_path / "r.csv").read_text() != "older"
    endings = ".nc, .h5, .csv, .parquet or .json"
    assert f"--out: expected a name that ends in {endings}" in run(*words, "--out", "r.txt", code=2)


def test_rows_are_exported_as_they_were(run):
    run("stability", *POWER, *COMMANDS["stability"], "--out", "r.nc")
    run("stability", *POWER, *COMMANDS["stability"], "--out", "r.csv")
    assert run("export", "r.nc", "--out", "e.csv") == "wrote e.csv: 4 rows\n"
    assert Path("e.csv").read_text("utf-8") == Path("r.csv").read_text("utf-8")
    with pytest.raises(InputError, match="result: expected"):
        ss.studies.comparison.export(ss.load("r.nc"), "c.csv", curves=True)


def test_columns_keep_their_kinds(tmp_path):
    problem = ss.QuadraticProblem.power_law(5, 1.5, 1.0)
    given = [
        {"whole": 1, "real": 0.5, "truth": True, "text": "a", "many": [1, 2], "none": None},
        {"whole": 2, "real": None, "truth": None, "text": None, "many": [], "none": None},
    ]
    made = rows.dataset(given, {"x": 1}, problem)
    ss.save(made, tmp_path / "r.nc")
    found = ss.load(tmp_path / "r.nc")
    assert rows.is_rows(found)
    assert found["whole"].values.tolist() == [1, 2]
    assert found["real"].values[0] == 0.5
    assert np.isnan([found["real"].values[1], *found["none"].values]).all()
    assert found["text"].values.tolist() == ["a", ""]
    assert found["many"].values.tolist() == ["[1, 2]", "[]"]
    assert rows.as_frame(found)["truth"].tolist() == [True, None]
    assert json.loads(found.attrs["facts"]) == {"x": 1}
