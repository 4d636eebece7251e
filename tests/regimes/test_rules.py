"""Gradient rules on the network and on the linearised one: against torch's optimizers, and who may follow them."""

import copy
import json

import naive
import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import cli, sampling
from sgdsim.algorithm.rules import RULES, Polyak
from sgdsim.algorithm.schedules import Power, Steps
from sgdsim.common.checks import InputError
from sgdsim.regimes import _sampled_rules
from sgdsim.theory import stability


@pytest.fixture(scope="module")
def linear() -> ss.NetworkProblem:
    """A network that is its own linearisation."""
    torch.manual_seed(0)
    data = ss.datasets.load("digits", n=30, seed=0, n_test=10)
    return ss.NetworkProblem(torch.nn.Sequential(torch.nn.Linear(64, 1)).double(), data)


@pytest.fixture(scope="module")
def curved() -> ss.NetworkProblem:
    """A network that is not, with a parameter that is a single number."""

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = torch.nn.Sequential(torch.nn.Linear(64, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
            self.scale = torch.nn.Parameter(torch.tensor(1.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * self.inside(x)

    torch.manual_seed(1)
    return ss.NetworkProblem(Scaled().double(), ss.datasets.load("digits", n=30, seed=0, n_test=10))


POLYAK = [("polyak", 0.0, 1e15), ("polyak:floor=0.05,maximum=0.01", 0.05, 0.01)]
CASES = [("linear", ss.SampledLinearized()), ("linear", ss.RealNetwork()), ("curved", ss.RealNetwork())]


ADAMS = {
    "adam:beta1=0.8,beta2=0.99": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.99)),
    "adamw:beta1=0.8,weight_decay=0.5": lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.999), weight_decay=0.5),
}


@pytest.mark.parametrize(
    ("method", "label_noise"), [*((method, 0.0) for method in ADAMS), ("adam:beta1=0.8,beta2=0.99", 0.5)]
)
@pytest.mark.parametrize(("which", "regime"), CASES)
def test_adam_is_that_of_torch_on_the_same_batches(request, which, regime, method, label_noise):
    linear = request.getfixturevalue(which)
    steps, sgd = 40, ss.SGD(0.02, batch_size=4, method=method, label_noise=label_noise)
    options = {"record": 1, "replicates": 2, "seed": 3, "observe": "test_loss"}
    run = ss.simulate(linear, sgd, regime, steps, **options)
    keys = sampling.replicate_keys(3, 2)
    batches = sampling.minibatch_indices(30, np.full(steps, 4), 0, steps, keys)
    errors = label_noise * sampling.label_errors(0, steps, 4, keys)
    data = linear.data
    x, y = torch.as_tensor(data.x), torch.as_tensor(data.y)
    for r in range(2):
        network = copy.deepcopy(linear.network)
        optimizer = ADAMS[method](network.parameters())
        for t in range(steps + 1):
            with torch.no_grad():
                for name, inputs, targets in (("loss", x, y), ("test_loss", data.x_test, data.y_test)):
                    f = network(torch.as_tensor(inputs))[:, 0]
                    expected = 0.5 * float(((f - torch.as_tensor(targets)) ** 2).mean())
                    assert float(run[name].values[0, r, t]) == pytest.approx(expected, rel=1e-9)
            if t < steps:
                chosen = batches[r, t]
                optimizer.zero_grad()
                target = y[chosen] + torch.as_tensor(errors[r, t])
                (0.5 * ((network(x[chosen])[:, 0] - target) ** 2).mean()).backward()
                optimizer.step()


def test_the_jacobian_makes_the_kernel(digits_network):
    j = _sampled_rules.jacobian(digits_network, digits_network.data.x).numpy()
    quadratic = digits_network.quadratic
    np.testing.assert_allclose(j @ j.T / quadratic.spectrum.scale, quadratic.kernel, atol=1e-10)


@pytest.mark.parametrize("regime", [ss.BatchAveraged(), ss.SpectralDiagonal()])
def test_no_other_regime_follows_it(linear, regime):
    with pytest.raises(InputError, match="method: adam is not linear in the gradient"):
        ss.simulate(linear, ss.SGD(0.01, batch_size=4, method="adam"), regime, 3)


def test_it_needs_parameters(tiny):
    with pytest.raises(InputError, match="adam needs the parameters of a network"):
        ss.simulate(tiny, ss.SGD(0.01, batch_size=2, method="adam"), ss.SampledLinearized(), 3)
    with pytest.raises(InputError, match="momentum: expected 0 with adam"):
        ss.SGD(0.01, 0.5, method="adam")
    with pytest.raises(InputError, match="adam: beta1: expected a number below 1"):
        ss.SGD(0.01, method="adam:beta1=1")


@pytest.mark.parametrize("method", RULES)
def test_a_linear_network_is_its_linearisation(linear, method):
    sgd = ss.SGD(Power(0.05, 0.5), batch_size=Steps(2, 2, 10, 9), method=method, label_noise=0.3)
    options = {"record": 1, "replicates": 3, "seed": 5, "observe": ["loss", "test_loss", "moments"]}
    network, linearised = (
        ss.simulate(linear, sgd, regime, 40, **options) for regime in (ss.RealNetwork(), ss.SampledLinearized())
    )
    for what in options["observe"]:
        np.testing.assert_allclose(network[what], linearised[what], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("regime", [ss.RealNetwork(), ss.SampledLinearized()])
def test_how_a_run_is_cut_changes_no_bit(linear, regime, method, monkeypatch):
    """Recorded steps, the company of other replicates and replicates that are trained apart: not one bit."""
    sgd = ss.SGD(0.1, batch_size=4, method=method)
    every, last = (ss.simulate(linear, sgd, regime, 20, record=r, replicates=3, seed=2) for r in (1, [20]))
    np.testing.assert_array_equal(every["loss"].sel(step=20), last["loss"].sel(step=20))
    alone = ss.simulate(linear, sgd, regime, 20, record=[20], replicates=1, seed=2)
    np.testing.assert_allclose(alone["loss"].values[0, 0], last["loss"].values[0, 0], rtol=1e-12)
    monkeypatch.setattr("sgdsim.regimes._training._TOGETHER", 1)
    apart = ss.simulate(linear, sgd, regime, 20, record=[20], replicates=3, seed=2)
    np.testing.assert_allclose(apart["loss"], last["loss"], rtol=1e-12)


def test_the_rest_goes_on_when_a_replicate_is_left_out(linear):
    """`keep` of the network, in the middle of a run."""
    sgd, regime = ss.SGD(0.1, batch_size=4, method="adam"), ss.RealNetwork()
    runs = [regime.start(linear, sgd, replicates=3, seed=2, test=False) for _ in range(2)]
    for run in runs:
        run.advance(0, 10)
    assert runs[0].keep(np.array([0, 2]))
    for run in runs:
        run.advance(10, 20)
    kept, whole = (run.observe(("loss",))["loss"] for run in runs)
    np.testing.assert_allclose(kept, whole[[0, 2]], rtol=1e-12)


@pytest.mark.parametrize(
    ("sgd", "regime", "words"),
    [
        (ss.SGD(0.1, method="adam", average="ema:0.9"), ss.RealNetwork(), "without averages"),
        (ss.SGD(0.1, method="adam", sampling="one-pass"), ss.SampledLinearized(), "on the data set's batches"),
        (ss.SGD(0.1, method="adam"), ss.RealNetwork(compile=True), "compile: expected False with adam"),
    ],
)
def test_what_a_rule_does_not_go_with(linear, sgd, regime, words):
    with pytest.raises(InputError, match=words):
        ss.simulate(linear, sgd, regime, 3)


def test_no_theory(tiny):
    with pytest.raises(InputError, match="method: expected one that is linear in the gradient, got adam"):
        ss.SGD(0.1, method="adam").maps(0, 1)
    with pytest.raises(InputError, match="do not change in time"):
        stability.max_lr(tiny, ss.SGD(0.1, method="adam"))


# Polyak's step.


def jacobian_and_start(problem):
    return _sampled_rules.jacobian(problem, problem.data.x).numpy(), problem.quadratic.residual


@pytest.mark.parametrize("regime", [ss.RealNetwork(), ss.SampledLinearized()])
@pytest.mark.parametrize(("method", "floor", "maximum"), POLYAK)
def test_polyak_equals_its_twin(linear, regime, method, floor, maximum):
    steps, sgd = 30, ss.SGD(0.8, batch_size=4, method=method, label_noise=0.2)
    run = ss.simulate(linear, sgd, regime, steps, record=1, replicates=2, seed=3)
    keys = sampling.replicate_keys(3, 2)
    batches = sampling.minibatch_indices(30, np.full(steps, 4), 0, steps, keys)
    errors = 0.2 * sampling.label_errors(0, steps, 4, keys)
    jacobian, residual = jacobian_and_start(linear)
    for r in range(2):
        losses = naive.polyak(jacobian, residual, 0.8, batches[r], errors[r], floor, maximum)
        np.testing.assert_allclose(run["loss"].values[0, r], losses, rtol=1e-9)


def test_twice_polyaks_step_is_best_at_full_batch(linear):
    """A quadratic that can be fitted: the distance to the optimum falls by exactly 1 − cos², cos the angle between
    gradient and way."""
    jacobian, residual = jacobian_and_start(linear)
    way = -np.linalg.pinv(jacobian, rcond=1e-10) @ residual  # to the closest optimum
    assert np.allclose(jacobian @ way, -residual, atol=1e-9)
    sgd = ss.SGD(2.0, batch_size=30, method="polyak")
    run = ss.SampledLinearized().start(linear, sgd, replicates=1, seed=0, test=False)
    for step in range(5):
        left = way - run.moved[0].numpy()
        gradient = jacobian.T @ -(jacobian @ left) / 30
        cosine = -gradient @ left / np.linalg.norm(gradient) / np.linalg.norm(left)
        run.advance(step, step + 1)
        after = way - run.moved[0].numpy()
        assert after @ after == pytest.approx(left @ left * (1 - cosine**2), rel=1e-9)


@pytest.mark.parametrize("regime", [ss.RealNetwork(), ss.SampledLinearized()])
def test_twice_polyaks_step_fits_a_single_point(linear, regime):
    """Kaczmarz: η = 1/‖j_i‖², and the residual of the point is 0."""
    jacobian, residual = jacobian_and_start(linear)
    point = sampling.minibatch_indices(30, np.ones(1), 0, 1, sampling.replicate_keys(0, 1))[0, 0, 0]
    after = residual - jacobian @ jacobian[point] / (jacobian[point] @ jacobian[point]) * residual[point]
    run = ss.simulate(linear, ss.SGD(2.0, method="polyak"), regime, 1, replicates=1, seed=0)
    assert abs(after[point]) < 1e-12
    np.testing.assert_allclose(run["loss"].values[0, 0, -1], (after**2).mean() / 2, rtol=1e-10)


def test_no_gradient_no_step():
    """Nor from a batch at its floor."""
    rule, parameters = Polyak(floor=0.5), torch.ones((3, 2), dtype=torch.float64)
    gradient = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]], dtype=torch.float64)
    moved, _ = rule.update(parameters, (), gradient, torch.tensor([1.0, 0.3, 0.6]), 0, 1.0)
    np.testing.assert_allclose(moved, [[1, 1], [1, 1], [0.98, 0.96]], rtol=1e-6)


def test_polyak_is_asked_for_in_words(capsys):
    words = ["compare", "--n", "20", "--width", "5", "--n-steps", "5", "--replicates", "2", "--batch-size", "2"]
    words += ["--regimes", "network", "sampled", "--method", "polyak:maximum=3", "--lr", "1", "--momentum", "0"]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "The lr of polyak is the factor of Polyak's step." in text
    assert "torch" not in text
    assert cli.main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["method"], row["torch_lr"]) == ("polyak:maximum=3", None)
    with pytest.raises(InputError, match="momentum: expected 0 with polyak"):
        ss.SGD(1.0, 0.5, method="polyak")
    for bad in ("floor=-1", "maximum=0"):
        with pytest.raises(InputError, match=f"polyak: {bad[:5]}"):
            ss.SGD(1.0, method=f"polyak:{bad}")


def test_inputs_may_be_tokens():
    """Tiny steps of a linearised network with an embedding follow the network."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.Flatten(), torch.nn.Linear(12, 1))
    random = np.random.default_rng(0)
    data = ss.Dataset(random.integers(0, 9, (20, 4)), random.standard_normal(20), "words", tokens=True)
    problem = ss.NetworkProblem(network, data, device="cpu")
    sgd = ss.SGD(1e-7, batch_size=6, method="adamw")
    regimes = ss.SampledLinearized(), ss.RealNetwork()
    moves = [np.diff(ss.simulate(problem, sgd, regime, 3, record=1)["loss"].values[0, 0]) for regime in regimes]
    np.testing.assert_allclose(moves[0], moves[1], rtol=1e-3)
