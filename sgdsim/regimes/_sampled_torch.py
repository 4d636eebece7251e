"""Plain heavy ball on sampled batches on a torch device: all replicates in one batch."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch

from sgdsim.algorithm.sgd import SGD, StepValues
from sgdsim.problem import QuadraticProblem
from sgdsim.regimes import _sampled_plain

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


class OnTorch(_sampled_plain.HeavyBall):
    """Residuals `r` and velocities `v`, (R, N), as tensors on a device: the numbers of `Compiled` up to rounding."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, keys: np.ndarray, device: str) -> None:
        super().__init__(problem, sgd, keys)
        self.kernel = kernel_on(problem, device)
        self.r = self.kernel.new_tensor(self.rows.started(len(keys)))
        self.v = torch.zeros_like(self.r)

    def take(self, values: StepValues, batches: np.ndarray) -> None:
        n, replicates = len(self.kernel), len(self.r)
        indices = torch.as_tensor(batches, device=self.kernel.device).long()
        for t in range(values.lr.size):
            b = int(values.batch_size[t])
            together = max(1, _GATHERED // (8 * n * b))
            beta, scale = float(values.momentum[t]), float(values.lr[t]) * n / b
            for low in range(0, replicates, together):
                group = slice(low, low + together)
                batch = indices[group, t, :b]
                weights = self.r[group].gather(1, batch)[:, None]  # (group, 1, b)
                self.v[group, None].baddbmm_(weights, self.kernel[batch], beta=beta, alpha=-scale)
            self.r += self.v

    def held(self) -> np.ndarray:
        return self.r.cpu().numpy()

    def keep(self, replicates: np.ndarray) -> bool:
        places = self.rows.kept(replicates)
        self.keys, self.r, self.v = self.keys[replicates], self.r[places], self.v[places]
        return True
