"""`sgdsim stability` and `sgdsim recommend`, their pictures, and the check of a recommendation by simulation."""

import json
import math
import re

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import plot, results
from sgdsim.cli import main
from sgdsim.recurrence import contour
from sgdsim.regimes import BatchAveraged, SampledLinearized, SpectralDiagonal, _sampled_plain
from sgdsim.studies import verification
from sgdsim.theory import inside, optimal, power_law, stability, verdicts

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3"]
DIGITS = ["--n", "40", "--width", "20", "--device", "cpu"]


@pytest.fixture
def document(run):
    """Run with --json: the one document on standard output."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    def call(*words, **options):
        text = run(*words, "--json", **options)
        assert text.count("\n") == 1
        return json.loads(text, parse_constant=refuse)

    return call


@pytest.fixture
def small():
    return ss.QuadraticProblem.power_law(200, 1.5, 3.0)


# stability


def test_every_level_of_every_row(document):
    words = ["--n", "60", "--batch-size", "2", "7", "60", "--momentum", "-0.4", "0", "0.8", "--tau", "1", "-1"]
    found = document("stability", *POWER, *words, "--exact")
    problem = ss.QuadraticProblem.power_law(60, 1.5, 3.0)
    expected = [(b, beta, tau) for b in (2, 7, 60) for beta in (-0.4, 0.0, 0.8) for tau in (1.0, -1.0)]
    assert [(row["batch_size"], row["momentum"], row["tau"]) for row in found["rows"]] == expected
    for row in found["rows"]:
        sgd = ss.SGD(1.0, row["momentum"], row["batch_size"])
        assert row["noise"] == pytest.approx((60 - row["batch_size"]) / (59 * row["batch_size"]), rel=1e-12)
        assert row["full_batch"] == stability.max_lr(problem, sgd, "full-batch") == 2 * (1 + row["momentum"])
        assert row["spectral_diagonal"] == stability.max_lr(problem, sgd, tau=row["tau"])
        assert row["exact"] == pytest.approx(stability.max_lr(problem, sgd, "exact"), rel=1e-6)
        assert row["torch_lr_per_alpha"] == problem.torch_lr(1.0)
        assert row["note"] is None
        if row["batch_size"] == 60:
            assert row["exact"] == row["spectral_diagonal"] == row["full_batch"]
    assert not found["interrupted"]


def test_sampling_sets_the_noise(document):
    words = ["--n", "20", "--batch-size", "20", "30", "--momentum", "0"]
    rows = document("stability", *POWER, *words, "--sampling", "with-replacement")["rows"]
    assert [row["noise"] for row in rows] == [1 / 20, 1 / 30]
    assert rows[0]["exact"] is None


def test_published_numbers(document):
    """[VKY]: λ_crit for ν = 1.5 and N = 1000; the threshold for N = 10⁴, b = 1."""
    (entry,) = document("stability", *POWER, "--n", "1000", "--batch-size", "1")["critical"]
    assert entry["critical_eigenvalue"] == pytest.approx(2.14772, rel=2e-6)
    assert entry["effective_lr"] == pytest.approx(2 / 2.14772, rel=2e-6)
    row, _ = document("stability", *POWER, "--n", "10000", "--batch-size", "1")["rows"]
    assert row["spectral_diagonal"] == pytest.approx(0.77, abs=0.005)


@pytest.mark.parametrize("tau", [1.0, 0.5, -1.0])
def test_the_bound_on_the_effective_learning_rate_is_the_limit_of_the_rows(document, tau):
    words = ["--n", "300", "--batch-size", "1", "10", "300", "--momentum", "0.99999", "--tau", f"{tau}"]
    found = document("stability", *POWER, *words)
    for row, entry in zip(found["rows"], found["critical"], strict=True):
        assert (row["batch_size"], row["tau"]) == (entry["batch_size"], entry["tau"])
        if row["batch_size"] == 300:
            assert entry["effective_lr"] is None
        else:
            assert row["spectral_diagonal"] / 1e-5 == pytest.approx(entry["effective_lr"], rel=1e-3)


def test_the_table(run):
    lines = run("stability", *POWER, "--n", "120", "--momentum", "0", "0.5").splitlines()
    assert lines[0] == "power law ν = 1.5, κ = 3, N = 120: largest stable learning rate"
    assert lines[1].split() == [
        "batch", "momentum", "tau", "full", "batch", "spectral-diagonal", "surely", "stable",
    ]  # fmt: skip
    assert [line.split()[:3] for line in lines[3:9]] == [
        [b, beta, "1"] for b in ("1", "10", "100") for beta in ("0", "0.5")
    ]
    problem = ss.QuadraticProblem.power_law(120, 1.5, 3.0)
    surely = float(verdicts.surely_stable(problem, np.zeros(1), 1.0)[0])
    assert lines[3].split()[-2:] == [f"{stability.max_lr(problem, ss.SGD(1.0, 0.0, 1)):.4g}", f"{surely:.4g}"]
    assert verdicts.verdict(problem, ss.SGD(0.999 * surely, 0.0, 1)).reason.startswith("Ũ(1) is below 1 at every")
    assert not verdicts.verdict(problem, ss.SGD(1.001 * surely, 0.0, 1)).reason.startswith("Ũ(1) is below 1 at every")
    assert f"λ_crit = {stability.critical_eigenvalue(problem):.6g}" in lines[10]
    assert lines[-1].startswith("lr 1 is 120 in torch.optim.SGD.")
    with_exact = run("stability", *POWER, "--n", "120", "--momentum", "0", "--exact").splitlines()
    assert with_exact[1].split()[-1] == "exact"
    small = run("stability", *POWER, "--n", "30", "--momentum", "0").splitlines()
    assert [line.split()[0] for line in small[3:5]] == ["1", "10"]  # the batch sizes that 30 points fill
    assert small[5] == ""


def test_where_only_a_necessary_condition_is_known(run, document):
    words = ["--n", "50", "--batch-size", "1", "10", "--momentum", "0", "--tau", "3"]
    one, ten = document("stability", *POWER, *words)["rows"]
    assert "τ = 3 > 1" in one["note"]
    assert ten["note"] == one["note"]
    text = run("stability", *POWER, *words)
    assert "* τ = 3 > 1" in text
    assert f"{one['spectral_diagonal']:.4g}*" in text


@pytest.mark.parametrize(("nu", "word"), [(0.8, "eventual"), (0.5, "immediate"), (1.0, "eventual"), (1.01, None)])
def test_infinite_spectra_that_diverge_are_labelled(document, nu, word):
    words = ["--dataset", "power_law", "--nu", f"{nu}", "--kappa", "1", "--n", "40"]
    for command in ("stability", "recommend"):
        notes = document(command, *words, "--batch-size", "5")["notes"]
        found = [note for note in notes if "infinite spectrum SGD with noise diverges" in note]
        assert len(found) == (word is not None)
        assert all(f"{word} divergence" in note and "N = 40" in note for note in found)
    assert document("stability", *words, "--batch-size", "40")["notes"] == []  # full batch: no noise


def test_a_network(document):
    (row,) = document("stability", *DIGITS, "--batch-size", "5", "--momentum", "0.3", "--exact")["rows"]
    network = ss.NetworkProblem(ss.networks.MLP(20, seed=0), ss.datasets.load("digits", 40, 0, n_test=0), device="cpu")
    sgd = ss.SGD(1.0, 0.3, 5)
    assert row["exact"] == pytest.approx(stability.max_lr(network.quadratic, sgd, "exact"), rel=1e-6)
    assert row["torch_lr_per_alpha"] == pytest.approx(40 / network.quadratic.spectrum.scale, rel=1e-12)


def test_ctrl_c_keeps_the_rest_of_the_table(document, monkeypatch):
    levels = stability.max_lr

    def stop(problem, sgd, level="spectral-diagonal", **options):
        if level == "exact" and sgd.momentum > 0:
            raise KeyboardInterrupt
        return levels(problem, sgd, level, **options)

    monkeypatch.setattr(stability, "max_lr", stop)
    words = ["--n", "30", "--batch-size", "5", "--momentum", "0", "0.5", "0.7", "--exact", "--plot", "map.png"]
    found = document("stability", *POWER, *words, code=130)
    assert found["interrupted"]
    assert [row["exact"] is None for row in found["rows"]] == [False, True, True]
    assert None not in [row["spectral_diagonal"] for row in found["rows"]]


# recommend


def test_recommendation_in_a_noise_dominated_problem(document, small):
    found = document("recommend", *POWER, "--n", "200", "--batch-size", "4", "--horizon", "500")
    known = inside.trusted(small, ss.SGD(1.0, 0.0, 4), 500)
    best, closure = known.best, optimal.best(small, batch_size=4, horizon=500)
    assert known.closure == closure
    assert found["best"] == {
        "lr": best.lr, "torch_lr": small.torch_lr(best.lr), "momentum": best.momentum, "loss": best.loss,
        "effective_lr": best.lr / (1 - best.momentum), "exact_loss": known.error.loss,
        "closure_error": known.error.relative,
    }  # fmt: skip
    assert (found["closure_best"]["lr"], found["closure_best"]["loss"]) == (closure.lr, closure.loss)
    assert found["plain"]["loss"] == best.plain_loss
    assert found["gain"] == known.gain >= 0
    assert found["stable"] is True
    run = ss.simulate(small, ss.SGD(best.lr, best.momentum, 4), SpectralDiagonal(), 500)
    assert found["best"]["loss"] == pytest.approx(float(run["loss"].values.ravel()[-1]), rel=1e-8)
    for row, momentum in zip(found["max_lr"], (0.0, best.momentum), strict=True):
        sgd = ss.SGD(1.0, momentum, 4)
        assert row["momentum"] == momentum
        for name, level in (
            ("full_batch", "full-batch"), ("spectral_diagonal", "spectral-diagonal"), ("exact", "exact"),
        ):  # fmt: skip
            assert row[name] == pytest.approx(stability.max_lr(small, sgd, level), rel=1e-6)
            assert row["torch_lr"][name] == pytest.approx(small.torch_lr(row[name]), rel=1e-12)
    law, expected = found["law"], power_law.predict(small, ss.SGD(best.lr, best.momentum, 4))
    assert (law["source"], law["nu"], law["zeta"], law["phase"]) == ("given", 1.5, 2.0, "noise-dominated")
    assert (law["exponent"], law["constant"]) == (expected.exponent, expected.constant)
    assert law["crossover"] == expected.crossover
    assert found["cutoff"] == pytest.approx(expected.cutoff, rel=1e-9)
    late = optimal.best(small, batch_size=4, law=power_law.PowerLaw.of(small))
    assert law["asymptotic"]["constant"] == late.loss
    assert law["asymptotic"]["negative_momentum"] is True
    assert found["verify"] is found["jacobi"] is None


def test_the_late_optimum_in_a_signal_dominated_problem(document):
    """Only α/(1−β) counts; what is said about t → ∞ is what the search for a long horizon finds."""
    words = ["--dataset", "power_law", "--nu", "2", "--kappa", "1", "--n", "20000", "--batch-size", "10"]
    found = document("recommend", *words, "--horizon", "20000")
    late, best = found["law"]["asymptotic"], found["best"]
    assert found["law"]["phase"] == "signal-dominated"
    assert late["momentum"] is None
    assert best["lr"] / (1 - best["momentum"]) == pytest.approx(late["effective_lr"], rel=0.1)
    assert best["loss"] == pytest.approx(late["constant"] * 20000.0 ** -late["exponent"], rel=0.03)
    assert found["max_lr"][0]["exact"] is None  # N is too large for it


def test_negative_momentum_is_told(run):
    text = run("recommend", *POWER, "--n", "1000", "--batch-size", "10", "--horizon", "10000")
    assert "No gain of momentum is claimed: the closure's own error here is larger" in text
    assert re.search(r"^best +0\.747\d? +\(747\.\d\) +-0\.143", text, re.MULTILINE)  # published: (0.73, −0.14)
    assert "noise-dominated" in text
    assert re.search(r"within 10% for t from 1\.3\de\+03 to 6\.\d+e\+03", text)
    positive = run("recommend", *DIGITS, "--batch-size", "5", "--horizon", "100")
    assert "Positive momentum wins" in positive
    assert "Both settings are the best by this theory" in positive  # the losses alone are those of the exact average


def test_a_loss_that_underflows_is_no_percentage(run):
    text = run("recommend", *POWER, "--n", "10", "--batch-size", "10", "--horizon", "3000")
    assert "a loss below the smallest number of floating point" in text
    assert "100%" not in text


def test_no_power_law(document, tmp_path):
    kernel = np.diag([1.0, 0.5, 0.25, 0.1]) + 0.05
    np.savez(tmp_path / "k.npz", kernel=kernel, residual=np.array([1.0, 2.0, -1.0, 0.5]))
    found = document("recommend", "--kernel", "k.npz", "--batch-size", "2", "--horizon", "50", "--plot", "r.png")
    assert found["law"]["source"] is None
    assert "30 eigenvalues" in found["law"]["reason"]
    assert 0 < found["best"]["loss"] < found["plain"]["loss"] * (1 + 1e-9)
    assert found["max_lr"][1]["exact"] > 0
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_a_fitted_law_comes_with_its_doubts(document):
    found = document("recommend", "--n", "300", "--width", "100", "--device", "cpu", "--horizon", "1000")
    problem = ss.NetworkProblem(ss.networks.MLP(100, seed=0), ss.datasets.load("digits", 300, 0, n_test=0))
    fit = ss.fit_power_law(problem)
    assert fit.warnings
    assert set(fit.warnings) <= set(found["notes"])
    assert found["law"]["fit"]["nu"]["value"] == pytest.approx(fit.nu.value, rel=1e-6)


def test_a_matrix_free_problem(document, run):
    network = ss.NetworkProblem(ss.networks.MLP(20, seed=0), ss.datasets.load("digits", 40, 0, n_test=0), device="cpu")
    theta = ss.ntk.empirical_ntk(network.network, network.data.x)
    residual = network.initial_outputs[0] - network.data.y
    results.save_problem(ss.QuadraticProblem.from_operator(theta, residual, n_lanczos=15, n_probes=4), "s.nc")
    found = document("recommend", "--spectrum", "s.nc", "--batch-size", "5", "--horizon", "100")
    direct = document("recommend", *DIGITS, "--batch-size", "5", "--horizon", "100")
    assert found["best"]["loss"] == pytest.approx(direct["best"]["loss"], rel=0.1)
    assert found["max_lr"][0]["exact"] is None
    assert "multiplicity" in found["law"]["reason"]
    assert "eigenvectors" in run("stability", "--spectrum", "s.nc", "--exact", code=2)


@pytest.mark.parametrize("horizon", ["1", "2", "1e15"])
@pytest.mark.parametrize("batch", ["1", "30"])
def test_short_and_endless_horizons_and_full_batches(run, document, horizon, batch, tmp_path):
    words = ["recommend", *POWER, "--n", "30", "--batch-size", batch, "--horizon", horizon]
    found = document(*words, *(["--plot", "r.png"] if horizon != "2" else []))
    assert found["best"]["loss"] <= found["plain"]["loss"]
    assert 0 < found["best"]["lr"] < found["max_lr"][1]["spectral_diagonal"]
    assert horizon == "2" or (tmp_path / "r.png").stat().st_size > 10_000
    assert "predicted loss" in run(*words)


def test_the_exact_threshold_is_kept(document, run):
    """At N = 100 the spectral-diagonal optimum for a long horizon lies where the mean over batches grows."""
    found = document("recommend", *POWER, "--n", "100", "--batch-size", "10", "--horizon", "10000")
    assert found["stable"] is True
    assert found["best"]["lr"] < found["max_lr"][1]["exact"]
    problem = ss.QuadraticProblem.power_law(100, 1.5, 3.0)
    closure = ss.SGD(found["closure_best"]["lr"], found["closure_best"]["momentum"], 10)
    assert not stability.averaged_is_stable(problem, closure)
    assert "The closure alone would take" in run("recommend", *POWER, "--n", "100", "--horizon", "10000")


def test_jacobi(run, document, small):
    words = ["recommend", *POWER, "--n", "200", "--batch-size", "4", "--horizon", "30", "--jacobi"]
    found = document(*words)["jacobi"]
    expected = optimal.best_jacobi(small, horizon=30, noise=float((200 - 4) / (199 * 4)))
    assert (found["a"], found["loss"]) == (expected.a, expected.loss)
    text = run(*words)
    assert "Warning: it diverges under batch noise" in text
    schedule = re.search(r"lr (jacobi:\S+) momentum (jacobi:\S+)", text).groups()  # as other commands take it
    again = ["--lr", schedule[0], "--momentum", schedule[1], "--batch-size", "200", "--n-steps", "30"]
    simulated = document("simulate", *POWER, "--n", "200", *again)["rows"][0]["regimes"]["diagonal:tau=1"]
    assert simulated["final_loss"] == pytest.approx(expected.loss, rel=1e-3)


# verify


def test_verify_is_a_paired_comparison(small):
    found = verification.verify(
        small, 0.4, 0.2, batch_size=8, horizon=60, regimes=[SampledLinearized()], replicates=12, seed=3
    )
    lr, momenta = [0.4, 0.32, 0.48, 0.4, 0.4], [0.2, 0.2, 0.2, 1 - 0.64, 1 - 0.96]
    assert [p.lr for p in found.points] == pytest.approx(lr)
    assert [p.momentum for p in found.points] == pytest.approx(momenta)
    assert [p.theory for p in found.points] == pytest.approx(
        [
            contour.loss_at(small, 60, lr=a, momentum=b, batch_size=8).loss.item()
            for a, b in zip(lr, momenta, strict=True)
        ]
    )
    losses = np.array(
        [
            ss.simulate(small, ss.SGD(a, b, 8), SampledLinearized(), 60, replicates=12, seed=3)["loss"].values[0, :, -1]
            for a, b in zip(lr, momenta, strict=True)
        ]
    )
    (sampled,) = found.regimes
    np.testing.assert_allclose(sampled.mean, losses.mean(1), rtol=1e-10)
    np.testing.assert_allclose(sampled.difference, (losses - losses[0]).mean(1), rtol=1e-8)
    np.testing.assert_allclose(sampled.difference_stderr[1:], (losses - losses[0]).std(1, ddof=1)[1:] / 12**0.5)
    np.testing.assert_allclose(sampled.log_ratio, np.log(losses / losses[0]).mean(1), rtol=1e-8)
    for i, verdict in enumerate(sampled.verdicts, start=1):
        significant = abs(sampled.difference[i]) > 2 * sampled.difference_stderr[i]
        assert verdict != "not distinguishable" or not significant
        if significant:
            assert verdict == ("higher" if sampled.difference[i] > 0 else "lower")


def test_verify_tells_a_minimum_from_another_point(small):
    options = {"batch_size": 8, "horizon": 300, "regimes": [SampledLinearized()], "replicates": 20}
    best = optimal.best(small, batch_size=8, horizon=300)
    (good,) = verification.verify(small, best.lr, best.momentum, **options).regimes
    assert good.is_minimum
    assert "lower" not in good.verdicts
    (slow,) = verification.verify(small, 0.05 * best.lr, 0.0, **options).regimes
    assert not slow.is_minimum
    assert slow.verdicts[:2] == ("higher", "lower")  # less, and more of a learning rate that is too small


def test_verify_where_neighbours_diverge(small):
    (found,) = verification.verify(
        small, 1.9, 0.0, batch_size=200, horizon=3000, regimes=[SampledLinearized()], replicates=2
    ).regimes
    assert found.verdicts[1] == "diverges"  # 2.28 > 2(1 + β)
    assert np.isinf(found.mean[2])
    assert found.diverged.tolist() == [0, 0, 2, 0, 2]  # the last one has β = −0.2
    assert np.isnan(found.difference[2])
    json.dumps(found.as_dict(), allow_nan=False)
    (at_start,) = verification.verify(
        small, 2.2, 0.0, batch_size=200, horizon=3000, regimes=[SampledLinearized()], replicates=2
    ).regimes
    assert not at_start.is_minimum
    assert at_start.verdicts[0] == "lower"  # 1.76 converges


def test_verify_leaves_out_momenta_that_are_none(small):
    found = verification.verify(small, 0.05, -0.8, batch_size=8, horizon=5, regimes=[SampledLinearized()], replicates=2)
    assert [p.name for p in found.points] == ["recommended", "lr -20%", "lr +20%", "1-momentum -20%"]
    with pytest.raises(ss.InputError, match="sample batches"):
        verification.verify(small, 0.1, 0.0, batch_size=8, horizon=5, regimes=[BatchAveraged()], replicates=2)


def test_verify_on_the_command_line(run, document):
    words = ["recommend", *DIGITS, "--batch-size", "5", "--horizon", "60", "--verify", "--replicates", "6"]
    found = document(*words)
    checked = found["verify"]
    assert list(checked["regimes"]) == ["sampled", "network"]
    assert checked["replicates"] == 6
    first = checked["points"][0]
    assert (first["lr"], first["momentum"]) == (found["best"]["lr"], found["best"]["momentum"])
    assert first["predicted_loss"] == pytest.approx(found["best"]["loss"], rel=1e-9)
    for regime in checked["regimes"].values():
        assert regime["points"][0]["verdict"] is None
        assert {p["verdict"] for p in regime["points"][1:]} <= {"higher", "lower", "not distinguishable", "diverges"}
        assert regime["points"][0]["mean"] == pytest.approx(found["best"]["loss"], rel=1)
    text = run(*words)
    assert re.findall(r"^after 60 steps .* (\w+), mean ", text, re.MULTILINE) == ["sampled", "network"]
    assert re.search(r"^network: ", text, re.MULTILINE)
    (only,) = document(*words[:-2], "sampled", "--replicates", "2")["verify"]["regimes"]
    assert only == "sampled"


def test_ctrl_c_while_verifying(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_sampled_plain.HeavyBall, "advance", stop)
    words = ["recommend", *POWER, "--n", "30", "--batch-size", "5", "--horizon", "50", "--verify", "--json"]
    assert main(words) == 130
    out, err = capsys.readouterr()
    assert "interrupted" in err
    found = json.loads(out)
    assert found["interrupted"]
    assert found["verify"]["regimes"] == {}
    assert found["best"]["loss"] > 0


# Bad input.


SMALL = [*POWER, "--n", "30"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("stability --momentum 1", ["momentum", "1.0"]),
        ("stability --momentum -1", ["momentum", "-1.0"]),
        ("stability --momentum 0.5 nan", ["momentum", "nan"]),
        ("stability --momentum 0 0.5 0", ["momentum", "different"]),
        ("stability --momentum", ["--momentum", "at least one"]),
        ("stability --batch-size", ["--batch-size", "at least one"]),
        ("stability --tau", ["--tau", "at least one"]),
        ("stability --tau 1 1", ["tau", "different"]),
        ("stability --tau inf", ["tau", "inf"]),
        ("stability --batch-size 0", ["batch_size", "0"]),
        ("stability --batch-size 31", ["batch_size", "30", "31"]),
        ("stability --batch-size 2.5", ["--batch-size", "2.5"]),
        ("stability --batch-size 5 5", ["batch_size", "different"]),
        ("stability --sampling reshuffle", ["--sampling", "reshuffle"]),
        ("stability --lr 1", ["unrecognized", "--lr"]),
        ("stability --out x.txt", ["--out", "x.txt"]),
        ("stability --exact --n 4001", ["--exact", "4000", "4001", "--n"]),
        ("stability --nu 0", ["nu", "> 0"]),
        ("stability --width 10", ["--width", "data sets"]),
        ("stability --n-test 10", ["--n-test"]),
        ("stability --seed -1", ["seed", "-1"]),
        ("stability --plot map.gif", [".png", "map.gif"]),
        ("stability --plot no/map.png", ["map.png", "No such file"]),
        ("stability --tau 1 2 3 4 5 --plot map.png", ["--plot", "tau", "5"]),
        ("stability --batch-size 1 2 3 4 5 6 7 8 9 10 11 12 13 --plot map.png", ["--plot", "batch sizes", "13"]),
        ("recommend --horizon 0", ["horizon", "0"]),
        ("recommend --horizon -5", ["horizon", "-5"]),
        ("recommend --horizon nan", ["--horizon", "nan"]),
        ("recommend --horizon 1e16", ["horizon", "10000000000000000"]),
        ("recommend --batch-size 0", ["batch_size", "0"]),
        ("recommend --batch-size 31", ["batch_size", "30", "31"]),
        ("recommend --batch-size 5 10 --plot r.png", ["--plot", "one --batch-size", "2"]),
        ("recommend --tau nan", ["tau", "nan"]),
        ("recommend --tau 3 --batch-size 1", ["tau", "<= 1", "3"]),
        ("recommend --momentum 0.5", ["unrecognized", "--momentum"]),
        ("recommend --replicates 5", ["--replicates", "--verify"]),
        ("recommend --verify --replicates 1", ["replicates", "1"]),
        ("recommend --verify --replicates 0", ["replicates", "0"]),
        ("recommend --verify averaged", ["--verify", "averaged"]),
        ("recommend --verify network", ["network", "without a network"]),
        ("recommend --verify sampled sampled", ["regimes", "different"]),
        ("recommend --sampling reshuffle", ["--sampling", "reshuffle"]),
        ("recommend --nu -1", ["nu", "-1"]),
        ("recommend --plot r.txt", [".png", "r.txt"]),
    ],
)
def test_bad_requests(run, tmp_path, line, words):
    command, *rest = line.split()
    error = run(command, *SMALL, *rest, code=2)
    assert error.startswith(f"sgdsim {command}: error: ")
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


# Pictures.


def lines(ax):
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def test_the_map_draws_the_three_boundaries(small):
    exact = [(1, 0.0, 0.5), (10, 0.9, 0.7)]
    figure = plot.stability_map(small, [1, 10, 200], taus=[1.0, -1.0], exact=exact)
    assert [ax.get_title() for ax in figure.axes] == ["b = 1", "b = 10", "b = 200"]
    for ax, b in zip(figure.axes, (1, 10, 200), strict=True):
        drawn = lines(ax)
        beta, full = drawn["full batch"].T
        np.testing.assert_allclose(full, 2 * (1 + beta))
        assert (beta[0], beta[-1]) == (-0.995, 0.999)
        gamma = (200 - b) / (199 * b)
        for tau, name in ((1.0, "1"), (-1.0, "−1")):
            limit = stability.diagonal_max_lr(small, momentum=beta, noise=gamma, tau=tau)
            np.testing.assert_array_equal(drawn[f"spectral-diagonal, τ = {name}"][:, 1], limit)
            if b < 200:
                slope = drawn[f"limit at β → 1, τ = {name}"][:, 1] / (1 - beta)
                np.testing.assert_allclose(slope, 2 / (gamma * stability.critical_eigenvalue(small, tau)))
                np.testing.assert_allclose(slope[-1] * (1 - beta[-1]), limit[-1], rtol=0.05)
        points = [row[1:] for row in exact if row[0] == b]
        assert drawn.get("exact", np.empty((0, 2))).tolist() == [list(point) for point in points]
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 6
    with pytest.raises(ss.InputError, match="batch sizes"):
        plot.stability_map(small, [])


def test_the_map_is_written(run, tmp_path):
    run("stability", *POWER, "--n", "50", "--batch-size", "1", "5", "--exact", "--plot", "map.png")
    run("stability", *POWER, "--n", "50", "--batch-size", "1", "5", "--plot", "map.svg")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "map.svg").read_text()
    assert "spectral-diagonal" in text
    assert "exact" not in text


def test_the_phase_diagram():
    laws = {"one": power_law.PowerLaw(1.5, 3.0), "two": power_law.PowerLaw(2.0, 1.0)}
    ax = plot.phase_diagram(laws)
    nu, zeta = lines(ax)["ζ = 2 − 1/ν"].T
    np.testing.assert_allclose(zeta, 2 - 1 / nu)
    for x, y in zip(nu[1:-1], zeta[1:-1], strict=True):
        assert power_law.phase(x, y - 1e-9) == power_law.SIGNAL
        assert power_law.phase(x, y + 1e-9) == power_law.NOISE
    marks = [line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() == "o"]
    assert marks == [[1.5, 2.0], [2.0, 0.5]]
    words = [text.get_text() for text in ax.texts]
    assert {"one", "two", "diverges at once", "diverges eventually"} <= set(words)
    assert len(plot.phase_diagram().lines) == 1


def test_the_phase_diagram_of_a_fit_shows_intervals(small):
    fit = ss.fit_power_law(small)
    ax = plot.phase_diagram(fit)
    (mark,) = [line for line in ax.lines if line.get_marker() == "o"]
    assert mark.get_xydata()[0].tolist() == [fit.nu.value, fit.zeta.value]
    assert len(ax.collections) >= 4  # two regions, two error bars
    with pytest.raises(ss.InputError, match="coefficients"):
        plot.phase_diagram(ss.fit_power_law(small.spectrum))


def test_the_prediction(small):
    problem = ss.QuadraticProblem.power_law(5000, 1.5, 3.0)
    found = power_law.predict(problem, ss.SGD(0.3, 0.0, 10))
    ax = plot.prediction(found)
    drawn = lines(ax)
    np.testing.assert_array_equal(drawn["spectral-diagonal, exact"][:, 1], found.loss)
    (law,) = [data for name, data in drawn.items() if name.startswith("$")]
    np.testing.assert_array_equal(law[:, 1], found.law)
    assert drawn["_cut-off"][0, 0] == found.cutoff
    assert drawn["_noise overtakes"][0, 0] == found.crossover
    (window,) = [patch for patch in ax.patches if patch.get_label() == "within 10%"]
    assert (window.get_x(), window.get_x() + window.get_width()) == pytest.approx(found.window)
    assert ax.get_title() == "noise-dominated"
    unstable = plot.prediction(power_law.predict(small, ss.SGD(1.9, 0.0, 1)))
    assert unstable.get_title() == "unstable"
    assert "_cut-off" not in lines(unstable)


def test_the_landscape_has_its_lowest_point_at_the_optimum(small, tmp_path):
    best = optimal.best(small, batch_size=8, horizon=300)
    gamma = (200 - 8) / (199 * 8)
    ax = plot.landscape(small, best, noise=gamma)
    drawn = lines(ax)
    beta, limit = drawn["largest stable by the closure"].T
    np.testing.assert_allclose(limit, stability.diagonal_max_lr(small, momentum=beta, noise=gamma), rtol=1e-9)
    assert drawn["best"].tolist() == [[best.momentum, best.lr]]
    assert drawn["best at β = 0"].tolist() == [[0.0, best.plain_lr]]
    lowest = ax.collections[0].get_paths()[0].vertices  # the region within 2% of the least loss
    inside = contour.loss_at(small, 300, lr=lowest[:, 1], momentum=lowest[:, 0], noise=gamma).loss / best.loss
    assert lowest[:, 0].min() < best.momentum < lowest[:, 0].max()
    assert lowest[:, 1].min() < best.lr < lowest[:, 1].max()
    assert inside.min() >= 1 - 1e-9
    assert np.median(inside) == pytest.approx(1.02, abs=0.01)
    with pytest.raises(ss.InputError, match="horizon"):
        plot.landscape(small, optimal.best(small, noise=gamma), noise=gamma)


def test_a_recommendation_is_drawn_with_and_without_a_law(small, tmp_path):
    best = optimal.best(small, batch_size=8, horizon=300)
    found = power_law.predict(small, ss.SGD(best.lr, best.momentum, 8))
    gamma = (200 - 8) / (199 * 8)
    full = plot.recommendation(small, best, noise=gamma, found=found, law=power_law.PowerLaw.of(small))
    assert [ax.get_xlabel() for ax in full.axes[:3]] == ["momentum β", "SGD step t", "exponent ν of the eigenvalues"]
    assert "_horizon" in lines(full.axes[1])
    bare = plot.recommendation(small, best, noise=gamma)
    assert [ax.get_title() for ax in bare.axes[:2]] == ["", "no power law"]
    steps, loss = lines(bare.axes[1])["spectral-diagonal, exact"].T
    expected = contour.loss_at(small, steps, lr=best.lr, momentum=best.momentum, batch_size=8).loss
    np.testing.assert_allclose(loss, expected, rtol=1e-9)
    plot.save(full, tmp_path / "r.pdf")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
    assert math.isfinite(best.gain)
