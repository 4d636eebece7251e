"""Compiled spectral-diagonal steps of linear methods against their literal twin, over more than a block of modes."""

import naive
import numpy as np
import pytest

import sgdsim as ss
from sgdsim.algorithm.maps import Maps
from sgdsim.recurrence import diagonal


class Pulled:
    """A step that mixes both components, which both begin at w_0, and an iterate between them."""

    memory, uses_momentum, is_stationary, spec, begins, readout = 1, False, False, "pulled", (1.0, 1.0), (0.3, 0.7)

    def maps(self, steps, lr, momentum):
        mixed = 0.1 / (1 + steps)
        transition = np.stack([np.stack([1 - mixed, mixed], 1), np.tile([0.2, 0.8], (steps.size, 1))], 1)
        return Maps(transition, np.stack([-lr, -0.3 * lr], 1))


ALGORITHMS = {
    "any two": ss.SGD(ss.schedules.WarmupCosine(0.3, 3, 12), 0.0, 10, method=Pulled(), label_noise=0.2),
    "any two, averaged": ss.SGD(ss.schedules.WarmupCosine(0.3, 3, 12), 0.0, 10, method=Pulled(), average="ema:0.6"),
    "schedule-free": ss.SGD(0.4, 0.0, 10, method="schedule-free"),
    "four": ss.SGD(0.4, 0.0, 10, method="corner:theta=1.5,memory=2", average="ema:0.6"),
    "two components": ss.SGD(ss.schedules.WarmupCosine(0.3, 3, 12), 0.8, 10, method="nesterov", label_noise=0.2),
    "three components": ss.SGD(0.4, 0.6, 10, average="ema:0.7", label_noise=0.2),
    "three, scheduled": ss.SGD(
        ss.schedules.WarmupCosine(0.3, 3, 12), ss.schedules.JacobiMomentum(0.5, 0.5), 10, average="ema:0.7"
    ),
    "three, nesterov": ss.SGD(0.4, 0.6, 10, method="nesterov", average="tail:start=4"),
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("tau", [1.0, -0.5])
def test_steps_equal_the_twin(name, tau):
    sgd, n, steps = ALGORITHMS[name], 300, 15
    problem = ss.QuadraticProblem.power_law(n, 1.2, 0.8)
    values = sgd.values(n, 0, steps)
    totals = naive.linear_diagonal(
        problem.eigenvalues, problem.coefficients, sgd.maps(0, steps), values.noise,
        sgd.label_source(n, values.batch_size), tau, np.asarray(sgd.begins), np.asarray(sgd.readout),
    )  # fmt: skip
    run, losses = diagonal.start(problem, sgd, tau), []
    for t in range(steps + 1):
        losses.append(run.observe(("loss",))["loss"][0])
        run.advance(t, t + 1)
    assert np.allclose(np.array(losses) * 2 * n, totals, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_mode_for_many_is_many_modes(name):
    """Of one value; multiplicities add."""
    values, c = np.array([1.0, 0.3, 0.05]), np.array([1.0, 2.0, 3.0])
    counts = np.array([1, 400, 7])
    many = ss.QuadraticProblem(ss.Spectrum(np.repeat(values, counts)), np.sqrt(np.repeat(c / counts, counts)))
    few = ss.QuadraticProblem(ss.Spectrum(values, multiplicity=counts.astype(float)), np.sqrt(c))
    losses = []
    for problem in (many, few):
        run = diagonal.start(problem, ALGORITHMS[name], 0.5)
        run.advance(0, 40)
        losses.append(run.observe(("loss",))["loss"][0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
