"""Steps to a target against the recurrence written out, and where learning rates and steps bend over b."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.algorithm.samplers import noise_factor
from sgdsim.problem import QuadraticProblem
from sgdsim.theory import critical_batch, stability
from sgdsim.theory.critical_batch import fewest_steps


def shares(problem, rates, steps, noise, momentum, tau):
    """L_t/L_0 of the diagonal recurrence, (steps + 1, rates), as it stands in the paper."""
    c = np.repeat(problem.coefficients[:, None] ** 2, rates.size, 1)
    x = problem.eigenvalues[:, None] * rates
    j, p, out = np.zeros_like(c), np.zeros_like(c), [c.sum(0)]
    for _ in range(steps):
        kick = noise * x**2 * (c.sum(0) - tau * c)
        p = x**2 * c - 2 * momentum * x * j + momentum**2 * p + kick
        moved = momentum * j - x * c
        c, j = c + 2 * moved + p, moved + p
        out.append(c.sum(0))
    return np.array(out) / out[0]


@pytest.mark.parametrize(
    ("noise", "momentum", "tau", "target"),
    [
        (0.5, 0.0, 1.0, 0.15),
        (0.1, 0.5, 1.0, 0.15),
        (0.2, 0.0, -1.0, 0.15),
        (0.0, 0.0, 1.0, 0.15),
        (0.02, 0.95, 1.0, 0.02),  # reached again later: 5 steps more by bisection alone
        (0.0, 0.95, 1.0, 0.01),
    ],
)
def test_steps_are_the_fewest_of_the_recurrence(noise, momentum, tau, target):
    problem = QuadraticProblem.power_law(20, 1.5, 1.0)
    found = fewest_steps(problem, target, noise=noise, momentum=momentum, tau=tau)
    limit = float(stability.diagonal_max_lr(problem, momentum=momentum, noise=noise, tau=tau))
    rates = np.append(limit * np.linspace(0.002, 0.9999, 600), found.lr)
    seen = shares(problem, rates, found.steps, noise, momentum, tau)
    assert 1 < found.steps < 100
    assert seen[-1, -1] <= target * (1 + 1e-9)
    assert seen[:-1].min() > target


def test_what_is_not_reached_says_why():
    stuck = QuadraticProblem(ss.Spectrum(np.array([1.0, 0.5, 0.0])), np.array([1.0, 1.0, 1.0]))
    found = fewest_steps(stuck, 0.3, noise=0.1)
    assert (found.steps, found.lr) == (None, None)
    assert found.reason == "never: 0.333 of the initial loss cannot be removed"
    assert fewest_steps(stuck, 0.4, noise=0.1).steps is not None
    slow = QuadraticProblem(ss.Spectrum(np.array([1.0, 1e-14])), np.array([1.0, 1.0]))
    assert fewest_steps(slow, 0.1, noise=0.1).reason == "not in 1e+12 steps"
    noisy = QuadraticProblem.from_population([1.0, 0.5], [1.0, 1.0], label_noise=0.1)
    assert "not known" in fewest_steps(noisy, 0.1, noise=0.1, tau=-1.0).reason
    for bad in (0.0, 1.0):
        with pytest.raises(ss.InputError, match="reach: "):
            fewest_steps(stuck, bad, noise=0.1)


def test_losses_that_a_quadrature_does_not_tell_give_no_steps():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 60)) * np.arange(1, 61) ** -1.5
    operator = QuadraticProblem.from_operator(
        features @ features.T, features @ rng.standard_normal(60), n_lanczos=4, n_probes=2, n_top=2
    )
    assert fewest_steps(operator, 0.5, noise=0.1).steps is not None
    assert "not known: the loss after" in fewest_steps(operator, 1e-6, noise=0.1).reason


@pytest.mark.parametrize("sampling", ["without-replacement", "with-replacement", "one-pass"])
def test_a_noise_is_that_of_its_batch_size(sampling):
    for size in (1, 7, 50):
        noise = float(noise_factor(50, size, sampling))
        assert critical_batch.batch_with(noise, 50, sampling) == pytest.approx(size)
    assert critical_batch.batch_with(0.25, np.inf) == 4.0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_at_half_the_limit_the_largest_rate_is_half(momentum):
    problem = QuadraticProblem.power_law(200, 1.2, 1.0)
    noise = critical_batch.half_limit_noise(problem, momentum)
    assert stability.diagonal_max_lr(problem, momentum=momentum, noise=noise) == pytest.approx(1 + momentum)
    alone = QuadraticProblem(ss.Spectrum(np.array([1.0, 1e-3])), np.ones(2))
    assert critical_batch.half_limit_noise(alone) is None


def test_the_relation_of_steps_and_samples():
    noise = 1 / np.array([1, 4, 16, 256])
    found = critical_batch.tradeoff(noise, 60 + 1200 * noise)
    assert (found.least_steps, found.least_samples) == pytest.approx((60, 1200))
    assert (found.critical_noise, found.misfit) == (pytest.approx(0.05), pytest.approx(0, abs=1e-12))
    steps, samples = 60 + 1200 * noise, (60 + 1200 * noise) / noise
    np.testing.assert_allclose((steps / 60 - 1) * (samples / 1200 - 1), 1)
    assert critical_batch.tradeoff(noise, 7 * noise).critical_noise is None
    assert critical_batch.tradeoff(noise[:2], steps[:2]) is None
    with pytest.raises(ss.InputError):
        critical_batch.tradeoff(noise, 0 * steps)
