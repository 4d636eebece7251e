"""The averaged regime of one problem and algorithm in modes: its mean at any time, and how fast its loss may grow."""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.optimize
import scipy.sparse.linalg

from sgdsim.algorithm.samplers import refuse_weights
from sgdsim.algorithm.sgd import SGD
from sgdsim.common import arpack
from sgdsim.common.checks import InputError
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import pairs, points

_ALIKE = 4  # times as far as they are apart two contours may be off, where gram is large
_LOST = 1e-14  # of what sums of moments are made of at first
_GONE = -340.0  # log of what is nothing; its inverse squared is still a float


def follows(sgd: SGD) -> bool:
    """Whether it has the generating function used here: heavy ball or Nesterov, constant, on equally likely points."""
    known = pairs.form_of(sgd) is not None and sgd.average is None and sgd.is_constant
    return known and sgd.sampler.independent and not sgd.is_one_pass and not sgd.sampler.weighted


class AveragedModes:
    """Raises InputError for what `follows` does not, and for problems without eigenvectors. x: αλ (n,); a: the signed
    coefficients; gamma: the batches' noise; label: the labels' variance at each step; gram: TᵀT/m of the test points'
    transfer, None without test points; n points, outputs: of which each mode is."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD) -> None:
        refuse_weights(sgd.sampling)
        if problem.signed is not None:
            raise InputError("exact average: expected one output; add up the losses of each, problem.output(index)")
        if not follows(sgd):
            raise InputError(
                "exact average: expected heavy ball or nesterov with constant hyperparameters, no average and "
                "independent batches of a fixed set of points, got another algorithm; step it by the averaged regime"
            )
        values = problem.values(sgd, 0, 1)
        self.problem, self.n, self.sgd, self.outputs = problem, problem.n, sgd, problem.spectrum.outputs
        self.u, self.a = points.vectors(problem), problem.coefficients
        self.points = points.of(self.u, self.outputs)
        if not problem.still:  # what rounding left in modes that never move is nothing
            self.a = np.where(problem.spectrum.moving, self.a, 0.0)
        self.x, self.momentum = float(values.lr[0]) * problem.eigenvalues, float(values.momentum[0])
        self.gamma = float(values.noise[0]) / problem.share
        self.label = float(problem.label_source(sgd, values.batch_size)[0])
        test = problem.test
        self.gram = None if test is None else test.transfer.T @ test.transfer / (len(test.transfer) // self.outputs)
        form = pairs.form_of(sgd)
        assert form is not None  # as it is followed
        self.form = form
        self.determinants, self.gaps = form.determinants(self.x, self.momentum), form.gaps(self.x, self.momentum)
        self._found: dict[float, float] = {}
        self._vector = self.points.first

    def oscillation(self) -> float:
        """log of the largest share that a pair of modes keeps in a step while it turns in the complex plane or changes
        sign: e^{it} or (−1)^t times that, which the contour does not go around."""
        roots = 1 - np.stack(self.gaps)
        sizes = np.abs(roots)
        turning = (np.abs(roots.imag) > 0) | (roots.real < 0)
        if not turning.any():
            return -math.inf
        return math.log(max(sizes[turning].max() * sizes.max(), 1e-300))

    def rightmost(self, tolerance: float) -> float:
        """σ₁ of `L_t ~ e^{σ₁t}`, never below it and above by `tolerance` at most: where ρ(M(e^{−σ})) = 1.

        It is right of each single mode's own rate, where ρ ≥ 1. With noisy labels, or with an error that no training
        removes, the loss tends to a constant: σ₁ = 0 then, or larger.
        """
        if tolerance not in self._found:
            self._found[tolerance] = self._rightmost(tolerance)
        return self._found[tolerance]

    def _rightmost(self, tolerance: float) -> float:
        low = self.slowest()
        least = 0.0 if self.label > 0 or self.problem.still > 0 else low
        if self.gamma == 0:
            return max(low, least)
        if low < 0 and (least == 0.0 or -low <= tolerance) and self._radius(0.0) < 1:
            return 0.0
        step, radius = max(tolerance, abs(low) / 16), functools.cache(self._radius)
        while radius(low + step) > 1:
            low, step = low + step, 4 * step
        if step > tolerance and radius(low) > 1:  # rounding may have it otherwise at a single mode's own rate
            found = scipy.optimize.brentq(lambda sigma: radius(sigma) - 1, low, low + step, xtol=tolerance / 4)
            return max(found + tolerance / 2, least)
        return max(low + step, least)

    def slowest(self) -> float:
        """Twice log|μ| of the slowest root of a mode that moves."""
        moving = self.problem.spectrum.moving
        gaps = np.stack(self.gaps)[:, moving]
        with np.errstate(divide="ignore"):
            real = np.where(gaps.real < 1, np.log1p(-np.minimum(gaps.real, 1.0)), np.log(np.abs(1 - gaps.real)))
            turning = np.log(np.abs(self.determinants[moving])) / 2
        return max(2 * float(np.where(gaps.imag == 0, real, turning).max()), _GONE)

    def _radius(self, sigma: float) -> float:
        """ρ(M) at real σ right of each single mode's own rate; where the largest sum of a row is below 1, that sum.

        Of one output M has no negative entries without momentum; with heavy ball's that is proved at σ = 0 alone, and
        held at every σ and with Nesterov's in all cases tried."""
        moving = self.problem.spectrum.moving
        x, at = self.x[moving], points.of(self.u[:, moving], self.outputs)
        z, rest = math.exp(-sigma), -math.expm1(-sigma)
        own = self.n * pairs.responses(self.form, x, x, self.momentum, self.gamma, z, rest)[0]
        bound = at.largest(own)
        if bound < 1:
            return bound
        weights = self.n * pairs.responses(self.form, x[:, None], x, self.momentum, self.gamma, z, rest)[0]

        def image(v: np.ndarray) -> np.ndarray:
            return at.seen(weights * at.feed(v))

        size = at.first.size
        if size < 3:
            return float(np.linalg.eigvalsh(np.stack([image(unit) for unit in np.eye(size)])).max())
        matrix = scipy.sparse.linalg.LinearOperator((size, size), image, dtype=np.float64)
        # Something of every point: an eigenvector may live on a few.
        first = self._vector + 1e-3 * self._vector.max() * at.first
        values, vectors = arpack.largest(matrix, 1, first, 1e-6, min(size, 8))  # error: of the second order
        self._vector = at.positive(vectors[:, 0])
        return float(values[0])

    def mean(self, t: float) -> np.ndarray:
        """The noiseless mean after t steps, (n,): `r_t = h_t a` with h_0 = 1, h_1 = 1 − kick·x, and of `μ_±^t`."""
        small, large = self.gaps
        if t == 0:
            return self.a
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            apart, root = large - small, 1 - large
            ratio = _power(large, t)
            twice = np.where(root == 0, float(t == 1), t * ratio / root)
            near = np.abs(apart) < 0.1 * np.abs(root)
            difference = np.where(near, ratio * np.expm1(t * np.log1p(apart / root)), _power(small, t) - ratio)
            rise = np.where(apart == 0, twice, difference / apart)
        return self.a * (ratio + (large - self.form.kick(self.momentum) * self.x) * rise).real

    def test_losses(self, times: np.ndarray, moments: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Test losses and how far they may be off, (T,) each, from `Σ gram ∘ E aaᵀ`, which may be `wrong` by so much.

        The mean's own share is taken out and comes back with the test residuals. Where gram is large, as for small
        eigenvalues, the difference has lost the digits of what it began with.
        """
        assert self.gram is not None
        out, began = np.empty(times.size), float(np.abs(self.a) @ np.abs(self.gram) @ np.abs(self.a))
        for i, t in enumerate(times):
            mean = self.mean(float(t))
            out[i] = self.problem.test_loss(mean, max(moments[i] - float(mean @ self.gram @ mean), 0.0))[0]
        return out, (_ALIKE * wrong + _LOST * began) / 2


def _power(gap: np.ndarray, t: float) -> np.ndarray:
    """(1 − gap)^t; t > 0."""
    log = np.log1p(-gap)
    return np.exp(t * log.real) * np.exp(1j * t * log.imag)
