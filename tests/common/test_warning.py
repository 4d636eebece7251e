"""Warnings point at the line that called the package."""

import warnings

import numpy as np

import sgdsim as ss


def test_a_regimes_warning_points_here():
    """Through sweeps, chunks and NumPy's own frames."""
    power = ss.QuadraticProblem.power_law(50, 1.5, 1.0)
    known = ss.QuadraticProblem.from_operator(power.kernel, power.residual, n_lanczos=3)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ss.simulate(known, ss.SGD(0.5), ss.SpectralDiagonal(), 1000, record=np.array([1000]))
    assert [(one.category, one.filename) for one in told] == [(RuntimeWarning, __file__)]
