"""The exact average as theory offers it, beside the regime that steps it."""

import numpy as np
import pytest

import sgdsim as ss


def test_losses_are_those_of_the_averaged_regime():
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0, seed=1)
    for sgd in (ss.SGD(0.3, 0.5, 3), ss.SGD(0.2, -0.3, 3, method="nesterov"), ss.SGD(0.3, 0.5, 3, label_noise=0.1)):
        run = ss.simulate(problem, sgd, ss.BatchAveraged(method="recurrence"), 900, record=[0, 7, 900])
        found = ss.theory.exact.losses(problem, sgd, [0, 7, 900])
        assert found.loss == pytest.approx(run["loss"].values.ravel(), rel=1e-8)


def test_exponents_are_slopes_between_stepped_losses():
    problem, sgd = ss.QuadraticProblem.power_law(40, 1.5, 1.0, seed=1), ss.SGD(0.3, 0.0, 4)
    at = [100, 1000]
    run = ss.simulate(problem, sgd, ss.BatchAveraged(method="recurrence"), 1100, record=[91, 110, 909, 1100])
    logs, times = np.log(run["loss"].values.ravel())[1:], np.log([91, 110, 909, 1100])
    slopes = [(logs[i] - logs[i + 1]) / (times[i + 1] - times[i]) for i in (0, 2)]
    assert ss.theory.exact.exponents(problem, sgd, at) == pytest.approx(slopes, rel=1e-4)


@pytest.mark.parametrize(
    ("sgd", "steps", "message"),
    [
        (ss.SGD(0.1), [5, 3], "steps: expected ascending"),
        (ss.SGD(0.1), [0.5], "steps: expected ascending"),
        (ss.SGD(0.1), [-1], "steps: expected ascending"),
        (ss.SGD(0.1), [np.inf], "steps: expected ascending"),
        (ss.SGD(0.1), [], "steps: expected ascending"),
        (ss.SGD(lambda t: 0.1 / (1 + t)), [3], "constant hyperparameters"),
        (ss.SGD(0.1, sampling="one-pass"), [3], "exact average: expected"),
    ],
)
def test_what_it_refuses(sgd, steps, message):
    with pytest.raises(ss.InputError, match=message):
        ss.theory.exact.losses(ss.QuadraticProblem.power_law(12, 1.5, 1.0), sgd, steps)
    with pytest.raises(ss.InputError, match="from 10 on"):
        ss.theory.exact.exponents(ss.QuadraticProblem.power_law(12, 1.5, 1.0), ss.SGD(0.1), [3])
