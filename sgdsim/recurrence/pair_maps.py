"""What a step of any stationary linear method does to the second moments of one mode, as polynomials in λ.

The moments `X = E ψψᵀ` (m, m) of a mode's components step by `X ← M X = R X Rᵀ − γτλ² X₀₀ kkᵀ`, `R = A + λ k e₀ᵀ`, and
one unit of noise adds `λ² kkᵀ`. Packed, X is a vector of its P = m(m+1)/2 pairs i ≤ j. `M − 1` is formed of `R − 1`,
which is exact where λ is small: nothing cancels in `1 − zM = (1 − z) − z(M − 1)` at slow modes and z near 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sgdsim.algorithm.maps import with_origin
from sgdsim.algorithm.methods import Tail
from sgdsim.algorithm.samplers import refuse_weights
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.common.specs import brief
from sgdsim.problem import QuadraticProblem


class PairMaps(NamedTuple):
    """`M − 1 = constant + λ(linear + λ square)`, (P, P) each; `kick`, `start` (P,): what a unit of noise and of the
    initial c_k are; `read` (P,): the weights of the pairs in the c_k that is reported."""

    constant: np.ndarray
    linear: np.ndarray
    square: np.ndarray
    kick: np.ndarray
    start: np.ndarray
    read: np.ndarray

    def changes(self, eigenvalues: np.ndarray) -> np.ndarray:
        """`M − 1` of all modes, (modes, P, P)."""
        lam = eigenvalues[:, None, None]
        return self.constant + lam * (self.linear + lam * self.square)


def is_stationary(sgd: SGD) -> bool:
    """Whether nothing about a step changes in time, of an average neither, and batches are independent."""
    return sgd.rule is None and sgd.is_constant and sgd.sampler.independent and not isinstance(sgd.average, Tail)


def step(sgd: SGD, problem: QuadraticProblem | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A (m, m) and k (m,) of a stationary algorithm; InputError where they change in time, where batches are dependent
    or points have weights. With weight decay on a `problem` the point to which it pulls is the last component; without
    a problem it is refused."""
    refuse_weights(sgd.sampling)
    if not is_stationary(sgd):
        raise InputError(
            "theory: expected hyperparameters (no schedule), a method and an average that do not change in time, and "
            f"independent batches; got {brief(str(sgd.spec()), 300)}"
        )
    if problem is not None and sgd.weight_decay:
        maps = with_origin(problem.maps(sgd, 0, 1), sgd.begins)
    else:
        maps = sgd.maps(0, 1)
    return maps.transition[0], maps.kick[0]


def of(sgd: SGD, own: float, problem: QuadraticProblem | None = None) -> PairMaps:
    """The maps of a stationary algorithm; `own`: γτ. With weight decay it pulls to the start. Raises InputError as
    `step`."""
    transition, kick = step(sgd, problem)
    begins, readout = sgd.begins, sgd.readout
    if sgd.weight_decay:
        begins, readout = np.append(begins, 1.0), np.append(readout, 0.0)
    still, moved = transition - np.eye(kick.size), np.zeros(transition.shape)
    moved[:, 0] = kick
    one = np.eye(kick.size)
    i, j = np.triu_indices(kick.size)
    kicks = kick[i] * kick[j]
    square = _packed(moved, moved)
    square[:, 0] -= own * kicks
    twice = np.where(i == j, 1.0, 2.0)
    return PairMaps(
        _packed(still, one) + _packed(one, still) + _packed(still, still),
        _packed(moved, one) + _packed(one, moved) + _packed(moved, still) + _packed(still, moved),
        square,
        kicks,
        begins[i] * begins[j],
        twice * readout[i] * readout[j],
    )


def _packed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`X → left X rightᵀ`, made symmetric, on packed symmetric X: (P, P)."""
    i, j = np.triu_indices(len(left))
    both = left[i][:, i] * right[j][:, j] + left[i][:, j] * right[j][:, i]
    return 0.5 * (both + (left[j][:, i] * right[i][:, j] + left[j][:, j] * right[i][:, i])) * np.where(i == j, 0.5, 1.0)
