"""Theory takes any problem: a network is its linearisation, and with weight decay the one that knows parameters 0."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.theory import (
    best_schedules,
    critical_batch,
    epochs,
    exact,
    inside,
    linear,
    noise_scale,
    optimal,
    power_law,
    stability,
    verdicts,
)

SGD = ss.SGD(0.2, 0.5, 10)
LAW = power_law.PowerLaw(1.5, 1.0, 1.0, 1.0)
NOISY = ss.SGD(0.2, 0.5, 10, label_noise=0.1)
ASKED = {
    "max_lr": lambda p: [stability.max_lr(p, SGD, level) for level in stability.LEVELS],
    "diagonal_max_lr": lambda p: stability.diagonal_max_lr(p, momentum=0.5, noise=0.1),
    "critical_eigenvalue": stability.critical_eigenvalue,
    "averaged_radius": lambda p: stability.averaged_radius(p, SGD),
    "is_stable": lambda p: (stability.averaged_is_stable(p, SGD), stability.diagonal_is_stable(p, SGD)),
    "verdict": lambda p: verdicts.verdict(p, SGD).stable,
    "at_one": lambda p: (linear.at_one(p, SGD), linear.noise_at_one(p, SGD)),
    "floor": lambda p: linear.floor(p, NOISY).loss,
    "best": lambda p: optimal.best(p, batch_size=10, horizon=50),
    "best_momentum": lambda p: optimal.best_momentum(p, 0.2, noise=0.1, horizon=50),
    "best_constant": lambda p: best_schedules.best_constant(p, SGD, 20)[1],
    "best_of_form": lambda p: best_schedules.best_of_form("cosine", p, ss.SGD(1, 0, 10), 20).loss,
    "final_loss": lambda p: best_schedules.final_loss(p, SGD, 20),
    "predict": lambda p: power_law.predict(p, SGD, LAW, horizon=50).exponent,
    "exact": lambda p: exact.losses(p, SGD, [10, 1000]).loss,
    "reshuffled_loss": lambda p: epochs.reshuffled_loss(p, ss.SGD(0.2, 0.5, 60, sampling="reshuffle"), 2),
    "closure_error": lambda p: inside.closure_error(p, SGD, 20, 0.1, averaged=False),
    "half_limit_noise": critical_batch.half_limit_noise,
    "noise_scale": noise_scale.noise_scale,
    "fit": lambda p: ss.fit_power_law(p).nu.value,
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_a_network_is_its_linearisation(digits_network, asked):
    np.testing.assert_equal(asked(digits_network), asked(digits_network.quadratic))


def test_with_weight_decay_a_network_is_pulled_to_zero(digits_network):
    decayed = ss.SGD(0.2, 0.5, 10, weight_decay=0.1)
    found = linear.floor(digits_network, decayed).loss
    assert found == linear.floor(digits_network.quadratic_at_zero, decayed).loss
    assert found != linear.floor(digits_network.quadratic, decayed).loss  # which knows of its start alone


def test_what_is_no_problem():
    with pytest.raises(InputError, match="problem: expected a QuadraticProblem or a NetworkProblem, got str"):
        stability.max_lr("digits", SGD)
