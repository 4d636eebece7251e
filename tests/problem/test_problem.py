"""Spectrum, kernels and problems."""

import naive
import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import ntk
from sgdsim.common.checks import InputError
from sgdsim.networks import ACTIVATIONS, MLP


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_kernel_equals_the_jacobians(depth, activation):
    rng = np.random.default_rng(0)
    network = MLP(17, depth, activation, weight_std=1.3, bias_std=0.7, seed=3, n_inputs=6)
    x, other = rng.standard_normal((12, 6)), rng.standard_normal((5, 6))
    np.testing.assert_allclose(ntk.empirical_ntk(network, x), naive.jacobian_ntk(network, x), rtol=1e-11, atol=1e-11)
    both = naive.jacobian_ntk(network, np.concatenate([other, x]))
    np.testing.assert_allclose(ntk.empirical_ntk(network, other, x), both[:5, 5:], rtol=1e-11, atol=1e-11)


def test_two_layer_relu_kernel_approaches_its_infinite_width_limit():
    """With the square root in the second term; without it the kernel is off by tens of per cent."""
    x = np.random.default_rng(0).standard_normal((8, 5))
    sigma = x @ x.T / 5 + 1
    size = np.sqrt(np.outer(np.diag(sigma), np.diag(sigma)))
    angle = np.arccos(np.clip(sigma / size, -1, 1))
    limit = (sigma * (np.pi - angle) + size * (np.sin(angle) + (np.pi - angle) * np.cos(angle))) / (2 * np.pi)
    errors = []
    for width in (400, 6400):
        kernels = [ntk.empirical_ntk(MLP(width, seed=seed), x) for seed in range(8)]
        errors.append(np.sqrt(np.mean([(k - limit) ** 2 for k in kernels])) / np.abs(limit).mean())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)  # 16 times wider
    without_root = limit + (1 - size) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    assert np.abs(without_root - limit).mean() / np.abs(limit).mean() > 5 * errors[1]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1)),
            "Dropout in training mode",
        ),
        (
            torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)),
            "BatchNorm1d in training",
        ),
        (torch.nn.Sequential(torch.nn.ReLU()), "trainable parameters"),
        (torch.nn.Linear(6, 2), "one output per input"),
        (torch.nn.Linear(5, 1), "inputs of shape"),
        ("a network", "torch.nn.Module"),
    ],
)
def test_modules_that_cannot_work_are_refused(network, message):
    data = ss.Dataset(np.ones((4, 6)) * np.arange(4)[:, None], np.arange(4.0), "own")
    with pytest.raises(InputError, match=message) as caught:
        _ = ss.NetworkProblem(network, data).quadratic
    assert "\n" not in str(caught.value)


def test_modules_in_eval_mode_are_welcome():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(6, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1)
    ).eval()
    x = np.random.default_rng(0).standard_normal((9, 6))
    problem = ss.NetworkProblem(network, ss.Dataset(x, x[:, 0], "own"), device="cpu")
    assert problem.quadratic.n == 9
    run = ss.simulate(problem, ss.SGD(0.1, 0.0, 3), ss.RealNetwork(), 5)
    assert np.isfinite(run["loss"]).all()


def test_the_problem_keeps_its_own_network(digits_network):
    network = MLP(10, seed=0, n_inputs=64)
    problem = ss.NetworkProblem(network, digits_network.data, device="cpu")
    with torch.no_grad():
        network.layers[0].weight.zero_()
    assert problem.network.layers[0].weight.abs().sum() > 0
    before = problem.quadratic.coefficients.copy()
    ss.simulate(problem, ss.SGD(0.5, 0.0, 5), ss.RealNetwork(), 5)
    again = ss.NetworkProblem(problem.network, problem.data, device="cpu").quadratic.coefficients
    np.testing.assert_array_equal(again, before)  # training works on copies


def test_network_seed_decides_the_parameters():
    a, b, c = (MLP(10, 2, seed=seed, n_inputs=4) for seed in (1, 1, 2))
    assert all((p == q).all() for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert (a.layers[0].weight != c.layers[0].weight).any()
    assert all(p.dtype == torch.float64 for p in a.parameters())


def test_quadratic_of_a_network(digits_network):
    problem, data = digits_network.quadratic, digits_network.data
    u, lam, scale = problem.eigenvectors, problem.eigenvalues, problem.spectrum.scale
    theta = ntk.empirical_ntk(digits_network.network, data.x)
    np.testing.assert_allclose((u * lam) @ u.T * scale, theta, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(u.T @ u, np.eye(60), atol=1e-12)
    with torch.no_grad():
        f = digits_network.network(torch.as_tensor(data.x)).numpy()
    np.testing.assert_allclose(problem.residual, f - data.y, atol=1e-12)
    assert problem.initial_loss == pytest.approx(np.mean((f - data.y) ** 2) / 2, rel=1e-12)
    assert problem.torch_lr(2.0) == pytest.approx(2.0 * 60 / np.linalg.eigvalsh(theta)[-1], rel=1e-10)


def test_power_law():
    problem = ss.QuadraticProblem.power_law(100, 1.5, 2.0, lambda_min=0.1)
    k = np.arange(1, 101)
    np.testing.assert_allclose(problem.eigenvalues, 0.1 + 0.9 * k**-1.5)
    c = problem.coefficients**2
    np.testing.assert_allclose(c / c[0], k**-3.0)
    assert c.sum() == pytest.approx(1, rel=1e-14)
    assert "eigenvectors" not in vars(problem)  # no dense matrix until one is asked for
    assert problem.spectrum.eigenvectors is None


def test_power_law_of_a_million_modes_needs_no_matrix():
    problem = ss.QuadraticProblem.power_law(10**6, 1.5, 2.0)
    run = ss.simulate(problem, ss.SGD(0.3, 0.0, 10), ss.SpectralDiagonal(), 20)
    assert run["loss"].values[0, 0, -1] < problem.initial_loss


def test_random_basis_is_orthogonal_and_seeded():
    a, b, c = (ss.QuadraticProblem.power_law(40, 1.5, 1.0, seed=seed).eigenvectors for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a.T @ a, np.eye(40), atol=1e-13)
    assert np.abs(a - c).max() > 0.1
    # no direction is preferred: the sign of the diagonal is not fixed by the QR factorisation
    signs = [
        np.sign(np.diag(ss.QuadraticProblem.power_law(40, 1.5, 1.0, seed=s).eigenvectors)).mean() for s in range(20)
    ]
    assert abs(np.mean(signs)) < 4 / np.sqrt(800)


def test_own_kernel(tiny):
    rng = np.random.default_rng(0)
    kernel = 3.0 * tiny.kernel
    residual = rng.standard_normal(5)
    problem = ss.QuadraticProblem.from_kernel(kernel, residual)
    np.testing.assert_allclose(problem.kernel, kernel / np.linalg.eigvalsh(kernel)[-1], atol=1e-14)
    np.testing.assert_allclose(problem.residual, residual, atol=1e-14)
    assert (problem.kernel == problem.kernel.T).all()


def test_a_rank_deficient_kernel_keeps_its_null_space():
    """Modes with λ = 0 do not move, in training or in the test loss, in any regime."""
    features = np.random.default_rng(0).standard_normal((14, 4))
    joint = features @ features.T
    problem = ss.QuadraticProblem.from_kernel(
        joint[:10, :10], np.arange(10.0), cross_kernel=joint[10:, :10], test_residual=np.ones(4)
    )
    assert (problem.eigenvalues[4:] < 1e-14).all()
    assert (problem.test.transfer[:, 4:] == 0).all()
    floor = np.sum(problem.coefficients[4:] ** 2) / 20
    for regime in (ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()):
        run = ss.simulate(problem, ss.SGD(1.0, 0.0, 10), regime, 400, observe=["loss", "test_loss"])
        assert run["loss"].values[0, 0, -1] == pytest.approx(floor, rel=1e-6)
        assert np.isfinite(run["test_loss"].values[0, 0]).all()


@pytest.mark.parametrize(
    ("kernel", "residual", "message"),
    [
        (np.ones((3, 2)), np.ones(3), "square|shape"),
        (np.eye(3), np.ones(4), "match the residual"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2), "symmetric"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), np.ones(2), "NaN"),
        (np.diag([1.0, -0.5]), np.ones(2), "positive semidefinite"),
        (np.zeros((2, 2)), np.ones(2), "zeros"),
        (np.eye(2), np.array([1.0, np.inf]), "infinite"),
        (np.eye(2), np.ones((2, 1, 1)), "dimension"),
        ("kernel", np.ones(2), "real numbers"),
    ],
)
def test_bad_kernels_are_refused(kernel, residual, message):
    with pytest.raises(InputError, match=message) as caught:
        ss.QuadraticProblem.from_kernel(kernel, residual)
    assert "\n" not in str(caught.value)


def test_rounding_below_zero_is_clipped():
    u = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    kernel = (u * np.array([1, 0.5, 0.1, 1e-3, -1e-12, -1e-9])) @ u.T
    assert (ss.Spectrum.from_kernel((kernel + kernel.T) / 2).eigenvalues >= 0).all()


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.9, 0.5], [1.0, -0.1], [], [1.0, np.nan]])
def test_bad_eigenvalues_are_refused(values):
    with pytest.raises(InputError, match="eigenvalues"):
        ss.Spectrum(np.array(values))


def test_the_decomposition_is_checked(monkeypatch):
    x = np.random.default_rng(0).standard_normal((50, 20))
    quality = ss.Spectrum.from_kernel(x @ x.T).quality
    assert quality.residual < 1e-13
    assert quality.orthogonality < 1e-13
    assert quality.trace < 1e-13
    assert 0 < quality.negative <= 30  # rank 20: the other thirty are zero up to rounding
    assert -1e-14 < quality.most_negative < 0

    from sgdsim.problem import spectrum

    right = spectrum._eigh(x @ x.T, "cpu")
    wrong = {
        "zeros": (np.zeros(50), np.zeros((50, 50))),
        "one eigenvalue": (right[0] + np.eye(50)[49] * 1e-3, right[1]),
        "one vector": (right[0], np.where(np.arange(50) == 3, 0.0, right[1])),
        "nan": (right[0] * np.nan, right[1]),
    }
    for values in wrong.values():
        monkeypatch.setattr(spectrum, "_eigh", lambda *_, values=values: values)
        with pytest.raises(InputError, match="expected an eigendecomposition with residual"):
            ss.Spectrum.from_kernel(x @ x.T)
