"""Matrix-free spectra against dense ones."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

import sgdsim as ss
from sgdsim import lanczos, ntk
from sgdsim.common.checks import InputError
from sgdsim.networks.curvature import Curvature


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    return (q * np.arange(1, 301) ** -1.2) @ q.T


def test_tridiagonal_is_the_projection(matrix):
    start = np.random.default_rng(1).standard_normal(300)
    diagonal, off, basis = lanczos.tridiagonal(matrix, start, 120)
    np.testing.assert_allclose(basis.T @ basis, np.eye(120), atol=1e-13)  # full reorthogonalisation
    projected = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    np.testing.assert_allclose(basis.T @ matrix @ basis, projected, atol=1e-13)
    np.testing.assert_allclose(basis[:, 0], start / np.linalg.norm(start))


def test_a_complete_krylov_space_ends_early():
    matrix = np.diag([3.0, 1.0, 1.0, 1.0, 0.0])
    diagonal, off, _ = lanczos.tridiagonal(matrix, np.ones(5), 5)
    assert diagonal.size == 3
    assert off.size == 2
    measure = lanczos.spectral_measure(matrix, np.ones(5), 5)
    np.testing.assert_allclose(measure.nodes, [0, 1, 3], atol=1e-12)
    np.testing.assert_allclose(measure.weights, [1, 3, 1], atol=1e-12)
    density = lanczos.spectral_density(np.eye(4), n_steps=3, n_probes=2, sigma=0.1)
    assert density.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("m", [1, 4, 12])
def test_m_steps_from_the_residual_give_the_full_batch_loss_up_to_m_minus_one(digits_network, m):
    problem = digits_network.quadratic
    measure = lanczos.spectral_measure(problem.kernel, problem.residual, m)
    loss = ss.simulate(problem, ss.SGD(1.4, 0.0, problem.n), ss.SpectralDiagonal(), m + 4, record=1)["loss"].values[
        0, 0
    ]
    t = np.arange(m + 5)
    predicted = (measure.weights * (1 - 1.4 * measure.nodes) ** (2 * t[:, None])).sum(1) / (2 * problem.n)
    np.testing.assert_allclose(predicted[:m], loss[:m], rtol=1e-12)
    if m < 10:
        assert abs(predicted[m + 3] / loss[m + 3] - 1) > 1e-9  # and no further: the test can fail


def test_the_measure_needs_no_matrix(digits_network):
    """From NTK-vector products, in the kernel's units."""
    problem, data = digits_network.quadratic, digits_network.data
    operator = ntk.ntk_operator(digits_network.network, data.x, chunk=25)
    measure = lanczos.spectral_measure(operator, problem.residual, 10)
    dense = lanczos.spectral_measure(problem.kernel, problem.residual, 10)
    np.testing.assert_allclose(measure.nodes / problem.spectrum.scale, dense.nodes, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(measure.weights, dense.weights, rtol=1e-7)


def test_density_counts_eigenvalues(matrix):
    density = lanczos.spectral_density(matrix, n_steps=60, n_probes=40, sigma=0.02, seed=3)
    values = np.linalg.eigvalsh(matrix)
    grid = density.grid
    exact = np.exp(-0.5 * ((grid[:, None] - values) / 0.02) ** 2).mean(1) / (0.02 * np.sqrt(2 * np.pi))
    assert np.trapezoid(density.density, grid) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(np.abs(density.density - exact), grid) < 0.05
    # moments are unbiased: the trace within four standard errors of the probes
    traces = (density.weights * density.nodes).sum(1) * 40 * 300
    assert abs(traces.mean() - np.trace(matrix)) < 4 * traces.std(ddof=1) / np.sqrt(40)
    # per decade: the fraction above each of a few levels
    log_grid = np.logspace(-5, 1, 2000)
    log_density = density.log_evaluate(log_grid, sigma=0.02)
    above = np.array(
        [np.trapezoid(log_density[log_grid > level], np.log10(log_grid[log_grid > level])) for level in (0.01, 0.1)]
    )
    np.testing.assert_allclose(above, [(values > level).mean() for level in (0.01, 0.1)], atol=0.03)


def test_density_is_seeded(matrix):
    a, b, c = (lanczos.spectral_density(matrix, n_steps=10, n_probes=2, seed=s).density for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("k", [1, 20, 120, 300])
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array, scipy.sparse.linalg.aslinearoperator])
def test_top_eigenpairs(matrix, k, form):
    top = lanczos.top_eigenpairs(form(matrix), k)
    np.testing.assert_allclose(top.eigenvalues, np.arange(1, k + 1) ** -1.2, rtol=1e-9)
    np.testing.assert_allclose(matrix @ top.eigenvectors, top.eigenvectors * top.eigenvalues, atol=1e-10)
    np.testing.assert_allclose(
        top.residuals,
        np.linalg.norm(matrix @ top.eigenvectors - top.eigenvectors * top.eigenvalues, axis=0),
        atol=1e-14,
    )
    assert top.residuals.max() < 1e-10


def _with_multiples(kind, rng):
    """A dense symmetric matrix with multiple or nearly multiple eigenvalues, in a random basis."""
    n = int(rng.integers(60, 300))
    values = {
        "ten ones": lambda: np.r_[np.ones(10), rng.uniform(0, 0.95, n - 10)],
        "each four times": lambda: np.repeat(rng.uniform(0, 1, n // 4 + 1), 4)[:n],
        "clusters": lambda: np.resize(rng.uniform(0, 1, 6), n) * (1 + 1e-8 * rng.standard_normal(n)),
        "a step in a power law": lambda: np.r_[np.arange(1, 6) ** -1.3, np.full(10, 0.1), np.arange(16, n + 1) ** -1.3],
        "negative too": lambda: np.r_[np.full(n // 3, rng.standard_normal()), rng.standard_normal(n - n // 3)],
    }[kind]()
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    matrix = (q * values) @ q.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("kind", ["ten ones", "each four times", "clusters", "a step in a power law", "negative too"])
@pytest.mark.parametrize("seed", range(8))
def test_top_eigenpairs_has_all_copies_of_multiple_eigenvalues(kind, seed):
    rng = np.random.default_rng([seed, len(kind)])
    matrix = _with_multiples(kind, rng)
    k = int(rng.integers(1, len(matrix) // 5))
    top = lanczos.top_eigenpairs(scipy.sparse.linalg.aslinearoperator(matrix), k, seed=seed)
    exact = np.linalg.eigvalsh(matrix)[::-1][:k]
    np.testing.assert_allclose(top.eigenvalues, exact, atol=1e-9)
    np.testing.assert_allclose(top.eigenvectors.T @ top.eigenvectors, np.eye(k), atol=1e-9)


def test_a_tenfold_eigenvalue_is_found_tenfold_and_the_rest_sums_to_the_trace():
    """One start of ARPACK finds 6 of the 10; the others were left to quadrature, a loss 25% off with them."""
    rng = np.random.default_rng(0)
    values = np.r_[np.ones(10), rng.uniform(0, 0.01, 290)]
    q = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    matrix = (q * values) @ q.T
    top = lanczos.top_eigenpairs(matrix, 10)
    np.testing.assert_allclose(top.eigenvalues, np.ones(10), atol=1e-12)
    nodes, weights = lanczos.quadrature(matrix, n_steps=30, n_probes=4, seed=0, without=top.eigenvectors)
    assert nodes.max() < 0.011  # none of the ten is left
    assert 290 * (nodes * weights).sum() == pytest.approx(values[10:].sum(), rel=0.05)


def test_nystrom_finds_the_top_of_a_smooth_kernel():
    x = np.random.default_rng(0).standard_normal((1500, 3))

    def kernel(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 8)

    dense = np.linalg.eigvalsh(kernel(x, x))[::-1]
    errors = []
    for landmarks in (60, 600):
        found = lanczos.nystrom(kernel, x, 15, landmarks=landmarks, seed=1)
        errors.append(np.abs(found.eigenvalues / dense[:15] - 1).max())
        true = np.linalg.norm(kernel(x, x) @ found.eigenvectors - found.eigenvectors * found.eigenvalues, axis=0)
        assert np.linalg.norm(found.residuals) == pytest.approx(np.linalg.norm(true), rel=0.3, abs=1e-6 * dense[0])
        assert (found.eigenvalues <= dense[:15] * (1 + 1e-9)).all()  # the approximation is from below
    assert errors[1] < 1e-4
    assert errors[1] < errors[0] / 10


@pytest.fixture(scope="module")
def small_network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 1)).double()
    module[0].bias.requires_grad_(False)
    rng = np.random.default_rng(0)
    return module, rng.standard_normal((13, 4)), rng.standard_normal(13)


def _by_autograd(module, x, y):
    """Loss, gradient and Hessian of all inputs at once, by plain double backward."""
    trained = [p for p in module.parameters() if p.requires_grad]
    loss = 0.5 * ((module(torch.as_tensor(x))[:, 0] - torch.as_tensor(y)) ** 2).mean()
    gradient = torch.cat([g.ravel() for g in torch.autograd.grad(loss, trained, create_graph=True)])
    rows = [torch.cat([h.ravel() for h in torch.autograd.grad(g, trained, retain_graph=True)]) for g in gradient]
    return loss.item(), gradient.detach().numpy(), torch.stack(rows).numpy()


@pytest.mark.parametrize("chunk", [5, 13])
def test_curvature_against_autograd(small_network, chunk):
    module, x, y = small_network
    curvature = Curvature(module, x, y, chunk=chunk)
    assert curvature.size == sum(p.numel() for p in module.parameters() if p.requires_grad)
    loss, gradient, hessian = _by_autograd(module, x, y)
    assert curvature.loss() == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(curvature.gradient(), gradient, atol=1e-13)
    np.testing.assert_allclose(curvature.hessian() @ np.eye(curvature.size), hessian, atol=1e-12)


class Wrong(torch.autograd.Function):
    """exp, with a backward that is right and that of the backward wrong."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.exp())
        return x.exp()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].detach()


class Exp(nn.Module):
    def forward(self, x):
        return Wrong.apply(x)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("chunk", [5, 13])
def test_second_derivatives_of_weight_norm(small_network, old, chunk):
    """The fused operation's are off by some per cent, whichever way they are taken; literal ones, by its formula."""
    _, x, y = small_network
    norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old way is deprecated
        module = nn.Sequential(norm(nn.Linear(4, 5).double()), nn.Tanh(), norm(nn.Linear(5, 1).double(), dim=None))
    curvature = Curvature(module, x, y, chunk=chunk)

    class Formula(nn.Module):
        def __init__(self):
            super().__init__()
            named = [p.detach().clone() for p in module.parameters()]
            self.held = nn.ParameterList(named)

        def forward(self, x):
            (b, g, v, c, h, w) = self.held
            hidden = torch.tanh(x @ (g * v / v.norm(dim=1, keepdim=True)).T + b)
            return hidden @ (h * w / w.norm()).T + c

    loss, gradient, hessian = _by_autograd(Formula(), x, y)
    assert curvature.loss() == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(curvature.gradient(), gradient, atol=1e-13)
    np.testing.assert_allclose(curvature.hessian() @ np.eye(curvature.size), hessian, atol=1e-12)


def test_second_derivatives_that_torch_does_not_know_are_refused(small_network):
    _, x, y = small_network
    module = nn.Sequential(nn.Linear(4, 5), Exp(), nn.Linear(5, 1)).double()
    for dtype in ("float64", "float32"):
        curvature = Curvature(module, x, y, dtype=dtype)
        curvature.gradient()
        with pytest.raises(InputError, match=r"off by .* of finite differences of the gradient"):
            curvature.hessian()


def test_curvature_of_several_outputs(small_network):
    """That of the outputs one by one, added up."""
    _, x, _ = small_network
    y = np.random.default_rng(1).standard_normal((len(x), 3))
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()

    class One(nn.Module):
        def __init__(self, place):
            super().__init__()
            self.module, self.place = module, place

        def forward(self, x):
            return self.module(x)[:, self.place]

    several, each = Curvature(module, x, y, chunk=5), [Curvature(One(o), x, y[:, o]) for o in range(3)]
    assert several.loss() == pytest.approx(sum(one.loss() for one in each), rel=1e-13)
    np.testing.assert_allclose(several.gradient(), sum(one.gradient() for one in each), atol=1e-13)
    identity = np.eye(several.size)
    for name in ("hessian", "ggn"):
        expected = sum(getattr(one, name)() @ identity for one in each)
        np.testing.assert_allclose(getattr(several, name)() @ identity, expected, atol=1e-12)
    with pytest.raises(InputError, match="expected 2 outputs per input, as many as targets, got 3"):
        Curvature(module, x, y[:, :2])


@pytest.fixture
def batch_normed(small_network):
    _, x, y = small_network
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)).double()
    with torch.no_grad():
        module[1].running_mean.uniform_()
        module[1].running_var.uniform_(0.5, 2)
    return module, x, y


def test_batch_norm_in_training_mode_makes_one_batch(batch_normed):
    module, x, y = batch_normed
    before = {name: value.clone() for name, value in module.state_dict().items()}
    curvature = Curvature(module, x, y, chunk=5)
    gradient, product = curvature.gradient(), curvature.hessian()
    direction = np.random.default_rng(0).standard_normal(curvature.size)
    hessian = product @ np.eye(curvature.size)
    after = module.state_dict()
    assert module.training
    assert all(torch.equal(after[name], value) for name, value in before.items())  # running statistics included

    loss, expected, dense = _by_autograd(module, x, y)
    assert curvature.loss() == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(gradient, expected, atol=1e-13)
    np.testing.assert_allclose(hessian, dense, atol=1e-12)
    np.testing.assert_allclose(hessian[:, :20], hessian[:20].T, atol=1e-12)

    def moved(amount):
        vector = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
        torch.nn.utils.vector_to_parameters(vector + amount * torch.as_tensor(direction), module.parameters())
        return Curvature(module, x, y)

    ahead = moved(1e-5)
    behind = moved(-2e-5)
    np.testing.assert_allclose((ahead.loss() - behind.loss()) / 2e-5, gradient @ direction, rtol=1e-6)
    np.testing.assert_allclose((ahead.gradient() - behind.gradient()) / 2e-5, product @ direction, atol=1e-6)
    ggn = Curvature(module, x, y).ggn() @ np.eye(curvature.size)
    np.testing.assert_allclose(ggn, ggn.T, atol=1e-13)
    assert np.linalg.eigvalsh(ggn).min() > -1e-13


def test_batch_norm_in_evaluation_mode_is_by_input(batch_normed):
    module, x, y = batch_normed
    together = Curvature(module, x, y).gradient()
    module.eval()
    curvature = Curvature(module, x, y, chunk=5)
    _, gradient, hessian = _by_autograd(module, x, y)
    np.testing.assert_allclose(curvature.gradient(), gradient, atol=1e-13)
    np.testing.assert_allclose(curvature.hessian() @ np.eye(curvature.size), hessian, atol=1e-12)
    assert np.linalg.norm(curvature.gradient() - together) > 0.1 * np.linalg.norm(together)


def test_batch_norm_without_running_statistics_goes_by_the_batch_in_either_mode(batch_normed):
    _, x, y = batch_normed
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 1)).double()
    training = Curvature(module, x, y, chunk=5).gradient()
    np.testing.assert_allclose(training, _by_autograd(module, x, y)[1], atol=1e-13)


def test_a_constant_network_has_no_curvature():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x.sum(1)

    curvature = Curvature(Constant(), np.ones((4, 2)), np.ones(4))
    assert not (curvature.hessian() @ np.ones(3)).any()
    assert not curvature.gradient().any()


def test_what_curvature_refuses(batch_normed):
    module, x, y = batch_normed
    for wrong, inputs, message in (
        (nn.Sequential(module, nn.Dropout(0.1)), x, "Dropout in training mode"),
        (module, x[:1], "more than 1 value"),
        (nn.Sequential(module, nn.Linear(1, 2).double()), x, "one output"),
        ("module", x, "torch.nn.Module"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            Curvature(wrong, inputs, y[: len(inputs)])
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="chunk"):
        Curvature(module, x, y, chunk=0)


def test_gauss_newton_has_the_kernels_spectrum(small_network):
    module, x, y = small_network
    ggn = Curvature(module, x, y, chunk=4).ggn() @ np.eye(Curvature(module, x, y).size)
    np.testing.assert_allclose(ggn, ggn.T, atol=1e-13)
    theta = np.linalg.eigvalsh(ntk.empirical_ntk(module, x))[::-1] / 13
    np.testing.assert_allclose(np.linalg.eigvalsh(ggn)[::-1][:13], theta, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lanczos.top_eigenpairs(np.eye(3), 4), "k: expected an integer from 1 to 3"),
        (lambda: lanczos.top_eigenpairs(np.ones((3, 2)), 1), "square"),
        (lambda: lanczos.top_eigenpairs("matrix", 1), "LinearOperator"),
        (lambda: lanczos.top_eigenpairs(np.triu(np.ones((40, 40))), 2), "residuals below|Lanczos found"),
        (lambda: lanczos.tridiagonal(np.eye(3), np.zeros(3), 2), "not zero"),
        (lambda: lanczos.tridiagonal(np.full((3, 3), np.nan), np.ones(3), 2), "finite products"),
        (lambda: lanczos.spectral_density(np.eye(3), n_probes=0), "n_probes"),
        (lambda: lanczos.spectral_density(np.eye(3), sigma=-1.0), "sigma"),
        (lambda: lanczos.nystrom(lambda a, b: a @ b.T, np.ones((8, 2)), 3, landmarks=5), "landmarks"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
