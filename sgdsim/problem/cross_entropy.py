"""Cross-entropy by its quadratic model at the start, as a problem of the squared loss with an offset.

To second order in what the outputs of point i have moved, d_i = f_i − f_0i, its loss is
`ℓ_i ≈ ℓ_0i + g_i·d_i + ½ d_i·H_i d_i`, g = p − y and H = diag(p) − ppᵀ with the class probabilities p at the start; of
one output with targets ±1 `g = −y σ(−yf)` and `H = σ(f)σ(−f)`. With any root `B_i B_iᵀ = H_i` that is

    ½‖r_i‖² + ℓ_0i − ½ g_i·H_i⁺g_i,    r_i = B_iᵀ d_i + B_i⁺ g_i,

for g has no part in the null space of H, which shifts all outputs alike. So SGD on the model is SGD on a squared loss
with the Gauss–Newton kernel `B_iᵀ Θ_ij B_j`, and its loss is above the `offset`, the mean of the constants. A root with
C − 1 columns leaves the null space out: C classes have C − 1 outputs here, two classes one, as the logistic loss has.
The model is one of the loss alone, on top of linearising the network: see `sgdsim.studies.cross_entropy`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sgdsim.common.checks import InputError, array
from sgdsim.common.identity import made_once

if TYPE_CHECKING:
    from sgdsim.problem.quadratic import QuadraticProblem

_LEAST = 1e-20  # probability: below it roots and their inverses lose the digits of float64


def check_classes(what: str, y: np.ndarray) -> None:
    """InputError, in the name of `what`, unless targets (n,) or (n, C) are classes: one-hot, or 1 and −1."""
    one_hot = y.ndim == 2 and bool(np.isin(y, (0.0, 1.0)).all() and (y.sum(1) == 1).all())
    if not (one_hot if y.ndim == 2 else set(np.unique(y)) == {-1.0, 1.0}):
        got = "numbers" if y.ndim == 1 else f"{y.shape[1]} columns of numbers"
        raise InputError(f"{what} needs one-hot targets, or 1 and -1 of two classes; got {got}")


@dataclass(frozen=True, eq=False)
class Expansion:
    """Cross-entropy of some points to second order about the outputs `f0`, (n, C) with one-hot `y`, or (n,) with ±1.

    What follows the points is in residuals r (…, n, K), K = C − 1, or K = 1 of one output. InputError where a class has
    a probability below 10⁻²⁰ at the start.
    """

    f0: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        ndim = np.ndim(self.y)
        object.__setattr__(self, "f0", array("outputs", self.f0, ndim=ndim, shape=np.shape(self.y)))
        check_classes("loss: cross-entropy", np.asarray(self.y))
        least = float(self._probabilities.min())
        if not least >= _LEAST:
            raise InputError(
                f"loss: expected class probabilities of at least {_LEAST:g} at the start, where cross-entropy has a "
                f"quadratic model in floating point, got {least:.2g}; use the network regime alone, on a problem of "
                "the squared loss with network:loss=cross-entropy"
            )

    @property
    def outputs(self) -> int:
        """K, of the residuals."""
        return 1 if self.f0.ndim == 1 else self.f0.shape[1] - 1

    @made_once
    def _probabilities(self) -> np.ndarray:
        """p (n, C); of one output those of −1 and 1."""
        f = self.f0 if self.f0.ndim == 2 else np.stack([-self.f0, self.f0], 1) / 2
        return np.exp(_log_softmax(f))

    @made_once
    def roots(self) -> np.ndarray:
        """B (n, C, K) with BBᵀ = H: `diag(√p) W` with W a basis of what is orthogonal to √p, as `H = S(1 − √p√pᵀ)S`,
        S = diag(√p); (n, 1, 1) of one output."""
        q = np.sqrt(self._probabilities)
        return q.prod(1)[:, None, None] if self.f0.ndim == 1 else q[:, :, None] * _complement(q)

    @made_once
    def inverses(self) -> np.ndarray:
        """B⁺ (n, K, C) on what sums to 0 over the classes, where g is: Wᵀ S⁻¹."""
        q = np.sqrt(self._probabilities)
        return 1 / self.roots if self.f0.ndim == 1 else (_complement(q) / q[:, :, None]).swapaxes(1, 2)

    @made_once
    def start(self) -> np.ndarray:
        """The residuals B⁺g at the start, (n, K)."""
        return self.gradient(self.f0)

    @made_once
    def offset(self) -> float:
        """The least value that the model's mean loss could have: mean of ℓ_0 − ½‖r_0‖², and ‖r_0‖² = 1/p_class − 1."""
        return float(np.mean(self.losses(self.f0) - (self.start**2).sum(1) / 2))

    def losses(self, f: np.ndarray) -> np.ndarray:
        """The cross-entropy of each point, (…, n), of outputs (…, n) or (…, n, C): no model."""
        if self.f0.ndim == 1:
            return np.logaddexp(0.0, -self.y * f)
        return -(self.y * _log_softmax(f)).sum(-1)

    def gradient(self, f: np.ndarray) -> np.ndarray:
        """The cross-entropy's gradient by the residuals, B⁺g, (…, n, K): no model, of which it is r itself."""
        if self.f0.ndim == 1:
            slope = -self.y * np.exp(-np.logaddexp(0.0, self.y * f))
            return (slope * self.inverses[:, 0, 0])[..., None]
        return np.einsum("nkc,...nc->...nk", self.inverses, np.exp(_log_softmax(f)) - self.y)

    def residuals(self, f: np.ndarray) -> np.ndarray:
        """r (…, n, K) of outputs f."""
        moved = (f - self.f0)[..., None] if self.f0.ndim == 1 else f - self.f0
        return np.einsum("nck,...nc->...nk", self.roots, moved) + self.start

    def outputs_of(self, r: np.ndarray) -> np.ndarray:
        """Outputs (…, n) or (…, n, C) of residuals r (…, n, K), but for what shifts a point's outputs alike."""
        moved = np.einsum("nkc,...nk->...nc", self.inverses, r - self.start)
        return self.f0 + (moved[..., 0] if self.f0.ndim == 1 else moved)


def quadratic(
    kernel: np.ndarray,
    train: Expansion,
    *,
    cross_kernel: np.ndarray | None = None,
    test: Expansion | None = None,
    description: dict[str, object] | None = None,
) -> QuadraticProblem:
    """The quadratic problem of the model: kernels as `empirical_ntk(output="full")` gives them, (n, n, C, C) and
    (m, n, C, C), or (n, n) and (m, n) of one output or where the outputs share them."""
    from sgdsim.problem.quadratic import QuadraticProblem

    cross = None if cross_kernel is None or test is None else weighted(cross_kernel, test, train)
    made = QuadraticProblem.from_kernel(
        weighted(kernel, train, train),
        _flat(train.start),
        cross_kernel=cross,
        test_residual=None if test is None else _flat(test.start),
        description=description,
    )
    points = None if made.test is None or test is None else replace(made.test, loss_offset=test.offset)
    facts = {"loss": "cross-entropy"} | made.description
    return replace(made, test=points, description=facts, loss_offset=train.offset)


def weighted(kernel: np.ndarray, left: Expansion, right: Expansion) -> np.ndarray:
    """`B_iᵀ Θ_ij B_j` for all pairs of points, (m, n, K, K), or (m, n) where K is 1."""
    shape = len(left.f0), len(right.f0)
    classes = left.f0.shape[1:] or (1,)
    if np.shape(kernel) not in (shape, (*shape, *classes, *classes)):
        raise InputError(f"kernel: expected shape {shape} or {(*shape, *classes, *classes)}, got {np.shape(kernel)}")
    out = np.empty((*shape, left.outputs, right.outputs))
    for row, root, blocks in zip(out, left.roots, kernel, strict=True):
        if blocks.ndim == 1:
            row[:] = blocks[:, None, None] * (root.T @ right.roots)
        else:
            row[:] = root.T @ blocks @ right.roots
    return out[:, :, 0, 0] if left.outputs == 1 else out


def _flat(residuals: np.ndarray) -> np.ndarray:
    return residuals[:, 0] if residuals.shape[1] == 1 else residuals


def _log_softmax(f: np.ndarray) -> np.ndarray:
    shifted = f - f.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _complement(q: np.ndarray) -> np.ndarray:
    """W (n, C, C − 1), orthonormal columns orthogonal to unit vectors q (n, C) ≥ 0: those of the reflection that takes
    q to −e_0, but for its first."""
    u = q.copy()
    u[:, 0] += 1
    return np.eye(q.shape[1])[:, 1:] - u[:, :, None] * (q[:, None, 1:] / (1 + q[:, 0])[:, None, None])
