"""The mean over replicates and its standard error."""

import math
import statistics

import numpy as np
import pytest

from sgdsim.common.statistics import mean_and_error

VALUES = np.random.default_rng(3).lognormal(size=(4, 7))


def test_against_the_textbook():
    mean, error = mean_and_error(VALUES[0])
    assert mean == pytest.approx(statistics.fmean(VALUES[0]), rel=1e-14)
    assert error == pytest.approx(statistics.stdev(VALUES[0]) / math.sqrt(7), rel=1e-14)


@pytest.mark.parametrize("axis", [0, 1])
def test_along_an_axis_as_sample_by_sample(axis):
    mean, error = mean_and_error(VALUES, axis)
    each = [mean_and_error(sample) for sample in np.moveaxis(VALUES, axis, -1)]
    np.testing.assert_allclose(mean, [m for m, _ in each], rtol=1e-14)
    np.testing.assert_allclose(error, [e for _, e in each], rtol=1e-14)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "mean"),
    [([2.5], 2.5), ([math.inf], math.inf), ([], math.nan), ([1, math.inf], math.inf), ([1, math.nan, 2], math.nan)],
)
def test_no_error_is_known_of_one_replicate_none_or_where_one_is_not_finite(values, mean):
    got, error = mean_and_error(np.array(values, dtype=float))
    np.testing.assert_equal(got, mean)
    assert math.isnan(error)


@pytest.mark.filterwarnings("error")
def test_one_sample_does_not_spoil_another():
    mean, error = mean_and_error(np.array([[1.0, math.inf], [1.0, 3.0]]), 1)
    np.testing.assert_array_equal(mean, [math.inf, 2.0])
    np.testing.assert_array_equal(error, [math.nan, 1.0])
    mean, error = mean_and_error(np.ones((1, 3)), 0)
    np.testing.assert_array_equal(mean, np.ones(3))
    np.testing.assert_array_equal(error, np.full(3, math.nan))
    assert [each.shape for each in mean_and_error(np.ones((0, 3)), 0)] == [(3,), (3,)]
