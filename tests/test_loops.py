"""docs/loops.py: its loop is the `network` regime on the same batches, and it tells means apart that differ."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.algorithm import sampling
from sgdsim.studies.probing import Probe, Probed

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import loops

SIZE = loops.Size(steps=50, shown=(10, 50), warm_up=5, linearised=2, runs=2)


@pytest.fixture(scope="module")
def small() -> tuple[torch.nn.Module, ss.Dataset]:
    torch.manual_seed(0)
    return loops.dense(64, 8), ss.datasets.load("digits", 40, n_test=0)


@pytest.fixture(scope="module")
def problem(small) -> ss.NetworkProblem:
    return ss.NetworkProblem(copy.deepcopy(small[0]), small[1], device="cpu")


@pytest.fixture(scope="module")
def settings(problem) -> list[loops.Setting]:
    """Of a line as `recommend` gives it, which takes longer and has tests of its own."""
    line = "torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ss, "recommend", lambda *_: SimpleNamespace(torch_line=lambda loss: line, probe=None))
        patch.setattr(loops, "DECAY", 0.01)
        return list(loops.settings(problem, SIZE))


def test_the_loop_is_the_network_regime_on_the_same_batches(small, problem, settings):
    """With each optimiser: momentum and weight decay, under a warm-up and cosine as well, and AdamW."""
    network, data = small
    keys = sampling.replicate_keys(0, 1)
    drawn = sampling.minibatch_indices(40, np.full(SIZE.steps, loops.BATCH_SIZE), 0, SIZE.steps, keys)[0]
    assert [setting.line.split("(")[0] for setting in settings] == ["torch.optim.SGD"] * 2 + ["torch.optim.AdamW"]
    for setting in settings:
        looped = loops.measured(network, data, setting, map(torch.as_tensor, drawn), SIZE)
        trained = loops.predicted(problem, setting.sgd, ss.RealNetwork(), 1, SIZE)[0]
        np.testing.assert_allclose(looped, trained, rtol=1e-8)


def test_a_row_of_each_optimiser(monkeypatch, small, settings):
    monkeypatch.setitem(loops.PROBLEMS, "small", lambda: small)
    monkeypatch.setattr(loops, "settings", lambda problem, size: settings)
    found = [row.strip("| ").split(" | ") for row in loops.rows("small", SIZE)]
    assert [len(row) for row in found] == [len(loops.HEAD)] * 3
    assert found[0][0] == "small; N = 40, 601 parameters"
    assert found[0][2] == "not tried"
    assert "peak of a warm-up" in found[1][1]


def test_what_a_probe_said():
    best = Probed(0.6, 0.9, 0.1, steps=50, growth=3.0, limit=2.0, ratios=(2.0, 2.0, 2.0))
    lower = Probed(0.3, 0.9, 0.1, steps=50, growth=1.0, limit=2.0, ratios=(1.0, 1.0, 1.0))
    told = loops.told(Probe((best, lower), horizon=100))
    assert told == "theory's best fails: 90% of the limit, loss ×2; this follows: 15% of the limit, loss ×1"
    failed = loops.told(Probe((best, best), horizon=100))
    assert failed.endswith("none of 2 is recommended, the last fails: 90% of the limit, loss ×2")
    assert loops.told(Probe((lower,), horizon=100)) == "theory's best follows: 15% of the limit, loss ×1"


def test_means_that_differ_are_told_apart():
    one, other = np.array([1.0, 1.1, 0.9, 1.2])[:, None], np.array([1.05, 0.95, 1.15, 1.1])[:, None]
    assert loops.covered(one, other) == ["yes"]
    assert loops.covered(one, other + 0.5) == ["NO"]
    lost = np.where(np.arange(4)[:, None] < 1, np.inf, other)
    assert loops.covered(one, lost) == ["yes"]  # one of four may diverge by chance, all of many may not
    assert loops.text(lost) == "1.07 ± 0.06; 1 of 4 diverge"
    assert loops.covered(np.tile(one, (3, 1)), np.full((12, 1), np.inf)) == ["NO"]
    assert loops.covered(one[:1], other) == ["not known"]
