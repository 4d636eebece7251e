"""Laws of decay of methods with memory: identities against recurrences, and exponents on power laws."""

import itertools

import naive
import numpy as np
import pytest
from scipy.linalg import hadamard
from scipy.special import zeta as hurwitz

import sgdsim as ss
from sgdsim import datasets, methods, reproduction
from sgdsim.common.checks import InputError
from sgdsim.reproduction import memory as exhibit
from sgdsim.reproduction import memory_problems as problems
from sgdsim.theory import generating, linear, memory, thresholds

HEAVY, NESTEROV, PLAIN = methods.HeavyBall(), methods.Nesterov(), methods.HeavyBall()
TWO = methods.Memory((0.8, 0.3), (0.4, 0.6), (-0.5, -0.2), 0.8)
CASES = {
    "plain": (HEAVY, 0.0),
    "heavy-ball": (HEAVY, 0.6),
    "heavy-ball negative": (HEAVY, -0.4),
    "nesterov": (NESTEROV, 0.6),
    "memory": (TWO, 0.0),
    "corner": (methods.Corner(1.5, 3), 0.0),
    "corner 1.8": (methods.Corner(1.8, 5), 0.0),
}
TAUS = (1.0, 0.0, -1.0)


class Mixed:
    """TWO with its memory vectors mixed by an invertible matrix: the same method, with a full D."""

    memory, uses_momentum, is_stationary, spec = 2, False, True, "mixed"

    def maps(self, steps, lr, momentum):
        mix = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.5], [0.0, -1.0, 1.0]])
        maps = TWO.maps(steps, lr, momentum)
        return methods.Maps(mix @ maps.transition @ np.linalg.inv(mix), maps.kick @ mix.T)


class Coupled(Mixed):
    """One whose memory sees the iterate."""

    spec = "coupled"

    def maps(self, steps, lr, momentum):
        maps = super().maps(steps, lr, momentum)
        maps.transition[:, 1, 0] = 0.1
        return maps


def algorithm(name, lr=0.15, batch_size=5, **more):
    method, momentum = CASES[name]
    return ss.SGD(lr, momentum, batch_size, method=method, **more)


def power_law(nu, zeta, n=1e12, ratio=1.1):
    """`λ_k = k^−ν`, `c_k ∝ k^−(κ+1)` to n, in bins from k = 40 on, their sums exact by Hurwitz's zeta function."""
    kappa, edges = nu * zeta, [*map(float, range(1, 41))]
    while edges[-1] < n:
        edges.append(np.floor(ratio * edges[-1]))
    low, high = np.array(edges[:-1]), np.array(edges[1:])
    c = hurwitz(kappa + 1, low) - hurwitz(kappa + 1, high)
    values = (low * (high - 1)) ** (-nu / 2)
    return ss.QuadraticProblem(ss.Spectrum(values, multiplicity=high - low), np.sqrt(c))


def response(method, lr, momentum=0.0):
    return lambda mu: memory.psi(mu, method, lr, momentum)


def losses(problem, sgd, steps, tau):
    run = ss.simulate(problem, sgd, ss.SpectralDiagonal(tau), steps, record=1)
    return 2 * problem.n * run["loss"].values.ravel()


@pytest.fixture(scope="module")
def problem():
    return ss.QuadraticProblem.power_law(20, 1.5, 1.0)


@pytest.mark.parametrize(("name", "method"), [*((n, CASES[n][0]) for n in CASES), ("memory", Mixed())])
@pytest.mark.parametrize("about", [0.0, 1.0])
def test_polynomials_are_the_characteristic_polynomial(name, method, about):
    lr, momentum = 0.7, CASES[name][1]
    maps = method.maps(np.arange(1), np.array([lr]), np.array([momentum]))
    transition, kick = maps.transition[0], maps.kick[0]
    p, q = memory.polynomials(method, lr, momentum, about)
    for mu, lam in itertools.product([0.35, 1.2 + 0.4j, -0.9], [0.0, 0.2, 1.0]):
        full = transition + lam * np.outer(kick, np.eye(kick.size)[0])
        expected = np.linalg.det(mu * np.eye(kick.size) - full)
        found = np.polyval(p, mu - about) - lam * np.polyval(q, mu - about)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)
        if lam == 0:
            resolvent = np.linalg.solve(mu * np.eye(kick.size) - transition, kick)[0]
            np.testing.assert_allclose(memory.psi(mu, method, lr, momentum), 1 / resolvent, rtol=1e-11)


@pytest.mark.parametrize("momentum", [-0.4, 0.0, 0.6])
def test_polynomials_of_heavy_ball_and_nesterov(momentum):
    lr = 0.7
    p, q = memory.polynomials(HEAVY, lr, momentum)
    np.testing.assert_allclose(p, np.poly([1.0, momentum]), atol=1e-15)
    np.testing.assert_allclose(q, [-lr, 0.0], atol=1e-15)
    other, q = memory.polynomials(NESTEROV, lr, momentum)
    np.testing.assert_allclose(other, p, atol=1e-15)
    np.testing.assert_allclose(q, [-lr * (1 + momentum), lr * momentum], atol=1e-15)
    for read, direct, name in ((momentum, 1.0, HEAVY), (momentum**2, 1 + momentum, NESTEROV)):
        same = methods.Memory((momentum,), (read,), (-1.0,), direct)
        for one, two in zip(memory.polynomials(same, lr), memory.polynomials(name, lr, momentum), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_effective_learning_rate_comes_from_the_polynomials(name):
    method, momentum = CASES[name]
    assert memory.effective_lr(method, 0.3, momentum) == pytest.approx(linear.effective_lr(algorithm(name, 0.3)))


@pytest.mark.parametrize("memory_vectors", [15, 40])
def test_coefficients_about_one_keep_their_precision(memory_vectors):
    corner = methods.Corner(1.8, memory_vectors)
    sgd = ss.SGD(0.3, method=corner)
    assert memory.effective_lr(corner, 0.3) == pytest.approx(linear.effective_lr(sgd), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tau", TAUS)
def test_generating_functions_at_one_are_the_sums_over_time(problem, name, tau):
    sgd = algorithm(name)
    found, expected = memory.transforms(problem, sgd, 1.0, tau), linear.at_one(problem, sgd, tau)
    np.testing.assert_allclose(found.noise, expected.noise, rtol=1e-11)
    np.testing.assert_allclose(found.signal, expected.signal, rtol=1e-11)


@pytest.mark.parametrize("momentum", [-0.4, 0.0, 0.6])
@pytest.mark.parametrize("tau", TAUS)
def test_generating_functions_of_heavy_ball_are_the_closed_forms(problem, momentum, tau):
    z = np.array([[0.3 + 0.5j, -0.8], [1.2 - 0.1j, 0.99]])  # outside the circle of convergence too
    noise = float(ss.SGD(0.15, momentum, 5).values(20, 0, 1).noise[0])
    hyper = {"lr": 0.15, "momentum": momentum, "noise": noise, "tau": tau}
    found = memory.transforms(problem, ss.SGD(0.15, momentum, 5), z, tau)
    lam, c = problem.eigenvalues, problem.coefficients**2
    np.testing.assert_allclose(found.noise, generating.noise_propagator(lam, z, **hyper), rtol=1e-11)
    np.testing.assert_allclose(found.signal, generating.signal_generator(lam, c, z, **hyper), rtol=1e-11)
    np.testing.assert_allclose(found.loss, naive.loss_transform(lam, c, z, **hyper), rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tau", TAUS)
def test_taylor_coefficients_are_the_recurrence(problem, name, tau):
    sgd, nodes, radius = algorithm(name), 128, 0.8
    z = radius * np.exp(2j * np.pi * np.arange(nodes) / nodes)
    found = np.fft.fft(memory.transforms(problem, sgd, z, tau).loss).real[:30] / nodes / radius ** np.arange(30)
    maps, values = sgd.maps(0, 29), sgd.values(20, 0, 29)
    expected = naive.linear_diagonal(
        problem.eigenvalues, problem.coefficients, maps, values.noise, np.zeros(29), tau, sgd.begins, sgd.readout
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["nesterov", "memory", "corner 1.8"])
def test_taylor_coefficients_are_the_mean_over_all_batch_sequences(name):
    """In a Hadamard basis, where τ = 1 is exact: 6³ sequences of batches of 2 out of 4 points."""
    basis, a = hadamard(4) / 2.0, np.array([1.0, -0.5, 0.7, 0.4])
    four = ss.QuadraticProblem(ss.Spectrum(np.array([1.0, 0.6, 0.3, 0.1]), basis), a)
    sgd = algorithm(name, 0.6, 2)
    expected = naive.enumerated_linear(four.kernel, four.residual, sgd.maps(0, 3), sgd.begins, sgd.readout, 2)
    z = 0.3 * np.exp(2j * np.pi * np.arange(64) / 64)
    found = np.fft.fft(memory.transforms(four, sgd, z, 1.0).loss).real[:4] / 64 / 0.3 ** np.arange(4) / 8
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tau", TAUS)
def test_contour_formula_is_the_recurrence(problem, name, tau):
    sgd, (method, momentum) = algorithm(name), CASES[name]
    gamma = float(sgd.values(20, 0, 1).noise[0])
    found = memory.propagators(problem, response(method, 0.15, momentum), 200, noise=gamma, tau=tau)
    np.testing.assert_allclose(found.losses(), losses(problem, sgd, 199, tau), rtol=1e-8)
    # Each propagator by itself: one unit of noise, and the initial error, through the recurrence without feedback.
    transition, kick = linear.step(sgd)
    total, left = np.zeros(200), np.zeros(200)
    for lam, c in zip(problem.eigenvalues, problem.coefficients**2, strict=True):
        r = transition + lam * np.outer(kick, np.eye(kick.size)[0])
        noise, signal = np.outer(kick, kick), np.diag(np.eye(kick.size)[0])
        for t in range(200):
            total[t] += gamma * lam**2 * noise[0, 0]
            left[t] += c * signal[0, 0]
            noise, signal = (
                r @ x @ r.T - gamma * tau * lam**2 * x[0, 0] * np.outer(kick, kick) for x in (noise, signal)
            )
    np.testing.assert_allclose(found.noise, total, rtol=1e-7)
    np.testing.assert_allclose(found.signal, left, rtol=1e-8)


def test_sums_of_propagators_are_the_generating_functions_at_one():
    """With a mode left, so that all sums converge within the steps."""
    few = ss.QuadraticProblem(ss.Spectrum(np.array([1.0, 0.4])), np.array([1.0, 1.0]))
    sgd = algorithm("memory", 0.3, 1, sampling="one-pass")
    found = memory.propagators(few, response(TWO, 0.3), 1000, noise=1.0, tau=-1.0)
    expected = linear.at_one(few, sgd, -1.0)
    assert found.total == pytest.approx(expected.noise, rel=1e-9)
    assert found.signal.sum() == pytest.approx(expected.signal, rel=1e-9)


@pytest.mark.parametrize("theta", [1.2, 1.5, 1.8])
def test_the_ideal_corner(theta):
    """A corner of angle θπ at 1 with the constant of its docstring, −μ/α at infinity; the finite one tends to it."""
    small = 1e-7 * np.exp(1j * np.linspace(-2, 2, 5))
    c = np.sin((2 - theta) * np.pi) / ((2 - theta) * np.pi)
    np.testing.assert_allclose(memory.corner_psi(1 + small, theta) / -(small**theta), c, rtol=4 * 1e-7 ** (theta - 1))
    assert memory.corner_psi(1e8, theta, 0.5) == pytest.approx(-2e8, rel=1e-7)
    circle = np.exp(1j * np.linspace(1e-3, np.pi, 400))
    ideal = memory.corner_psi(circle, theta)
    assert ((abs(ideal.imag) > 1e-9) | (ideal.real > 2) | (ideal.real < 0))[:-1].all()  # no λα in (0, 2] on the circle
    assert ideal[-1].real > 2
    mu = np.array([1.01, 1.05 + 0.05j, 1.3j])
    errors = [
        abs(memory.psi(mu, methods.Corner(theta, m, spread), 1.0) / memory.corner_psi(mu, theta) - 1).max()
        for m, spread in ((5, 5), (25, 6), (100, 8))
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def local(values, t):
    """Local exponents over a factor of 16 around t, −d log/d log t."""
    return -np.log(values[4 * t] / values[t // 4]) / np.log(16)


@pytest.mark.parametrize(("nu", "zeta", "theta"), [(4.0, 0.25, 1.8), (3.0, 0.5, 1.4), (2.5, 0.4, 1.5)])
def test_exponents_of_signal_and_noise(nu, zeta, theta):
    """Plain, ideal corner and 20 vectors (which reach beyond all times here) against the stated exponents."""
    problem, corner = power_law(nu, zeta), methods.Corner(theta, 20, 6.0)
    assert memory.corner_reach(corner) > 1e11
    steps, at = 16_000, 3000
    for method, psi in ((PLAIN, response(PLAIN, 1.0)), (corner, response(corner, 1.0)),
                        (corner, lambda mu: memory.corner_psi(mu, theta))):  # fmt: skip
        found = memory.propagators(problem, psi, steps, noise=1e-3)
        assert local(found.signal, at) == pytest.approx(memory.signal_exponent(method, nu, zeta), abs=0.02)
        assert local(found.noise, at) == pytest.approx(memory.noise_exponent(method, nu), abs=0.06)
        # With noise: the smaller exponent, which is the signal's where θ is below its maximum.
        assert theta < memory.corner_theta_max(nu, zeta)
        assert local(found.losses(), at) == pytest.approx(memory.signal_exponent(method, nu, zeta), abs=0.03)


def test_finite_memory_speeds_up_until_its_reach_and_not_beyond():
    problem, corner = power_law(4.0, 0.25, 1e9), methods.Corner(1.8, 2, 4.0)
    reach = memory.corner_reach(corner)
    assert reach == pytest.approx(np.exp(1.5 * 4 / np.sqrt(2)))
    found = memory.propagators(problem, response(corner, 1.0), 18_000, noise=0.0).signal
    late = int(60 * reach)
    assert 4 * late < 18_000
    assert local(found, int(reach / 3)) > 0.38
    assert local(found, late) == pytest.approx(0.25, abs=0.01)
    # Beyond, the law has the effective learning rate: the plain law at α_eff.
    plain = memory.propagators(problem, response(PLAIN, 1.0), 18_000, noise=0.0).signal
    ratio = found[late] / plain[late]
    assert ratio == pytest.approx(memory.effective_lr(corner, 1.0) ** -0.25, rel=0.05)


@pytest.mark.parametrize(("nu", "zeta", "power"), [(1.5, 0.5, 0.5), (1.5, 0.5, 0.95), (2.0, 0.25, 0.95)])
@pytest.mark.parametrize("batch_size", [100, None])
def test_am1_has_its_stated_exponent(nu, zeta, power, batch_size):
    """Up to corrections of `a_t`'s own −1, at full batch and at batches of 100 alike."""
    problem, method = power_law(nu, zeta), methods.AM1(nu, power)
    sampling = {"sampling": "with-replacement"} if batch_size else {}
    sgd = ss.SGD(0.5, method=method, batch_size=batch_size or problem.n, **sampling)
    run = ss.simulate(problem, sgd, ss.SpectralDiagonal(), 20_000, record=[1000, 20_000])["loss"].values.ravel()
    found = -np.log(run[2] / run[1]) / np.log(20)
    stated = memory.signal_exponent(method, nu, zeta)
    assert found == pytest.approx(stated, abs=0.015)
    assert stated > zeta + 0.05
    assert memory.signal_exponent(methods.AM1(nu, 1.0), nu, zeta) == pytest.approx(zeta * (2 - 1 / nu))


@pytest.mark.parametrize("theta", [1.3, 1.8])
@pytest.mark.parametrize("batch_size", [3, 30])
def test_stability_under_batch_noise(theta, batch_size):
    """The spectral-diagonal loss turns at the threshold, where Ũ(1) = 1 or the mean diverges; the generating function
    has its pole at the growth rate above it."""
    problem = ss.QuadraticProblem.power_law(40, 1.3, 0.4)
    options = {"batch_size": batch_size, "method": methods.Corner(theta, 3), "sampling": "with-replacement"}
    limit = thresholds.critical_lr(ss.SGD(1.0, **options), lambda sgd: linear.noise_at_one(problem, sgd) - 1)
    below, above = (losses(problem, ss.SGD(f * limit, **options), 3000, 1.0)[1000::500] for f in (0.98, 1.01))
    assert (np.diff(below) < 0).all()
    assert (np.diff(above) > 0).all()
    sgd = ss.SGD(1.01 * limit, **options)
    if linear.mean_is_stable(problem, sgd):
        z = (above[-2] / above[-1]) ** (1 / 500)
        assert (z * memory.transforms(problem, sgd, z).noise).real == pytest.approx(1, abs=1e-4)


def test_a_sharp_corner_is_unstable_at_small_batches_where_plain_sgd_is_not():
    """θ = 1.8 > ν = 1.3: its noise propagators' sum grows with N, a gentle corner's hardly, plain SGD's not at all."""
    sums = {}
    for n in (300, 3000):
        problem = ss.QuadraticProblem.power_law(n, 1.3, 0.4)
        for name, method in (("plain", PLAIN), ("gentle", methods.Corner(1.2, 5)), ("sharp", methods.Corner(1.8, 5))):
            sgd = ss.SGD(0.5, method=method, batch_size=100, sampling="with-replacement")
            sums[name, n] = linear.at_one(problem, sgd, 0.0).noise
    growth = {name: sums[name, 3000] / sums[name, 300] for name in ("plain", "gentle", "sharp")}
    assert growth["plain"] < 1.1 < growth["gentle"] < 1.4 < 1.7 < growth["sharp"]
    problem = ss.QuadraticProblem.power_law(300, 1.3, 0.4)
    ends = {}
    for theta, size in ((1.8, 8), (1.8, 100), (1.2, 8)):
        sgd = ss.SGD(0.5, method=methods.Corner(theta, 5), batch_size=size, sampling="with-replacement")
        stable = linear.at_one(problem, sgd).stable
        runs = ss.simulate(problem, sgd, ss.SampledLinearized(), 1500, record=[1500], replicates=4)["loss"].values
        runs = np.nan_to_num(runs.reshape(4, -1), nan=np.inf)
        ends[theta, size] = stable, min(np.sort(runs[:, -1])[1], 1e100) / runs[0, 0]  # the lower median
    assert [stable for stable, _ in ends.values()] == [False, True, True]
    assert ends[1.8, 8][1] > 10
    assert ends[1.8, 100][1] < 0.1
    assert ends[1.2, 8][1] < 0.3


def test_largest_angles():
    assert memory.corner_theta_max(4.0, 0.25) == 2
    assert memory.corner_theta_max(1.3, 0.25) == 1.3
    assert memory.corner_theta_max(1.5, 1.0) == pytest.approx(2 / (1 + 1 / 1.5))
    for nu, zeta in ((1.4, 0.9), (2.5, 1.2)):  # signal and noise balance there
        corner = methods.Corner(memory.corner_theta_max(nu, zeta))
        assert memory.signal_exponent(corner, nu, zeta) == pytest.approx(memory.noise_exponent(corner, nu))
    for nu, zeta in ((1.0, 0.2), (1.5, 1.5), (2.0, 0.0)):
        with pytest.raises(InputError, match="corner: expected nu > 1"):
            memory.corner_theta_max(nu, zeta)


@pytest.mark.parametrize("method", [HEAVY, NESTEROV, TWO])
def test_finite_memory_has_the_exponents_of_plain_sgd(method):
    assert memory.signal_exponent(method, 1.5, 0.4) == 0.4
    assert memory.noise_exponent(method, 1.5) == pytest.approx(2 - 1 / 1.5)


def test_bad_input(problem):
    am1 = methods.AM1(1.5)
    for call in (
        lambda: memory.polynomials(am1, 0.5),
        lambda: memory.psi(1.1, am1, 0.5),
        lambda: memory.noise_exponent(am1, 1.5),
        lambda: memory.signal_exponent(methods.Adam(), 1.5, 0.5),
        lambda: memory.transforms(problem, ss.SGD(0.5, method=am1), 0.5),
        lambda: memory.transforms(problem, ss.SGD(0.5, label_noise=0.1), 0.5),
        lambda: memory.polynomials(Coupled(), 0.5),
        lambda: memory.corner_psi(1.1, 2.5),
        lambda: memory.propagators(problem, response(PLAIN, 0.5), 0, noise=0.1),
    ):
        with pytest.raises(InputError, match="expected"):
            call()


def test_the_synthetic_problem_of_the_exhibit_is_that_of_its_kernel():
    lam, c = problems.beam(400)
    assert lam[0] == pytest.approx(1.8751040687119611**-4)
    assert 0.4985 < c.sum() < 0.5
    kernel = problems.points(400)
    np.testing.assert_allclose(kernel.eigenvalues[:20], lam[:20] / lam[0], rtol=1e-3)
    np.testing.assert_allclose(kernel.coefficients[:12] ** 2 / 400, c[:12], rtol=1e-3, atol=1e-6)
    coarse = problems.binned(lam, c, 40)
    assert coarse.n == 400
    assert coarse.spectrum.n_modes < 110
    full = ss.QuadraticProblem(ss.Spectrum(lam / lam[0]), np.sqrt(c))
    one, two = (exhibit.curve(p, methods.Corner(1.8, 5), 2000, 0.01) for p in (coarse, full))
    np.testing.assert_allclose(one, two, rtol=1e-3)


def test_slopes_and_continued_spectra():
    t = np.maximum(np.arange(10_001.0), 1)
    assert problems.slope(t**-0.4, 10, 10_000) == pytest.approx(-0.4, abs=2e-3)
    assert problems.windows(10_000, (10, 1000), (1000, 10_000)) == [(10, 1000), (10, 10_000)]
    lam = np.arange(1, 2001.0) ** -1.3
    longer = problems.continued(
        lam[:500] * np.r_[np.ones(50), np.full(450, lam[50:].sum() / lam[50:500].sum())], 50, 2000
    )
    assert longer.n == 2000
    assert np.sum(longer.multiplicity * longer.eigenvalues) == pytest.approx(lam.sum(), rel=1e-3)
    np.testing.assert_allclose(longer.eigenvalues[-1], lam[-20:].mean(), rtol=0.1)


def test_the_picture_has_a_panel_for_each_problem():
    t = np.maximum(np.arange(200.0), 1)
    curves = [("plain", t**-0.2, (-0.2, 10, 100)), ("corner", t**-0.4, (-0.4, 10, 100)), ("other", t**-0.5, None)]
    figure = ss.plot.memory_losses({"one": curves, "two": curves[:1]})
    one, two = figure.axes
    assert [len(ax.lines) for ax in figure.axes] == [5, 2]
    assert [one.get_title(), two.get_title()] == ["one", "two"]
    guide = one.lines[1]
    assert guide.get_ydata()[1] / guide.get_ydata()[0] == pytest.approx(10**-0.2)


def test_the_corner_of_the_exhibit_speeds_mnist_up():
    if not all(file["present"] for file in datasets.status("mnist")):
        pytest.skip("MNIST is not here (SGDSIM_DATA)")
    mnist = exhibit.one_hot(reproduction.Context(), 500)
    targets = np.sum(mnist.coefficients**2) / 500
    assert targets == pytest.approx(1)  # one-hot: one of ten outputs is 1
    plain, corner = (exhibit.curve(mnist, m, 300, 1e-3) for m in (PLAIN, methods.Corner(1.3, 5)))
    assert 1.25 < exhibit._same_losses(plain, corner, (5, 50)) < 1.5
