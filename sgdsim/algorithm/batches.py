"""The batches of a run, in blocks short enough for memory: the same for every regime that draws some."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from sgdsim.algorithm import draws
from sgdsim.algorithm.samplers import Asked, Sampler
from sgdsim.algorithm.sgd import SGD, StepValues
from sgdsim.common.checks import InputError

# Batch indices drawn ahead at once, over all replicates (int32: 64 MB).
_DRAWN = 16_000_000


def batch_blocks(
    sgd: SGD, n_samples: int, keys: np.ndarray, start: int, stop: int, diagonal: np.ndarray | None = None
) -> Iterator[tuple[StepValues, np.ndarray, np.ndarray | None]]:
    """Yield (values, indices, weights) for consecutive ranges of steps, each range short enough for memory; the last
    two as `samplers.Draw` has them. All stochastic regimes draw their batches here.

    `diagonal`: of the kernel, Θ_ii up to a factor, (N,), where the sampler is weighted; InputError without it.
    """
    sampler = sgd.sampler
    if not isinstance(sampler, Sampler) or (sampler.weighted and diagonal is None):
        raise InputError(f"sampling: expected one of points that are all as likely, got {sgd.sampling}")
    values = sgd.values(n_samples, start, stop)
    largest = int(values.batch_size.max(initial=1))
    block = max(1, _DRAWN // (keys.shape[0] * largest * (3 if sampler.weighted else 1)))
    places = None if sampler.independent else _places(sgd, n_samples)
    for low in range(start, stop, block):
        high = min(low + block, stop)
        window = slice(low - start, high - start)
        place = (0, 0) if places is None else places.at(low)
        drawn = sampler.draw(Asked(n_samples, values.batch_size[window], low, keys, place, diagonal))
        yield type(values)(*(v[window] for v in values)), *drawn


def _places(sgd: SGD, n_samples: int) -> draws.EpochPlaces:
    """One for all pieces of a run (and for other runs of the same algorithm, which does no harm)."""
    try:
        return _kept_places(sgd, n_samples)
    except TypeError:  # a schedule of the user's that has no hash
        return draws.EpochPlaces(n_samples, sgd.batch_sizes)


@functools.lru_cache(maxsize=64)
def _kept_places(sgd: SGD, n_samples: int) -> draws.EpochPlaces:
    return draws.EpochPlaces(n_samples, sgd.batch_sizes)


def label_errors(sgd: SGD, batches: np.ndarray, start: int, keys: np.ndarray, outputs: int = 1) -> np.ndarray:
    """The labels' errors of `batches` (R, T, b) from step `start` on, (R, T, b), independent ones of C `outputs`
    (R, T, b, C); (R, T, 0) where there are none."""
    replicates, steps, size = batches.shape
    if not sgd.label_noise:
        return np.zeros((replicates, steps, 0))
    drawn = draws.label_errors(start, start + steps, size * outputs, keys)
    return sgd.label_noise * (drawn if outputs == 1 else drawn.reshape(replicates, steps, size, outputs))
