"""Accuracy against classes counted by hand, in the regimes that know residuals."""

import numpy as np
import pytest
import torch
from torch import nn

import sgdsim as ss
from sgdsim.common.checks import InputError

N, M, STEPS = 12, 9, 8
BOTH = ["accuracy", "test_accuracy"]


def problem(classes, seed=0, network=None):
    """Two classes as ±1, more as one-hot columns; a linear network, which is its own linearisation."""
    rng = np.random.default_rng(seed)
    labels, labels_test = rng.integers(0, classes, N), rng.integers(0, classes, M)
    labels[:classes] = np.arange(classes)
    y, y_test = (2.0 * k - 1 if classes == 2 else np.eye(classes)[k] for k in (labels, labels_test))
    data = ss.Dataset(rng.standard_normal((N, 5)), y, "classes", rng.standard_normal((M, 5)), y_test)
    torch.manual_seed(seed)
    linear = nn.Linear(5, 1 if classes == 2 else classes).double()
    return ss.NetworkProblem(network or linear, data, device="cpu")


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("sgd", [ss.SGD(0.8, 0.5, 3), ss.SGD(0.5, 0.2, 3, method="nesterov")], ids=["plain", "linear"])
def test_the_share_of_right_classes(classes, sgd):
    of = problem(classes)
    run = ss.RealNetwork().start(of, sgd, replicates=2, seed=1, test=True)
    run.advance(0, STEPS)
    result = ss.simulate(of, sgd, ss.RealNetwork(), STEPS, replicates=2, seed=1, observe=BOTH)
    for replicate in range(2):
        network = run.network(replicate)
        for name, x, y in ((BOTH[0], of.data.x, of.data.y), (BOTH[1], of.data.x_test, of.data.y_test)):
            with torch.no_grad():
                f = network(torch.tensor(x)).numpy()
            right = [np.sign(a) == b if classes == 2 else a.argmax() == b.argmax() for a, b in zip(f, y, strict=True)]
            assert result[name].values[0, replicate, -1] == np.mean(right)
    assert len(np.unique(result[BOTH[0]].values)) > 1
    sampled = ss.simulate(of, sgd, ss.SampledLinearized(), STEPS, replicates=2, seed=1, observe=BOTH)
    for name in BOTH:
        np.testing.assert_array_equal(sampled[name].values[0], result[name].values[0])


def test_by_a_rule_on_the_linearised_parameters():
    of, sgd = problem(2), ss.SGD(0.05, 0.0, 3, method="adam")
    network, sampled = (
        ss.simulate(of, sgd, regime, STEPS, seed=1, observe=BOTH)
        for regime in (ss.RealNetwork(), ss.SampledLinearized())
    )
    for name in BOTH:
        np.testing.assert_array_equal(network[name].values[0], sampled[name].values[0])


def test_outputs_that_do_not_share_a_kernel():
    """A frozen last layer mixes them: one kernel over all outputs."""
    torch.manual_seed(2)
    mixed = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4)).double()
    mixed[1].requires_grad_(False)
    of = problem(4, network=mixed)
    assert of.quadratic.signed is None
    network, sampled = (
        ss.simulate(of, ss.SGD(0.8, 0.5, 3), regime, STEPS, seed=1, observe=BOTH)
        for regime in (ss.RealNetwork(), ss.SampledLinearized())
    )
    for name in BOTH:
        np.testing.assert_array_equal(network[name].values[0], sampled[name].values[0])


def test_it_is_no_number_where_the_run_has_diverged():
    run = ss.simulate(problem(2), ss.SGD(1e4, 0.0, 3), ss.SampledLinearized(), 60, observe="accuracy")
    assert np.isinf(run["loss"].values[..., -1])
    assert np.isnan(run["accuracy"].values[..., -1])


def test_what_has_no_accuracy():
    rng = np.random.default_rng(0)
    x, classes = rng.standard_normal((N, 5)), problem(2)
    for y, words in (
        (rng.standard_normal(N), "got numbers"),
        (rng.standard_normal((N, 2)), "got 2 columns of numbers"),
    ):
        network = nn.Linear(5, 1 if y.ndim == 1 else 2).double()
        of = ss.NetworkProblem(network, ss.Dataset(x, y, "numbers"), device="cpu")
        with pytest.raises(InputError, match=f"observe: accuracy needs one-hot targets, or 1 and -1 of two.*{words}"):
            ss.simulate(of, ss.SGD(0.5, 0.0, 3), ss.RealNetwork(), STEPS, observe="accuracy")
    for regime in (ss.BatchAveraged(), ss.SpectralDiagonal()):
        with pytest.raises(InputError, match="it is not a function of second moments"):
            ss.simulate(classes, ss.SGD(0.5, 0.0, 3), regime, STEPS, observe="accuracy")
    with pytest.raises(InputError, match="observe: accuracy needs the targets"):
        ss.simulate(classes.quadratic, ss.SGD(0.5, 0.0, 3), ss.SampledLinearized(), STEPS, observe="accuracy")
    alone = ss.NetworkProblem(nn.Linear(5, 1).double(), ss.Dataset(x, classes.data.y, "no test"), device="cpu")
    with pytest.raises(InputError, match="test_accuracy needs a problem with test points"):
        ss.simulate(alone, ss.SGD(0.5, 0.0, 3), ss.RealNetwork(), STEPS, observe="test_accuracy")
