"""`sgdsim schedule`: every value against a run of the same schedule, optima against each other, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import methods, plot, results, schedules
from sgdsim.common.checks import InputError
from sgdsim.problem import compression
from sgdsim.regimes import _sampled_plain
from sgdsim.theory import best_schedules, stability
from sgdsim.theory.verdicts import verdict

SMALL = ["--n", "60", "--width", "40", "--horizon", "80", "--batch-size", "4", "--pieces", "6"]
SGD = ss.SGD(1.0, 0.3, 2, label_noise=0.05)
T = 200


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(100, 1.5, 1.0)


@pytest.fixture(scope="module")
def found(problem):
    return best_schedules.compare(problem, SGD, T, 10, averages=True)


def final(problem, one, **options) -> float:
    """The loss of a run with this schedule and average."""
    sgd = replace(SGD, lr=one.lr, average=one.average)
    return ss.simulate(problem, sgd, ss.SpectralDiagonal(), T, **options)["loss"].values.ravel()[-1]


def test_every_loss_is_that_of_a_run(problem, found):
    names = [one.name for one in found]
    assert sorted(names) == sorted([*best_schedules.FORMS, "best of 10 pieces", *best_schedules.AVERAGES])
    assert [one.loss for one in found] == sorted(one.loss for one in found)
    for one in found:
        assert final(problem, one) == pytest.approx(one.loss, rel=1e-9), one.name


def test_none_is_better_beside_the_optimum(problem, found):
    """Changed a little in each of its numbers, no schedule has a smaller loss."""
    for one in found:
        changed = []
        for factor in (0.97, 1.03):
            if one.name.startswith("best"):
                for i in range(10):
                    values = list(one.lr.values)
                    values[i] *= factor
                    changed.append(replace(one, lr=schedules.Piecewise(one.lr.starts, tuple(values))))
            elif isinstance(one.lr, float):
                changed.append(replace(one, lr=one.lr * factor))
            else:
                peak = "peak" if hasattr(one.lr, "peak") else "start"
                changed.append(replace(one, lr=replace(one.lr, **{peak: getattr(one.lr, peak) * factor})))
        if one.name == "polynomial":
            changed += [replace(one, lr=replace(one.lr, power=one.lr.power * f)) for f in (0.9, 1.1)]
        if one.name == "warmup-stable-decay":
            changed += [replace(one, lr=replace(one.lr, decay=one.lr.decay + d)) for d in (-8, 8)]
            changed += [replace(one, lr=replace(one.lr, warmup=one.lr.warmup + 8))]
        if one.name == "ema":
            rest = 1 - one.average.decay
            changed += [replace(one, average=methods.EMA(1 - rest * f)) for f in (0.8, 1.25)]
        if one.name == "tail":
            changed += [replace(one, average=methods.Tail(one.average.start + d)) for d in (-10, 10)]
        for other in changed:
            assert final(problem, other) > one.loss * (1 - 1e-5), one.name


def test_piecewise_is_no_worse_than_what_it_began_with(problem):
    """Nor than the piecewise form of the best polynomial decay, for any number of pieces; more of them are better."""
    losses = []
    for pieces in (1, 4, 16):
        best = best_schedules.best_schedule(problem, SGD, T, pieces)
        starts = np.array(best.lr.starts if pieces > 1 else [0])
        decay = best_schedules.best_of_form("polynomial", problem, SGD, T).lr
        middles = (np.append(starts[1:], T) + starts) // 2
        begun = schedules.Piecewise(tuple(starts), tuple(decay(middles)))
        flat = 0.5 * stability.max_lr(problem, replace(SGD, label_noise=0.0))
        for start in (begun, flat):
            assert best.loss <= best_schedules.final_loss(problem, replace(SGD, lr=start), T)[0]
        losses.append(best.loss)
    assert losses[0] > losses[1] > losses[2]


def test_relations_between_forms(found):
    loss = {one.name: one.loss for one in found}
    assert loss["polynomial"] <= loss["linear"] * (1 + 1e-6)  # one with δ = 1, one with the best
    assert loss["polynomial"] <= loss["constant"] * (1 + 1e-3)  # δ → 0
    assert max(loss["ema"], loss["tail"]) < loss["constant"]  # noisy labels: averages pay


def test_averages_where_there_is_no_noise(problem):
    """Full batches: the last iterate is best, so that the average is of next to nothing."""
    full = ss.SGD(1.0, 0.0, 100)
    constant = best_schedules.best_of_form("constant", problem, full, T)
    for kind in best_schedules.AVERAGES:
        assert best_schedules.best_averaged(kind, problem, full, T).loss < 1.02 * constant.loss
    with pytest.raises(InputError, match="kind: expected one of ema, tail"):
        best_schedules.best_averaged("median", problem, full, T)


def test_thinned_spectra():
    """Many modes: losses are those of the whole spectrum, and the optimum is found on few."""
    problem = ss.QuadraticProblem.power_law(3000, 1.5, 1.0)
    assert compression.sketch(problem).eigenvalues.size < 200
    for one in (
        best_schedules.best_of_form("constant", problem, SGD, T),
        best_schedules.best_schedule(problem, SGD, T, 3),
    ):
        assert final(problem, one) == pytest.approx(one.loss, rel=1e-9)
        for factor in (0.95, 1.05):
            lr = one.lr * factor if isinstance(one.lr, float) else None
            scaled = lr or schedules.Piecewise(one.lr.starts, tuple(factor * v for v in one.lr.values))
            assert final(problem, replace(one, lr=scaled)) > one.loss


def test_checkpoints_keep_the_gradient():
    """Horizons around squares, where blocks of steps are full, short or single."""
    problem = ss.QuadraticProblem.power_law(12, 1.5, 1.0)
    for steps in (1, 2, 3, 4, 5, 8, 9, 10, 17):
        rates = np.linspace(0.2, 0.5, steps)
        loss, by_lr, _ = best_schedules.final_loss(problem, SGD, steps, lr=rates)
        scheduled = replace(SGD, lr=schedules.Piecewise(tuple(range(steps)), tuple(rates)))
        run = ss.simulate(problem, scheduled, ss.SpectralDiagonal(), steps)["loss"].values.ravel()[-1]
        assert loss == pytest.approx(run, rel=1e-12)
        for t in range(steps):
            shift = np.zeros(steps)
            shift[t] = 1e-6
            up, down = (best_schedules.final_loss(problem, SGD, steps, lr=rates + s * shift)[0] for s in (1, -1))
            assert by_lr[t] == pytest.approx((up - down) / 2e-6, rel=1e-5)


def test_command(run):
    words = ["schedule", *SMALL, "--label-noise", "0.1"]
    document = json.loads(run(*words, "--json", "--verify", "--replicates", "400", "--plot", "s.png"))
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows) == {*best_schedules.FORMS, *best_schedules.AVERAGES, "best of 6 pieces"}
    assert rows["constant"]["ratio"] == 1
    assert document["rows"][0]["ratio"] == min(row["ratio"] for row in rows.values())
    assert Path("s.png").read_bytes()[:4] == b"\x89PNG"
    for name, row in rows.items():
        assert row["ratio"] == pytest.approx(row["loss"] / rows["constant"]["loss"])
        assert row["sampled_to_theory"] == pytest.approx(row["sampled"] / row["loss"])
        # theory closes the averages with τ = 1, which is off by some percent at this N
        assert abs(row["sampled_to_theory"] - 1) < 0.05 + 4 * row["sampled_stderr_to_theory"], name
    decay = rows["warmup-stable-decay"]
    assert decay["parameters"]["total"] == 80
    simulated = [
        "simulate",
        *SMALL[:4],
        "--n-steps",
        "80",
        "--batch-size",
        "4",
        "--label-noise",
        "0.1",
        "--momentum",
        "0",
    ]
    again = json.loads(run(*simulated, "--lr", decay["lr"], "--json"))["rows"][0]["regimes"]["diagonal:tau=1"]
    assert again["final_loss"] == pytest.approx(decay["loss"], rel=1e-9)
    average = rows["ema"]
    again = json.loads(run(*simulated, "--lr", f"{average['lr']!r}", "--average", average["average"], "--json"))
    assert again["rows"][0]["regimes"]["diagonal:tau=1"]["final_loss"] == pytest.approx(average["loss"], rel=1e-9)


def test_text(run):
    text = run("schedule", *SMALL)
    lines = text.splitlines()
    assert lines[0].startswith("digits, N = 60, width 40: 80 steps, batch 4, momentum 0, tau 1, initial loss ")
    first = [line.split()[0] for line in lines[3:12]]
    assert set(first) == {*best_schedules.FORMS, *best_schedules.AVERAGES, "best"}
    assert "sampled" not in text
    spec = text.partition("--lr ")[2].split()[0]
    assert isinstance(schedules.parse("lr", spec), schedules.Schedule)


@pytest.mark.parametrize("words", [["--horizon", "1"], ["--horizon", "2", "--pieces", "2"]])
def test_the_shortest_horizons(run, words):
    rows = json.loads(run("schedule", "--n", "30", "--width", "20", *words, "--json", "--plot", "s.png"))["rows"]
    assert all(0 < row["loss"] < np.inf for row in rows)


def test_ctrl_c_while_verifying(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_sampled_plain.HeavyBall, "advance", stop)
    document = json.loads(run("schedule", *SMALL, "--verify", "--json", code=130))
    assert document["interrupted"]
    assert "sampled" not in document["rows"][0]


def test_picture(problem, found):
    sampled = np.array([[1.0, 2.0, 3.0]] * len(found))
    rates, losses = plot.schedules(found, T, sampled=sampled, title="a title").axes
    names = [label.get_text() for label in losses.get_yticklabels()]
    assert (names.index("best of 10 pieces"), names.index("constant")) == tuple(
        [one.name for one in found].index(name) for name in ("best of 10 pieces", "constant")
    )
    base = next(one.loss for one in found if one.name == "constant")
    points = [line.get_xdata()[0] for line in losses.lines[: 2 * len(found) : 2]]
    np.testing.assert_allclose(points, [one.loss / base for one in found])
    for line, one in zip(rates.lines, found, strict=True):
        steps = np.round(np.asarray(line.get_xdata()) * T).astype(int)
        expected = one.lr(steps) if callable(one.lr) else np.full(steps.size, one.lr)
        np.testing.assert_allclose(line.get_ydata(), expected)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--horizon", "0"], "horizon: expected an integer from 1 to 1e+15"),
        (["--tau", "3"], "tau: expected a finite number with tau <= 1, got 3.0"),
        (["--pieces", "0"], "pieces: expected an integer from 1 to 80"),
        (["--pieces", "81"], "pieces: expected an integer from 1 to 80"),
        (["--batch-size", "61"], "batch_size: expected values from 1 to 60"),
        (["--momentum", "1"], "momentum: expected a finite number"),
        (["--label-noise", "-1"], "label_noise: expected a finite number"),
        (["--replicates", "10"], "--replicates: expected only with --verify"),
        (["--verify", "--replicates", "1"], "replicates: expected an integer >= 2"),
        (["--tau", "nan"], "tau: expected a finite number"),
        (["--sampling", "reshuffle"], "invalid choice: 'reshuffle'"),
        (["--plot", "s.txt"], "expected a name ending in .png"),
    ],
)
def test_bad_input(run, words, told):
    assert told in run("schedule", *SMALL, *words, code=2)


def test_where_the_theory_fails_it_says_so(run):
    """A small random basis at large momentum: the exact threshold is a third below the closure's."""
    words = ["schedule", "--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "60"]
    words += ["--horizon", "200", "--pieces", "4"]
    facts = json.loads(run(*words, "--momentum", "0.9", "--verify", "--replicates", "20", "--json"))
    problem, sgd = ss.QuadraticProblem.power_law(60, 1.5, 1.0), ss.SGD(1.0, 0.9, 10)
    assert facts["max_lr"] == stability.max_lr(problem, sgd)
    assert facts["max_lr_exact"] == pytest.approx(stability.max_lr(problem, sgd, "exact"), rel=1e-3)
    assert facts["max_lr_exact"] < 0.9 * facts["max_lr"]
    threshold, sampled = facts["warnings"]
    assert "the exact threshold is" in threshold
    assert "linear" in threshold  # whose first rate is 0.92 of it
    assert "best of 4 pieces" in sampled
    for row in facts["rows"]:
        known = verdict(problem, replace(sgd, lr=row["largest_lr"]))
        assert (row["stable"], row["stable_reason"]) == (known.stable, known.reason)
    assert json.loads(run(*words, "--json", "--momentum", "0", "--batch-size", "30"))["warnings"] == []


def test_what_a_lanczos_quadrature_does_not_tell(run):
    """The largest rates alone may be known to be too large; the error of losses is that of a run by steps."""
    whole = ss.QuadraticProblem.power_law(60, 1.5, 1.0)
    known = ss.QuadraticProblem.from_operator(whole.kernel, whole.residual, n_lanczos=4)
    results.save_problem(known, "l.nc")
    words = ["--batch-size", "4", "--horizon", "100", "--pieces", "1"]
    facts = json.loads(run("schedule", "--spectrum", "l.nc", *words, "--json"))
    constant = next(row for row in facts["rows"] if row["name"] == "constant")
    assert constant["stable"] is None
    assert "the kernel itself" in constant["stable_reason"]
    with pytest.warns(RuntimeWarning, match="Lanczos quadrature"):
        curve = ss.simulate(known, ss.SGD(constant["lr"], 0.0, 4), ss.SpectralDiagonal(), 100, record=[100])
    assert constant["loss_error"] == pytest.approx(curve["error_estimate"].item(), rel=1e-6)
    assert constant["loss_error"] > 0.1
    assert any("Lanczos quadrature" in text and "constant" in text for text in facts["warnings"])


def test_a_form_is_no_worse_than_the_constant_that_it_contains():
    """With momentum 0.9 the best power is 0."""
    problem = ss.QuadraticProblem.power_law(100, 1.5, 1.0)
    sgd = ss.SGD(1.0, 0.9, 10)
    constant, power = (best_schedules.best_of_form(form, problem, sgd, 300) for form in ("constant", "power"))
    assert power.loss <= constant.loss * (1 + 1e-9)


def test_a_loss_of_zero_and_ratios_without_measure(run):
    words = ["schedule", "--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "1", "--batch-size", "1"]
    lines = run(*words, "--horizon", "5").splitlines()
    assert max(len(line) for line in lines[1:12]) < 100
    assert run(*words, "--horizon", "1").splitlines()[0].startswith("power law ν = 1.5, κ = 3, N = 1: 1 step, ")


def test_without_a_residual_there_is_nothing_to_learn(run):
    np.savez("k.npz", kernel=np.eye(4), residual=np.zeros(4))
    told = run("schedule", "--kernel", "k.npz", "--batch-size", "2", "--horizon", "5", code=2)
    assert "residual: expected one that is not zero" in told


def test_a_horizon_that_does_not_fit_into_memory(run, monkeypatch):
    monkeypatch.setattr("sgdsim.common.memory.available", lambda: 1e6)
    assert "take a smaller --horizon" in run("schedule", *SMALL[:4], "--horizon", "20000", code=2)
