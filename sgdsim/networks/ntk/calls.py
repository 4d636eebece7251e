"""What every layer of a module took and the gradient of what it gave, from one forward and backward pass."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import Node, get_gradient_edge

from sgdsim.networks.ntk import layers
from sgdsim.networks.ntk.modules import differentiated, outputs


@dataclass
class Recorded:
    """The calls of some layers when a module maps x (n, ...) to (n, C).

    `calls`: layer → its calls in order, each one `layers.Call` for every scalar that was differentiated; None in place
    of a call that is not laid out as the layer's contraction expects. `numbers`: how many the layers took and gave.
    """

    calls: dict[nn.Module, list[list[layers.Call | None]]]
    n_outputs: int
    numbers: int
    _uses: Counter[int]
    _reached: Counter[nn.Module]

    def unlike(self, places: dict[str, tuple[nn.Module, str]], single: Iterable[str] = ()) -> set[str]:
        """The parameters, name → (layer, its name there), that these calls do not account for: used by the outputs
        elsewhere too, or in a call of an unknown layout; of those in `single` also those called more than once."""
        odd = set()
        for name, (layer, short) in places.items():
            of_layer = self.calls.get(layer, [])
            unknown = any(call is None for call_of in of_layer for call in call_of)
            more = name in single and len(of_layer) > 1
            if unknown or more or self._uses[id(getattr(layer, short))] != self._reached[layer]:
                odd.add(name)
        return odd


def recorded(
    module: nn.Module,
    used: Iterable[nn.Module],
    x: torch.Tensor,
    scalars: Callable[[torch.Tensor], Sequence[torch.Tensor]],
) -> Recorded:
    """The calls of the layers `used`; `scalars`: what to differentiate of the outputs (n, C)."""
    seen: list[tuple[nn.Module, torch.Tensor, torch.Size]] = []
    edges = []  # places in the graph: an in-place activation after a layer does not move them

    def record(
        layer: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object], result: torch.Tensor
    ) -> None:
        if result.requires_grad:
            (given, *_) = (*arguments, *keywords.values())
            assert isinstance(given, torch.Tensor)
            seen.append((layer, given.detach(), result.shape))
            edges.append(get_gradient_edge(result))

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in set(used)]
    try:
        with torch.enable_grad():
            f = outputs(module, x)
    finally:
        for handle in handles:
            handle.remove()
    # Inputs do not interact, so the gradient of the summed output holds every input's own gradient.
    wanted = scalars(f)
    gradients = [differentiated(scalar, edges, keep=scalar is not wanted[-1]) if edges else () for scalar in wanted]
    calls: dict[nn.Module, list[list[layers.Call | None]]] = defaultdict(list)
    reached: Counter[nn.Module] = Counter()
    for k, (layer, a, shape) in enumerate(seen):
        reached[layer] += any(d[k] is not None for d in gradients)
        calls[layer].append(
            [_call(layer, a, f.new_zeros(shape) if (d := of[k]) is None else d, len(x)) for of in gradients]
        )
    numbers = sum(a.numel() + math.prod(shape) for _, a, shape in seen)
    return Recorded(calls, f.shape[1], numbers, parameter_uses(f.grad_fn), reached)


def _call(layer: nn.Module, a: torch.Tensor, d: torch.Tensor, n: int) -> layers.Call | None:
    contract = layers.contraction(layer)
    if contract is None or d.shape[0] != n:
        return None
    try:
        return contract(layer, a, d.detach())
    except (RuntimeError, IndexError, ValueError):  # a layout that the contraction does not know
        return None


def parameter_uses(root: Node | None) -> Counter[int]:
    """How often each parameter, by its id, enters the graph that ends in `root`."""
    found: Counter[int] = Counter()
    seen, todo = {root}, [root]
    while todo:
        node = todo.pop()
        for other, _ in () if node is None else node.next_functions:
            if (leaf := getattr(other, "variable", None)) is not None:
                found[id(leaf)] += 1
            elif other not in seen:
                seen.add(other)
                todo.append(other)
    return found
