"""The linearised regimes on the quadratic model of cross-entropy, against SGD in parameters on that model."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.algorithm.batches import batch_blocks
from sgdsim.algorithm.draws import replicate_keys
from sgdsim.common.checks import InputError
from tests.cross_entropy import C, N, linearised, model, problem, taylor

LINEARISED = (ss.SampledLinearized(), ss.BatchAveraged(tolerance=0.0), ss.SpectralDiagonal())


def run(of, sgd, regime, n_steps=8, observe=("loss",), **options):
    return ss.simulate(of, sgd, regime, n_steps, record=1, observe=observe, **options)


@functools.cache
def expanded(of):
    f0, jacobian = linearised(of, of.data.x)
    return jacobian, taylor(f0, torch.tensor(of.data.y))


def literal(of, sgd, batches, lr):
    """The model's losses, (T + 1,), along SGD on δ by autograd, on batches of points (T, b)."""
    (jacobian, parts), velocity = expanded(of), 0.0
    delta, losses = torch.zeros(jacobian.shape[2], dtype=torch.float64), []
    for batch in [*batches, None]:
        losses.append(model(parts, jacobian @ delta).item())
        if batch is None:
            break
        own = delta.clone().requires_grad_()
        b = torch.tensor(np.asarray(batch), dtype=torch.int64)
        model(tuple(part[b] for part in parts), jacobian[b] @ own).backward()
        velocity = sgd.momentum * velocity - lr * own.grad
        delta = delta + velocity
    return losses


@pytest.mark.parametrize("outputs", [1, 2, C])
def test_sampled_runs_are_sgd_in_parameters_on_the_model(outputs):
    of, sgd, steps = problem(outputs), ss.SGD(0.8, 0.5, 2), 6
    found = run(of, sgd, ss.SampledLinearized(), steps, replicates=2, seed=5)["loss"].values[0]
    lr = of.quadratic.torch_lr(sgd.lr)
    (_, batches, _), *rest = batch_blocks(sgd, N, replicate_keys(5, 2), 0, steps)
    assert not rest
    for replicate in range(2):
        expected = literal(of, sgd, batches[replicate], lr)
        np.testing.assert_allclose(found[replicate], expected, rtol=1e-9)


@pytest.mark.parametrize("regime", LINEARISED, ids=lambda regime: regime.name)
def test_full_batches_are_gradient_descent_on_the_model(regime):
    of, sgd = problem(), ss.SGD(1.1, 0.3, N)
    expected = literal(of, sgd, [range(N)] * 4, of.quadratic.torch_lr(1.1))
    np.testing.assert_allclose(run(of, sgd, regime, 4)["loss"].values.ravel(), expected, rtol=1e-9)


@pytest.mark.parametrize("outputs", [2, C])
def test_the_average_is_that_of_all_batches(outputs):
    of, sgd = problem(outputs), ss.SGD(0.7, 0.4, 2)
    every = itertools.product(itertools.combinations(range(N), 2), repeat=2)
    lr = of.quadratic.torch_lr(sgd.lr)
    expected = np.mean([literal(of, sgd, batches, lr) for batches in every], axis=0)
    found = run(of, sgd, ss.BatchAveraged(), 2)["loss"].values.ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_all_regimes_start_alike_and_the_network_is_followed_to_first_order():
    of = problem()
    observe = ("loss", "test_loss")
    starts = [
        run(of, ss.SGD(0.1, 0.0, 2), regime, 1, observe).isel(step=0) for regime in (ss.RealNetwork(), *LINEARISED)
    ]
    for name in observe:
        np.testing.assert_allclose([one[name].item() for one in starts], starts[0][name].item(), rtol=1e-9)
    gaps = []
    for lr in (2e-3, 1e-3):
        sgd = ss.SGD(lr, 0.0, 2)
        network, sampled = (run(of, sgd, regime, 4, observe, seed=2) for regime in (ss.RealNetwork(), LINEARISED[0]))
        moved = network["loss"].values[..., 0] - network["loss"].values[..., -1]
        gaps.append([np.abs(network[name].values - sampled[name].values)[..., -1].item() for name in observe])
        assert abs(moved.item()) > 100 * gaps[-1][0]
    for coarse, fine in zip(*gaps, strict=True):
        assert 3 < coarse / fine < 5  # the network's own curvature and the loss's: of second order at least


def test_accuracy_and_moments_are_those_of_the_outputs():
    of, sgd = problem(), ss.SGD(0.02, 0.0, 2)
    observe = ("accuracy", "test_accuracy", "moments")
    network, sampled = (run(of, sgd, regime, 5, observe, seed=1) for regime in (ss.RealNetwork(), LINEARISED[0]))
    for name in observe[:2]:
        np.testing.assert_array_equal(network[name], sampled[name])
    np.testing.assert_allclose(network["moments"], sampled["moments"], rtol=0.02, atol=1e-4)
    model_loss = sampled["moments"].sum("mode") / (2 * N) + of.quadratic.loss_offset
    np.testing.assert_allclose(sampled["loss"], model_loss, rtol=1e-9)


def test_the_network_trains_with_the_loss_of_its_problem():
    of, sgd = problem(), ss.SGD(0.5, 0.3, 2)
    assert ss.RealNetwork().name == "network"
    own, named = (
        run(of, sgd, regime, 5)["loss"].values for regime in (ss.RealNetwork(), ss.RealNetwork(loss="cross-entropy"))
    )
    np.testing.assert_array_equal(own, named)
    with pytest.raises(InputError, match="loss: expected the problem's, cross-entropy, got squared"):
        run(of, sgd, ss.RealNetwork(loss="squared"))


def test_sweeps_over_problems_keep_each_offset():
    made = {1: problem(), 2: problem(2)}
    grid = ss.Grid.product(outputs=[1, 2], lr=[0.1, 0.2], momentum=[0.0], batch_size=[2])
    found = ss.sweep(lambda outputs: made[outputs], grid, [ss.SpectralDiagonal(), ss.RealNetwork()], 3)
    offsets = found["loss_offset"].sel(regime="diagonal:tau=1").values.reshape(2, 2)
    np.testing.assert_array_equal(offsets, np.repeat([[made[1].loss_offset], [made[2].loss_offset]], 2, axis=1))
    assert found["loss_offset"].sel(regime="network").isnull().all()


def test_what_is_refused():
    of = problem(1)
    for sgd, message in (
        (ss.SGD(0.1, 0.0, 2, label_noise=0.1), "label_noise: expected 0 with cross-entropy"),
        (ss.SGD(0.1, 0.0, 2, sampling="one-pass"), "one-pass is of the squared loss"),
        (ss.SGD(0.1, 0.0, 2, method="adam"), "adam is followed on the linearised parameters with the squared loss"),
    ):
        with pytest.raises(InputError, match=message):
            run(of, sgd, ss.SampledLinearized())
