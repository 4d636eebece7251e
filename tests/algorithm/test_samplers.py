"""Samplers: what they say of themselves against what they draw, and importance sampling in every regime."""

import copy
import itertools

import naive
import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import cli, sampling
from sgdsim.algorithm import samplers
from sgdsim.algorithm.batches import batch_blocks
from sgdsim.common.checks import InputError
from sgdsim.theory import best_schedules, linear, stability

DIAGONAL = np.array([0.5, 0.0, 2.0, 1.0, 0.3])


@pytest.fixture(scope="module")
def linear_network() -> ss.NetworkProblem:
    """A network that is its own linearisation; its points have features of unequal length."""
    torch.manual_seed(0)
    return ss.NetworkProblem(
        torch.nn.Sequential(torch.nn.Linear(64, 1)).double(), ss.datasets.load("digits", n=30, seed=0, n_test=10)
    )


def losses(problem, sgd, regime, n_steps, what="loss", **options):
    return ss.simulate(problem, sgd, regime, n_steps, record=1, observe=[what], **options)[what].values[0]


@pytest.mark.parametrize("name", [name for name, s in samplers.SAMPLERS.items() if s.independent])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_moments_of_the_weights_are_those_of_all_batches(name, size):
    """E D_i = 1 and E D_iD_j = (1 − γ) + δ_ij γ N q_i, wherever a point has a gradient."""
    n, sampler = 5, samplers.SAMPLERS[name]
    q = sampler.pair_inclusion(DIAGONAL)
    p = DIAGONAL / DIAGONAL.sum() if sampler.weighted else np.full(n, 1 / n)
    options = list(itertools.product(range(n), repeat=size))
    if sampler.bounded:
        options = list(itertools.permutations(range(n), size))
    first, second = np.zeros(n), np.zeros((n, n))
    for batch in options:
        chance = 1 / len(options) if sampler.bounded else np.prod(p[list(batch)])
        d = np.zeros(n)
        for i in batch:
            d[i] += n / size * (q[i] if q is not None else 1.0)
        first, second = first + chance * d, second + chance * np.outer(d, d)
    gamma, drawn = float(sampler.noise(n, np.float64(size))), p > 0
    expected = (1 - gamma) + gamma * n * np.diag(np.ones(n) if q is None else q)
    np.testing.assert_allclose(first[drawn], 1, rtol=1e-12)
    np.testing.assert_allclose(second[np.ix_(drawn, drawn)], expected[np.ix_(drawn, drawn)], rtol=1e-12)


def test_draws_equal_their_twin():
    sizes, keys = np.array([3, 1, 7, 4, 4, 2, 10, 5]), sampling.replicate_keys(3, 3)
    drawn, weights = samplers.SAMPLERS["importance"].draw(samplers.Asked(5, sizes, 2**32 - 3, keys, diagonal=DIAGONAL))
    assert (drawn != 1).all()  # the point without gradient
    for r, t in itertools.product(range(3), range(8)):
        batch = naive.by_chance(DIAGONAL, sizes[t], 2**32 - 3 + t, keys[r])
        assert drawn[r, t].tolist() == batch + [-1] * (10 - sizes[t])
        expected = [DIAGONAL.sum() / (5 * DIAGONAL[i]) for i in batch] + [0.0] * (10 - sizes[t])
        np.testing.assert_allclose(weights[r, t], expected, rtol=1e-14)


def test_points_come_as_often_as_they_should():
    sizes = np.full(20_000, 3)
    asked = samplers.Asked(5, sizes, 0, sampling.replicate_keys(1, 1), diagonal=DIAGONAL)
    drawn = samplers.SAMPLERS["importance"].draw(asked).indices
    count, p = np.bincount(drawn.ravel(), minlength=5), DIAGONAL / DIAGONAL.sum()
    assert (np.abs(count - 60_000 * p) <= 4.5 * np.sqrt(60_000 * p * (1 - p))).all()


ALGORITHMS = [
    ({"momentum": 0.0}, 3),
    ({"momentum": 0.6}, 3),
    ({"momentum": 0.5, "method": "nesterov", "average": "ema:0.7"}, 3),
    ({"label_noise": 0.4, "momentum": 0.3}, 2),
]


@pytest.mark.parametrize(("options", "steps"), ALGORITHMS)
def test_averaged_is_the_mean_over_all_batch_sequences(options, steps):
    """N = 4, b = 2: 4096 sequences, weighed by their chances."""
    rng = np.random.default_rng(2)
    j = rng.standard_normal((4, 6)) * np.array([0.3, 1.0, 2.0, 0.7])[:, None]
    problem = ss.QuadraticProblem.from_kernel(j @ j.T, rng.standard_normal(4))
    sgd = ss.SGD(0.4, batch_size=2, sampling="importance", **options)
    maps = sgd.maps(0, steps)
    second = naive.enumerated_weighted(
        problem.kernel, problem.residual, maps, sgd.begins, sgd.readout, 2, sgd.label_noise
    )
    got = losses(problem, sgd, ss.BatchAveraged(), steps)[0]
    np.testing.assert_allclose(got, np.trace(second, axis1=1, axis2=2) / 8, rtol=1e-12)
    u = problem.eigenvectors
    moments = losses(problem, sgd, ss.BatchAveraged(), steps, "moments")[0]
    np.testing.assert_allclose(moments, np.einsum("ik,tij,jk->tk", u, second, u), rtol=1e-11)


@pytest.mark.parametrize("options", [options for options, _ in ALGORITHMS])
def test_with_a_constant_diagonal_it_is_with_replacement(hadamard_problem, options):
    """In a Hadamard basis all Θ_ii are the same."""
    runs = [
        losses(hadamard_problem, ss.SGD(0.3, batch_size=3, sampling=how, **options), ss.BatchAveraged(0.0), 60)
        for how in ("importance", "with-replacement")
    ]
    np.testing.assert_allclose(*runs, rtol=1e-11)


def test_sampled_equals_its_twin():
    problem = ss.QuadraticProblem.power_law(23, 1.3, 0.8, seed=2)
    sgd = ss.SGD(0.3, 0.6, 4, sampling="importance")
    own, keys = np.diag(problem.kernel), sampling.replicate_keys(9, 2)
    got = losses(problem, sgd, ss.SampledLinearized(), 40, replicates=2, seed=9)
    for r in range(2):
        residual, velocity = problem.residual.copy(), np.zeros(23)
        for t in range(40):
            counts = np.zeros(23)
            for i in naive.by_chance(own, 4, t, keys[r]):
                counts[i] += 1
            weights = counts / (4 * own / own.sum())  # D: count/(b p)
            velocity = 0.6 * velocity - 0.3 * problem.kernel @ (weights * residual)
            residual = residual + velocity
            assert got[r, t + 1] == pytest.approx((residual**2).mean() / 2, rel=1e-10)


def test_the_mean_of_sampled_runs_is_the_averaged_one():
    problem = ss.QuadraticProblem.power_law(20, 1.3, 0.8, seed=2)
    sgd = ss.SGD(0.3, 0.3, 4, sampling="importance")
    runs = losses(problem, sgd, ss.SampledLinearized(), 10, replicates=4000, seed=1)
    mean = losses(problem, sgd, ss.BatchAveraged(), 10)[0]
    assert (np.abs(runs.mean(0) - mean)[1:] < 4.5 * runs.std(0)[1:] / np.sqrt(4000)).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.5}, {"label_noise": 0.3}, {"average": "ema:0.8"}, {"method": "adam"}, {"method": "polyak"}],
)
def test_a_linear_network_is_its_linearisation(linear_network, options):
    sgd = ss.SGD(0.05, batch_size=4, sampling="importance", **options)
    runs = [
        losses(linear_network, sgd, regime, 30, replicates=3, seed=5)
        for regime in (ss.RealNetwork(), ss.SampledLinearized())
    ]
    np.testing.assert_allclose(*runs, rtol=1e-9)


def test_the_network_is_that_of_torch_with_weights(linear_network):
    problem, sgd = linear_network, ss.SGD(0.1, 0.5, 4, sampling="importance")
    got = losses(problem, sgd, ss.RealNetwork(), 20, replicates=1, seed=3)[0]
    own = np.diag(problem.quadratic.kernel)
    network = copy.deepcopy(problem.network)
    optimizer = torch.optim.SGD(network.parameters(), lr=problem.quadratic.torch_lr(0.1), momentum=0.5)
    x, y = torch.tensor(problem.data.x), torch.tensor(problem.data.y)
    for t in range(20):
        batch = naive.by_chance(own, 4, t, sampling.replicate_keys(3, 1)[0])
        optimizer.zero_grad()
        weights = torch.tensor(own.sum() / (30 * own[batch]))
        (0.5 * (weights * (network(x[batch])[:, 0] - y[batch]) ** 2).mean()).backward()
        optimizer.step()
        loss = 0.5 * ((network(x)[:, 0] - y) ** 2).mean().item()
        assert got[t + 1] == pytest.approx(loss, rel=1e-9)


def test_how_a_run_is_cut_changes_no_bit():
    problem, sgd = ss.QuadraticProblem.power_law(30, 1.3, 0.8), ss.SGD(0.2, 0.5, 3, sampling="importance")
    for regime in (ss.SampledLinearized(), ss.BatchAveraged()):
        every, last = (ss.simulate(problem, sgd, regime, 25, record=r, replicates=3) for r in (1, [25]))
        np.testing.assert_array_equal(every["loss"].sel(step=25), last["loss"].sel(step=25))


@pytest.mark.parametrize(
    "ask",
    [
        lambda problem, sgd: ss.simulate(problem, sgd, ss.SpectralDiagonal(), 5),
        lambda problem, sgd: stability.max_lr(problem, sgd),
        lambda problem, sgd: stability.averaged_radius(problem, sgd),
        lambda problem, sgd: linear.step(sgd),
        lambda problem, sgd: best_schedules.best_constant(problem, sgd, 10),
        lambda problem, sgd: sgd.noise(problem.n),
        lambda problem, sgd: next(batch_blocks(sgd, problem.n, sampling.replicate_keys(0, 1), 0, 1)),
    ],
)
def test_who_knows_the_noise_by_one_number_refuses_weights(tiny, ask):
    with pytest.raises(InputError, match=r"sampling: .*got importance"):
        ask(tiny, ss.SGD(0.1, batch_size=2, sampling="importance"))


def test_it_needs_the_diagonal():
    spectrum = ss.QuadraticProblem.power_law(50, 1.5, 1.0).spectrum
    without = ss.QuadraticProblem(ss.Spectrum(spectrum.eigenvalues, None), np.ones(50))
    with pytest.raises(InputError, match="expected eigenvectors"):
        ss.simulate(without, ss.SGD(0.1, sampling="importance"), ss.SampledLinearized(), 3)


def test_it_is_asked_for_in_words(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "20", "--lr", "0.1"]
    words += ["--momentum", "0", "--batch-size", "2", "--sampling", "importance", "--n-steps", "5", "--out", "a.nc"]
    assert cli.main([*words, "--regimes", "sampled", "averaged"]) == 0
    assert "importance" in capsys.readouterr().out
    assert ss.load("a.nc")["loss"].notnull().any()
    assert cli.main([*words, "--regimes", "diagonal", "--out", "b.nc"]) == 2
    assert "equally likely points only, got importance" in capsys.readouterr().err
