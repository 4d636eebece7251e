"""Schedules given value by value: lists, files and functions are one thing in every run and every file."""

import json
import pickle

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import cli
from sgdsim.algorithm.values import Function, Values
from sgdsim.common.checks import InputError

NAMED = ss.schedules.Piecewise((0, 10, 20), (0.8, 0.55, 0.1 / 3))
RATES = NAMED(np.arange(30))
COMMAND = ["simulate", "--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "12", "--n-steps", "30"]
COMMAND += ["--regime", "sampled", "--json", "--lr"]


def loss(problem, lr, regime, **more):
    return ss.simulate(problem, ss.SGD(lr, 0.4, 2, **more), regime, 30, record=1, seed=3)["loss"].values


@pytest.mark.parametrize("regime", [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()])
@pytest.mark.parametrize("method", ["heavy-ball", "nesterov"])
@pytest.mark.parametrize("lr", [RATES, Values(tuple(RATES)), lambda t: NAMED(t), Function(NAMED)])
def test_values_are_the_schedule_that_they_are_of(tiny, regime, method, lr):
    np.testing.assert_array_equal(loss(tiny, lr, regime, method=method), loss(tiny, NAMED, regime, method=method))


def test_momentum_and_batch_sizes_too(tiny):
    sizes = np.array([1, 2, 5, 3, 2])
    one = ss.simulate(tiny, ss.SGD(0.3, lambda t: 0.1 * t, sizes), ss.SampledLinearized(), 5, record=1)
    two = ss.simulate(tiny, ss.SGD(0.3, np.arange(5) * 0.1, Values(tuple(sizes))), ss.SampledLinearized(), 5, record=1)
    np.testing.assert_array_equal(one["loss"].values, two["loss"].values)
    values = ss.SGD(0.3, lambda t: 0.1 * t, sizes).values(5, 0, 5)
    assert values.batch_size.tolist() == [1, 2, 5, 3, 2]


def test_a_constant_function_is_its_value(tiny):
    np.testing.assert_array_equal(
        loss(tiny, lambda t: 0.3, ss.SpectralDiagonal(method="recurrence")),
        loss(tiny, 0.3, ss.SpectralDiagonal(method="recurrence")),
    )


def test_the_array_is_copied(tiny):
    given = RATES.copy()
    sgd = ss.SGD(given, batch_size=2)
    given[:] = 0
    np.testing.assert_array_equal(sgd.values(5, 0, 30).lr, RATES)


def test_text_pickle_and_equality():
    values = Values(tuple(RATES))
    assert ss.schedules.parse("lr", values.spec) == values == pickle.loads(pickle.dumps(values))
    assert Values((1, 0.5)).spec == "values:1/0.5"


def test_files_hold_the_values_and_sweeps_go_on_with_them(tiny, tmp_path):
    """A function is resumed as the list of its values: what counts is what was run."""
    path, regime = tmp_path / "r.nc", ss.SampledLinearized()
    options = {"replicates": 2, "path": path, "executor": "serial"}
    grid = ss.Grid.product(lr=[lambda t: NAMED(t), lambda t: 0.1 + 0 * t, 0.2], batch_size=[2])
    result = ss.sweep(tiny, grid, regime, 30, **options)
    stored = json.loads(ss.load(path).attrs["call"])["grid"]["lr"]
    assert stored == [Values(tuple(RATES)).spec, Values((0.1,) * 30).spec, 0.2]
    again = ss.Grid.product(lr=[Values(tuple(RATES)), np.full(30, 0.1), 0.2], batch_size=[2])
    resumed = ss.sweep(tiny, again, regime, 30, resume=True, **options)
    np.testing.assert_array_equal(resumed["loss"].values, result["loss"].values)
    other = ss.Grid.product(lr=[Values((*RATES[:-1], 0.7)), np.full(30, 0.1), 0.2], batch_size=[2])
    with pytest.raises(InputError, match="grid"):
        ss.sweep(tiny, other, regime, 30, resume=True, **options)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("r.npy", lambda path: np.save(path, RATES)),
        ("column.npy", lambda path: np.save(path, RATES[:, None])),
        ("r.csv", lambda path: path.write_text("\n".join(map(repr, RATES.tolist())))),
        ("named.csv", lambda path: path.write_text("lr\r\n" + "\r\n".join(map(repr, RATES.tolist())) + "\r\n")),
    ],
)
def test_the_command_line_reads_files_and_lists(capsys, tmp_path, name, write):
    write(tmp_path / name)
    losses = []
    for lr in (f"file:{tmp_path / name}", "values:" + "/".join(map(repr, RATES.tolist())), NAMED.spec):
        assert cli.main([*COMMAND, lr]) == 0
        row = json.loads(capsys.readouterr().out)["rows"][0]
        losses.append(row["regimes"]["sampled"]["final_loss"])
        assert str(tmp_path) not in row["lr"]
    assert len(set(losses)) == 1


@pytest.mark.parametrize(
    ("lr", "words"),
    [
        ("values:", "lr: values: expected numbers such as 0.1/0.2/0.15, got ''"),
        ("values:0.1/fast", "lr: values: expected numbers such as 0.1/0.2/0.15, got '0.1/fast'"),
        ("values:0.1/nan", "lr: values: expected finite values, got 1 NaN or infinite of 2"),
        ("values:0.1/0.2", "lr: expected a value for each of 30 steps, got a schedule of 2"),
        ("file:none.csv", "lr: file: none.csv: expected one column of numbers, .csv or .npy, got: No such file"),
        ("file:empty.csv", "lr: values: expected at least one value"),
        ("file:two.csv", "lr: file: two.csv: expected one column of numbers, .csv or .npy, got: could not convert"),
        ("file:two.npy", "lr: values: expected 1 dimension(s), got shape (2, 2)"),
        ("file:text.npy", "lr: file: text.npy: expected one column of numbers"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, lr, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").write_text("lr\n")
    (tmp_path / "two.csv").write_text("0.1,0.2\n0.3,0.4\n")
    np.save(tmp_path / "two.npy", np.ones((2, 2)))
    (tmp_path / "text.npy").write_text("0.1\n")
    assert cli.main([*COMMAND, lr]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_functions_that_are_none_are_refused(tiny):
    for function, words in (
        (lambda t: t * np.nan, "schedule: expected finite values"),
        (lambda t: t[:-1] + 1.0, r"schedule: expected shape \(30\), got \(29,\)"),
        (lambda t: t.missing, "schedule: expected a function of an array of steps, got an error"),
        (lambda t: -1.0, "lr: expected values finite and >= 0, got -1 at step 0"),
    ):
        with pytest.raises(InputError, match=words):
            loss(tiny, function, ss.SampledLinearized())
    with pytest.raises(InputError, match="schedule: expected at most 1000000 steps with a function"):
        ss.simulate(tiny, ss.SGD(lambda t: 0.1), ss.SpectralDiagonal(), 1_000_001)


def test_tables_show_how_a_long_list_begins_and_ends(capsys):
    assert cli.main([*[word for word in COMMAND if word != "--json"], Values(tuple(RATES)).spec]) == 0
    printed = capsys.readouterr().out
    assert "values:0.8/0.8/0.8" in printed
    assert max(map(len, printed.splitlines())) < 200
