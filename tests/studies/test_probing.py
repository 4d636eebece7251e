"""Recommendations tried on the network: against a loop in plain PyTorch, and what is done where theory fails there."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.algorithm import batches, draws
from sgdsim.networks.sharpness import Sharpness
from sgdsim.studies import probing
from sgdsim.theory import stability


@pytest.fixture(scope="module")
def linear():
    """A linear model, which is its own linearisation."""
    data = ss.datasets.load("digits", 40, 0, n_test=0)
    return ss.NetworkProblem(ss.networks.MLP(depth=0, seed=1).build(data.d), data, device="cpu")


@pytest.fixture(scope="module")
def narrow():
    data = ss.datasets.load("digits", 40, 0, n_test=0)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(data.d, 12), torch.nn.ReLU(), torch.nn.Linear(12, 1))
    return ss.NetworkProblem(network, data, device="cpu")


@pytest.mark.parametrize("outputs", [1, 3])
def test_sharpness_is_the_top_of_the_tangent_kernel(outputs):
    torch.manual_seed(2)
    network = torch.nn.Sequential(torch.nn.Linear(5, 9), torch.nn.Tanh(), torch.nn.Linear(9, outputs))
    x = np.random.default_rng(0).standard_normal((20, 5))
    sharpness = Sharpness(x, outputs)
    for _ in range(2):
        theta = ss.ntk.empirical_ntk(network, x, output="full")
        top = np.linalg.eigvalsh(theta.transpose(0, 2, 1, 3).reshape(20 * outputs, -1))[-1] / 20
        assert sharpness.of(network) == pytest.approx(top, rel=1e-2)
        with torch.no_grad():  # goes on from the last eigenvector
            for p in network.parameters():
                p.mul_(torch.rand_like(p) + 0.7)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_a_probe_is_a_plain_loop_beside_theory(narrow, weight_decay):
    lr, momentum, horizon = 0.3, 0.5, 24
    sgd = ss.SGD(lr, momentum, 5, weight_decay=weight_decay)
    found = probing.probe(narrow, sgd, horizon, seed=4)
    first = found.tried[0]
    assert (first.lr, first.momentum, first.steps) == (lr, momentum, horizon)
    x, y = torch.tensor(narrow.data.x), torch.tensor(narrow.data.y)
    looks = np.arange(0, horizon + 1, 2)
    theory = ss.simulate(narrow, sgd, ss.SpectralDiagonal(), horizon, record=looks.tolist())["loss"].values.ravel()
    blocks = batches.batch_blocks(sgd, 40, draws.replicate_keys(4, 3), 0, horizon)
    indices = np.concatenate([block for _, block, _ in blocks], axis=1)
    growth, began = 1.0, None
    for drawn, ratio in zip(indices, first.ratios, strict=True):
        network = copy.deepcopy(narrow.network).double()
        torch_lr = narrow.quadratic.torch_lr(lr)
        optimizer = torch.optim.SGD(network.parameters(), torch_lr, momentum=momentum, weight_decay=weight_decay)
        logs = []
        for step in range(horizon + 1):
            if step in looks and 2 * step >= horizon:
                loss = 0.5 * ((network(x).ravel() - y) ** 2).mean().item()
                logs.append(math.log(loss / theory[list(looks).index(step)]))
            if step % 6 == 0:
                top = np.linalg.eigvalsh(ss.ntk.empirical_ntk(network, narrow.data.x))[-1]
                began = began or top
                growth = max(growth, top / began)
            if step < horizon:
                optimizer.zero_grad()
                (0.5 * (network(x[drawn[step]]).ravel() - y[drawn[step]]) ** 2).mean().backward()
                optimizer.step()
        assert ratio == pytest.approx(math.exp(np.mean(logs)), rel=1e-6)
    assert first.growth == pytest.approx(growth, rel=1e-2)
    assert first.limit == pytest.approx(stability.max_lr(narrow, sgd), rel=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_linear_model_follows_and_is_left_alone(linear, weight_decay):
    found = probing.probe(linear, ss.SGD(0.5, 0.0, 40, weight_decay=weight_decay), 60)
    assert len(found.tried) == 1
    assert found.chosen is found.tried[0]
    assert not found.lowered
    assert found.chosen.growth == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(found.chosen.ratios, 1.0, rtol=1e-6)  # full batches: theory is exact


def test_a_rate_beyond_the_limit_is_lowered(linear):
    found = probing.probe(linear, ss.SGD(3.0, 0.0, 40), 60)
    assert [each.lr for each in found.tried] == [3.0, 1.5]
    assert not found.tried[0].accepted
    assert found.lowered
    assert found.chosen.lr == 1.5
    assert found.chosen.reached == pytest.approx(0.75, abs=0.01)
    facts = found.as_dict()
    assert (facts["accepted"], facts["chosen"], facts["lowered"]) == (True, 1, True)
    assert "follows" in found.table().text()


def test_where_nothing_follows_nothing_is_chosen(linear):
    found = probing.probe(linear, ss.SGD(1e4, 0.0, 40), 60)
    assert found.chosen is None
    assert [each.diverged for each in found.tried] == [3, 3, 3, 3]
    assert found.as_dict()["tried"][0]["ratio"] is None
    best = ss.recommend(linear, 40, 60, probe=False)
    assert best.probe is None
    refused = replace(best, probe=found)
    assert refused.answer is refused.torch_line() is refused.as_dict()["torch"] is None


def test_a_loss_above_the_prediction_is_refused_and_one_below_is_not():
    def tried(*ratios):
        return probing.Probed(0.5, 0.0, 0.1, 50, 1.0, 2.0, ratios)

    assert tried(0.01, 0.02, 0.01).accepted
    assert tried(1.4, 1.5, 1.4).accepted
    assert not tried(1.6, 1.6, 1.6).accepted
    assert not tried(0.5, 0.5, 2.1).accepted  # one run
    assert not tried(0.5, 0.5, math.inf).accepted


def test_lower_settings_have_less_of_one_thing(narrow):
    course = probing._Course(narrow, ss.SGD(0.4, 0.9, 5), 200, 1.0, 0, None)
    limit = float(course.limits(np.array([0.9]))[0])
    tried = [probing.Probed(0.4, 0.9, 0.1, 50, 2.5, limit, (9.0, 9.0, 9.0))]
    settings = list(course.lower(tried))
    assert len(settings) == 5  # with 1 − β sixteen times as large, momentum would be negative
    assert {(lr, m) for lr, m in settings if m == 0.9} == {(0.2, 0.9), (0.1, 0.9), (0.025, 0.9)}
    for lr, momentum in settings:
        if momentum != 0.9:
            assert momentum == pytest.approx(0.8) or momentum == pytest.approx(0.6)
            assert lr * 2.5 <= 0.9 * stability.max_lr(narrow.quadratic, ss.SGD(1.0, momentum, 5)) * (1 + 1e-6)
    losses = [float(course.predicted(200, *setting)) for setting in settings]
    assert losses[0] <= losses[1]
    assert losses[2] <= losses[3]


def test_enough_steps_for_momentum_to_build_up(narrow):
    course = probing._Course(narrow, ss.SGD(0.4, 0.9, 5), 1000, 1.0, 0, None)
    assert [course.steps(momentum) for momentum in (0.0, 0.9, 0.98, 0.999)] == [50, 50, 200, 1000]


def test_where_the_curvature_is_not_known_the_loss_decides():
    unknown = probing.Probed(0.5, 0.0, 0.1, 50, math.nan, 2.0, (1.0, 1.0, 1.0))
    assert unknown.accepted
    assert unknown.as_dict()["growth"] is unknown.as_dict()["reached"] is None
    assert not replace(unknown, ratios=(3.0, 3.0, 3.0)).accepted
    assert "nan" not in probing.Probe((unknown,), 60).table().text()


def test_ctrl_c_leaves_what_was_tried(linear):
    def heard():
        raise KeyboardInterrupt

    found = probing.probe(linear, ss.SGD(3.0, 0.0, 40), 60, heard=heard)
    assert found.interrupted
    assert len(found.tried) == 1
    assert found.chosen is None
