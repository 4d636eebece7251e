"""What `sgdsim recommend` says of a network on which it tried its answer, and the optimiser to paste."""

import json
import re

import numpy as np
import pytest

from sgdsim.studies import probing

NETWORK = ["recommend", "--n", "40", "--width", "30", "--device", "cpu", "--batch-size", "5", "--horizon", "60"]


@pytest.fixture
def document(run):
    """The JSON that a command prints."""
    return lambda *words: json.loads(run(*words, "--json"))


def test_the_recommended_setting_comes_first_and_last(document, run):
    facts, text = document(*NETWORK), run(*NETWORK)
    probe = facts["probe"]
    chosen = probe["tried"][probe["chosen"]]
    assert probe["accepted"] is True
    assert facts["seconds"]["probe"] >= 0
    assert probe["tried"][0]["lr"] == facts["best"]["lr"]  # theory's own is tried first
    assert text.splitlines()[2].startswith(f"Recommended: lr {chosen['lr']:.4g}, momentum")
    for loss, words in (("half-mse", "½·mean"), ("mse", "torch.nn.MSELoss()")):
        assert re.search(rf"^    {re.escape(facts['torch'][loss]['line'])} .*{re.escape(words)}", text, re.MULTILINE)
    assert facts["torch"]["mse"]["lr"] == pytest.approx(facts["torch"]["half-mse"]["lr"] / 2, rel=1e-12)
    without = document(*NETWORK, "--no-probe")
    assert without["probe"] is None
    assert {key: without[key] for key in ("best", "plain", "max_lr")} == {
        key: facts[key] for key in ("best", "plain", "max_lr")
    }
    assert "Not tried on the network." in run(*NETWORK, "--no-probe")


def test_a_lower_setting_is_the_first_row(run, monkeypatch):
    accepted, first = probing.Probed.accepted, []

    def refused_once(self):
        first.append(self)
        return self != first[0] and accepted.fget(self)

    monkeypatch.setattr(probing.Probed, "accepted", property(refused_once))
    text = run(*NETWORK)
    assert "Theory's best setting failed there" in text
    row = next(line for line in text.splitlines() if line.startswith("recommended by the probe"))
    assert text.index(row) < text.index("best without momentum")
    assert f"Recommended: lr {row.split()[4]}, momentum" in text


def test_where_no_setting_follows_none_is_recommended(run, document, monkeypatch):
    monkeypatch.setattr(probing.Probed, "accepted", False)
    text = run(*NETWORK)
    assert text.splitlines()[2].startswith("Linearised theory does not predict this network")
    assert "torch.optim.SGD(net" not in text
    facts = document(*NETWORK)
    assert facts["torch"] is None
    assert (facts["probe"]["accepted"], facts["probe"]["chosen"]) == (False, None)


def test_without_a_network_it_says_so(run, tmp_path):
    np.savez(tmp_path / "k.npz", kernel=np.diag([1.0, 0.5, 0.25, 0.1]) + 0.05, residual=np.array([1.0, 2.0, -1.0, 0.5]))
    assert "it is linearised theory alone" in run("recommend", "--kernel", "k.npz", "--batch-size", "2")


def test_with_weight_decay_it_is_tried_too(run, document):
    words = [*NETWORK, "--weight-decay", "1e-3"]
    assert document(*words)["probe"]["tried"]
    text = run(*words)
    assert "tried on the network" in text
    assert "Not tried" not in text
    assert "Not tried on the network." in run(*words, "--no-probe")
