"""Losses of any stationary method at any time: the contour against literal sums, the recurrence and the floors."""

import naive
import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.recurrence import any_method, contour, diagonal, pair_kernels, pair_maps
from sgdsim.theory import best_schedules, linear, stability

ALGORITHMS = {
    "nesterov": ss.SGD(0.1, 0.7, 4, method="nesterov"),
    "labels": ss.SGD(0.2, 0.5, 4, label_noise=0.1),
    "one pass": ss.SGD(0.1, 0.6, 4, sampling="one-pass", label_noise=0.01),
    "average": ss.SGD(0.2, 0.5, 4, average="ema:0.99"),
    "average, labels": ss.SGD(0.1, -0.3, 4, average="ema:0.9", label_noise=0.1),
    "memory": ss.SGD(0.1, 0.0, 4, method=ss.methods.Memory((0.5, -0.2), (0.4, 0.6), (-0.5, -0.2), 0.8)),
    "full batch": ss.SGD(0.5, 0.5, 60, method="nesterov"),
}


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(60, 1.5, 1.0)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("z", [0.7, 1.2 - 0.4j])
def test_sums_and_their_slopes_are_the_literal_ones(problem, name, z):
    sgd, own = ALGORITHMS[name], 0.03
    transition, kick = pair_maps.step(sgd)
    modes = problem.eigenvalues, np.arange(60) % 3 + 0.0, problem.coefficients**2
    maps, sums = pair_maps.of(sgd, own), np.empty(8, complex)
    pair_kernels.transforms(*modes, np.stack(maps[:3]), np.stack(maps[3:]), 1 - z, complex(z), True, sums)

    def literal(sigma):
        return naive.pair_transforms(*modes, transition, kick, sgd.begins, sgd.readout, own, z * np.exp(-sigma))

    np.testing.assert_allclose(sums[:4], literal(0.0), rtol=1e-10)
    # Seven-point difference, of error h⁶.
    slope = sum(weight * (literal(k * 1e-3) - literal(-k * 1e-3)) for k, weight in ((1, 45.0), (2, -9.0), (3, 1.0))) / (
        60 * 1e-3
    )
    np.testing.assert_allclose(sums[4:], slope, rtol=1e-8)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("tau", [1.0, -0.7])
def test_agrees_with_the_recurrence(problem, name, tau):
    steps = np.array([1, 30, 60, 400, 3000, 20_000])
    found = contour.loss_curve(problem, ALGORITHMS[name], steps, tau=tau, method="contour")
    stepped, rounding = diagonal.log_losses(problem, ALGORITHMS[name], steps, tau)
    off = np.abs(np.expm1(found.log_loss - stepped))
    assert (off <= found.error + rounding).all()
    assert found.error[3:].max() < 1e-8
    assert contour.USED[found.method[-1]] == "contour"


def test_random_algorithms_are_within_what_is_told():
    rng = np.random.default_rng(5)
    near = 0
    for _ in range(60):
        n = int(rng.integers(1, 80))
        modes = ss.QuadraticProblem.power_law(n, rng.uniform(0.6, 3), rng.uniform(0.1, 5))
        momentum = rng.choice([0.0, rng.uniform(-0.9, 0.98)])
        sgd = ss.SGD(
            2 * (1 - abs(momentum)) * 10 ** rng.uniform(-2, 0),
            momentum,
            int(rng.integers(1, n + 1)),
            method=str(rng.choice(["heavy-ball", "nesterov"])),
            label_noise=float(rng.choice([0.0, 0.1])),
            average=str(rng.choice(["none", "ema:0.95", "ema:0.999"])),
        )
        tau, steps = float(rng.uniform(-1, 1)), np.array([50, 500, 5000])
        log_s, error = any_method.Method(modes, sgd, tau).losses(steps.astype(float))
        stepped, rounding = diagonal.log_losses(modes, sgd, steps, tau)
        there = np.abs(stepped) < 600
        off = np.abs(np.expm1(log_s - np.log(2 * n) - stepped))[there]
        told = (error + 3 * rounding + 1e-13 * np.abs(stepped))[there]
        assert not (off > told).any(), (sgd.spec(), tau, n)
        near += int((off < 1e-9).sum())
    assert near > 90


@pytest.mark.parametrize("name", ["labels", "average, labels", "one pass"])
def test_late_losses_are_the_floor(problem, name):
    """At 10¹² steps the loss is the residue of the pole of noisy labels, which `linear.floor` sums in closed form."""
    sgd, tau = ALGORITHMS[name], -1.0
    late = contour.loss_curve(problem, sgd, 10**12, tau=tau)
    assert late.loss == pytest.approx(linear.floor(problem, sgd, tau).loss, rel=1e-9)
    assert late.error < 1e-8


def test_a_population_keeps_its_noise():
    population = ss.QuadraticProblem.from_population(np.arange(1, 41) ** -1.5, np.arange(1, 41) ** -2.0, 0.05, 0.1)
    sgd = ss.SGD(0.1, 0.4, 3, sampling="one-pass")
    steps = np.array([500, 5000])
    found = contour.loss_curve(population, sgd, steps, tau=-1.0, method="contour")
    np.testing.assert_allclose(found.log_loss, diagonal.log_losses(population, sgd, steps, -1.0)[0], rtol=1e-9)


def test_few_modes_stand_for_many_of_any_method():
    problem = ss.QuadraticProblem.power_law(20_000, 1.4, 0.8)
    sgd = ss.SGD(0.05, 0.5, 8, method="nesterov", label_noise=0.02)
    short, whole = (contour.loss_curve(problem, sgd, [100, 10**9], compress=compress) for compress in (True, False))
    assert (np.abs(short.loss / whole.loss - 1) <= short.error + whole.error).all()
    assert short.error.max() < 1e-8


def test_the_regime_takes_it_for_late_times(problem):
    sgd, late = ALGORITHMS["average, labels"], 10**9
    loss = ss.simulate(problem, sgd, ss.SpectralDiagonal(), late)["loss"].values.ravel()
    assert loss[-1] == pytest.approx(linear.floor(problem, sgd).loss, rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [{"average": "tail:start=10"}, {"sampling": "reshuffle"}, {"sampling": "importance"}, {"method": "am1:nu=1.5"}],
)
def test_what_changes_in_time_is_refused(problem, change):
    with pytest.raises(InputError, match="expected"):
        contour.loss_curve(problem, ss.SGD(0.1, batch_size=4, **change), 1000)


def test_a_wider_contour_goes_around_modes_that_turn_slowly():
    modes = ss.QuadraticProblem.power_law(100, 1.5, 0.4)
    sgd = ss.SGD(0.2, 0.0, 4, method="corner:theta=1.3,memory=5")
    steps = np.array([300, 3000])
    log_s, error = any_method.Method(modes, sgd, 1.0).losses(steps.astype(float))
    assert error.max() < 1e-8
    off = np.abs(np.expm1(log_s - np.log(200) - diagonal.log_losses(modes, sgd, steps, 1.0)[0]))
    assert (off <= error + 1e-12).all()


def test_what_cannot_be_told_is_refused(monkeypatch):
    """The slowest mode of this corner turns at the rate of the loss, for ever."""
    monkeypatch.setattr(any_method, "_PATIENCE", 0.0)
    modes = ss.QuadraticProblem.power_law(100, 1.5, 0.4)
    sgd = ss.SGD(0.2, 0.0, 4, method="corner:theta=1.2,memory=2")
    with pytest.raises(InputError, match="cannot be told"):
        ss.simulate(modes, sgd, ss.SpectralDiagonal(), 100_000, record=[100_000])
    far = ss.simulate(modes, sgd, ss.SpectralDiagonal(), 10**12, record=[10**12])
    assert far["loss"].values.ravel()[-1] == 0


def test_rates_of_heavy_ball_come_out_the_general_way(problem):
    as_memory = ss.methods.Memory((0.6,), (0.6,), (-1.0,))
    for batch_size, tau in ((4, 1.0), (4, -0.5), (60, 1.0)):
        plain = contour.rate_of(problem, ss.SGD(0.2, 0.6, batch_size), tau=tau)
        assert contour.rate_of(problem, ss.SGD(0.2, 0.0, batch_size, method=as_memory), tau=tau) == pytest.approx(
            plain, rel=1e-9
        )


def test_modes_that_change_sign_together_are_counted():
    """With τ < 0 and β < 0 a root of the coupled system lies on the line Im σ = π, right of each mode's own: without it
    the loss at step 200 was told to 4e-10 and off by 9e-4."""
    modes = ss.QuadraticProblem.power_law(11, 0.7, 1.0)
    slow = ss.SGD(1.0, -0.9, 9, "one-pass", "nesterov")
    sgd = ss.SGD(1.045 * stability.max_lr(modes, slow, tau=-1.0), -0.9, 9, "one-pass", "nesterov")
    steps = np.array([60, 200, 890])
    log_s, error = any_method.Method(modes, sgd, -1.0).losses(steps.astype(float))
    off = np.abs(np.expm1(log_s - np.log(22) - diagonal.log_losses(modes, sgd, steps, -1.0)[0]))
    assert not (off > error + 1e-12).any()
    assert error[2] < 1e-6


def test_steps_that_end_near_the_smallest_floats_are_not_believed():
    modes = ss.QuadraticProblem.power_law(5, 1.5, 1.0)
    sgd, steps = ss.SGD(0.3, 0.0, 2, method="nesterov"), np.array([100, 60_000])
    stepped, rounding = diagonal.log_losses(modes, sgd, steps, 1.0)
    assert stepped[1] == -np.inf
    assert rounding[1] == np.inf
    late = contour.loss_curve(modes, sgd, steps, method="contour")
    assert -1e6 < late.log_loss[1] < -700
    grown = ss.SGD(2.5, 0.0, 2, method="nesterov")
    assert diagonal.log_losses(modes, grown, steps, 1.0)[0][1] == np.inf


def test_the_best_rate_with_noisy_labels_falls_with_the_horizon(problem):
    """Floors are proportional to the learning rate, so that the best of a longer run is smaller, without a bound."""
    sgd = ss.SGD(1.0, 0.0, 4, label_noise=0.1)
    rates = [best_schedules.best_constant(problem, sgd, horizon)[0].lr for horizon in (10**4, 10**7)]
    assert rates[1] < 0.02 * rates[0]
