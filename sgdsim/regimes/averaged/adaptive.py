"""Plain heavy ball in the averaged regime, to a tolerance: in tiers, beside a coarser copy that tells the error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sgdsim.algorithm.sgd import SGD, has_momentum
from sgdsim.common.blas import one_blas_thread
from sgdsim.problem import QuadraticProblem
from sgdsim.regimes.averaged import exact
from sgdsim.regimes.averaged.tiers import MeanPath, Sizes, Tiers
from sgdsim.regimes.base import Run

FIRST = Sizes(exact=16, diagonal=128, pairs=1024, ratio=1 / 2)  # to begin with
_TEST = replace(FIRST, exact=32, diagonal=256, ratio=1 / 4)  # for test losses, whose error the coarser copy tells late
_FINEST = 1 / 128  # ratio beyond which the exact form is taken
_TESTED = 16  # steps between two looks at the test loss, whose mean part costs as much as a step
_SINGLE = 1e-5  # tolerance down to which U∘U and the slow pairs may be in float32


class Adaptive(Run):
    """The noise in tiers of some `sizes`; where the error passes the tolerance, all again from the start, finer: in
    the end as an `Exact` run. `now`: the step that comes next."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, test: bool, tolerance: float) -> None:
        self.problem, self.sgd, self.tolerance = problem, sgd, tolerance
        self.gram = exact.test_gram(problem) if test else None
        self.error = 0.0  # the largest estimate so far
        self.exact: exact.Exact | None = None  # followed in place of the tiers
        first = _TEST if test else FIRST
        self._begin(replace(first, pairs=max(first.pairs, problem.n // 2)))

    def _begin(self, sizes: Sizes) -> None:
        """At the start, with these sizes."""
        n = self.problem.n
        # Pairs left out of the fine copy show by what leaving out more of them changes.
        pairs = sizes.pairs if sizes.pairs >= n else sizes.pairs // 2
        coarse = Sizes(sizes.exact // 2, sizes.diagonal // 2, pairs, 2 * sizes.ratio)
        self.path, self.now, self.sizes = MeanPath(self.problem, self.sgd), 0, sizes
        kind = np.float32 if self.tolerance >= _SINGLE else np.float64
        vectors, moving = self.problem.eigenvectors.astype(kind, copy=False), has_momentum(self.sgd)
        self.tiers = [Tiers(self.problem, vectors, each, moving, self.gram) for each in (sizes, coarse)]

    def advance(self, start: int, stop: int) -> None:
        while self.now < stop:
            if self.exact is not None:
                self.exact.advance(self.now, stop)
                self.now = stop
            else:
                with one_blas_thread():
                    self._advance_tiers(stop)

    def _advance_tiers(self, stop: int) -> None:
        """To `stop`, or to where the error passes the tolerance: back to the start then, finer."""
        while self.now < stop:
            part = self.path.until(self.now, stop if self.gram is None else min(stop, self._next_test()))
            fine, coarse = (tiers.advance(part) for tiers in self.tiers)
            self.now += len(fine)
            with np.errstate(over="ignore", invalid="ignore"):
                signal = np.square(part.means[1:]).sum(1)
                errors = np.abs(fine - coarse) / np.maximum(signal + fine, 1e-300)
                errors[~np.isfinite(fine)] = 0.0  # diverged: there is no error to speak of
            if self.gram is not None and self.now % _TESTED == 0 and np.isfinite(fine[-1]):
                tested, other = (self._test_loss(tiers) for tiers in self.tiers)
                errors[-1] = max(errors[-1], abs(tested - other) / max(tested, 1e-300))
            large = ~(errors <= self.tolerance)
            self.error = max(self.error, float(errors[: int(np.append(large, True).argmax())].max(initial=0.0)))
            if large.any():
                self._refine()
                return

    def _next_test(self) -> int:
        return (self.now // _TESTED + 1) * _TESTED

    def _refine(self) -> None:
        """Back to the start, finer; the error told stays, as losses from before may have been recorded already."""
        old = self.sizes
        sizes = Sizes(round(1.5 * old.exact), 2 * old.diagonal, 2 * old.pairs, old.ratio / 2)
        if 3 * sizes.exact > self.problem.n or sizes.ratio < _FINEST:
            del self.path, self.tiers
            self.exact, self.now = exact.Exact(self.problem, self.sgd), 0
        else:
            self._begin(sizes)

    def _test_loss(self, tiers: Tiers) -> float:
        """By tiers, at the present step."""
        mean = self._mean()
        return float(self.problem.test_loss(mean, tiers.observed(self.now, mean))[0])

    def _mean(self) -> np.ndarray:
        return self.path.until(self.now, self.now).means[0]

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        if self.exact is not None:
            return self.exact.observe(what)
        fine = self.tiers[0]
        moments = self._mean() ** 2 + fine.diagonal()
        out = {"loss": np.array([moments.sum() / (2 * self.problem.n)])}
        if "test_loss" in what and self.gram is not None:
            out["test_loss"] = np.array([self._test_loss(fine)])
        if "moments" in what:
            out["moments"] = moments[None]
        return out

    def report(self) -> dict[str, float]:
        if self.exact is not None:
            return exact.report(self.problem, self.error)
        last = min(self.sizes.exact + self.sizes.diagonal, self.problem.n)
        return {
            "error_estimate": self.error,
            "exact_modes": self.sizes.exact,
            "diagonal_modes": last - self.sizes.exact,
        }
