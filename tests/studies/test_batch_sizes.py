"""The study of batch sizes: its rows are those of theory, and a network's noise scale is measured."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.networks.curvature import Curvature
from sgdsim.studies import batch_sizes
from sgdsim.theory import critical_batch, noise_scale, stability

POWER = ss.QuadraticProblem.power_law(40, 1.5, 1.0)


@pytest.mark.parametrize(("sampling", "tau"), [("without-replacement", 1.0), ("one-pass", -1.0)])
def test_rows_are_those_of_theory(sampling, tau):
    found = batch_sizes.batch_sizes(POWER, [16, 1, 4], reach=0.2, sampling=sampling)
    assert [row.batch_size for row in found.rows] == [1, 4, 16]
    assert found.tau == tau
    for row in found.rows:
        sgd = ss.SGD(1.0, 0.0, row.batch_size, sampling=sampling)
        assert row.noise == POWER.noise(sgd)
        assert row.max_lr == pytest.approx(stability.max_lr(POWER, sgd, tau=tau))
        known = critical_batch.fewest_steps(POWER, 0.2, noise=row.noise, tau=tau)
        assert (row.steps, row.best_lr, row.samples) == (known.steps, known.lr, known.steps * row.batch_size)
        assert row.first_lr == float(noise_scale.noise_scale(POWER, sampling).first_lr(row.noise))
    half = POWER.noise_factor(found.half_limit_batch, sampling)
    assert stability.diagonal_max_lr(POWER, momentum=0.0, noise=half, tau=tau) == pytest.approx(1)
    assert POWER.noise_factor(found.critical, sampling) == pytest.approx(found.relation.critical_noise)


def test_a_closure_that_is_unstable_in_truth_is_told():
    """Where every point has a mode of its own, the closure's best rate is beyond the exact threshold."""
    alone = ss.QuadraticProblem(ss.Spectrum(np.arange(1, 11) ** -1.0, np.eye(10)), np.arange(1, 11) ** -1.0)
    found = batch_sizes.batch_sizes(alone, [1, 10], reach=0.05)
    assert [row.stable for row in found.rows] == [False, True]
    assert [row[4] for row in found.table().rows] == ["no", "yes"]
    assert sum("batch 1: real batches do not take these steps" in note for note in found.notes()) == 1


def test_what_is_not_known_is_none_with_a_reason():
    population = ss.QuadraticProblem.from_population([1.0, 0.5], [1.0, 1.0], label_noise=0.1)
    found = batch_sizes.batch_sizes(population, [1, 4], sampling="one-pass")
    assert all(row.steps is None and row.stable is None and "not known" in row.reason for row in found.rows)
    assert (found.relation, found.critical) == (None, None)
    assert found.scale.known_by == noise_scale.GAUSSIAN
    over = ss.QuadraticProblem(ss.Spectrum(np.array([1.0, 0.5]), outputs=2), np.ones(2), n_outputs=2)
    assert batch_sizes.batch_sizes(over, [1], sampling="one-pass").scale is None
    for bad in ({"sizes": [41]}, {"sizes": [2, 2]}, {"reach": 1.0}, {"tau": 1.5}, {"momentum": 1.0}):
        with pytest.raises(ss.InputError):
            batch_sizes.batch_sizes(POWER, **bad)
    with pytest.raises(ss.InputError, match="expected one-pass on a population"):
        batch_sizes.batch_sizes(population, [1])


def test_without_sizes_they_go_up_to_all_points():
    assert batch_sizes.usual_sizes(40) == [1, 4, 16, 40]
    assert batch_sizes.usual_sizes(1) == [1]
    assert batch_sizes.usual_sizes(float("inf"))[-2:] == [1024, 4096]


def test_a_network_is_measured(digits_network):
    """The kernel's ‖G‖² is the network's, and what random batches say of B_simple fits the exact one."""
    quadratic, data = digits_network.quadratic, digits_network.data
    exact = noise_scale.noise_scale(quadratic)
    gradient = Curvature(digits_network.network, data.x, data.y).gradient()
    square = quadratic.spectrum.scale * float(quadratic.eigenvalues @ quadratic.coefficients**2) / quadratic.n**2
    assert gradient @ gradient == pytest.approx(square, rel=1e-8)
    found = batch_sizes.two_batch_estimate(digits_network, 2, 60, pairs=100)
    assert found.gradient_square == pytest.approx(square, rel=1e-8)  # all points have no noise
    assert found.low < found.b_simple < found.high
    assert abs(found.b_simple - exact.b_simple) < 2 * (found.high - found.low)  # some eight standard errors
    assert found.high - found.low < exact.b_simple
    again = batch_sizes.two_batch_estimate(digits_network, 2, 60, pairs=100)
    assert vars(again) == vars(found)


def test_of_a_kernel_over_outputs_the_first_step_sees_all_of_the_noise():
    rng = np.random.default_rng(4)
    jacobian = rng.standard_normal((8, 20))  # four points with two outputs each
    problem = ss.QuadraticProblem.from_kernel(jacobian @ jacobian.T, rng.standard_normal((4, 2)))
    row = batch_sizes.batch_sizes(problem, [2]).rows[0]
    scale = noise_scale.noise_scale(problem)
    assert row.noise == pytest.approx(1 / 6)  # half of γ = 1/3 in each mode
    assert row.first_lr == pytest.approx(scale.full_step / (1 + scale.b_noise / 3))
