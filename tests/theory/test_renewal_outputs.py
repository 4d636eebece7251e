"""The exact threshold with a kernel over all outputs of all points."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.problem.quadratic import QuadraticProblem
from sgdsim.theory import stability
from sgdsim.theory.verdicts import verdict

N, C, B = 4, 2, 2


def drawn(seed: int) -> QuadraticProblem:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((N * C, 10)) * np.arange(1, 11) ** -0.5
    return QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal((N, C)))


def radius(problem: QuadraticProblem, lr: float, momentum: float, nesterov: bool) -> float:
    """Spectral radius of E[S ⊗ S], S the step of residual and velocity on a batch, over all batches."""
    size, batches = N * C, list(itertools.combinations(range(N), B))
    total = np.zeros(((2 * size) ** 2,) * 2)
    for batch in batches:
        rows = [i * C + o for i in batch for o in range(C)]
        kick = np.zeros((size, size))
        kick[:, rows] = -lr * N / B * problem.kernel[:, rows]
        one = np.eye(size)
        if nesterov:  # the residual where the gradient is taken, and the velocity
            step = np.block([[one + (1 + momentum) * kick, momentum**2 * one], [kick, momentum * one]])
        else:
            step = np.block([[one + kick, momentum * one], [kick, momentum * one]])
        total += np.kron(step, step) / len(batches)
    return float(np.abs(np.linalg.eigvals(total)).max())


@pytest.mark.parametrize(("momentum", "method"), [(0.0, None), (0.7, None), (0.5, "nesterov")])
def test_the_threshold_is_where_all_batches_second_moments_stop_to_grow(momentum, method):
    for seed in range(3):
        problem = drawn(seed)
        sgd = ss.SGD(1.0, momentum, B, **({} if method is None else {"method": method}))
        lr = stability.max_lr(problem, sgd, "exact", tolerance=1e-8)
        assert radius(problem, lr, momentum, method is not None) == pytest.approx(1, abs=1e-6)
        for factor, stable in ((0.99, True), (1.01, False)):
            at = ss.SGD(lr * factor, momentum, B, method=sgd.method)
            assert verdict(problem, at).stable is stable
            assert stability.averaged_is_stable(problem, at) is stable


def test_outputs_that_share_a_kernel_have_its_threshold():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 25))
    one = QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal(20))
    several = QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal((20, 3)))
    full = np.kron(features @ features.T, np.eye(3)) + 1e-9 * np.eye(60)[:, ::-1]  # hardly not shared
    full = QuadraticProblem.from_kernel((full + full.T) / 2, rng.standard_normal((20, 3)))
    assert full.signed is None
    sgd = ss.SGD(1.0, 0.4, 3)
    expected = stability.max_lr(one, sgd, "exact")
    assert stability.max_lr(several, sgd, "exact") == pytest.approx(expected, rel=1e-9)
    assert stability.max_lr(full, sgd, "exact") == pytest.approx(expected, rel=1e-6)
