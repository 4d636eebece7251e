"""Phases, exponents, constants and optima against the exact curves and published values."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.recurrence import contour
from sgdsim.theory import generating, optimal, power_law, stability

SIGNAL, NOISE, EVENTUAL, IMMEDIATE = power_law.PHASES


def test_phases():
    assert power_law.phase(1.5, 1.0) == SIGNAL
    assert power_law.phase(1.5, 1.4) == NOISE
    assert power_law.phase(0.8, 1.0) == EVENTUAL
    assert power_law.phase(0.5, 1.0) == IMMEDIATE
    assert list(power_law.phase(np.array([2.0, 0.7]), 1.0)) == [SIGNAL, EVENTUAL]
    assert power_law.exponent(2.0, 1.0) == 1.0
    assert power_law.exponent(2.0, 5.0) == 1.5
    assert np.isnan(power_law.exponent(0.8, 1.0))


def local_exponent(problem, t, **hyper):
    low, high = contour.loss_at(problem, np.round([t, 2 * t]), **hyper).log_loss
    return (low - high) / np.log(2)


@pytest.mark.parametrize("nu", [1.3, 2.0, 3.0])
@pytest.mark.parametrize("offset", [-0.5, -0.25, 0.25, 0.5])
def test_exponents_of_exact_curves_on_both_sides_of_the_transition(nu, offset):
    """The local exponent tends to min(ζ, 2 − 1/ν) as t grows, well before the cut-off at N^ν."""
    n, zeta = 300_000, 2 - 1 / nu + offset
    problem = ss.QuadraticProblem.power_law(n, nu, zeta * nu)
    hyper = {"lr": 0.2, "momentum": 0.3, "noise": 0.3}
    assert generating.noise_propagator_at_one(problem.eigenvalues, 0.2, 0.3, 0.3, 1.0) < 1
    early, late = (
        abs(local_exponent(problem, share * n**nu, **hyper) - power_law.exponent(nu, zeta)) for share in (1e-5, 1e-4)
    )
    assert late < max(0.9 * early, 1e-3)
    # The other contribution falls by t^−|offset| relative to this one: slow close to the transition.
    assert late < (0.01 if offset < 0 else 0.15)


@pytest.mark.parametrize(
    ("nu", "kappa", "lr", "momentum", "noise"),
    [(1.5, 1.0, 0.5, 0.3, 0.1), (2.0, 1.5, 0.05, 0.9, 0.1), (1.5, 3.0, 0.1, -0.1, 1.0), (3.0, 9.0, 0.3, 0.5, 0.2)],
)
def test_constants_come_true(nu, kappa, lr, momentum, noise):
    """law / exact → 1 as t and N grow, t slower than the cut-off."""
    distances = []
    for n in (1000, 10_000, 100_000):
        problem = ss.QuadraticProblem.power_law(n, nu, kappa)
        law = power_law.PowerLaw.of(problem)
        t = round(n ** (0.6 * nu))
        loss = contour.loss_at(problem, t, lr=lr, momentum=momentum, noise=noise).loss
        signal, loud = power_law.constants(problem, law, lr=lr, momentum=momentum, noise=noise)
        constant = signal if power_law.phase(nu, law.zeta) == SIGNAL else loud
        distances.append(abs(np.log(constant * t ** -power_law.exponent(nu, law.zeta) / loss)))
    assert distances[2] < 0.05
    assert distances[2] < 0.5 * distances[1] < 0.25 * distances[0]


def test_full_batch_has_the_signal_law_alone():
    problem = ss.QuadraticProblem.power_law(20_000, 1.5, 3.0)
    found = power_law.predict(problem, ss.SGD(0.5, 0.0, problem.n))
    assert (found.phase, found.noise, found.crossover) == (SIGNAL, None, None)
    assert found.exponent == 2.0
    assert found.window[1] / found.window[0] > 1e3


def test_prediction_holds_in_its_window_and_not_far_outside():
    problem = ss.QuadraticProblem.power_law(20_000, 1.5, 3.0)
    found = power_law.predict(problem, ss.SGD(0.2, 0.0, 1))
    assert found.phase == NOISE
    assert found.stable
    inside = (found.steps >= found.window[0]) & (found.steps <= found.window[1])
    deviation = np.abs(found.law / found.loss - 1)
    assert deviation[inside].max() <= found.within
    assert deviation[found.steps > 3 * found.cutoff].min() > found.within
    assert found.window[1] < found.cutoff
    assert found.window[0] > found.crossover  # before it the signal's share is larger
    # the curve beside it is the regime's own
    early = found.steps[found.steps <= 1000].astype(int)
    run = ss.simulate(problem, ss.SGD(0.2, 0.0, 1), ss.SpectralDiagonal(), early[-1], record=early)
    np.testing.assert_allclose(run["loss"].values.ravel()[1:], found.loss[: early.size], rtol=1e-8)


def test_predictions_without_a_law():
    unstable = power_law.predict(ss.QuadraticProblem.power_law(1000, 1.5, 1.0), ss.SGD(1.9, 0.0, 1))
    assert not unstable.stable
    assert unstable.rate > 0
    assert unstable.exponent is unstable.window is unstable.cutoff is None
    assert np.isnan(unstable.law).all()
    slow = power_law.predict(ss.QuadraticProblem.power_law(1000, 0.8, 1.0), ss.SGD(0.1, 0.0, 10))
    assert slow.phase == EVENTUAL
    assert slow.stable  # at this N
    assert slow.exponent is None


def test_a_law_can_be_given_or_fitted():
    made = ss.QuadraticProblem.power_law(2000, 1.5, 1.0)
    exact = power_law.PowerLaw.of(made)
    assert (exact.nu, exact.kappa, exact.Lambda) == (1.5, 1.0, 1.0)
    k = 100
    assert exact.A * k**-exact.kappa == pytest.approx((made.coefficients[k - 1 :] ** 2).sum(), rel=0.06)
    anonymous = ss.QuadraticProblem(made.spectrum, made.coefficients)
    fitted = power_law.PowerLaw.of(anonymous)
    assert fitted.nu == pytest.approx(1.5, rel=0.02)
    assert fitted.kappa == pytest.approx(1.0, rel=0.05)
    with pytest.raises(ss.InputError, match="nu"):
        power_law.PowerLaw(0.0, 1.0)
    with pytest.raises(ss.InputError, match="phase"):
        power_law.phase(-1.0, 1.0)


def test_budget_independence():
    """The best α_eff is proportional to b, and the loss depends on t·b only; both as predicted."""
    problem = ss.QuadraticProblem.power_law(20_000, 2.0, 1.0)
    law = power_law.PowerLaw.of(problem)
    steps_per_noise = 5e4  # few enough that modes beyond N do not matter
    for noise in (1.0, 0.25, 0.06):
        found = optimal.best(problem, noise=noise, horizon=round(steps_per_noise * noise))
        rate, constant, zeta = power_law.budget(problem, law, noise)
        assert found.loss == pytest.approx(constant * steps_per_noise**-zeta, rel=0.03)
        assert found.lr / (1 - found.momentum) == pytest.approx(rate, rel=0.05)
    with pytest.raises(ss.InputError, match="signal-dominated"):
        power_law.budget(problem, power_law.PowerLaw(1.5, 3.0), 0.1)


@pytest.mark.parametrize(("nu", "kappa", "lr", "log_loss"), [(1.5, 4, 0.1130, -23.20), (2, 8, 0.2433, -25.11)])
def test_published_best_learning_rates(nu, kappa, lr, log_loss):
    """[VKY] sec. 6: N = T = 10⁴, γ = 1, β = 0."""
    problem = ss.QuadraticProblem.power_law(10_000, nu, kappa)
    found = optimal.best(problem, noise=1.0, horizon=10_000)
    assert found.plain_lr == pytest.approx(lr, rel=2e-3)
    assert np.log(found.plain_loss) == pytest.approx(log_loss, abs=0.006)


@pytest.mark.parametrize(
    ("nu", "kappa", "momentum"), [(1.5, 3.5, -0.136), (1.5, 3.0, -0.093), (1.5, 4.0, -0.154), (2, 5, -0.159)]
)
def test_published_negative_momenta(nu, kappa, momentum):
    """[VKY] fig. 5: the learning rate stays at its best value for β = 0."""
    problem = ss.QuadraticProblem.power_law(10_000, nu, kappa)
    joint = optimal.best(problem, noise=1.0, horizon=10_000)
    found, loss = optimal.best_momentum(problem, joint.plain_lr, noise=1.0, horizon=10_000)
    assert found == pytest.approx(momentum, abs=0.002)
    assert joint.loss < loss < joint.plain_loss
    assert joint.negative_momentum
    assert joint.gain > 0.01


def test_the_optimum_is_one():
    """No better point on a fine grid of the whole stable region; the simulated loss there is what was promised."""
    problem = ss.QuadraticProblem.power_law(500, 1.5, 1.0)
    found = optimal.best(problem, batch_size=10, horizon=2000)
    momenta = np.concatenate([np.linspace(-0.9, 0.9, 60), 1 - np.geomspace(0.1, 1e-3, 30)])
    gamma = float(ss.SGD(0.1, batch_size=10).values(500, 0, 1).noise[0])
    top = stability.diagonal_max_lr(problem, momentum=momenta, noise=gamma)
    lr = np.linspace(0.01, 0.999, 80) * top[:, None]
    grid = contour.loss_at(problem, 2000, lr=lr, momentum=momenta[:, None], batch_size=10).loss
    assert found.loss <= np.nanmin(grid) * (1 + 1e-9)
    assert found.loss == pytest.approx(np.nanmin(grid), rel=0.01)
    run = ss.simulate(problem, ss.SGD(found.lr, found.momentum, 10), ss.SpectralDiagonal(), 2000)
    assert run["loss"].values.ravel()[-1] == pytest.approx(found.loss, rel=1e-8)
    assert found.lr < found.max_lr
    assert found.loss < found.plain_loss


def test_the_optimum_of_the_asymptotic_constant_is_the_limit_of_horizons():
    problem = ss.QuadraticProblem.power_law(20_000, 2.0, 5.0)
    limit = optimal.best(problem, noise=1.0)
    assert limit.exponent == pytest.approx(1.5)
    at = [optimal.best(problem, noise=1.0, horizon=t) for t in (1000, 100_000)]
    assert abs(at[1].momentum - limit.momentum) < abs(at[0].momentum - limit.momentum)
    assert at[1].lr == pytest.approx(limit.lr, rel=0.02)
    assert limit.loss * 1e5**-limit.exponent == pytest.approx(at[1].loss, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "batch_size"),
        ({"batch_size": 3, "noise": 0.1}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 101}, "batch_size"),
        ({"noise": 1.1}, "noise"),
        ({"noise": 0.1, "horizon": 0}, "horizon"),
        ({"noise": 0.1, "horizon": np.nan}, "horizon"),
    ],
)
def test_bad_requests_for_an_optimum(arguments, named):
    with pytest.raises(ss.InputError, match=named):
        optimal.best(ss.QuadraticProblem.power_law(100, 1.5, 1.0), **arguments)


def test_no_asymptotic_constant_in_the_divergent_phase():
    with pytest.raises(ss.InputError, match="eventual divergence"):
        optimal.best(ss.QuadraticProblem.power_law(100, 0.8, 1.0), noise=0.1)


def test_the_best_jacobi_schedule():
    """Full batch: better than any constant setting before the cut-off, the loss promised, and the square of the law;
    batch noise makes it diverge."""
    problem = ss.QuadraticProblem.power_law(5000, 1.5, 0.75)
    found = optimal.best_jacobi(problem, horizon=200, noise=0.1)
    sgd = ss.SGD.jacobi(found.lr, found.a, found.b, batch_size=problem.n)
    run = ss.simulate(problem, sgd, ss.SpectralDiagonal(), 200)["loss"].values.ravel()
    assert run[-1] == pytest.approx(found.loss, rel=1e-6)
    assert found.loss < found.constant_loss
    for change in ({"a": found.a * 1.2}, {"b": found.b * 1.3}, {"lr": found.lr * 0.95}):
        other = ss.SGD.jacobi(**{"lr": found.lr, "a": found.a, "b": found.b, **change}, batch_size=problem.n)
        assert ss.simulate(problem, other, ss.SpectralDiagonal(), 200)["loss"].values.ravel()[-1] > found.loss
    wide = ss.QuadraticProblem.power_law(50_000, 1.5, 0.75)  # far from its cut-off
    early, late = (optimal.best_jacobi(wide, horizon=t).loss for t in (64, 256))
    assert np.log(early / late) / np.log(4) == pytest.approx(2 * 0.75 / 1.5, abs=0.05)
    noisy = ss.simulate(problem, ss.SGD.jacobi(found.lr, found.a, found.b, batch_size=10), ss.SpectralDiagonal(), 200)
    assert noisy["loss"].values.ravel()[-1] > 1e3 * problem.initial_loss
    assert found.noisy_loss > 1e3 * problem.initial_loss


def test_a_crossing_is_not_a_window():
    """A law that only cuts the exact curve holds nowhere."""
    problem = ss.QuadraticProblem.power_law(1000, 1.5, 3.0)
    steep = power_law.PowerLaw(1.5, 0.3, 1.0, 1e-4)
    found = power_law.predict(problem, ss.SGD(0.3, 0.0, 500), steep)
    near = np.abs(found.law / found.loss - 1) <= found.within
    assert near.any()
    assert found.window is None


def test_exponents_whose_factorial_is_no_float_are_refused():
    problem = ss.QuadraticProblem.power_law(12, 1.5, 300.0)
    with pytest.raises(ss.InputError, match="below 170"):
        power_law.predict(problem, ss.SGD(0.1))


def test_a_spectrum_with_nu_of_a_half_has_no_law_of_noise():
    problem = ss.QuadraticProblem.power_law(8, 0.5, 0.5)
    assert power_law.predict(problem, ss.SGD(0.1, batch_size=2)).noise is None
    sgd = ss.SGD(0.1, batch_size=2, method="nesterov")
    signal, noise = power_law.method_constants(problem, power_law.PowerLaw.of(problem), sgd)
    assert signal > 0
    assert np.isnan(noise)
