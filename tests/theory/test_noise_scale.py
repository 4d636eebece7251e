"""The noise scale of a gradient against every single point's gradient, and its two-batch estimate against it."""

import itertools

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.algorithm.samplers import noise_factor
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import contour
from sgdsim.theory import noise_scale
from sgdsim.theory.noise_scale import EIGENVECTORS, GAUSSIAN, RANDOM, two_batches

RNG = np.random.default_rng(3)
N, C, P = 5, 2, 7
JACOBIAN, RESIDUAL = RNG.standard_normal((N, C, P)), RNG.standard_normal((N, C))
FEATURES = RNG.standard_normal((N, 3))
SHARED = np.einsum("id,op->iodp", FEATURES, np.eye(C)).reshape(N, C, -1)  # outputs with parameters of their own


def of_points(jacobian, residual):
    """B_simple, B_noise, ‖G‖²/GᵀHG from single gradients (N, P); with them and H."""
    each = np.einsum("iop,io->ip", jacobian, residual)
    mean, curvature = each.mean(0), np.einsum("iop,ioq->pq", jacobian, jacobian) / len(each)
    spread = np.cov(each.T, bias=True)
    bend = mean @ curvature @ mean
    scales = np.trace(spread) / (mean @ mean), np.trace(curvature @ spread) / bend
    return *scales, (mean @ mean) / bend, each, curvature


PROBLEMS = {
    "one output": (JACOBIAN[:, :1], RESIDUAL[:, :1], lambda k: (k[:, :, 0, 0], RESIDUAL[:, 0])),
    "a kernel over outputs": (JACOBIAN, RESIDUAL, lambda k: (k, RESIDUAL)),
    "a shared kernel": (SHARED, RESIDUAL, lambda k: (FEATURES @ FEATURES.T, RESIDUAL)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_that_of_all_points(name):
    jacobian, residual, given = PROBLEMS[name]
    problem = QuadraticProblem.from_kernel(*given(np.einsum("iop,jqp->ijoq", jacobian, jacobian)))
    simple, curved, step, *_ = of_points(jacobian, residual)
    found = noise_scale.noise_scale(problem)
    assert found.known_by == EIGENVECTORS
    np.testing.assert_allclose([found.b_simple, found.b_noise], [simple, curved], rtol=1e-10)
    assert problem.torch_lr(found.full_step) == pytest.approx(step, rel=1e-10)


@pytest.mark.parametrize(
    ("size", "sampling"), [(2, "without-replacement"), (2, "with-replacement"), (5, "without-replacement")]
)
def test_squares_of_batches_and_the_best_first_step(size, sampling):
    """Over all batches: `E‖g_B‖² = ‖G‖²(1 + γ B_simple)`, and where the mean loss after a step is least."""
    jacobian, residual, given = PROBLEMS["a kernel over outputs"]
    problem = QuadraticProblem.from_kernel(*given(np.einsum("iop,jqp->ijoq", jacobian, jacobian)))
    found, noise = noise_scale.noise_scale(problem), float(noise_factor(N, size, sampling))
    *_, each, curvature = of_points(jacobian, residual)
    draw = itertools.product(range(N), repeat=size)
    batches = draw if sampling == "with-replacement" else itertools.combinations(range(N), size)
    drawn = np.array([each[list(batch)].mean(0) for batch in batches])
    whole = each.mean(0)
    squares = (drawn**2).sum(1).mean()
    assert squares == pytest.approx((whole @ whole) * (1 + noise * found.b_simple), rel=1e-12)
    best = (whole @ whole) / np.einsum("bp,pq,bq->b", drawn, curvature, drawn).mean()
    assert problem.torch_lr(found.first_lr(noise)) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("outputs", [1, 2])
def test_without_a_basis_it_is_the_mean_over_all(outputs):
    rng, size = np.random.default_rng(outputs), 6
    lam, a = np.arange(1, size + 1) ** -1.0, rng.standard_normal(size)
    unknown = QuadraticProblem(ss.Spectrum(lam, None, outputs=outputs), a, n_outputs=outputs)
    found, each = noise_scale.noise_scale(unknown), []
    assert found.known_by == RANDOM
    for _ in range(1500):
        q, r = np.linalg.qr(rng.standard_normal((size, size)))
        basis = ss.Spectrum(lam, q * np.sign(np.diag(r)), outputs=outputs)
        one = noise_scale.noise_scale(QuadraticProblem(basis, a, n_outputs=outputs))
        each.append((one.b_simple, one.b_noise))
    error = np.std(each, 0) / np.sqrt(len(each))
    assert (np.abs(np.mean(each, 0) - (found.b_simple, found.b_noise)) < 4 * error).all()


def test_multiplicities_count():
    whole = QuadraticProblem(ss.Spectrum(np.array([1.0, 0.5, 0.5, 0.2])), np.array([1.0, 0.6, 0.8, 0.3]))
    short = QuadraticProblem(
        ss.Spectrum(np.array([1.0, 0.5, 0.2]), multiplicity=np.array([1.0, 2.0, 1.0])), np.array([1.0, 1.0, 0.3])
    )
    for sampling in ("without-replacement", "one-pass"):
        one, other = (noise_scale.noise_scale(p, sampling) for p in (whole, short))
        assert one.known_by == other.known_by
        assert (one.b_simple, one.b_noise) == pytest.approx((other.b_simple, other.b_noise), rel=1e-12)


def test_of_gaussian_points():
    """Single gradients `(xᵀe − ε)x` of many points within four standard errors; the first step by the closure that is
    exact there."""
    lam, error, sigma = np.array([1.0, 0.5, 0.2]), np.array([0.5, 1.0, 2.0]), 0.7
    problem = QuadraticProblem.from_population(lam, lam * error**2, residual_risk=0.1, label_noise=sigma)
    found = noise_scale.noise_scale(problem)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200_000, 3)) * np.sqrt(lam)
    each = (x @ error + np.sqrt(0.2 + sigma**2) * rng.standard_normal(len(x)))[:, None] * x
    mean = lam * error
    for power, scale in ((0, found.b_simple), (1, found.b_noise)):
        squares = (each**2 * lam**power).sum(1) / (mean**2 * lam**power).sum()
        assert abs(squares.mean() - 1 - scale) < 4 * squares.std() / np.sqrt(len(x))
    plain = QuadraticProblem.from_population(lam, lam * error**2)
    found = noise_scale.noise_scale(plain)
    assert found.known_by == GAUSSIAN
    rates = found.first_lr(0.25) * np.array([0.99, 1.0, 1.01])
    losses = contour.loss_at(plain, 1, lr=rates, noise=0.25, tau=-1.0).loss
    assert losses[1] < losses[[0, 2]].min()
    assert losses[0] - losses[1] == pytest.approx(losses[2] - losses[1], rel=1e-6)  # a parabola around its least


def test_at_infinity_random_bases_are_gaussian_points():
    problem = QuadraticProblem.power_law(float("inf"), 1.5, 1.0)
    one, other = noise_scale.noise_scale(problem), noise_scale.noise_scale(problem, "one-pass")
    assert (one.b_simple, one.b_noise) == pytest.approx((other.b_simple, other.b_noise), rel=1e-12)


def test_what_is_not_known_is_refused(tiny):
    with pytest.raises(ss.InputError, match="got importance"):
        noise_scale.noise_scale(tiny, "importance")
    with pytest.raises(ss.InputError, match="got 0: nothing"):
        noise_scale.noise_scale(QuadraticProblem(ss.Spectrum(np.array([1.0, 0.0])), np.array([0.0, 1.0])))
    over = QuadraticProblem(ss.Spectrum(np.array([1.0, 0.5]), outputs=2), np.ones(2), n_outputs=2)
    with pytest.raises(ss.InputError, match="a kernel that all share"):
        noise_scale.noise_scale(over, "one-pass")


def test_two_batches_have_no_bias():
    """Means over all batches instead of samples: the estimates are what they estimate."""
    simple, *_, each, _ = of_points(*PROBLEMS["one output"][:2])
    squares = np.array(
        [
            (one @ one, other @ other)
            for one in (each[list(b)].mean(0) for b in itertools.combinations(range(N), 1))
            for other in (each[list(b)].mean(0) for b in itertools.combinations(range(N), 3))
        ]
    )
    found = two_batches(squares, tuple(float(noise_factor(N, size)) for size in (1, 3)))
    whole = each.mean(0)
    assert found.gradient_square == pytest.approx(whole @ whole, rel=1e-12)
    assert found.b_simple == pytest.approx(simple, rel=1e-12)


def test_the_interval_covers():
    """Of the ratio of normal means, 95% to four standard errors; it has no upper end where the gradient may be 0."""
    rng, small, large = np.random.default_rng(5), 0.5, 0.1
    squares = np.array([4.0 + small * 30.0, 4.0 + large * 30.0]) + rng.standard_normal((1000, 20, 2))
    inside = [(found := two_batches(pairs, (small, large))).low <= 7.5 <= found.high for pairs in squares]
    assert abs(np.mean(inside) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 1000)
    hidden = two_batches(np.array([5.0, 1.0]) + 0.2 * rng.standard_normal((5, 2)), (0.5, 0.1))
    assert hidden.low > 0
    assert hidden.high == np.inf
    for pairs, noise in ((squares[0, :2], (0.5, 0.1)), (squares[0], (0.1, 0.5))):
        with pytest.raises(ss.InputError):
            two_batches(pairs, noise)
