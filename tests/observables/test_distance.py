"""The distance to the optimum against SGD on the parameters themselves."""

import itertools

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.algorithm import batches

POINTS, PARAMETERS, SIZE, STEPS = 4, 6, 2, 3
BATCHES = list(itertools.combinations(range(POINTS), SIZE))


def features(parameters):
    rng = np.random.default_rng(5)
    return rng.standard_normal((POINTS, parameters)), rng.standard_normal(POINTS)


def descend(jacobian, residual, problem, lr, momentum, drawn):
    """`‖δ_t − δ*‖²` before each step and at the end, of SGD on `½·mean((r_0 + Jδ)²)` from δ = 0; δ*: of least norm."""
    best = -np.linalg.pinv(jacobian) @ residual
    delta, velocity = np.zeros_like(best), np.zeros_like(best)
    out = [((delta - best) ** 2).sum()]
    for batch in drawn:
        rows = jacobian[list(batch)]
        gradient = rows.T @ (residual[list(batch)] + rows @ delta) / len(batch)
        velocity = momentum * velocity - problem.torch_lr(lr) * gradient
        delta = delta + velocity
        out.append(((delta - best) ** 2).sum())
    return np.array(out)


@pytest.mark.parametrize("parameters", [PARAMETERS, 3])  # 3: some of the residual never moves
@pytest.mark.parametrize(("lr", "momentum"), [(0.4, 0.0), (0.3, 0.6)])
def test_against_sgd_on_the_parameters(parameters, lr, momentum):
    jacobian, residual = features(parameters)
    problem = ss.QuadraticProblem.from_kernel(jacobian @ jacobian.T, residual)
    unit = problem.torch_lr(1.0)  # from units of the largest curvature to parameters
    sgd = ss.SGD(lr, momentum, SIZE)
    options = {"record": 1, "observe": "distance"}

    every = [descend(jacobian, residual, problem, lr, momentum, drawn)
             for drawn in itertools.product(BATCHES, repeat=STEPS)]  # fmt: skip
    averaged = ss.simulate(problem, sgd, ss.BatchAveraged(0.0), STEPS, **options)
    np.testing.assert_allclose(averaged["distance"].values.ravel() * unit, np.mean(every, 0), rtol=1e-11)

    sampled = ss.simulate(problem, sgd, ss.SampledLinearized(), 20, replicates=2, seed=9, **options)
    keys = ss.sampling.replicate_keys(9, 2)
    ((_, drawn, _),) = batches.batch_blocks(sgd, POINTS, keys, 0, 20)
    for replicate in range(2):
        path = descend(jacobian, residual, problem, lr, momentum, drawn[replicate])
        np.testing.assert_allclose(sampled["distance"].values[0, replicate] * unit, path, rtol=1e-9, atol=1e-13)


def test_full_batch_in_every_regime_of_a_network():
    """A linear network is its linearisation; all regimes agree at b = N."""
    network = ss.networks.MLP(width=4, depth=0, seed=2)
    problem = ss.NetworkProblem(network, ss.datasets.load("digits", 8, 0), device="cpu")
    sgd = ss.SGD(0.5, 0.3, 8)
    regimes = [ss.RealNetwork(), ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()]
    curves = [ss.simulate(problem, sgd, regime, 30, observe="distance")["distance"].values[0, 0] for regime in regimes]
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-7)


@pytest.mark.parametrize("options", [{"method": "nesterov", "momentum": 0.5}, {"average": "ema:0.9"}])
def test_other_methods_and_averages(options):
    """Σ d_k with d_k = c_k/(Nλ_k), L = ½ Σ λ_k d_k."""
    problem = ss.QuadraticProblem.power_law(10, 1.2, 0.7)
    sgd = ss.SGD(0.3, batch_size=2, **options)
    for regime in (ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()):
        run = ss.simulate(problem, sgd, regime, 40, observe=["moments", "distance"])
        terms = run["moments"].values / (10 * problem.eigenvalues)
        np.testing.assert_allclose(run["distance"].values, terms.sum(-1), rtol=1e-12)
        np.testing.assert_allclose(run["loss"].values, 0.5 * (terms * problem.eigenvalues).sum(-1), rtol=1e-10)


def test_modes_that_never_move_are_left_out():
    spectrum = ss.Spectrum(np.array([1.0, 0.5, 0.0]))
    problem = ss.QuadraticProblem(spectrum, np.array([1.0, 2.0, 3.0]))
    run = ss.simulate(problem, ss.SGD(0.1), ss.SpectralDiagonal(), 1, observe="distance")
    assert run["distance"].values[0, 0, 0] == pytest.approx((1 + 4 / 0.5) / 3, rel=1e-14)


def test_adam_is_measured_to_its_nearest_optimum():
    """The distance of δ to the plane of all δ with the residual removed, of which Adam's is not the point nearest 0."""
    from sgdsim.regimes import _sampled_rules

    network = ss.networks.MLP(width=3, depth=1, seed=2)
    problem = ss.NetworkProblem(network, ss.datasets.load("digits", 6, 0), device="cpu")
    sgd = ss.SGD(0.01, batch_size=3, method="adam")
    run = ss.simulate(problem, sgd, ss.SampledLinearized(), 10, record=1, seed=4, observe="distance")
    state = _sampled_rules.State(problem, sgd, sgd.rule, ss.sampling.replicate_keys(4, 1), False)
    jacobian = state.jacobian.numpy()
    for step, told in enumerate(run["distance"].values[0, 0]):
        away = np.linalg.lstsq(jacobian, state.residual.numpy() + jacobian @ state.moved[0].numpy(), rcond=None)[0]
        assert told * problem.quadratic.torch_lr(1.0) == pytest.approx(away @ away, rel=1e-8)
        state.advance(step, step + 1)
