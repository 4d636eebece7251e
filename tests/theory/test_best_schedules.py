"""Schedules for a horizon: the adjoint against finite differences, optima against each other and simulation."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import schedules
from sgdsim.common.checks import InputError
from sgdsim.theory import best_schedules


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(100, 1.5, 1.0)


@pytest.mark.parametrize("tau", [1.0, -1.0])
@pytest.mark.parametrize("sgd", [ss.SGD(0.4, 0.5, 4), ss.SGD(schedules.Power(0.5, 0.3), -0.2, 4, label_noise=0.3)])
def test_gradients_are_those_of_finite_differences(problem, sgd, tau):
    steps = 40
    loss, by_lr, by_momentum = best_schedules.final_loss(problem, sgd, steps, tau=tau)
    run = ss.simulate(problem, sgd, ss.SpectralDiagonal(tau), steps)["loss"].values.ravel()[-1]
    assert loss == pytest.approx(run, rel=1e-11)
    rates = sgd.values(100, 0, steps).lr
    for t in (0, 7, 39):
        shift = np.zeros(steps)
        shift[t] = 1e-5
        up, down = (best_schedules.final_loss(problem, sgd, steps, lr=rates + s * shift, tau=tau)[0] for s in (1, -1))
        assert by_lr[t] == pytest.approx((up - down) / 2e-5, rel=1e-5)
    base = sgd.values(100, 0, steps).momentum
    for t in (3, 39):
        losses = []
        for sign in (1, -1):
            moved = base.copy()
            moved[t] += sign * 1e-5
            one = ss.SGD(sgd.lr, schedules.Piecewise(tuple(range(steps)), tuple(moved)), 4, label_noise=sgd.label_noise)
            losses.append(best_schedules.final_loss(problem, one, steps, tau=tau)[0])
        assert by_momentum[t] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-12)


def test_the_best_schedule_beats_the_closed_forms(problem):
    sgd = ss.SGD(1.0, 0.0, 2, label_noise=0.05)
    found = best_schedules.compare(problem, sgd, 300, pieces=16)
    losses = {one.name: one.loss for one in found}
    assert [one.loss for one in found] == sorted(losses.values())
    assert set(losses) == {*best_schedules.FORMS, "best of 16 pieces"}
    assert losses["best of 16 pieces"] < 1.01 * min(losses.values())
    assert losses["best of 16 pieces"] < 0.7 * losses["constant"]
    for one in found:  # what is printed is what a run gives
        run = ss.simulate(problem, ss.SGD(one.lr, 0.0, 2, label_noise=0.05), ss.SpectralDiagonal(), 300)
        assert run["loss"].values.ravel()[-1] == pytest.approx(one.loss, rel=1e-9)


def test_the_search_for_a_constant_is_heard(problem):
    heard = []
    best_schedules.best_constant(
        problem, ss.SGD(1.0, batch_size=4, average="ema:0.9"), 20, heard=lambda: heard.append(1)
    )
    assert len(heard) > 20


def test_one_piece_is_the_best_constant(problem):
    sgd = ss.SGD(1.0, 0.3, 5)
    one = best_schedules.best_schedule(problem, sgd, 200, pieces=1)
    constant = best_schedules.best_of_form("constant", problem, sgd, 200)
    assert one.loss == pytest.approx(constant.loss, rel=1e-5)
    assert one.lr == pytest.approx(constant.lr, rel=1e-2)


def test_refusals(problem):
    with pytest.raises(InputError, match="horizon: expected heavy ball"):
        best_schedules.best_schedule(problem, ss.SGD(1.0, method="nesterov", batch_size=2), 10, 2)
    with pytest.raises(InputError, match="pieces: expected an integer from 1 to 10"):
        best_schedules.best_schedule(problem, ss.SGD(1.0, batch_size=2), 10, 20)


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (schedules.Polynomial(2.0, 10, 2.0), [0, 5, 10, 20], [2.0, 0.5, 0.0, 0.0]),
        (schedules.WarmupStableDecay(1.0, 10, 3, 2), [0, 1, 5, 6, 7, 9], [0.5, 1.0, 1.0, 1.0, 0.75, 0.25]),
        (schedules.Piecewise((0, 3), (1.0, 0.2)), [0, 2, 3, 9], [1.0, 1.0, 0.2, 0.2]),
    ],
)
def test_forms(schedule, steps, expected):
    np.testing.assert_allclose(schedule(np.array(steps)), expected)


@pytest.mark.parametrize(
    ("spectrum", "sgd", "horizon", "starts", "rates"),
    [
        ((100, 1.5, 1.0), ss.SGD(1.0, 0.0, 2, label_noise=0.05), 300, (0, 156, 242), (0.33678, 0.1265, 0.033906)),
        ((60, 1.5, 1.0), ss.SGD(1.0, 0.5, 4), 100, (0, 5, 86), (0.57915, 1.08433, 0.35169)),
        ((200, 1.2, 0.7), ss.SGD(1.0, 0.0, 1), 500, (0, 408, 471), (0.30344, 0.17658, 0.067761)),
        ((100, 2.0, 2.0), ss.SGD(1.0, 0.9, 10), 400, (0, 30, 341), (0.131496, 1.14341, 0.172636)),
    ],
)
def test_three_pieces_are_as_good_as_random_search(spectrum, sgd, horizon, starts, rates):
    """The schedules are those that some seconds of random search over cuts and rates found."""
    problem = ss.QuadraticProblem.power_law(*spectrum)
    there = np.repeat(rates, np.diff(starts, append=horizon))
    searched = best_schedules.final_loss(problem, sgd, horizon, lr=there)[0]
    assert best_schedules.best_schedule(problem, sgd, horizon, 3).loss < 1.01 * searched
