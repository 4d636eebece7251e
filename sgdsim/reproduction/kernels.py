"""The kernels that published numbers were made with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sgdsim.networks import ntk

WITH_FACTOR, WITHOUT_FACTOR = "infinite width", "infinite width without the square-root factor"
SHORT = {WITH_FACTOR: "infinite width", WITHOUT_FACTOR: "without √ factor"}


def without_factor(x: np.ndarray) -> np.ndarray:
    """The two-layer ReLU kernel with a factor left out, (n, n) for inputs (n, d).

    `Σ (π − θ)/2π + (sin θ + (π − θ) cos θ)/2π` with `Σ = x·x'/d + 1` and θ the angle of Σ. The second term lacks
    `√(Σ(x, x) Σ(x', x'))`, so it is the kernel of no network, but close to one where inputs have similar norms. The
    authors' public code builds it for its analytic MNIST experiments.
    """
    sigma = x @ x.T
    sigma /= x.shape[1]
    sigma += 1.0
    norms = np.sqrt(np.diagonal(sigma))
    angle = np.arccos(np.clip(sigma / np.outer(norms, norms), -1.0, 1.0))
    np.fill_diagonal(angle, 0.0)
    rest = np.pi - angle
    kernel = (sigma * rest + np.sin(angle) + rest * np.cos(angle)) / (2 * np.pi)
    return (kernel + kernel.T) * 0.5


KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    WITH_FACTOR: ntk.analytic_ntk,
    WITHOUT_FACTOR: without_factor,
}
