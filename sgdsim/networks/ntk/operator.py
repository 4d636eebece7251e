"""Products with the tangent kernel that never form it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from torch.func import functional_call, jvp, vjp

from sgdsim.common import devices
from sgdsim.common.checks import InputError, choice, integer
from sgdsim.networks.ntk.bags import LookedUp
from sgdsim.networks.ntk.functions import function_of
from sgdsim.networks.ntk.modules import DTYPES, differentiated, inputs, outputs, plain_attention, with_gradients
from sgdsim.networks.ntk.probe import Sample


def ntk_operator(
    module: nn.Module,
    x1: np.ndarray,
    x2: np.ndarray | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float64",
    chunk: int = 1024,
) -> LinearOperator:
    """`v ↦ Θ(x1, x2) v` by one backward and one forward pass (vjp, then jvp), in chunks of inputs.

    For N where the matrix does not fit; time and memory are those of a training step on all inputs, in pieces.

    Parameters
    ----------
    module, x1, x2, device, dtype : as in `empirical_ntk`.
    chunk : inputs in one pass.

    Returns
    -------
    `scipy.sparse.linalg.LinearOperator` of shape (n1·C, n2·C) for C outputs, the outputs of one input adjacent; its
    adjoint is there too. Raises InputError as `empirical_ntk` does.
    """
    kind = DTYPES[choice("dtype", dtype, DTYPES)]
    chunk = integer("chunk", chunk, minimum=1)
    left = inputs("x1", x1, devices.resolve(device), kind)
    right = left if x2 is None else inputs("x2", x2, devices.resolve(device), kind)
    products = _products(function_of(module, left, kind), left)
    width = products.n_outputs

    @with_gradients
    def product(rows: torch.Tensor, columns: torch.Tensor, v: np.ndarray) -> np.ndarray:
        weights = torch.as_tensor(np.ascontiguousarray(v).ravel(), device=left.device).to(kind)
        with plain_attention(), LookedUp():
            direction: Direction = {}
            for part, own in zip(columns.split(chunk), weights.view(-1, width).split(chunk), strict=True):
                for name, gradient in products.back(part, own).items():
                    direction[name] = direction[name] + gradient if name in direction else gradient
            pushed = [products.forth(part, direction).reshape(-1) for part in rows.split(chunk)]
        return torch.cat(pushed).double().cpu().numpy()

    return LinearOperator(
        shape=(left.shape[0] * width, right.shape[0] * width),
        matvec=lambda v: product(left, right, v),
        rmatvec=lambda v: product(right, left, v),
        dtype=np.float64,
    )


@with_gradients
def along_parameters(
    module: nn.Module, x: np.ndarray, *, device: str = "cpu", chunk: int = 1024, dtype: str = "float64"
) -> np.ndarray:
    """`J(x) w`, the derivative of the outputs along the trainable parameters w themselves, float64: (n,) of one output,
    (n, C) of several. The linearised network at parameters 0 is `f − J w`. Raises InputError as `empirical_ntk`.

    By plain autograd, differentiated twice; by torch.func where that does not agree with one derivative. `dtype`: in
    which it is computed, "float64" or "float32".
    """
    kind = DTYPES[choice("dtype", dtype, DTYPES)]
    points = inputs("x", x, devices.resolve(device), kind)
    module = function_of(module, points, kind)
    direction = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    with plain_attention(), LookedUp():
        plain = _Products(module, outputs(module, points[:1]).shape[1])
        try:
            parts = [plain.forth(part, direction).detach() for part in points.split(chunk)]
            right = all(_agrees(plain, *one, direction) for one in zip(points.split(chunk), parts, strict=True))
        except InputError:
            right = False
        if not right:
            products = _products(module, points)
            parts = [products.forth(part, direction).detach() for part in points.split(chunk)]
    pushed = torch.cat(parts)
    values = pushed.double().cpu().numpy()
    return values[:, 0] if values.shape[1] == 1 else values


Direction = dict[str, torch.Tensor]


def _agrees(products: _Products, x: torch.Tensor, pushed: torch.Tensor, direction: Direction) -> bool:
    """Whether `⟨own, J direction⟩ = ⟨Jᵀ own, direction⟩` for weights of each input and output."""
    own = torch.cos(torch.arange(pushed.numel(), device=x.device, dtype=pushed.dtype)).view(pushed.shape)
    back = products.back(x, own)
    terms = torch.stack([(back[name] * direction[name]).sum() for name in direction])
    wrong = (terms.sum() - (own * pushed).sum()).abs()
    tolerance = {torch.float64: 1e-8, torch.float32: 1e-4}[pushed.dtype]
    return bool(wrong <= tolerance * (terms.abs().sum() + (own * pushed).abs().sum()))


class _Products:
    """Products with the Jacobian of a module's outputs (n, C) by its parameters, by plain autograd."""

    def __init__(self, module: nn.Module, n_outputs: int) -> None:
        self.module, self.n_outputs = module, n_outputs
        self.free = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def back(self, x: torch.Tensor, own: torch.Tensor) -> Direction:
        """Jᵀ own, one entry for each parameter."""
        found = differentiated((outputs(self.module, x) * own).sum(), list(self.free.values()))
        named = zip(self.free.items(), found, strict=True)
        return {name: torch.zeros_like(p) if g is None else g for (name, p), g in named}

    def forth(self, x: torch.Tensor, direction: Direction) -> torch.Tensor:
        """J direction, (n, C): the derivative of ⟨Jᵀu, direction⟩ by u."""
        f = outputs(self.module, x)
        u = torch.zeros_like(f, requires_grad=True)
        found = differentiated((f * u).sum(), list(self.free.values()), again=True)
        parts = [(g * direction[name]).sum() for name, g in zip(self.free, found, strict=True) if g is not None]
        (pushed,) = differentiated(torch.stack(parts).sum(), [u])
        assert pushed is not None  # linear in u
        return pushed


class _Functional(_Products):
    """The same by torch.func: forward derivatives, which are faster."""

    def _at(self, x: torch.Tensor) -> Callable[[Direction], torch.Tensor]:
        held = dict([*self.module.named_parameters(), *self.module.named_buffers()])
        fixed = {name: t for name, t in held.items() if name not in self.free}
        return lambda free: functional_call(self.module, {**free, **fixed}, (x,)).reshape(x.shape[0], -1)

    def back(self, x: torch.Tensor, own: torch.Tensor) -> Direction:
        return vjp(self._at(x), {name: p.detach() for name, p in self.free.items()})[1](own)[0]

    def forth(self, x: torch.Tensor, direction: Direction) -> torch.Tensor:
        return jvp(self._at(x), ({name: p.detach() for name, p in self.free.items()},), (direction,))[1].detach()


def _products(module: nn.Module, x: torch.Tensor) -> _Products:
    """By torch.func where it agrees with autograd on 16 random inputs, both ways; else by autograd alone.

    InputError where neither agrees, or the gradient of these inputs is not the sum of their own.
    """
    sample = Sample(module, x)
    own = sample.own * sample.shares
    with plain_attention(), LookedUp():
        fast = _Functional(module, own.shape[1])
        try:
            back = fast.back(sample.x, own)
            norm = sum((g.square().sum() for g in back.values()), own.new_zeros(()))
            if sample.agree(back) and sample.close((fast.forth(sample.x, back) * own).sum(), norm):
                return fast
        except Exception:  # it is the user's code: what torch.func makes of it can be anything
            pass
        plain = _Products(module, own.shape[1])
        plain.forth(sample.x, plain.back(sample.x, own))
        singles = [plain.back(*one) for one in zip(sample.x.split(1), own.split(1), strict=True)]
    sample.check_sum({name: torch.stack([one[name] for one in singles]).sum(0) for name in singles[0]})
    return plain
