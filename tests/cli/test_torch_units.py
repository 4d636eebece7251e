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


def saved(outputs):
    """Features and targets of a linear model, whose kernel is then in k.npz."""
    rng = np.random.default_rng(3)
    features, targets = rng.standard_normal((6, 9)), rng.standard_normal((6, outputs))
    np.savez("k.npz", kernel=features @ features.T, targets=targets if outputs > 1 else targets[:, 0])
    return features, targets


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_torch_itself_is_stable_below_and_not_above(run, loss, outputs):
    features, targets = saved(outputs)
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


def trained(features, targets, loss, steps, **how):
    """Half the mean square after `steps` full-batch steps of torch on a linear model from 0."""
    weights = torch.zeros(features.shape[1], targets.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weights], **how)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(features @ weights, targets).backward()
        optimizer.step()
    return LOSSES["half-mse"](features @ weights, targets).item()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_run_at_a_rate_of_torch_is_that_of_torch(run, loss, outputs):
    features, targets = saved(outputs)
    words = ["--kernel", "k.npz", "--batch-size", "6", "--n-steps", "40", "--torch-loss", loss, "--momentum", "0.5"]
    words += ["--weight-decay", "0.05", "--json"]
    told = json.loads(run("compare", *words, "--torch-lr", "0.02,0.1", "--regime", "diagonal"))
    assert told["torch_loss"] == loss
    for row, lr in zip(told["rows"], (0.02, 0.1), strict=True):
        assert row["torch_lr"] == pytest.approx(lr, rel=1e-14)
        assert row["lr"] == pytest.approx(lr / told["torch_lr_per_alpha"], rel=1e-14)
        expected = trained(
            torch.tensor(features), torch.tensor(targets), LOSSES[loss], 40, lr=lr, momentum=0.5, weight_decay=0.05
        )
        assert row["regimes"]["diagonal:tau=1"]["final_loss"] == pytest.approx(expected, rel=1e-9)
    one = json.loads(run("simulate", *words, "--torch-lr", "0.1"))["rows"][0]
    ends = [row["regimes"]["diagonal:tau=1"]["final_loss"] for row in (one, told["rows"][1])]
    assert ends[0] == ends[1]
    assert one["lr"] == told["rows"][1]["lr"]


def test_runs_show_it_beside_the_rate(run):
    words = ["compare", *POWER, "--batch-size", "4", "--n-steps", "5", "--regime", "diagonal"]
    lines = run(*words, "--lr", "0.5", "power:start=1,exponent=0.3", "--momentum", "0", "--torch-loss", "mse")
    lines = lines.splitlines()
    assert lines[2].split()[:4] == ["lr", "torch", "lr", "momentum"]
    assert [line.split()[:2] for line in lines[4:6]] == [["0.5", "5"], ["power:start=1,exponent=0.3", "-"]]
    assert any("lr 1 is 10 in torch.optim.SGD on nn.MSELoss." in line for line in lines)
    assert "torch lr" not in run(*words, "--lr", "0.5")
    at = run("simulate", *POWER, "--batch-size", "4", "--n-steps", "5", "--torch-lr", "10").splitlines()
    assert at[4].split()[:3] == ["0.5", "10", "0"]


@pytest.mark.parametrize("command", ["compare", "simulate"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*POWER, "--torch-lr", "0"], "torch_lr: expected a number > 0"),
        ([*POWER, "--torch-lr", "1", "--lr", "1"], "--torch-lr: expected in place of --lr, got both"),
        ([*POWER, "--torch-lr", "1", "--momentum", "0", "--method", "adam"], "--torch-lr: expected a method of torch"),
        ([*POWER[:-1], "inf", "--torch-lr", "1"], "expected finitely many points"),
    ],
)
def test_runs_refuse(run, command, words, said):
    assert said in run(command, *words, code=2)


RUNS = {
    "landscape": ["--batch-size", "2", "--n-steps", "6", "--lr", "0.3,0.5", "--momentum", "0,0.5"],
    "budget": ["--batch-size", "1,2", "--n-steps", "20"],
    "epochs": ["--batch-size", "2", "--epochs", "1", "--replicates", "3", "--theory", "diagonal:tau=1"],
    "recommend": ["--batch-size", "2", "--n-steps", "6"],
}


def numbers(told):
    """What does not depend on the unit in which torch's rates and weight decay are told."""
    if isinstance(told, dict):
        return {k: numbers(v) for k, v in told.items() if "torch" not in k and k != "seconds"}
    return [numbers(v) for v in told] if isinstance(told, list) else told


@pytest.mark.parametrize("command", RUNS)
def test_weight_decay_of_mse_is_the_same_run_as_c_half_of_it(run, command):
    saved(3)
    words = [command, "--kernel", "k.npz", *RUNS[command], "--json"]
    mse = json.loads(run(*words, "--weight-decay", "0.02", "--torch-loss", "mse"))
    half = json.loads(run(*words, "--weight-decay", "0.03", "--torch-loss", "half-mse"))
    assert numbers(mse) == numbers(half)
    assert (mse["torch_loss"], half["torch_loss"]) == ("mse", "half-mse")
    assert mse["torch_lr_per_alpha"] == pytest.approx(1.5 * half["torch_lr_per_alpha"], rel=1e-14)
    for name in ("rows", "runs"):
        for one, other in zip(mse.get(name, []), half.get(name, []), strict=True):
            if "torch_lr" in one:
                assert one["torch_lr"] == pytest.approx(1.5 * other["torch_lr"], rel=1e-14)
    lines = run(*words[:-1], "--weight-decay", "0.02", "--torch-loss", "mse")
    assert f"lr 1 is {mse['torch_lr_per_alpha']:.4g} in torch.optim.SGD on nn.MSELoss." in lines
    assert "0.02 is 0.03" in " ".join(lines.split())
    assert "on nn.MSELoss" not in run(*words[:-1], "--weight-decay", "0.03")


def test_recommend_pastes_the_line_of_that_loss_alone(run):
    saved(3)
    words = ["recommend", "--kernel", "k.npz", *RUNS["recommend"]]
    mse = run(*words, "--torch-loss", "mse")
    both = run(*words)
    pasted = [line for line in mse.splitlines() if "net.parameters" in line]
    assert len(pasted) == 1
    assert pasted[0] in both
    assert "torch.nn.MSELoss()" in pasted[0]
    told = json.loads(run(*words, "--torch-loss", "mse", "--json"))
    assert told["best"]["torch_lr"] == pytest.approx(told["best"]["lr"] * told["torch_lr_per_alpha"], rel=1e-12)
    assert list(told["torch"]) == ["momentum", "mse"]
