"""Losses on fewer modes against those on all, for every linear method; the error that is told covers what differs."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.problem import compression
from sgdsim.recurrence import compressed, contour, diagonal
from sgdsim.theory import generating, stability

N = 3000
ROUNDING = 1e-13  # of a sum, for each unit of the loss's logarithm

ALGORITHMS = {
    "no momentum": ss.SGD(0.5, 0.0, 10),
    "negative": ss.SGD(0.1, -0.3, 1),
    "near the threshold": ss.SGD(1.9, 0.0, 500),
    "full batch, near 2": ss.SGD(1.99, 0.0, N),
    "strong": ss.SGD(0.05, 0.99, 1000),
    "a schedule": ss.SGD(ss.schedules.WarmupCosine(0.5, 100, 10_000), 0.8, 20),
    "nesterov": ss.SGD(0.3, 0.8, 10, method="nesterov"),
    "noisy labels": ss.SGD(0.3, 0.5, 10, label_noise=0.1),
    "an average": ss.SGD(0.5, 0.0, 10, average="ema:0.99"),
    "one pass": ss.SGD(0.3, 0.5, 10, sampling="one-pass"),
}


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    rng = np.random.default_rng(0)
    values = np.arange(1, N + 1.0) ** -1.2 * np.exp(0.3 * rng.standard_normal(N))
    values = np.sort(values)[::-1] / values.max()
    return ss.QuadraticProblem(ss.Spectrum(values), rng.standard_normal(N) * values**0.5)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("tau", [1.0, 0.0])
def test_steps_of_fewer_modes(problem, name, tau):
    sgd, steps = ALGORITHMS[name], np.array([0, 1, 5, 40, 300, 2000])
    found = compressed.follow(problem, lambda modes: diagonal.log_losses(modes, sgd, steps, tau))
    expected, _ = diagonal.log_losses(problem, sgd, steps, tau)
    assert found is not None
    (loss, _), told = found
    assert told.max() <= compressed.TOLERANCE
    assert (np.abs(np.expm1(loss - expected)) <= told + ROUNDING * (1 + np.abs(expected))).all()


def test_the_regime_takes_them_by_itself(problem):
    for name, steps in (("a schedule", 10_000), ("nesterov", 2000)):
        short, long = (
            ss.simulate(problem, ALGORITHMS[name], ss.SpectralDiagonal(compress=compress), steps, record=[steps])
            for compress in (True, False)
        )
        assert np.allclose(short.loss, long.loss, rtol=1e-9, atol=0)
        assert 0 <= short.error_estimate.item() <= compressed.TOLERANCE
        assert np.isnan(long.error_estimate.item())


@pytest.mark.parametrize(("lr", "momentum", "noise"), [(0.5, 0.0, 0.1), (0.1, 0.9, 0.01), (1.5, 0.3, 0.5)])
def test_contours_of_fewer_modes(problem, lr, momentum, noise):
    """Up to 10¹² steps, where a finite spectrum's tail is exponential; the last diverges."""
    steps = np.unique(np.geomspace(1, 1e12 if noise < 0.5 else 1e4, 20).astype(np.int64))
    short, long = (
        contour.loss_at(problem, steps, lr=lr, momentum=momentum, noise=noise, compress=compress)
        for compress in (True, False)
    )
    assert not np.array_equal(short.log_loss, long.log_loss)
    differs = np.abs(np.expm1(short.log_loss - long.log_loss))
    assert (differs <= short.error + long.error + ROUNDING * (1 + np.abs(long.log_loss))).all()


def test_narrower_bins_where_momentum_needs_them(problem, monkeypatch):
    """Near 1 the first bins are too wide, and nearer none is narrow enough: then nothing is compressed."""
    pair, tried = compression.pair, {}
    for momentum in (0.5, 0.99, 0.999):
        widths = tried[momentum] = []

        def asked(problem, width, widths=widths):
            widths.append(width)
            return pair(problem, width)

        monkeypatch.setattr(compression, "pair", asked)
        sgd = ss.SGD(1.5, momentum, N)
        compressed.follow(problem, lambda modes, sgd=sgd: diagonal.log_losses(modes, sgd, np.array([1500]), 1.0))
    assert len(tried[0.5]) <= 2
    assert len(tried[0.99]) > 2
    assert len(tried[0.999]) > 2


@pytest.mark.parametrize(("nu", "lr", "momentum", "time"), [(1.0, 3.497, 0.95, 876), (1.5, 3.547, 0.98, 1040)])
def test_a_time_at_which_two_compressions_agree_by_chance(nu, lr, momentum, time):
    """Both are off by 50 times what they differ by there: modes oscillate, and so does that difference."""
    problem, sgd, at = ss.QuadraticProblem.power_law(2000, nu, 1.0), ss.SGD(lr, momentum, 1000), np.array([time])

    def found(modes, times=at):
        return diagonal.log_losses(modes, sgd, times, 1.0)

    (loss, _), told = compressed.follow(problem, found)
    expected, _ = found(problem)
    assert told < compressed.TOLERANCE < np.abs(np.expm1(loss - expected)) / 40
    known = compressed.losses(problem, at, found)
    assert known is None or (np.abs(np.expm1(known.values[0] - expected)) <= known.error + 1e-12).all()


def test_what_diverges_has_no_error(problem):
    """Where neither all modes nor few give a number."""
    sgd, steps = ss.SGD(ss.schedules.WarmupCosine(3.0, 100, 10_000), 0.5, 20), np.array([1, 10_000])
    found = compressed.losses(problem, steps, lambda modes, at: diagonal.log_losses(modes, sgd, at, 1.0))
    assert np.isfinite(found.error).all()
    assert ss.simulate(problem, sgd, ss.SpectralDiagonal(), 10_000, record=[1, 10_000]).outcome.item() == 2


def spectrum(rng, kind, n=1500):
    """Eigenvalues of one kind: a power law, exponential ones, clusters decades apart, or few values and zeros."""
    values = {
        "power": np.arange(1, n + 1.0) ** -rng.uniform(0.5, 2.5) * np.exp(0.3 * rng.standard_normal(n)),
        "exponential": np.exp(-np.linspace(0, rng.uniform(2, 30), n)),
        "clusters": rng.choice([1.0, 1e-2, 1e-3, 1e-9], n) * np.exp(0.1 * rng.standard_normal(n)),
        "repeated": rng.choice(np.append(0.0, np.exp(-np.arange(0, 12, 0.3))), n),
    }[kind]
    values = np.sort(values)[::-1] / values.max()
    return ss.QuadraticProblem(ss.Spectrum(values), rng.standard_normal(n) * np.maximum(values, 1e-6) ** 0.4)


@pytest.mark.parametrize("kind", ["power", "exponential", "clusters", "repeated"])
@pytest.mark.parametrize("seed", range(4))
def test_random_spectra(kind, seed):
    """Every one of the times as if it were asked for alone, near the threshold too."""
    rng = np.random.default_rng(seed)
    problem, momentum, size = spectrum(rng, kind), rng.choice([-0.5, 0.0, 0.9, 0.99]), int(rng.choice([1, 30, 1500]))
    top = float(stability.max_lr(problem, ss.SGD(1.0, momentum, size)))
    sgd = ss.SGD(top * rng.choice([0.5, 0.99, 1.001]), momentum, size, label_noise=rng.choice([0.0, 0.1]))
    used = 0
    for time in (3, 20, 150, 600):
        at = np.array([time])
        found = compressed.losses(problem, at, lambda modes, times: diagonal.log_losses(modes, sgd, times, 1.0))
        expected, rounding = diagonal.log_losses(problem, sgd, at, 1.0)
        used += found is not None
        if found is not None:
            assert (np.abs(np.expm1(found.values[0] - expected)) <= found.error + 2 * rounding + 1e-12).all()
    assert used or abs(momentum) > 0.9 or kind == "exponential"


def test_a_switch_that_is_none():
    with pytest.raises(InputError, match="compress: expected True or False, got 'auto'"):
        ss.SpectralDiagonal(compress="auto")


def test_no_warning_where_losses_are_a_factor_of_1e400_apart(recwarn):
    assert np.isinf(compressed._difference(np.array([-1000.0]), np.array([0.0]))).all()
    assert not recwarn.list


def test_what_lanczos_made_stays_as_it_is(problem):
    rng = np.random.default_rng(1)
    factor = rng.standard_normal((200, 200))
    made = ss.QuadraticProblem.from_operator(factor @ factor.T, rng.standard_normal(200), n_lanczos=10, n_probes=2)
    assert not compressed.worth(made, 1e9)
    assert not compressed.worth(problem, 1e-6)
    assert compressed.worth(problem, 1.0)


@pytest.mark.parametrize(
    ("momentum", "noise", "tau"), [(0.0, 1.0, 1.0), (0.9, 0.1, 1.0), (0.999, 0.01, 0.0), (-0.6, 0.3, -1.0)]
)
def test_thresholds_and_growth_rates(problem, momentum, noise, tau):
    """Where Ũ(1) of all modes is 1; there nothing grows, beside it a little."""
    top = stability.diagonal_max_lr(problem, momentum=momentum, noise=noise, tau=tau)
    if top < 2 * (1 + momentum):
        total = generating.noise_propagator_at_one(problem.eigenvalues, top, momentum, noise, tau)
        assert total == pytest.approx(1, abs=1e-9)
    short = compression.short(problem)
    assert short.spectrum.n_modes < N / 4
    for share in (0.5, 0.99, 1.05):
        hyper = {"lr": np.array([share * top]), "momentum": momentum, "noise": noise, "tau": tau}
        rates = [contour.rate(one, **hyper)[0] for one in (problem, short)]
        assert rates[0] == rates[1]  # it takes them by itself
        cells, _ = contour._cells(problem, *hyper.values())
        assert rates[0] == pytest.approx(cells.rightmost(np.zeros(1))[0], rel=1e-9)
    slowest = contour.rate(problem, lr=0.5, momentum=0.0, noise=0.0)
    assert slowest == pytest.approx(2 * np.log1p(-0.5 * problem.eigenvalues[-1]), rel=1e-12)
