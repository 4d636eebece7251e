"""The loops that draw mini-batches: arrays in, arrays out. Which of them a run needs, `samplers` says.

The batch of step `t` of replicate `r` is a function of `(seed, r, t)` alone: a counter-based generator (Philox4x32-10;
Salmon, Moraes, Dror & Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) is keyed by `(seed, r)` and counts
steps. So the real network and its linearisation see the same batches, on any device, in chunks of any length, with any
number of threads; and a batch of size b is the beginning of the batch of size b + 1 of the same step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sgdsim.common.compiled import launch, numba

BATCH, EPOCH, LABELS, FEATURES, LENGTHS = range(5)  # streams of the generator

_LAID_OUT = 1_000_000  # steps whose batch sizes are held at once

_MASK = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@numba.njit(cache=True, nogil=True)
def philox(counter: np.ndarray, key0: np.uint64, key1: np.uint64, out: np.ndarray) -> None:
    """Ten rounds of Philox4x32 on `counter` (4,) under the key; four 32-bit words go to `out` (4,), all uint64."""
    c0, c1, c2, c3 = counter[0], counter[1], counter[2], counter[3]
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ key0, p1 & _MASK, (p0 >> _32) ^ c3 ^ key1, p0 & _MASK
        key0 = (key0 + _W0) & _MASK
        key1 = (key1 + _W1) & _MASK
    out[0], out[1], out[2], out[3] = c0, c1, c2, c3


@numba.njit(cache=True, nogil=True)
def seek(counter, position, stream):
    """Point the generator at the start of (stream, position)."""
    counter[0] = np.uint64(0)
    counter[1] = np.uint64(position) & _MASK
    counter[2] = np.uint64(position) >> _32
    counter[3] = np.uint64(stream)


@numba.njit(cache=True, nogil=True)
def _below(bound, counter, key0, key1, words, used):
    """An unbiased integer in [0, bound) (Lemire's multiply-and-reject), and how many of `words` are used up."""
    bound = np.uint64(bound)
    while True:
        if used == 4:
            philox(counter, key0, key1, words)
            counter[0] += np.uint64(1)
            used = 0
        product = words[used] * bound
        used += 1
        low = product & _MASK
        # Rejection is needed only for the few values of `low` that would be counted once too often.
        if low >= bound or low >= ((_MASK + np.uint64(1)) - bound) % bound:
            return np.int64(product >> _32), used


@numba.njit(cache=True, nogil=True)
def _shuffle_front(order, count, position, stream, key0, key1, counter, words, swaps):
    """Bring a uniform ordered sample of `count` of the entries of `order` to its front; record the swaps."""
    seek(counter, position, stream)
    used = 4
    for i in range(count):
        offset, used = _below(order.size - i, counter, key0, key1, words, used)
        j = i + offset
        swaps[i] = j
        order[i], order[j] = order[j], order[i]


@numba.njit(cache=True, nogil=True, parallel=True)
def _draw_independent(keys, n_samples, sizes, start, with_replacement, out):
    for r in numba.prange(keys.shape[0]):
        order = np.arange(n_samples).astype(np.int32)
        swaps = np.empty(n_samples, np.int64)
        counter = np.empty(4, np.uint64)
        words = np.empty(4, np.uint64)
        for t in range(sizes.size):
            b = sizes[t]
            if with_replacement:
                seek(counter, start + t, BATCH)
                used = 4
                for i in range(b):
                    index, used = _below(n_samples, counter, keys[r, 0], keys[r, 1], words, used)
                    out[r, t, i] = index
            else:
                _shuffle_front(order, b, start + t, BATCH, keys[r, 0], keys[r, 1], counter, words, swaps)
                for i in range(b):
                    out[r, t, i] = order[i]
                for i in range(b - 1, -1, -1):  # undo, so that the draw stays O(b) and depends on t alone
                    j = swaps[i]
                    order[i], order[j] = order[j], order[i]


@numba.njit(cache=True, nogil=True, parallel=True)
def _draw_by_chance(keys, cumulated, sizes, start, out):
    for r in numba.prange(keys.shape[0]):
        counter = np.empty(4, np.uint64)
        words = np.empty(4, np.uint64)
        for t in range(sizes.size):
            seek(counter, start + t, BATCH)
            for i in range(sizes[t]):
                if i % 2 == 0:
                    philox(counter, keys[r, 0], keys[r, 1], words)
                    counter[0] += np.uint64(1)
                high, low = words[2 * (i % 2)], words[2 * (i % 2) + 1]
                uniform = ((high >> np.uint64(5)) * 67108864.0 + (low >> np.uint64(6))) / 9007199254740992.0  # 53 bits
                out[r, t, i] = np.searchsorted(cumulated, uniform, side="right")


@numba.njit(cache=True, nogil=True, parallel=True)
def _draw_reshuffled(keys, n_samples, sizes, epochs, offsets, out):
    for r in numba.prange(keys.shape[0]):
        order = np.empty(n_samples, np.int32)
        swaps = np.empty(n_samples, np.int64)
        counter = np.empty(4, np.uint64)
        words = np.empty(4, np.uint64)
        current = np.int64(-1)
        for t in range(sizes.size):
            if epochs[t] != current:
                current = epochs[t]
                for i in range(n_samples):
                    order[i] = i
                _shuffle_front(order, n_samples, current, EPOCH, keys[r, 0], keys[r, 1], counter, words, swaps)
            for i in range(sizes[t]):
                out[r, t, i] = order[offsets[t] + i]


@numba.njit(cache=True, nogil=True)
def _epoch_layout(sizes, n_samples, epoch, offset, epochs, offsets):
    """Epoch and offset of each batch, from a place on; returns the place behind the last."""
    for t in range(sizes.size):
        if offset + sizes[t] > n_samples:
            epoch += 1
            offset = 0
        epochs[t] = epoch
        offsets[t] = offset
        offset += sizes[t]
    return epoch, offset


class EpochPlaces:
    """Where reshuffled epochs are at a step: (epoch, how many of its points are used).

    `batch_sizes(start, stop)` gives the sizes of those steps. Going on from the last step that was asked for, a run in
    many pieces costs as much as one in one piece.
    """

    def __init__(self, n_samples: int, batch_sizes: Callable[[int, int], np.ndarray]) -> None:
        self._n, self._sizes = n_samples, batch_sizes
        self._known = (0, 0, 0)  # step, epoch, used: replaced as one, as threads may share this

    def at(self, step: int) -> tuple[int, int]:
        """The place before `step`."""
        now, epoch, used = self._known
        if now > step:
            now, epoch, used = 0, 0, 0
        while now < step:
            sizes = self._sizes(now, min(now + _LAID_OUT, step))
            scratch = np.empty((2, sizes.size), dtype=np.int64)
            epoch, used = _epoch_layout(sizes, self._n, epoch, used, *scratch)
            now += sizes.size
        self._known = (now, epoch, used)
        return epoch, used


@numba.njit(cache=True, nogil=True)
def normals(counter, words, key0, key1, out):
    """Fill `out` with standard normals from the generator's present place (Box–Muller on 32-bit uniforms in (0, 1])."""
    scale = 1.0 / 4294967296.0
    for i in range(0, out.size, 2):
        if i % 4 == 0:
            philox(counter, key0, key1, words)
            counter[0] += np.uint64(1)
        radius = np.sqrt(-2.0 * np.log((np.float64(words[i % 4]) + 1.0) * scale))
        angle = 2.0 * np.pi * (np.float64(words[i % 4 + 1]) * scale)
        out[i] = radius * np.cos(angle)
        if i + 1 < out.size:
            out[i + 1] = radius * np.sin(angle)


@numba.njit(cache=True, nogil=True)
def chi_square(counter, words, key0, key1, degrees):
    """A χ² variable of `degrees` ≥ 1 from the generator's present place (Marsaglia & Tsang, ACM TOMS 26, 363, 2000)."""
    z = np.empty(1)
    if degrees == 1:
        normals(counter, words, key0, key1, z)
        return z[0] * z[0]
    shape = degrees / 2 - 1 / 3
    while True:
        normals(counter, words, key0, key1, z)  # of two words; the next decides whether it is kept
        w = z[0] / np.sqrt(9 * shape)
        level = np.log((np.float64(words[2]) + 1.0) / 4294967296.0)
        if w > -1 and level < z[0] * z[0] / 2 + shape * (3 * np.log1p(w) - w * (3 + w * (3 + w))):
            return 2 * shape * (1 + w) ** 3


@numba.njit(cache=True, nogil=True, parallel=True)
def _draw_labels(keys, start, out):
    for r in numba.prange(keys.shape[0]):
        counter = np.empty(4, np.uint64)
        words = np.empty(4, np.uint64)
        for t in range(out.shape[1]):
            seek(counter, start + t, LABELS)
            normals(counter, words, keys[r, 0], keys[r, 1], out[r, t])


def label_errors(start: int, stop: int, size: int, keys: np.ndarray) -> np.ndarray:
    """Standard normal label errors of the points drawn in steps start..stop-1, (R, stop - start, size) float64.

    As with the batches, those of a smaller batch are the beginning of those of a larger one.
    """
    out = np.empty((keys.shape[0], stop - start, size))
    _draw_labels(keys, start, out)
    return out


def replicate_keys(seed: int, replicates: int) -> np.ndarray:
    """The generator's key of each replicate, (replicates, 2) uint64 holding 32-bit words; replicate r's key does not
    depend on how many replicates there are."""
    launch()
    keys = [np.random.SeedSequence(seed, spawn_key=(r,)).generate_state(2, np.uint32) for r in range(replicates)]
    return np.array(keys, dtype=np.uint64).reshape(replicates, 2)


def independent(
    n_samples: int, sizes: np.ndarray, start: int, keys: np.ndarray, *, with_replacement: bool
) -> np.ndarray:
    """Batches that do not depend on each other, as `sampling.minibatch_indices`."""
    out = _empty(keys, sizes)
    _draw_independent(keys, n_samples, sizes, start, with_replacement, out)
    return out


def by_chance(chances: np.ndarray, sizes: np.ndarray, start: int, keys: np.ndarray) -> np.ndarray:
    """Batches of points drawn one by one, with `chances` (N,) ≥ 0 up to a factor, as `sampling.minibatch_indices`."""
    out, cumulated = _empty(keys, sizes), np.cumsum(chances)
    _draw_by_chance(keys, cumulated / cumulated[-1], sizes, start, out)
    return out


def reshuffled(n_samples: int, sizes: np.ndarray, keys: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """Batches of reshuffled epochs from `place` on, as `sampling.minibatch_indices`."""
    out, layout = _empty(keys, sizes), np.empty((2, sizes.size), dtype=np.int64)
    _epoch_layout(sizes, n_samples, place[0], place[1], layout[0], layout[1])
    _draw_reshuffled(keys, n_samples, sizes, layout[0], layout[1], out)
    return out


def _empty(keys: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.full((keys.shape[0], sizes.size, int(sizes.max(initial=0))), -1, dtype=np.int32)
