"""`sgdsim.recommend`, and the optimiser that is to be pasted, in PyTorch itself."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.studies import method_recommendation, probing, recommendation
from sgdsim.studies.advice import Answer


@pytest.fixture(scope="module")
def three():
    """Three outputs."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3))
    data = ss.Dataset(rng.standard_normal((12, 4)), rng.standard_normal((12, 3)), "three")
    return ss.NetworkProblem(network, data, device="cpu")


def test_a_network_problem_is_tried_and_a_quadratic_one_is_not(three):
    found = ss.recommend(three, 4, 30, seed=1)
    theory = recommendation.recommend(three.quadratic, ss.SGD(1.0, 0.0, 4), 30)
    assert found.known.best == theory.known.best  # theory's own answer does not change
    assert found.probe is not None
    first = found.probe.tried[0]
    assert (first.lr, first.momentum) == (theory.known.best.lr, theory.known.best.momentum)
    assert found.probe.chosen is None or found.answer == Answer(
        found.probe.chosen.lr, found.probe.chosen.momentum, found.probe.chosen.predicted
    )
    alone = ss.recommend(three.quadratic, ss.SGD(0.1, 0.5, 4), 30)
    assert alone.probe is None
    assert alone.answer == Answer(theory.known.best.lr, theory.known.best.momentum, theory.known.best.loss)
    assert alone.as_dict()["probe"] is None
    assert ss.recommend(three, 4, 30, probe=False).probe is None


def test_other_methods_are_found_as_well():
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0)
    sgd = ss.SGD(1.0, batch_size=5, method="nesterov")
    found = ss.recommend(problem, sgd, 30)
    assert found.lr == method_recommendation.recommend(problem, sgd, 30).lr
    assert ("nesterov=True" in found.torch_line()) == (found.answer.momentum > 0)


def test_with_weight_decay_a_network_is_tried_too(three):
    sgd = ss.SGD(1.0, 0.0, 4, weight_decay=0.01)
    found, alone = ss.recommend(three, sgd, 30), ss.recommend(three, sgd, 30, probe=False)
    assert alone.probe is None
    assert alone.answer == Answer(alone.lr, alone.best.momentum, alone.loss)
    first = found.probe.tried[0]
    assert (first.lr, first.momentum) == (alone.lr, alone.best.momentum)
    assert first.predicted == pytest.approx(alone.loss, rel=1e-6)
    assert found.as_dict()["probe"]["tried"][0]["lr"] == first.lr
    failed = replace(first, ratios=(math.inf, 1.0, 1.0))
    lowered = replace(
        found, probe=probing.Probe((failed, replace(first, lr=first.lr / 2, growth=1.0, ratios=(1.0,) * 3)), 30)
    )
    assert lowered.answer.lr == lowered.torch_lr() / three.quadratic.torch_lr(1.0) == first.lr / 2
    assert [row[0] for row in lowered.table().rows] == ["recommended by the probe", "heavy-ball"]
    refused = replace(found, probe=probing.Probe((failed,), 30))
    assert refused.answer is refused.torch_line() is refused.as_dict()["torch"] is None
    assert ss.recommend(three, ss.SGD(1.0, 0.0, 4, method="nesterov"), 30).probe is None


def answered(problem, lr, momentum, **options):
    """A recommendation of this setting."""
    found = recommendation.recommend(problem, ss.SGD(1.0, 0.0, 4, **options), 30)
    best = replace(found.known.best, lr=lr, momentum=momentum)
    return replace(found, known=replace(found.known, best=best))


@pytest.mark.parametrize("momentum", [0.0, 0.6, -0.3])
def test_the_lines_take_the_same_steps(three, momentum):
    found, x, y = answered(three.quadratic, 0.5, momentum), torch.tensor(three.data.x), torch.tensor(three.data.y)
    losses = {"half-mse": lambda f: 0.5 * ((f - y) ** 2).sum(1).mean(), "mse": lambda f: torch.nn.MSELoss()(f, y)}
    ended = []
    for name, loss in losses.items():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3)).double()
        optimizer = eval(found.torch_line(name))
        assert optimizer.param_groups[0]["momentum"] == momentum
        for _ in range(4):
            optimizer.zero_grad()
            loss(net(x)).backward()
            optimizer.step()
        ended.append(losses["half-mse"](net(x)).item())
    assert ended[0] == pytest.approx(ended[1], rel=1e-3)
    run = ss.simulate(three, ss.SGD(0.5, momentum, 12), ss.RealNetwork(), 4)["loss"].isel(step=-1).item()
    assert ended[0] == pytest.approx(run, rel=1e-3)
    facts = found.as_dict()["torch"]
    assert facts["mse"] == {"lr": 1.5 * three.quadratic.torch_lr(0.5), "line": found.torch_line("mse")}


def test_an_unknown_loss_is_refused(three):
    found = answered(three.quadratic, 0.5, 0.0)
    with pytest.raises(ss.InputError, match="loss: expected"):
        found.torch_line("cross-entropy")


def test_infinitely_many_points_have_no_optimiser():
    assert ss.recommend(ss.QuadraticProblem.power_law(np.inf, 1.5, 1.0), 1, 30).torch_line() is None
