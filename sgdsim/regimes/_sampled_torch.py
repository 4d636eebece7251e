"""The loop of the sampled regime for a torch device: all replicates in one batch."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch

from sgdsim.problem import QuadraticProblem

# Bytes of kernel rows gathered at once; more replicates than fit are taken in groups.
_GATHERED = 1 << 30

_lock = threading.Lock()
_kernels: weakref.WeakKeyDictionary[QuadraticProblem, dict[str, torch.Tensor]] = weakref.WeakKeyDictionary()


def kernel_on(problem: QuadraticProblem, device: str) -> torch.Tensor:
    """`problem.kernel` (N, N) float64 on `device`: one copy for all cells and threads, as long as the problem lives."""
    with _lock:
        held = _kernels.setdefault(problem, {})
        if device not in held:
            held[device] = torch.tensor(problem.kernel, device=device)
        return held[device]


def sampled_advance(
    kernel: torch.Tensor,
    r: torch.Tensor,
    v: torch.Tensor,
    lr: np.ndarray,
    momentum: np.ndarray,
    sizes: np.ndarray,
    batches: np.ndarray,
) -> None:
    """`_kernels.sampled_advance`, up to rounding, on the device of `kernel` (N, N).

    r and v (R, N) in place; lr, momentum and sizes (T,); batches (R, T, b) int32, where step t uses the first sizes[t].
    """
    n, replicates = kernel.shape[0], r.shape[0]
    indices = torch.as_tensor(batches, device=kernel.device).long()
    for t in range(lr.size):
        b = int(sizes[t])
        together = max(1, _GATHERED // (8 * n * b))
        scale = float(lr[t]) * n / b
        for low in range(0, replicates, together):
            group = slice(low, low + together)
            batch = indices[group, t, :b]
            weights = r[group].gather(1, batch)[:, None]  # (group, 1, b)
            v[group, None].baddbmm_(weights, kernel[batch], beta=float(momentum[t]), alpha=-scale)
        r += v
