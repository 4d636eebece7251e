"""Until when the quadratic model of cross-entropy holds, against a plain loop; and who refuses it or says so."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.studies import budgets, cross_entropy, landscape, recommendation
from sgdsim.studies.cross_entropy import cross_entropy_horizon
from tests.cross_entropy import N, linearised, problem


def literal(of, lr, momentum, n_steps, tolerance=0.1):
    """The first step at which the losses differ, and both there: all outputs, gradients and curvature as they stand."""
    f0, jacobian = (held.detach().numpy() for held in linearised(of, of.data.x))
    y, rate = of.data.y, of.quadratic.torch_lr(lr)
    theta = np.einsum("icp,jdp->icjd", jacobian, jacobian).reshape(f0.size, -1)
    p = scipy.special.softmax(f0, 1)
    curvature = [np.diag(one) - np.outer(one, one) for one in p]
    loss = lambda f: -(y * scipy.special.log_softmax(f, 1)).sum(1).mean()  # noqa: E731
    d, e, v, w, start = 0 * f0, 0 * f0, 0 * f0, 0 * f0, loss(f0)
    for step in range(1, n_steps + 1):
        slope = (scipy.special.softmax(f0 + d, 1) - y) / N
        of_model = (p - y + np.stack([h @ one for h, one in zip(curvature, e, strict=True)])) / N
        v = momentum * v - rate * (theta @ slope.ravel()).reshape(f0.shape)
        w = momentum * w - rate * (theta @ of_model.ravel()).reshape(f0.shape)
        d, e = d + v, e + w
        quadratic = (
            np.mean([g @ one + one @ h @ one / 2 for g, one, h in zip(p - y, e, curvature, strict=True)]) + start
        )
        if abs(loss(f0 + d) - quadratic) > tolerance * (start - loss(f0 + d)):
            return step, loss(f0 + d), quadratic
    return None, loss(f0 + d), quadratic


@pytest.mark.parametrize(("lr", "momentum", "n_steps"), [(0.2, 0.0, 1000), (0.05, 0.8, 1000), (0.1, 0.0, 3)])
def test_it_is_what_a_plain_loop_finds(lr, momentum, n_steps):
    of = problem()
    found = cross_entropy_horizon(of, ss.SGD(lr, momentum, 2), n_steps)
    step, loss, of_model = literal(of, lr, momentum, n_steps)
    assert found.step == step
    assert (step is None) == (n_steps == 3)
    assert found.loss == pytest.approx(loss, rel=1e-9)
    assert found.model_loss == pytest.approx(of_model, rel=1e-9)
    assert str(step or n_steps) in found.sentence()


def test_it_is_the_diagonal_regime_s_full_batch_loss_with_any_method_and_schedule():
    of = problem()
    for sgd in (ss.SGD(0.2, 0.5, N, method="nesterov"), ss.SGD(lambda t: 0.3 / (1 + t), 0.2, N)):
        found = cross_entropy_horizon(of, sgd, 400, tolerance=0.02)
        n_steps = found.step or 400
        run = ss.simulate(of, sgd, ss.SpectralDiagonal(), n_steps)
        assert run["loss"].values.ravel()[-1] == pytest.approx(found.model_loss, rel=1e-8)


def test_halving_the_rate_doubles_the_time():
    slow, fast = (cross_entropy_horizon(problem(), ss.SGD(lr, 0.0, 1), 5000).step for lr in (0.01, 0.02))
    assert slow == pytest.approx(2 * fast, rel=0.05)


def test_what_is_refused():
    of, sgd = problem(), ss.SGD(0.1, 0.0, 2)
    with pytest.raises(InputError, match='expected a NetworkProblem with loss="cross-entropy"'):
        cross_entropy_horizon(of.quadratic, sgd, 10)
    with pytest.raises(InputError, match="a linear method without noisy labels"):
        cross_entropy_horizon(of, ss.SGD(0.1, 0.0, 2, method="adam"), 10)
    result = ss.simulate(of, sgd, ss.SpectralDiagonal(), 20)
    with pytest.raises(InputError, match="overlay: expected losses of squares"):
        ss.plot.overlay(result.expand_dims("lr"), "lr")
    with pytest.raises(InputError, match="landscape: expected losses of squares"):
        landscape.panels(result, of.quadratic)
    with pytest.raises(InputError, match="budget: expected a problem of the squared loss"):
        budgets.run(of, ss.SpectralDiagonal(), batch_sizes=[1, 2])


def test_recommend_tells_losses_with_the_offset_and_where_they_end():
    of = problem()
    long, short = (recommendation.recommend(of, ss.SGD(1.0, 0.0, 2), horizon) for horizon in (300, 1))
    facts = long.as_dict()
    best = long.known.best
    run = ss.simulate(of, ss.SGD(best.lr, best.momentum, 2), ss.SpectralDiagonal(), 300)
    assert facts["best"]["loss"] == pytest.approx(run["loss"].values.ravel()[-1], rel=1e-6)
    assert facts["loss_offset"] == of.loss_offset
    assert facts["prediction_holds"] is False
    assert facts["cross_entropy"]["step"] == long.horizon_of_model.step <= 300
    assert short.as_dict()["cross_entropy"]["n_steps"] == 1
    assert any("curvature at the start" in note for note in long.notes())
    alone = recommendation.recommend(of.quadratic, ss.SGD(1.0, 0.0, 2), 300)
    assert alone.as_dict()["prediction_holds"] is None
    assert any("not known here" in note for note in alone.notes())


def test_pictures_have_a_linear_axis_and_the_step_where_the_model_ends():
    of, grid = problem(), ss.Grid.product(lr=[0.4, 0.6], momentum=[0.0], batch_size=[2])
    result = ss.sweep(of, grid, [ss.SampledLinearized(), ss.SpectralDiagonal()], 200)
    horizons = cross_entropy.of_cells(of, grid, 200)
    figure = ss.plot.comparison(cross_entropy.marked(result, horizons))
    first = figure.axes[0]
    assert first.get_yscale() == "linear"
    assert any(line.get_xdata()[0] == horizons[0].step for line in first.lines)
    power_law = ss.QuadraticProblem.power_law(9, 1.5, 1.0)
    squared = ss.simulate(power_law, ss.SGD(0.1, 0.0, 2), ss.SpectralDiagonal(), 20)
    assert ss.plot.loss_curves(squared).get_yscale() == "log"
