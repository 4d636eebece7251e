"""`sgdsim spectrum`, and the spectra and models that other commands take."""

import json
import re

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.cli import main

SIZES = ["--n", "60", "--width", "30", "--n-test", "20"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words, code=0):
        assert main(list(words)) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return call


@pytest.fixture
def problem():
    return ss.NetworkProblem(ss.networks.MLP(30, seed=0), ss.datasets.load("digits", 60, 0, n_test=20), device="cpu")


def test_numbers(run, problem, tmp_path):
    found = json.loads(run("spectrum", *SIZES, "--density", "--json", "--plot", "s.png"))
    quadratic = problem.quadratic
    np.testing.assert_allclose(found["eigenvalues"], quadratic.eigenvalues, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found["c"], quadratic.coefficients**2, rtol=1e-6, atol=1e-12)
    assert found["lambda_max"] == pytest.approx(quadratic.spectrum.scale, rel=1e-12)
    assert found["torch_lr"] == pytest.approx(quadratic.torch_lr(1.0), rel=1e-12)
    assert 0 < found["residual"] < 1e-12
    assert found["fit"]["nu"]["low"] < found["fit"]["nu"]["value"] < found["fit"]["nu"]["high"]
    decades = np.log10(found["density"]["eigenvalue"])
    assert np.trapezoid(found["density"]["per_decade"], decades) == pytest.approx(1, abs=0.1)
    assert found["peak_memory"] > 1e7
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    kinds = ss.ntk.contraction_plan(problem.network, problem.data.x)
    assert found["contraction"] == kinds
    assert "jacobian" not in kinds.values()
    text = run("spectrum", *SIZES)
    assert f"tangent kernel: {len(kinds)} parameters by layer structure, 0 by Jacobian" in text
    assert "tangent kernel" not in run("spectrum", *SIZES[:2], "--analytic")
    assert "95% interval" in text
    assert f"λ_max(Θ) = {quadratic.spectrum.scale:.6g}" in text


def test_a_flat_spectrum_has_no_exponent_and_says_so(run, tmp_path):
    np.save(tmp_path / "k.npy", np.eye(60))
    np.save(tmp_path / "r.npy", np.random.default_rng(1).standard_normal(60))
    text = run("spectrum", "--kernel", str(tmp_path / "k.npy"), "--residual", str(tmp_path / "r.npy"))
    assert re.search(r"ζ = κ/ν = \S+  \(95% interval \S+ … \S+\)", text)
    assert "∞" in text


def test_top_agrees_with_all(run):
    every = json.loads(run("spectrum", *SIZES, "--json"))
    top = json.loads(run("spectrum", *SIZES, "--top", "7", "--json"))
    np.testing.assert_allclose(top["eigenvalues"], every["eigenvalues"][:7], rtol=1e-9)
    np.testing.assert_allclose(top["c"], every["c"][:7], rtol=1e-6)
    assert max(top["eigenpair_residuals"]) < 1e-9
    assert top["c_total"] == pytest.approx(sum(every["c"]), rel=1e-9)
    tails = [line.split()[-1] for line in run("spectrum", *SIZES, "--top", "7").splitlines() if line.startswith("Σ")]
    assert float(tails[0]) == pytest.approx(sum(every["c"][6:]), rel=0.01)


def test_analytic_is_what_a_wide_network_has(run):
    analytic = json.loads(run("spectrum", *SIZES[:2], "--n-test", "20", "--analytic", "--json"))
    wide = json.loads(run("spectrum", *SIZES[:2], "--n-test", "20", "--width", "20000", "--json"))
    np.testing.assert_allclose(wide["eigenvalues"][:20], analytic["eigenvalues"][:20], rtol=0.1)
    assert analytic["lambda_max"] == pytest.approx(wide["lambda_max"], rel=0.03)
    data = ss.datasets.load("digits", 60, 0, n_test=20)
    assert sum(analytic["c"]) == pytest.approx(data.y @ data.y, rel=1e-9)  # the residual is −y


def test_a_saved_spectrum_is_a_problem(run, problem):
    run("spectrum", *SIZES, "--out", "s.nc")
    words = ["--n-steps", "20", "--replicates", "2", "--momentum", "0.3", "--json"]
    saved = json.loads(run("compare", "--spectrum", "s.nc", *words))
    direct = json.loads(run("compare", *SIZES, *words, "--regimes", "sampled", "averaged", "diagonal"))
    assert [row["regimes"].keys() for row in saved["rows"]] == [row["regimes"].keys() for row in direct["rows"]]
    for one, other in zip(saved["rows"], direct["rows"], strict=True):
        for name in one["regimes"]:
            for label in ("final_loss", "final_test_loss"):
                assert one["regimes"][name][label] == pytest.approx(other["regimes"][name][label], rel=1e-12)
    from sgdsim import results

    again = results.load_problem("s.nc")
    results.save_problem(again, "t.nc")
    assert results.load_problem("t.nc").fingerprint == again.fingerprint
    power = ss.QuadraticProblem.power_law(40, 1.5, 1.0, seed=2**70)
    results.save_problem(power, "p.nc")
    np.testing.assert_array_equal(results.load_problem("p.nc").kernel, power.kernel)


def test_own_model(run, tmp_path):
    (tmp_path / "my_model_for_tests.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Unflatten(1, (1, 8, 8)), torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(),\n"
        "                               torch.nn.Flatten(), torch.nn.Linear(144, 1))\n"
        "def tied():\n"
        "    first, act = torch.nn.Linear(64, 64), torch.nn.Tanh()\n"
        "    second = torch.nn.Linear(64, 64)\n"
        "    second.weight = first.weight\n"
        "    return torch.nn.Sequential(first, act, second, act, torch.nn.Linear(64, 1))\n"
        "def number():\n"
        "    return 3\n"
    )
    sizes = ["--n", "40", "--n-test", "10"]
    found = json.loads(run("spectrum", *sizes, "--model", "my_model_for_tests:make", "--json"))
    assert len(found["eigenvalues"]) == 40
    text = run("spectrum", *sizes, "--model", "my_model_for_tests:tied")
    assert "4 parameters by layer structure, 1 by Jacobian" in text
    rows = json.loads(
        run("compare", *sizes, "--model", "my_model_for_tests:make", "--n-steps", "10", "--replicates", "2", "--json")
    )["rows"]
    assert rows[0]["torch_lr"] == pytest.approx(found["torch_lr"], rel=1e-12)
    for text, words in {
        "my_model_for_tests:number": "torch.nn.Module",
        "my_model_for_tests:none": "no attribute",
        "no_such_module:make": "No module named",
        "my_model_for_tests": "MODULE:FACTORY",
    }.items():
        assert words in run("spectrum", *sizes, "--model", text, code=2)
    assert "--width" in run("spectrum", *sizes, "--model", "my_model_for_tests:make", "--width", "5", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "61"], "--top"), (["--top", "0"], "--top"), (["--top", "3", "--density"], "--top"),
        (["--plot", "s.txt"], "--plot: expected"),
        (["--dataset", "power_law", "--nu", "1", "--kappa", "1", "--analytic"], "--analytic"),
        (["--analytic", "--width", "7"], "--width"),
        (["--spectrum", "none.nc"], "found none"), (["--out", "none/s.nc"], "folder"),
    ],
)  # fmt: skip
def test_bad_requests(run, tmp_path, words, message):
    sizes = SIZES if not {"power_law", "--spectrum"} & set(words) else []
    error = run("spectrum", *sizes, *words, code=2)
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_no_spectrum(run):
    run(
        "simulate",
        "--dataset",
        "power_law",
        "--nu",
        "1.5",
        "--kappa",
        "1",
        "--n",
        "40",
        "--n-steps",
        "5",
        "--out",
        "r.nc",
    )
    assert "result of another command" in run("compare", "--spectrum", "r.nc", code=2)
