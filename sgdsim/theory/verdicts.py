"""Is a run stable? Yes and no where that is proved or worked out, otherwise why it cannot be known.

The question is the exact one: does the expected loss of the batch-averaged regime converge, at this N and in this
eigenbasis? What decides, in the order of its cost:

1. The mean, which sees no noise: where it diverges, so does all else (`α < 2(1+β)` for heavy ball, Polyak 1964).
2. `Ũ(1) ≥ 1` at τ = 1, from the spectrum alone: unstable in every eigenbasis.
3. Every training point's own Ũ(1) below 1 (`sgdsim.theory.renewal.local_noise`, O(N²)): stable.
4. The renewal operator's spectral radius (`Renewal.below_one`), a few products of N × N matrices; beyond 4000 points
   that of the 400 leading modes, which bounds it from below.

2 and 3 are proved for heavy ball (module renewal); for other methods, and with weight decay, 1, 2 and 4 are worked out
in floating point.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.optimize

from sgdsim.algorithm.methods import HeavyBall
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.problem import QuadraticProblem
from sgdsim.problem.linearised import of_quadratic
from sgdsim.theory import renewal_outputs, stability
from sgdsim.theory.generating import noise_term_at_one
from sgdsim.theory.renewal import Renewal, local_noise, mode_noise
from sgdsim.theory.renewal_outputs import largest_local_noise

WORDS: dict[bool | None, str] = {True: "yes", False: "no", None: "?"}
_LEADING = 400  # modes by whose noise alone more points than that are tried
_MARGIN = 1e-9  # of 1, within which rounding decides
_DEVIATIONS = 4.0  # standard errors that a sum known by random probes may be off


@dataclass(frozen=True)
class Verdict:
    """`stable`: None where it cannot be known. `reason`: what decided it, or what is missing; a part of a sentence."""

    stable: bool | None
    reason: str

    @property
    def word(self) -> str:
        """ "yes", "no" or "?"."""
        return WORDS[self.stable]


@of_quadratic
def verdict(problem: QuadraticProblem, sgd: SGD) -> Verdict:
    """Whether the expected loss converges, exactly at this N and in this eigenbasis. Refuses nothing."""
    return verdicts(problem, [sgd])[0]


@of_quadratic
def verdicts(problem: QuadraticProblem, algorithms: Iterable[SGD]) -> list[Verdict]:
    """`verdict` of one algorithm after the other: neighbours on a grid help each other."""
    shared = functools.cache(lambda: Renewal(problem))
    out = []
    for sgd in algorithms:
        try:
            out.append(_verdict(problem, sgd, shared))
        except InputError as error:
            out.append(Verdict(None, str(error).removeprefix("stability: ").removeprefix("theory: ")))
    return out


@of_quadratic
def surely_stable(problem: QuadraticProblem, momentum: np.ndarray, noise: float, tolerance: float = 1e-6) -> np.ndarray:
    """Up to which learning rate heavy ball is surely stable, (m,) for momenta (m,) and γ: where the largest Ũ(1) of a
    training point is 1, to a relative `tolerance`.

    From `stability.diagonal_max_lr` at τ = 1, where the points' mean is 1, it surely is not. Raises InputError without
    eigenvectors and as that.
    """
    moving = problem.spectrum.moving
    lam, squares = problem.eigenvalues[moving], problem.n * problem.eigenvectors[:, moving] ** 2
    out = np.array(stability.diagonal_max_lr(problem, momentum=momentum, noise=noise))
    for i, beta in enumerate(momentum if noise > 0 else ()):

        def excess(log_lr: float, beta: float = beta) -> float:
            return float((squares @ noise_term_at_one(math.exp(log_lr) * lam, beta, noise)).max()) * noise - 1

        high = low = math.log(out[i])
        while excess(low) > 0:
            low -= 2.0
        if low < high:
            out[i] = math.exp(scipy.optimize.brentq(excess, low, high, xtol=tolerance))
    return out


def _unknown(sgd: SGD) -> str | None:
    """Why nothing is known of an algorithm's stability."""
    if sgd.rule is not None:
        return f"{sgd.rule.name} is not linear in the gradient"
    if not sgd.is_constant:
        return "hyperparameters or method change in time"
    if not sgd.sampler.independent:
        return "the batches of an epoch depend on each other"
    return "points have weights of their own" if sgd.sampler.weighted else None


def _verdict(problem: QuadraticProblem, sgd: SGD, renewal: Callable[[], Renewal]) -> Verdict:
    if (why := _unknown(sgd)) is not None:
        return Verdict(None, why)
    if not stability.full_batch_is_stable(problem, sgd):
        return Verdict(False, "even the mean, which sees no noise, diverges")
    if sgd.is_one_pass:
        converges = stability.diagonal_is_stable(problem, sgd, -1.0)
        side = "below" if converges else "not below"
        return Verdict(converges, f"Ũ(1) at τ = −1, exact for Gaussian points, is {side} 1")
    if problem.noise(sgd) == 0:
        return Verdict(True, "full batches make no noise, and the mean converges")
    shares = mode_noise(problem, sgd) * problem.spectrum.counts[problem.spectrum.moving]
    closure = float(shares.sum())
    if closure / (1 + _relative_error(problem)) >= 1 + _MARGIN:
        return Verdict(False, f"Ũ(1) = {closure:.3g}, at least 1, makes it unstable in every eigenbasis")
    if problem.spectrum.outputs > 1:
        return _of_outputs(problem, sgd)
    if not problem.has_basis:
        return Verdict(None, "Ũ(1) is below 1: eigenvectors decide, not known here: it takes the kernel itself")
    small = problem.n <= stability.EXACT_UP_TO
    if not small and problem.spectrum.eigenvectors is None:
        limit = f"not drawn for N = {problem.n} but for {stability.EXACT_UP_TO} or fewer"
        return Verdict(None, f"Ũ(1) is below 1: eigenvectors decide, {limit}")
    proved = isinstance(sgd.method, HeavyBall) and not sgd.weight_decay
    if proved and (largest := float(local_noise(problem, sgd).max())) < 1 - _MARGIN:
        return Verdict(True, f"Ũ(1) is below 1 at every training point, {largest:.3g} at most")
    if not small and proved and Renewal(problem, _LEADING).below_one(sgd) is False:
        return Verdict(False, f"the noise of the {_LEADING} leading modes alone has a spectral radius above 1")
    if not small:
        return Verdict(
            None, f"it takes products of {problem.n} × {problem.n} matrices: {stability.EXACT_UP_TO} at most"
        )
    stable = renewal().below_one(sgd)
    if stable is None:
        return Verdict(None, "it is at its threshold, where rounding decides")
    side = "below" if stable else "above"
    return Verdict(stable, f"the exact average's noise has a spectral radius {side} 1 (Ũ(1) = {closure:.3g})")


def _of_outputs(problem: QuadraticProblem, sgd: SGD) -> Verdict:
    """The verdict with a kernel over all outputs, where the mean over points of its noise leaves it open."""
    modes = problem.spectrum.n_modes
    if problem.spectrum.eigenvectors is None:
        return Verdict(None, "the mean noise of points is below 1: eigenvectors decide, not known here")
    if (largest := largest_local_noise(problem, sgd)) < 1 - _MARGIN:
        return Verdict(True, f"the noise of every training point is below 1, {largest:.3g} at most")
    if modes > renewal_outputs.MOST:
        return Verdict(None, f"it takes products of {modes} × {modes} matrices: {renewal_outputs.MOST} at most")
    stable = renewal_outputs.OverOutputs(problem).below_one(sgd)
    if stable is None:
        return Verdict(None, "it is at its threshold, where rounding decides")
    return Verdict(stable, f"the exact average's noise has a spectral radius {'below' if stable else 'above'} 1")


def _relative_error(problem: QuadraticProblem) -> float:
    """How far a sum over modes may be off, relative: that of the trace, where random probes made the spectrum."""
    quality = problem.spectrum.quality
    if problem.has_every_eigenvalue or problem.spectrum.size is not None or quality is None:
        return 0.0
    return np.inf if quality.trace is None else _DEVIATIONS * quality.trace
