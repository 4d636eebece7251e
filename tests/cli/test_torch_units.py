"""Learning rates in torch's units: of nn.MSELoss and of half of it, against what torch itself does."""

import json

import numpy as np
import pytest
import torch

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "20"]
LOSSES = {"half-mse": lambda f, y: 0.5 * ((f - y) ** 2).sum(1).mean(), "mse": torch.nn.MSELoss()}


def settles(features, targets, loss, lr):
    """Whether full-batch gradient descent by torch on a linear model ends below where it began."""
    weights = torch.zeros(features.shape[1], targets.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=lr)
    first = None
    for _ in range(300):
        optimizer.zero_grad()
        now = loss(features @ weights, targets)
        first = now.item() if first is None else first
        now.backward()
        optimizer.step()
    return now.item() < first


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_torch_itself_is_stable_below_and_not_above(run, loss, outputs):
    rng = np.random.default_rng(3)
    features, targets = rng.standard_normal((6, 9)), rng.standard_normal((6, outputs))
    np.savez("k.npz", kernel=features @ features.T, targets=targets if outputs > 1 else targets[:, 0])
    words = ["stability", "--kernel", "k.npz", "--batch-size", "6", "--momentum", "0", "--torch-loss", loss, "--json"]
    found = json.loads(run(*words))
    edge = found["rows"][0]["full_batch"] * found["torch_lr_per_alpha"]
    for factor, stable in ((0.98, True), (1.02, False)):
        (answer,) = json.loads(run(*words, "--torch-lr", repr(factor * edge)))["asked"]
        assert answer["stable"] is stable
        assert answer["torch_lr"] == pytest.approx(factor * edge, rel=1e-12)
        assert settles(torch.tensor(features), torch.tensor(targets), LOSSES[loss], factor * edge) is stable


def test_the_answer_is_in_a_table(run):
    words = ["stability", *POWER, "--batch-size", "4", "--momentum", "0,0.9"]
    lines = run(*words, "--torch-lr", "10,100", "--torch-loss", "mse").splitlines()
    at = next(i for i, line in enumerate(lines) if line.split() == ["torch", "lr", "lr", "batch", "momentum", "stable"])
    assert [line.split() for line in lines[at + 2 : at + 6]] == [
        ["10", "1", "4", "0", "yes"],
        ["10", "1", "4", "0.9", "no"],
        ["100", "10", "4", "0", "no"],
        ["100", "10", "4", "0.9", "no"],
    ]
    assert "the same for torch.optim.SGD on nn.MSELoss" in lines
    assert "torch.optim.SGD on" not in run(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*POWER, "--torch-lr", "0"], "torch_lr"),
        ([*POWER, "--torch-lr", "-1"], "torch_lr"),
        ([*POWER, "--torch-loss", "l1"], "half-mse"),
    ],
)
def test_refused(run, words, said):
    assert said in run("stability", *words, code=2)
