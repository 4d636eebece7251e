"""A power law in bins against all of its modes."""

import json

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import cli
from sgdsim.common.checks import InputError
from sgdsim.problem import power_modes
from sgdsim.recurrence import contour
from sgdsim.runs import results
from sgdsim.theory import power_law, stability

LAWS = [(1.5, 1.0, 0.0), (1.2, 0.1, 0.0), (1.05, 0.02, 0.0), (2.5, 4.0, 0.0), (0.7, 0.5, 0.0), (1.5, 0.5, 1e-4)]


def binned(n, nu, kappa, lambda_min=0.0):
    values, counts, c = power_modes.modes(n, nu, kappa, lambda_min)
    return ss.QuadraticProblem(ss.Spectrum(values, multiplicity=counts, size=n), np.sqrt(c))


def every(n, nu, kappa, lambda_min=0.0):
    return ss.QuadraticProblem.power_law(n, nu, kappa, lambda_min)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [10**5, 10**6])
def test_sums_over_modes(law, n):
    """Numbers of eigenvalues and Σ c_k exactly; thresholds, which are sums over λ, to 10⁻⁸."""
    short, whole = binned(n, *law), every(n, *law)
    assert short.eigenvalues.size < 3000
    assert short.multiplicity.sum() == pytest.approx(n, rel=1e-13)
    assert short.n == n
    assert (short.multiplicity > 0).all()
    assert short.initial_loss == pytest.approx(whole.initial_loss, rel=1e-12)
    for tau in (1.0, 0.0, -1.0):
        sgd = ss.SGD(1.0, 0.3, 7)
        limits = [stability.max_lr(problem, sgd, tau=tau) for problem in (short, whole)]
        assert limits[0] == pytest.approx(limits[1], rel=3e-7)  # of the search


@pytest.mark.parametrize("kappa", [0.01, 1.0, 6.0])
def test_sums_of_c_in_bins_are_differences_of_hurwitz_zetas(kappa):
    edges = power_modes._edges(1e12, 1.3)
    for (_, counts, c), a, b in zip(power_modes._bins(edges, kappa), edges, edges[1:], strict=False):
        assert counts.sum() == pytest.approx(b - a, rel=1e-14)
        differences = power_modes.tail_sum(kappa, a, np.inf) - power_modes.tail_sum(kappa, b, np.inf)
        # but for second differences at the ends, 1/24 of a mode there, which go to the neighbour's
        ends = (kappa + 1) * ((a - 0.5) ** (-kappa - 2) - (b - 0.5) ** (-kappa - 2)) / 24
        lost = 1e-15 * power_modes.tail_sum(kappa, a, np.inf)  # digits that the difference loses
        assert c.sum() - ends == pytest.approx(differences, rel=1e-11, abs=lost)


@pytest.mark.parametrize(
    ("law", "share", "momentum", "tau"),
    [(LAWS[0], 0.5, 0.0, 1.0), (LAWS[1], 0.9, 0.5, -1.0), (LAWS[2], 0.5, 0.9, 1.0), (LAWS[3], 0.3, -0.4, 0.0),
     (LAWS[5], 0.5, 0.3, 1.0), (LAWS[0], 0.5, 0.99, 1.0)],
)  # fmt: skip
def test_losses_to_ten_million_steps(law, share, momentum, tau):
    """By the contour, to where the last modes are learnt and beyond."""
    n, steps = 10**5, np.array([10, 1000, 30_000, 10**6, 3 * 10**7])
    whole, gamma = every(n, *law), 1 / 7
    lr = share * float(stability.diagonal_max_lr(whole, momentum=momentum, noise=gamma, tau=tau))
    found = [
        contour.loss_at(problem, steps, lr=lr, momentum=momentum, noise=gamma, tau=tau)
        for problem in (binned(n, *law), whole)
    ]
    for short, long, poor in zip(found[0].log_loss, found[1].log_loss, found[1].error, strict=True):
        # in the exponential tail e^{−x} second differences at the last mode are (x/N)²
        x = np.log(whole.initial_loss) - long
        assert abs(short - long) < 1e-10 + 10 * poor + (x / n) ** 2 / 10


@pytest.mark.parametrize("momentum", [0.0, 0.99, 0.999])
def test_losses_step_by_step(momentum):
    """By the recurrence, where momentum makes losses oscillate in log λ."""
    lr = 0.3 * (1 - momentum)
    runs = [
        ss.simulate(problem, ss.SGD(lr, momentum, 50), ss.SpectralDiagonal(method="recurrence"), 2000, record=100)
        for problem in (binned(20_000, 1.2, 0.2), every(20_000, 1.2, 0.2))
    ]
    np.testing.assert_allclose(runs[0]["loss"].values, runs[1]["loss"].values, rtol=1e-10)


def test_up_to_ten_million_every_mode_stands_by_itself():
    assert ss.QuadraticProblem.power_law(10**5, 1.5, 1.0).multiplicity is None
    many = ss.QuadraticProblem.power_law(power_modes.EXPLICIT + 1, 1.5, 1.0)
    assert many.multiplicity is not None
    assert many.n == power_modes.EXPLICIT + 1


def test_infinity_is_the_limit():
    """Losses times 2N, and thresholds; at N = 10¹⁵ all that is beyond has weight 10^−15κ."""
    endless, long = (ss.QuadraticProblem.power_law(n, 1.5, 1.0) for n in (float("inf"), 10**15))
    assert (endless.n, endless.normaliser, endless.initial_loss) == (np.inf, 1, pytest.approx(0.5, rel=1e-14))
    sgd = ss.SGD(0.4, 0.2, 5)
    steps = np.array([0, 100, 10**6, 10**8])
    curves = [contour.loss_curve(problem, sgd, steps).loss * problem.normaliser for problem in (endless, long)]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-9)
    assert stability.max_lr(endless, sgd) == pytest.approx(stability.max_lr(long, sgd), rel=1e-7)
    assert sgd.noise(endless.n) == 1 / 5


@pytest.mark.parametrize("kappa", [0.02, 0.5])
def test_a_small_kappa_is_not_cut_off(kappa):
    """The law's own constant at late times: at N = 10⁵ the loss falls below it, without end it does not."""
    sgd, t = ss.SGD(0.4, 0.0, 5), 10**12
    problem = ss.QuadraticProblem.power_law(float("inf"), 1.5, kappa)
    law = power_law.PowerLaw.of(problem)
    signal, _ = power_law.constants(problem, law, lr=0.4, noise=0.2)
    assert contour.loss_curve(problem, sgd, t).loss == pytest.approx(signal * t ** -(kappa / 1.5), rel=2e-5)
    # Σ_{k>N} c_k is what is left at N
    assert power_modes.tail_sum(kappa, 10**5 + 1, np.inf) == pytest.approx(
        power_modes.total(np.inf, kappa) - power_modes.total(10**5, kappa), rel=1e-9
    )


@pytest.mark.parametrize("nu", [1.001, 1.05, 1.5, 8.0, 60.0])
def test_all_beyond_the_last_bin_in_one_mode(nu):
    """Σλ_k = ζ(ν) and Σλ_k² = ζ(2ν)."""
    import scipy.special

    problem = ss.QuadraticProblem.power_law(float("inf"), nu, 0.3)
    for power in (1, 2):
        told = np.sum(problem.multiplicity * problem.eigenvalues**power)
        assert told == pytest.approx(scipy.special.zeta(power * nu), rel=1e-8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((float("inf"), 1.0, 1.0), "n: expected a finite number where the eigenvalues' sum is infinite"),
        ((float("inf"), 1.5, 1.0, 0.1), "n: expected a finite number"),
        ((-float("inf"), 1.5, 1.0), "n: expected an integer"),
        ((float("nan"), 1.5, 1.0), "n: expected an integer"),
        ((10**19, 1.5, 1.0), "n: expected an integer from 1 to 1e.18"),
    ],
)
def test_bad_sizes(arguments, words):
    with pytest.raises(InputError, match=words):
        ss.QuadraticProblem.power_law(*arguments)


def test_epochs_without_end_are_refused(capsys):
    words = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "inf", "--batch-size", "10"]
    assert cli.main(["epochs", *words, "--epochs", "2"]) == 2
    assert "epochs: expected a finite number of training points" in capsys.readouterr().err


def test_distance_and_leading_share():
    """Σ c_k/(Nλ_k) and the share of the first modes at the start; without end the first has no bound."""
    n = 10**12
    start = ss.QuadraticProblem.power_law(n, 1.5, 1.0)
    run = ss.simulate(start, ss.SGD(0.1), ss.SpectralDiagonal(), 1, observe=["distance", "leading_share:k=100000"])
    k = np.arange(1, 10**5 + 1.0)
    zeta = power_modes.tail_sum(1.0, 1, n)
    root = 2 * n**0.5 - 1.4603545088095868 + 0.5 * n**-0.5  # Σ k^{−1/2}, with ζ(1/2)
    assert run["distance"].values[0, 0, 0] == pytest.approx(root / zeta / n, rel=1e-9)
    assert run["leading_share_k100000"].values[0, 0, 0] == pytest.approx(np.sum(k**-2) / zeta, rel=1e-8)
    with pytest.raises(InputError, match="distance needs every λ_k, got an infinite spectrum"):
        ss.simulate(
            ss.QuadraticProblem.power_law(float("inf"), 1.5, 1.0), ss.SGD(0.1), ss.SpectralDiagonal(), 1,
            observe="distance",
        )  # fmt: skip


def test_regimes_that_need_a_basis_refuse():
    problem = ss.QuadraticProblem.power_law(10**12, 1.5, 1.0)
    for regime in (ss.SampledLinearized(), ss.BatchAveraged()):
        with pytest.raises(InputError, match="needs the kernel's eigenvectors, got a problem known by bins alone"):
            ss.simulate(problem, ss.SGD(0.1), regime, 5)
    with pytest.raises(InputError, match="every eigenvalue by itself"):
        ss.fit_power_law(problem)


@pytest.mark.parametrize("n", [10**12, float("inf")])
def test_files_and_the_command_line(tmp_path, monkeypatch, capsys, n):
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "0.1", "--n", f"{n:g}"]
    assert cli.main(["compare", *words, "--lr", "0.2", "--momentum", "0", "--n-steps", "1e9", "--out", "r.nc",
                     "--json"]) == 0  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    problem = ss.QuadraticProblem.power_law(n, 1.5, 0.1)
    assert facts["n"] == (None if np.isinf(n) else n)
    final = facts["rows"][0]["regimes"]["diagonal:tau=1"]["final_loss"]
    assert final == pytest.approx(float(contour.loss_curve(problem, ss.SGD(0.2, batch_size=10), 10**9).loss), rel=1e-9)
    assert results.problem_of(ss.load("r.nc")).n == n
    assert cli.main(["spectrum", *words, "--out", "s.nc", "--plot", "s.png"]) == 0
    stored = results.load_problem("s.nc")
    assert (stored.n, stored.fingerprint) == (n, problem.fingerprint)
    capsys.readouterr()
    for command in (["stability"], ["recommend", "--batch-size", "10", "--horizon", "1e6"],
                    ["budget", "--batch-size", "1", "4", "--n-steps", "200"],
                    ["landscape", "--lr", "0:1:4", "--momentum", "0:0.5:2", "--n-steps", "1e5", "--regime", "diagonal"],
                    ["schedule", "--batch-size", "10", "--horizon", "40"]):  # fmt: skip
        assert cli.main([*command, *words, "--json"]) == 0, command
        json.loads(capsys.readouterr().out)
        assert cli.main([*command, *words]) == 0, command
        assert "inf in torch" not in capsys.readouterr().out
