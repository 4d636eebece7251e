"""Infinite-width kernels: against integrals, closed forms, identities, and networks of growing width."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, special

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.networks import ACTIVATIONS, MLP
from sgdsim.networks.ntk import analytic as module
from sgdsim.networks.ntk import empirical_ntk
from sgdsim.networks.ntk.analytic import analytic_cntk, analytic_ntk

EVERY = [*ACTIVATIONS, "leaky_relu"]
# name → φ, φ', both for arrays
SMOOTH = {
    "erf": (special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2))),
    "gelu": (
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "tanh": (np.tanh, lambda x: np.cosh(x) ** -2.0),
    "silu": (lambda x: x * special.expit(x), lambda x: special.expit(x) * (1 + x * special.expit(-x))),
}
PAIRS = [(1.0, 1.0), (0.01, 2.0), (1e-4, 1e-4), (9.0, 6.0)]


def inputs(n=7, d=5, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


@pytest.fixture(scope="module")
def digits():
    return ss.datasets.load("digits", 300, 0).x


def moments(activation, q1, q2, rho, **options):
    """E φφ and E φ'φ' of a Gaussian pair, out of the kernels of one hidden layer: NTK - NNGP = c E φ'φ'."""
    x = np.sqrt(2) * np.array([[np.sqrt(q1), 0], [np.sqrt(q2) * rho, np.sqrt(q2) * np.sqrt(1 - rho**2)]])
    options = {"activation": activation, "bias_std": 0.0} | options
    value, tangent = analytic_ntk(x, kind="nngp", **options)[0, 1], analytic_ntk(x, **options)[0, 1]
    return value, (tangent - value) / (rho * np.sqrt(q1 * q2))


@pytest.mark.parametrize("activation", SMOOTH)
def test_smooth_activations_against_a_fine_grid(activation):
    """Also at correlations where quadrature in one rotated variable would fail, ±1 included."""
    z = np.linspace(-9.5, 9.5, 401)
    weight = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])

    def grid(f, q1, q2, rho):
        v = np.sqrt(q2) * (rho * z[:, None] + np.sqrt(1 - rho**2) * z)
        return (weight * f(np.sqrt(q1) * z)) @ f(v) @ weight

    for q1, q2 in PAIRS:
        for rho in (-1.0, -0.999999, -0.6, 0.2, 0.95, 0.999999, 1.0):
            for f, got in zip(SMOOTH[activation], moments(activation, q1, q2, rho), strict=True):
                size = np.sqrt((weight @ f(np.sqrt(q1) * z) ** 2) * (weight @ f(np.sqrt(q2) * z) ** 2))
                assert got == pytest.approx(grid(f, q1, q2, rho), rel=0, abs=1.5e-10 * size)


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_against_adaptive_integration(activation):
    q1, q2, rho = 2.0, 0.5, -0.4
    root = np.sqrt(1 - rho**2)
    for f, got in zip(SMOOTH[activation], moments(activation, q1, q2, rho), strict=True):

        def integrand(w, z, f=f):
            density = np.exp(-(z**2 + w**2) / 2) / (2 * np.pi)
            return f(np.sqrt(q1) * z) * f(np.sqrt(q2) * (rho * z + root * w)) * density

        expected = integrate.dblquad(integrand, -9, 9, -9, 9, epsabs=1e-10)[0]
        assert got == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("slope", [0.0, 0.2, -1.0])
@pytest.mark.parametrize("rho", [-0.999999, -0.6, 0.2, 0.999999])
def test_rectifiers_against_an_integral_over_the_angle(slope, rho):
    """(u, v) in polar coordinates; the radius integrates to 2 for φφ and to 1 for φ'φ'."""
    angle = np.arccos(rho)
    kinks = np.sort(np.mod([np.pi / 2, 3 * np.pi / 2, angle + np.pi / 2, angle - np.pi / 2], 2 * np.pi))

    def around(f):
        edges = [0, *kinks, 2 * np.pi]
        return sum(integrate.quad(lambda t: f(np.cos(t)) * f(np.cos(t - angle)), a, b, epsabs=1e-13)[0]
                   for a, b in itertools.pairwise(edges)) / (2 * np.pi)  # fmt: skip

    for q1, q2 in PAIRS:
        value, derivative = moments("leaky_relu", q1, q2, rho, slope=slope)
        assert value == pytest.approx(2 * np.sqrt(q1 * q2) * around(lambda x: max(x, 0) + slope * min(x, 0)), abs=1e-12)
        assert derivative == pytest.approx(around(lambda x: 1.0 if x > 0 else slope), rel=1e-9, abs=1e-10)


def test_leaky_relu_between_relu_and_linear():
    x, other = inputs(), inputs(4, seed=1)
    for slope, name in ((0.0, "relu"), (1.0, "linear")):
        leaky = analytic_ntk(x, other, depth=2, activation="leaky_relu", slope=slope)
        np.testing.assert_allclose(leaky, analytic_ntk(x, other, depth=2, activation=name), rtol=1e-13)


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_doubling_the_terms(activation):
    x = inputs(30)
    options = {"depth": 3, "activation": activation, "weight_std": 1.3}
    best = analytic_ntk(x, terms=1024, **options)

    def error(terms):
        return np.abs(analytic_ntk(x, terms=terms, **options) - best).max() / best.max()

    errors = [error(terms) for terms in (4, 8, 16, 32, 64, 128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3 > 1e-8 > errors[-1]
    assert error(512) < 1e-13
    assert error(None) < 1e-9  # three layers of at most 1e-10, each of which adds to the next


def two_layer_relu(x, power):
    sigma = x @ x.T / x.shape[1] + 1
    size = np.outer(np.diag(sigma), np.diag(sigma))
    angle = np.arccos(np.clip(sigma / np.sqrt(size), -1, 1))
    second = size**power * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    return (sigma * (np.pi - angle) + second) / (2 * np.pi)


def test_two_layer_relu_has_a_square_root_in_its_second_term(digits):
    kernel = analytic_ntk(digits)
    np.testing.assert_allclose(kernel, two_layer_relu(digits, 0.5), rtol=1e-7)
    without = np.abs(kernel - two_layer_relu(digits, 1.0)) / kernel
    assert without.mean() > 0.4


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_linear_networks_exactly(depth):
    """Layer l carries its own covariance Σ_l through the depth + 1 - l layers above it."""
    x, other, w, b = inputs(), inputs(4, seed=1), 1.3, 0.7
    gram = x @ other.T / 5
    sigma = [w ** (2 * k) * gram + b**2 * sum(w ** (2 * j) for j in range(k)) for k in range(1, depth + 1)]
    nngp = w**2 * (sigma[-1] if depth else gram)
    options = {"depth": depth, "activation": "linear", "weight_std": w, "bias_std": b}
    np.testing.assert_allclose(analytic_ntk(x, other, kind="nngp", **options), nngp, rtol=1e-12, atol=1e-13)
    ntk = nngp + sum(w ** (2 * (depth + 1 - k)) * sigma[k - 1] for k in range(1, depth + 1))
    np.testing.assert_allclose(analytic_ntk(x, other, **options), ntk, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("activation", EVERY)
def test_depth_zero_is_the_linear_model(activation):
    x, other = inputs(), inputs(4, seed=1)
    exact = empirical_ntk(MLP(3, 0, weight_std=1.3), x, other)
    for kind in ("ntk", "nngp"):
        got = analytic_ntk(x, other, depth=0, activation=activation, weight_std=1.3, kind=kind)
        np.testing.assert_allclose(got, exact, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("activation", EVERY)
def test_two_layers_are_one_layer_on_the_features_of_the_first(activation):
    x, w, b = inputs(5, 6), 1.3, 0.7
    options = {"activation": activation, "weight_std": w, "kind": "nngp"}
    second = analytic_ntk(x, bias_std=b, **options) + b**2
    features = np.linalg.cholesky(second) * np.sqrt(len(x)) / w
    expected = analytic_ntk(features, bias_std=0.0, **options)
    np.testing.assert_allclose(analytic_ntk(x, depth=2, bias_std=b, **options), expected, rtol=1e-9)


def error(kernels, limit):
    return np.sqrt(np.mean([(k - limit) ** 2 for k in kernels])) / np.abs(limit).mean()


@pytest.mark.parametrize(
    ("activation", "depth"),
    [("relu", 1), ("relu", 3), ("erf", 2), ("gelu", 3), ("tanh", 2), ("silu", 2), ("silu", 1), ("linear", 3),
     ("leaky_relu", 2)],
)  # fmt: skip
def test_networks_approach_the_limit_like_one_over_the_root_of_the_width(activation, depth, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "leaky_relu", lambda x: torch.nn.functional.leaky_relu(x, 0.3))
    x, other = inputs(4, 3), inputs(3, 3, seed=1)
    widths = (64, 512, 4096) if depth == 1 else (64, 256, 1024)
    seeds = (150, 60, 20)
    options = {"depth": depth, "activation": activation, "weight_std": 1.1, "bias_std": 0.6}
    limit = analytic_ntk(x, other, slope=0.3, **options)
    errors = []
    for width, count in zip(widths, seeds, strict=True):
        kernels = [empirical_ntk(MLP(width, seed=seed, **options), x, other) for seed in range(count)]
        errors.append(error(kernels, limit))
    # The mean's own error is what noise leaves: a wrong limit could not come this near.
    assert error([np.mean(kernels, axis=0)], limit) < 3 * errors[-1] / np.sqrt(seeds[-1])
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize("activation", EVERY)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_symmetric_to_the_last_bit_and_independent_of_tiles(activation, kind, monkeypatch):
    x = inputs(31, 9)
    x[7] = x[25]
    options = {"depth": 2, "activation": activation, "kind": kind}
    kernel = analytic_ntk(x, **options)
    assert (kernel == kernel.T).all()
    assert (kernel == analytic_ntk(x, x.copy(), **options)).all()
    for tile in (17, 121, 10**5):  # edges 4, 11 (the last tile is short) and all
        monkeypatch.setattr(module, "_TILE", tile)
        again = analytic_ntk(x, **options)
        assert (again == again.T).all()
        np.testing.assert_allclose(again, kernel, rtol=1e-9)
        # Unequal arrays take another path to the variances, and meet correlation 1 off the diagonal.
        np.testing.assert_allclose(analytic_ntk(x[:20], x[5:], **options), kernel[:20, 5:], rtol=1e-9)
        np.testing.assert_allclose(analytic_ntk(x[5:], x[:20], **options), kernel[5:, :20], rtol=1e-9)
    np.testing.assert_allclose(kernel[7], kernel[25], rtol=1e-12)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("activation", EVERY)
def test_positive_semidefinite_with_duplicates_opposites_and_zeros(activation, depth, digits):
    x = digits[:120]
    x = np.concatenate([x, x[:40], -x[:40], 2 * x[:20], x[:20] * (1 + 1e-9), np.zeros((2, 64))])
    for bias in (0.0, 0.3):
        kernel = analytic_ntk(x, depth=depth, activation=activation, bias_std=bias)
        eigenvalues = np.linalg.eigvalsh(kernel)
        assert eigenvalues[0] > -1e-12 * eigenvalues[-1]
        assert np.isfinite(kernel).all()
        if bias == 0:  # all activations have φ(0) = 0
            assert (kernel[-2:] == 0).all()


@pytest.mark.parametrize("factor", [3.0, 1e-30, 1e30])
def test_rectifiers_without_biases_scale_with_their_inputs(factor):
    x, other = inputs(), inputs(4, seed=1)
    for activation in ("relu", "leaky_relu", "linear"):
        options = {"depth": 3, "activation": activation, "bias_std": 0.0}
        kernel = analytic_ntk(x, other, **options)
        np.testing.assert_allclose(analytic_ntk(factor * x, other, **options), factor * kernel, rtol=1e-9)
        scaled = analytic_ntk(x, other, weight_std=factor**0.25, **options)
        np.testing.assert_allclose(scaled, factor**2 * kernel, rtol=1e-9)


@pytest.mark.parametrize("q", [30.0, 1e4])
def test_large_variances_of_a_series_are_exact_or_refused(q):
    x = np.sqrt(q) * np.eye(1)
    if q < 100:
        expected = integrate.quad(lambda z: 2 * np.tanh(np.sqrt(q) * z) ** 2 * np.exp(-z * z / 2), 0, 9, limit=200)[0]
        got = analytic_ntk(x, activation="tanh", bias_std=0.0, kind="nngp")[0, 0]
        assert got == pytest.approx(expected / np.sqrt(2 * np.pi), rel=1e-9)
    else:
        with pytest.raises(InputError, match="variance of 1e\\+04"):
            analytic_ntk(x, activation="tanh", bias_std=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "swish"}, "activation: expected one of relu"),
        ({"depth": -1}, "depth: expected an integer >= 0"),
        ({"depth": 1.5}, "depth"),
        ({"x2": np.ones((4, 6))}, r"x2: expected shape \(any, 5\), got \(4, 6\)"),
        ({"x1": np.ones(5)}, "x1: expected 2 dimension"),
        ({"x1": np.array([[1.0, np.nan]])}, "x1: expected finite values"),
        ({"weight_std": 0}, "weight_std: expected a number > 0"),
        ({"weight_std": -1.0}, "weight_std: expected a number > 0"),
        ({"weight_std": np.nan}, "weight_std"),
        ({"bias_std": -0.1}, "bias_std"),
        ({"kind": "ntks"}, "kind: expected one of ntk, nngp"),
        ({"slope": np.inf}, "slope"),
        ({"terms": 0}, "terms"),
        ({"weight_std": 1e80, "depth": 2}, "variances from 1e-100 to 1e\\+100"),
        ({"x1": 1e-60 * np.ones((2, 5)), "bias_std": 0.0}, "variances from 1e-100 to 1e\\+100"),
        ({"weight_std": 1e40, "activation": "erf", "depth": 9}, "beyond the floats"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_inputs_are_refused(change, message):
    with pytest.raises(InputError, match=message) as caught:
        analytic_ntk(**({"x1": inputs()} | change))
    assert "\n" not in str(caught.value)


class Convolutional(torch.nn.Module):
    """The finite network whose limit `analytic_cntk` is."""

    def __init__(self, channels, depth, shape, kernel_size, weight_std, bias_std, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = [shape[0]] + [channels] * depth

        def normal(*size):
            return torch.nn.Parameter(torch.randn(*size, generator=generator, dtype=torch.float64))

        self.filters = torch.nn.ParameterList(
            normal(b, a, kernel_size, kernel_size) for a, b in itertools.pairwise(sizes)
        )
        self.biases = torch.nn.ParameterList(normal(b) for b in sizes[1:])
        self.read_out = normal(sizes[-1] * shape[1] * shape[2])
        self.weight_std, self.bias_std = weight_std, bias_std

    def forward(self, x):
        for filters, bias in zip(self.filters, self.biases, strict=True):
            scale = self.weight_std / filters[0].numel() ** 0.5
            x = torch.relu(torch.nn.functional.conv2d(x, scale * filters, self.bias_std * bias, padding="same"))
        return self.weight_std / len(self.read_out) ** 0.5 * (x.flatten(1) @ self.read_out)


@pytest.mark.parametrize(("depth", "kernel_size"), [(0, 3), (1, 5), (2, 3)])
def test_convolutional_networks_approach_their_limit(depth, kernel_size):
    images = np.random.default_rng(0).standard_normal((4, 2, 3, 4))
    stds = {"weight_std": 1.2, "bias_std": 0.5}
    limit = analytic_cntk(images, depth=depth, kernel_size=kernel_size, **stds)
    errors, counts, channels = [], (60, 20), (16, 128)
    for width, count in zip(channels, counts, strict=True):
        networks = (Convolutional(width, depth, (2, 3, 4), kernel_size, seed=s, **stds) for s in range(count))
        kernels = [empirical_ntk(network, images) for network in networks]
        errors.append(error(kernels, limit))
    if depth == 0:
        assert max(errors) < 1e-13
        return
    assert error([np.mean(kernels, axis=0)], limit) < 3 * errors[-1] / np.sqrt(counts[-1])
    slope = np.log(errors[1] / errors[0]) / np.log(channels[1] / channels[0])
    assert slope == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize("activation", EVERY)
def test_images_of_one_pixel_are_vectors(activation):
    x, other = inputs(9), inputs(4, seed=1)
    options = {"depth": 2, "activation": activation}
    for kind in ("ntk", "nngp"):
        got = analytic_cntk(x[:, :, None, None], other[:, :, None, None], kernel_size=1, kind=kind, **options)
        np.testing.assert_allclose(got, analytic_ntk(x, other, kind=kind, **options), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_image_kernels_are_symmetric_and_independent_of_tiles(activation, monkeypatch):
    images = np.random.default_rng(0).standard_normal((10, 2, 4, 3))
    options = {"depth": 2, "activation": activation, "kernel_size": 9}  # a patch beyond the image
    kernel = analytic_cntk(images, **options)
    assert (kernel == kernel.T).all()
    assert np.linalg.eigvalsh(kernel)[0] > 0
    monkeypatch.setattr(module, "_TILE", 110)  # edge 3
    np.testing.assert_allclose(analytic_cntk(images, **options), kernel, rtol=1e-9)
    np.testing.assert_allclose(analytic_cntk(images[:4], images[2:], **options), kernel[:4, 2:], rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_size": 2}, "kernel_size: expected an odd"),
        ({"kernel_size": 0}, "kernel_size: expected an integer"),
        ({"x1": np.ones((3, 4))}, "x1: expected 4 dimension"),
        ({"x2": np.ones((3, 2, 3, 5))}, "x2: expected shape"),
    ],
)
def test_bad_images_are_refused(change, message):
    with pytest.raises(InputError, match=message) as caught:
        analytic_cntk(**({"x1": np.ones((3, 2, 3, 4))} | change))
    assert "\n" not in str(caught.value)
