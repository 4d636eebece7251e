"""`sgdsim validate`: theory against the training of real networks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import ntk, plot
from sgdsim.cli import validate as command
from sgdsim.common.jsonable import jsonable
from sgdsim.regimes import RealNetwork, SampledLinearized
from sgdsim.regimes import _training as training
from sgdsim.studies import measured_stability as measured
from sgdsim.studies import validation as v

SMALL = ["--n", "60", "--widths", "30", "--batch-size", "6", "--n-steps", "100", "--threshold-steps", "40"]
SMALL += ["--replicates", "2"]


@pytest.fixture(scope="module")
def trained(digits_network):
    return v.train(digits_network, ss.SGD(0.9, 0.3, 5), 200, at=[100, 5000], replicates=3, seed=4)


def test_runs_are_those_of_simulate(digits_network, trained):
    """Same batches, same losses, whatever the recorded steps."""
    for name, regime in (("network", RealNetwork()), ("sampled", SampledLinearized())):
        alone = ss.simulate(
            digits_network, ss.SGD(0.9, 0.3, 5), regime, 200, record=trained.steps, replicates=3, seed=4
        )
        np.testing.assert_allclose(getattr(trained, name), alone["loss"].values[0], rtol=1e-10)
    closure = ss.simulate(digits_network, ss.SGD(0.9, 0.3, 5), ss.SpectralDiagonal(), 200, record=trained.steps)
    np.testing.assert_allclose(trained.diagonal, closure["loss"].values[0, 0], rtol=1e-9)
    assert {0, 100, 200} <= set(trained.steps.tolist())
    assert not trained.interrupted


def test_kernel_change_is_that_of_the_trained_network(digits_network, trained):
    """Against plain gradient steps with autograd on a copy of the network, and eigenvalues of its whole kernel."""
    change = trained.kernel[0]
    assert [entry.step for entry in trained.kernel] == [100, 200]
    network, data = digits_network.network, digits_network.data
    other = ss.networks.MLP(network.width, seed=network.seed, n_inputs=data.d)
    x, y = torch.as_tensor(data.x), torch.as_tensor(data.y)
    keys = ss.sampling.replicate_keys(4, 1)
    batches = ss.sampling.minibatch_indices(60, np.full(100, 5), 0, 100, keys)[0]
    optimiser = torch.optim.SGD(other.parameters(), lr=digits_network.quadratic.torch_lr(0.9), momentum=0.3)
    for batch in batches:
        optimiser.zero_grad()
        (0.5 * ((other(x[batch]) - y[batch]) ** 2).mean()).backward()
        optimiser.step()
    before, after = ntk.empirical_ntk(network, data.x), ntk.empirical_ntk(other, data.x)
    assert change.relative == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-8)
    assert change.top == pytest.approx(np.linalg.eigvalsh(after)[-1] / np.linalg.eigvalsh(before)[-1], rel=1e-8)
    assert change.relative > 0.01


def _training(network, sampled, steps=None):
    steps = np.arange(len(network[0])) if steps is None else steps
    return v.Training(
        ss.SGD(0.5), int(steps[-1]), 0, steps, np.array(network, float), np.array(sampled, float),
        np.array(sampled[0], float), (), False,
    )  # fmt: skip


def test_ratio_and_its_paired_error():
    run = _training([[1, 4], [1, 8], [1, 6]], [[1, 2], [1, 4], [1, 3]])
    found = v.ratios(run, [1])[0]
    assert (found.ratio, found.stderr) == (2, pytest.approx(0, abs=1e-12))  # the scatter of batches cancels in pairs
    unpaired = v.ratios(_training([[1, 4], [1, 8], [1, 6]], [[1, 3], [1, 3], [1, 3]]), [1])[0]
    # Of a plain mean the jackknife gives the standard error itself.
    assert unpaired.stderr == pytest.approx(np.std([4, 8, 6], ddof=1) / math.sqrt(3) / 3)
    assert v.ratios(_training([[1, 4]], [[1, 2]]), [1])[0].stderr is None
    gone = v.ratios(_training([[1, np.inf], [1, 8]], [[1, 2], [1, 4]]), [1])[0]
    assert (gone.ratio, gone.network_diverged, gone.sampled_diverged) == (None, 1, 0)
    with pytest.raises(ss.InputError, match="at: expected recorded steps, got 7"):
        v.ratios(run, [7])


def test_slopes_of_exact_power_laws():
    t = np.unique(np.geomspace(1, 1000, 40).round())
    steps = np.concatenate([[0], t])
    curves = [np.concatenate([[3.0], scale * t**-0.25]) for scale in (1.0, 2.0)]
    steep = [np.concatenate([[3.0], t**-0.5]), np.concatenate([[3.0], t**-0.5])]
    found = v.slopes(_training(steep, curves, steps), (10, 1000))
    assert found.sampled.value == pytest.approx(0.25, abs=1e-12)
    assert found.network.value == pytest.approx(0.5, abs=1e-12)
    assert found.sampled.stderr == pytest.approx(0, abs=1e-10)
    with pytest.raises(ss.InputError, match="window: expected at least 5 recorded steps"):
        v.slopes(_training(steep, curves, steps), (990, 1000))


def test_decades():
    assert v.decades(10_000) == [(10, 100), (100, 1000), (1000, 10_000)]
    assert v.decades(300) == [(30, 300)]
    assert v.decades(50) == [(5, 50)]


def test_law_is_the_smaller_exponent():
    n = 2000
    eigenvalues, c = np.arange(1, n + 1) ** -1.5, np.arange(1, n + 1) ** -1.75
    signal = v.law(ss.QuadraticProblem(ss.Spectrum(eigenvalues), np.sqrt(c)))
    assert signal.exponent.value == pytest.approx(0.5, abs=0.01)  # ζ = 0.75/1.5
    noise = v.law(ss.QuadraticProblem(ss.Spectrum(eigenvalues), np.arange(1, n + 1) ** -2.5))
    assert noise.exponent.value == pytest.approx(2 - 1 / 1.5, abs=0.01)
    assert noise.exponent.low <= noise.exponent.value <= noise.exponent.high


def test_a_law_where_the_eigenvalues_may_not_fall():
    """2 − 1/ν has no lower bound on an interval of ν that reaches 0."""
    law = v.law(ss.QuadraticProblem(ss.Spectrum(np.ones(60)), np.random.default_rng(1).standard_normal(60)))
    assert law.nu.low <= 0
    assert law.exponent.low == -math.inf


def test_half_of_the_lowest_threshold(digits_network):
    problem, sgd = digits_network.quadratic, ss.SGD(1.0, 0.0, 1)
    levels = [ss.theory.stability.max_lr(problem, sgd, level) for level in ("full-batch", "spectral-diagonal", "exact")]
    assert v.safe_lr(problem, 1) == pytest.approx(min(levels) / 2, rel=6e-3)
    assert min(levels) < 1.9  # batches of one: below full batch


@pytest.mark.parametrize("edge", [0.0013, 0.3, 1.0, 7.7, 40.0])
def test_bisection_brackets_the_edge(edge):
    calls = []

    def stable(lr):
        calls.append(lr)
        return lr < edge

    found = measured.bisect(stable, 1.0, 0.04, (1e-3, 100.0))
    assert found.low < edge <= found.high <= 1.04 * found.low
    assert found.low <= found.middle <= found.high
    assert len(calls) < 25


def test_bisection_ends_at_its_limits():
    assert measured.bisect(lambda _: True, 1.0, 0.04, (0.1, 50.0)) == measured.Bracket(50.0, math.inf)
    assert measured.bisect(lambda _: False, 1.0, 0.04, (0.1, 50.0)) == measured.Bracket(0.0, 0.1)


def test_full_batch_threshold_of_the_linearisation(digits_network):
    """At b = N all levels are 2(1+β), and so is what is measured."""
    for momentum in (0.0, 0.5):
        found = measured.thresholds(
            digits_network.quadratic, 60, momentum=momentum, n_steps=600, replicates=1, width=0.01
        )
        assert found.full_batch == found.exact == 2 * (1 + momentum)
        bracket = found.measured["sampled"]["settles"]
        assert bracket.low <= found.full_batch <= 1.01 * bracket.high
        assert list(found.measured) == ["sampled"]


def test_typical_runs_are_stable_further_out_than_their_mean():
    """Random eigenbasis, batches of one: between the exact threshold and the measured one the mean over all batch
    sequences grows, by the exact averaged regime, while the typical run falls."""
    problem = ss.QuadraticProblem.power_law(40, 1.5, 3.0)
    found = measured.thresholds(problem, 1, n_steps=1000, replicates=9)
    bracket = found.measured["sampled"]["settles"]
    assert found.exact < 0.9 * bracket.low
    between = ss.SGD(0.5 * (found.exact + bracket.low), batch_size=1)
    mean = ss.simulate(problem, between, ss.BatchAveraged(0.0), 600, record=[300, 600])["loss"].values[0, 0]
    assert mean[0] < mean[1] < mean[2]
    typical = measured._trial(problem, between, SampledLinearized(), 1000, 9, 0)
    assert typical.late < 1


def test_networks_catapult_above_the_threshold():
    """Between 2/λ_max and the loss's divergence a network grows, loses curvature and settles; see Lewkowycz et al."""
    problem = ss.NetworkProblem(ss.networks.MLP(100, seed=1), ss.datasets.load("digits", 60, n_test=0), device="cpu")
    found = measured.thresholds(problem, 60, n_steps=100, replicates=1)
    linear, network = found.measured["sampled"], found.measured["network"]
    assert linear["settles"].high < 2.2
    assert network["settles"].low > 1.2 * linear["settles"].high
    run = v.train(problem, ss.SGD(3.0, batch_size=60), 100, replicates=1)
    assert run.network.max() > 2 * run.network[0, 0]
    assert run.network[0, -1] < run.network[0, 0]
    assert np.isinf(run.sampled[0, -1]) or run.sampled[0, -1] > 1e3
    assert run.kernel[-1].top < 2 / 3.0


def test_trial_counts_replicates(monkeypatch, tiny):
    """One of three replicates diverges, one falls at once, and one rises twelvefold before it does."""
    curves = {
        "rise": lambda t: 2.0**t,
        "fall": lambda t: 0.99**t,
        "up and down": lambda t: 0.5 + 5 * t * np.exp(-t / 5),
    }

    def follow(problem, sgd, regime, steps, observe, replicates, seed):
        from sgdsim.runs.follow import Trace

        loss = 5 * np.stack([curve(steps) for curve in curves.values()])
        loss /= loss[:, :1]
        return Trace({"loss": loss}, np.zeros(3), np.zeros(3), 0.0, False, {})

    monkeypatch.setattr(measured.follow, "follow", follow)
    trial = measured._trial(tiny, ss.SGD(0.5), SampledLinearized(), 200, 3, 0)
    assert (trial.bounded, trial.settles) == (1 / 3, 2 / 3)
    assert trial.meets("settles")
    assert not trial.meets("bounded")
    assert trial.peak == pytest.approx(1 + 50 / math.e)  # the median of three
    assert trial.late == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("peak", "end", "settles"),
    [(1e6, 0.4, True), (1e6, 0.494, True), (1e6, 0.4999, False), (1e6, 0.7, False), (2, 0.7, True)],
)
def test_a_dead_network_has_not_settled(monkeypatch, digits_network, peak, end, settles):
    """After a jump far up, what counts is to beat the best constant output."""

    def follow(problem, sgd, regime, steps, observe, replicates, seed):
        from sgdsim.runs.follow import Trace

        variance = np.var(problem.data.y)  # a constant output has the loss 0.5 of it
        loss = variance * (end + peak * (steps / 3) ** 2 * np.exp(-steps / 5) + (steps == 0))
        return Trace({"loss": loss[None]}, np.zeros(1), np.zeros(1), 0.0, False, {})

    monkeypatch.setattr(measured.follow, "follow", follow)
    trial = measured._trial(digits_network, ss.SGD(0.5), RealNetwork(), 400, 1, 0)
    assert trial.late < 1
    assert trial.late < trial.early
    assert trial.meets("settles") == settles


def test_command(run):
    document = json.loads(run("validate", *SMALL, "--json", "--out", "v.json", "--plot", "v.png"))
    (cell,) = document["cells"]
    assert (cell["dataset"], cell["n"], cell["network"]["width"], cell["batch_size"]) == ("digits", 60, 30, 6)
    assert cell["thresholds"]["full_batch"] == 2
    assert cell["thresholds"]["measured"]["network"]["settles"]["low"] > 0
    assert [ratio["step"] for ratio in cell["ratios"]] == [100]
    networks, linear = (np.mean([c[-1] for c in cell["training"][name]]) for name in ("network", "sampled"))
    assert cell["ratios"][0]["ratio"] == pytest.approx(networks / linear)
    assert [slopes["window"] for slopes in cell["slopes"]] == [[10, 100]]
    assert json.loads(Path("v.json").read_text())["cells"] == document["cells"]
    assert Path("v.png").read_bytes()[:4] == b"\x89PNG"

    text = run("validate", "--read", "v.json")
    for words in ("Stability thresholds", "Exponents", "Network against linearisation", f"{networks / linear:.3f} ±"):
        assert words in text
    markdown = run("validate", "--read", "v.json", "--markdown")
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 9  # three tables of a header, a rule and a row
    assert {row.count("|") for row in rows[:3]} == {rows[0].count("|")}

    cell["law"]["exponent"] = {"value": -0.26, "low": None, "high": 1.5}  # as JSON holds an end that is infinite
    Path("open.json").write_text(json.dumps(document))
    assert "none: −0.26 (−∞ to 1.50)" in run("validate", "--read", "open.json", "--plot", "open.png")


def test_files_are_joined(run):
    run("validate", *SMALL, "--only", "training", "--out", "a.json")
    run("validate", *SMALL, "--only", "thresholds", "--out", "b.json")
    run("validate", "--read", "a.json", "b.json", "--out", "c.json")
    (training,), (thresholds,), (both,) = (command.load(f"{name}.json") for name in "abc")
    assert training["thresholds"] is None
    assert thresholds["training"] is None
    assert both["training"] == training["training"]
    assert both["thresholds"] == thresholds["thresholds"]
    text = run("validate", "--read", "a.json")
    assert "Stability thresholds" not in text


def test_brackets_that_are_open_are_told():
    from sgdsim.studies.validation_tables import bracket

    assert bracket({"low": 1.918, "high": 1.984}) == "1.92–1.98"
    assert bracket({"low": 128.0, "high": None}) == "> 128"
    assert bracket(jsonable(measured.Bracket(32.0, math.inf))) == "> 32"
    assert bracket(jsonable(measured.Bracket(0.0, 0.5))) == "< 0.5"


def test_ctrl_c_keeps_what_was_done(run, monkeypatch):
    """Interrupted in the long run of the second batch size: the first cell is whole, the second as far as it came."""
    advance = training.Training.advance

    def stop(cell, start, end):
        if cell.sgd.batch_size == 12 and start >= 40:
            raise KeyboardInterrupt
        advance(cell, start, end)

    monkeypatch.setattr(training.Training, "advance", stop)
    words = [*SMALL, "12", "--only", "training", "--out", "v.json", "--plot", "v.png"]
    words.remove("12")
    words.insert(words.index("6") + 1, "12")
    document = json.loads(run("validate", *words, "--json", code=130))
    assert document["interrupted"]
    first, second = document["cells"]
    assert first["ratios"][0]["ratio"] > 0
    assert second["ratios"][0]["ratio"] is None
    losses = second["training"]["network"][0]
    assert losses[0] > 0
    assert losses[-1] is None
    assert "Interrupted" in run("validate", *words, "--force", code=130)
    assert len(command.load("v.json")) == 2


def test_ctrl_c_in_the_search_for_a_threshold(run, monkeypatch):
    """What was saved before stays; the cell that was begun is there without a threshold."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "advance", stop)
    before = "what an earlier run of an hour found"
    for name in ("v.json", "v.png"):
        Path(name).write_text(before)
    words = ["validate", *SMALL, "--out", "v.json", "--plot", "v.png", "--force"]
    document = json.loads(run(*words, "--json", code=130))
    assert document["interrupted"]
    assert document["cells"] == []
    assert document["out"] is document["plot"] is None
    told = run(*words, code=130)
    assert "Nothing was done" in told
    assert "wrote" not in told
    assert {Path(name).read_text() for name in ("v.json", "v.png")} == {before}


def test_picture_of_runs_without_a_ratio(run):
    """Where all losses are 0 there is nothing to draw over the steps, and a log axis still needs limits."""
    run("validate", *SMALL, "--out", "v.json")
    cells = command.load("v.json")
    for cell in cells:
        for name in ("network", "sampled"):
            cell["training"][name] = np.zeros_like(cell["training"][name]).tolist()
    plot.save(plot.validation(cells), "v.png")


def test_picture(run):
    run("validate", *SMALL, "--out", "v.json")
    figure = plot.validation(command.load("v.json"))
    left, middle, right = figure.axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["6"]
    drawn = {line.get_marker() for line in left.lines}
    assert {"s", "o"} <= drawn
    cell = command.load("v.json")[0]
    ratio = np.mean(cell["training"]["network"], 0) / np.mean(cell["training"]["sampled"], 0)
    np.testing.assert_allclose(middle.lines[0].get_ydata(), ratio[1:])
    assert [text.get_text() for text in right.get_xticklabels()] == ["10–$10^2$"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--widths", "0"], "widths: expected an integer >= 1"),
        (["--widths", "10", "10"], "widths: expected different values"),
        (["--batch-size", "61"], "batch_size: expected values from 1 to 60"),
        (["--n", "5000"], "n: expected an integer from 1 to 4000"),
        (["--n-steps", "10"], "n_steps: expected an integer from 40 to 1e+15"),
        (["--threshold-steps", "10"], "threshold_steps: expected an integer from 40 to 1e+15"),
        (["--replicates", "0"], "replicates: expected an integer from 1 to 1e+06"),
        (["--lr", "0"], "lr: expected a number > 0"),
        (["--momentum", "1"], "momentum: expected a finite number"),
        (["--plot", "v.txt"], "v.txt"),
        (["--out", "nowhere/v.json"], "nowhere/v.json"),
        (["--json", "--markdown"], "--markdown: expected only without --json"),
        (["--read", "absent.json"], "absent.json"),
    ],
)
def test_bad_input_is_one_line(run, words, told):
    assert told in run(
        "validate", "--n", "60", *(["--batch-size", "6"] if "--batch-size" not in words else []), *words, code=2
    )


def test_another_file_is_refused(run):
    Path("v.json").write_text('{"cells": []}')
    assert "v.json: expected a file that sgdsim validate --out wrote" in run("validate", "--read", "v.json", code=2)
