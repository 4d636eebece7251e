"""The problems of the exhibit on methods with memory, and slopes of losses over windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.optimize

from sgdsim.problem import QuadraticProblem
from sgdsim.problem.spectrum import Spectrum

STARTS, ENDS = (10, 30, 100, 300, 1000, 3000), (1000, 3000, 10_000, 30_000, 100_000)
_RATIO = 1.06  # of the edges of bins of modes


def slope(loss: np.ndarray, first: int, last: int) -> float:
    """Exponent of a loss (T,), from step 0 on, over steps first … last: a line through logarithms of its means over 40
    pieces of equal length in log t, as single runs scatter from step to step."""
    edges = np.unique(np.geomspace(first, last + 1, 41).round().astype(int))
    middle = np.sqrt(edges[:-1] * (edges[1:] - 1.0))
    means = np.add.reduceat(loss[: last + 1], edges[:-1]) / np.diff(edges)
    return float(np.polyfit(np.log(middle), np.log(means), 1)[0])


def windows(
    last: int, starts: Sequence[int] = STARTS, ends: Sequence[int] = ENDS, factor: int = 30
) -> list[tuple[int, int]]:
    """Windows of a factor of `factor` at least that end by step `last`."""
    return [(a, b) for a in starts for b in ends if factor * a <= b <= last]


def beam(n: int) -> tuple[np.ndarray, np.ndarray]:
    """λ_k (n,) and c_k (n,) of the synthetic problem ([Y] app. H): the indicator of [1/4, 3/4] by ReLUs on [0, 1] with
    trained output weights. Not normalised: `Σ c_k → 1/2`, the square integral of the target.

    The eigenfunctions are those of a beam clamped at 0 and free at 1, `cosh ξx − cos ξx − σ(sinh ξx − sin ξx)` with
    `cos ξ cosh ξ = −1`, and `λ = ξ^−4`: ν = 4, ζ = 1/4.
    """
    xi = (np.arange(n) + 0.5) * np.pi
    for _ in range(30):
        small = np.exp(-xi)
        sech, tanh = 2 * small / (1 + small**2), (1 - small**2) / (1 + small**2)
        xi = xi + (np.cos(xi) + sech) / (np.sin(xi) + sech * tanh)
    small = np.exp(-xi)
    # cosh ξx − σ sinh ξx = e^(−ξx) + grow·(e^(ξ(x−1)) − e^(−ξ(x+1))): no large numbers are subtracted.
    grow = (np.sin(xi) - np.cos(xi) - small) / (1 - small**2 + 2 * small * np.sin(xi))
    sigma = (1 + small**2 + 2 * small * np.cos(xi)) / (1 - small**2 + 2 * small * np.sin(xi))

    def primitive(x: float) -> np.ndarray:
        rises = np.exp(xi * (x - 1)) + np.exp(-xi * (x + 1))
        return (-np.exp(-xi * x) + grow * rises - np.sin(xi * x) - sigma * np.cos(xi * x)) / xi

    return xi**-4, (primitive(0.75) - primitive(0.25)) ** 2


def binned(eigenvalues: np.ndarray, c: np.ndarray, kept: int) -> QuadraticProblem:
    """A problem with the first `kept` modes as they are and the others in bins of 6% in k, each with its multiplicity,
    the geometric mean of its λ, and its sum of c. λ_1 = 1."""
    edges = list(range(min(kept, eigenvalues.size) + 1))
    while edges[-1] < eigenvalues.size:
        edges.append(min(eigenvalues.size, max(edges[-1] + 1, int(_RATIO * edges[-1]))))
    at, counts = np.array(edges[:-1]), np.diff(edges).astype(float)
    means = np.exp(np.add.reduceat(np.log(eigenvalues / eigenvalues[0]), at) / counts)
    return QuadraticProblem(Spectrum(means, multiplicity=counts), np.sqrt(np.add.reduceat(c, at)))


def points(n: int) -> QuadraticProblem:
    """The synthetic problem on n points in the middles of equal intervals, with eigenvectors."""
    x = (np.arange(n) + 0.5) / n
    low, high = np.minimum(x[:, None], x), np.maximum(x[:, None], x)
    target = ((x > 0.25) & (x < 0.75)).astype(float)
    return QuadraticProblem.from_kernel(low**2 * high / 2 - low**3 / 6, -target)


def continued(eigenvalues: np.ndarray, kept: int, n: int) -> QuadraticProblem:
    """The spectrum that more points would have: the first `kept` eigenvalues, then a power law from there up to n with
    the sum that the others have. The kernel's mean diagonal, so `Σ λ_k`, does not depend on the number of points,
    while the last eigenvalues of few points do. Only for what depends on eigenvalues alone: there is no target."""
    steps = np.arange(kept + 1, n + 1) / kept
    rest = eigenvalues[kept:].sum() / eigenvalues[kept - 1]
    nu = scipy.optimize.brentq(lambda power: (steps**-power).sum() - rest, 0.0, 20.0)
    return binned(np.concatenate([eigenvalues[:kept], eigenvalues[kept - 1] * steps**-nu]), np.zeros(n), kept)
