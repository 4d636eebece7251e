"""Second derivatives of a network's loss, as operators on its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from sgdsim.common import devices
from sgdsim.common.checks import InputError, array, choice, integer
from sgdsim.common.rooms import listing
from sgdsim.networks.ntk.modules import DTYPES, check_module, inputs, outputs, plain_attention, prepared, with_gradients

__dir__ = listing(__name__)

_PROBED = 32  # inputs on which second derivatives are compared with finite differences
_STEP, _WRONG = (
    1e-7,
    1e-3,
)  # of these: so short that no unit of some thousands switches; relative error of what is wrong
_TRIED = 3
Leaves = list[torch.Tensor]


class Curvature:
    """The loss `½·mean((f(x) − y)²)` of a network around its present parameters, flattened in their own order; of
    several outputs it is summed over them.

    Batch norm in training mode is taken at its word: all n inputs are one batch, normalised with its own statistics,
    so the loss is a deterministic function of the parameters and derivatives go through the statistics. Running
    statistics are then neither used nor changed, and there are no chunks. In evaluation mode the running statistics are
    constants and each input is by itself, as in any other network.

    Parameters
    ----------
    module : network with as many outputs as targets; parameters with `requires_grad` count. It is copied.
    x, y : inputs (n, ...) and targets (n,), or (n, C).
    chunk : inputs in one pass; without effect where batch norm makes one batch of them.

    Raises
    ------
    InputError : what `sgdsim.networks.ntk.empirical_ntk` refuses (dropout in training mode), except for batch norm in
        training mode; sizes that differ; one input with batch norm in training mode.
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
        n, several = self._x.shape[0], np.ndim(y) == 2
        targets = array("y", y, ndim=2 if several else 1, shape=(n, None) if several else (n,))
        self._y = torch.tensor(targets, device=self._x.device).to(kind).reshape(n, -1)
        module = prepared(module, self._x, kind)
        #: Whether batch norm makes one batch of all inputs.
        self.one_batch = _made_one_batch(module)
        self._chunk = self._x.shape[0] if self.one_batch else chunk
        with torch.no_grad():
            found = outputs(module, self._x if self.one_batch else self._x[:1]).shape[1]
        if found != self._y.shape[1]:
            wanted = f"{self._y.shape[1]} outputs" if several else "one output"
            raise InputError(f"network: expected {wanted} per input, as many as targets, got {found}")
        self._module = module
        self._fixed = dict([*module.named_parameters(), *module.named_buffers()])
        self._free = {name: self._fixed.pop(name).detach() for name, p in module.named_parameters() if p.requires_grad}

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self._free.values())

    def _outputs(self, parameters: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        with _PlainWeightNorm():
            return functional_call(self._module, {**parameters, **self._fixed}, (x,)).reshape(x.shape[0], -1)

    def _parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for low in range(0, self._x.shape[0], self._chunk):
            yield self._x[low : low + self._chunk], self._y[low : low + self._chunk]

    def _split(self, vector: np.ndarray) -> dict[str, torch.Tensor]:
        flat = torch.as_tensor(np.ascontiguousarray(vector).ravel(), device=self._x.device).to(self._y.dtype)
        pieces = torch.split(flat, [p.numel() for p in self._free.values()])
        return {name: piece.view_as(p) for (name, p), piece in zip(self._free.items(), pieces, strict=True)}

    def _loss(self, parameters: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((self._outputs(parameters, x) - y) ** 2).sum() / self._x.shape[0]

    def loss(self) -> float:
        """L itself."""
        with torch.no_grad():
            return float(sum(self._loss(self._free, x, y) for x, y in self._parts()))

    def gradient(self) -> np.ndarray:
        """∂L/∂w, (size,)."""
        return self._summed(lambda x, y: self._graph(x, y, keep=False)[1])

    @with_gradients
    def hessian(self) -> LinearOperator:
        """`v ↦ ∂²L/∂w² v`, (size, size): backwards through the gradient, in chunks; where one chunk holds all inputs
        its graph is kept for all products.

        InputError where this is not what the gradient's finite differences give, along random directions on a few
        inputs: torch does not know the second derivatives of what the module does.
        """
        self._check_second()
        kept = [self._graph(x, y) for x, y in self._parts()] if self._x.shape[0] <= self._chunk else None

        def product(vector: np.ndarray) -> np.ndarray:
            direction = list(self._split(vector).values())
            if kept:
                return _flat(_backwards(*kept[0], direction))
            return self._summed(lambda x, y: _backwards(*self._graph(x, y), direction))

        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=np.float64)

    def ggn(self) -> LinearOperator:
        """`v ↦ (1/n) JᵀJ v`, the Gauss–Newton part of the Hessian, (size, size): Θ/n has the same non-zero spectrum."""

        def product(vector: np.ndarray) -> np.ndarray:
            direction = list(self._split(vector).values())

            def part(x: torch.Tensor, _: torch.Tensor) -> Leaves:
                leaves = self._leaves()
                f = self._outputs(leaves, x)
                along = torch.zeros_like(f, requires_grad=True)
                rows = torch.autograd.grad(f, list(leaves.values()), along, create_graph=True, materialize_grads=True)
                moved = _backwards([along], rows, direction)[0]
                last = torch.autograd.grad(f, list(leaves.values()), moved / self._x.shape[0], materialize_grads=True)
                return list(last)

            return self._summed(part)

        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=np.float64)

    @with_gradients
    def _summed(self, product: Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]) -> np.ndarray:
        """Σ over chunks of `product(x, y)`, tensors like the parameters, flattened."""
        total = [torch.zeros_like(p) for p in self._free.values()]
        with plain_attention():
            for x, y in self._parts():
                for held, part in zip(total, product(x, y), strict=True):
                    held += part.detach()
        return _flat(total)

    def _leaves(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone().requires_grad_() for name, p in self._free.items()}

    def _graph(self, x: torch.Tensor, y: torch.Tensor, keep: bool = True) -> tuple[Leaves, Leaves]:
        """The parameters and the gradient of L's part of these inputs; `keep`: with its graph."""
        leaves = self._leaves()
        with plain_attention(), torch.enable_grad():
            loss = self._loss(leaves, x, y)
            if not loss.requires_grad:
                return list(leaves.values()), [torch.zeros_like(p) for p in leaves.values()]
            found = torch.autograd.grad(loss, list(leaves.values()), create_graph=keep, materialize_grads=True)
        return list(leaves.values()), list(found)

    def _check_second(self) -> None:
        """See `hessian`. In float64; a module that does not compute in it is not checked."""
        x, y = (held[:_PROBED].detach().cpu().numpy() for held in (self._x, self._y))
        try:
            few = Curvature(self._module, x, y, device=str(self._x.device))
        except InputError:
            return
        at, (leaves, gradients) = few._free, few._graph(few._x, few._y)
        least = float(0.1 * _STEP * torch.stack([g.detach().norm() for g in gradients]).max()) + 1e-12 * _STEP
        wrong = []
        for seed in range(_TRIED):
            rng = torch.Generator().manual_seed(seed)
            way = [_STEP * torch.randn(p.shape, generator=rng, dtype=p.dtype).to(p.device) for p in at.values()]
            ends = []
            for sign in (1, -1):
                few._free = {name: p + sign * step for (name, p), step in zip(at.items(), way, strict=True)}
                ends.append(few._graph(few._x, few._y, keep=False)[1])
            wrong.append(
                _apart(_backwards(leaves, gradients, way), [(a - b) / 2 for a, b in zip(*ends, strict=True)], least)
            )
            if wrong[-1] < _WRONG:
                return
        raise InputError(
            "network: expected second derivatives that torch knows, got some that are off by "
            f"{min(wrong):.1%} of finite differences of the gradient; look for an operation whose own backward is not "
            "differentiable"
        )


def _apart(known: Leaves, measured: Leaves, least: float) -> float:
    """The largest relative difference of two tensors, those far below the others apart."""
    norms = [max(float(a.norm()), float(b.norm())) for a, b in zip(known, measured, strict=True)]
    floor = 1e-2 * max(*norms, least)
    return max(float((a - b).norm()) / max(n, floor) for a, b, n in zip(known, measured, norms, strict=True))


class _PlainWeightNorm(TorchFunctionMode):
    """Weight norm by its formula: the fused operation has no forward derivative, and a wrong second one."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))  # type: ignore[arg-type]
        return func(*args, **(kwargs or {}))


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _backwards(leaves: Leaves, gradients: Sequence[torch.Tensor], direction: Leaves) -> Leaves:
    """Σ ∂(gradients · direction)/∂leaves, 0 for those that nothing depends on."""
    moving = [i for i, g in enumerate(gradients) if g.requires_grad]  # the others are constant
    if not moving:
        return [torch.zeros_like(leaf) for leaf in leaves]
    chosen = ([held[i] for i in moving] for held in (gradients, direction))
    outs, along = chosen
    return list(torch.autograd.grad(outs, leaves, along, retain_graph=True, materialize_grads=True))


def _flat(parts: Sequence[torch.Tensor]) -> np.ndarray:
    return torch.cat([part.detach().ravel() for part in parts]).double().cpu().numpy()


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
