"""The batch-averaged loss at any time, without stepping there: exact in N and in the eigenbasis.

With constant hyperparameters the averaged regime is linear, and its pairs of modes couple through the N numbers
`d_i = E r_i²` alone. Their generating functions `d̃(z) = Σ_t z^t d(t)` obey `d̃ = d̃⁰ + M(z) d̃`, with

    M(z) v = diag(U [W(z) ∘ (Uᵀ diag(v) U)] Uᵀ),   d̃⁰ = diag(U [E(z) ∘ aaᵀ] Uᵀ),

W the pairs' response to noise, E that to the initial error (`pairs`). This is solved at all z that are needed together
(`coupling`, `one_space`): for early times those of a circle, for later ones nodes of hyperbolas in σ = −log z right of
all singularities (Weideman & Trefethen, *Math. Comp.* 76 (2007) 1341). No closure is in it. The error that is told is
the difference of two contours, what a contour misses at two early steps through modes that oscillate, and how far M and
the solutions are right; it is the training loss's, not the test loss's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sgdsim.recurrence import inversion, one_space
from sgdsim.recurrence.all_pairs import Stepped
from sgdsim.recurrence.averaged_modes import AveragedModes, follows
from sgdsim.recurrence.coupling import Coupling
from sgdsim.recurrence.inversion import Inversion

__all__ = ["EARLIEST", "Averaged", "ExactLosses", "follows", "relative"]

EARLIEST = 12  # below, nodes of the contour wrap around |Im σ| = π
_SPARE = 3  # nodes by which the second contour has fewer: their difference is the estimate
_STEPPED = 300  # points up to which early times are stepped; and of more points, steps from which on they are
_FEW = 60  # points up to which nothing is lost in pairs' weights
_ROUNDING = 1e-15
_FINEST = 1e-13  # relative error of pairs' weights of more points, at best
_MARGIN = 1e-3  # share of the tolerance that is allowed to all but the contours
_POOR = 100.0  # times the tolerance: an error from which on all is worked out once more, at its finest


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


class Averaged(AveragedModes):
    """The averaged regime of one problem and algorithm, by its generating function.

    Raises InputError for what `follows` does not, and for problems without eigenvectors.
    """

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

        Up to `begins` they are stepped or found from a circle, however late that is, and there the contour is compared
        with that. A loss that has fallen far is small beside what was summed to find it, and has lost as many digits.
        """
        times = np.asarray(steps, dtype=np.float64)
        first = self.begins(times[-1], tolerance)
        early = int((times <= first).sum())
        known = math.ceil(first) + np.arange(2.0) if early < times.size else np.empty(0)
        if self.n > _STEPPED >= first:
            return self._joined(steps, [self._inverted(times[:early], times[early:], known, None, tolerance)])
        run = Stepped(self)
        before = self._stepped(run, times[:early])
        if not known.size:
            return self._joined(steps, [before])
        there = self._stepped(run, known)
        later = self._inverted(np.empty(0), times[early:], known, there.loss, tolerance)
        return self._joined(steps, [before, later])

    def _joined(self, steps: np.ndarray, parts: list[ExactLosses]) -> ExactLosses:
        tests = [part.test_loss for part in parts if part.test_loss is not None]
        loss, error = (np.concatenate([getattr(part, name) for part in parts]) for name in ("loss", "error"))
        return ExactLosses(np.asarray(steps), loss, error, np.concatenate(tests) if tests else None)

    def _stepped(self, run: Stepped, times: np.ndarray) -> ExactLosses:
        found = np.array([run.to(int(t)) for t in times]).reshape(-1, 2)
        tests = None if self.gram is None else found[:, 1]
        return ExactLosses(times, found[:, 0], _ROUNDING * (10 + times), tests)

    def _inverted(
        self, early: np.ndarray, late: np.ndarray, known: np.ndarray, there: np.ndarray | None, tolerance: float
    ) -> ExactLosses:
        """By the generating function: `early` times from a circle, `late` ones by contours; `there`: the losses at two
        `known` times, where they are not to be found from the circle."""
        finest = _ROUNDING if self.n <= _FEW else _FINEST
        loose = _MARGIN * tolerance if self.n > _FEW else 0.0
        found = self._at(early, late, known, there, tolerance, max(loose, finest))
        if loose > finest and not (found.error < _POOR * tolerance).all():
            return self._at(early, late, known, there, tolerance, finest)
        return found

    def _at(
        self, early: np.ndarray, late: np.ndarray, known: np.ndarray, there: np.ndarray | None, tolerance: float,
        rounding: float,
    ) -> ExactLosses:  # fmt: skip
        """`_inverted`, with pairs' weights and solutions right to `rounding`.

        What a contour misses at two known times is made by singularities that it does not go around: modes that turn,
        or change sign, together. In units of e^{σ₁t} none of them grows, so that much may be missing at any later time.
        """
        alias = max(_MARGIN * tolerance, 1e-12)
        near = np.append(early, known) if there is None else early
        groups = [late[here] for here in inversion.groups(late)]
        paths = [inversion.contour(times, tolerance, spare) for times in groups for spare in (_SPARE, 0)]
        paths += [inversion.contour(known, alias, 0)] if late.size else []
        paths += [inversion.circle(near, alias)] if near.size else []
        shift = self.rightmost(0.3 / max(early.max(initial=1.0), late.max(initial=1.0)))
        solved = _Solved(self, shift, paths, rounding)
        times, (values, tested) = np.append(early, late), np.zeros((2, early.size + late.size))
        error, missed = np.empty(times.size), 0.0
        if near.size:
            found = solved.values[-1]
            wrong = alias * np.abs(found).max() + solved.wrong_at(-1)
            values[: early.size], error[: early.size] = found[: early.size], wrong[: early.size]
            tested[: early.size] = solved.tested[-1][: early.size]
        if late.size:
            before = found[early.size :] if there is None else 2 * self.n * there * np.exp(-shift * known)
            missed = np.abs(solved.values[2 * len(groups)] - before).max() + alias * before.max()
            missed += wrong[early.size :].max() if there is None else 0.0
            fine, coarse = (np.concatenate(solved.values[k : 2 * len(groups) : 2]) for k in (0, 1))
            values[early.size :], error[early.size :] = fine, np.abs(fine - coarse) + missed + solved.wrong * np.abs(fine)
            tested[early.size :] = np.concatenate(solved.tested[0 : 2 * len(groups) : 2])
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            growth = shift * times
            error = relative(values, error) + 2e-14 * np.abs(growth)
            loss, tested = np.exp(growth) * np.stack([values, tested])
        return ExactLosses(times, loss / (2 * self.n), error, None if self.gram is None else self.test_losses(times, tested))


class _Solved:
    """What each path finds, in units of e^{shift·t}: `values` `Σ_i E r_i²` and `tested`, the mean of
    `E (T a)²` over test points. `wrong`: how far the generating function is from right, relatively."""

    def __init__(self, of: AveragedModes, shift: float, paths: list[Inversion], rounding: float) -> None:
        coupling = Coupling(of, shift + np.concatenate([path.sigmas for path in paths]), rounding)
        d, off = one_space.solve(coupling, 10 * rounding)
        ends = np.cumsum([path.sigmas.size for path in paths])[:-1]
        sources = np.linalg.norm(coupling.sources, axis=0)
        amplified = np.linalg.norm(d, axis=0) / np.where(sources > 0, sources, 1.0)
        self.wrong = (off + coupling.error) * max(1.0, float(amplified.max()))
        self.paths, self.sums = paths, np.split(d.sum(0), ends)
        self.values = [path.of(sums) for path, sums in zip(paths, self.sums, strict=True)]
        seen = coupling.test_sources
        if coupling.tested is not None:
            seen = seen + (coupling.shares * (coupling.tested @ d)).sum(0)
        self.tested = [path.of(sums) for path, sums in zip(paths, np.split(seen, ends), strict=True)]

    def wrong_at(self, k: int) -> np.ndarray:
        """How far the values of path k may be off as the generating function is."""
        growth = np.exp(self.paths[k].times * self.paths[k].sigmas.real.max())
        return self.wrong * growth * np.abs(self.sums[k]).max()
