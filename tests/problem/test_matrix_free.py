"""Spectra and problems known through products alone, against those known in full."""

import json

import naive
import numpy as np
import pytest

import sgdsim as ss
from sgdsim import lanczos, ntk, results, schedules
from sgdsim.cli import main
from sgdsim.common.checks import InputError
from sgdsim.theory import stability
from sgdsim.theory.generating import noise_propagator_at_one

SGDS = [ss.SGD(0.8, 0.0, 10), ss.SGD(0.5, 0.7, 3), ss.SGD(schedules.parse("lr", "power:start=1,exponent=0.3"), -0.3, 5)]


@pytest.fixture(scope="module")
def digits():
    """300 real digits and a network on them."""
    return ss.NetworkProblem(
        ss.networks.MLP(width=100, seed=1), ss.datasets.load("digits", 300, 0, n_test=10), device="cpu"
    )


@pytest.fixture(scope="module")
def theta(digits):
    return ntk.empirical_ntk(digits.network, digits.data.x, device="cpu")


def loss(problem, sgd, n_steps=300, tau=1.0, **options):
    return ss.simulate(problem, sgd, ss.SpectralDiagonal(tau), n_steps, **options)["loss"].values[0, 0]


def propagator(problem, lr=0.9, momentum=0.4, noise=0.1, tau=1.0):
    return noise_propagator_at_one(problem.eigenvalues, lr, momentum, noise, tau, problem.multiplicity)


@pytest.mark.parametrize("sgd", SGDS)
@pytest.mark.parametrize("tau", [1.0, -1.0])
def test_a_mode_with_multiplicity_is_that_many_equal_eigenvalues(sgd, tau):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 6, 12)
    values = np.arange(1, 13) ** -1.2
    coefficients = rng.standard_normal(counts.sum())
    every = ss.QuadraticProblem(ss.Spectrum(np.repeat(values, counts)), coefficients)
    starts = np.cumsum(counts) - counts
    c = np.add.reduceat(coefficients**2, starts)
    few = ss.QuadraticProblem(ss.Spectrum(values, multiplicity=counts), np.sqrt(c))
    assert few.n == every.n == counts.sum()
    assert few.initial_loss == pytest.approx(every.initial_loss, rel=1e-14)
    np.testing.assert_allclose(loss(few, sgd, tau=tau), loss(every, sgd, tau=tau), rtol=1e-12)
    run, whole = (ss.simulate(p, sgd, ss.SpectralDiagonal(tau), 30, observe=["moments"]) for p in (few, every))
    summed = np.add.reduceat(whole["moments"].values, starts, axis=-1)
    np.testing.assert_allclose(run["moments"], summed, rtol=1e-11, atol=1e-15)
    np.testing.assert_array_equal(run["multiplicity"], counts)
    assert "multiplicity" not in whole
    assert propagator(few, tau=tau) == pytest.approx(propagator(every, tau=tau), rel=1e-12)
    # and where the loss and the eigenvalues are apart: c at places of multiplicity 0
    apart = every.spectrum.joined(lanczos.SpectralMeasure(every.eigenvalues, coefficients**2))
    apart = ss.QuadraticProblem(apart[0], np.sqrt(apart[1]))
    assert apart.spectrum.n_modes == 2 * every.n
    np.testing.assert_allclose(loss(apart, sgd, tau=tau), loss(every, sgd, tau=tau), rtol=1e-12)
    assert propagator(apart, tau=tau) == pytest.approx(propagator(every, tau=tau), rel=1e-12)


@pytest.mark.parametrize("sgd", SGDS)
def test_the_compiled_loop_equals_its_twin(sgd):
    rng = np.random.default_rng(1)
    weights = rng.uniform(0, 3, 20)
    weights *= 31 / weights.sum()
    problem = ss.QuadraticProblem(ss.Spectrum(np.arange(1, 21) ** -0.9, multiplicity=weights), rng.standard_normal(20))
    values = sgd.values(31, 0, 40)
    slow = naive.diagonal(
        problem.eigenvalues, problem.coefficients, values.lr, values.momentum, values.noise, 0.6, weights
    )
    np.testing.assert_allclose(loss(problem, sgd, 40, 0.6, record=1), slow.sum(1) / 62, rtol=1e-12)
    plain = ss.QuadraticProblem(ss.Spectrum(problem.eigenvalues, multiplicity=weights), np.zeros(20))
    assert plain.fingerprint != problem.fingerprint


@pytest.mark.parametrize("sgd", SGDS)
def test_full_measures_give_the_ordinary_regime(digits_network, sgd):
    problem = digits_network.quadratic
    scale = problem.spectrum.scale
    measure = lanczos.spectral_measure(problem.kernel * scale, problem.residual, problem.n)
    joined = ss.QuadraticProblem.from_measures(problem.spectrum, measure)
    np.testing.assert_allclose(loss(joined, sgd), loss(problem, sgd), rtol=1e-9)
    assert joined.torch_lr(1.0) == problem.torch_lr(1.0)
    assert propagator(joined) == pytest.approx(propagator(problem), rel=1e-12)


@pytest.mark.parametrize("m", [1, 4, 12])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_without_noise_m_steps_are_exact_up_to_time_m_minus_one(digits_network, m, momentum):
    problem = digits_network.quadratic
    sgd = ss.SGD(1.4, momentum, problem.n)
    free = ss.QuadraticProblem.from_operator(problem.kernel, problem.residual, n_lanczos=m, n_probes=1, n_top=1)
    exact, found = (loss(p, sgd, m + 4, record=1) for p in (problem, free))
    np.testing.assert_allclose(found[:m], exact[:m], rtol=1e-12)
    if m < 10:
        assert abs(found[m + 3] / exact[m + 3] - 1) > 1e-9  # and no further: the test can fail


def test_products_with_the_network_give_what_its_matrix_gives(digits, theta):
    options = {"n_lanczos": 12, "n_probes": 2, "n_top": 5, "seed": 3}
    residual = digits.quadratic.residual
    operator = ntk.ntk_operator(digits.network, digits.data.x, chunk=100)
    one, other = (ss.QuadraticProblem.from_operator(o, residual, **options) for o in (operator, theta))
    np.testing.assert_allclose(one.eigenvalues, other.eigenvalues, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(one.multiplicity, other.multiplicity, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(loss(one, SGDS[1]), loss(other, SGDS[1]), rtol=1e-9)
    assert one.n == 300
    assert one.spectrum.scale == pytest.approx(digits.quadratic.spectrum.scale, rel=1e-12)
    by_itself = one.multiplicity == 1.0
    np.testing.assert_allclose(one.eigenvalues[by_itself], digits.quadratic.eigenvalues[:5], rtol=1e-9)
    assert one.spectrum.quality.residual < 1e-8


def test_quadrature_gives_the_loss_of_real_data_within_its_statistical_error(digits, theta):
    """A few percent from one probe, 0.2% from 25; the spread over seeds falls like n_probes^(−1/2)."""
    exact, sgd = digits.quadratic, ss.SGD(0.8, 0.3, 10)
    curve, trace = loss(exact, sgd, 1000), exact.eigenvalues.sum()
    errors, propagators = {}, {}
    for n_probes in (1, 25):
        found = [
            ss.QuadraticProblem.from_operator(
                theta, exact.residual, n_lanczos=40, n_probes=n_probes, n_top=10, seed=seed
            )
            for seed in range(10)
        ]
        errors[n_probes] = [np.abs(loss(p, sgd, 1000) / curve - 1).max() for p in found]
        propagators[n_probes] = [propagator(p) / propagator(exact) - 1 for p in found]
        if n_probes > 1:
            for p in found:
                traced = p.eigenvalues @ p.multiplicity
                assert abs(traced - trace) < 4 * p.spectrum.quality.trace * traced
    assert max(errors[1]) < 0.02
    assert max(errors[25]) < 0.005
    assert np.abs(propagators[25]).max() < 0.02
    ratio = np.sqrt(np.mean(np.square(propagators[1])) / np.mean(np.square(propagators[25])))
    assert 2.5 < ratio < 10  # 5, within what ten seeds can tell


def test_stability_asks_the_measures(digits, theta):
    exact = digits.quadratic
    free = ss.QuadraticProblem.from_operator(theta, exact.residual, n_lanczos=40, n_probes=10)
    answers = {
        p: [stability.diagonal_is_stable(p, ss.SGD(lr, 0.5, 1)) for lr in np.linspace(0.05, 2.5, 50)]
        for p in (exact, free)
    }
    assert True in answers[exact]
    assert False in answers[exact]
    assert sum(a != b for a, b in zip(answers[exact], answers[free], strict=True)) <= 1  # next to the threshold


def test_save_and_load(tmp_path, digits, theta):
    problem = ss.QuadraticProblem.from_operator(theta, digits.quadratic.residual, n_lanczos=10, n_probes=2)
    again = results.load_problem(results.save_problem(problem, tmp_path / "s.nc"))
    for name in ("eigenvalues", "coefficients", "multiplicity"):
        np.testing.assert_array_equal(getattr(again, name), getattr(problem, name))
    assert (again.n, again.fingerprint, again.spectrum.scale) == (300, problem.fingerprint, problem.spectrum.scale)
    np.testing.assert_array_equal(loss(again, SGDS[0]), loss(problem, SGDS[0]))
    run = ss.simulate(problem, SGDS[0], ss.SpectralDiagonal(), 10, observe=["moments"])
    ss.save(run, tmp_path / "r.nc")
    np.testing.assert_array_equal(ss.load(tmp_path / "r.nc")["multiplicity"], problem.multiplicity)


def test_a_spectrum_with_a_gap_or_of_low_rank():
    """Fewer non-zero eigenvalues than are asked for one by one: nothing is left to estimate."""
    x = np.random.default_rng(0).standard_normal((80, 6))
    kernel, residual = x @ x.T, np.random.default_rng(1).standard_normal(80)
    exact = ss.QuadraticProblem.from_kernel(kernel, residual)
    free = ss.QuadraticProblem.from_operator(kernel, residual, n_lanczos=10, n_probes=1, n_top=8)
    np.testing.assert_allclose(loss(free, SGDS[1]), loss(exact, SGDS[1]), rtol=1e-9)
    assert propagator(free) == pytest.approx(propagator(exact), rel=1e-9)
    all_of_them = ss.Spectrum.from_operator(kernel, n_top=200)
    np.testing.assert_allclose(all_of_them.eigenvalues, exact.eigenvalues, atol=1e-12)
    np.testing.assert_array_equal(all_of_them.multiplicity, np.ones(80))


def test_density(digits, theta):
    exact = digits.quadratic.spectrum
    density = exact.density(sigma=0.02)
    z = (density.grid[:, None] - exact.eigenvalues) / 0.02
    np.testing.assert_allclose(density.density, np.exp(-(z**2) / 2).mean(1) / 0.02 / np.sqrt(2 * np.pi), rtol=1e-12)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1, abs=1e-6)
    free = ss.Spectrum.from_operator(theta, n_lanczos=40, n_probes=20)
    difference = np.abs(free.density().evaluate(density.grid, 0.02) - density.density)
    assert np.trapezoid(difference, density.grid) < 0.01
    decades = np.logspace(-5, 0, 300)
    one, other = (s.density().log_evaluate(decades, 0.2) for s in (exact, free))
    assert np.trapezoid(np.abs(one - other), np.log10(decades)) < 0.1
    many = ss.Spectrum(np.linspace(1, 0.1, 25_000))  # smoothed in pieces
    assert many.density().evaluate(np.array([0.5]))[0] == pytest.approx(1 / 0.9, rel=1e-3)


def test_ranks_of_modes():
    every = ss.Spectrum(np.array([1.0, 0.5, 0.5, 0.5, 0.1]))
    few = ss.Spectrum(np.array([1.0, 0.7, 0.5, 0.1]), multiplicity=[1, 0, 3, 1])
    values, c = few.by_rank([4.0, 3.0, 2.0, 1.0])
    np.testing.assert_array_equal(values, every.eigenvalues)
    np.testing.assert_array_equal(c, [7.0, 0, 0, 2.0, 1.0])
    np.testing.assert_array_equal(every.by_rank([5, 4, 3, 2, 1])[1], [5, 4, 3, 2, 1])


def test_pictures_show_ranks(digits, theta):
    exact = digits.quadratic
    free = ss.QuadraticProblem.from_operator(theta, exact.residual, n_lanczos=30, n_probes=5)
    run = ss.simulate(free, SGDS[0], ss.SpectralDiagonal(), 5)
    for source in (free, run, free.spectrum):
        axes = ss.plot.spectrum(source)
        k, values = axes.lines[0].get_data()
        np.testing.assert_array_equal(k, np.arange(1, 301))
        np.testing.assert_allclose(values[:20], exact.eigenvalues[:20], rtol=1e-7)
        assert len(axes.lines) == (1 if source is free.spectrum else 2)


def test_entry_points_are_those_of_lanczos(theta):
    one, other = ss.Spectrum.top(theta, 7, seed=2), lanczos.top_eigenpairs(theta, 7, seed=2)
    np.testing.assert_array_equal(one.eigenvectors, other.eigenvectors)
    x = np.random.default_rng(0).standard_normal((60, 3))

    def kernel(a, b):
        return np.exp(-((a[:, None] - b) ** 2).sum(-1))

    one = ss.Spectrum.nystrom(kernel, x, 4, landmarks=20, seed=5)
    np.testing.assert_array_equal(one.eigenvalues, lanczos.nystrom(kernel, x, 4, landmarks=20, seed=5).eigenvalues)


@pytest.fixture
def free():
    return ss.QuadraticProblem.from_operator(np.diag([4.0, 2, 1, 1]), np.ones(4), n_lanczos=2, n_probes=1, n_top=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: ss.simulate(p, ss.SGD(0.5), ss.SampledLinearized(), 3), "sampled needs .* use the diagonal regime"),
        (lambda p: ss.simulate(p, ss.SGD(0.5), ss.BatchAveraged(), 3), "averaged needs .* use the diagonal regime"),
        (lambda p: p.eigenvectors, "known by Lanczos quadrature"),
        (lambda p: p.residual, "known by Lanczos quadrature"),
        (lambda p: stability.averaged_radius(p, ss.SGD(0.5)), "known by Lanczos quadrature"),
        (lambda p: ss.fit_power_law(p), "modes with a multiplicity"),
        (lambda p: ss.QuadraticProblem(p.spectrum, p.coefficients, basis_seed=0), "no basis_seed"),
        (lambda p: ss.Spectrum([1.0, 0.5], np.eye(2), multiplicity=[1, 1]), "without eigenvectors"),
        (lambda p: ss.Spectrum([1.0, 0.5], multiplicity=[1, -1]), "multiplicity"),
        (lambda p: ss.Spectrum([1.0, 0.5], multiplicity=[1, 0.3]), "sum to the number of training points"),
        (lambda p: ss.Spectrum([1.0, 0.5], multiplicity=[0, 0]), "multiplicity"),
        (lambda p: ss.Spectrum([1.0, 0.5], multiplicity=[1]), "multiplicity: expected shape"),
        (lambda p: ss.Spectrum.from_operator(np.ones((3, 2))), "square"),
        (lambda p: ss.Spectrum.from_operator("matrix"), "square"),
        (lambda p: ss.Spectrum.from_operator(-np.eye(3)), "positive eigenvalue"),
        (lambda p: ss.Spectrum.from_operator(np.diag([1.0, 0.2, 0.1, -0.5]), n_top=1), "positive semidefinite"),
        (lambda p: ss.Spectrum.from_operator(np.eye(3), n_top=0), "n_top"),
        (lambda p: ss.Spectrum.from_operator(np.eye(9), n_top=1, n_probes=0), "n_probes"),
        (lambda p: ss.QuadraticProblem.from_operator(np.eye(3), np.ones(4)), "match the residual"),
        (lambda p: ss.QuadraticProblem.from_operator(np.eye(4), np.zeros(4)), "not zero"),
        (lambda p: p.spectrum.joined(lanczos.SpectralMeasure(np.array([9.0]), np.ones(1))), "largest eigenvalue found"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(free, call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(free)
    assert "\n" not in str(caught.value)


def test_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ["--n", "60", "--width", "30", "--n-test", "20"]

    def run(*words, code=0):
        assert main(list(words)) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    found = json.loads(
        run("spectrum", *sizes, "--lanczos", "25", "--density", "--out", "s.nc", "--plot", "s.png", "--json")
    )
    every = json.loads(run("spectrum", *sizes, "--json"))
    assert sum(found["multiplicity"]) == pytest.approx(60)
    assert found["lambda_max"] == pytest.approx(every["lambda_max"], rel=1e-12)
    assert found["c_total"] == pytest.approx(every["c_total"], rel=1e-12)
    np.testing.assert_allclose(found["eigenvalues"][:1], every["eigenvalues"][:1])
    assert found["fit"] is None
    assert "contraction" not in found  # no matrix was formed
    decades = np.log10(found["density"]["eigenvalue"])
    assert np.trapezoid(found["density"]["per_decade"], decades) == pytest.approx(1, abs=0.1)
    assert "standard error of Σ λ_k" in run("spectrum", *sizes, "--lanczos", "25")
    assert "matrix-free" in run("spectrum", "--spectrum", "s.nc")
    words = ["--n-steps", "50", "--batch-size", "5", "--json"]
    free = json.loads(run("compare", "--spectrum", "s.nc", "--plot", "c.png", *words))["rows"]
    whole = json.loads(run("compare", *sizes, "--regimes", "diagonal", *words))["rows"]
    for one, other in zip(free, whole, strict=True):
        assert list(one["regimes"]) == ["diagonal:tau=1"]
        ours, theirs = (row["regimes"]["diagonal:tau=1"]["final_loss"] for row in (one, other))
        assert ours == pytest.approx(theirs, rel=0.01)
        assert one["torch_lr"] == pytest.approx(other["torch_lr"], rel=1e-12)
    assert "averaged needs" in run("compare", "--spectrum", "s.nc", "--regimes", "averaged", code=2)
    for bad in (["--top", "3"], ["--analytic"]):
        assert "--lanczos" in run("spectrum", *sizes, "--lanczos", "5", *bad, code=2)
    assert "--lanczos" in run("spectrum", *sizes, "--lanczos", "0", code=2)
    power = ["--dataset", "power_law", "--nu", "1", "--kappa", "1"]
    assert "--lanczos" in run("spectrum", *power, "--lanczos", "5", code=2)
