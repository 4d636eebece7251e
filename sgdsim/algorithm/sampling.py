"""Mini-batches as users ask for them: the names of all samplings, and the indices that a run draws.

The batch of step `t` of replicate `r` is a function of `(seed, r, t)` alone, see `draws`.
"""

from __future__ import annotations

import numpy as np

from sgdsim.algorithm.draws import EpochPlaces, label_errors, normals, philox, replicate_keys
from sgdsim.algorithm.samplers import (
    OF_POINTS,
    ONE_PASS,
    RESHUFFLE,
    SAMPLERS,
    SAMPLINGS,
    WITH_REPLACEMENT,
    WITHOUT_REPLACEMENT,
    Asked,
)  # fmt: skip
from sgdsim.common.checks import InputError, choice
from sgdsim.common.rooms import listing

__dir__ = listing(__name__)

__all__ = [
    "OF_POINTS", "ONE_PASS", "RESHUFFLE", "SAMPLINGS", "WITHOUT_REPLACEMENT", "WITH_REPLACEMENT", "EpochPlaces",
    "label_errors", "minibatch_indices", "normals", "philox", "replicate_keys",
]  # fmt: skip


def minibatch_indices(
    n_samples: int,
    batch_sizes: np.ndarray,
    start: int,
    stop: int,
    keys: np.ndarray,
    sampling: str = WITHOUT_REPLACEMENT,
    place: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Indices of the mini-batches of steps start..stop-1 for each replicate.

    Parameters
    ----------
    n_samples : number of training points N, below 2**31.
    batch_sizes : (stop - start,) integers in [1, N].
    keys : (R, 2) from `replicate_keys`.
    sampling : "without-replacement" (each batch by itself), "with-replacement", or "reshuffle": every epoch is a fresh
        permutation cut into batches; points left over when the next batch does not fit are skipped (as a data loader
        with `shuffle=True, drop_last=True` does).
    place : of "reshuffle": what `EpochPlaces.at(start)` says; (0, 0) at step 0.

    Returns
    -------
    (R, stop - start, max batch size) int32; entries beyond a step's own batch size are -1.

    Raises
    ------
    InputError : a batch larger than N with a sampling that cannot repeat points, or an unknown sampling.
    """
    choice("sampling", sampling, OF_POINTS)
    sizes = np.ascontiguousarray(batch_sizes, dtype=np.int64)
    if sizes.size and sizes.max() > n_samples and SAMPLERS[sampling].bounded:
        raise InputError(f"batch_size: expected at most the {n_samples} training points, got {sizes.max()}")
    return SAMPLERS[sampling].draw(Asked(n_samples, sizes, start, keys, place)).indices
