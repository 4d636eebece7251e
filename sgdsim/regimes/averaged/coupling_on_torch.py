"""The matrices of `sgdsim.recurrence.coupling` on a torch device, whose products are what a GPU is good at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sgdsim.recurrence import skeleton
from sgdsim.recurrence.coupling import Coupling

if TYPE_CHECKING:
    from sgdsim.recurrence.averaged_modes import AveragedModes

_ROWS = 64  # points whose products are made at once
_AT_ONCE = 2**28  # numbers that these products take at most, or one row's


class OnTorch(Coupling):
    """`Coupling` with M_s, and the products with them, on `device`: all of each, as halves would save no time there."""

    def __init__(self, of: AveragedModes, sigmas: np.ndarray, tolerance: float, *, device: str) -> None:
        self.device = device
        super().__init__(of, sigmas, tolerance)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        dtype = torch.float32 if self.dtype == np.float32 else torch.float64
        return torch.as_tensor(np.ascontiguousarray(values), dtype=dtype, device=self.device)

    def _make(self, of: AveragedModes) -> None:
        moving = [b for b in self.bins if b.nodes[0] > 0]
        u, size = self._tensor(self.u), max(1, self.feeds.shape[1] * self.n)
        rows = max(1, min(_ROWS, _AT_ONCE // size))
        self.fixed = [self._between(moving, u[low : low + rows], u) for low in range(0, self.n, rows)]
        self.tested = None
        if self.transfer is not None:
            some = self._tensor(self.transfer)
            parts = [self._between(moving, some[low : low + rows], u).sum(0) for low in range(0, len(some), rows)]
            self.tested = torch.stack(parts).sum(0).double().cpu().numpy() / len(some)

    def _between(self, moving: list[skeleton.Bin], left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """M_s between the points `left` and `right`, given by their share in each mode: (left, S, right)."""
        parts = []
        for b in moving:
            own = self._tensor((b.shares * (self.x[b.low : b.high, None] / b.nodes)).T)
            parts.append((left[:, None, b.low : b.high] * own) @ right[:, b.low : b.high].T)
        nodes = torch.cat(parts, 1)
        p = self._tensor(self.columns[: nodes.shape[1]].T) @ nodes
        first, second = torch.triu_indices(p.shape[1], p.shape[1], device=self.device)
        return self._tensor(self.feeds) @ (p[:, first] * p[:, second])

    def images(self, v: np.ndarray) -> np.ndarray:
        columns = self._tensor(v)
        return torch.cat([rows @ columns for rows in self.fixed]).double().cpu().numpy()
