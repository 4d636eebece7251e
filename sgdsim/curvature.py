"""Second derivatives of a network's loss, as operators on its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from torch.func import functional_call, grad, jvp, vjp

from sgdsim import devices
from sgdsim.checks import InputError, array, choice, integer
from sgdsim.ntk.modules import DTYPES, check_module, inputs, outputs, plain_attention, prepared


class Curvature:
    """The loss `½·mean((f(x) − y)²)` of a network around its present parameters, flattened in their own order.

    Parameters
    ----------
    module : network with one output; parameters with `requires_grad` count.
    x, y : inputs (n, ...) and targets (n,).
    chunk : inputs in one pass.

    Raises
    ------
    InputError : what `sgdsim.ntk.empirical_ntk` refuses, or sizes that differ.
    """

    def __init__(
        self,
        module: nn.Module,
        x: np.ndarray,
        y: np.ndarray,
        *,
        device: str = "cpu",
        dtype: str = "float64",
        chunk: int = 1024,
    ) -> None:
        check_module(module)
        kind = DTYPES[choice("dtype", dtype, DTYPES)]
        self._chunk = integer("chunk", chunk, minimum=1)
        self._x = inputs("x", x, devices.resolve(device), kind)
        self._y = torch.as_tensor(array("y", y, ndim=1, shape=(self._x.shape[0],)), device=self._x.device).to(kind)
        module = prepared(module, self._x, kind)
        with torch.no_grad():
            if outputs(module, self._x[:1]).shape[1] != 1:
                raise InputError("network: expected one output per input, got several")
        self._module = module
        self._fixed = dict([*module.named_parameters(), *module.named_buffers()])
        self._free = {name: self._fixed.pop(name).detach() for name, p in module.named_parameters() if p.requires_grad}

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self._free.values())

    def _outputs(self, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(self._module, {**parameters, **self._fixed}, (x,)).reshape(-1)

    def _parts(self):
        for low in range(0, self._x.shape[0], self._chunk):
            yield self._x[low : low + self._chunk], self._y[low : low + self._chunk]

    def _split(self, vector: np.ndarray) -> dict[str, torch.Tensor]:
        flat = torch.as_tensor(np.ascontiguousarray(vector).ravel(), device=self._x.device).to(self._y.dtype)
        pieces = torch.split(flat, [p.numel() for p in self._free.values()])
        return {name: piece.view_as(p) for (name, p), piece in zip(self._free.items(), pieces, strict=True)}

    def _summed(self, product: Any) -> np.ndarray:
        """Σ over chunks of `product(x, y)`, a dict like the parameters, flattened."""
        total = {name: torch.zeros_like(p) for name, p in self._free.items()}
        with plain_attention():
            for x, y in self._parts():
                for name, part in product(x, y).items():
                    total[name] += part.detach()
        return torch.cat([t.ravel() for t in total.values()]).double().cpu().numpy()

    def _loss(self, parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((self._outputs(parameters, x) - y) ** 2).sum() / self._x.shape[0]

    def gradient(self) -> np.ndarray:
        """∂L/∂w, (size,)."""
        return self._summed(lambda x, y: grad(lambda p: self._loss(p, x, y))(self._free))

    def hessian(self) -> LinearOperator:
        """`v ↦ ∂²L/∂w² v` by forward-over-reverse differentiation, (size, size)."""

        def product(vector):
            direction = self._split(vector)
            return self._summed(
                lambda x, y: jvp(lambda p: grad(lambda q: self._loss(q, x, y))(p), (self._free,), (direction,))[1]
            )

        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=np.float64)

    def ggn(self) -> LinearOperator:
        """`v ↦ (1/n) JᵀJ v`, the Gauss–Newton part of the Hessian, (size, size): Θ/n has the same non-zero spectrum."""

        def product(vector):
            direction = self._split(vector)

            def part(x, _):
                of = lambda p: self._outputs(p, x)  # noqa: E731
                moved = jvp(of, (self._free,), (direction,))[1]
                return vjp(of, self._free)[1](moved / self._x.shape[0])[0]

            return self._summed(part)

        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=np.float64)
