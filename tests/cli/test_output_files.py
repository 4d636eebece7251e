"""Files that --out names: by their ending, never over another; and words that were misspelt."""

import csv

import pytest

import sgdsim as ss

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "20"]
RUN = ["simulate", *POWER, "--n-steps", "5"]
SWEEP = ["compare", *POWER, "--n-steps", "5", "--lr", "0.5,1", "--momentum", "0", "--regime", "diagonal"]
MAP = ["landscape", *POWER, "--n-steps", "5", "--lr", "0.5,1", "--momentum", "0"]


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("words", [RUN, SWEEP, MAP], ids=lambda words: words[0])
def test_a_table_is_what_export_makes_of_the_result(run, words):
    run(*words, "--out", "r.nc")
    run("export", "r.nc", "--out", "exported.csv")
    assert run(*words, "--out", "r.csv").splitlines()[-1] == "wrote r.csv"
    untimed = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in table(name)] for name in ("r.csv", "exported.csv")
    ]
    assert untimed[0] == untimed[1]
    assert len(untimed[0]) == (1 if words is RUN else 2)


def test_a_budget_and_a_spectrum_as_tables(run):
    run("budget", *POWER, "--batch-size", "1,2", "--lr", "0.02", "--n-steps", "40", "--out", "b.csv")
    assert [row["batch_size"] for row in table("b.csv")] == ["1", "2"]
    run("spectrum", *POWER, "--out", "s.csv")
    problem = ss.QuadraticProblem.power_law(20, 1.5, 3.0)
    rows = table("s.csv")
    assert [float(row["eigenvalue"]) for row in rows] == problem.eigenvalues.tolist()
    assert [float(row["coefficient"]) for row in rows] == problem.coefficients.tolist()


@pytest.mark.parametrize(
    ("words", "endings"),
    [
        (RUN, ".nc, .h5, .csv or .parquet"),
        (MAP, ".nc, .h5, .csv or .parquet"),
        (["spectrum", *POWER], ".nc, .h5 or .csv"),
        (["validate"], ".json"),
        (["hessian"], ".json"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
@pytest.mark.parametrize("name", ["r.txt", "r"])
def test_other_endings_are_refused(run, tmp_path, words, endings, name):
    assert f"--out: expected a name that ends in {endings}, got {name!r}" in run(*words, "--out", name, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (RUN, "r.nc"),
        (RUN, "r.csv"),
        (SWEEP, "r.nc"),
        (MAP, "r.csv"),
        (["budget", *POWER], "r.nc"),
        (["spectrum", *POWER], "r.nc"),
        (["validate"], "r.json"),
        (["hessian"], "r.json"),
        (["plot", "loss", "x.nc"], "r.png"),
        (["export", "x.nc"], "r.csv"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_what_is_there_is_not_written_over(run, tmp_path, words, name):
    (tmp_path / name).write_text("older")
    told = run(*words, "--out", name, code=2)
    assert told.endswith(f"--out: expected a new file, got {name!r}, which is there; --force replaces it\n")
    assert (tmp_path / name).read_text() == "older"


def test_force_and_sweeps_that_go_on_write_over(run, tmp_path):
    run(*RUN, "--out", "r.nc")
    before = (tmp_path / "r.nc").read_bytes()
    run(*RUN, "--lr", "0.1", "--out", "r.nc", "--force")
    assert (tmp_path / "r.nc").read_bytes() != before
    run(*SWEEP, "--out", "s.nc")
    run(*SWEEP, "--out", "s.nc", "--resume")
    run(*MAP, "--out", "m.nc")
    run(*MAP, "--out", "m.nc")
    assert "expected .nc with --resume" in run(*SWEEP, "--out", "s.csv", "--resume", code=2)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("stabilty", "stability"),
        ("data verfiy", "verify"),
        ("simulate --bacth-size 3", "--batch-size"),
        ("data list --jsn", "--json"),
        ("simulate --sampling reshufle", "reshuffle"),
        ("simulate --method nestrov", "nesterov"),
        ("simulate --lr powr:start=1,exponent=2", "power"),
    ],
)
def test_what_may_have_been_meant(run, line, meant):
    assert f"did you mean {meant}?" in run(*line.split(), code=2)


@pytest.mark.parametrize("line", ["simulate --zzz", "zzz", "simulate --sampling zzz", "schedule --torch-loss mse"])
def test_nothing_is_guessed_from_far_away(run, line):
    assert "did you mean" not in run(*line.split(), code=2)
