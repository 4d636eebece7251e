"""How the blocks of a kernel over all C outputs feed each other: `coupling` where E r² of a point is a C × C block.

With `W ≈ (LT) w(z) (LT)ᵀ` as there and `P_a = U diag((LT)_a) Uᵀ`, now (nC, nC) with blocks P_a,ij,

    (M(z) V)_i = Σ_ab w_ab(z) Σ_j P_a,ij V_j P_b,ijᵀ.

The matrices of M itself would be (nC²)²; so what M_s makes of V is worked out from the P_a each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sgdsim.recurrence import points
from sgdsim.recurrence.coupling import Coupling

if TYPE_CHECKING:
    from sgdsim.recurrence.averaged_modes import AveragedModes


class OfOutputs(Coupling):
    """`Coupling` whose vectors are those of `points.Blocks`, (nC²,)."""

    def _make(self, of: AveragedModes) -> None:
        n, outputs, rank = of.n, of.outputs, self.columns.shape[1]
        parts = np.divide(self.x[:, None], self.nodes, out=np.zeros_like(self.spread), where=self.nodes > 0)
        moved, upper = (self.spread * parts) @ self.columns, np.triu_indices(rank)
        self.between = np.zeros((len(self.shares), rank, rank))  # w_ab of each M_s
        self.between[:, upper[0], upper[1]] = self.feeds / 2
        self.between += self.between.transpose(0, 2, 1)
        u = self.u.astype(self.dtype)
        products = np.stack([(u * own) @ u.T for own in moved.T.astype(self.dtype)])  # P_a, (rank, nC, nC)
        rows = products.reshape(rank, n, outputs, -1).transpose(1, 0, 2, 3)
        self.left = np.ascontiguousarray(rows).reshape(n, rank * outputs, -1)  # of each point i: all a, its outputs
        by_point = self.left.reshape(n, rank * outputs, n, outputs).transpose(2, 0, 1, 3)
        self.right = np.ascontiguousarray(by_point).reshape(n, -1, outputs)  # the same, of each point j
        self.tested = None
        if self.transfer is not None:
            at, gram = points.of(self.u, outputs), self.transfer.T @ self.transfer / (len(self.transfer) // outputs)
            self.tested = np.stack([at.seen(gram * (moved @ w @ moved.T)) for w in self.between])

    def images(self, v: np.ndarray) -> np.ndarray:
        n, (terms, rank, _) = len(self.left), self.between.shape
        outputs, weights = self.right.shape[2], self.between.reshape(terms, -1).astype(self.dtype)
        out = np.empty((len(v), terms, v.shape[1]))
        for column, own in enumerate(v.T.astype(self.dtype)):
            moved = self.right @ own.reshape(n, outputs, outputs)  # P_a,ij V_j
            moved = moved.reshape(n, *self.left.shape[:2], outputs).transpose(1, 2, 0, 3).reshape(self.left.shape)
            pairs = (moved @ self.left.transpose(0, 2, 1)).reshape(n, rank, outputs, rank, outputs)
            blocks = weights @ pairs.transpose(1, 3, 0, 2, 4).reshape(rank * rank, -1)
            out[:, :, column] = blocks.T
        return out
