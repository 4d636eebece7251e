"""The noise scale of a gradient: how large a batch must be for its noise not to count (McCandlish et al.,
arXiv:1812.06162).

With G the gradient of the loss, Σ the covariance of single points' gradients (over all N points, divided by N), H the
curvature JᵀJ/N of the linear model, and γ the sampling noise of a batch (1/b, or (N − b)/((N − 1)b)):
`E‖g_B‖² = ‖G‖² + γ tr Σ`, `B_simple = tr Σ/‖G‖²`, `B_noise = tr(HΣ)/GᵀHG`. With residuals r_i and the kernel Θ of the
points `‖G‖² = rᵀΘr/N²`, `tr Σ = N⁻¹ Σ Θ_ii r_i² − ‖G‖²`, `GᵀHG = rᵀΘ²r/N³`, `tr(HΣ) = N⁻² Σ (Θ²)_ii r_i² − GᵀHG`. Of a
network these are its own at the start, with the Gauss–Newton matrix for H. They change on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sgdsim.algorithm.samplers import ONE_PASS, WITHOUT_REPLACEMENT, named
from sgdsim.common.checks import InputError, array, number
from sgdsim.common.shown import Shown
from sgdsim.problem import QuadraticProblem
from sgdsim.problem.linearised import of_quadratic
from sgdsim.theory.stability import EXACT_IN_TABLES

EIGENVECTORS, GAUSSIAN = "its eigenvectors", "Gaussian points"
RANDOM = "random eigenvectors, on average"


@dataclass(frozen=True, repr=False)
class NoiseScale(Shown):
    """Of a problem's gradient at its start.

    `b_simple`, `b_noise`: in points. `full_step`: `‖G‖²/GᵀHG`, the learning rate (in units of 1/λ_max) of a first step
    without noise that lowers the loss most. `known_by`: "its eigenvectors" and "Gaussian points" (fresh ones at every
    step, with the noise of labels) are exact; "random eigenvectors, on average" is the mean over all orthogonal bases,
    where the problem has none.
    """

    b_simple: float
    b_noise: float
    full_step: float
    known_by: str

    def first_lr(self, noise: np.ndarray | float) -> np.ndarray | float:
        """The learning rate of the first step that lowers the expected loss most, with sampling noise γ (of points, not
        of modes): `full_step/(1 + γ B_noise)` (eq. 2.6 there, where γ = 1/b)."""
        return self.full_step / (1 + np.asarray(noise) * self.b_noise)


@of_quadratic
def noise_scale(problem: QuadraticProblem, sampling: str = WITHOUT_REPLACEMENT) -> NoiseScale:
    """The noise scale at the start; of several outputs a point's gradient is that of all of them.

    `sampling` decides between a set of points, the same numbers however batches are drawn of it, and one-pass.

    Raises
    ------
    InputError : a gradient that is 0, a sampling with weights, one pass where each mode is of all outputs together.
    """
    if not named(sampling).closed:
        raise InputError(f"sampling: expected independent batches of equally likely points, got {sampling}")
    lam, c = problem.eigenvalues, problem.coefficients**2
    slope, bend = float(lam @ c), float(lam**2 @ c)  # ‖G‖² and GᵀHG, but for powers of N and λ_max(Θ)
    if not bend > 0:
        raise InputError("noise scale: expected a gradient at the start, got 0: nothing of the residual can be removed")
    seen, known_by = _seen(problem, sampling)
    return NoiseScale(float(lam @ seen) / slope - 1, float(lam**2 @ seen) / bend - 1, slope / bend, known_by)


def _seen(problem: QuadraticProblem, sampling: str) -> tuple[np.ndarray, str]:
    """m (modes,) with `N Σ_i r_iᵀ(K̂^p)_ii r_i = Σ_k λ_k^p m_k`, r_i a point's residuals, and how it is known.

    For Gaussian points, of which all fourth moments are known, m = n_k s + 2c_k: the closure with τ = −1, and the limit
    of random bases at N = ∞.
    """
    if sampling == ONE_PASS or problem.population is not None:
        return _gaussian(problem), GAUSSIAN
    own = problem.spectrum.eigenvectors is not None
    if not own and not (problem.has_vectors and problem.n <= EXACT_IN_TABLES):
        return _over_bases(problem), RANDOM
    residual = problem.residual.reshape(problem.n, -1)
    if problem.spectrum.outputs == 1:
        return problem.n * np.einsum("ik,io->k", problem.eigenvectors**2, residual**2), EIGENVECTORS
    vectors = problem.spectrum.eigenvectors
    assert vectors is not None  # a basis that is drawn is of the points
    along = np.einsum("iok,io->ik", vectors.reshape(*residual.shape, -1), residual)
    return problem.n * (along**2).sum(0), EIGENVECTORS


def _gaussian(problem: QuadraticProblem) -> np.ndarray:
    if problem.spectrum.outputs > 1:
        raise InputError("noise scale: expected one output or a kernel that all share with one-pass, got one over all")
    c = problem.coefficients**2
    floor = 0.0 if problem.population is None else problem.population.floor
    return problem.spectrum.counts * (c.sum() + 2 * floor) + 2 * c


def _over_bases(problem: QuadraticProblem) -> np.ndarray:
    """The mean over uniformly random orthogonal bases, each point's C rows in D = NC dimensions. The projector P on
    them has `E P_kk² = C(C+2)/(D(D+2))`, `E P_kl² = C(D−C)/(D(D+2)(D−1))`, and `E P_kl P_km = 0`."""
    each, size = problem.spectrum.outputs, float(problem.spectrum.n_eigenvalues)
    c, counts = problem.coefficients**2, problem.spectrum.counts
    others = (1 - each / size) / (1 - 1 / size) if size > 1 else 0.0
    return ((each + 2) * c + others * (counts * c.sum() - c)) / (each * (1 + 2 / size))


@dataclass(frozen=True, repr=False)
class TwoBatches(Shown):
    """B_simple from the gradients of small and large batches; `low`, `high`: the ends of an interval, `high` infinite
    where the gradient cannot be told from 0. `gradient_square`, `trace`: estimates of ‖G‖² and tr Σ without bias."""

    b_simple: float
    low: float
    high: float
    gradient_square: float
    trace: float
    pairs: int


def two_batches(squares: np.ndarray, noise: tuple[float, float], confidence: float = 0.95) -> TwoBatches:
    """The two-batch estimate (McCandlish et al., appendix A.1), with γ in the place of 1/b so that it has no bias for
    batches without replacement either.

    Parameters
    ----------
    squares : (pairs, 2) ‖g_B‖² of independent batches, of a small one and of a large one in each row.
    noise : γ of either.
    confidence : of the interval of the ratio of the means (Fieller 1954, with Student's t): for means that are nearly
        normal, so for some tens of pairs.

    Raises
    ------
    InputError : fewer than 3 pairs, squares below 0, a small batch that has no more noise than the large one.
    """
    squares, level = array("squares", squares, ndim=2, shape=(None, 2)), number("confidence", confidence)
    if len(squares) < 3 or squares.min() < 0:
        raise InputError(
            f"squares: expected 3 pairs of numbers >= 0 or more, got {len(squares)} from {squares.min():g}"
        )
    small, large = (number("noise", each, minimum=0.0, maximum=1.0) for each in noise)
    if small <= large or not 0 < level < 1:
        raise InputError(f"noise: expected more of the small batch, and 0 < confidence < 1; got {noise}, {confidence}")
    first, second = squares.T / (small - large)
    trace, square = first - second, small * second - large * first
    mean = np.array([trace.mean(), square.mean()])
    low, high = _ratio(mean, np.cov(trace, square) / len(squares), float(stdtrit(len(squares) - 1, (1 + level) / 2)))
    ratio = mean[0] / mean[1] if mean[1] > 0 else math.inf
    return TwoBatches(float(ratio), low, high, float(mean[1]), float(mean[0]), len(squares))


def _ratio(mean: np.ndarray, spread: np.ndarray, t: float) -> tuple[float, float]:
    """The q ≥ 0 with `(S − qG)² ≤ t² Var(S − qG)`, of means S and G with these covariances."""
    a, b, c = (mean[i] * mean[j] - t**2 * spread[i, j] for i, j in ((1, 1), (0, 1), (0, 0)))
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0:
        return max(float((b - root) / a), 0.0), max(float((b + root) / a), 0.0)
    if a == 0 or b * b <= a * c:
        return 0.0, math.inf
    return max(float((b - root) / a), 0.0) if c > 0 else 0.0, math.inf
