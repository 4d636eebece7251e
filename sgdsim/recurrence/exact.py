"""The batch-averaged loss at any time, without stepping there: exact in N and in the eigenbasis.

With constant hyperparameters the averaged regime is linear, and its pairs of modes couple through the N numbers
`d_i = E r_i²` alone. Their generating functions `d̃(z) = Σ_t z^t d(t)` obey `d̃ = d̃⁰ + M(z) d̃`, with

    M(z) v = diag(U [W(z) ∘ (Uᵀ diag(v) U)] Uᵀ),   d̃⁰ = diag(U [E(z) ∘ aaᵀ] Uᵀ),

W the pairs' response to noise, E that to the initial error (`sgdsim.recurrence.pairs`). It is solved by GMRES at each
node of a hyperbola in σ = −log z right of all singularities (Weideman & Trefethen, *Math. Comp.* 76 (2007) 1341); one
hyperbola serves a decade of times. No closure is in it. The error that is told is the difference of two contours and
what a contour misses, through modes that oscillate, at two early steps; it is the training loss's, not the test loss's.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.sparse.linalg

from sgdsim.algorithm.samplers import refuse_weights
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.blas import one_blas_thread
from sgdsim.common.checks import InputError
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import hyperbola, pairs, share
from sgdsim.recurrence.all_pairs import Stepped
from sgdsim.recurrence.hyperbola import Path

EARLIEST = 40  # below, nodes of the contour wrap around |Im σ| = π
_FEW = 60  # points whose equations are solved directly; products between two restarts otherwise
_SOLVED = 1e-13  # relative residual of a solve
_CHECKED = 1e-12  # tolerance of the contour that is compared with stepping
_GONE = -690.0  # log of what is nothing
_SPARE = 3  # nodes by which the second contour has fewer: their difference is the estimate


@dataclass(frozen=True)
class ExactLosses:
    """Expected losses over all batch sequences, (T,) each. `error`: estimate of the training loss's relative error;
    test losses have none. `test_loss`: None without test points."""

    steps: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    test_loss: np.ndarray | None = None


def relative(value: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The relative error of values that may be `wrong` by so much; infinite where nothing is left of them."""
    return np.where(
        wrong == 0, 0.0, np.where(wrong < value, wrong / np.where(wrong < value, value - wrong, 1.0), np.inf)
    )


def follows(sgd: SGD) -> bool:
    """Whether it has the generating function used here: heavy ball or Nesterov, constant, on equally likely points."""
    known = pairs.form_of(sgd) is not None and sgd.average is None and sgd.is_constant
    return known and sgd.sampler.independent and not sgd.is_one_pass and not sgd.sampler.weighted


class Averaged:
    """The averaged regime of one problem and algorithm, by its generating function.

    Raises InputError for what `follows` does not, and for problems without eigenvectors.
    """

    def __init__(self, problem: QuadraticProblem, sgd: SGD) -> None:
        refuse_weights(sgd.sampling)
        if not follows(sgd):
            raise InputError(
                "exact average: expected heavy ball or nesterov with constant hyperparameters, no average and "
                "independent batches of a fixed set of points, got another algorithm; step it by the averaged regime"
            )
        values = sgd.values(problem.n, 0, 1)
        self.problem, self.n, self.sgd = problem, problem.n, sgd
        self.u, self.a = problem.eigenvectors, problem.coefficients
        if not problem.still:  # what rounding left in modes that never move is nothing
            self.a = np.where(problem.spectrum.moving, self.a, 0.0)
        self.x, self.momentum = float(values.lr[0]) * problem.eigenvalues, float(values.momentum[0])
        self.gamma = float(values.noise[0])
        self.label = float(sgd.label_source(self.n, values.batch_size)[0])
        test = problem.test
        self.gram = None if test is None else test.transfer.T @ test.transfer / len(test.transfer)
        form = pairs.form_of(sgd)
        assert form is not None  # as it is followed
        self.form = form

    # Where the contour may run.

    def oscillation(self) -> float:
        """log of the largest share that a pair of modes keeps in a step while it turns in the complex plane or changes
        sign: e^{it} or (−1)^t times that, which the contour does not go around."""
        root = np.sqrt(self._traces() ** 2 / 4 - self._determinants() + 0j)
        half = self._traces() / 2
        sizes = np.abs(np.stack([half + root, half - root]))
        turning = (np.abs(root.imag) > 0) | (np.stack([half.real + root.real, half.real - root.real]) < 0)
        if not turning.any():
            return -math.inf
        return math.log(max(sizes[turning].max() * sizes.max(), 1e-300))

    def _traces(self) -> np.ndarray:
        if self.form is pairs.heavy_ball:
            return 1 + self.momentum - self.x
        return (1 + self.momentum) * (1 - self.x)

    def _determinants(self) -> np.ndarray:
        if self.form is pairs.heavy_ball:
            return np.full(self.x.size, self.momentum)
        return self.momentum * (1 - self.x)

    def rightmost(self, tolerance: float) -> float:
        """σ₁ of `L_t ~ e^{σ₁t}`, never below it and above by `tolerance` at most: where ρ(M(e^{−σ})) = 1.

        It is right of each single mode's own rate, where ρ ≥ 1. With noisy labels, or with an error that no training
        removes, the loss tends to a constant: σ₁ = 0 then, or larger.
        """
        low = self._slowest()
        least = 0.0 if self.label > 0 or self.problem.still > 0 else low
        if self.gamma == 0:
            return max(low, least)
        if low < 0 and (least == 0.0 or -low <= tolerance) and self._radius(0.0) < 1:
            return 0.0
        step = max(tolerance, abs(low) / 16)
        while self._radius(low + step) > 1:
            low, step = low + step, 4 * step
        if step > tolerance and self._radius(low) > 1:  # rounding may have it otherwise at a single mode's own rate
            found = scipy.optimize.brentq(lambda sigma: self._radius(sigma) - 1, low, low + step, xtol=tolerance / 4)
            return max(found + tolerance / 2, least)
        return max(low + step, least)

    def _slowest(self) -> float:
        """Twice log|μ| of the slowest root of a mode that moves.

        With δ = 1 − μ the roots are those of `δ² − sδ + x`, s = 1 − β + x (Nesterov: 1 − β + (1+β)x): μ near 1 would
        lose the digits that count late in a run.
        """
        x = self.x[self.problem.spectrum.moving]
        s = 1 - self.momentum + (x if self.form is pairs.heavy_ball else (1 + self.momentum) * x)
        inner = s**2 - 4 * x
        large = (s + np.sqrt(np.maximum(inner, 0.0))) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            small = np.where(large > 0, x / large, 0.0)
            real = np.maximum(
                np.log(np.abs(1 - large)), np.where(small < 1, np.log1p(-small), np.log(np.abs(1 - small)))
            )
            turning = np.log(np.abs(self._determinants()[self.problem.spectrum.moving])) / 2
        return max(2 * float(np.where(inner >= 0, real, turning).max()), _GONE)

    # One node.

    def _weights(self, x: np.ndarray, z: complex, rest: complex) -> tuple[np.ndarray, np.ndarray]:
        """W and E at z of modes with x = αλ, (m, m) each; rest = 1 − z."""
        noise, kept = pairs.responses(self.form, x[:, None], x, self.momentum, self.gamma, z, rest)
        return self.n * noise, kept

    def _image(self, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """`M v` for a complex v, (n,): four products of real matrices."""
        inner = weights * ((self.u.T * v.real) @ self.u + 1j * ((self.u.T * v.imag) @ self.u))
        return self._seen(inner)

    def _seen(self, inner: np.ndarray) -> np.ndarray:
        """`diag(U inner Uᵀ)`, (n,)."""
        real = np.einsum("ik,ik->i", self.u @ np.ascontiguousarray(inner.real), self.u)
        return real + 1j * np.einsum("ik,ik->i", self.u @ np.ascontiguousarray(inner.imag), self.u)

    def _radius(self, sigma: float) -> float:
        """ρ(M) at real σ right of each single mode's own rate."""
        moving = self.problem.spectrum.moving
        x, u = self.x[moving], self.u[:, moving]
        weights, _ = self._weights(x, math.exp(-sigma), -math.expm1(-sigma))

        def image(v: np.ndarray) -> np.ndarray:
            return np.einsum("ik,ik->i", u @ (weights * ((u.T * v) @ u)), u)

        if self.n < 3:
            return float(np.linalg.eigvalsh(np.stack([image(unit) for unit in np.eye(self.n)])).max())
        matrix = scipy.sparse.linalg.LinearOperator((self.n, self.n), image, dtype=np.float64)
        options = {"which": "LA", "v0": np.ones(self.n), "tol": 1e-10, "return_eigenvectors": False}
        return float(scipy.sparse.linalg.eigsh(matrix, k=1, **options)[0])

    def _at_node(self, sigma: complex, guess: np.ndarray | None, gram: np.ndarray | None) -> tuple[np.ndarray, complex]:
        """d̃ at z = e^{−σ}, (n,), and `Σ gram ∘ C̃` (0 without gram)."""
        z, rest = np.exp(-sigma), -np.expm1(-sigma)
        weights, kept = self._weights(self.x, z, rest)
        began = kept * np.multiply.outer(self.a, self.a)
        if self.label > 0:  # of unit variance at every step from the first on, in the diagonal alone
            own = np.diag(weights) / (self.n * self.gamma) if self.gamma > 0 else self._own_response(z, rest)
            began[np.diag_indices(self.n)] += self.label * own / rest
        source = self._seen(began)
        d = self._solve(weights, source, guess)
        if gram is None:
            return d, 0j
        moments = began + weights * ((self.u.T * d.real) @ self.u + 1j * ((self.u.T * d.imag) @ self.u))
        return d, complex(np.vdot(gram, moments))

    def _solve(self, weights: np.ndarray, source: np.ndarray, guess: np.ndarray | None) -> np.ndarray:
        """`(I − M) d = source`, (n,); NaN where it cannot be solved to rounding."""
        if self.n <= _FEW:
            units = np.eye(self.n)
            return np.linalg.solve(units - np.stack([self._image(weights, unit + 0j) for unit in units], 1), source)
        matrix = scipy.sparse.linalg.LinearOperator(
            (self.n, self.n), lambda v: v - self._image(weights, v), dtype=np.complex128
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            d, failed = scipy.sparse.linalg.gmres(
                matrix, source, x0=guess, rtol=_SOLVED, atol=0.0, restart=_FEW, maxiter=5
            )
        return np.full(self.n, np.nan + 0j) if failed else d

    def _own_response(self, z: complex, rest: complex) -> np.ndarray:
        noise, _, determinant = self.form(self.x, self.x, self.momentum, z, rest)
        return z * self.x**2 * noise / determinant

    # Many times.

    def earliest(self, tolerance: float, shift: float = 0.0) -> float:
        """The time from which on the contour may be used: turning pairs have died out by then to `tolerance`."""
        oscillation = self.oscillation() - shift
        gone = math.inf if oscillation >= 0 else math.log(tolerance) / oscillation
        return max(float(EARLIEST), gone)

    def begins(self, last: float, tolerance: float) -> float:
        """`earliest` of a run of `last` steps."""
        return self.earliest(tolerance, self.rightmost(0.3 / max(last, 1.0)))

    def losses(self, steps: np.ndarray, tolerance: float = 1e-9) -> ExactLosses:
        """The losses at `steps`, (T,) ascending from 0 on, to a relative `tolerance` where the estimate does not say
        otherwise; NaN where a solve fails.

        Up to `begins` they are stepped, however late that is, and there the contour is compared with that. A loss that
        has fallen far is small beside what was summed to find it, and has lost as many digits.
        """
        times = np.asarray(steps, dtype=np.float64)
        first = self.begins(times[-1], tolerance)
        late = times > first
        stepped = Stepped(self)
        before = [stepped.to(int(t)) for t in times[~late]]
        out = ExactLosses(
            np.asarray(steps), np.array([loss for loss, _ in before]), 1e-15 * (10 + times[~late]),
            None if self.gram is None else np.array([test for _, test in before]),
        )  # fmt: skip
        if not late.any():
            return out
        known = math.ceil(first)
        there = np.array([stepped.to(known)[0], stepped.to(known + 1)[0]])
        found = self.late_losses(times[late], (known, there), tolerance)
        tests = None
        if out.test_loss is not None and found.test_loss is not None:
            tests = np.append(out.test_loss, found.test_loss)
        losses, errors = np.append(out.loss, found.loss), np.append(out.error, found.error)
        return ExactLosses(out.steps, losses, errors, tests)

    def late_losses(self, times: np.ndarray, known: tuple[int, np.ndarray], tolerance: float) -> ExactLosses:
        """`losses` at ascending times from `earliest` on, by contour alone; `known`: an earlier step, also from there
        on, and the losses at it and at the next.

        What a contour misses at these two is made by singularities that it does not go around: modes that turn, or
        change sign, together. In units of e^{σ₁t} none of them grows, so that much may be missing at any later time.
        """
        fine, coarse, checked = np.empty((2, times.size)), np.empty((2, times.size)), np.empty((2, 2))
        check = known[0] + np.arange(2.0)
        with one_blas_thread():  # the contours are shared among threads
            shift = self.rightmost(0.3 / times[-1])
            count, path = hyperbola.best(1.0, _CHECKED)
            jobs = [(check, path, count, None, checked)]
            for here in hyperbola.groups(times):
                count, path = hyperbola.best(times[here][-1] / times[here][0], tolerance)
                jobs.append((times[here], path, count + _SPARE, self.gram, fine[:, here]))
                jobs.append((times[here], path, count, None, coarse[:, here]))
            share.run(
                (nodes * 100.0 * self.n**3, functools.partial(self._invert, at, shift, path, nodes, read, out))
                for at, path, nodes, read, out in jobs
            )
        growth = shift * times
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            before = 2 * self.n * known[1] * np.exp(-shift * check)
            missed = np.abs(checked[0] - before).max() + _CHECKED * before.max()
            error = relative(fine[0], np.abs(fine[0] - coarse[0]) + missed) + 2e-14 * np.abs(growth)
            loss, moments = np.exp(growth) * fine
        test = None if self.gram is None else self.test_losses(times, moments)
        return ExactLosses(times, loss / (2 * self.n), error, test)

    def _invert(
        self,
        times: np.ndarray,
        shift: float,
        path: Path,
        nodes: int,
        gram: np.ndarray | None,
        out: np.ndarray,
    ) -> None:
        """`e^{−shift·t} Σ_i d_i(t)` and the same of `Σ gram ∘ C` into out (2, T), by so many nodes on half the path."""
        out[:] = 0.0
        guess = None  # what the node beside it has is near
        for sigma, weight in path.nodes(nodes, times[-1]):
            guess, moments = self._at_node(shift + sigma, guess, gram)
            phases = np.exp(sigma * times) * weight
            out += np.stack([phases * guess.sum(), phases * moments]).imag

    def test_losses(self, times: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """From `Σ gram ∘ E aaᵀ`, (T,): the mean's own share is taken out and comes back with the test residuals. Where
        gram is large, as for small eigenvalues, the difference has lost digits."""
        out = np.empty(times.size)
        for i, t in enumerate(times):
            mean = self._mean(int(t))
            out[i] = self.problem.test_loss(mean, max(moments[i] - float(mean @ self.gram @ mean), 0.0))[0]
        return out

    def _mean(self, t: int) -> np.ndarray:
        """The noiseless mean after t steps, (n,): `r_t = h_t a` with `h_t = trace·h_{t−1} − determinant·h_{t−2}`."""
        trace, determinant = self._traces(), self._determinants()
        companion = np.zeros((self.x.size, 2, 2))
        companion[:, 0, 0], companion[:, 0, 1], companion[:, 1, 0] = trace, -determinant, 1.0
        power = np.linalg.matrix_power(companion, t)
        return self.a * (power[:, 0, 0] - self.momentum * power[:, 1, 0])
