"""Error estimates of losses by Lanczos quadrature, against full decompositions."""

import json
import warnings
from functools import partial

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import lanczos, ntk, results, schedules
from sgdsim.cli import main
from sgdsim.problem.alternatives import relative_error
from sgdsim.recurrence import contour, doubt
from sgdsim.theory import stability

TIMES = np.array([1, 3, 10, 30, 100, 300, 1000, 3000, 10_000])


def clusters(n, seed):
    """Six narrow clusters of eigenvalues below one, spread over five decades."""
    rng = np.random.default_rng(seed)
    places = 10.0 ** -rng.uniform(0.5, 5, 6)
    values = np.sort(np.r_[1.0, np.resize(places, n - 1) * (1 + 1e-3 * rng.uniform(-1, 1, n - 1))])[::-1]
    return ss.QuadraticProblem(ss.Spectrum(values), rng.standard_normal(n) * values**0.4, basis_seed=seed)


@pytest.fixture(scope="module")
def kernels():
    data = ss.datasets.load("digits", 300, 0, n_test=0)
    return {
        "digits": ss.QuadraticProblem.from_kernel(ntk.analytic_ntk(data.x), -data.y),
        "power law": ss.QuadraticProblem.power_law(300, 1.5, 1.0, seed=0),
        "flat power law": ss.QuadraticProblem.power_law(200, 1.1, 0.4, seed=1),
        "steep power law": ss.QuadraticProblem.power_law(250, 2.2, 2.5, seed=2),
        "clusters": clusters(300, 0),
    }


def free(problem, m, **options):
    return ss.QuadraticProblem.from_operator(problem.kernel, problem.residual, n_lanczos=m, **options)


@pytest.mark.parametrize("m", [3, 20, 40, 80])
@pytest.mark.parametrize("lr", [0.5, 1.0])
def test_gauss_and_radau_bracket_the_full_batch_loss(kernels, m, lr):
    for problem in kernels.values():
        known = free(problem, m, n_probes=2, n_top=5)
        exact, low, high = (
            contour.loss_at(p, 10 * TIMES, lr=lr, noise=0.0).log_loss for p in (problem, known, known.alternatives[0])
        )
        assert (low <= exact + 1e-9).all()
        assert (exact <= high + 1e-9).all()


def test_errors_are_covered_and_stop_times_are_near_the_true_ones(kernels):
    """Within twice the estimate in 95% of hundreds of cases, from early times to where nothing is known."""
    covered, ratios = [], []
    for problem in kernels.values():
        for m in (20, 40, 80):
            known = free(problem, m, seed=m)
            for size, momentum in ((problem.n, 0.0), (problem.n, 0.8), (10, 0.0), (10, 0.9), (1, 0.5)):
                sgd = ss.SGD(1.0, momentum, size)
                lr, noise = 0.5 * stability.max_lr(problem, sgd), sgd.noise(problem.n)
                follow = partial(contour.loss_at, steps=TIMES, lr=lr, momentum=momentum, noise=noise)
                exact, told = (follow(p).loss for p in (problem, known))
                held = exact > 1e-20 * exact[0]  # rounding, below
                true, estimate = np.abs(exact / told - 1), doubt.of(known, told, follow)
                covered += (true <= 2 * estimate + 1e-9)[held].tolist()
                ends = [doubt.known_until(TIMES[held], error[held]) for error in (true, estimate)]
                ratios.append(ends[1] / ends[0])
    assert len(covered) > 500
    assert np.mean(covered) >= 0.95
    assert np.median(ratios) > 0.3  # of a grid in which each time is three times the one before
    assert np.quantile(ratios, 0.05) >= 0.03
    assert np.max(ratios) < 4


def test_a_late_loss_is_told_to_be_unknown(kernels):
    """20 steps give a loss too small by a factor of 75,000, once without a word."""
    known = free(kernels["digits"], 20)
    sgd = ss.SGD(0.8, 0.0, 300)
    with pytest.warns(RuntimeWarning, match="up to step .* only; at step 100000 it may be off by a factor") as caught:
        run = ss.simulate(known, sgd, ss.SpectralDiagonal(), 100_000)
    assert len(caught) == 1
    exact = ss.simulate(kernels["digits"], sgd, ss.SpectralDiagonal(), 100_000)
    ratio = (exact["loss"] / run["loss"]).values[0, 0]
    assert ratio[-1] > 1e4
    assert ratio[-1] <= 1 + run["error_estimate"].item()
    until = run["known_until"].item()
    assert (ratio[run["step"].values <= until] < 1.1).all()
    assert until > 1000  # where the truth is 10% off: about 4000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        early = ss.simulate(known, sgd, ss.SpectralDiagonal(), int(until))
    assert early["known_until"].item() == until
    assert early["error_estimate"].item() < 0.1


def test_stepping_and_contour_tell_the_same_error(kernels):
    known, sgd = free(kernels["power law"], 20), ss.SGD(0.4, 0.5, 10)
    with pytest.warns(RuntimeWarning):
        one = ss.simulate(known, sgd, ss.SpectralDiagonal(method="recurrence"), 5000)
    with pytest.warns(RuntimeWarning):
        other = ss.simulate(known, sgd, ss.SpectralDiagonal(method="contour"), 5000, record=one["step"].values)
    assert one["known_until"].item() == other["known_until"].item()
    assert one["error_estimate"].item() == pytest.approx(other["error_estimate"].item(), rel=1e-4)
    with pytest.warns(RuntimeWarning):
        two = ss.sweep(
            known, ss.Grid.product(lr=[0.2, 0.4], momentum=[0.5], batch_size=[10]), [ss.SpectralDiagonal()], 5000
        )
    assert two["known_until"].values[1].item() == one["known_until"].item()
    decaying = ss.SGD(schedules.parse("lr", "power:start=1,exponent=0.3"), 0.0, 10)
    run = ss.simulate(known, decaying, ss.SpectralDiagonal(), 500)
    assert 1e-4 < run["error_estimate"].item() < 0.1
    assert run["known_until"].item() == 500


def test_nothing_is_doubted_where_all_is_known(kernels):
    problem = kernels["power law"]
    whole = ss.QuadraticProblem.from_measures(
        problem.spectrum, lanczos.spectral_measure(np.diag(problem.eigenvalues), problem.coefficients, 40)
    )
    assert len(whole.alternatives) == 1  # no probes
    assert problem.alternatives == ()
    assert ss.QuadraticProblem.power_law(float("inf"), 1.5, 1.0).alternatives == ()
    run = ss.simulate(problem, ss.SGD(0.4, 0.5, 10), ss.SpectralDiagonal(), 100)
    assert np.isnan(run["known_until"].item())
    x = np.random.default_rng(0).standard_normal((80, 6))  # of low rank: the Krylov space is complete
    low = ss.QuadraticProblem.from_operator(x @ x.T, x @ np.ones(6), n_lanczos=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ss.simulate(low, ss.SGD(0.4, 0.5, 10), ss.SpectralDiagonal(), 100)["error_estimate"].item() < 1e-6


@pytest.mark.parametrize("m", [10, 40])
def test_a_residual_of_few_modes_leaves_nothing_open_but_the_noise(m):
    """Five modes are all found by five steps: then the stop time is that of the noise, not of the residual."""
    power = ss.QuadraticProblem.power_law(300, 1.3, 1.0, seed=3)
    a = np.zeros(300)
    a[[0, 2, 5, 9, 30]] = 1
    problem = ss.QuadraticProblem(power.spectrum, a, basis_seed=3)
    known = free(problem, m)
    follow = partial(contour.loss_at, steps=TIMES, lr=0.3, noise=0.0)
    np.testing.assert_allclose(follow(known).log_loss, follow(problem).log_loss, rtol=1e-9)
    assert doubt.of(known, follow(known).loss, follow).max() < 1e-9
    follow = partial(contour.loss_at, steps=TIMES, lr=0.3, batch_size=5)
    exact, covered = follow(problem).loss, []
    for seed in range(20):
        known = free(problem, m, seed=seed)
        told = follow(known).loss
        true, estimate = np.abs(exact / told - 1), doubt.of(known, told, follow)
        covered.append(true <= 2 * estimate)
        assert doubt.known_until(TIMES, estimate) >= 0.05 * doubt.known_until(TIMES, true)
    assert np.mean(covered) >= 0.9


def test_files_keep_the_probes_and_older_ones_doubt_more(tmp_path, kernels):
    known, sgd = free(kernels["power law"], 40), ss.SGD(0.4, 0.5, 10)
    again = results.load_problem(results.save_problem(known, tmp_path / "s.nc"))
    one, other = (ss.simulate(p, sgd, ss.SpectralDiagonal(), 300)["error_estimate"].item() for p in (known, again))
    assert one == other > 0
    s = known.spectrum
    older = ss.QuadraticProblem(ss.Spectrum(s.eigenvalues, None, s.scale, None, s.multiplicity), known.coefficients)
    assert older.fingerprint == known.fingerprint
    run = ss.simulate(older, sgd, ss.SpectralDiagonal(), 300)
    assert run["error_estimate"].item() > one
    np.testing.assert_array_equal(run["loss"], ss.simulate(known, sgd, ss.SpectralDiagonal(), 300)["loss"])


def test_a_sweep_begun_by_an_older_version_goes_on(tmp_path):
    problem, path = ss.QuadraticProblem.power_law(20, 1.5, 1.0), tmp_path / "r.nc"
    grid = ss.Grid.product(lr=[0.2, 0.4], momentum=[0.5], batch_size=[5])
    first = ss.sweep(problem, grid, [ss.SpectralDiagonal()], 20, path=path)
    results.save(results.load(path).drop_vars("known_until"), path)
    again = ss.sweep(problem, grid, [ss.SpectralDiagonal()], 20, path=path)
    np.testing.assert_array_equal(first["loss"], again["loss"])
    np.testing.assert_array_equal(first["seconds"], again["seconds"])  # nothing was computed again


def test_relative_error_in_extremes():
    loss = np.array([1.0, 1.0, 0.0, 0.0, np.inf])
    others = [np.array([1.0, 3.0, 0.0, 1e-300, np.inf]), *np.ones((2, 5)) * loss]
    np.testing.assert_array_equal(relative_error(loss, others), [0.0, 2.0, 0.0, np.inf, np.nan])


def test_commands_say_so(capsys, tmp_path, monkeypatch, kernels):
    monkeypatch.chdir(tmp_path)
    results.save_problem(free(kernels["digits"], 15), "s.nc")

    def run(*words):
        assert main([*words, "--spectrum", "s.nc", "--json"]) == 0
        out = capsys.readouterr()
        return json.loads(out.out), out.err

    for late, n_steps in ((False, "50"), (True, "100000")):
        words = ("--lr", "0.4", "--momentum", "0", "--batch-size", "10", "--n-steps", n_steps)
        for command in ("compare", "simulate"):
            more = ("--regime", "diagonal") if command == "simulate" else ()
            facts, said = run(command, *words, *more)
            (numbers,) = facts["rows"][0]["regimes"].values()
            assert (numbers["error_estimate"] > 0.1) == late == (numbers["known_until"] < int(n_steps))
            assert ("Lanczos quadrature tells the loss" in said) == late
        facts, said = run("budget", "--batch-size", "1", "2", "--n-steps", n_steps, "--lr", "0.1", "--momentum", "0")
        if late:
            assert facts["runs"][0]["known_until"] < 100_000
            assert "Lanczos quadrature tells the loss" in said
        facts, said = run("recommend", "--batch-size", "10", "--horizon", n_steps)
        assert (facts["loss_error"] > 0.1) == late
        assert any("The loss at the horizon may be off" in note for note in facts["notes"]) == late
