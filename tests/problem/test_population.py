"""One pass over a population against a literal recursion, sampled runs and problems of points."""

import json

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import cli
from sgdsim.algorithm import draws
from sgdsim.common.checks import InputError
from sgdsim.problem import fits
from sgdsim.regimes import _linear_kernels
from sgdsim.runs import results
from sgdsim.theory import linear, power_law
from tests import naive

LAMBDA = np.array([3.0, 0.6, 1.5, 0.15, 0.9])
WEIGHTS = np.array([0.4, 1.0, 0.2, 0.7, 0.0])
NOISE = {"residual_risk": 0.2, "label_noise": 0.3}
DIAGONAL = ss.SpectralDiagonal(tau=-1)


def follow(problem, regime, steps, *, lr=0.2, batch_size=3, **options):
    kept = {name: options.pop(name) for name in ("replicates", "seed", "observe", "record") if name in options}
    sgd = ss.SGD(lr, batch_size=batch_size, sampling="one-pass", **options)
    return ss.simulate(problem, sgd, regime, steps, **{"record": 1, **kept})


@pytest.mark.parametrize("noise", [{}, NOISE, {"label_noise": 0.5}])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_against_a_literal_recursion(noise, batch_size):
    problem = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, **noise)
    run = follow(problem, DIAGONAL, 40, batch_size=batch_size)
    variance = 2 * noise.get("residual_risk", 0.0) + noise.get("label_noise", 0.0) ** 2
    expected = naive.population_risk(LAMBDA, WEIGHTS, 0.2 / LAMBDA.max(), batch_size, variance, 40)
    np.testing.assert_allclose(run["loss"].values.ravel(), expected, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "batch_size": 64}, {"average": "ema:0.8", "batch_size": 1}])
def test_sampled_runs_have_that_mean(options):
    problem = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, **NOISE)
    sampled = follow(problem, ss.SampledLinearized(), 30, replicates=2000, seed=4, record=10, **options)["loss"].values
    expected = follow(problem, DIAGONAL, 30, record=10, **options)["loss"].values.ravel()
    mean, error = sampled[0].mean(0), sampled[0].std(0, ddof=1) / np.sqrt(2000)
    assert (np.abs(mean - expected)[1:] < 4 * error[1:]).all()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 10**12, ss.schedules.Power(9.0, 0.6)])
@pytest.mark.parametrize("options", [{}, {"method": "nesterov", "momentum": 0.5}, {"average": "ema:0.8"}])
def test_sampled_steps_equal_the_twin(batch_size, options):
    """Each replicate is its own stream, of its seed alone, and what a run is cut into changes no bit."""
    problem = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, **NOISE)
    sgd = ss.SGD(0.2, batch_size=batch_size, sampling="one-pass", **options)
    runs = follow(problem, ss.SampledLinearized(), 30, batch_size=batch_size, replicates=3, seed=5, **options)
    sizes, own = sgd.batch_sizes(0, 30), problem.with_errors(sgd)
    label = own.label_noise * np.sqrt(problem.normaliser)
    for key, losses in zip(draws.replicate_keys(5, 3), runs["loss"].values[0], strict=True):
        path = naive.one_pass(
            problem.eigenvalues, problem.coefficients, sgd.maps(0, 30), sgd.begins, sgd.readout, sizes.tolist(), key,
            label,
        )  # fmt: skip
        np.testing.assert_allclose(losses, (path**2).sum(1) / 2, rtol=1e-9)
    rare = follow(problem, ss.SampledLinearized(), 30, batch_size=batch_size, replicates=2, seed=5, record=7, **options)
    np.testing.assert_array_equal(rare["loss"].values[0, :, 1], runs["loss"].values[0, :2, 7])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_gradients_have_the_law_of_samples(batch_size):
    """Mean, covariance and fourth moments of one step against those of batches drawn number by number."""
    count, start, label = 40_000, np.array([0.5, -1.0, 2.0]), 0.7
    rng = np.random.default_rng(batch_size)
    keys = rng.integers(0, 2**32, (count, 2), dtype=np.uint64)
    steps = np.full((1, 1, 1), 0.0), np.full((1, 1), 1.0), np.array([batch_size])
    components = np.tile(start, (count, 1, 1))
    occupied = np.array([0, 1]), np.array([0])
    _linear_kernels.one_pass(np.ones(3), components, *steps, keys, 0, label, *occupied)
    z = rng.standard_normal((count, batch_size, 4))
    drawn = np.einsum("rbk,rb->rk", z, z @ np.append(start, -label))[:, :3] / batch_size
    sides = rng.standard_normal((3, 4))
    moments = []
    for gradient in (components[:, 0], drawn):
        off = gradient - start
        products = [off[:, i] * off[:, k] for i in range(3) for k in range(i + 1)]
        moments.append(np.stack([*gradient.T, *products, *(off @ sides).T ** 4, *(off @ sides).T ** 3]))
    error = np.sqrt(sum(each.var(1) / count for each in moments))
    assert (np.abs(moments[0].mean(1) - moments[1].mean(1)) < 4.5 * error).all()


@pytest.mark.parametrize("regime", [DIAGONAL, ss.SampledLinearized()])
def test_a_problem_of_points_in_one_pass_is_the_same_dynamics(regime):
    """Its c_k are sums over N points, and so is its loss before it is divided by them."""
    order = np.argsort(-LAMBDA, kind="stable")
    spectrum = ss.Spectrum(LAMBDA[order] / LAMBDA.max())
    points = ss.QuadraticProblem(spectrum, np.sqrt(5 * WEIGHTS[order]))
    population = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS)
    options = {"replicates": 2, "seed": 1, "label_noise": 0.3, "observe": ["distance"]}
    here, there = (follow(problem, regime, 30, **options) for problem in (population, points))
    for name in ("loss", "distance"):
        np.testing.assert_allclose(here[name].values, there[name].values, rtol=1e-11)
    # its own noise adds to that of the labels that the algorithm brings
    noisy = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, residual_risk=0.02, label_noise=0.05)
    both = follow(noisy, regime, 30, **{**options, "label_noise": np.sqrt(0.3**2 - 0.04 - 0.05**2)})
    np.testing.assert_allclose(both["loss"].values, there["loss"].values, rtol=1e-9)


def test_where_the_loss_ends():
    problem = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, **NOISE)
    sgd = ss.SGD(0.2, batch_size=3, sampling="one-pass")
    late = follow(problem, DIAGONAL, 3000, record=1000)["loss"].values[0, 0, -1]
    assert late == pytest.approx(linear.floor(problem, sgd, tau=-1.0).loss, rel=1e-10)
    assert problem.population.floor == pytest.approx(0.2 + 0.3**2 / 2)


def test_distance_and_start():
    problem = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS)
    run = follow(problem, DIAGONAL, 1, observe=["distance", "leading_share:k=2"])
    # λ_max ‖w − w*‖², in units where the largest curvature is 1
    assert run["distance"].values[0, 0, 0] == pytest.approx(3.0 * np.sum(WEIGHTS / LAMBDA), rel=1e-14)
    assert run["leading_share_k2"].values[0, 0, 0] == pytest.approx(0.6 / 2.3, rel=1e-14)
    assert problem.initial_loss == pytest.approx(WEIGHTS.sum() / 2, rel=1e-15)
    assert problem.torch_lr(0.3) == pytest.approx(0.1)
    with pytest.raises(InputError, match="up to the 5 eigenvalues, got 6"):
        follow(problem, DIAGONAL, 1, observe="leading_share:k=6")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: ss.simulate(p, ss.SGD(0.1), DIAGONAL, 5), "expected one-pass on a population"),
        (lambda p: follow(p, ss.BatchAveraged(), 5), "sampling: the averaged regime has a fixed set of points"),
        (lambda p: follow(p, ss.RealNetwork(), 5), "sampling: the network regime has a fixed set of points"),
        (lambda p: follow(p, DIAGONAL, 5, observe="test_loss"), "test points"),
        (lambda p: ss.recurrence.contour.loss_at(p, 5, lr=0.1, noise=0.5), "contour: expected a problem without noise"),
        (lambda p: power_law.constants(p, power_law.PowerLaw(1.5, 1.0, 1.0, 1.0), lr=0.1, noise=0.5),
         "law: expected a problem without noise"),
        (lambda p: fits.fit_power_law(p), "spectrum: expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed(call, words):
    with pytest.raises(InputError, match=words):
        call(ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, **NOISE))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0, -0.1], [1.0, 1.0]), "eigenvalues: expected numbers >= 0"),
        (([0.0, 0.0], [0.0, 0.0]), "with a positive one"),
        (([1.0, 0.1], [1.0, -1.0]), "weights: expected numbers >= 0"),
        (([1.0, 0.1], [1.0]), "weights"),
        (([1.0, 0.0], [1.0, 1.0]), "weights: expected 0 where the eigenvalue is 0"),
        (([1.0], [1.0], -1.0), "residual_risk: expected a finite number"),
        (([1.0], [1.0], 0.0, float("nan")), "label_noise: expected a finite number"),
    ],
)
def test_bad_populations(arguments, words):
    with pytest.raises(InputError, match=words):
        ss.QuadraticProblem.from_population(*arguments)


def test_files_give_it_back(tmp_path):
    problem = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, **NOISE)
    results.save_problem(problem, tmp_path / "p.nc")
    stored = results.load_problem(tmp_path / "p.nc")
    assert (stored.population, stored.fingerprint, stored.n) == (problem.population, problem.fingerprint, np.inf)
    grid = ss.Grid.product(lr=[0.1, 0.2], batch_size=3, sampling="one-pass")
    run = ss.sweep(problem, grid, [DIAGONAL, ss.SampledLinearized()], 10, path=tmp_path / "r.nc")
    loaded = ss.load(tmp_path / "r.nc")
    assert float(loaded["floor"]) == pytest.approx(0.245)
    assert results.problem_of(loaded).population == problem.population
    again = ss.sweep(problem, grid, [DIAGONAL, ss.SampledLinearized()], 10, path=tmp_path / "r.nc")
    assert again["loss"].identical(run["loss"])
    other = ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, label_noise=0.3)
    assert other.fingerprint != problem.fingerprint
    with pytest.raises(InputError, match="expected the same sweep to continue"):
        ss.sweep(other, grid, [DIAGONAL, ss.SampledLinearized()], 10, path=tmp_path / "r.nc")


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("p.npz", eigenvalues=LAMBDA, weights=WEIGHTS, **NOISE)
    words = ["compare", "--population", "p.npz", "--sampling", "one-pass", "--regimes", "diagonal", "sampled", "--tau",
             "-1", "--lr", "0.2", "--momentum", "0", "--batch-size", "3", "--n-steps", "20"]  # fmt: skip
    assert cli.main([*words, "--out", "r.nc", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n"] is None
    assert facts["problem"]["residual_risk"] == 0.2
    expected = follow(ss.QuadraticProblem.from_population(LAMBDA, WEIGHTS, **NOISE), DIAGONAL, 20)["loss"].values
    assert facts["rows"][0]["regimes"]["diagonal:tau=-1"]["final_loss"] == pytest.approx(expected[0, 0, -1], rel=1e-12)
    assert float(ss.load("r.nc")["floor"]) == pytest.approx(0.245)
    assert cli.main(words) == 0
    assert "initial loss 1.15 above a floor of 0.245" in capsys.readouterr().out
    assert cli.main([*words[:3], "--n-steps", "5"]) == 2
    assert "expected one-pass on a population" in capsys.readouterr().err
    assert cli.main([*words, "--n", "5"]) == 2
    assert "--n: expected only with" in capsys.readouterr().err
    np.savez("bad.npz", eigenvalues=LAMBDA, weight=WEIGHTS)
    assert cli.main([*words[:2], "bad.npz", *words[3:]]) == 2
    assert "expected an .npz file with arrays eigenvalues and weights" in capsys.readouterr().err
