"""The quadratic model of cross-entropy as a squared problem: against autograd, and logistic against softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.problem import cross_entropy
from sgdsim.problem.cross_entropy import Expansion
from sgdsim.runs import results
from tests.cross_entropy import C, N, classes, linearised, losses, mlp, model, problem, taylor


@pytest.mark.parametrize("outputs", [1, 2, C])
def test_loss_and_gradient_of_the_model_are_those_of_the_squared_problem(outputs):
    of = problem(outputs)
    quadratic, known = of.quadratic, of.expansions[0]
    f0, jacobian = linearised(of, of.data.x)
    y = torch.tensor(of.data.y)
    delta = torch.tensor(np.random.default_rng(2).standard_normal(jacobian.shape[2]), requires_grad=True)
    value = model(taylor(f0, y), jacobian @ delta)
    value.backward()
    moved = (jacobian @ delta).detach().numpy()
    f = f0.numpy() + moved
    r = known.residuals(f[:, 0] if outputs == 1 else f)
    assert r.shape == (N, max(outputs - 1, 1))
    assert value.item() == pytest.approx((r**2).sum() / (2 * N) + quadratic.loss_offset, rel=1e-11)
    rows = np.einsum("nck,ncp->nkp", known.roots, jacobian.numpy())  # of the squared problem: r = r_0 + rows δ
    np.testing.assert_allclose(np.einsum("nkp,nk->p", rows, r) / N, delta.grad, rtol=1e-9, atol=1e-12)
    flat = rows.reshape(-1, rows.shape[2])
    np.testing.assert_allclose(quadratic.kernel * quadratic.spectrum.scale, flat @ flat.T, rtol=1e-8, atol=1e-10)
    start = losses(f0, y).mean().item()
    assert quadratic.initial_loss + quadratic.loss_offset == pytest.approx(start, rel=1e-12)


@pytest.mark.parametrize("outputs", [1, C])
def test_the_test_loss_is_the_model_s_on_test_points(outputs):
    of = problem(outputs)
    quadratic, known = of.quadratic, of.expansions[0]
    (f0, jacobian), (g0, test) = (linearised(of, x) for x in (of.data.x, of.data.x_test))
    step = np.random.default_rng(3).standard_normal(quadratic.residual.size)
    rows = np.einsum("nck,ncp->nkp", known.roots, jacobian.numpy()).reshape(step.size, -1)
    delta = torch.tensor(rows.T @ step)  # in the span of the gradients, where SGD stays
    f = (f0 + jacobian @ delta).numpy()
    a = quadratic.spectrum.eigenvectors.T @ known.residuals(f[:, 0] if outputs == 1 else f).ravel()
    expected = model(taylor(g0, torch.tensor(of.data.y_test)), test @ delta).item()
    assert quadratic.test_loss(a)[0] + quadratic.test.loss_offset == pytest.approx(expected, rel=1e-7)


def test_logistic_is_the_softmax_of_two_classes():
    rng = np.random.default_rng(4)
    f, labels = rng.standard_normal((N, 2)), np.array([0, 1, 1, 0])
    softmax, logistic = Expansion(f, np.eye(2)[labels]), Expansion(f[:, 1] - f[:, 0], 2.0 * labels - 1)
    assert softmax.offset == pytest.approx(logistic.offset, rel=1e-12)
    np.testing.assert_allclose(softmax.start, logistic.start, rtol=1e-12)
    theta = rng.standard_normal((2 * N, 2 * N + 3))
    blocks = (theta @ theta.T).reshape(N, 2, N, 2).transpose(0, 2, 1, 3)
    of_difference = np.einsum("c,ijcd,d->ij", [-1, 1], blocks, [-1, 1])
    one, other = cross_entropy.quadratic(blocks, softmax), cross_entropy.quadratic(of_difference, logistic)
    assert one.n_outputs == other.n_outputs == 1
    np.testing.assert_allclose(one.kernel, other.kernel, rtol=1e-10, atol=1e-13)
    assert one.spectrum.scale == pytest.approx(other.spectrum.scale, rel=1e-12)
    moved = rng.standard_normal((N, 2))
    np.testing.assert_allclose(softmax.residuals(moved), logistic.residuals(moved[:, 1] - moved[:, 0]), rtol=1e-12)
    np.testing.assert_allclose(softmax.gradient(moved), logistic.gradient(moved[:, 1] - moved[:, 0]), rtol=1e-11)


def test_roots_curvature_and_gradients_far_from_equal_probabilities():
    f = np.array([[0.0, 0.0, 0.0], [12.0, -9.0, 1.0], [-3.0, 15.0, 15.0], [1e-9, 0.0, -20.0]])
    known = Expansion(f, np.eye(3)[[0, 1, 0, 1]])
    p = np.exp(f - f.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    for root, inverse, one in zip(known.roots, known.inverses, p, strict=True):
        np.testing.assert_allclose(root @ root.T, np.diag(one) - np.outer(one, one), rtol=1e-12, atol=1e-16)
        np.testing.assert_allclose(inverse @ root, np.eye(2), atol=1e-7)
    right = p[np.arange(4), [0, 1, 0, 1]]
    np.testing.assert_allclose((known.start**2).sum(1), 1 / right - 1, rtol=1e-9)
    assert known.offset == pytest.approx(np.mean(-np.log(right) - (1 / right - 1) / 2), rel=1e-9)
    shifted = known.outputs_of(known.residuals(f + 0.3)) - f
    np.testing.assert_allclose(shifted, 0, atol=1e-6)  # a shift of all outputs is not seen


def test_equal_probabilities_keep_a_shared_kernel():
    features = np.random.default_rng(5).standard_normal((N, 6))
    known = Expansion(np.zeros((N, C)), np.eye(C)[[0, 1, 2, 0]])
    made = cross_entropy.quadratic(features @ features.T, known)
    assert made.signed is not None
    assert made.n_outputs == C - 1
    assert made.share == 1
    assert made.spectrum.scale == pytest.approx(np.linalg.eigvalsh(features @ features.T)[-1] / C, rel=1e-12)
    assert made.loss_offset == pytest.approx(np.log(3) - 1, rel=1e-12)  # ln C − (C − 1)/2: of few classes positive


def test_files_and_fingerprints_say_it(tmp_path):
    of, squared = problem(), ss.NetworkProblem(mlp(C), classes(C), device="cpu")
    assert of.fingerprint != squared.fingerprint
    assert of.loss == of.quadratic.loss == of.description["loss"] == "cross-entropy"
    quadratic = of.quadratic
    results.save_problem(quadratic, tmp_path / "p.nc")
    again = results.load_problem(tmp_path / "p.nc")
    assert again.loss_offset == quadratic.loss_offset != 0
    assert again.test.loss_offset == quadratic.test.loss_offset != 0
    assert again.fingerprint == quadratic.fingerprint
    assert again.loss == "cross-entropy"
    run = lambda p: ss.simulate(p, ss.SGD(0.3, 0.0, 2), ss.BatchAveraged(), 5, observe="test_loss")  # noqa: E731
    np.testing.assert_array_equal(run(again)["loss"], run(of)["loss"])
    np.testing.assert_array_equal(run(again)["test_loss"], run(of)["test_loss"])
    results.save(run(of), tmp_path / "r.nc")
    stored = ss.load(tmp_path / "r.nc")
    assert results.has_offset(stored)
    assert stored["loss_offset"].item() == quadratic.loss_offset
    assert results.problem_of(stored).loss_offset == quadratic.loss_offset
    assert quadratic.compress().loss_offset == quadratic.loss_offset


def test_what_is_refused():
    numbers = ss.Dataset(classes(1).x, np.arange(N) / 3, "numbers")
    with pytest.raises(InputError, match="loss: cross-entropy needs one-hot targets, or 1 and -1"):
        ss.NetworkProblem(mlp(1), numbers, device="cpu", loss="cross-entropy")
    with pytest.raises(InputError, match="loss: expected one of squared, cross-entropy; got 'hinge'"):
        ss.NetworkProblem(mlp(1), classes(1), device="cpu", loss="hinge")
    with pytest.raises(InputError, match="class probabilities of at least 1e-20"):
        Expansion(np.array([[0.0, 60.0]]), np.array([[1.0, 0.0]]))
    with pytest.raises(InputError, match="of the squared loss, got the quadratic model of cross-entropy"):
        problem().check_squared("budget")
    with pytest.raises(InputError, match=r"kernel: expected shape \(4, 4\) or \(4, 4, 3, 3\)"):
        cross_entropy.quadratic(np.eye(3), problem().expansions[0])
