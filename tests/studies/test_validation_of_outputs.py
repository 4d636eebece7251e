"""`sgdsim validate` with several outputs: what it measures is that of all of them together."""

import json

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import ntk
from sgdsim.algorithm.draws import replicate_keys
from sgdsim.cli import validate as command
from sgdsim.networks import MLP
from sgdsim.studies import measured_stability as measured
from sgdsim.studies import validation as v
from sgdsim.theory import stability

N, C = 16, 3


def problem(depth: int) -> ss.NetworkProblem:
    rng = np.random.default_rng(0)
    data = ss.Dataset(rng.standard_normal((N, 5)), rng.standard_normal((N, C)), "noise")
    return ss.NetworkProblem(MLP(6, depth, "tanh", seed=1, n_outputs=C), data, device="cpu")


def test_kernel_change_is_that_over_all_outputs():
    of = problem(1)
    found = v.train(of, ss.SGD(0.5, 0.0, 4), 40, replicates=1, seed=2).kernel[-1]
    network = MLP(6, 1, "tanh", seed=1, n_inputs=5, n_outputs=C)
    x, y, parameters = torch.as_tensor(of.data.x), torch.as_tensor(of.data.y), list(network.parameters())
    for batch in ss.sampling.minibatch_indices(N, np.full(40, 4), 0, 40, replicate_keys(2, 1))[0]:
        loss = 0.5 * ((network(x[batch]) - y[batch]) ** 2).sum(1).mean()
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.data -= of.quadratic.torch_lr(0.5) * g
    before, after = (ntk.empirical_ntk(net, of.data.x, output="full") for net in (of.network, network))
    assert found.relative == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-8)
    tops = [np.linalg.eigvalsh(k.transpose(0, 2, 1, 3).reshape(N * C, N * C))[-1] for k in (before, after)]
    assert found.top == pytest.approx(tops[1] / tops[0], rel=1e-8)
    assert found.relative > 0.01


def test_a_linear_network_is_its_linearisation():
    """Its outputs share a kernel: nothing moves, and the largest rates that are measured are the same."""
    of = problem(0)
    run = v.train(of, ss.SGD(0.5, 0.0, 4), 50, replicates=2)
    np.testing.assert_allclose(run.network, run.sampled, rtol=1e-9)
    assert run.kernel[-1].relative == pytest.approx(0, abs=1e-12)
    assert run.kernel[-1].top == pytest.approx(1, rel=1e-12)
    found = measured.thresholds(of, 4, n_steps=60, replicates=2, width=0.2)
    assert found.measured["network"] == found.measured["sampled"]


def test_the_rate_of_the_long_runs_is_half_of_the_lowest_level():
    of = problem(1).quadratic
    assert of.spectrum.n_modes == N * C
    levels = [stability.max_lr(of, ss.SGD(1.0, 0.0, 4), level) for level in stability.LEVELS]
    assert v.safe_lr(of, 4) == pytest.approx(min(levels) / 2, rel=5e-3)


def test_command(run, tmp_path):
    small = ["--n", "12", "--widths", "20", "--batch-size", "4", "--n-steps", "40", "--replicates", "1"]
    small += ["--only", "training", "--targets", "one-hot"]
    out = run("validate", *small, "--out", "found.json", "--plot", "found.png")
    assert "digits, 10 outputs" in out
    (cell,) = json.loads((tmp_path / "found.json").read_text())["cells"]
    assert cell["network"]["n_outputs"] == 10
    assert cell["training"]["kernel"][-1]["relative"] > 0
    refused = run("validate", *small, "--n", "500", code=2)
    assert "at most 4000 modes" in refused
    assert "--n 400" in refused


def test_cells_of_one_and_of_several_outputs_stand_apart():
    cell = {"dataset": "digits", "n": 12, "batch_size": 4, "momentum": 0.0, "seed": 0}
    cells = [cell | {"network": {"width": 5} | more} for more in ({}, {"n_outputs": 10})]
    assert len(command.join([cells])) == 2
