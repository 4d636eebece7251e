"""What a larger batch buys: learning rates, steps and samples to a target loss against the batch size, and the noise
scale of the gradient.

Three readings of a critical batch size stand side by side. B_simple and B_noise are of the gradient at the start
(`sgdsim.theory.noise_scale`). The largest stable learning rate bends where it is half of its full-batch limit 2(1 + β).
And steps S and samples E = Sb to the target follow `(S/S_min − 1)(E/E_min − 1) = 1` more or less, with E_min/S_min
(`sgdsim.theory.critical_batch`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from sgdsim.algorithm.samplers import ONE_PASS, WITHOUT_REPLACEMENT, noise_factor
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.shown import Shown
from sgdsim.common.specs import readable, shortest
from sgdsim.common.table import Table
from sgdsim.common.text import percent
from sgdsim.problem import NetworkProblem, Problem, QuadraticProblem
from sgdsim.studies.base import Findings
from sgdsim.theory import critical_batch, noise_scale, stability, verdicts
from sgdsim.theory.critical_batch import Tradeoff
from sgdsim.theory.noise_scale import NoiseScale, TwoBatches

REACH, PAIRS = 0.1, 50
_FOLD = 4


@dataclass(frozen=True, repr=False)
class OfBatch(Shown):
    """One batch size: γ as the modes see it, the largest stable learning rate by spectral-diagonal theory, the best one
    for the first step (None: not known), and the one that takes the fewest steps to the target with whether that is
    stable in the exact average; None with a `reason` where the target is not reached or that is not known."""

    batch_size: int
    noise: float
    max_lr: float
    first_lr: float | None
    best_lr: float | None
    stable: bool | None
    stable_reason: str
    steps: int | None
    samples: int | None
    reason: str


@dataclass(frozen=True)
class Measured:
    """The two-batch estimate on a real network at its start, with batches of these sizes without replacement."""

    small: int
    large: int
    seed: int
    found: TwoBatches


@dataclass(frozen=True, repr=False)
class BatchSizes(Findings):
    """Rows by batch size, and what a critical batch is.

    `scale`: None where it is not known, for `scale_reason`. `measured`: of networks. `half_limit_batch`: the b at which
    the largest stable learning rate is half of its full-batch limit 2(1 + β); None: below 1. `relation`: of steps and
    samples; None where fewer than three batch sizes reach the target. `critical`: its E_min/S_min, as a batch size.
    """

    momentum: float
    tau: float
    sampling: str
    reach: float
    rows: tuple[OfBatch, ...]
    scale: NoiseScale | None
    scale_reason: str
    measured: Measured | None
    half_limit_batch: float | None
    relation: Tradeoff | None
    critical: float | None

    def table(self) -> Table:
        """A row for each batch size."""
        headers = ["batch", "stable lr", "first-step lr", "best lr", "stable", "steps", "samples"]
        rows = [
            [row.batch_size, row.max_lr, row.first_lr, row.best_lr, "-" if row.best_lr is None else
             verdicts.WORDS[row.stable], row.steps, row.samples]
            for row in self.rows
        ]  # fmt: skip
        return Table(headers, rows)

    def notes(self) -> list[str]:
        """What the table does not say, in sentences."""
        out = [f"batch {row.batch_size}: {row.reason}" for row in self.rows if row.reason]
        asked = dict.fromkeys(row.stable_reason for row in self.rows if row.best_lr is not None and row.stable is None)
        out += [f"?: {reason}" for reason in asked]
        out += [
            f"batch {row.batch_size}: real batches do not take these steps, as the best lr here diverges in the exact "
            f"average: {row.stable_reason}"
            for row in self.rows
            if row.stable is False
        ]
        half = "below batch 1" if self.half_limit_batch is None else f"at batch {self.half_limit_batch:.4g}"
        out.append(f"the largest stable lr is half of its full-batch limit 2(1 + momentum) {half}")
        if self.relation is not None:
            out.append(_said(self.relation, self.critical))
        if self.scale is None:
            out.append(f"noise scale: not known: {self.scale_reason}")
        else:
            scale = f"B_simple {self.scale.b_simple:.4g}, B_noise {self.scale.b_noise:.4g}"
            out.append(f"noise scale at the start: {scale} (by {self.scale.known_by})")
        return out + ([] if self.measured is None else [_estimate(self.measured)])


def _said(relation: Tradeoff, critical: float | None) -> str:
    least = f"S_min {relation.least_steps:.4g}, E_min {relation.least_samples:.4g}"
    found = "none" if critical is None else f"{critical:.4g}"
    return (
        f"steps S and samples E, (S/S_min - 1)(E/E_min - 1) = 1: {least}, critical batch {found}; "
        f"the steps deviate from it by up to {percent(relation.misfit)}"
    )


def _estimate(measured: Measured) -> str:
    found = measured.found
    high = "infinite" if math.isinf(found.high) else f"{found.high:.4g}"
    value = "-" if math.isinf(found.b_simple) else f"{found.b_simple:.4g}"
    pairs = f"{found.pairs} pairs of batches of {measured.small} and {measured.large} points of the network"
    return f"two-batch estimate of B_simple: {value} (95%: {found.low:.4g} to {high}), from {pairs}"


def usual_sizes(n: float) -> list[int]:
    """1, 4, 16, … up to N, and N itself, at most 4096."""
    top = min(n, _FOLD**6)
    return [*(size for size in (_FOLD**k for k in range(7)) if size < top), int(top)]


def batch_sizes(
    problem: Problem,
    sizes: Sequence[int] | None = None,
    *,
    reach: float = REACH,
    momentum: float = 0.0,
    tau: float | None = None,
    sampling: str = WITHOUT_REPLACEMENT,
    pairs: int = 0,
    seed: int = 0,
) -> BatchSizes:
    """Learning rates, and steps to `reach` times the initial loss, of each batch size (None: `usual_sizes`).

    `tau`: closure of the spectral-diagonal theory, of all learning rates and steps; None: 1, or −1 with one-pass, where
    it is exact. `pairs`: of the two-batch estimate, where there is a network; 0: none.

    Raises
    ------
    InputError : bad numbers; batches that the data cannot fill; a population without one-pass; τ > 1.
    """
    algorithms = _algorithms(problem, usual_sizes(problem.n) if sizes is None else sizes, momentum, sampling)
    quadratic = problem.quadratic
    number("reach", reach, minimum=0.0, maximum=1.0, open_ends=True)
    tau = (-1.0 if sampling == ONE_PASS else 1.0) if tau is None else number("tau", tau, maximum=1.0)
    scale, why = _scale(quadratic, sampling)
    rows = [_row(quadratic, sgd, reach, tau, scale) for sgd in algorithms]
    reached = [row for row in rows if row.steps is not None]
    relation = critical_batch.tradeoff(
        *np.array([(row.noise, cast(int, row.steps)) for row in reached]).reshape(-1, 2).T
    )
    half = critical_batch.half_limit_noise(quadratic, momentum, tau)
    at = None if relation is None else relation.critical_noise
    return BatchSizes(
        momentum, tau, sampling, reach, tuple(rows), scale, why, _measured(problem, pairs, seed),
        half_limit_batch=_batch(quadratic, half, sampling), relation=relation, critical=_batch(quadratic, at, sampling),
    )  # fmt: skip


def _algorithms(problem: Problem, sizes: Sequence[int], momentum: float, sampling: str) -> list[SGD]:
    """By ascending batch size; InputError for those that do not fit the problem."""
    problem.check_squared("batch")
    if problem.population is not None and sampling != ONE_PASS:
        raise InputError(f"sampling: expected one-pass on a population, which has no fixed points, got {sampling}")
    if not sizes or len(set(sizes)) < len(sizes):
        raise InputError(f"batch_size: expected different sizes, got {', '.join(map(str, sizes)) or 'none'}")
    whole = sorted(integer("batch_size", size, minimum=1) for size in sizes)
    algorithms = [SGD(1.0, momentum, size, sampling=sampling) for size in whole]
    for sgd in algorithms:
        sgd.check(problem.n, 1)
    return algorithms


def _batch(problem: QuadraticProblem, noise: float | None, sampling: str) -> float | None:
    """The batch size with this γ of modes."""
    return None if noise is None else critical_batch.batch_with(noise / problem.share, problem.n, sampling)


def _scale(problem: QuadraticProblem, sampling: str) -> tuple[NoiseScale | None, str]:
    try:
        return noise_scale.noise_scale(problem, sampling), ""
    except InputError as error:
        return None, str(error).removeprefix("noise scale: ")


def _row(problem: QuadraticProblem, sgd: SGD, reach: float, tau: float, scale: NoiseScale | None) -> OfBatch:
    size, noise, momentum = cast(int, sgd.batch_size), problem.noise(sgd), cast(float, sgd.momentum)
    known = critical_batch.fewest_steps(problem, reach, noise=noise, momentum=momentum, tau=tau)
    stable, reason = None, ""
    if known.lr is not None:
        verdict = verdicts.verdict(problem, SGD(known.lr, momentum, size, sampling=sgd.sampling))
        stable, reason = verdict.stable, verdict.reason
    return OfBatch(
        size,
        noise,
        max_lr=float(stability.diagonal_max_lr(problem, momentum=momentum, noise=noise, tau=tau)),
        first_lr=None if scale is None else float(scale.first_lr(noise / problem.share)),
        best_lr=known.lr,
        stable=stable,
        stable_reason=reason,
        steps=known.steps,
        samples=None if known.steps is None else known.steps * size,
        reason=known.reason,
    )


def _measured(problem: Problem, pairs: int, seed: int) -> Measured | None:
    """None without a network, without pairs, and of fewer points than two batches of different noise take."""
    if not isinstance(problem, NetworkProblem) or integer("pairs", pairs) == 0 or problem.n < 2:
        return None
    small, large = 1, max(2, problem.n // 4)  # tr Σ is known best from single points
    return Measured(small, large, seed, two_batch_estimate(problem, small, large, pairs=pairs, seed=seed))


def two_batch_estimate(
    problem: NetworkProblem, small: int, large: int, *, pairs: int = PAIRS, seed: int = 0
) -> TwoBatches:
    """B_simple of a real network at its present parameters, from gradients of `pairs` of random batches of `small` and
    `large` sizes, each without replacement. InputError as `sgdsim.theory.noise_scale.two_batches`."""
    from sgdsim.networks.curvature import Curvature

    problem.check_squared("batch")
    integer("pairs", pairs, minimum=3)
    sizes = [integer("batch_size", size, minimum=1, maximum=problem.n) for size in (small, large)]
    rng, data = np.random.default_rng(integer("seed", seed)), problem.data
    squares = np.empty((pairs, 2))
    for row in squares:
        for k, size in enumerate(sizes):
            batch = rng.choice(problem.n, size, replace=False)
            module = Curvature(
                problem.network, data.x[batch], data.y[batch], device=problem.device, dtype=problem.dtype
            )
            row[k] = float(np.square(module.gradient()).sum())
    noise = [float(noise_factor(data.n, size)) for size in sizes]
    return noise_scale.two_batches(squares, (noise[0], noise[1]))


def title(found: BatchSizes, problem: str) -> str:
    """What the numbers are of, in a line."""
    how = "" if found.sampling == WITHOUT_REPLACEMENT else f", {found.sampling}"
    words = f"momentum {readable(found.momentum)}, tau {shortest(found.tau)}{how}"
    return f"{problem}: {words}; steps to {found.reach:.4g} of the initial loss"
