"""Power-law fits: exact on exact laws, honest intervals on noisy ones, warnings where there is no power law."""

import json

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.problem.fits import fit_power_law


def wobble(n, rng):
    """A smooth random function of log k with standard deviation up to 0.15, correlated over 0.3 to 1 in log k."""
    x = np.linspace(0, np.log(n), 100)
    distance = np.abs(x[:, None] - x) / rng.uniform(0.3, 1.0)
    covariance = np.exp(-distance) if rng.random() < 0.5 else np.exp(-0.5 * distance**2)
    g = np.linalg.cholesky(covariance + 1e-8 * np.eye(x.size)) @ rng.standard_normal(x.size)
    return rng.uniform(0.03, 0.15) * np.interp(np.log(np.arange(1, n + 1)), x, g)


def noisy(rng, kind, *, head=False, bend=False):
    """A random power law seen through noise: (ν, κ, problem); Σ_{l≥k} c_l ≈ k^{−κ}/κ."""
    n = int(np.exp(rng.uniform(np.log(300), np.log(10_000))))
    nu, kappa = rng.uniform(1.1, 3.0), rng.uniform(0.2, 3.0)
    k = np.arange(1, n + 1)
    deviation = rng.uniform(0.05, 0.5) * rng.standard_normal(n) if kind == "iid" else wobble(n, rng)
    log_lambda = -nu * np.log(k) + deviation
    if head:
        log_lambda[0] += np.log(20)
    if bend:
        log_lambda += 2 * np.log1p(-np.maximum(k - 0.6 * n, 0) / (0.401 * n))
    eigenvalues = np.sort(np.exp(log_lambda))[::-1]
    coefficients = k ** (-(kappa + 1) / 2) * rng.standard_normal(n)
    return nu, kappa, ss.QuadraticProblem(ss.Spectrum(eigenvalues / eigenvalues[0]), coefficients)


def inside(value, estimate):
    return estimate.low <= value <= estimate.high


def width(estimate):
    return estimate.high - estimate.low


@pytest.fixture(scope="module")
def experiment():
    """400 fits: by kind of noise and whether head and end are spoilt, what is covered and how wide intervals are."""
    found = {}
    for kind in ("iid", "smooth"):
        for spoilt in (False, True):
            rows = []
            for seed in range(100):
                nu, kappa, problem = noisy(np.random.default_rng([seed, spoilt]), kind, head=spoilt, bend=spoilt)
                fit = fit_power_law(problem, seed=seed)
                truths = ((nu, fit.nu), (kappa, fit.kappa), (kappa / nu, fit.zeta), (1 / kappa, fit.A))
                # the best interval for κ, were the law known to be exact: ± 1.96 standard errors of maximum likelihood
                log_k = np.log(np.arange(fit.tail_window[0], fit.tail_window[1] + 1))
                best = 2 * 1.96 * np.sqrt(2 / log_k.size) / log_k.std()
                curved = fit.goodness.curved or fit.tail_goodness.curved
                covered = [inside(*pair) for pair in truths]
                rows.append([*covered, width(fit.nu) / nu, width(fit.kappa) / best, curved])
            found[kind, spoilt] = np.array(rows, dtype=float)
    return found


def test_intervals_cover_the_truth(experiment):
    """At least 95% for each of ν, κ, ζ, A, over all draws; in each case no fewer than chance explains (3 sigma)."""
    assert (np.concatenate(list(experiment.values()))[:, :4].mean(0) >= 0.95).all()
    for rows in experiment.values():
        assert (rows[:, :4].mean(0) >= 0.885).all()


def test_intervals_are_not_absurdly_wide(experiment):
    for (kind, _), rows in experiment.items():
        assert np.median(rows[:, 4]) < (0.05 if kind == "iid" else 0.10)
        assert np.quantile(rows[:, 4], 0.9) < 0.30
        assert np.median(rows[:, 5]) < 1.6


def test_power_laws_are_rarely_called_curved(experiment):
    assert np.concatenate(list(experiment.values()))[:, 6].mean() < 0.05


def ended(kind, seed):
    """ν and a spectrum k^−ν that ends as `kind` says, seen through up to 5% of noise, in a quarter of them none."""
    rng = np.random.default_rng([seed, len(kind)])
    n, nu = int(np.exp(rng.uniform(np.log(200), np.log(5000)))), rng.uniform(1.1, 2.5)
    k = np.arange(1, n + 1)
    ends = {
        "no end": 1.0,
        "exponential": np.exp(-k / n),
        "gaussian": np.exp(-((k / n) ** 2)),
        "floor": 1 + 1e-5 * k**nu,
    }
    noise = rng.choice([0, 1], p=[0.25, 0.75]) * rng.uniform(0, 0.05)
    values = np.sort(k**-nu * ends[kind] * np.exp(noise * rng.standard_normal(n)))[::-1]
    return nu, ss.Spectrum(values / values[0])


@pytest.mark.parametrize("kind", ["no end", "exponential", "gaussian", "floor"])
def test_a_cut_off_and_a_floor_are_seen(kind):
    """The exponent before them is covered, or a warning says why not; pure power laws get no warning."""
    covered, warned = [], []
    for seed in range(60):
        nu, spectrum = ended(kind, seed)
        fit = fit_power_law(spectrum)
        covered.append(inside(nu, fit.nu))
        warned.append(any("bend on modes" in text for text in fit.warnings))
        assert inside(fit.nu.value, fit.nu)
    assert np.mean(covered) >= 0.9
    assert np.mean(np.logical_or(covered, warned)) >= 0.95
    if kind == "no end":
        assert np.mean(warned) <= 0.1
    else:
        assert np.mean(warned) >= 0.6


def test_smooth_deviations_are_rarely_called_an_end():
    bent = []
    for seed in range(100):
        _, _, problem = noisy(np.random.default_rng([seed, 0]), "smooth")
        bent.append(any("bend on modes" in text for text in fit_power_law(problem, seed=seed).warnings))
    assert np.mean(bent) <= 0.1


def test_half_intervals_are_not_far_too_wide():
    covered = []
    for seed in range(100):
        nu, kappa, problem = noisy(np.random.default_rng([seed, 9]), "smooth")
        fit = fit_power_law(problem, confidence=0.5, seed=seed)
        covered.append([inside(nu, fit.nu), inside(kappa, fit.kappa)])
    assert (np.mean(covered, axis=0) > 0.45).all()
    assert (np.mean(covered, axis=0) < 0.75).all()


def test_least_squares_would_be_overconfident():
    """Why the fit is not plain least squares: on smooth deviations its 95% intervals miss more often than not."""
    covered = []
    for seed in range(100):
        nu, _, problem = noisy(np.random.default_rng([seed, 5]), "smooth")
        k = np.arange(7, problem.n // 2)
        (slope, _), covariance = np.polyfit(np.log(k), np.log(problem.eigenvalues[k - 1]), 1, cov="unscaled")
        rms = np.std(np.log(problem.eigenvalues[k - 1]) + nu * np.log(k))
        covered.append(abs(slope + nu) < 1.96 * rms * np.sqrt(covariance[0, 0]))
    assert np.mean(covered) < 0.5


@pytest.mark.parametrize(("n", "nu", "kappa"), [(300, 1.1, 0.2), (1000, 3.0, 3.0), (10_000, 1.5, 0.5)])
def test_exact_power_law(n, nu, kappa):
    fit = fit_power_law(ss.QuadraticProblem.power_law(n, nu, kappa))
    a = 1 / (kappa * (np.arange(1, n + 1) ** (-kappa - 1.0)).sum())
    for truth, estimate in ((nu, fit.nu), (1.0, fit.Lambda), (kappa, fit.kappa), (a, fit.A), (kappa / nu, fit.zeta)):
        assert inside(truth, estimate)
        assert estimate.value == pytest.approx(truth, rel=1e-7)
        assert 0 < width(estimate) < 1e-5 * truth
    assert fit.window == fit.tail_window == (max(3, int(np.ceil(n**0.25))), n // 2)
    assert fit.warnings == ()
    assert fit.goodness.r_squared == pytest.approx(1)
    assert fit.goodness.rms < 1e-9


def test_docstring_example_of_tail_sums():
    """Tail sums of an exact law at finite N suggest an exponent several times too large."""
    k = np.arange(1, 2001)
    tails = np.cumsum((k**-1.05)[::-1])[::-1]
    chosen = np.geomspace(10, 400, 40).astype(int)
    assert -np.polyfit(np.log(chosen), np.log(tails[chosen - 1]), 1)[0] == pytest.approx(0.34, abs=0.01)
    fit = fit_power_law(ss.QuadraticProblem.power_law(2000, 1.5, 0.05))
    assert fit.kappa.value == pytest.approx(0.05, rel=1e-6)


def test_scale_of_the_coefficients():
    _, _, problem = noisy(np.random.default_rng(1), "iid")
    one, three = (fit_power_law(problem.spectrum, factor * problem.coefficients) for factor in (1, 3))
    assert three.kappa.value == pytest.approx(one.kappa.value)
    assert three.A.value == pytest.approx(9 * one.A.value)
    assert three.A.high == pytest.approx(9 * one.A.high)


def test_window_leaves_out_head_and_bend():
    k = np.arange(1, 2001)
    values = 2.0 * k**-1.5
    values[:12] *= 5
    values *= np.exp(-((k / 700) ** 3))
    fit = fit_power_law(ss.Spectrum(values / values[0]))
    assert 13 <= fit.window[0] <= 25
    assert fit.window[1] < 600
    assert any("look like a power law" in text for text in fit.warnings)
    assert inside(1.5, fit.nu)
    assert inside(0.2, fit.Lambda)
    everything = fit_power_law(ss.Spectrum(values / values[0]), window=(1, 1700))
    assert width(fit.nu) < 0.4 < width(everything.nu)


def test_window_of_the_user_and_coefficients_of_the_user():
    problem = ss.QuadraticProblem.power_law(500, 1.5, 1.0)
    k = np.arange(1, 501)
    fit = fit_power_law(problem, k**-1.5, window=(10, 200))
    assert fit.window == fit.tail_window == (10, 200)
    assert fit.kappa.value == pytest.approx(2.0)


def test_spectrum_alone():
    fit = fit_power_law(ss.QuadraticProblem.power_law(300, 2.0, 1.0).spectrum)
    assert fit.nu.value == pytest.approx(2.0)
    assert (fit.kappa, fit.A, fit.zeta, fit.tail_window, fit.tail_goodness) == (None,) * 5


def test_seed_and_confidence():
    _, _, problem = noisy(np.random.default_rng(2), "smooth")
    fit, again, other = (fit_power_law(problem, seed=seed) for seed in (0, 0, 1))
    assert fit == again
    assert fit.nu.value == other.nu.value
    assert fit.nu.low != other.nu.low
    assert width(fit.nu) == pytest.approx(width(other.nu), rel=0.1)
    assert width(fit_power_law(problem, confidence=0.5).kappa) < 0.5 * width(fit.kappa)


def test_as_dict_is_json():
    _, _, problem = noisy(np.random.default_rng(3), "iid")
    fit = fit_power_law(problem)
    loaded = json.loads(json.dumps(fit.as_dict(), allow_nan=False))
    assert loaded["nu"] == {"value": fit.nu.value, "low": fit.nu.low, "high": fit.nu.high}
    assert loaded["tail_window"] == list(fit.tail_window)
    assert set(loaded) == {*vars(fit)}


def test_tail_sums_that_do_not_converge():
    k = np.arange(1, 1001)
    coefficients = k**-0.5 * np.random.default_rng(0).standard_normal(k.size)
    fit = fit_power_law(ss.Spectrum(k**-1.5), coefficients)
    assert inside(0.0, fit.kappa)
    assert fit.A.high == np.inf
    assert json.loads(json.dumps(fit.as_dict(), allow_nan=False))["A"]["high"] is None
    assert any("κ reaches 0" in text for text in fit.warnings)


def test_flat_spectrum():
    fit = fit_power_law(ss.Spectrum(np.ones(100)), np.ones(100))
    assert fit.nu.value == pytest.approx(0, abs=1e-9)
    assert any("ν reaches 0" in text for text in fit.warnings)
    json.dumps(fit.as_dict(), allow_nan=False)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("shape", ["exponential", "two slopes"])
def test_no_power_law_is_said(shape, noise):
    k = np.arange(1, 1001)
    values = np.exp(-k / 60) if shape == "exponential" else 1 / (k + k**3.0 / 2500)
    values = np.sort(values * np.exp(noise * np.random.default_rng(0).standard_normal(k.size)))[::-1]
    fit = fit_power_law(ss.Spectrum(values / values[0]), np.sqrt(values))
    assert any("eigenvalues are curved" in text for text in fit.warnings)
    assert any("coefficients are curved" in text for text in fit.warnings)
    assert all(text.endswith(".") and "\n" not in text for text in fit.warnings)
    assert fit.goodness.curved


def test_short_window_is_said():
    fit = fit_power_law(ss.QuadraticProblem.power_law(300, 1.5, 1.0), window=(20, 60))
    assert sum("less than a decade" in text for text in fit.warnings) == 2


@pytest.mark.parametrize("sparse", [3, 6])
def test_sparse_coefficients(sparse):
    """Targets that see only every third mode, as symmetric data make them: the law is that of the others."""
    k = np.arange(1, 2001)
    coefficients = np.where(k % sparse == 0, k**-1.0, 0.0)
    fit = fit_power_law(ss.Spectrum(k**-1.5), coefficients)
    assert inside(1.0, fit.kappa)
    assert inside(1.0 / sparse, fit.A)
    assert width(fit.kappa) < 0.7


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"problem": ss.Spectrum(np.arange(1, 30) ** -1.0)}, "at least 30"),
        ({"problem": ss.Spectrum(np.repeat([1.0, 0.0], [29, 71]))}, "at least 30 eigenvalues above rounding, got 29"),
        ({"problem": np.ones(100)}, "expected a problem or a Spectrum, got ndarray"),
        ({"coefficients": np.zeros(100)}, "all zeros"),
        ({"coefficients": np.repeat([1.0, 0.0], [20, 80])}, "zeros around mode"),
        ({"coefficients": np.ones(99)}, "expected shape"),
        ({"coefficients": np.full(100, np.nan)}, "finite"),
        ({"window": (0, 50)}, "k_min"),
        ({"window": (3, 101)}, "k_max"),
        ({"window": (10, 20)}, "at least 12 modes"),
        ({"window": (50, 10)}, "at least 12 modes"),
        ({"window": 5}, "two mode numbers"),
        ({"window": (3, 20.5)}, "k_max"),
        ({"confidence": 0}, "confidence"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": 95}, "confidence"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_input_is_one_line(change, text):
    call = {"problem": ss.QuadraticProblem.power_law(100, 1.5, 1.0), **change}
    with pytest.raises(ss.InputError, match=text) as caught:
        fit_power_law(call.pop("problem"), **call)
    assert "\n" not in str(caught.value)


def test_smallest_problem():
    fit = fit_power_law(ss.QuadraticProblem.power_law(30, 1.5, 1.0))
    assert fit.nu.value == pytest.approx(1.5)
    assert fit.kappa.value == pytest.approx(1.0)
    assert any("less than a decade" in text for text in fit.warnings)
