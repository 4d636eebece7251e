"""Theory of any stationary method: against heavy ball's closed forms, the recurrence, and the operator in full."""

import itertools

import mpmath
import numpy as np
import pytest

import sgdsim as ss
from sgdsim import methods
from sgdsim.common.checks import InputError
from sgdsim.theory import generating, linear, power_law, stability

METHODS = {
    "heavy-ball": {"momentum": 0.6},
    "nesterov": {"momentum": 0.6, "method": "nesterov"},
    "nesterov negative": {"momentum": -0.3, "method": "nesterov"},
    "memory": {"method": methods.Memory((0.8, 0.3), (0.4, 0.6), (-0.5, -0.2), 0.8)},
    "corner": {"method": "corner:theta=1.5,memory=2"},
}


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(20, 1.5, 1.0)


def as_memory(momentum: float, name: str) -> methods.Memory:
    read, direct = (momentum, 1.0) if name == "heavy-ball" else (momentum**2, 1 + momentum)
    return methods.Memory((momentum,), (read,), (-1.0,), direct)


@pytest.mark.parametrize("momentum", [-0.4, 0.0, 0.6, 0.95])
@pytest.mark.parametrize("tau", [1.0, 0.0, -1.0])
def test_sums_are_heavy_balls_closed_forms(problem, momentum, tau):
    sgd = ss.SGD(0.2, momentum, 5)
    noise, found = float(sgd.values(20, 0, 1).noise[0]), linear.at_one(problem, sgd, tau)
    hyper = (0.2, momentum, noise, tau)
    assert found.noise == pytest.approx(generating.noise_propagator_at_one(problem.eigenvalues, *hyper), rel=1e-11)
    expected = generating.signal_at_one(problem.eigenvalues, problem.coefficients**2, *hyper)
    assert found.signal == pytest.approx(expected, rel=1e-11)
    assert linear.effective_lr(sgd) == pytest.approx(0.2 / (1 - momentum))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tau", [1.0, -0.5])
def test_sums_are_those_of_the_recurrence(problem, name, tau):
    """Σ_t s_t = Ṽ(1)/(1 − Ũ(1)) over a run until nothing is left."""
    sgd = ss.SGD(0.15, batch_size=10, **METHODS[name])
    found = linear.at_one(problem, sgd, tau)
    loss = ss.simulate(problem, sgd, ss.SpectralDiagonal(tau), 12_000, record=1)["loss"].values.ravel()
    assert loss[-1] < 1e-11 * loss[0]
    assert 2 * 20 * loss.sum() == pytest.approx(found.signal / (1 - found.noise), rel=1e-9)


@pytest.mark.parametrize("level", stability.LEVELS)
@pytest.mark.parametrize(("momentum", "name"), [(0.6, "heavy-ball"), (-0.4, "heavy-ball"), (0.9, "heavy-ball")])
def test_thresholds_of_heavy_ball_come_out_the_general_way(tiny, level, momentum, name):
    plain = stability.max_lr(tiny, ss.SGD(1.0, momentum, 2), level)
    general = stability.max_lr(tiny, ss.SGD(1.0, 0.0, 2, method=as_memory(momentum, name)), level)
    assert general == pytest.approx(plain, rel=1e-6)


KEEPING = {"for ever": {"method": methods.Memory((1.0,), (0.1,), (-0.1,), 1.0)}}  # gradients are never forgotten


@pytest.mark.parametrize("name", [*(name for name in METHODS if name != "heavy-ball"), "for ever"])
def test_the_diagonal_regime_turns_at_its_threshold(problem, name):
    options = {"batch_size": 2, **(METHODS | KEEPING)[name]}
    limit = stability.max_lr(problem, ss.SGD(1.0, **options))
    below, above = (
        ss.simulate(problem, ss.SGD(f * limit, **options), ss.SpectralDiagonal(), 8000, record=2000)
        for f in (0.99, 1.01)
    )
    assert (np.diff(below["loss"].values.ravel()[1:]) < 0).all()
    assert (np.diff(above["loss"].values.ravel()[1:]) > 0).all() or above["outcome"].values.item() == 2


@pytest.mark.parametrize("name", ["corner:theta=1.7,memory=3", "nesterov", "heavy-ball"])
def test_responses_of_slow_modes_are_those_of_fifty_digits(name):
    """As sums over time `X = RXRᵀ + vvᵀ`; the leading order in λ alone was off by 1e-5 with a long memory."""
    sgd = ss.SGD(1.8, 0.0 if "corner" in name else 0.9, 1, method=name)
    eigenvalues = np.array([1e-3, 3e-8, 3.4e-11, 1e-13, 1e-24])
    transition, kick = linear.step(sgd)
    for found, vector in zip(linear.responses(eigenvalues, sgd), (kick, np.eye(kick.size)[0]), strict=True):
        for value, eigenvalue in zip(found, eigenvalues, strict=True):
            assert value == pytest.approx(summed_in_many_digits(transition, kick, eigenvalue, vector), rel=2e-8)


def summed_in_many_digits(transition: np.ndarray, kick: np.ndarray, eigenvalue: float, vector: np.ndarray) -> float:
    with mpmath.workdps(60):
        size, step = kick.size, mpmath.matrix(transition.tolist())
        for i in range(size):
            step[i, 0] += mpmath.mpf(float(eigenvalue)) * mpmath.mpf(float(kick[i]))
        pairs = list(itertools.product(range(size), repeat=2))
        system = mpmath.matrix([[int(a == b) - step[a[0], b[0]] * step[a[1], b[1]] for b in pairs] for a in pairs])
        return float(mpmath.lu_solve(system, mpmath.matrix([float(vector[i] * vector[j]) for i, j in pairs]))[0])


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e12, 1e200])
def test_thresholds_of_any_size(problem, scale):
    """A method that multiplies its learning rate; none is 0 or infinite because the search began elsewhere."""
    scaled = methods.Memory((0.9,), (0.9,), (-scale,), scale)
    limit = stability.max_lr(problem, ss.SGD(1.0, 0.0, 2, method=scaled))
    assert limit * scale == pytest.approx(stability.max_lr(problem, ss.SGD(1.0, 0.9, 2)), rel=1e-6)


def test_the_threshold_of_an_extreme_weight_decay(problem):
    sgd = ss.SGD(1.0, 0.9, 2, method="nesterov", weight_decay=1e13)
    limit = 2 * 1.9 / 2.8 / (1 + problem.pull(sgd))
    assert stability.max_lr(problem, sgd, "full-batch") == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("tolerance", [0, -1, np.nan, 0.5])
def test_a_tolerance_is_small_and_positive(problem, tolerance):
    with pytest.raises(ss.InputError, match="tolerance: expected"):
        stability.max_lr(problem, ss.SGD(1.0, 0.5, 2, method="nesterov"), tolerance=tolerance)


@pytest.mark.parametrize("lr", [1.0, 1 + 1e-9, 1.001])
@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_the_exact_radius_where_a_mode_has_a_double_eigenvalue(tiny, lr, momentum):
    """Nesterov's map of a mode with αλ = 1 has no basis of eigenvectors: ρ(M) from responses summed over time."""
    sgd = ss.SGD(lr, momentum, 2, method="nesterov")
    gamma, lam, u = float(sgd.values(5, 0, 1).noise[0]), tiny.eigenvalues, tiny.eigenvectors
    maps, (_, kick) = linear.mode_maps(lam, sgd), linear.step(sgd)
    state, total = np.tile(kick, (5, 1)), np.zeros((5, 5))
    for _ in range(3000):
        total += np.outer(state[:, 0], state[:, 0])
        state = np.einsum("kab,kb->ka", maps, state)
    product = gamma * np.outer(lam, lam)
    weights = 5 * product * total / (1 + product * total)
    full = np.einsum("ik,jk,il,jl,kl->ij", u, u, u, u, weights)
    assert stability.averaged_radius(tiny, sgd, tolerance=1e-12) == pytest.approx(
        np.linalg.eigvalsh(full)[-1], rel=1e-6
    )


@pytest.mark.parametrize("name", [name for name in METHODS if name != "heavy-ball"])
def test_the_exact_radius_is_that_of_the_operator_in_full(tiny, name):
    """At ρ(M) = 1 the linear map of E ψψᵀ, (mN)² × (mN)², has spectral radius 1."""
    options = {"batch_size": 2, **METHODS[name]}
    limit = stability.max_lr(tiny, ss.SGD(1.0, **options), "exact", tolerance=1e-9)
    sgd = ss.SGD(limit, **options)
    assert stability.averaged_radius(tiny, sgd) == pytest.approx(1, abs=1e-6)
    (transition, kick), n = linear.step(sgd), 5
    gamma, kernel = float(sgd.values(n, 0, 1).noise[0]), tiny.kernel
    m = kick.size
    mean = np.kron(transition, np.eye(n)) + np.kron(np.outer(kick, np.eye(m)[0]), kernel)
    full = np.kron(mean, mean)
    for i in range(n):
        for j in range(n):  # E GCGᵀ − KCK = γ(N K diag(C) K − K C K), from C_ij of the iterate
            unit = np.zeros((n, n))
            unit[i, j] = 1
            extra = gamma * (n * kernel @ np.diag(np.diag(unit)) @ kernel - kernel @ unit @ kernel)
            image = np.kron(np.outer(kick, kick), extra)  # (m n, m n), rows (component, point)
            full[:, i * m * n + j] += image.ravel()
    assert np.abs(np.linalg.eigvals(full)).max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("average", [None, "ema:0.9"])
@pytest.mark.parametrize("tau", [1.0, -1.0])
def test_floor_of_noisy_labels(name, average, tau):
    problem = ss.QuadraticProblem.power_law(8, 1.5, 1.0)
    sgd = ss.SGD(0.1, batch_size=5, label_noise=0.01, average=average, **METHODS[name])
    floor = linear.floor(problem, sgd, tau)
    run = ss.simulate(problem, sgd, ss.SpectralDiagonal(tau), 6_000, record=1)["loss"].values.ravel()
    assert run[-1] == pytest.approx(floor.loss, rel=1e-9)
    first = int(np.argmax(run <= 2 * floor.loss))
    assert first <= floor.reached <= 1.03 * first + 1


def test_an_average_lowers_the_floor_and_a_falling_rate_removes_it(problem):
    options = {"batch_size": 5, "label_noise": 0.1}
    plain, averaged = (linear.floor(problem, ss.SGD(0.3, average=a, **options)).loss for a in (None, "ema:0.99"))
    assert averaged < 0.2 * plain
    falling = ss.SGD(ss.schedules.Power(0.3, 0.7, 100), **options)
    loss = ss.simulate(problem, falling, ss.SpectralDiagonal(), 100_000, record=[1000, 10_000])["loss"].values.ravel()
    assert loss[-1] < 0.2 * plain
    assert loss[3] < loss[2] < loss[1]


def test_what_the_model_cannot_fit_keeps_making_noise():
    """Residual on modes with λ = 0: the loss ends above it, by Ũ(1)/(1 − Ũ(1)) of it; sampled runs agree."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 6))
    problem = ss.QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal(12))
    sgd = ss.SGD(0.3, batch_size=3)
    floor = linear.floor(problem, sgd)
    left = float(np.sum(problem.coefficients[6:] ** 2))
    assert left > 0
    one = linear.at_one(problem, sgd)
    assert floor.loss == pytest.approx(left / (1 - one.noise) / 24, rel=1e-10)
    late = ss.simulate(problem, sgd, ss.SpectralDiagonal(), 5000)["loss"].values.ravel()[-1]
    assert late == pytest.approx(floor.loss, rel=1e-9)


@pytest.mark.parametrize(("kappa", "which"), [(1.2, 0), (4.0, 1)])
@pytest.mark.parametrize("name", ["nesterov", "corner"])
def test_late_laws_have_the_effective_learning_rate(kappa, which, name):
    problem = ss.QuadraticProblem.power_law(10_000, 1.5, kappa)
    law = power_law.PowerLaw.of(problem)
    options = METHODS[name]
    sgd = ss.SGD(0.1, batch_size=10, **options)
    constants = power_law.method_constants(problem, law, sgd)
    exponent = (law.zeta, 2 - 1 / law.nu)[which]
    t = 3000 if name == "corner" else 1500
    loss = ss.simulate(problem, sgd, ss.SpectralDiagonal(), t, record=[t])["loss"].values.ravel()[-1]
    assert constants[which] * t**-exponent == pytest.approx(loss, rel=0.15)


def test_what_is_not_stationary_is_refused(problem):
    for sgd in (
        ss.SGD(0.1, method="am1:nu=1.5"),
        ss.SGD(ss.schedules.Power(1, 0.5)),
        ss.SGD(0.1, sampling="reshuffle"),
    ):
        with pytest.raises(InputError, match="expected"):
            linear.at_one(problem, sgd)
    with pytest.raises(InputError, match="theory: expected"):
        linear.floor(problem, ss.SGD(0.1, average="tail", label_noise=0.1))
    with pytest.raises(InputError, match="method: contour needs hyperparameters"):
        ss.simulate(problem, ss.SGD(0.1, average="tail"), ss.SpectralDiagonal(method="contour"), 10)
    with pytest.raises(InputError, match="theory: expected hyperparameters"):
        power_law.predict(problem, ss.SGD(0.1, average="tail"))


def test_one_pass_is_exact_at_tau_minus_one(problem):
    sgd = ss.SGD(1.0, 0.3, 4, sampling="one-pass")
    assert stability.max_lr(problem, sgd, "exact") == stability.max_lr(problem, sgd, tau=-1)
