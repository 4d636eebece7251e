"""What every layer of a module took and the gradient of what it gave, from one forward and backward pass."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge

from sgdsim.networks.ntk import layers
from sgdsim.networks.ntk.modules import outputs


def recorded(
    module: nn.Module, used: Iterable[nn.Module], x: torch.Tensor, wanted: list[int]
) -> tuple[dict[nn.Module, list[list[layers.Call | None]]], int, int]:
    """The calls of the layers `used` when `module` maps x (n, ...) to (n, C).

    Returns
    -------
    calls : layer → its calls in order, each one `layers.Call` for every output `wanted`; None in place of a call that
        is not laid out as the layer's contraction expects.
    n_outputs : C.
    numbers : how many numbers the layers took and gave.
    """
    seen: list[tuple[nn.Module, torch.Tensor, torch.Size]] = []
    edges = []  # places in the graph: an in-place activation after a layer does not move them

    def record(layer: nn.Module, arguments: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        if result.requires_grad:
            seen.append((layer, arguments[0].detach(), result.shape))
            edges.append(get_gradient_edge(result))

    handles = [layer.register_forward_hook(record) for layer in set(used)]
    try:
        with torch.enable_grad():
            f = outputs(module, x)
    finally:
        for handle in handles:
            handle.remove()
    # Inputs do not interact, so the gradient of the summed output holds every input's own gradient.
    gradients = [
        torch.autograd.grad(f[:, c].sum(), edges, retain_graph=c != wanted[-1], allow_unused=True) if edges else ()
        for c in wanted
    ]
    calls: dict[nn.Module, list[list[layers.Call | None]]] = defaultdict(list)
    for k, (layer, a, shape) in enumerate(seen):
        calls[layer].append([_call(layer, a, f.new_zeros(shape) if d[k] is None else d[k], len(x)) for d in gradients])
    return calls, f.shape[1], sum(a.numel() + math.prod(shape) for _, a, shape in seen)


def _call(layer: nn.Module, a: torch.Tensor, d: torch.Tensor, n: int) -> layers.Call | None:
    contract = layers.contraction(layer)
    if contract is None or d.shape[0] != n:
        return None
    try:
        return contract(layer, a, d.detach())
    except (RuntimeError, IndexError, ValueError):  # a layout that the contraction does not know
        return None
