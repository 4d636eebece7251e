"""The ladder: identities between independent computations first, then pathwise, statistical and asymptotic checks."""

import itertools

import naive
import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import sampling, schedules
from sgdsim.common.checks import InputError
from sgdsim.recurrence import kernels
from sgdsim.regimes import _kernels

AVERAGED, DIAGONAL, SAMPLED = ss.BatchAveraged(), ss.SpectralDiagonal(1.0), ss.SampledLinearized()


def losses(problem, sgd, regime, n_steps, what="loss", **options):
    """Recorded values (R, T + 1) of one regime at every step."""
    run = ss.simulate(problem, sgd, regime, n_steps, record=1, observe=[what], **options)
    return run[what].values[0]


ALGORITHMS = [
    ss.SGD(0.4, 0.0, 2),
    ss.SGD(0.3, 0.6, 2),
    ss.SGD(0.5, -0.4, 3),
    ss.SGD(0.3, 0.5, 2, sampling="with-replacement"),
    ss.SGD.jacobi(0.5, 0.5, 0.2, batch_size=3),
    ss.SGD(schedules.Power(0.5, 0.5), schedules.Power(0.6, 0.3), schedules.Steps(1, 2, 2)),
    ss.SGD(schedules.WarmupCosine(0.6, 2, 4), 0.5, 2),
]


@pytest.mark.parametrize("sgd", ALGORITHMS)
def test_averaged_is_the_mean_over_all_batch_sequences(tiny, sgd):
    """Train loss, test loss and moments, constant and scheduled, with momentum (N = 5, T = 4, up to 10^4 sequences)."""
    steps = 3 if sgd.sampling == "with-replacement" else 4
    values = sgd.values(5, 0, steps)
    replace = sgd.sampling == "with-replacement"
    second, first = naive.enumerated(tiny.kernel, tiny.residual, values.lr, values.momentum, values.batch_size, replace)
    got = losses(tiny, sgd, AVERAGED, steps)[0]
    np.testing.assert_allclose(got, np.trace(second, axis1=1, axis2=2) / 10, rtol=1e-12)
    u = tiny.eigenvectors
    moments = np.einsum("ik,tij,jk->tk", u, second, u)
    np.testing.assert_allclose(losses(tiny, sgd, AVERAGED, steps, "moments")[0], moments, rtol=1e-10)

    # e = e_0 + q·(r − r_0), averaged over the sequences by its first two moments
    q = tiny.test.transfer @ u.T
    start = tiny.test.residual - q @ tiny.residual
    test = start**2 + 2 * start * (first @ q.T) + np.einsum("mi,tij,mj->tm", q, second, q)
    np.testing.assert_allclose(losses(tiny, sgd, AVERAGED, steps, "test_loss")[0], test.mean(1) / 2, rtol=1e-10)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("momentum", [0.0, 0.7, -0.3])
def test_diagonal_is_exact_in_a_hadamard_basis(hadamard_problem, batch_size, momentum):
    sgd = ss.SGD(0.4, momentum, batch_size)
    averaged = losses(hadamard_problem, sgd, AVERAGED, 60)
    np.testing.assert_allclose(losses(hadamard_problem, sgd, DIAGONAL, 60), averaged, rtol=1e-12)


@pytest.mark.parametrize(
    "sgd", [ss.SGD(0.9, 0.0, 30), ss.SGD(0.7, 0.8, 30), ss.SGD.jacobi(1.0, 0.5, 0.1, batch_size=30)]
)
def test_full_batch_regimes_agree(sgd):
    problem = ss.QuadraticProblem.power_law(30, 1.4, 1.0, seed=4)
    runs = [losses(problem, sgd, regime, 100)[0] for regime in (SAMPLED, AVERAGED, DIAGONAL, ss.SpectralDiagonal(-1.0))]
    for other in runs[1:]:
        np.testing.assert_allclose(other, runs[0], rtol=1e-10)


@pytest.mark.parametrize("tau", [1.0, -1.0, 0.0, 1.7])
@pytest.mark.parametrize(
    "sgd", [ss.SGD(0.5, 0.6, 4), ss.SGD(0.4, -0.5, 1), ss.SGD.jacobi(0.5, 0.3, 0.2, batch_size=20)]
)
def test_diagonal_kernel_equals_its_twin(sgd, tau):
    problem = ss.QuadraticProblem.power_law(25, 1.3, 0.8)
    values = sgd.values(25, 0, 200)
    expected = naive.diagonal(problem.eigenvalues, problem.coefficients, values.lr, values.momentum, values.noise, tau)
    got = losses(problem, sgd, ss.SpectralDiagonal(tau), 200, "moments")[0]
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-18)


@pytest.mark.parametrize("tau", [1.0, -1.0])
@pytest.mark.parametrize("momentum", [0.0, 0.8, -0.4])
def test_diagonal_equals_the_volterra_sum(momentum, tau):
    problem = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    sgd = ss.SGD(0.4, momentum, 3)
    noise = float(sgd.values(20, 0, 1).noise[0])
    s = naive.volterra(problem.eigenvalues, problem.coefficients, 0.4, momentum, noise, tau, 80)
    np.testing.assert_allclose(losses(problem, sgd, ss.SpectralDiagonal(tau), 80)[0], s / 40, rtol=1e-11)


@pytest.mark.parametrize("how", sampling.OF_POINTS)
def test_sampled_kernel_equals_its_twin(how):
    problem = ss.QuadraticProblem.power_law(23, 1.3, 0.8, seed=2)
    sgd = ss.SGD(schedules.Power(0.5, 0.1), 0.6, schedules.Steps(3, 2, 20, 9), sampling=how)
    values = sgd.values(23, 0, 60)
    keys = sampling.replicate_keys(9, 3)
    batches = sampling.minibatch_indices(23, values.batch_size, 0, 60, keys, how)
    got = losses(problem, sgd, SAMPLED, 60, replicates=3, seed=9)
    for replicate in range(3):
        chosen = [row[row >= 0] for row in batches[replicate]]
        path = naive.sampled(problem.kernel, problem.residual, values.lr, values.momentum, chosen)
        np.testing.assert_allclose(got[replicate], (path**2).mean(1) / 2, rtol=1e-11)


@pytest.mark.parametrize("sgd", [ss.SGD(0.5, 0.0, 4), ss.SGD(0.3, 0.7, 4), ss.SGD.jacobi(0.3, 0.5, 0.2, batch_size=20)])
def test_averaged_equals_the_symmetrised_recursion(sgd):
    problem = ss.QuadraticProblem.power_law(70, 1.2, 0.8, seed=3)  # more than one 64 × 64 tile of the kernel
    values = sgd.values(70, 0, 150)
    expected = naive.averaged(problem.kernel, problem.residual, values.lr, values.momentum, values.noise, True)
    np.testing.assert_allclose(losses(problem, sgd, AVERAGED, 150)[0], expected, rtol=1e-10)


def digits_kernel(n):
    """The first n digits in order under the analytic NTK of a wide two-layer ReLU network."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = x[:n], y[:n]
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    sigma = x @ x.T / x.shape[1] + 1
    size = np.sqrt(np.outer(np.diag(sigma), np.diag(sigma)))
    theta = np.arccos(np.clip(sigma / size, -1, 1))
    kernel = sigma * (np.pi - theta) + size * (np.sin(theta) + (np.pi - theta) * np.cos(theta))
    return ss.QuadraticProblem.from_kernel(kernel / (2 * np.pi), -y)


def test_the_averaged_loss_of_500_digits():
    """b = 10, α = 1, t = 1000: 0.0548; the mean of 4,000 sampled runs is 0.05489 ± 0.00011."""
    loss = ss.simulate(digits_kernel(500), ss.SGD(1.0, 0.0, 10), AVERAGED, 1000, record=[1000])["loss"].values[0, 0, -1]
    assert loss == pytest.approx(0.0548, abs=5e-5)


def test_the_obvious_averaged_form_fails_and_ours_does_not():
    """How large the obvious form's error is at some step is the CPU's rounding; what it grows by is not.

    An antisymmetric part X of C becomes X + (1 − γ)α² KXK: its leading pair of modes gains 1 + (1 − γ)α² λ₁λ₂ a step.
    """
    sgd, problem = ss.SGD(1.0, 0.0, 10), digits_kernel(200)
    values = sgd.values(200, 0, 1200)
    ours = ss.simulate(problem, sgd, ss.BatchAveraged(tolerance=0), 1200, record=1)["loss"].values[0, 0]
    obvious = naive.averaged(
        problem.kernel, problem.residual, values.lr, values.momentum, values.noise, symmetrise=False
    )
    error = abs(obvious - ours)
    assert error[:200].max() < 1e-9 * ours[0]  # the same recursion, until then
    assert error[1200] > ours[0]
    first, second = problem.spectrum.eigenvalues[:2]
    growth = np.log1p((1 - values.noise[0]) * first * second)
    assert np.log(error[1100] / error[900]) / 200 == pytest.approx(growth, rel=0.03)
    runs = ss.simulate(problem, sgd, SAMPLED, 1000, replicates=2000, seed=1)["loss"].values[0, :, -1]
    error = runs.std(ddof=1) / np.sqrt(runs.size)
    assert abs(runs.mean() - ours[1000]) < 4 * error
    assert error < 0.01 * ours[1000]


def test_averaged_stays_symmetric_and_stable_with_momentum():
    sgd, problem = ss.SGD(0.3, 0.9, 10), digits_kernel(200)
    ours = ss.simulate(problem, sgd, AVERAGED, 1500)["loss"].values[0, 0, -1]
    runs = ss.simulate(problem, sgd, SAMPLED, 1500, replicates=1000, seed=2)["loss"].values[0, :, -1]
    assert abs(runs.mean() - ours) < 4 * runs.std(ddof=1) / np.sqrt(runs.size)


@pytest.mark.parametrize("sgd", [ss.SGD(0.7, 0.0, 6), ss.SGD(0.5, 0.6, 6), ss.SGD(0.5, 0.3, 10, sampling="reshuffle")])
@pytest.mark.parametrize("what", ["loss", "test_loss", "moments"])
def test_sampled_test_loss_and_moments_follow_the_definition(digits_network, sgd, what):
    """The linearised test outputs stepped with Θ(test, batch) give the same test loss as the transfer matrix."""
    problem = digits_network.quadratic
    got = losses(problem, sgd, SAMPLED, 40, what, seed=5)[0]
    values = sgd.values(60, 0, 40)
    batches = sampling.minibatch_indices(60, values.batch_size, 0, 40, sampling.replicate_keys(5, 1), sgd.sampling)[0]
    path = naive.sampled(problem.kernel, problem.residual, values.lr, values.momentum, batches)
    if what == "test_loss":
        from sgdsim import ntk

        x = digits_network.data
        cross = ntk.empirical_ntk(digits_network.network, x.x_test, x.x) / problem.spectrum.scale
        e, v = problem.test.residual.copy(), 0.0
        expected = [np.mean(e**2) / 2]
        for t in range(40):
            v = (
                values.momentum[t] * v
                - values.lr[t] * (60 / batches.shape[1]) * cross[:, batches[t]] @ path[t][batches[t]]
            )
            e = e + v
            expected.append(np.mean(e**2) / 2)
    else:
        expected = (path**2).mean(1) / 2 if what == "loss" else (path @ problem.eigenvectors) ** 2
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-15)


def test_diagonal_test_loss_is_exact_without_noise(digits_network):
    """Full batch: the mean's off-diagonal part is in the diagonal regime's test loss too."""
    sgd = ss.SGD(0.9, 0.5, 60)
    runs = [losses(digits_network.quadratic, sgd, r, 50, "test_loss")[0] for r in (SAMPLED, AVERAGED, DIAGONAL)]
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-9)
    np.testing.assert_allclose(runs[2], runs[0], rtol=1e-9)


def test_one_small_step_of_the_network_is_the_kernels(digits_network):
    """The learning-rate unit: outputs move by −α (N/b) K̂[:, B] r_B, up to second order in α."""
    problem, batch = digits_network.quadratic, None
    keys = sampling.replicate_keys(0, 1)
    batch = sampling.minibatch_indices(60, np.array([5]), 0, 1, keys)[0, 0]
    errors = []
    for alpha in (1e-3, 1e-4):
        sgd = ss.SGD(alpha, 0.3, 5)
        run = ss.RealNetwork().start(digits_network, sgd, replicates=1, seed=0, test=False)
        before = run.residuals(*run.data[:2])[0]
        run.advance(0, 1)
        moved = run.residuals(*run.data[:2])[0] - before
        predicted = -alpha * (60 / 5) * problem.kernel[:, batch] @ problem.residual[batch]
        errors.append(np.linalg.norm(moved - predicted) / np.linalg.norm(predicted))
    assert errors[1] < 1e-3
    assert errors[1] < 0.2 * errors[0]


def test_a_linear_network_is_its_own_linearisation():
    """Depth 0: the network and the sampled regime are the same dynamics, so they agree to rounding on every path."""
    data = ss.datasets.load("digits", 50, 0, n_test=20)
    problem = ss.NetworkProblem(ss.networks.MLP(depth=0, seed=2), data, device="cpu")
    for sgd in (
        ss.SGD(0.5, 0.5, 7),
        ss.SGD.jacobi(0.2, 0.5, 0.2, batch_size=25),
        ss.SGD(0.4, 0.4, 9, sampling="reshuffle"),
    ):
        for what in ("loss", "test_loss"):
            pair = [
                losses(problem, sgd, regime, 60, what, replicates=3, seed=4) for regime in (ss.RealNetwork(), SAMPLED)
            ]
            np.testing.assert_allclose(pair[0], pair[1], rtol=1e-9)


def test_network_minus_linearisation_shrinks_like_one_over_root_width():
    data = ss.datasets.load("digits", 40, 0, n_test=0)
    widths, gaps = np.array([64, 256, 1024, 4096]), []
    for width in widths:
        squares = []
        for seed in range(6):
            problem = ss.NetworkProblem(ss.networks.MLP(int(width), seed=seed), data, device="cpu")
            sgd = ss.SGD(0.7, 0.3, 10)
            network, sampled = (
                regime.start(problem, sgd, replicates=2, seed=seed, test=False)
                for regime in (ss.RealNetwork(), SAMPLED)
            )
            for run in (network, sampled):
                run.advance(0, 30)
            squares.append(np.mean((network.residuals(*network.data[:2]) - sampled.r) ** 2))
        gaps.append(np.sqrt(np.mean(squares)))
    slope = np.polyfit(np.log(widths), np.log(gaps), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_any_module_trains_the_same_as_plain_torch(digits_network):
    """A convolutional network of the user's own against torch.optim.SGD with the converted learning rate, float64."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)),
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 1),
    ).double()
    for layer in (network[1],):
        layer.bias.requires_grad_(False)  # a frozen parameter stays where it is and out of the kernel
    problem = ss.NetworkProblem(network, digits_network.data, device="cpu")
    sgd = ss.SGD(0.3, 0.6, 8)
    got = losses(problem, sgd, ss.RealNetwork(), 25, "test_loss", seed=3)[0]
    x, y, x_test, y_test = (
        torch.as_tensor(a) for a in (problem.data.x, problem.data.y, problem.data.x_test, problem.data.y_test)
    )
    batches = sampling.minibatch_indices(60, np.full(25, 8), 0, 25, sampling.replicate_keys(3, 1))[0]
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=problem.quadratic.torch_lr(0.3), momentum=0.6)
    expected = []
    for t in range(26):
        with torch.no_grad():
            expected.append(float(0.5 * ((network(x_test)[:, 0] - y_test) ** 2).mean()))
        if t < 25:
            optimiser.zero_grad()
            chosen = torch.as_tensor(batches[t]).long()
            (0.5 * ((network(x[chosen])[:, 0] - y[chosen]) ** 2).mean()).backward()
            optimiser.step()
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("regime", [ss.RealNetwork(), SAMPLED, AVERAGED, DIAGONAL], ids=lambda r: r.name)
def test_chunks_of_steps_do_not_change_the_numbers(digits_network, regime):
    sgd = ss.SGD(schedules.Power(0.6, 0.1), 0.4, schedules.Steps(5, 1.5, 7, 20), sampling="without-replacement")
    seen = []
    for cuts in ([0, 30], [0, 1, 2, 9, 17, 30]):
        run = regime.start(digits_network, sgd, replicates=2, seed=0, test=True)
        for low, high in itertools.pairwise(cuts):
            run.advance(low, high)
        seen.append(run.observe(("loss", "test_loss", "moments")))
    for name in seen[0]:
        np.testing.assert_array_equal(seen[0][name], seen[1][name])


def test_thread_count_does_not_change_the_numbers():
    import numba

    problem = ss.QuadraticProblem.power_law(50, 1.3, 0.8)
    before, seen = numba.get_num_threads(), []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            seen.append(losses(problem, ss.SGD(0.5, 0.5, 5), SAMPLED, 50, replicates=8))
    finally:
        numba.set_num_threads(before)
    for other in seen[1:]:
        np.testing.assert_array_equal(other, seen[0])


def test_replicates_do_not_depend_on_how_many_there_are(digits_network):
    for regime in (ss.RealNetwork(), SAMPLED):
        few, many = (losses(digits_network, ss.SGD(0.5, 0.5, 5), regime, 20, replicates=n) for n in (2, 5))
        np.testing.assert_allclose(many[:2], few, rtol=1e-12)


@pytest.mark.parametrize("regime", [AVERAGED, DIAGONAL])
def test_reshuffling_has_no_closed_form(tiny, regime):
    with pytest.raises(InputError, match="no closed form for reshuffled epochs"):
        ss.simulate(tiny, ss.SGD(0.5, 0.0, 2, sampling="reshuffle"), regime, 10)


def test_the_network_regime_needs_a_network(tiny):
    with pytest.raises(InputError, match="NetworkProblem"):
        ss.simulate(tiny, ss.SGD(0.5), ss.RealNetwork(), 10)


def test_float32_networks_stay_close(digits_network):
    exact, single = (
        losses(digits_network, ss.SGD(0.5, 0.5, 5), ss.RealNetwork(dtype), 30)[0] for dtype in ("float64", "float32")
    )
    np.testing.assert_allclose(single, exact, rtol=1e-4)
    assert (single != exact).any()


def test_kernels_are_cached_on_disk():
    """The second process starts without compiling."""
    for kernel in (
        kernels.diagonal_advance,
        _kernels.sampled_advance,
        _kernels.averaged_advance,
        kernels.mean_advance,
    ):
        assert kernel._cache.cache_path


@pytest.mark.parametrize("sgd", [ss.SGD(1.4, 0.0, 1), ss.SGD(1.2, 0.2, 1), ss.SGD(1.4, 0.0, 1, average="ema:0.5")])
@pytest.mark.parametrize("regime", [ss.RealNetwork(), ss.SampledLinearized()])
def test_diverged_replicates_are_dropped_and_the_others_do_not_notice(monkeypatch, sgd, regime):
    """A linear model of 60 points: of 8 replicates, a few diverge within 150 steps."""
    network = ss.networks.MLP(depth=0, seed=0)
    problem = ss.NetworkProblem(network, ss.datasets.load("digits", n=60, n_test=10, seed=0))
    kept = []
    kind = type(regime.start(problem, sgd, replicates=1, seed=0, test=False))
    own = kind.keep

    def keep(cell, replicates):
        kept.append((replicates.size, own(cell, replicates)))
        return kept[-1][1]

    def run():
        return ss.simulate(
            problem, sgd, regime, 150, record=10, replicates=8, observe=["test_loss", "moments"], seed=3
        ).drop_vars("seconds")

    monkeypatch.setattr(kind, "keep", keep)
    ours = run()
    monkeypatch.setattr(kind, "keep", lambda *_: False)
    theirs = run()
    assert kept
    assert kept[0][1] is (sgd.is_plain or isinstance(regime, ss.RealNetwork))
    diverged = ours.diverged_at.values.ravel() >= 0
    assert diverged.any()
    assert not diverged.all()
    assert np.isfinite(ours.loss.values[0, ~diverged]).all()
    np.testing.assert_array_equal(ours.diverged_at, theirs.diverged_at)
    for name in ("loss", "test_loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9)
    # A moment is (u_k·r)², a sum of N products: rounded in another order (BLAS has its own for each number of
    # replicates), u_k·r differs by a multiple of the rounding error of |r|, however small it is itself.
    shares = [np.sqrt(run.moments / run.moments.sum("mode", skipna=False)) for run in (ours, theirs)]
    np.testing.assert_allclose(*shares, rtol=0, atol=1e-12)
