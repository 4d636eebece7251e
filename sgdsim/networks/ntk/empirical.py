"""Empirical neural tangent kernel `Θ(x, x') = ∂f(x)/∂w · ∂f(x')/∂w` of any torch module."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from torch import nn

from sgdsim.common import devices
from sgdsim.common.checks import InputError, choice, integer
from sgdsim.networks.ntk import layers
from sgdsim.networks.ntk.calls import recorded
from sgdsim.networks.ntk.functions import function_of
from sgdsim.networks.ntk.jacobian import Jacobian
from sgdsim.networks.ntk.modules import DTYPES, empty, inputs, with_gradients
from sgdsim.networks.ntk.probe import Structure

# Working memory beyond the result, in bytes, unless the caller says otherwise.
BUDGET = 1_000_000_000
# What one forward and backward pass may take on a CPU, in bytes: larger ones leave its caches.
_PASS_BYTES = 128_000_000


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
    parameter by tiles of its Jacobian; `contraction_plan` tells which. What goes by structure is probed: on 16 random
    inputs and all outputs against autograd, and on every input in that no more uses are made of the parameter than
    calls of its layer. Jacobians come from `torch.func`, or input by input where that fails or differs on a probe. Only
    parameters with `requires_grad` count. The module works on copies of the inputs; an embedding's
    `scale_grad_by_freq`, which is no derivative, is left out.

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
    InputError : a module without trainable parameters, that is random or mixes the inputs of a batch (see
        `sgdsim.networks.ntk.functions.function_of`), that does not take these inputs, or whose kernel is not finite; an
        unknown output, device or dtype; chunk < 1.
    """
    kind = DTYPES[choice("dtype", dtype, DTYPES)]
    budget = integer("budget", budget, minimum=1)
    left = inputs("x1", x1, devices.resolve(device), kind)
    right = left if x2 is None else inputs("x2", x2, devices.resolve(device), kind)
    if right.shape[1:] != left.shape[1:]:
        raise InputError(f"x2: expected inputs of shape {tuple(left.shape[1:])} like x1, got {tuple(right.shape[1:])}")
    module, odd = function_of(module, left, kind), set[str]()
    while True:
        try:
            return _kernel(_Work(module, left, odd), left, right, output, chunk, budget).cpu().numpy()
        except _Unlike as found:  # a layer is not called alike for all inputs
            odd |= found.names


class _Unlike(Exception):
    """Parameters that some inputs use in another way than those of the probe."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(*names)
        self.names = names


def _kernel(
    work: _Work, left: torch.Tensor, right: torch.Tensor, output: str | int, chunk: int | None, budget: int
) -> torch.Tensor:
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
    return theta


def _transposed(block: torch.Tensor) -> torch.Tensor:
    return block.permute(1, 0, 3, 2) if block.ndim == 4 else block.T


@with_gradients
def contraction_plan(module: nn.Module, x: np.ndarray, *, dtype: str = "float64") -> dict[str, str]:
    """How `empirical_ntk` treats each trainable parameter: the layer's kind, or "jacobian", as far as 16 of
    the inputs `x` show."""
    tensor = inputs("x", x, "cpu", DTYPES[choice("dtype", dtype, DTYPES)])
    module = function_of(module, tensor, DTYPES[dtype])
    kinds = {name: type(layer).__name__ for name, (layer, _) in Structure(module, tensor, set()).places.items()}
    return {name: kinds.get(name, "jacobian") for name, p in module.named_parameters() if p.requires_grad}


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

    def __init__(self, module: nn.Module, x: torch.Tensor, without: set[str]) -> None:
        self.module = module
        self.trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        found = Structure(module, x, without)
        self.structured, self.n_outputs, calls = found.places, found.n_outputs, found.calls
        self.rest = Jacobian(module, x, [name for name in self.trainable if name not in self.structured])
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
        self.width = width + self.rest.width
        # Numbers per input: kept in a tile, and in a pass (inputs and gradients of every layer, what is made of them).
        self.kept = self.width + sum(form.numbers() for form in self.forms.values()) / found.n_inputs
        self.raw = 3 * found.numbers / found.n_inputs + 3 * self.kept

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
        calls: dict[nn.Module, list[list[layers.Call | None]]] = {}
        if used:
            seen = recorded(self.module, used, x, lambda f: [f[:, c].sum() for c in wanted])
            if odd := seen.unlike(self.structured, single=self.forms):
                raise _Unlike(odd)
            calls = seen.calls
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
            if self.rest.width:
                own = out.new_zeros(x.shape[0], self.n_outputs)
                own[:, wanted[c]] = 1
                target[:, self.width - self.rest.width :] = self.rest.rows(x, own)
        return forms

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
