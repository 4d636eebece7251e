"""M(z) at many z by few matrices, against what it is; and the losses that come of it, early and late."""

import numpy as np
import pytest
from test_exact import problem_of, recursion

import sgdsim as ss
from sgdsim.recurrence import exact, one_space, pairs, skeleton
from sgdsim.recurrence.coupling import Coupling


@pytest.fixture(scope="module")
def problem():
    return problem_of(np.random.default_rng(4), 75)


@pytest.mark.parametrize("form", [pairs.heavy_ball, pairs.nesterov])
@pytest.mark.parametrize("momentum", [-0.4, 0.0, 0.7])
def test_a_form_is_its_step(form, momentum):
    """Roots and determinant of each mode's step, and the mean at any time, of its matrix."""
    x = np.array([1.3, 1.0, 0.4, (1 - momentum**0.5) ** 2 if momentum > 0 else 0.1, 1e-9])
    steps = np.zeros((x.size, 2, 2))
    steps[:, 0, 0], steps[:, 0, 1] = 1 - form.kick(momentum) * x, form.carry(momentum)
    steps[:, 1, 0], steps[:, 1, 1] = -x, momentum
    roots = 1 - np.stack(form.gaps(x, momentum))
    np.testing.assert_allclose(roots.sum(0).real, np.trace(steps, axis1=1, axis2=2), atol=1e-14)
    np.testing.assert_allclose(roots.prod(0).real, np.linalg.det(steps), atol=1e-14)
    np.testing.assert_allclose(form.determinants(x, momentum), np.linalg.det(steps), atol=1e-14)
    spectrum = ss.Spectrum(np.sort(x)[::-1] / x.max(), np.eye(5))
    method = "nesterov" if form is pairs.nesterov else "heavy-ball"
    averaged = exact.Averaged(ss.QuadraticProblem(spectrum, np.ones(5)), ss.SGD(x.max(), momentum, 2, method=method))
    order = np.argsort(-x)
    for t in (0, 1, 2, 7, 40):
        powers = np.linalg.matrix_power(steps[order], t)[:, 0, 0]
        np.testing.assert_allclose(averaged.mean(t), powers, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("method", "momentum"), [("heavy-ball", 0.0), ("heavy-ball", 0.8), ("nesterov", 0.5)])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-12])
def test_the_matrices_are_m_of_z(problem, method, momentum, tolerance):
    """At z in all directions: M, the start and the solution, by the sums over all pairs of modes."""
    averaged = exact.Averaged(problem, ss.SGD(0.04 * (1 - momentum), momentum, 3, method=method, label_noise=0.1))
    sigmas = np.array([1e-4, 0.01 + 0.02j, 0.1 - 0.3j, 0.05 + 3j, 0.7])
    coupling = Coupling(averaged, sigmas, tolerance)
    d, residual = one_space.solve(coupling, 10 * tolerance)
    assert coupling.error < 100 * tolerance + 1e-6 * (tolerance > 1e-8)
    assert residual <= 10 * tolerance
    matrices = coupling.images(np.eye(problem.n))
    u, gram = averaged.u, averaged.gram
    for j, sigma in enumerate(sigmas):
        z, rest = np.exp(-sigma), -np.expm1(-sigma)
        noise, kept = pairs.responses(averaged.form, averaged.x[:, None], averaged.x, momentum, averaged.gamma, z, rest)
        feeds = problem.n * noise
        products = np.einsum("ik,jk->ijk", u, u)
        right = np.einsum("ijk,kl,ijl->ij", products, feeds, products, optimize=True)
        found = np.einsum("s,isk->ik", coupling.shares[:, j], matrices)
        assert np.abs(found - right).max() < 100 * coupling.error * np.abs(right).max() + 1e-15
        labels = averaged.label * np.diag(noise) / averaged.gamma / rest
        began = kept * np.outer(averaged.a, averaged.a) + np.diag(labels)
        solved = np.linalg.solve(np.eye(problem.n) - right, np.einsum("ik,kl,il->i", u, began, u))
        assert np.abs(d[:, j] - solved).max() / np.abs(solved).max() < 1e2 * (coupling.error + residual)
        moments = began + feeds * ((u.T * solved) @ u)
        tested = coupling.shares[:, j] @ coupling.tested @ d[:, j] + coupling.test_sources[j]
        assert abs(tested / (gram * moments).sum() - 1) < 1e3 * (coupling.error + residual)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
@pytest.mark.parametrize(("method", "momentum"), [("heavy-ball", -0.3), ("nesterov", 0.6)])
def test_losses_without_a_step(problem, monkeypatch, method, momentum, tolerance):
    """Early ones from a circle, later ones by contours, training and test, within the error that is told."""
    sgd = ss.SGD(0.04 * (1 - momentum), momentum, 4, method=method)
    stepped = exact.Averaged(problem, sgd)
    steps = np.array([0, 1, 3, 10, 30, 60, 150])
    monkeypatch.setattr(exact, "Stepped", None)
    monkeypatch.setattr(exact, "stepped_until", lambda n, first: 0.0)
    found = exact.Averaged(problem, sgd).losses(steps, tolerance)
    off = np.abs(found.loss / recursion(problem, sgd, steps.tolist()) - 1)
    assert (off <= found.error + 1e-13).all()
    assert (found.error < 30 * tolerance).all()
    monkeypatch.undo()
    run = exact.Stepped(stepped)
    moments = np.array([run.to(t)[1] for t in steps])
    tested, _ = stepped.test_losses(np.array(steps), moments, 0 * moments)
    np.testing.assert_allclose(found.test_loss, tested, rtol=30 * tolerance)


def test_what_it_takes_hardly_grows_with_time():
    """Matrices, and the dimension of the space, for 10 and for 10⁹ steps of 250 points, at both tolerances."""
    problem = ss.QuadraticProblem.power_law(250, 1.5, 1.0)
    averaged = exact.Averaged(problem, ss.SGD(0.3, 0.5, 10))
    for tolerance, most in ((1e-7, 80), (1e-10, 120)):
        sigmas = np.concatenate([np.geomspace(1e-9, 1, 40) * np.exp(1j * angle) for angle in (0.0, 1.0, 2.0)])
        coupling = Coupling(averaged, sigmas, tolerance)
        assert len(coupling.shares) < most
        assert coupling.columns.shape[1] < 0.6 * most


def test_nodes_stand_for_all_modes():
    """A family with a pole near the spectrum, interpolated in each bin; few modes, equal ones and zeros as they are."""
    x = np.sort(np.append(np.random.default_rng(1).uniform(0, 1, 400) ** 4, [0.3] * 5 + [0.0] * 3))[::-1]

    def family(at):
        return 1 / (at[:, None] + np.geomspace(1e-4, 1, 9) * np.exp(0.7j))

    bins = skeleton.bins(x, family, 1e-8)
    assert [b.low for b in bins[1:]] == [b.high for b in bins[:-1]]
    assert sum(b.nodes.size for b in bins) < 160
    for b in bins:
        np.testing.assert_allclose(b.shares @ family(b.nodes), family(x[b.low : b.high]), rtol=1e-7)
