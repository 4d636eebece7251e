"""The batch-averaged loss at any time, without stepping there: exact in N and in the eigenbasis.

With constant hyperparameters the averaged regime is linear, and its pairs of modes couple through the N numbers
`d_i = E r_i²` alone. Their generating functions `d̃(z) = Σ_t z^t d(t)` obey `d̃ = d̃⁰ + M(z) d̃`, with

    M(z) v = diag(U [W(z) ∘ (Uᵀ diag(v) U)] Uᵀ),   d̃⁰ = diag(U [E(z) ∘ aaᵀ] Uᵀ),

W the pairs' response to noise, E that to the initial error (`pairs`). This is solved at all z that are needed together
(`coupling`, `one_space`): for early times those of a circle, for later ones nodes of hyperbolas in σ = −log z right of
all singularities (Weideman & Trefethen, *Math. Comp.* 76 (2007) 1341). No closure is in it. The error that is told is
the difference of two contours, what a contour misses at two early steps through modes that oscillate, and how far M and
the solutions are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.blas import calm
from sgdsim.common.shown import ShownBySteps
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import inversion, one_space
from sgdsim.recurrence.all_pairs import Stepped
from sgdsim.recurrence.averaged_modes import AveragedModes, follows
from sgdsim.recurrence.coupling import Coupling
from sgdsim.recurrence.coupling_of_outputs import OfOutputs
from sgdsim.recurrence.inversion import Inversion

__all__ = ["EARLIEST", "Averaged", "ExactLosses", "follows", "relative", "stepped_until"]

Make = Callable[[AveragedModes, np.ndarray, float], Coupling]
EARLIEST = 12  # below, nodes of the contour wrap around |Im σ| = π
_FINER = 0.2  # share of its nodes that the second contour has not: their difference is the estimate
_STEPPED = 300  # points up to which early times are stepped; and of more points, steps from which on they are
_FEW = 60  # points up to which nothing is lost in pairs' weights
_ROUNDING = 1e-15
_FINEST = 1e-13  # relative error of pairs' weights of more points, at best
_GONE = -800.0  # log of what is nothing
_MARGIN = 1e-3  # share of the tolerance that is allowed to all but the contours
_NEARBY = (0.8, 0.9, 1.0, 1.05)  # times a time: where two contours are compared, as their difference changes sign
_SLOW = 10.0  # times the tolerance: what a path may be off by all along, if it was at the known times
_POOR = 1000.0  # times the tolerance: an error from which on all is worked out once more, finer


@dataclass(frozen=True, repr=False)
class ExactLosses(ShownBySteps):
    """Expected losses over all batch sequences, (T,) each. `error`, `test_error`: estimates of their relative errors.
    `test_loss`: None without test points."""

    steps: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    test_loss: np.ndarray | None = None
    test_error: np.ndarray | None = None


def relative(value: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The relative error of values that may be `wrong` by so much; infinite where nothing is left of them."""
    return np.where(
        wrong == 0, 0.0, np.where(wrong < value, wrong / np.where(wrong < value, value - wrong, 1.0), np.inf)
    )


def losses(problem: QuadraticProblem, sgd: SGD, steps: np.ndarray, tolerance: float = 1e-9) -> ExactLosses:
    """`Averaged.losses`, over all outputs where several share the kernel. Raises InputError as `Averaged`."""
    alone = problem.by_output() if problem.spectrum.outputs == 1 else (problem,)
    parts = [Averaged(output, sgd).losses(steps, tolerance) for output in alone]
    if len(parts) == 1:
        return parts[0]
    loss, error = _summed([(part.loss, part.error) for part in parts])
    tested = [(p.test_loss, p.test_error) for p in parts if p.test_loss is not None and p.test_error is not None]
    return ExactLosses(parts[0].steps, loss, error, *(_summed(tested) if tested else ()))


def _summed(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Of losses and their relative errors."""
    losses, errors = np.array(parts).swapaxes(0, 1)
    total = losses.sum(0)
    with np.errstate(invalid="ignore"):
        return total, np.where(losses > 0, losses * errors, 0.0).sum(0) / np.where(total > 0, total, 1.0)


def stepped_until(n: float, first: float) -> float:
    """Until which step the loss of n points is stepped, where `first` is the first that a contour serves."""
    return 0.0 if n > _STEPPED >= first else first


class Averaged(AveragedModes):
    """The averaged regime of one problem and algorithm, by its generating function.

    `coupling`: what makes a `Coupling` of these, places σ and a tolerance, as on a device; None: the one for its
    outputs. Raises InputError for what `follows` does not, and for problems without eigenvectors.
    """

    def __init__(
        self,
        problem: QuadraticProblem,
        sgd: SGD,
        coupling: Callable[[AveragedModes, np.ndarray, float], Coupling] | None = None,
    ) -> None:
        super().__init__(problem, sgd)
        self.coupling = coupling or (Coupling if self.outputs == 1 else OfOutputs)

    def earliest(self, tolerance: float, shift: float = 0.0) -> float:
        """The time from which on the contour may be used: turning pairs have died out by then to `tolerance`."""
        oscillation = self.oscillation() - shift
        gone = math.inf if oscillation >= 0 else math.log(tolerance) / oscillation
        return max(float(EARLIEST), gone)

    def begins(self, last: float, tolerance: float) -> float:
        """`earliest` of a run of `last` steps."""
        return self.earliest(tolerance, self.shift(last))

    def shift(self, last: float) -> float:
        """Right of all singularities, for a run of `last` steps or until nothing is left of its loss."""
        near = 0.3 / max(last, 1.0)
        rough = self.rightmost(max(near, self.slowest() / (4 * _GONE)))
        return rough if rough * last < _GONE else self.rightmost(near)  # noise may fall far more slowly than any mode

    @calm
    def losses(self, steps: np.ndarray, tolerance: float = 1e-9) -> ExactLosses:
        """The losses at `steps`, (T,) ascending from 0 on, to a relative `tolerance` where the estimate does not say
        otherwise; NaN where a solve fails.

        Up to `begins` they are stepped or found from a circle, however late that is, and there the contour is compared
        with that. A loss that has fallen far is small beside what was summed to find it, and has lost as many digits.
        """
        times = np.asarray(steps, dtype=np.float64)
        first = self.begins(times[-1], tolerance)
        early = int((times <= first).sum())
        known = math.ceil(first) + np.arange(2.0) if early < times.size else np.empty(0)
        if not stepped_until(self.x.size, first):
            return self._joined(steps, [self._inverted(times[:early], times[early:], known, None, tolerance)])
        run = Stepped(self)
        before = self._stepped(run, times[:early])
        if not known.size:
            return self._joined(steps, [before])
        there = np.array([run.to(int(t)) for t in known]).T
        later = self._inverted(np.empty(0), times[early:], known, there, tolerance)
        return self._joined(steps, [before, later])

    def _joined(self, steps: np.ndarray, parts: list[ExactLosses]) -> ExactLosses:
        names = ("loss", "error", *(() if self.gram is None else ("test_loss", "test_error")))
        return ExactLosses(np.asarray(steps), *(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def _stepped(self, run: Stepped, times: np.ndarray) -> ExactLosses:
        loss, moments = np.array([run.to(int(t)) for t in times]).reshape(-1, 2).T
        error = _ROUNDING * (10 + times)
        return ExactLosses(times, loss, error, *self._tests(times, moments, error * np.abs(moments)))

    def _inverted(
        self, early: np.ndarray, late: np.ndarray, known: np.ndarray, there: np.ndarray | None, tolerance: float
    ) -> ExactLosses:
        """By the generating function: `early` times from a circle, `late` ones by contours; `there`: the losses and
        moments, (2, 2), at two `known` times, where they are not to be found from the circle."""
        if self.x.size <= _FEW:
            return self._at(early, late, known, there, tolerance, _ROUNDING)
        rounding = max(_MARGIN * tolerance, _FINEST)
        found = self._at(early, late, known, there, tolerance, rounding)
        poor = float(found.error.max()) / tolerance
        if not poor >= _POOR or rounding == _FINEST:
            return found
        finer = _FINEST / _MARGIN if math.isinf(poor) else max(10 * tolerance / poor, _FINEST / _MARGIN)
        return self._at(early, late, known, there, finer, _MARGIN * finer)

    def _at(
        self, early: np.ndarray, late: np.ndarray, known: np.ndarray, there: np.ndarray | None, tolerance: float,
        rounding: float,
    ) -> ExactLosses:  # fmt: skip
        """`_inverted`, with pairs' weights and solutions right to `rounding`."""
        times, alias = np.append(early, late), max(_MARGIN * rounding, 1e-12)
        shift = self.shift(times.max())
        near = np.append(early, known) if there is None else early
        left = late[shift * late > _GONE]
        groups = [left[here] for here in inversion.groups(left)]
        if groups:
            groups[0] = np.append(known, groups[0])
        paths = [inversion.contour(part, tolerance, finer) for part in groups for finer in (_FINER, 0.0)]
        paths += [inversion.contour(known, alias)] if groups else []
        paths += [inversion.circle(near, alias)] if near.size else []
        if not paths:
            none = np.zeros(times.size)
            return ExactLosses(times, none, none, *self._tests(times, none, none))
        solved = _Solved(self, shift, paths, rounding)
        found, wrong = np.zeros((2, 2, times.size))  # of training and test points
        if near.size:
            circle = solved.values[-1]
            off = alias * np.abs(circle).max(1)[:, None] + solved.wrong_at(-1)
            found[:, : early.size], wrong[:, : early.size] = circle[:, : early.size], off[:, : early.size]
        if groups:
            scale = np.array([[2 * self.n], [1.0]]) * np.exp(-shift * known)
            before = circle[:, early.size :] if there is None else scale * there
            end = early.size + left.size
            late_ones = self._late(solved, shift, groups, before, alias, tolerance)
            found[:, early.size : end], wrong[:, early.size : end] = late_ones
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            growth = shift * times
            error = relative(found[0], wrong[0]) + 2e-14 * np.abs(growth)
            (loss, moments), (_, off) = np.exp(growth) * found, np.exp(growth) * wrong
            tests = self._tests(times, moments, off + 2e-14 * np.abs(growth * moments))
        return ExactLosses(times, loss / (2 * self.n), error, *tests)

    def _tests(
        self, times: np.ndarray, moments: np.ndarray, wrong: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Test losses and their relative errors."""
        if self.gram is None:
            return None, None
        losses, off = self.test_losses(times, moments, wrong)
        return losses, relative(losses, off)

    def _late(
        self, solved: _Solved, shift: float, groups: list[np.ndarray], before: np.ndarray, alias: float,
        tolerance: float,
    ) -> np.ndarray:  # fmt: skip
        """Values by contours, and how far they may be off, of training and test points: (2, 2, times), without the two
        known ones.

        What a contour misses at these is made by singularities that it does not go around: modes that turn, or change
        sign. In units of e^{σ₁t} none of them grows, so that as much may be missing later as with a contour for these
        two alone. Where the path of all runs close to one, more is, which dies out as such pairs do.
        """
        end, times = 2 * len(groups), np.concatenate(groups)
        fine = np.concatenate(solved.values[:end:2], 1)
        apart = np.concatenate([solved.apart(k) for k in range(0, end, 2)], 1)
        missed = np.abs(solved.values[end] - before).max(1) + alias * np.abs(before).max(1)
        cut = solved.paths[0].sigmas.real.min()  # what is left of the path's end dies out as well
        dying = np.exp(max(self.oscillation() - shift, cut, _GONE) * (times - times[0]))
        began, size = np.abs(fine[:, :2] - before).max(1)[:, None], np.abs(before).max(1)[:, None]
        slow = np.minimum(relative(size, began), _SLOW * tolerance)  # both paths may converge slowly, and so agree
        least = solved.wrong + np.maximum(tolerance ** (1 + _FINER), slow)
        wrong = apart + missed[:, None] + least * np.abs(fine) + began * dying
        return np.stack([fine, wrong])[..., 2:]


class _Solved:
    """What each path finds, in units of e^{shift·t}: `values` (2, T), `Σ_i E r_i²` and the mean of `E (T a)²` over test
    points. `wrong`: how far the generating function is from right, relatively."""

    def __init__(self, of: Averaged, shift: float, paths: list[Inversion], rounding: float) -> None:
        coupling = of.coupling(of, shift + np.concatenate([path.sigmas for path in paths]), rounding)
        d, off = one_space.solve(coupling, 10 * rounding)
        ends = np.cumsum([path.sigmas.size for path in paths])[:-1]
        sources = np.linalg.norm(coupling.sources, axis=0)
        amplified = np.linalg.norm(d, axis=0) / np.where(sources > 0, sources, 1.0)
        self.wrong = (off + coupling.error) * max(1.0, float(amplified.max()))
        seen = coupling.test_sources
        if coupling.tested is not None:
            seen = seen + (coupling.shares * (coupling.tested @ d)).sum(0)
        self.paths, self.sums = paths, np.split(np.stack([of.points.total(d), seen]), ends, axis=1)
        self.values = [np.stack([path.of(each) for each in sums]) for path, sums in zip(paths, self.sums, strict=True)]

    def apart(self, k: int) -> np.ndarray:
        """How far paths k and k + 1 are apart at most, near each time, (2, T)."""
        one, other = ([[self.paths[i].of(each, near) for each in self.sums[i]] for near in _NEARBY] for i in (k, k + 1))
        return np.abs(np.subtract(one, other)).max(0)

    def wrong_at(self, k: int) -> np.ndarray:
        """How far the values of path k may be off as the generating function is, (2, T)."""
        growth = np.exp(self.paths[k].times * self.paths[k].sigmas.real.max())
        return self.wrong * growth * np.abs(self.sums[k]).max(1)[:, None]
