"""How far a network's kernel moves while a recommended setting is verified, against a loop in plain PyTorch."""

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.algorithm import batches, draws
from sgdsim.studies import verification


def jacobian(network, x):
    rows = []
    for point in x:
        network.zero_grad()
        network(point[None]).sum().backward()
        rows.append(torch.cat([p.grad.ravel() for p in network.parameters()]))
    return torch.stack(rows)


def test_the_kernel_moves_as_in_a_plain_loop():
    data = ss.datasets.load("digits", 12, 0, n_test=0)
    network = ss.networks.MLP(width=10, seed=1).build(data.d).double()
    problem = ss.NetworkProblem(network, data, device="cpu")
    options = {"batch_size": 3, "horizon": 7, "replicates": 2, "seed": 5}
    found = verification.verify(problem, 0.8, 0.5, regimes=[ss.RealNetwork()], plain_lr=1e9, **options)
    assert found.kernel_points == 12
    (regime,) = found.regimes
    x, y = torch.tensor(data.x), torch.tensor(data.y)
    began = jacobian(network, x)
    sgd = ss.SGD(0.8, 0.5, 3)
    ((_, indices, _),) = batches.batch_blocks(sgd, 12, draws.replicate_keys(5, 1), 0, 7)
    optimizer = torch.optim.SGD(network.parameters(), problem.quadratic.torch_lr(0.8), momentum=0.5)
    for batch in indices[0]:
        optimizer.zero_grad()
        (0.5 * (network(x[batch]).ravel() - y[batch]) ** 2).mean().backward()
        optimizer.step()
    ended = jacobian(network, x)
    first, last = began @ began.T, ended @ ended.T
    assert regime.kernel_moved[0] == pytest.approx(float((last - first).norm() / first.norm()), rel=1e-9)
    assert np.isnan(regime.kernel_moved[-1])  # diverged
    told = [point["kernel_moved"] for point in found.as_dict()["regimes"]["network"]["points"]]
    assert told == [*regime.kernel_moved[:-1], None]
