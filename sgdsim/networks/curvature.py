"""Second derivatives of a network's loss, as operators on its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from torch.func import functional_call, grad, jvp, vjp

from sgdsim.common import devices
from sgdsim.common.checks import InputError, array, choice, integer
from sgdsim.networks.ntk.modules import DTYPES, check_module, inputs, outputs, plain_attention, prepared, with_gradients


class Curvature:
    """The loss `½·mean((f(x) − y)²)` of a network around its present parameters, flattened in their own order.

    Batch norm in training mode is taken at its word: all n inputs are one batch, normalised with its own statistics,
    so the loss is a deterministic function of the parameters and derivatives go through the statistics. Running
    statistics are then neither used nor changed, and there are no chunks. In evaluation mode the running statistics are
    constants and each input is by itself, as in any other network.

    Parameters
    ----------
    module : network with one output; parameters with `requires_grad` count. It is copied.
    x, y : inputs (n, ...) and targets (n,).
    chunk : inputs in one pass; without effect where batch norm makes one batch of them.

    Raises
    ------
    InputError : what `sgdsim.networks.ntk.empirical_ntk` refuses (dropout in training mode, several outputs), except
        for batch norm in training mode; sizes that differ; one input with batch norm in training mode.
    """

    @with_gradients
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
        if not isinstance(module, nn.Module):
            check_module(module)
        kind = DTYPES[choice("dtype", dtype, DTYPES)]
        chunk = integer("chunk", chunk, minimum=1)
        self._x = inputs("x", x, devices.resolve(device), kind)
        self._y = torch.tensor(array("y", y, ndim=1, shape=(self._x.shape[0],)), device=self._x.device).to(kind)
        module = prepared(module, self._x, kind)
        together = _made_one_batch(module)
        self._chunk = self._x.shape[0] if together else chunk
        with torch.no_grad():
            if outputs(module, self._x if together else self._x[:1]).shape[1] != 1:
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

    def _parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for low in range(0, self._x.shape[0], self._chunk):
            yield self._x[low : low + self._chunk], self._y[low : low + self._chunk]

    def _split(self, vector: np.ndarray) -> dict[str, torch.Tensor]:
        flat = torch.as_tensor(np.ascontiguousarray(vector).ravel(), device=self._x.device).to(self._y.dtype)
        pieces = torch.split(flat, [p.numel() for p in self._free.values()])
        return {name: piece.view_as(p) for (name, p), piece in zip(self._free.items(), pieces, strict=True)}

    @with_gradients
    def _summed(self, product: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]) -> np.ndarray:
        """Σ over chunks of `product(x, y)`, a dict like the parameters, flattened."""
        total = {name: torch.zeros_like(p) for name, p in self._free.items()}
        with plain_attention():
            for x, y in self._parts():
                for name, part in product(x, y).items():
                    total[name] += part.detach()
        return torch.cat([t.ravel() for t in total.values()]).double().cpu().numpy()

    def _loss(self, parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((self._outputs(parameters, x) - y) ** 2).sum() / self._x.shape[0]

    def loss(self) -> float:
        """L itself."""
        with torch.no_grad():
            return float(sum(self._loss(self._free, x, y) for x, y in self._parts()))

    def gradient(self) -> np.ndarray:
        """∂L/∂w, (size,)."""
        return self._summed(lambda x, y: grad(lambda p: self._loss(p, x, y))(self._free))

    @with_gradients
    def hessian(self) -> LinearOperator:
        """`v ↦ ∂²L/∂w² v`, (size, size).

        In chunks by forward-over-reverse differentiation; where one chunk holds all inputs, backwards through the
        graph of the gradient, which is kept for all products.
        """
        product = self._kept_product() if self._x.shape[0] <= self._chunk else self._chunked_product
        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=np.float64)

    def _chunked_product(self, vector: np.ndarray) -> np.ndarray:
        direction = self._split(vector)
        return self._summed(
            lambda x, y: jvp(lambda p: grad(lambda q: self._loss(q, x, y))(p), (self._free,), (direction,))[1]
        )

    def _kept_product(self) -> Callable[[np.ndarray], np.ndarray]:
        parameters = {name: p.clone().requires_grad_() for name, p in self._free.items()}
        leaves = list(parameters.values())
        with plain_attention(), torch.enable_grad():
            loss = self._loss(parameters, self._x, self._y)
            gradients: tuple[torch.Tensor, ...] = ()
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        # the others are constant: no second derivative
        moving = [i for i, g in enumerate(gradients) if g.requires_grad]

        def product(vector: np.ndarray) -> np.ndarray:
            direction = list(self._split(vector).values())
            if not moving:
                return np.zeros(self.size)
            parts = torch.autograd.grad(
                [gradients[i] for i in moving],
                leaves,
                [direction[i] for i in moving],
                retain_graph=True,
                materialize_grads=True,
            )
            return torch.cat([part.ravel() for part in parts]).double().cpu().numpy()

        return product

    def ggn(self) -> LinearOperator:
        """`v ↦ (1/n) JᵀJ v`, the Gauss–Newton part of the Hessian, (size, size): Θ/n has the same non-zero spectrum."""

        def product(vector: np.ndarray) -> np.ndarray:
            direction = self._split(vector)

            def part(x: torch.Tensor, _: torch.Tensor) -> dict[str, torch.Tensor]:
                of = lambda p: self._outputs(p, x)  # noqa: E731
                moved = jvp(of, (self._free,), (direction,))[1]
                return vjp(of, self._free)[1](moved / self._x.shape[0])[0]

            return self._summed(part)

        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=np.float64)


def _made_one_batch(module: nn.Module) -> bool:
    """Take the running statistics from the batch norms in training mode; whether any norm goes by its batch now.

    Without running statistics torch normalises with those of the batch in evaluation mode too, and has nothing to
    update. Raises InputError as `check_module` does, batch norm apart.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    check_module(module, batch_norm=True)
    for part in [part.eval() for part in norms if part.training]:
        part.running_mean = part.running_var = part.num_batches_tracked = None
    return any(part.running_mean is None for part in norms)
