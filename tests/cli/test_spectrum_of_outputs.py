"""`sgdsim spectrum` with several outputs: the modes are those of the kernel over all outputs of all points."""

import json

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.networks import ntk
from sgdsim.problem import QuadraticProblem

N, C = 12, 3
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # torch warns of itself when torch.func loads
SMALL = ["spectrum", "--n", str(N), "--targets", "one-hot", "--width", "8"]


@pytest.fixture(scope="module")
def whole() -> QuadraticProblem:
    data = ss.datasets.load("digits", N, 0, n_test=0, targets="one-hot")
    network = ss.networks.MLP(8, 1, seed=0, n_outputs=10)
    return ss.NetworkProblem(network, data, device="cpu").quadratic


@pytest.mark.parametrize("formed", [True, False])
def test_top_has_the_leading_modes(run, monkeypatch, whole, formed):
    if not formed:
        monkeypatch.setattr("sgdsim.cli.spectrum._FORMED", 0)
    found = json.loads(run(*SMALL, "--top", "15", "--json"))  # more than points
    np.testing.assert_allclose(found["eigenvalues"], whole.eigenvalues[:15], rtol=1e-7)
    apart = np.flatnonzero(-np.diff(whole.eigenvalues[:15]) > 1e-6)  # the read-outs' part has the same for each output
    assert apart.size > 5
    sums = [np.cumsum(c)[apart] for c in (found["c"], whole.coefficients[:15] ** 2)]
    np.testing.assert_allclose(*sums, rtol=1e-6)
    assert found["lambda_max"] == pytest.approx(whole.spectrum.scale)
    assert found["c_total"] == pytest.approx((whole.coefficients**2).sum())
    assert found["torch_lr"] == pytest.approx(whole.torch_lr(1.0))
    assert "--top: expected" in run(*SMALL, "--top", str(10 * N + 1), code=2)


def test_lanczos_and_its_file(run, tmp_path, whole):
    found = json.loads(run(*SMALL, "--lanczos", "30", "--json", "--out", "modes.nc"))
    assert sum(found["multiplicity"]) == pytest.approx(10 * N)
    assert found["c_total"] == pytest.approx((whole.coefficients**2).sum())
    told = json.loads(run("stability", "--spectrum", "modes.nc", "--batch-size", "3", "--momentum", "0", "--json"))
    assert told["rows"][0]["noise"] == pytest.approx(whole.noise(ss.SGD(1.0, 0.0, 3)))


def test_products_alone_follow_what_the_matrix_does():
    """Both quadratures complete: all losses of the diagonal regime are those of the decomposed kernel."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((N * C, 60)) * np.arange(1, 61) ** -0.7
    kernel, residual = features @ features.T, rng.standard_normal((N, C))
    exact = QuadraticProblem.from_kernel(kernel, residual)
    products = QuadraticProblem.from_operator(kernel, residual, n_lanczos=N * C, n_top=N * C)
    assert products.n == N
    assert products.n_outputs == C
    sgd = ss.SGD(0.5, 0.3, 3)
    assert products.noise(sgd) == exact.noise(sgd)
    regime = ss.SpectralDiagonal(tau=0.0)  # τc_k asks for single modes
    losses = [ss.simulate(p, sgd, regime, 100)["loss"].values for p in (exact, products)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-7)
    with pytest.raises(InputError, match=r"expected shape \(36, 36\)"):
        QuadraticProblem.from_operator(kernel[:N, :N], residual)


def test_networks_products_are_those_of_its_kernel(whole):
    data = ss.datasets.load("digits", N, 0, n_test=0, targets="one-hot")
    problem = ss.NetworkProblem(ss.networks.MLP(8, 1, seed=0, n_outputs=10), data, device="cpu")
    operator = ntk.ntk_operator(problem.network, data.x)
    found = QuadraticProblem.from_operator(operator, problem.initial_outputs[0] - data.y, n_lanczos=40, n_top=30)
    np.testing.assert_allclose(found.spectrum.scale, whole.spectrum.scale, rtol=1e-10)
    assert len(found.alternatives) > 0
