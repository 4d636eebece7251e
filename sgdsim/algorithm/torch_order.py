"""Momentum in torch's order: the rate multiplies the velocity when it is used, not the gradient when it comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.algorithm.maps import Maps
from sgdsim.common.checks import InputError
from sgdsim.common.specs import Spec


@dataclass(frozen=True)
class TorchOrder(Spec):
    """`u ← βu + g`, `w ← w − αu` as `torch.optim.SGD(momentum=β)`, or with `nesterov` = 1 `w ← w − α(g + βu)` as its
    `nesterov=True`. At a constant learning rate that is heavy ball, or "nesterov", and `SGD` takes it for that; under a
    schedule past gradients are multiplied by today's rate here, there by the rate that they came with.

    >>> from sgdsim.algorithm.torch_order import TorchOrder
    >>> TorchOrder().maps(np.arange(1), np.array([0.5]), np.array([0.9])).transition[0]
    array([[ 1.  , -0.45],
           [ 0.  ,  0.9 ]])
    """

    name: ClassVar[str] = "torch"
    memory: ClassVar[int] = 1
    uses_momentum: ClassVar[bool] = True
    is_stationary: ClassVar[bool] = True
    nesterov: int = 0

    def __post_init__(self) -> None:
        if self.nesterov not in (0, 1):
            raise InputError(f"torch: nesterov: expected 0 or 1, got {self.nesterov}")

    def maps(self, steps: np.ndarray, lr: np.ndarray, momentum: np.ndarray) -> Maps:
        """A and k of the components (w, u)."""
        carried = momentum**2 if self.nesterov else momentum
        transition = np.zeros((lr.size, 2, 2))
        transition[:, 0, 0], transition[:, 0, 1], transition[:, 1, 1] = 1.0, -lr * carried, momentum
        direct = lr * (1 + momentum) if self.nesterov else lr
        return Maps(transition, np.stack([-direct, np.ones_like(lr)], 1))
