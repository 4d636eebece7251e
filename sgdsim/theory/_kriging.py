"""Kriging: what a function of few values may be elsewhere (Matheron 1963), for functions that are dear to evaluate."""

from __future__ import annotations

import math

import numpy as np

_LENGTHS = (0.4, 0.8, 1.6, 3.2)  # over which the function may change; the likeliest is taken
_LEAST = 2.5e-3  # variance, as two or three values may agree by chance
_NUGGET = 1e-6  # of the variance: so that points may lie close


def between(points: np.ndarray, values: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (m,) each, at `at` (m, 2) of a Gaussian process of unknown mean and variance (Matérn
    5/2) that takes `values` (k,) at `points` (k, 2)."""
    mean, variance, length, weights, covariance = min((_fit(points, values, each) for each in _LENGTHS), key=_unlikely)
    beside = _matern(at, points, length)
    left = 1 + _NUGGET - np.einsum("mk,km->m", beside, np.linalg.solve(covariance, beside.T))
    return mean + beside @ weights, np.sqrt(np.maximum(left, 0.0) * variance)


_Fit = tuple[float, float, float, np.ndarray, np.ndarray]


def _fit(points: np.ndarray, values: np.ndarray, length: float) -> _Fit:
    """Mean, variance, length, weights of the points and their covariance."""
    covariance = _matern(points, points, length) + _NUGGET * np.eye(len(points))
    ones = np.linalg.solve(covariance, np.ones(len(points)))
    mean = float(ones @ values / ones.sum())
    weights = np.linalg.solve(covariance, values - mean)
    return mean, max(float((values - mean) @ weights) / len(points), _LEAST), length, weights, covariance


def _unlikely(fit: _Fit) -> float:
    return len(fit[3]) * math.log(fit[1]) + float(np.linalg.slogdet(fit[4])[1])


def _matern(one: np.ndarray, other: np.ndarray, length: float) -> np.ndarray:
    distance = math.sqrt(5) / length * np.sqrt(((one[:, None] - other) ** 2).sum(-1))
    return (1 + distance + distance**2 / 3) * np.exp(-distance)
