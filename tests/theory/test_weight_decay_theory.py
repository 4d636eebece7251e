"""Weight decay in theory, against ridge regression solved, matrix powers and runs to their end."""

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.recurrence import contour
from sgdsim.theory import best_schedules, epochs, exact, linear, memory, power_law, stability, verdicts, weight_decay

EXACT = ss.BatchAveraged(0)


def problem_at(origin: bool = True, n: int = 6) -> ss.QuadraticProblem:
    rng = np.random.default_rng(4)
    joint = rng.standard_normal((n + 3, 9))
    joint = joint @ joint.T
    made = ss.QuadraticProblem.from_kernel(
        joint[:n, :n], rng.standard_normal(n), cross_kernel=joint[n:, :n], test_residual=rng.standard_normal(3)
    )
    return made.with_origin(rng.standard_normal(n), rng.standard_normal(3)) if origin else made


def algorithm(problem: ss.QuadraticProblem, pull: float, batch_size: int = 2, **more: object) -> ss.SGD:
    return ss.SGD(**{"lr": 0.1, "batch_size": batch_size, "weight_decay": pull / problem.torch_lr(1.0), **more})


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_ridge_is_kernel_ridge_regression(n_outputs):
    rng = np.random.default_rng(1)
    shape = (8,) if n_outputs == 1 else (8, n_outputs)
    x, y = rng.standard_normal((8, 5)), rng.standard_normal(shape)
    data = ss.Dataset(x[:5], y[:5], "own", x[5:], y[5:])
    problem = ss.NetworkProblem(torch.nn.Linear(5, n_outputs, bias=False).double(), data)
    for decay in (0.0, 0.02, 3.0):
        solved = x[:5].T @ np.linalg.solve(x[:5] @ x[:5].T + 5 * decay * np.eye(5), y[:5])
        found, train, test = weight_decay.ridge(problem, decay), x[:5] @ solved - y[:5], x[5:] @ solved - y[5:]
        np.testing.assert_allclose(found.loss, (train**2).sum() / 10, rtol=1e-8, atol=1e-20)
        if decay:  # without, what of w_0 no point sees stays
            np.testing.assert_allclose(found.test_loss, (test**2).sum() / 6, rtol=1e-8)


def test_the_mean_path_is_a_power_of_a_matrix():
    """On each mode of (r, v, r_o), written out: `v' = βv − α(λr + ω(r − r_o))`, `r' = r + v'`."""
    problem, lr, beta, pull = problem_at(), 0.3, 0.6, 0.2
    sgd = algorithm(problem, pull, lr=lr, momentum=beta)
    found = weight_decay.mean_path(problem, sgd, [0, 1, 7, 40])
    for at, t in enumerate((0, 1, 7, 40)):
        total = 0.0
        for lam, a, o in zip(problem.eigenvalues, problem.coefficients, problem.origin, strict=True):
            down = [-lr * (lam + pull), beta, lr * pull]
            step = np.array([[1 + down[0], *down[1:]], down, [0.0, 0.0, 1.0]])
            total += (np.linalg.matrix_power(step, t) @ [a, 0.0, o])[0] ** 2
        np.testing.assert_allclose(found.loss[at], total / 12, rtol=1e-11)
    ends = weight_decay.mean_path(problem, sgd, [600])
    ridge = weight_decay.ridge(problem, sgd.weight_decay)
    np.testing.assert_allclose([ends.loss[0], ends.test_loss[0]], [ridge.loss, ridge.test_loss], rtol=1e-10)


@pytest.mark.parametrize("tau", [1.0, -0.7, 0.0])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"momentum": 0.6},
        {"momentum": 0.5, "method": "nesterov", "label_noise": 0.3},
        {"momentum": 0.3, "average": "ema:0.8"},
    ],
)
@pytest.mark.parametrize("origin", [True, False])
def test_a_floor_is_where_the_diagonal_regime_ends(origin, more, tau):
    problem = problem_at(origin)
    sgd = algorithm(problem, 0.15, **more)
    run = ss.simulate(problem, sgd, ss.SpectralDiagonal(tau, method="recurrence"), 3000, record=[3000])
    np.testing.assert_allclose(linear.floor(problem, sgd, tau).loss, run["loss"].values[0, 0, -1], rtol=1e-9)


def test_a_floor_where_modes_have_a_multiplicity():
    whole = ss.QuadraticProblem(ss.Spectrum(np.array([1.0, 0.5, 0.5, 0.5])), np.array([1.0, 0.2, -0.7, 0.4]))
    joined = ss.QuadraticProblem(
        ss.Spectrum(np.array([1.0, 0.5]), multiplicity=np.array([1.0, 3.0])), np.array([1.0, np.sqrt(0.69)])
    )
    one, other = (linear.floor(p, algorithm(p, 0.2, 1, average="ema:0.5"), 0.0).loss for p in (whole, joined))
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_in_a_hadamard_basis_the_floor_is_that_of_the_exact_average(hadamard_problem):
    sgd = algorithm(hadamard_problem, 0.1, 3, lr=0.3, momentum=0.2)
    run = ss.simulate(hadamard_problem, sgd, EXACT, 600, record=[600])
    np.testing.assert_allclose(weight_decay.floor(hadamard_problem, sgd).loss, run["loss"].values[0, 0, -1], rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_thresholds(momentum):
    problem, pull = problem_at(n=5), 0.3
    sgd, plain = algorithm(problem, pull, 1, momentum=momentum), ss.SGD(0.1, momentum, 1)
    full = stability.max_lr(problem, sgd, "full-batch")
    np.testing.assert_allclose(full, 2 * (1 + momentum) / (1 + pull), rtol=1e-6)
    for level, regime in (("spectral-diagonal", ss.SpectralDiagonal(method="recurrence")), ("exact", EXACT)):
        limit = stability.max_lr(problem, sgd, level)
        assert stability.max_lr(problem, plain, level) < limit < full  # noise that fades sooner
        for share, wanted in ((0.95, "ok"), (1.06, "diverged")):
            at = algorithm(problem, pull, 1, momentum=momentum, lr=share * limit)
            run = ss.simulate(problem, at, regime, 3000, record=[3000])
            assert np.isfinite(run["loss"].values[0, 0, -1]) == (wanted == "ok")
            if level == "exact":
                assert verdicts.verdict(problem, at).stable is (wanted == "ok")


@pytest.mark.parametrize("tau", [None, 1.0])
def test_the_best_weight_decay_at_a_step(tau):
    """No value of a fine grid is better, by the regime itself; with noise and without."""
    problem = problem_at()
    sgd = ss.SGD(0.3, 0.5, 2)
    found = weight_decay.best(problem, sgd, 60, tau=tau)
    losses = {}
    for decay in (0.0, found.weight_decay, *np.geomspace(1e-4, 3, 25) / problem.torch_lr(1.0)):
        tried = ss.SGD(0.3, 0.5, 2 if tau else 6, weight_decay=decay)
        run = ss.simulate(problem, tried, ss.SpectralDiagonal(), 60, record=[60], observe="test_loss")
        losses[decay] = run["test_loss"].values[0, 0, -1]
    assert found.weight_decay > 0
    np.testing.assert_allclose([found.without, found.value], list(losses.values())[:2], rtol=1e-10)
    assert found.value <= min(losses.values()) * (1 + 1e-6) < found.without


def test_where_none_helps_the_best_is_none():
    problem = problem_at(origin=False)
    assert weight_decay.best(problem, ss.SGD(0.3, 0.5, 6), 50, observe="loss").weight_decay == 0.0


def test_what_theory_does_not_know_of_it_is_refused(tiny):
    sgd, law = ss.SGD(0.1, 0.3, 2, weight_decay=0.01), power_law.PowerLaw(1.5, 0.6)
    for call in (
        lambda: exact.losses(tiny, sgd, [10]),
        lambda: epochs.reshuffled_loss(tiny, ss.SGD(0.1, 0.0, 1, weight_decay=0.01, sampling="reshuffle"), 2),
        lambda: memory.transforms(tiny, sgd, 0.5),
        lambda: power_law.predict(tiny, sgd, law),
        lambda: best_schedules.final_loss(tiny, sgd, 10),
        lambda: best_schedules.best_schedule(tiny, sgd, 10),
        lambda: best_schedules.best_averaged("ema", tiny, sgd, 10),
        lambda: contour.rate_of(tiny, sgd),
        lambda: linear.effective_lr(sgd),
        lambda: sgd.maps(0, 3),
        lambda: weight_decay.best(ss.QuadraticProblem.power_law(10, 1.5, 1.0), sgd, 10),
        lambda: weight_decay.ridge(tiny, -1.0),
        lambda: weight_decay.mean_path(tiny, sgd, [5, 3]),
    ):
        with pytest.raises(InputError):
            call()
