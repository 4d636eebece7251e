"""How the points of mini-batches are chosen: a sampler by each name that `SGD.sampling` may have.

With `D = diag(D_i)`, D_i the weight with which point i enters a batch's gradient `K̂Dr`, on average 1, the second
moments of two points are `E D_iD_j = (1 − γ) + δ_ij γ N q_i`: γ is the sampler's `noise`, q its `pair_inclusion`. So
the mean over batches of a gradient's square is `E[G C Gᵀ] = γ N K̂ diag(q_i C_ii) K̂ + (1−γ) K̂ C K̂`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from sgdsim.common.checks import InputError, choice

WITHOUT_REPLACEMENT = "without-replacement"
WITH_REPLACEMENT = "with-replacement"
RESHUFFLE = "reshuffle"
IMPORTANCE = "importance"
ONE_PASS = "one-pass"


class Asked(NamedTuple):
    """Batches of the steps `start`, `start` + 1, …, of `sizes` (T,) int64 out of `n` points, for the generator's `keys`
    (R, 2). `place`: of dependent batches, what `EpochPlaces` says of `start`. `diagonal`: Θ_ii up to a factor, (n,), of
    weighted ones."""

    n: int
    sizes: np.ndarray
    start: int
    keys: np.ndarray
    place: tuple[int, int] = (0, 0)
    diagonal: np.ndarray | None = None


class Draw(NamedTuple):
    """Batches of T steps and R replicates: `indices` (R, T, b) int32, −1 beyond a step's own size; `weights` (R, T, b)
    float64, with which the points enter the mean over the batch, or None: all 1."""

    indices: np.ndarray
    weights: np.ndarray | None


class Sampling(ABC):
    """What regimes and theory ask of the way in which batches are made."""

    name: ClassVar[str]
    independent: ClassVar[bool] = True
    """Whether the batches of different steps are."""
    bounded: ClassVar[bool] = True
    """Whether a batch has at most N points."""
    weighted: ClassVar[bool] = False
    """Whether points have chances and weights of their own, by the kernel's diagonal."""

    @property
    def closed(self) -> bool:
        """Whether γ alone says what the noise is: there is theory then."""
        return self.independent and not self.weighted

    @abstractmethod
    def noise(self, n: int, b: np.ndarray) -> np.ndarray:
        """γ of batches of b of n points, float64 like b; of dependent ones that of a single batch."""


class Sampler(Sampling):
    """Batches of points of the data set."""

    @abstractmethod
    def draw(self, asked: Asked) -> Draw:
        """These batches: a function of what is asked for alone, and step by step, never of how a run is cut."""

    def pair_inclusion(self, diagonal: np.ndarray) -> np.ndarray | None:
        """q (n,), see above; None where all are 1."""
        return None


class WithoutReplacement(Sampler):
    """Each batch by itself, no point twice in it."""

    name = WITHOUT_REPLACEMENT

    def noise(self, n: int, b: np.ndarray) -> np.ndarray:
        return 1.0 / b if math.isinf(n) else (n - b) / (max(n - 1, 1) * b)

    def draw(self, asked: Asked) -> Draw:
        from sgdsim.algorithm import draws

        return Draw(draws.independent(*asked[:4], with_replacement=False), None)


class WithReplacement(Sampler):
    """Each point by itself."""

    name = WITH_REPLACEMENT
    bounded = False

    def noise(self, n: int, b: np.ndarray) -> np.ndarray:
        return 1.0 / b

    def draw(self, asked: Asked) -> Draw:
        from sgdsim.algorithm import draws

        return Draw(draws.independent(*asked[:4], with_replacement=True), None)


class Reshuffle(WithoutReplacement):
    """Every epoch is a fresh permutation cut into batches; points left over when the next batch does not fit are
    skipped (as a data loader with `shuffle=True, drop_last=True` does; for False see `whole_epochs`)."""

    name = RESHUFFLE
    independent = False

    def draw(self, asked: Asked) -> Draw:
        from sgdsim.algorithm import draws

        return Draw(draws.reshuffled(asked.n, asked.sizes, asked.keys, asked.place), None)


class Importance(WithReplacement):
    """Each point by itself, with chance p_i ∝ ‖j_i‖² = Θ_ii and weight 1/(N p_i), so that the mean gradient is the data
    set's (Needell, Srebro & Ward, arXiv:1310.5715): `E D_iD_j = (1 − 1/b) + δ_ij/(b p_i)`."""

    name = IMPORTANCE
    weighted = True

    def draw(self, asked: Asked) -> Draw:
        from sgdsim.algorithm import draws

        if asked.diagonal is None:
            raise InputError("sampling: importance needs the kernel's diagonal, got none")
        indices = draws.by_chance(np.maximum(asked.diagonal, 0.0), asked.sizes, asked.start, asked.keys)
        return Draw(indices, np.where(indices < 0, 0.0, self.pair_inclusion(asked.diagonal)[indices]))

    def pair_inclusion(self, diagonal: np.ndarray) -> np.ndarray:
        sizes = np.maximum(diagonal, 0.0)
        # A point without gradient is never drawn, and moves nothing.
        return np.divide(sizes.mean(), sizes, out=np.zeros(sizes.size), where=sizes > 0)


class OnePass(Sampling):
    """No sampler but a population: new Gaussian points at every step, with the problem's spectrum."""

    name = ONE_PASS
    bounded = False

    def noise(self, n: int, b: np.ndarray) -> np.ndarray:
        return 1.0 / b


_KINDS: tuple[type[Sampler], ...] = (WithoutReplacement, WithReplacement, Reshuffle, Importance)
SAMPLERS: dict[str, Sampler] = {kind.name: kind() for kind in _KINDS}
_ALL: dict[str, Sampling] = {**SAMPLERS, ONE_PASS: OnePass()}
SAMPLINGS = tuple(_ALL)
OF_POINTS = tuple(name for name, sampler in SAMPLERS.items() if not sampler.weighted)  # all of them as likely
CLOSED = tuple(name for name, sampling in _ALL.items() if sampling.closed)


def named(name: str) -> Sampling:
    """The way to make batches that is called `name`; InputError for others."""
    return _ALL[choice("sampling", name, _ALL)]


def refuse_weights(sampling: str) -> None:
    """InputError for a sampling whose points have weights: for those who know the noise by γ alone."""
    if named(sampling).weighted:
        raise InputError(
            f"sampling: expected one of equally likely points, got {sampling}, whose noise no single number gives; "
            "use the averaged, sampled or network regime"
        )


def noise_factor(n_samples: int, batch_size: np.ndarray | int, sampling: str = WITHOUT_REPLACEMENT) -> np.ndarray:
    """Strength γ of the sampling noise: `(N−b)/((N−1)b)` without replacement (0 at b = N), else `1/b`; so is
    the limit N → ∞.

    `E[G C Gᵀ] = γ N K̂ diag(C) K̂ + (1−γ) K̂ C K̂` for one mini-batch gradient operator G. InputError for a sampling
    whose points have weights: its noise is not of this form.

    >>> float(noise_factor(5, 2)), float(noise_factor(5, 5)), float(noise_factor(5, 2, "with-replacement"))
    (0.375, 0.0, 0.5)
    """
    refuse_weights(sampling)
    return named(sampling).noise(n_samples, np.asarray(batch_size, dtype=np.float64))
