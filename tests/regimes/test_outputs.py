"""Several outputs: one kernel that they share, and one over all outputs of all points."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.algorithm.methods import EMA
from sgdsim.common.checks import InputError
from sgdsim.problem.quadratic import QuadraticProblem
from sgdsim.problem.spectrum import Spectrum
from sgdsim.recurrence import exact
from sgdsim.regimes.averaged import over_outputs
from sgdsim.runs import results
from sgdsim.theory import epochs, stability

N, C = 6, 3
ALGORITHMS = {
    "heavy ball": ss.SGD(0.5, 0.4, 2),
    "Nesterov": ss.SGD(0.4, 0.5, 2, method="nesterov"),
    "noisy labels": ss.SGD(0.4, 0.0, 3, label_noise=0.2),
    "an average": ss.SGD(0.4, 0.2, 2, average=EMA(0.7)),
    "with replacement": ss.SGD(0.3, 0.1, 2, sampling="with-replacement"),
    "importance": ss.SGD(0.2, 0.0, 2, sampling="importance"),
}
FOLLOWED = (ss.SampledLinearized(), ss.BatchAveraged(tolerance=0.0), ss.SpectralDiagonal())


def drawn(seed: int = 0, full: bool = False, test: bool = False) -> QuadraticProblem:
    """A random kernel with C outputs, shared or over all of them."""
    rng = np.random.default_rng(seed)
    size, m = (N * C, 4 * C) if full else (N, 4)
    features = rng.standard_normal((size + m, size + 2))
    kernel = features @ features.T
    extra = {}
    if test:
        extra = {"cross_kernel": kernel[size:, :size], "test_residual": rng.standard_normal((4, C))}
    return QuadraticProblem.from_kernel(kernel[:size, :size], rng.standard_normal((N, C)), **extra)


def over_all(problem: QuadraticProblem) -> QuadraticProblem:
    """The same problem with K ⊗ 1 as a kernel over all outputs."""
    spectrum = Spectrum.from_kernel(np.kron(problem.kernel * problem.spectrum.scale, np.eye(C)))
    flat = problem.residual.ravel()
    spectrum = replace(spectrum, outputs=C)
    return QuadraticProblem(spectrum, spectrum.eigenvectors.T @ flat, n_outputs=C)


def losses(problem, sgd, regime, n_steps=12, **options) -> np.ndarray:
    result = ss.simulate(problem, sgd, regime, n_steps, record=1, **options)
    return result["loss"].values.reshape(-1, n_steps + 1)


@pytest.mark.parametrize("regime", FOLLOWED, ids=lambda regime: regime.name)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_copies_of_one_target_have_as_many_times_its_loss(name, regime):
    sgd = ALGORITHMS[name]
    if name == "importance" and isinstance(regime, ss.SpectralDiagonal):
        pytest.skip("the diagonal regime knows no weights")
    one = drawn().output(0)
    several = QuadraticProblem.from_kernel(one.kernel, np.tile(one.residual[:, None], (1, C)))
    if name == "noisy labels" and isinstance(regime, ss.SampledLinearized):
        sgd = replace(sgd, label_noise=0.0)  # each output has errors of its own
    np.testing.assert_allclose(losses(several, sgd, regime), C * losses(one, sgd, regime), rtol=1e-11)


@pytest.mark.parametrize("regime", FOLLOWED[:2], ids=lambda regime: regime.name)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_shared_kernel_is_the_full_one_with_equal_blocks(name, regime):
    problem, sgd = drawn(1), ALGORITHMS[name]
    full = over_all(problem)
    assert full.spectrum.outputs == C
    assert problem.signed is not None
    np.testing.assert_allclose(losses(full, sgd, regime), losses(problem, sgd, regime), rtol=1e-9)


def test_a_full_kernel_with_equal_blocks_is_seen_to_be_shared():
    problem = drawn(1)
    found = QuadraticProblem.from_kernel(np.kron(problem.kernel, np.eye(C)), problem.residual)
    assert found.signed is not None
    np.testing.assert_allclose(found.eigenvalues, problem.eigenvalues, rtol=1e-12)
    blocks = np.einsum("ij,ab->ijab", problem.kernel, np.eye(C))
    assert QuadraticProblem.from_kernel(blocks, problem.residual).signed is not None


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_average_over_outputs_is_that_of_all_batches(momentum):
    """Every sequence of batches of 2 of 4 points with 2 outputs, with a kernel over all outputs, three steps."""
    rng, n, outputs, lr = np.random.default_rng(3), 4, 2, 0.7
    features = rng.standard_normal((n * outputs, 9))
    problem = QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal((n, outputs)))
    states = [(problem.residual.ravel(), np.zeros(n * outputs))]
    expected = [np.mean([r @ r for r, _ in states]) / (2 * n)]
    for _ in range(3):
        moved = []
        for (r, v), batch in itertools.product(states, itertools.combinations(range(n), 2)):
            rows = [i * outputs + o for i in batch for o in range(outputs)]
            w = momentum * v - lr * n / 2 * problem.kernel[:, rows] @ r[rows]
            moved.append((r + w, w))
        states = moved
        expected.append(np.mean([r @ r for r, _ in states]) / (2 * n))
    found = losses(problem, ss.SGD(lr, momentum, 2), ss.BatchAveraged(), 3)
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)


def test_full_batches_are_gradient_descent_in_every_regime():
    for full in (False, True):
        problem, sgd = drawn(4, full), ss.SGD(1.2, 0.3, N)
        found = [losses(problem, sgd, regime)[0] for regime in FOLLOWED]
        r, v, expected = problem.residual.ravel(), 0.0, []
        kernel = problem.kernel if full else np.kron(problem.kernel, np.eye(C))
        for _ in range(13):
            expected.append(r @ r / (2 * N))
            v = 0.3 * v - 1.2 * kernel @ r
            r = r + v
        for each in found:
            np.testing.assert_allclose(each, expected, rtol=1e-9)


@pytest.mark.parametrize("full", [False, True])
def test_samples_have_the_average_as_their_mean(full):
    problem, sgd = drawn(5, full, test=True), ss.SGD(0.4, 0.3, 2, label_noise=0.3)
    options = {"record": 1, "observe": ["test_loss", "moments"]}
    sampled = ss.simulate(problem, sgd, ss.SampledLinearized(), 10, replicates=4000, **options)
    averaged = ss.simulate(problem, sgd, ss.BatchAveraged(), 10, **options)
    for name in ("loss", "test_loss", "moments"):
        values = sampled[name].values.reshape(4000, 11, -1)
        mean, error = values.mean(0), values.std(0) / np.sqrt(4000)
        apart = np.abs(mean - averaged[name].values.reshape(11, -1)) / (error + 1e-12 * mean)
        assert apart[1:].max() < 5


@pytest.mark.parametrize("full", [False, True])
def test_the_diagonal_regime_sees_a_share_of_a_points_noise(full):
    """c_k ← (1 − αλ)² c_k + α²γλ²(s − τc_k), γ/C where each of NC modes is of all outputs; by contour as well."""
    problem, sgd, tau = drawn(6, full, test=True), ss.SGD(0.3, 0.0, 2), 0.5
    gamma = sgd.noise(N) / (C if full else 1)
    c, x, expected = problem.coefficients**2, 0.3 * problem.eigenvalues, []
    for _ in range(201):
        expected.append(c.sum() / (2 * N))
        c = (1 - x) ** 2 * c + gamma * x**2 * (c.sum() - tau * c)
    np.testing.assert_allclose(losses(problem, sgd, ss.SpectralDiagonal(tau), 200)[0], expected, rtol=1e-11)
    late = losses(problem, sgd, ss.SpectralDiagonal(tau, method="contour"), 200)[0]
    np.testing.assert_allclose(late, expected, rtol=1e-9)
    tested = ss.simulate(problem, sgd, ss.SpectralDiagonal(tau), 200, observe=["test_loss"])
    np.testing.assert_allclose(tested["loss"].values.ravel()[-1], expected[-1], rtol=1e-11)


def test_test_losses_are_those_of_the_model():
    for full in (False, True):
        problem, sgd = drawn(7, full, test=True), ss.SGD(0.5, 0.2, N)
        found = [ss.simulate(problem, sgd, regime, 9, observe=["test_loss"]) for regime in FOLLOWED]
        transfer = problem.test.transfer if full else np.kron(problem.test.transfer, np.eye(C))
        start = problem.coefficients if full else problem.signed.ravel()
        lam = problem.eigenvalues if full else problem.eigenvalues.repeat(C)
        a, v = start, 0.0
        for _ in range(9):
            v = 0.2 * v - 0.5 * lam * a
            a = a + v
        e = problem.test.residual.ravel() + transfer @ (a - start)
        for result in found:
            np.testing.assert_allclose(result["test_loss"].values.ravel()[-1], e @ e / 8, rtol=1e-9)


def test_a_shared_kernel_whose_test_points_mix_outputs_is_one_over_all():
    """One point whose outputs have features e1 and e2, a test point that has them the other way round."""
    cross = np.array([[0.0, 1.0], [1.0, 0.0]])
    for kernel in (np.eye(1), np.eye(2)):
        problem = QuadraticProblem.from_kernel(
            kernel, np.array([[1.0, 0.0]]), cross_kernel=cross, test_residual=np.array([[0.0, 1.0]])
        )
        assert problem.signed is None
        result = ss.simulate(problem, ss.SGD(1.0, 0.0, 1), ss.SampledLinearized(), 1, observe=["test_loss"])
        np.testing.assert_allclose(result["test_loss"].values.ravel(), [0.5, 0.0], atol=1e-15)
    shared = QuadraticProblem.from_kernel(
        np.eye(2), np.ones((1, 2)), cross_kernel=[[0.5]], test_residual=np.ones((1, 2))
    )
    assert shared.signed is not None


def test_what_is_not_known_of_several_outputs_is_refused():
    full = drawn(8, full=True)
    with pytest.raises(InputError, match="one kernel over the points"):
        _ = full.eigenvectors
    with pytest.raises(InputError, match="one-pass needs one output or a kernel that all share"):
        losses(full, ss.SGD(0.1, 0.0, 2, sampling="one-pass"), ss.SpectralDiagonal(-1.0))
    with pytest.raises(InputError, match="contour needs heavy ball or nesterov"):
        losses(full, ss.SGD(0.1, 0.0, 2, average=EMA(0.7)), ss.BatchAveraged(method="contour"))
    with pytest.raises(InputError, match=r"kernel: expected shape \(6, 6\), \(18, 18\)"):
        QuadraticProblem.from_kernel(np.eye(5), np.ones((N, C)))


@pytest.mark.parametrize("name", ["heavy ball", "Nesterov", "noisy labels", "with replacement"])
def test_late_times_over_all_outputs_are_those_of_steps(name):
    problem, sgd, steps = drawn(3, full=True, test=True), ALGORITHMS[name], [0, 1, 13, 40, 300, 1500]
    stepped, known = (
        ss.simulate(problem, sgd, ss.BatchAveraged(0.0, method=method), 1500, record=steps, observe=["test_loss"])
        for method in ("recurrence", "contour")
    )
    for what in ("loss", "test_loss"):
        np.testing.assert_allclose(known[what].values, stepped[what].values, rtol=1e-9)
    assert 0 < known["error_estimate"].item() < 1e-8


def test_a_shared_kernel_is_the_full_one_at_late_times():
    problem, sgd, steps = drawn(1), ss.SGD(0.4, 0.3, 2), np.array([5, 10**3, 10**6])
    one, other = (exact.losses(each, sgd, steps) for each in (problem, over_all(problem)))
    np.testing.assert_allclose(other.loss, one.loss, rtol=1e-8, atol=1e-30)


def test_a_run_of_very_many_steps_over_all_outputs_is_not_stepped(monkeypatch):
    problem, sgd = drawn(3, full=True), ss.SGD(0.4, 0.0, 3, label_noise=0.2)
    monkeypatch.setattr(over_outputs.OverOutputs, "advance", lambda *_: pytest.fail("stepped"))
    late = losses_at(problem, sgd, [10**8, 10**9])
    assert late[-1] == pytest.approx(late[-2], rel=1e-6)  # the labels' floor
    found = exact.Averaged(problem, replace(sgd, lr=0.999 * stability.max_lr(problem, sgd, level="exact")))
    assert found.rightmost(1e-9) <= 1e-9
    beyond = exact.Averaged(problem, replace(sgd, lr=1.001 * stability.max_lr(problem, sgd, level="exact")))
    assert beyond.rightmost(1e-9) > 1e-6


def losses_at(problem, sgd, steps):
    return ss.simulate(problem, sgd, ss.BatchAveraged(), steps[-1], record=steps)["loss"].values.ravel()


@pytest.mark.parametrize("regime", [ss.SampledLinearized(), ss.SpectralDiagonal(-1.0)], ids=lambda regime: regime.name)
def test_one_pass_over_copies_of_one_target(regime):
    one, sgd = drawn().output(0), ss.SGD(0.2, 0.3, 2, sampling="one-pass")
    several = QuadraticProblem.from_kernel(one.kernel, np.tile(one.residual[:, None], (1, C)))
    np.testing.assert_allclose(losses(several, sgd, regime, seed=3), C * losses(one, sgd, regime, seed=3), rtol=1e-11)


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_one_pass_has_the_closure_of_gaussian_features_as_its_mean(batch_size, noise):
    problem, sgd = drawn(2), ss.SGD(0.1, 0.2, batch_size, sampling="one-pass", label_noise=noise)
    runs = losses(problem, sgd, ss.SampledLinearized(), 15, replicates=3000, seed=1)[:, 1:]
    exact = losses(problem, sgd, ss.SpectralDiagonal(-1.0), 15)[0, 1:]
    error = runs.std(0, ddof=1) / np.sqrt(len(runs))
    assert (abs(runs.mean(0) - exact) < 4 * error).all()
    assert (error < 0.06 * exact).all()


def test_one_pass_gives_residuals_of_points_and_not_of_modes():
    problem, sgd = drawn(2).output(0), ss.SGD(0.1, 0.2, 2, sampling="one-pass")
    run = ss.SampledLinearized().start(problem, sgd, replicates=2, seed=0, test=False)
    np.testing.assert_allclose(run.observe(("loss", "residual"))["residual"], [problem.residual] * 2, rtol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_one_pass_of_several_outputs_is_of_the_law_of_its_samples(batch_size):
    """A step against samples drawn one by one: the same samples for all outputs, errors of labels of their own."""
    problem, rng, lr, noise, many = drawn(4), np.random.default_rng(0), 0.3, 0.5, 4000
    sgd = ss.SGD(lr, 0.0, batch_size, sampling="one-pass", label_noise=noise)
    run = ss.SampledLinearized().start(problem, sgd, replicates=many, seed=2, test=False)
    run.advance(0, 1)
    seen = run.observe(("loss", "moments", "residual"))
    assert seen["residual"].shape == (many, N, C)
    np.testing.assert_allclose((seen["residual"] ** 2).sum((1, 2)) / (2 * N), seen["loss"], rtol=1e-10)
    found = problem.eigenvectors.T @ seen["residual"]
    np.testing.assert_allclose((found**2).sum(2), seen["moments"], rtol=1e-8)
    z = rng.standard_normal((many, batch_size, N))
    residuals = z @ problem.signed - noise * np.sqrt(N) * rng.standard_normal((many, batch_size, C))
    lam = problem.eigenvalues[:, None]
    drawn_one_by_one = problem.signed - lr * lam * (z.transpose(0, 2, 1) @ residuals) / batch_size
    for of in (lambda a: a, lambda a: a**2, lambda a: a[:, :, :1] * a[:, :, 1:], lambda a: a[:, :1] * a[:, 1:]):
        one, other = of(found), of(drawn_one_by_one)
        error = np.sqrt((one.var(0) + other.var(0)) / many)
        assert (abs(one.mean(0) - other.mean(0)) <= 4.5 * error + 1e-12).all()
    size = [(a**2).sum((1, 2)) for a in (found, drawn_one_by_one)]
    assert size[0].std() == pytest.approx(size[1].std(), rel=0.2)


@pytest.mark.parametrize("full", [False, True])
def test_files_give_problems_of_several_outputs_back(full, tmp_path):
    problem = drawn(9, full, test=True)
    again = results.load_problem(results.save_problem(problem, tmp_path / "p.nc"))
    assert again.fingerprint == problem.fingerprint
    ss.save(ss.simulate(problem, ss.SGD(0.2, 0.0, 2), ss.SpectralDiagonal(), 5), tmp_path / "r.nc")
    known = results.problem_of(ss.load(tmp_path / "r.nc"))
    assert (known.n, known.n_outputs, known.share) == (N, C, problem.share)
    np.testing.assert_array_equal(known.coefficients, problem.coefficients)


def test_a_compressed_kernel_over_outputs_has_the_same_losses():
    rng = np.random.default_rng(10)
    lam = np.arange(1, 1201) ** -1.2
    problem = QuadraticProblem(Spectrum(lam, outputs=C), rng.standard_normal(1200) * lam, n_outputs=C)
    short, sgd = problem.compress(1e-8), ss.SGD(0.5, 0.6, 2)
    assert short.spectrum.n_modes < 400
    assert (short.n, short.share, short.spectrum.n_eigenvalues) == (400, problem.share, 1200)
    followed = ss.SpectralDiagonal(compress=False)
    np.testing.assert_allclose(losses(short, sgd, followed, 400), losses(problem, sgd, followed, 400), rtol=1e-7)


@pytest.mark.parametrize("full", [False, True])
def test_reshuffled_epochs_of_several_outputs_average_all_orders(full):
    rng = np.random.default_rng(11)
    features = rng.standard_normal((4 * 2, 10) if full else (4, 6))
    problem = QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal((4, 2)))
    sgd = ss.SGD(0.3, 0.4, 2, sampling="reshuffle")
    expected = epochs.reshuffled_loss(problem, sgd, 2)
    found = losses(problem, sgd, ss.SampledLinearized(), 4, replicates=4000)
    error = found.std(0)[1:] / np.sqrt(4000)
    assert (np.abs(found.mean(0) - expected)[1:] < 5 * error).all()


def test_fields_that_contradict_each_other_are_refused():
    problem = drawn(12)
    with pytest.raises(InputError, match="n_outputs: expected signed coefficients"):
        QuadraticProblem(problem.spectrum, problem.coefficients, n_outputs=C)
    with pytest.raises(InputError, match="signed: expected squares"):
        QuadraticProblem(problem.spectrum, problem.coefficients, n_outputs=C, signed=2 * problem.signed)
    with pytest.raises(InputError, match="test residual: expected 1 output"):
        QuadraticProblem.from_kernel(np.eye(2), np.ones(2), cross_kernel=np.ones((1, 2)), test_residual=np.ones((1, 2)))
