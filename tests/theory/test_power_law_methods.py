"""Predictions of methods that are not plain heavy ball: the same laws, seen in the exact curve."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.theory import linear, power_law


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(2000, 1.5, 0.75)


@pytest.mark.parametrize(
    "change",
    [{"method": "nesterov"}, {"average": "ema:0.9"}, {"sampling": "one-pass"}, {"method": "corner:theta=1.2,memory=1"}],
)
def test_the_law_holds_where_it_is_said_to(problem, change):
    sgd = ss.SGD(0.2, 0.0 if "corner" in str(change) else 0.5, 20, **change)
    found = power_law.predict(problem, sgd, tau=-1.0)
    assert found.stable
    assert found.exponent == 0.5
    first, last = found.window
    assert last > 4 * first
    loss = ss.simulate(problem, sgd, ss.SpectralDiagonal(-1.0, method="recurrence"), int(last), record=[int(last)])
    assert found.constant * last**-0.5 == pytest.approx(float(loss["loss"].values.ravel()[-1]), rel=0.11)


def test_heavy_ball_as_a_method_with_memory_is_predicted_the_same(problem):
    plain = power_law.predict(problem, ss.SGD(0.2, 0.5, 20))
    general = power_law.predict(problem, ss.SGD(0.2, 0.0, 20, method=ss.methods.Memory((0.5,), (0.5,), (-1.0,))))
    for name in ("phase", "stable", "exponent", "window"):
        assert getattr(general, name) == getattr(plain, name)
    assert general.constant == pytest.approx(plain.constant, rel=1e-9)
    assert general.rate == pytest.approx(plain.rate, rel=1e-6)
    np.testing.assert_allclose(general.loss, plain.loss, rtol=1e-7)


def test_noisy_labels_end_on_their_floor(problem):
    sgd = ss.SGD(0.2, 0.5, 20, label_noise=0.001)
    found = power_law.predict(problem, sgd)
    assert found.floor == linear.floor(problem, sgd).loss
    assert found.loss[-1] == pytest.approx(found.floor, rel=1e-3)
    close = np.abs(found.law / found.loss - 1) <= 0.1
    assert close[(found.steps >= found.window[0]) & (found.steps <= found.window[1])].all()
    assert power_law.predict(problem, ss.SGD(0.2, 0.5, 20)).floor is None
