"""Theory against the training of real networks: loss ratios and exponents of runs on the same batches.

`train` follows one setting in the real network and in its linearisation, on the same batches, and in the
spectral-diagonal closure. `ratios` and `slopes` are read off its result, `law` off the spectrum. Measured stability
thresholds are in `sgdsim.studies.measured_stability`.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.linalg

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.progress import Bar
from sgdsim.common.table import Table
from sgdsim.observables import Loss
from sgdsim.problem import NetworkProblem, Problem, QuadraticProblem, fits
from sgdsim.problem.fits import Estimate
from sgdsim.problem.outputs import point_major
from sgdsim.regimes import RealNetwork, SampledLinearized, SpectralDiagonal
from sgdsim.runs import follow
from sgdsim.studies.base import Findings
from sgdsim.theory import stability

_RECORDED = 60  # log-spaced steps beside those asked for: a full loss costs a network as much as some tens of steps


@dataclass(frozen=True)
class KernelChange:
    """How far the tangent kernel of the first replicate, over all outputs of all points, is from that at the start,
    after `step` updates.

    `relative`: ‖Θ_t − Θ_0‖/‖Θ_0‖ in the Frobenius norm, 0 for a linearised network. `top`: λ_max(Θ_t)/λ_max(Θ_0); the
    stability limit of full batches moves to 2(1+β)/`top`.
    """

    step: int
    relative: float
    top: float


@dataclass(frozen=True, eq=False, repr=False)
class Training(Findings):
    """One setting followed by the network, its linearisation on the same batches, and the spectral-diagonal closure.

    Parameters
    ----------
    sgd, n_steps, seed : what was run.
    steps : (T,) recorded steps, from 0.
    network, sampled : (R, T) train losses; infinite once diverged (`follow.has_diverged`), NaN where not reached.
    diagonal : (T,) of the spectral-diagonal regime with τ = 1.
    kernel : how the tangent kernel changed.
    interrupted : whether Ctrl-C ended it early.
    """

    sgd: SGD
    n_steps: int
    seed: int
    steps: np.ndarray
    network: np.ndarray
    sampled: np.ndarray
    diagonal: np.ndarray
    kernel: tuple[KernelChange, ...]
    interrupted: bool

    def table(self) -> Table:
        """Mean losses where the kernel was looked at, and how far it had moved: network over linearisation."""
        rows = []
        for moved in self.kernel:
            ratio, column = ratios(self, [moved.step])[0], np.flatnonzero(self.steps == moved.step)[0]
            means = [float(losses[:, column].mean()) for losses in (self.network, self.sampled)]
            rows.append([moved.step, *means, ratio.ratio, ratio.stderr, moved.relative, moved.top])
        headers = ["step", "network", "linearised", "ratio", "stderr", "kernel moved", "λ_max ratio"]
        return Table(headers, rows)


@dataclass(frozen=True)
class Ratio:
    """Mean network loss over mean sampled loss at `step`, standard error by the jackknife over paired replicates; None
    for what is not defined (diverged, not reached, one replicate). `…_diverged`: how many replicates did."""

    step: int
    ratio: float | None
    stderr: float | None
    network_diverged: int
    sampled_diverged: int


@dataclass(frozen=True)
class Slope:
    """`−d log L/d log t` of the mean loss over a window, with its standard error by the jackknife over replicates."""

    value: float | None
    stderr: float | None


@dataclass(frozen=True)
class Slopes:
    """Exponents of the losses themselves over the recorded steps in `window` = (first step, last step)."""

    window: tuple[int, int]
    diagonal: Slope
    sampled: Slope
    network: Slope


@dataclass(frozen=True)
class Law:
    """The exponent that theory predicts: `min(ζ, 2−1/ν)` of the fitted spectrum, with its interval.

    ν, ζ and `warnings` are those of the fit; the exponent's interval joins those of ζ and ν (`min` is monotone in
    both). A value ≤ 0 is no prediction: tail sums of c_k that do not fall like a power law.
    """

    exponent: Estimate
    nu: Estimate
    zeta: Estimate
    warnings: tuple[str, ...]


def safe_lr(problem: QuadraticProblem, batch_size: int, momentum: float = 0.0, share: float = 0.5) -> float:
    """`share` of the lowest theoretical threshold (full batch, spectral-diagonal τ = 1, exact), to three digits."""
    share = number("share", share, minimum=0.0)
    sgd = SGD(1.0, momentum, batch_size)
    levels = [stability.max_lr(problem, sgd, level, tolerance=1e-4) for level in stability.LEVELS]
    return stability.half_of(min(levels), share)


def train(
    problem: NetworkProblem,
    sgd: SGD,
    n_steps: int,
    *,
    at: Sequence[int] = (),
    replicates: int = 4,
    dtype: str = "float64",
    seed: int = 0,
    progress: bool = False,
) -> Training:
    """Train the network and follow its linearisation on the same batches, and the spectral-diagonal closure.

    Parameters
    ----------
    at : steps to record beside about 60 log-spaced ones; those up to `n_steps` count. At them (and at the last step)
        the tangent kernel of the first replicate is computed again.
    dtype : of the network; the linearised regimes are float64.
    progress : show how far it is, on standard error.

    Ctrl-C returns what was recorded until then. Divergence does not raise; InputError for values out of range.
    """
    problem.check_squared("validate")
    n_steps, replicates = (
        integer("n_steps", n_steps, minimum=1, maximum=follow.MAX_STEPS),
        integer("replicates", replicates, minimum=1),
    )
    at = [step for step in at if integer("at", step, minimum=1) <= n_steps]
    grid = np.geomspace(1, n_steps, _RECORDED).round().astype(int)
    steps = follow.record_steps(n_steps, [*grid.tolist(), *at])
    network, sampled = RealNetwork(dtype), SampledLinearized()
    for regime in (network, sampled):
        regime.check(problem, sgd)
    sgd.check(problem.n, n_steps)
    losses = {regime: np.full((replicates, steps.size), np.nan) for regime in (SpectralDiagonal(), sampled, network)}
    kernel: list[KernelChange] = []

    def look(step: int, state: Any, followed: np.ndarray) -> None:
        if step in at or step == n_steps:
            kernel.append(_kernel_change(problem, state, step, first_is_there=followed[0] == 0))

    with Bar(progress, "network", n_steps, work=f"training of the network, {n_steps:,} steps") as bar:
        for regime in losses:
            watched = (bar.update, look) if regime is network else (None, None)
            trace = follow.follow(problem, sgd, regime, steps, (Loss(),), replicates, seed, *watched)
            losses[regime] = trace.values.get("loss", losses[regime])
            if trace.interrupted:
                break
    diagonal, linearised, trained = losses.values()
    return Training(sgd, n_steps, seed, steps, trained, linearised, diagonal[0], tuple(kernel), trace.interrupted)


def _kernel_change(problem: NetworkProblem, state: Any, step: int, *, first_is_there: bool) -> KernelChange:
    """Of the first replicate of a `RealNetwork` state; infinite where that has diverged and left the state."""
    import torch

    from sgdsim.networks import ntk

    network = copy.deepcopy(problem.network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in state.parameters:
                parameter.copy_(state.parameters[name][0])
    if not first_is_there or not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
        return KernelChange(step, math.inf, math.inf)
    quadratic = problem.quadratic
    before = quadratic.kernel * quadratic.spectrum.scale
    after = ntk.empirical_ntk(
        network, problem.data.x, output=problem.kernel_output, device=problem.device, dtype=problem.dtype
    )
    if after.ndim == 4:
        after = point_major(after)
        before = np.kron(before, np.eye(problem.n_outputs)) if quadratic.signed is not None else before
    top = float(scipy.linalg.eigh(after, eigvals_only=True, subset_by_index=[len(after) - 1] * 2)[0])
    relative = float(np.linalg.norm(after - before) / np.linalg.norm(before))
    return KernelChange(step, relative, top / quadratic.spectrum.scale)


def ratios(run: Training, at: Sequence[int]) -> list[Ratio]:
    """Network over sampled loss at each of the recorded steps `at`; InputError for a step that was not recorded."""
    out = []
    for step in at:
        column = np.flatnonzero(run.steps == step)
        if column.size == 0:
            raise InputError(f"at: expected recorded steps, got {step}")
        network, sampled = run.network[:, column[0]], run.sampled[:, column[0]]
        value, error = jackknife(lambda a, b: a.mean() / b.mean(), network, sampled)
        out.append(Ratio(int(step), value, error, int(np.isinf(network).sum()), int(np.isinf(sampled).sum())))
    return out


def law(problem: Problem) -> Law:
    """The law of the late loss by `sgdsim.fit_power_law`; InputError where there are too few modes to fit."""
    fit = fits.fit_power_law(problem.quadratic)
    nu, zeta = fit.nu, cast(Estimate, fit.zeta)  # a problem has coefficients
    ends = ((getattr(zeta, end), getattr(nu, end)) for end in ("value", "low", "high"))
    # 2 − 1/ν has no lower bound as ν falls to 0
    law = Estimate(*(min(z, 2 - 1 / v) if v > 0 else -math.inf for z, v in ends))
    return Law(law, nu, zeta, fit.warnings)


def decades(n_steps: int) -> list[tuple[int, int]]:
    """Windows of one decade that end at `n_steps`, `n_steps/10`, … and begin at t = 10 or later; one at least."""
    ends = itertools.takewhile(lambda end: end >= 100, (n_steps // 10**i for i in itertools.count()))
    return sorted((end // 10, end) for end in ends) or [(max(1, n_steps // 10), n_steps)]


def slopes(run: Training, window: tuple[int, int]) -> Slopes:
    """Least squares of log L on log t over the recorded steps in `window`, both ends included.

    Raises InputError for fewer than 5 recorded steps.
    """
    low, high = (integer("window", step, minimum=1) for step in window)
    inside = (run.steps >= low) & (run.steps <= high)
    if inside.sum() < 5:
        raise InputError(
            f"window: expected at least 5 recorded steps of 1 to {run.n_steps}, got {inside.sum()} in {low} to {high}"
        )
    log_t = np.log(run.steps[inside])
    log_t -= log_t.mean()

    def slope(losses: np.ndarray) -> float:
        mean = losses.mean(0)
        if not (np.isfinite(mean) & (mean > 0)).all():
            return math.nan
        return float(-(log_t @ np.log(mean)) / (log_t @ log_t))

    curves = (run.diagonal[None], run.sampled, run.network)
    return Slopes((low, high), *(Slope(*jackknife(slope, losses[:, inside])) for losses in curves))


def jackknife(statistic: Callable[..., float], *samples: np.ndarray) -> tuple[float | None, float | None]:
    """The statistic of `samples`, (R, …) each, and its standard error from leaving out one replicate at a time; None
    where they are not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(*samples))
        if not math.isfinite(value):
            return None, None
        replicates = len(samples[0])
        if replicates < 2:
            return value, None
        left = np.array([statistic(*(np.delete(s, i, axis=0) for s in samples)) for i in range(replicates)])
    error = math.sqrt((replicates - 1) * float(np.mean((left - left.mean()) ** 2)))
    return value, finite_or_none(error)
