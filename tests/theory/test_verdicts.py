"""Yes, no or "?" against the averaged step as one explicit matrix, and closed forms."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import verdict_table

import sgdsim as ss
from sgdsim.recurrence import pairs
from sgdsim.theory import generating, renewal, stability
from sgdsim.theory.verdicts import verdict, verdicts


def explicit_radius(problem, sgd):
    """Radius of the averaged step on all second moments of (residual, velocity), (2n, 2n) and symmetric."""
    n, kernel, values = problem.n, problem.kernel, sgd.values(problem.n, 0, 1)
    a, b, g = values.lr[0], values.momentum[0], values.noise[0]
    ahead = b if sgd.method.spec == "nesterov" else 0.0  # gradients are taken at r + ahead·v
    seen = np.hstack([np.eye(n), ahead * np.eye(n)])
    velocity = np.hstack([np.zeros((n, n)), b * np.eye(n)]) - a * kernel @ seen
    step = np.vstack([np.hstack([np.eye(n), np.zeros((n, n))]) + velocity, velocity])

    def averaged(moments):
        c = seen @ moments @ seen.T
        noise = a * a * g * (n * kernel @ np.diag(np.diag(c)) @ kernel - kernel @ c @ kernel)
        return step @ moments @ step.T + np.tile(noise, (2, 2))

    pairs = list(itertools.combinations_with_replacement(range(2 * n), 2))
    matrix = np.empty((len(pairs), len(pairs)))
    for column, (i, j) in enumerate(pairs):
        unit = np.zeros((2 * n, 2 * n))
        unit[i, j] = unit[j, i] = 1.0
        matrix[:, column] = averaged(unit)[tuple(np.transpose(pairs))]
    return np.abs(np.linalg.eigvals(matrix)).max()


def basis(kind, n, rng):
    if kind == "hadamard":
        return scipy.linalg.hadamard(n) / np.sqrt(n)
    near = {"random": 0.0, "local": 5.0, "identity": 1e9}[kind]
    return np.linalg.qr(near * np.eye(n) + rng.standard_normal((n, n)))[0]


@pytest.mark.parametrize("method", ["heavy-ball", "nesterov"])
@pytest.mark.parametrize("kind", ["random", "local", "identity", "hadamard"])
def test_no_wrong_yes_and_no_wrong_no(kind, method):
    rng = np.random.default_rng(0)
    for _ in range(12):
        n = int(rng.choice([2, 4, 8] if kind == "hadamard" else [2, 3, 5, 7]))
        lam = np.sort(np.append(1.0, rng.uniform(0.01, 1, n - 1) ** rng.integers(1, 5)))[::-1]
        vectors = basis(kind, n, rng)
        problem = ss.QuadraticProblem.from_kernel((vectors * lam) @ vectors.T, rng.standard_normal(n))
        sgd = ss.SGD(
            1.0, float(rng.uniform(-0.9, 0.97)), int(rng.integers(1, n + 1)),
            str(rng.choice(["without-replacement", "with-replacement"])), method,
        )  # fmt: skip
        threshold = stability.max_lr(problem, sgd, "exact", tolerance=1e-4)
        for factor in (0.5, 0.99, 1.01, 2.0):
            at = ss.SGD(factor * threshold, sgd.momentum, sgd.batch_size, sgd.sampling, method)
            assert verdict(problem, at).stable is bool(explicit_radius(problem, at) < 1)


def test_points_that_do_not_see_each_other():
    """K = diag(1, .997 × 299): each point has `1 − 2α + Nα² < 1` iff α < 2/N, where b = 1."""
    problem = ss.QuadraticProblem.from_kernel(np.diag([1.0] + [0.997] * 299), np.ones(300))
    threshold = 2 / 300
    assert stability.max_lr(problem, ss.SGD(1.0, batch_size=1), "exact") == pytest.approx(threshold, rel=1e-7)
    for factor, word in ((0.999, "yes"), (1 - 1e-6, "yes"), (1 + 1e-6, "no"), (1.002, "no"), (1.5, "no")):
        sgd = ss.SGD(factor * threshold, batch_size=1)
        assert verdict(problem, sgd).word == word
        assert stability.averaged_is_stable(problem, sgd) is (word == "yes")


@pytest.mark.parametrize("momentum", [-0.9, -0.3, 0.0, 0.5, 0.9, 0.99])
def test_the_operator_has_no_negative_entries_and_each_weight_grows_with_lr(momentum):
    """What module renewal proves."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        n, gamma = int(rng.integers(2, 9)), float(rng.uniform(0.01, 1))
        x = 2 * (1 + momentum) * np.sort(rng.uniform(1e-4, 0.999, n))[::-1]
        vectors = np.linalg.qr(rng.standard_normal((n, n)))[0]
        weights = renewal.closed_pairs(pairs.heavy_ball, x, momentum, gamma, n)
        m = np.einsum("ik,jk,il,jl,kl->ij", vectors, vectors, vectors, vectors, weights)
        assert m.min() >= -1e-12 * m.max()
        assert (renewal.closed_pairs(pairs.heavy_ball, 0.99 * x, momentum, gamma, n) < weights).all()


def test_the_local_noise_of_the_points():
    """Its mean is the closure's Ũ(1) in every basis, equal in Hadamard's; it bounds the radius from both sides."""
    rng = np.random.default_rng(2)
    for kind in ("random", "local", "hadamard"):
        vectors, lam = basis(kind, 8, rng), 1 / np.arange(1, 9)
        problem = ss.QuadraticProblem.from_kernel((vectors * lam) @ vectors.T, np.ones(8))
        for method in ("heavy-ball", "nesterov"):
            sgd = ss.SGD(0.3, 0.5, 2, method=method)
            local = renewal.local_noise(problem, sgd)
            radius = stability.averaged_radius(problem, sgd)
            assert local.mean() <= radius * (1 + 1e-12)
            assert radius <= local.max() * (1 + 1e-12)
            if kind == "hadamard":
                np.testing.assert_allclose(local, radius)
        closure = generating.noise_propagator_at_one(lam, 0.3, 0.5, ss.SGD(1.0, 0.5, 2).noise(8), 1.0)
        assert renewal.local_noise(problem, ss.SGD(0.3, 0.5, 2)).mean() == pytest.approx(closure)


def test_a_localised_kernel_of_600_points_is_not_called_stable():
    """Eigenvectors that live on few points: the closure's optimum is far beyond the exact threshold."""
    rng = np.random.default_rng(0)
    lam = np.arange(1, 601.0) ** -1.5
    vectors = np.eye(600)[:, rng.permutation(600)]
    problem = ss.QuadraticProblem(ss.Spectrum(lam, vectors), np.ones(600))
    sgd = ss.SGD(0.0228, 0.891, 2)
    assert stability.diagonal_is_stable(problem, sgd)
    found = verdict(problem, sgd)
    assert found.stable is False
    assert "above 1" in found.reason
    gamma = sgd.noise(600)  # one point alone: N γx²(…) = 1 at its threshold
    alone = stability.max_lr(problem, ss.SGD(1.0, 0.891, 2), "exact")
    assert 600 * gamma * generating.noise_term_at_one(alone, 0.891, gamma) == pytest.approx(1, rel=1e-6)


def test_where_it_cannot_be_known():
    problem = ss.QuadraticProblem.power_law(100_000, 1.5, 1.0)
    below, above = verdicts(problem, [ss.SGD(0.5, 0.0, 1), ss.SGD(0.9, 0.0, 1)])
    assert below.word == "?"
    assert "eigenvectors" in below.reason
    assert above.word == "no"
    assert "every eigenbasis" in above.reason
    small = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    for sgd in (ss.SGD.jacobi(1.0, 0.5, 0.5), ss.SGD(0.5, sampling="reshuffle"), ss.SGD(0.1, sampling="importance")):
        assert verdict(small, sgd).stable is None
    assert verdict(small, ss.SGD(0.1, method="adam")).stable is None
    assert verdict(small, ss.SGD(2.1, batch_size=20)).reason.startswith("even the mean")
    assert verdict(small, ss.SGD(1.9, batch_size=20)).stable is True
    assert verdict(small, ss.SGD(0.1, batch_size=1, sampling="one-pass")).stable is True
    at = stability.max_lr(small, ss.SGD(1.0, batch_size=1), "exact", tolerance=1e-13)
    assert verdict(small, ss.SGD(at, batch_size=1)).stable is None
    assert "rounding" in verdict(small, ss.SGD(at, batch_size=1)).reason


def test_the_determinant_of_a_pair_is_what_the_solver_is_asked_about():
    """`F(a) + F(b) − Cab`, and on the diagonal (1 − βz)·S: positive where S is."""
    rng = np.random.default_rng(4)
    for _ in range(100):
        beta, gamma, z = rng.uniform(-0.95, 0.95), rng.uniform(0, 1), rng.uniform(0.01, 1)
        x, y = 2 * (1 + beta) * rng.uniform(0.01, 0.99, 2)
        noise, _, determinant = pairs.heavy_ball(np.array(x), np.array(y), beta, z, 1 - z)
        left = float(determinant + gamma * z * x * y * noise)
        shift = gamma * z * (1 - beta**2 * z**2)
        a, b = 1 + beta - x, 1 + beta - y
        own = [
            (1 - beta**2 * z**2) ** 2 / 2 + beta * z**2 * c**2 + shift * ((1 + beta) ** 2 / 2 - (1 + beta) * c)
            for c in (a, b)
        ]
        coefficient = z * (1 + beta**2 * z**2) - gamma * z * (1 - beta**2 * z**2)
        assert left == pytest.approx(sum(own) - coefficient * a * b, rel=1e-9, abs=1e-12)
        noise, _, determinant = pairs.heavy_ball(np.array(x), np.array(x), beta, z, 1 - z)
        s = generating.denominator(x, beta, gamma, z)
        assert float(determinant + gamma * z * x**2 * noise) == pytest.approx((1 - beta * z) * s, rel=1e-9)


def test_many_points_by_their_leading_modes(monkeypatch):
    """Where products of N × N matrices are too many: no is still found, and never said below the threshold."""
    problem = verdict_table.power_law("random", 120, 1.5)
    sgd = ss.SGD(1.0, 0.5, 2)
    threshold = stability.max_lr(problem, sgd, "exact")
    monkeypatch.setattr(stability, "EXACT_UP_TO", 100)
    monkeypatch.setattr("sgdsim.theory.verdicts._LEADING", 30)
    for factor, word in ((0.5, "yes"), (0.9, "?"), (0.999, "?"), (1.1, "no")):
        assert verdict(problem, ss.SGD(factor * threshold, 0.5, 2)).word == word


@pytest.mark.parametrize("method", ["heavy-ball", "nesterov"])
def test_the_truth_of_the_long_table_is_that_of_the_explicit_matrix(method):
    """What `tests/verdict_table.py` holds verdicts against, where one matrix can be formed."""
    for kind, momentum, batch in (("random", 0.0, 1), ("local", 0.9, 1), ("hadamard", -0.3, 1), ("local", 0.5, 3)):
        problem = verdict_table.power_law(kind, 4, 1.5)
        sgd = ss.SGD(1.0, momentum, batch, method=method)
        threshold = stability.max_lr(problem, sgd, "exact", tolerance=1e-3)
        for factor in (0.5, 0.97, 1.03, 2.0):
            at = ss.SGD(factor * threshold, momentum, batch, method=method)
            stable = bool(explicit_radius(problem, at) < 1)
            assert verdict_table.certificate(problem, at) is stable
            assert method == "nesterov" or verdict_table.bound(problem, at) is stable


def test_rows_of_the_long_table(monkeypatch):
    made = [(kind, 16, lambda kind=kind: verdict_table.power_law(kind, 16, 1.5)) for kind in ("local", "hadamard")]
    monkeypatch.setattr(verdict_table, "problems", lambda: made)
    assert verdict_table.counts(list(verdict_table.cells())) == {
        "cells": 60, "wrong yes": 0, "wrong no": 0, "?": 0, "truth by runs": 0, "truth open": 0,
    }  # fmt: skip
