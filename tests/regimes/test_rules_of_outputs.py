"""Gradient rules on the linearised parameters of a network with several outputs, path by path against plain torch."""

import numpy as np
import pytest
import torch
from torch import nn

import sgdsim as ss
from sgdsim import sampling

N, C, STEPS = 12, 3, 25


def problem(module: nn.Module) -> ss.NetworkProblem:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((N + 5, 4)), rng.standard_normal((N + 5, C))
    return ss.NetworkProblem(module.double(), ss.Dataset(x[:N], y[:N], "noise", x[N:], y[N:]), device="cpu")


@pytest.fixture(scope="module")
def curved() -> ss.NetworkProblem:
    torch.manual_seed(0)
    return problem(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, C)))


@pytest.fixture(scope="module")
def shared() -> ss.NetworkProblem:
    """Its outputs share one kernel."""
    torch.manual_seed(0)
    return problem(nn.Linear(4, C))


def linearised(of: ss.NetworkProblem, x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (n, C) at the start, and their derivatives (n, C, P), one at a time."""
    parameters = list(of.network.parameters())
    f = of.network(torch.tensor(x))
    rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in f.ravel()]
    return f.detach(), torch.stack([torch.cat([g.ravel() for g in row]) for row in rows]).reshape(*f.shape, -1)


@pytest.mark.parametrize("which", ["curved", "shared"])
@pytest.mark.parametrize(("method", "label_noise"), [("adam:beta1=0.8,beta2=0.99", 0.4), ("polyak:floor=0.05", 0.0)])
def test_the_path_is_that_of_the_loop(request, which, method, label_noise):
    of = request.getfixturevalue(which)
    sgd = ss.SGD(0.02, batch_size=4, method=method, label_noise=label_noise)
    options = {"record": 1, "replicates": 2, "seed": 3, "observe": ["loss", "test_loss", "moments"]}
    run = ss.simulate(of, sgd, ss.SampledLinearized(), STEPS, **options)
    keys = sampling.replicate_keys(3, 2)
    batches = sampling.minibatch_indices(N, np.full(STEPS, 4), 0, STEPS, keys)
    errors = label_noise * sampling.label_errors(0, STEPS, 4 * C, keys).reshape(2, STEPS, 4, C)
    (f, j), (f_test, j_test) = linearised(of, of.data.x), linearised(of, of.data.x_test)
    y, y_test = torch.tensor(of.data.y), torch.tensor(of.data.y_test)
    for r in range(2):
        moved = torch.zeros(1, j.shape[2], dtype=torch.float64)
        kept = sgd.rule.init(moved)
        for t in range(STEPS + 1):
            residual = f + j @ moved[0] - y
            test = f_test + j_test @ moved[0] - y_test
            losses = (0.5 * (e**2).sum(1).mean().item() for e in (residual, test))
            for name, loss in zip(("loss", "test_loss"), losses, strict=True):
                assert float(run[name].values[0, r, t]) == pytest.approx(loss, rel=1e-9)
            assert run["moments"].values[0, r, t].sum() == pytest.approx(float((residual**2).sum()), rel=1e-9)
            if t < STEPS:
                at = batches[r, t]
                delta = moved.clone().requires_grad_()
                seen = f[at] + j[at] @ delta[0] - y[at] - torch.tensor(errors[r, t])
                loss = 0.5 * (seen**2).sum(1).mean()
                (gradient,) = torch.autograd.grad(loss, delta)
                moved, kept = sgd.rule.update(moved, kept, gradient, loss.detach()[None], t, 0.02)


def test_adam_on_a_linear_module_is_that_of_torch(shared):
    sgd = ss.SGD(0.05, batch_size=4, method="adam")
    run = ss.simulate(shared, sgd, ss.SampledLinearized(), STEPS, record=[STEPS], seed=1)
    network = nn.Linear(4, C).double()
    network.load_state_dict(shared.network.state_dict())
    x, y, optimizer = (
        torch.tensor(shared.data.x),
        torch.tensor(shared.data.y),
        torch.optim.Adam(network.parameters(), 0.05),
    )
    for batch in sampling.minibatch_indices(N, np.full(STEPS, 4), 0, STEPS, sampling.replicate_keys(1, 1))[0]:
        optimizer.zero_grad()
        (0.5 * ((network(x[batch]) - y[batch]) ** 2).sum(1).mean()).backward()
        optimizer.step()
    loss = 0.5 * ((network(x) - y) ** 2).sum(1).mean().item()
    assert float(run["loss"].values[0, 0, -1]) == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("rule", ["adam", "polyak:maximum=1e-6"])
def test_weights_of_points_count_for_all_their_outputs(curved, rule):
    """So tiny steps follow the real network."""
    sgd = ss.SGD(1e-7, batch_size=6, method=rule, sampling="importance")
    runs = [
        ss.simulate(curved, sgd, regime, 3, record=1, seed=2) for regime in (ss.SampledLinearized(), ss.RealNetwork())
    ]
    moves = [np.diff(run["loss"].values[0, 0]) for run in runs]
    np.testing.assert_allclose(moves[0], moves[1], rtol=1e-3)
