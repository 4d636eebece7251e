"""The batches of a run, in blocks short enough for memory: the same for every regime that draws some."""

from __future__ import annotations

import functools

import numpy as np

from sgdsim.algorithm import sampling
from sgdsim.algorithm.sgd import SGD

# Batch indices drawn ahead at once, over all replicates (int32: 64 MB).
_DRAWN = 16_000_000


def batch_blocks(sgd: SGD, n_samples: int, keys: np.ndarray, start: int, stop: int, width: int = 1):
    """Yield (values, batches) for consecutive ranges of steps, each range short enough for memory.

    `width`: numbers needed per index beside the index itself. Both stochastic regimes draw their batches here.
    """
    values = sgd.values(n_samples, start, stop)
    largest = int(values.batch_size.max(initial=1))
    block = max(1, _DRAWN // (keys.shape[0] * largest * width))
    places = _places(sgd, n_samples) if sgd.sampling == sampling.RESHUFFLE else None
    for low in range(start, stop, block):
        high = min(low + block, stop)
        window = slice(low - start, high - start)
        place = (0, 0) if places is None else places.at(low)
        batches = sampling.minibatch_indices(n_samples, values.batch_size[window], low, high, keys, sgd.sampling, place)
        yield type(values)(*(v[window] for v in values)), batches


def _places(sgd: SGD, n_samples: int) -> sampling.EpochPlaces:
    """One for all pieces of a run (and for other runs of the same algorithm, which does no harm)."""
    try:
        return _kept_places(sgd, n_samples)
    except TypeError:  # a schedule of the user's that has no hash
        return sampling.EpochPlaces(n_samples, sgd.batch_sizes)


@functools.lru_cache(maxsize=64)
def _kept_places(sgd: SGD, n_samples: int) -> sampling.EpochPlaces:
    return sampling.EpochPlaces(n_samples, sgd.batch_sizes)


def label_errors(sgd: SGD, batches: np.ndarray, start: int, keys: np.ndarray) -> np.ndarray:
    """The labels' errors of `batches` (R, T, b) from step `start` on, (R, T, b); (R, T, 0) where there are none."""
    replicates, steps, size = batches.shape
    if not sgd.label_noise:
        return np.zeros((replicates, steps, 0))
    return sgd.label_noise * sampling.label_errors(start, start + steps, size, keys)
