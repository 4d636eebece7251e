"""Epochs to their last point, against torch's own data loader."""

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.algorithm import sampling, schedules
from sgdsim.algorithm.whole_epochs import WholeEpochs


@pytest.mark.parametrize(("size", "points"), [(5, 23), (5, 20), (7, 7), (1, 3), (6, 7)])
def test_batches_are_those_of_a_data_loader(size, points):
    loader = torch.utils.data.DataLoader(torch.arange(points), batch_size=size, shuffle=True)
    sizes = [len(batch) for _ in range(3) for batch in loader]
    schedule = schedules.parse("batch_size", f"whole-epochs:size={size},points={points}")
    assert schedule == WholeEpochs(size, points)
    assert schedules.parse("batch_size", schedule.spec) == schedule
    assert schedule(np.arange(len(sizes))).tolist() == sizes
    keys = sampling.replicate_keys(3, 2)
    drawn = sampling.minibatch_indices(points, np.array(sizes), 0, len(sizes), keys, sampling="reshuffle")
    per_epoch = len(sizes) // 3
    for replicate in drawn:
        for epoch in replicate.reshape(3, per_epoch, -1):
            assert sorted(epoch[epoch >= 0]) == list(range(points))  # each point once, none skipped


def test_epochs_of_another_number_of_points_are_refused():
    problem = ss.QuadraticProblem.power_law(23, 1.5, 1.0)
    sgd = ss.SGD(0.5, batch_size=WholeEpochs(5, 24), sampling="reshuffle")
    with pytest.raises(ss.InputError, match="expected epochs of 23 points, got a schedule for 24"):
        ss.simulate(problem, sgd, ss.SampledLinearized(), n_steps=10)
    with pytest.raises(ss.InputError, match="size: expected an integer from 1 to 4"):
        WholeEpochs(5, 4)


def test_the_last_gradient_is_a_mean_over_the_points_that_are_left():
    """On N orthogonal points a batch of b takes its own residuals to 1 − lr·N/b of what they were, and no other."""
    problem = ss.QuadraticProblem.from_kernel(np.eye(6), np.ones(6))
    sgd = ss.SGD(0.25, batch_size=WholeEpochs(4, 6), sampling="reshuffle")
    run = ss.simulate(problem, sgd, ss.SampledLinearized(), n_steps=2, replicates=3)
    expected = (4 * (1 - 0.25 * 6 / 4) ** 2 + 2 * (1 - 0.25 * 6 / 2) ** 2) / 12
    np.testing.assert_allclose(run["loss"].isel(step=-1).values.ravel(), expected, rtol=1e-12)
