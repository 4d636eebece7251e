"""Empirical neural tangent kernel `Θ(x, x') = ∂f(x)/∂w · ∂f(x')/∂w` of any torch module."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from sgdsim.common import devices
from sgdsim.common.checks import InputError, choice, integer
from sgdsim.networks.ntk import layers
from sgdsim.networks.ntk.calls import recorded
from sgdsim.networks.ntk.modules import (
    DTYPES,
    check_module,
    empty,
    inputs,
    outputs,
    plain_attention,
    prepared,
    with_gradients,
)

# Working memory beyond the result, in bytes, unless the caller says otherwise.
BUDGET = 1_000_000_000
# What one forward and backward pass may take on a CPU, in bytes: larger ones leave its caches.
_PASS_BYTES = 128_000_000
# The probe compares a layer's structured gradients with autograd's on a few inputs; what differs by more than this
# (relative, by dtype) goes the general way.
_PROBES = (2, 3)
_PROBE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


@with_gradients
def empirical_ntk(
    module: nn.Module,
    x1: np.ndarray,
    x2: np.ndarray | None = None,
    *,
    output: str | int = "trace",
    device: str = "cpu",
    dtype: str = "float64",
    chunk: int | None = None,
    budget: int = BUDGET,
) -> np.ndarray:
    """The empirical NTK at the module's present parameters.

    Each layer is contracted by its structure where that is possible (see `sgdsim.networks.ntk.layers`), every other
    parameter by tiles of its Jacobian (`torch.func`); `contraction_plan` tells which. Only parameters with
    `requires_grad` count.

    Parameters
    ----------
    module : any `torch.nn.Module` that maps (n, ...) to (n,) or (n, C), each output a function of its own input alone.
    x1, x2 : inputs (n1, ...) and (n2, ...), floating point or integer (tokens); `x2=None` means `x1`.
    output : "trace" sums over the C outputs, "full" keeps all pairs, an index c takes one output.
    device : "cpu", "cuda" or "auto".
    dtype : in which all is computed, "float64" or "float32"; the result is float64.
    chunk : inputs per tile; None: as many as fit in `budget` bytes of working memory.

    Returns
    -------
    (n1, n2) float64, or (n1, n2, C, C) with `output="full"`; without `x2` symmetric to the last bit.

    Raises
    ------
    InputError : a module without trainable parameters, in training mode with randomness, that does not take these
        inputs, or whose kernel is not finite; an unknown output, device or dtype; chunk < 1.
    """
    check_module(module)
    kind = DTYPES[choice("dtype", dtype, DTYPES)]
    budget = integer("budget", budget, minimum=1)
    left = inputs("x1", x1, devices.resolve(device), kind)
    right = left if x2 is None else inputs("x2", x2, devices.resolve(device), kind)
    if right.shape[1:] != left.shape[1:]:
        raise InputError(f"x2: expected inputs of shape {tuple(left.shape[1:])} like x1, got {tuple(right.shape[1:])}")
    work = _Work(prepared(module, left, kind), left)
    wanted = work.chosen(output)
    size = integer("chunk", chunk, minimum=1) if chunk is not None else work.chunk(budget)
    full = output == "full"
    shape = (left.shape[0], right.shape[0], *([len(wanted)] * 2 if full else []))
    theta = empty(shape, torch.float64, left.device)
    for i in range(0, left.shape[0], size):
        first = work.factors(left[i : i + size], wanted, budget)
        for j in range(i if right is left else 0, right.shape[0], size):
            same = right is left and i == j
            second = first if same else work.factors(right[j : j + size], wanted, budget)
            strip = max(128, -(-first.n // 8))  # few enough rows to stay in the cache, many enough for fast products
            for low in range(0, first.n, strip):
                start = low if same else 0  # of a symmetric tile only what is right of the diagonal
                block = work.block(first.rows(low, low + strip), second.rows(start, None), full, budget)
                if not torch.isfinite(block).all():
                    raise InputError(
                        "network: its tangent kernel has NaN or infinite entries; check the parameters and the inputs"
                    )
                rows, columns = slice(i + low, i + low + block.shape[0]), slice(j + start, j + second.n)
                if same:  # a product of a matrix with its transpose need not be symmetric to the last bit
                    square = block[:, : block.shape[0]]
                    square.copy_((square + _transposed(square)) * 0.5)
                theta[rows, columns] = block
                if right is left:
                    theta[columns, rows] = _transposed(block)
    return theta.cpu().numpy()


def _largest(t: torch.Tensor) -> float:
    low, high = torch.aminmax(t)
    return max(-low.item(), high.item())


def _transposed(block: torch.Tensor) -> torch.Tensor:
    return block.permute(1, 0, 3, 2) if block.ndim == 4 else block.T


@with_gradients
def contraction_plan(module: nn.Module, x: np.ndarray, *, dtype: str = "float64") -> dict[str, str]:
    """How `empirical_ntk` treats each trainable parameter: the layer's kind, or "jacobian". `x`: some inputs."""
    check_module(module)
    tensor = inputs("x", x, "cpu", DTYPES[choice("dtype", dtype, DTYPES)])
    work = _Work(prepared(module, tensor, DTYPES[dtype]), tensor)
    kinds = {name: type(work.structured[name][0]).__name__ for name in work.structured}
    return {name: kinds.get(name, "jacobian") for name in work.trainable}


@dataclass
class _Tile:
    """What is kept of n inputs: their gradients (n, C, p) by all parameters but those in linear forms, C lists."""

    gradients: torch.Tensor
    forms: list[list[layers.LinearForm]]

    @property
    def n(self) -> int:
        return self.gradients.shape[0]

    def rows(self, low: int, high: int | None) -> _Tile:
        return _Tile(self.gradients[low:high], [[form.rows(low, high) for form in forms] for forms in self.forms])


class _Work:
    """A module taken apart: which parameters go by structure (found out on a probe), and their factors on inputs."""

    def __init__(self, module: nn.Module, x: torch.Tensor) -> None:
        self.module = module
        self.trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        names = {id(p): name for name, p in self.trainable.items()}
        # parameter name → (layer, the parameter's name in it)
        homes: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
        for layer in module.modules():
            for short, parameter in layer.named_parameters(recurse=False):
                if id(parameter) in names:
                    homes[names[id(parameter)]].append((layer, short))
        # Tied weights have several homes and go by their Jacobian.
        self.structured = {
            name: places[0]
            for name, places in homes.items()
            if len(places) == 1 and layers.contraction(places[0][0]) is not None
        }
        calls, passed = self._probe(x)
        self.rest = {name: p.detach() for name, p in self.trainable.items() if name not in self.structured}
        # A weight that is used once and has few positions stays a form, with its layer's bias; calls that share a
        # weight add up in its gradient. The gradients of all parameters lie side by side.
        self.forms: dict[str, layers.LinearForm] = {}
        for name, (layer, short) in self.structured.items():
            form = calls[layer][0].forms.get(short)
            if len(calls[layer]) == 1 and form is not None and form.by_gram:
                self.forms[name] = form
        within = {layer: name for name, (layer, short) in self.structured.items() if name in self.forms}
        self.columns: dict[str, slice] = {}
        width = 0
        for name, (layer, short) in self.structured.items():
            bias = calls[layer][0].bias
            if short == "bias" and layer in within and bias is not None:
                self.forms[within[layer]] = replace(self.forms[within[layer]], constant=bias)
            elif name not in self.forms:
                self.columns[name] = slice(width, width + self.trainable[name].numel())
                width = self.columns[name].stop
        self.width = width + sum(p.numel() for p in self.rest.values())
        # Numbers per input: kept in a tile, and in a pass (inputs and gradients of every layer, what is made of them).
        self.kept = self.width + sum(form.numbers() for form in self.forms.values()) / max(_PROBES)
        self.raw = 3 * passed + 3 * self.kept

    def _probe(self, x: torch.Tensor) -> tuple[dict[nn.Module, list[layers.Call]], float]:
        """Keep by structure only what agrees with autograd, input by input; the calls seen, for one output, and numbers
        per input."""
        x = x[: max(_PROBES)]
        trained = list(self.trainable.values())
        expected = []
        for sample in x:
            gradients = torch.autograd.grad(outputs(self.module, sample[None])[0, 0], trained, allow_unused=True)
            expected.append(dict(zip(self.trainable, gradients, strict=True)))
        # Two sizes: a dimension that is not that of the inputs cannot equal both.
        for count in _PROBES:
            chosen = [k % x.shape[0] for k in range(count)]
            used = [layer for layer, _ in self.structured.values()]
            calls, self.n_outputs, numbers = recorded(self.module, used, x[chosen], [0])
            for name, (layer, short) in list(self.structured.items()):
                made = [call[0] for call in calls.get(layer, [])]
                known = [call for call in made if call is not None]
                complete = known and len(known) == len(made)
                if not complete or not self._agrees(known, short, [expected[k][name] for k in chosen]):
                    del self.structured[name]
        first = {layer: [call[0] for call in made if call[0] is not None] for layer, made in calls.items()}
        return first, numbers / count

    @staticmethod
    def _agrees(made: list[layers.Call], parameter: str, expected: list[torch.Tensor | None]) -> bool:
        if any(parameter not in {**call.forms, **call.gradients} for call in made):
            return False
        have = reduce(torch.add, (call.gradient(parameter) for call in made))
        if have.shape[0] != len(expected):
            return False
        tolerance = _PROBE_TOLERANCE[have.dtype]
        for row, want in zip(have, expected, strict=True):
            want = torch.zeros_like(row) if want is None else want.flatten()
            if row.shape != want.shape or not _largest(row - want) <= tolerance * (_largest(want) + tolerance):
                return False
        return True

    def chosen(self, output: str | int) -> list[int]:
        """The output indices that take part."""
        if output in ("trace", "full"):
            return list(range(self.n_outputs))
        if isinstance(output, bool) or not isinstance(output, int) or not 0 <= output < self.n_outputs:
            raise InputError(f"output: expected 'trace', 'full' or an index below {self.n_outputs}, got {output!r}")
        return [output]

    def chunk(self, budget: int) -> int:
        """Inputs per tile so that two tiles' factors, and a few matrices between them, fit in `budget` bytes each."""
        pairs = math.isqrt(budget // (8 * self._itemsize))
        return max(1, min(pairs, int(budget / (2 * max(self.kept, 1) * self.n_outputs * self._itemsize))))

    @property
    def _itemsize(self) -> int:
        return next(iter(self.trainable.values())).element_size()

    def factors(self, x: torch.Tensor, wanted: list[int], budget: int) -> _Tile:
        """What a tile keeps of its inputs, made from as many inputs at once as `budget` bytes allow."""
        limit = min(budget, _PASS_BYTES) if x.device.type == "cpu" else budget
        step = max(1, int(limit / (self.raw * len(wanted) * self._itemsize)))
        some = next(iter(self.trainable.values()))
        gradients = empty((x.shape[0], len(wanted), self.width), some.dtype, some.device)
        passes = [slice(low, low + step) for low in range(0, x.shape[0], step)]
        parts = [self._factors(x[rows], wanted, gradients[rows]) for rows in passes]
        forms = [[layers.join(list(same)) for same in zip(*rows, strict=True)] for rows in zip(*parts, strict=True)]
        return _Tile(gradients, forms)

    def _factors(self, x: torch.Tensor, wanted: list[int], out: torch.Tensor) -> list[list[layers.LinearForm]]:
        """Writes gradients to `out`, (n, C, p), and returns the linear forms: output → forms in their order."""
        used = [layer for layer, _ in self.structured.values()]
        calls = recorded(self.module, used, x, wanted)[0] if used else {}
        single = {self.structured[name][0] for name in self.forms}
        for layer, of_layer in calls.items():
            if any(None in call for call in of_layer) or (layer in single and len(of_layer) > 1):
                raise InputError(f"network: expected layers called alike for all inputs, got a {type(layer).__name__}")
        forms: list[list[layers.LinearForm]] = []
        for c, target in enumerate(out.unbind(1)):
            made = {
                layer: [call for outputs_of in of_layer if (call := outputs_of[c]) is not None]
                for layer, of_layer in calls.items()
            }
            for name, columns in self.columns.items():
                layer, parameter = self.structured[name]
                shares = [call.gradient(parameter) for call in made.get(layer, [])]
                target[:, columns] = reduce(torch.add, shares) if shares else 0.0  # some inputs may not call a layer
            forms.append([])
            for name, form in self.forms.items():
                layer, parameter = self.structured[name]
                called = [call.forms[parameter] for call in made.get(layer, [])]
                forms[c].append(replace(called[0], constant=form.constant) if called else form.zeros(x.shape[0]))
            if self.rest:
                target[:, self.width - sum(p.numel() for p in self.rest.values()) :] = self._jacobian(x, wanted[c])
        return forms

    def _jacobian(self, x: torch.Tensor, c: int) -> torch.Tensor:
        """∂f_c/∂w of the parameters without structure, (n, p)."""
        fixed = dict([*self.module.named_parameters(), *self.module.named_buffers()])
        for name in self.rest:
            del fixed[name]

        def single(rest: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
            return functional_call(self.module, {**rest, **fixed}, (sample[None],)).reshape(-1)[c]

        try:
            with plain_attention():
                parts = vmap(grad(single), (None, 0))(self.rest, x)
            return torch.cat([part.detach().reshape(x.shape[0], -1) for part in parts.values()], dim=1)
        except RuntimeError:  # something that torch.func does not know: one backward pass for each input
            return torch.stack([self._gradient(sample, c) for sample in x])

    def _gradient(self, sample: torch.Tensor, c: int) -> torch.Tensor:
        chosen = [self.trainable[name] for name in self.rest]
        parts = torch.autograd.grad(outputs(self.module, sample[None])[0, c], chosen, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).ravel() for g, p in zip(parts, chosen, strict=True)]
        )

    def block(self, first: _Tile, second: _Tile, full: bool, budget: int) -> torch.Tensor:
        """The kernel between two tiles: (n1, n2, C, C) for all pairs of outputs, else (n1, n2) summed over them."""
        count = len(first.forms)
        if full:
            out = first.gradients.flatten(0, 1) @ second.gradients.flatten(0, 1).T
            out = out.view(first.n, count, second.n, count).permute(0, 2, 1, 3)
        else:
            out = first.gradients.flatten(1) @ second.gradients.flatten(1).T
        for c in range(count):
            for e in range(count) if full else [c]:
                part = out[:, :, c, e] if full else out
                for left, right in zip(first.forms[c], second.forms[e], strict=True):
                    part += layers.share(left, right, budget // 4)
        return out
