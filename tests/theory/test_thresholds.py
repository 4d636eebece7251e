"""Thresholds, sums and floors on few modes are those of the whole spectrum; where they might not be, it is asked."""

from __future__ import annotations

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.problem import compression
from sgdsim.theory import linear, stability

METHODS = {
    "Nesterov": {"momentum": 0.9, "method": "nesterov"},
    "Nesterov near 1": {"momentum": 0.999, "method": "nesterov"},
    "negative momentum": {"momentum": -0.6, "method": "nesterov"},
    "corner": {"momentum": 0.0, "method": "corner:theta=1.3,memory=3"},
    "sharp corner": {"momentum": 0.0, "method": "corner:theta=1.8,memory=5"},
    "weight decay": {"momentum": 0.9, "weight_decay": 1e-5},
    "Nesterov, weight decay": {"momentum": 0.8, "weight_decay": 1e-4, "method": "nesterov"},
}


def long_problem(seed: int, n: int = 1000) -> ss.QuadraticProblem:
    """A power law with noise on its eigenvalues and errors."""
    random, k = np.random.default_rng(seed), np.arange(1, n + 1)
    lam = np.sort(k ** -random.uniform(1.1, 2.0) * np.exp(random.normal(0, 0.3, n)))[::-1]
    return ss.QuadraticProblem(
        ss.Spectrum(lam / lam[0]), np.sqrt(k ** -random.uniform(1.3, 2.5)) * random.normal(size=n)
    )


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return long_problem(0)


def on_all_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "agreed", lambda problem, value, tolerance: value(problem))
    monkeypatch.setattr(compression, "short", lambda problem: problem)


@pytest.mark.parametrize(("seed", "name"), list(enumerate(METHODS)))
def test_few_modes_say_what_all_say(seed, name, monkeypatch):
    problem, tau = long_problem(seed), (1.0, -0.3)[seed % 2]
    sgd = ss.SGD(1.0, batch_size=3, **METHODS[name])

    def asked() -> list[float]:
        limit = stability.max_lr(problem, sgd, tau=tau, tolerance=1e-8)
        at = ss.SGD(0.7 * limit, batch_size=3, label_noise=0.1, **METHODS[name])
        sums = linear.at_one(problem, at, tau)
        assert sums.stable
        return [limit, sums.noise, linear.floor(problem, at, tau, 0).loss]

    few = asked()
    assert compression.pair(problem, compression.WIDTHS[1])[0].spectrum.n_modes < 500
    on_all_modes(monkeypatch)
    assert few == pytest.approx(asked(), rel=2e-8)


def test_signals_too(problem, monkeypatch):
    sgd = ss.SGD(0.5, 0.9, 3, method="nesterov")
    few = linear.at_one(problem, sgd).signal
    on_all_modes(monkeypatch)
    assert few == pytest.approx(linear.at_one(problem, sgd).signal, rel=3e-8)


def test_what_is_not_smooth_is_asked_of_all_modes(problem):
    asked = []

    def rough(some: ss.QuadraticProblem) -> float:
        asked.append(some.spectrum.n_modes)
        return float(np.sin(1e5 * np.log(some.eigenvalues)) @ some.spectrum.counts)

    assert compression.agreed(problem, rough, 1e-9) == rough(problem)
    assert min(asked) < 500


def test_a_threshold_at_which_a_mode_between_diverges_is_not_believed(problem, monkeypatch):
    sgd = ss.SGD(1.0, 0.9, 3, method="nesterov")
    limit = stability.max_lr(problem, sgd)
    monkeypatch.setattr(compression, "agreed", lambda problem, value, tolerance: 10 * value(problem))
    assert stability.max_lr(problem, sgd) == pytest.approx(limit, rel=1e-6)
