"""Schedule-Free SGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.algorithm.maps import Maps
from sgdsim.common.checks import number
from sgdsim.common.specs import Spec


@dataclass(frozen=True)
class ScheduleFree(Spec):
    """Schedule-Free SGD (Defazio et al., arXiv:2405.15682): `y = (1 − β)z + βx`, `z ← z − αg(y)`, `x ← (1 − c)x + cz`,
    with `c = 1/(t + 1)` at step t = 0, 1, …, from x = z = w_0; losses are those of x.

    The components are (y, z, x). From the first step on x is the mean of z_1, …, z_t, as in the authors' code, whose
    first c is 1. β = 0 is plain SGD with its iterates averaged, β = 1 primal averaging. Constant learning rates only:
    under a schedule the authors weight x by lr².

    Parameters
    ----------
    beta : β, from 0 to 1; takes the place of momentum.
    """

    name: ClassVar[str] = "schedule-free"
    memory: ClassVar[int] = 2
    uses_momentum: ClassVar[bool] = False
    is_stationary: ClassVar[bool] = False
    constant_lr: ClassVar[bool] = True
    begins: ClassVar[tuple[float, ...]] = (1.0, 1.0, 1.0)
    readout: ClassVar[tuple[float, ...]] = (0.0, 0.0, 1.0)
    beta: float = 0.9

    def __post_init__(self) -> None:
        number("schedule-free: beta", self.beta, minimum=0.0, maximum=1.0)

    def maps(self, steps: np.ndarray, lr: np.ndarray, momentum: np.ndarray) -> Maps:
        c, b = 1 / (1 + np.asarray(steps, dtype=np.float64)), self.beta
        transition = np.zeros((c.size, 3, 3))
        transition[:, 1, 1] = 1.0
        transition[:, 2, 1], transition[:, 2, 2] = c, 1 - c
        transition[:, 0] = (1 - b) * transition[:, 1] + b * transition[:, 2]
        return Maps(transition, -lr[:, None] * np.stack([1 - b + b * c, np.ones_like(c), c], 1))
