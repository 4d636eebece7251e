"""Products with the tangent kernel that never form it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from torch.func import functional_call, jvp, vjp

from sgdsim.common import devices
from sgdsim.common.checks import choice, integer
from sgdsim.networks.ntk.modules import DTYPES, check_module, inputs, outputs, plain_attention, prepared, with_gradients


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
    check_module(module)
    kind = DTYPES[choice("dtype", dtype, DTYPES)]
    chunk = integer("chunk", chunk, minimum=1)
    left = inputs("x1", x1, devices.resolve(device), kind)
    right = left if x2 is None else inputs("x2", x2, devices.resolve(device), kind)
    module = prepared(module, left, kind)
    with torch.no_grad():
        width = outputs(module, left[:1]).shape[1]
    fixed = dict([*module.named_parameters(), *module.named_buffers()])
    free = {name: fixed.pop(name).detach() for name, p in module.named_parameters() if p.requires_grad}

    def on(part: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
        return lambda parameters: functional_call(module, {**parameters, **fixed}, (part,)).reshape(-1)

    @with_gradients
    def product(rows: torch.Tensor, columns: torch.Tensor, v: np.ndarray) -> np.ndarray:
        weights = torch.as_tensor(np.ascontiguousarray(v).ravel(), device=left.device).to(kind)
        direction = {name: torch.zeros_like(p) for name, p in free.items()}
        with plain_attention():
            for low in range(0, columns.shape[0], chunk):
                part = columns[low : low + chunk]
                (pulled,) = vjp(on(part), free)[1](weights[low * width : (low + part.shape[0]) * width])
                for name, gradient in pulled.items():
                    direction[name] += gradient
            parts = [rows[low : low + chunk] for low in range(0, rows.shape[0], chunk)]
            pushed = [jvp(on(part), (free,), (direction,))[1].detach() for part in parts]
        return torch.cat(pushed).double().cpu().numpy()

    return LinearOperator(
        shape=(left.shape[0] * width, right.shape[0] * width),
        matvec=lambda v: product(left, right, v),
        rmatvec=lambda v: product(right, left, v),
        dtype=np.float64,
    )
