"""What will not fit into memory is refused, and what will take long is told, before anything begins."""

import warnings

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import cli
from sgdsim.common import memory
from sgdsim.common.checks import InputError
from sgdsim.observables import parse_all
from sgdsim.runs import estimates, follow
from sgdsim.runs.chunks import Settings

PROBLEM = ss.QuadraticProblem.power_law(100, 1.5, 1.0)
YEAR = 31557600


@pytest.fixture(autouse=True)
def sixteen_gigabytes(monkeypatch):
    """The same machine for every test."""
    monkeypatch.setattr(memory, "available", lambda: 16e9)


def ask(regime, n_steps=1000, problem=PROBLEM, replicates=1, observe=("loss",), **values):
    cells = list(ss.Grid.zip(**{"lr": 0.5, **values}).whole_cells())
    settings = Settings(follow.record_steps(n_steps), parse_all(observe), replicates, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimates.check(problem, cells, [regime], settings)


@pytest.mark.parametrize(
    ("regime", "changes", "words"),
    [
        (ss.SampledLinearized(), {"replicates": 10**18}, "got a result of about"),
        (ss.SampledLinearized(), {"problem": ss.QuadraticProblem.power_law(10**5, 1.5, 1.0)}, "state of the sampled"),
        (ss.BatchAveraged(), {"problem": ss.QuadraticProblem.power_law(10**5, 1.5, 1.0)}, "state of the averaged"),
        (ss.SampledLinearized(), {"batch_size": 10**10, "sampling": "with-replacement"}, "state of the sampled"),
        (ss.SpectralDiagonal(), {"observe": ("loss", "moments"), "problem": ss.QuadraticProblem.power_law(10**7, 2, 1),
                                 "lr": [0.2, 0.3, 0.4, 0.5]},
         "got a result of about"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(regime, changes, words):
    with pytest.raises(InputError, match=words):
        ask(regime, **changes)


@pytest.mark.parametrize(
    ("regime", "changes"),
    [
        (ss.SampledLinearized(), {"n_steps": 10**15}),
        (ss.BatchAveraged(method="recurrence"), {"n_steps": 10**12}),
        (ss.SpectralDiagonal(), {"n_steps": 10**15, "observe": ("loss", "moments")}),
        (ss.SpectralDiagonal(method="recurrence"), {"n_steps": 10**15}),
        (ss.SpectralDiagonal(method="recurrence"), {"n_steps": 10**15, "method": "nesterov"}),
        (ss.SampledLinearized(), {"n_steps": 10**11, "sampling": "one-pass"}),
    ],
)
def test_what_takes_long_is_told(regime, changes):
    with pytest.raises(RuntimeWarning, match=r"this will take about .* (days|years), unless it diverges; Ctrl-C keeps"):
        ask(regime, **changes)


@pytest.mark.parametrize(
    ("regime", "changes"),
    [
        (ss.SpectralDiagonal(), {"n_steps": 10**15}),  # by contour
        (ss.SpectralDiagonal(), {"replicates": 10**18}),  # it has one
        (ss.SpectralDiagonal(), {"problem": ss.QuadraticProblem.power_law(10**7, 1.5, 1.0), "n_steps": 10**4}),
        (ss.SampledLinearized(), {"n_steps": 10**6, "replicates": 100}),
        (ss.SampledLinearized(), {"batch_size": 10**18, "sampling": "one-pass"}),
        (ss.BatchAveraged(), {"n_steps": 10**6}),
        (ss.BatchAveraged(), {"n_steps": 10**12}),  # by its generating function
        (ss.SampledLinearized(), {"problem": ss.QuadraticProblem.power_law(20_000, 1.5, 1.0)}),
    ],
)
def test_what_people_do_passes(regime, changes):
    ask(regime, **changes)


def test_networks(digits_network):
    ask(ss.RealNetwork(), problem=digits_network)
    with pytest.raises(RuntimeWarning, match="years"):
        ask(ss.RealNetwork(), problem=digits_network, n_steps=10**13)
    with pytest.raises(InputError, match="state of the network regime"):
        ask(ss.RealNetwork(), problem=digits_network, replicates=10**6, method="corner:theta=1.5,memory=20")


def test_problems_on_the_grid():
    with pytest.raises(InputError, match="state of the sampled regime"):
        ask(ss.SampledLinearized(), problem=ss.QuadraticProblem.power_law, n=10**6)


POWER = "--dataset power_law --nu 1.5 --kappa 3"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"simulate {POWER} --n 1e9 --moments --record-every 1 --n-steps 1e7", "a result of about"),
        (f"stability {POWER} --n 9223372036854775807", "n: expected an integer from 1 to 1e+18"),
        ("simulate --n 20 --width 1e9", "got a network of 6.6e+10 parameters and work on it of about 2.9 TB; take a"),
        ("compare --n 20 --width 2e7", "got a network of 1.32e+09 parameters and work on it of about 58 GB"),
        ("validate --widths 2e7", "got a network of 1.32e+09 parameters and work on it of about 58 GB"),
        ("hessian --width 1e6", "got a network of 2e+12 parameters and work on it of about 88 TB"),
        (
            "simulate --n 20 --width 1000 --replicates 1e5 --regime network",
            "got a state of the network regime of about 53 GB",
        ),
        ("compare --n 200 --width 20 --replicates 1e7", "got a result of about"),
        (
            f"simulate {POWER} --n 100 --n-steps 1e9 --record-every 1",
            "1e+09 recorded steps of about 24 GB; record fewer",
        ),
        (f"compare {POWER} --n 200000", "got a state of the sampled regime of about"),
        (f"landscape {POWER} --n 20 --lr 0:1:9 --momentum 0.5 --regime sampled --replicates 1e8", "a result of about"),
        ("recommend --n 20 --width 10 --depth 1e9", "depth: expected an integer from 0 to 10000"),
        (f"simulate {POWER} --n 20 --n-steps 1e15 --record-every 1", "1e+15 recorded steps"),
        (f"landscape {POWER} --n 20 --lr 0:1:1e9", "a COUNT of at most 100000"),
        (f"landscape {POWER} --n 20 --lr 0:1:100000 --momentum 0:1:100000", "at most 10000000 cells"),
        (f"simulate {POWER} --n 20 --label-noise 1e160", "label_noise: expected a finite number"),
        (f"simulate {POWER} --n 20 --sampling one-pass --batch-size 1e19", "batch_size: expected an integer from 1"),
        ("simulate --n 9223372036854775807", "n: expected at most 1797"),
    ],
)
def test_one_line_before_anything_begins(capsys, line, words):
    assert cli.main(line.split(" ")) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


@pytest.mark.parametrize("lr", ["1e-320", "1e-200", "1e-160"])
def test_a_learning_rate_whose_square_is_no_float(capsys, lr):
    words = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "20", "--n-steps", "5"]
    assert cli.main(["simulate", *words, "--lr", lr]) == 0
    assert "0.025" in capsys.readouterr().out  # the loss stays


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lr": np.ones((2, 2))}, "lr: expected one value, or a list of them, got a ndarray in it"),
        ({"lr": {0.1, 0.2}}, "lr: expected one value, or a list of them, got a set"),
        ({"lr": {0.1: 1}}, "lr: expected one value, or a list of them, got a dict"),
        ({"lr": [[0.1], [0.2]]}, "got a list in it"),
        ({"lr": 0.1, "batch_size": np.ones((1, 1), int)}, "batch_size: expected one value"),
    ],
)
@pytest.mark.parametrize("make", [ss.Grid.product, ss.Grid.zip])
def test_axes_that_are_no_lists(make, values, words):
    with pytest.raises(InputError, match=words):
        make(**values)


@pytest.mark.parametrize("value", [np.array(0.5), np.float64(0.5), 0.5, [0.5], (0.5,), np.array([0.5]), iter([0.5])])
def test_axes_of_one_value(value):
    assert ss.Grid.product(lr=value).axes == {"lr": (0.5,)}


def test_steps_from_a_generator():
    assert follow.record_steps(10, (step for step in (3, 5))).tolist() == [0, 3, 5, 10]


@pytest.mark.parametrize("observe", [None, 3, True])
def test_observables_that_are_no_names(observe):
    with pytest.raises(InputError, match=r"observe: expected names from loss, test_loss, moments\b.*; got"):
        parse_all(observe)


def test_a_kernel_over_outputs_is_told_where_it_is_stepped():
    """The contour takes seconds, with one output or several; NC × NC matrices are multiplied at every step."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 60))
    problem = ss.QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal((20, 3)))
    assert estimates.outputs_together(problem) == 3
    ask(ss.BatchAveraged(), n_steps=10**8)  # of one output, with more modes
    ask(ss.BatchAveraged(), n_steps=10**8, problem=problem)
    with pytest.raises(RuntimeWarning, match="this will take about"):
        ask(ss.BatchAveraged(0), n_steps=10**8, problem=problem)
