"""Empirical neural tangent kernel `Θ(x, x') = ∂f(x)/∂w · ∂f(x')/∂w` of any torch module."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from sgdsim import devices
from sgdsim.checks import InputError, choice, integer
from sgdsim.ntk import layers
from sgdsim.ntk.modules import DTYPES, check_module, inputs, outputs, plain_attention, prepared

# Working memory beyond the result, in bytes, unless the caller says otherwise.
BUDGET = 1_000_000_000
# The probe compares a layer's structured gradients with autograd's on a few inputs; what differs by more than this
# (relative, by dtype) goes the general way.
_PROBES = (2, 3)
_PROBE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


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

    Each layer is contracted by its structure where that is possible (see `sgdsim.ntk.layers`), every other parameter
    by tiles of its Jacobian (`torch.func`); `contraction_plan` tells which. Only parameters with `requires_grad` count.

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
    theta = torch.empty(shape, dtype=kind, device=left.device)
    for i in range(0, left.shape[0], size):
        first = work.factors(left[i : i + size], wanted, budget)
        for j in range(i if right is left else 0, right.shape[0], size):
            second = first if right is left and i == j else work.factors(right[j : j + size], wanted, budget)
            block = work.block(first, second, len(wanted), full, budget)
            if right is left:
                mirrored = block.permute(1, 0, 3, 2) if full else block.T
                if i == j:  # a product of a matrix with its transpose need not be symmetric to the last bit
                    block = (block + mirrored) * 0.5
                else:
                    theta[j : j + size, i : i + size] = mirrored
            theta[i : i + size, j : j + size] = block
    if not torch.isfinite(theta).all():
        raise InputError("network: its tangent kernel has NaN or infinite entries; check the parameters and the inputs")
    return theta.double().cpu().numpy()


def contraction_plan(module: nn.Module, x: np.ndarray, *, dtype: str = "float64") -> dict[str, str]:
    """How `empirical_ntk` treats each trainable parameter: the layer's kind, or "jacobian". `x`: some inputs."""
    check_module(module)
    tensor = inputs("x", x, "cpu", DTYPES[choice("dtype", dtype, DTYPES)])
    work = _Work(prepared(module, tensor, DTYPES[dtype]), tensor)
    kinds = {name: type(work.structured[name][0]).__name__ for name in work.structured}
    return {name: kinds.get(name, "jacobian") for name in work.trainable}


@dataclass
class _Tile:
    """The factors of n inputs: for each output one per structured parameter, and the Jacobian of the rest."""

    n: int
    factors: list[list[layers.Factor]]  # output → structured parameter, in the order of `_Work.structured`
    rest: list[torch.Tensor]  # output → (n, p)


class _Work:
    """A module taken apart: which parameters go by structure (found out on a probe), and their factors on inputs."""

    def __init__(self, module: nn.Module, x: torch.Tensor) -> None:
        self.module = module
        self.trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        names = {id(p): name for name, p in self.trainable.items()}
        homes = defaultdict(list)  # parameter name → (layer, the parameter's name in it)
        for layer in module.modules():
            for short, parameter in layer.named_parameters(recurse=False):
                if id(parameter) in names:
                    homes[names[id(parameter)]].append((layer, short))
        # Tied weights have several homes and go by their Jacobian.
        self.structured = {
            name: found[0]
            for name, found in homes.items()
            if len(found) == 1 and layers.contraction(found[0][0]) is not None
        }
        # Two sizes: a dimension that is not that of the inputs cannot equal both.
        for count in _PROBES:
            calls = self._probe(x[torch.arange(count, device=x.device) % x.shape[0]])
        self.rest = {name: p.detach() for name, p in self.trainable.items() if name not in self.structured}
        # Numbers per input: of a tile's factors, and while they are made (inputs, patches, gradients of every layer).
        factors = self._reduced(calls, 0, count)
        kept = sum(f.numbers() if isinstance(f, layers.LinearForm) else f.numel() for f in factors)
        self.kept = kept / count + sum(p.numel() for p in self.rest.values())
        made = sum(t.numel() for part in calls.values() for call in part for t in _tensors(call[0]))
        self.raw = 3 * made / count + 3 * self.kept

    def _probe(self, x: torch.Tensor) -> dict[nn.Module, list]:
        """Keep by structure only what agrees with autograd, input by input; returns the calls seen."""
        calls, f = self._calls(x, [0])
        self.n_outputs = f.shape[1]
        trained = list(self.trainable.values())
        expected = []
        for sample in x:
            found = torch.autograd.grad(outputs(self.module, sample[None])[0, 0], trained, allow_unused=True)
            whole = [torch.zeros_like(p) if g is None else g for g, p in zip(found, trained, strict=True)]
            expected.append(dict(zip(self.trainable, whole, strict=True)))
        for name, (layer, short) in list(self.structured.items()):
            made = [call[0] for call in calls.get(layer, [])]
            if not made or None in made or not self._agrees(made, short, [row[name] for row in expected], f.dtype):
                del self.structured[name]
        return calls

    @staticmethod
    def _agrees(made: list[layers.Call], parameter: str, expected: list[torch.Tensor], dtype: torch.dtype) -> bool:
        if any(parameter not in {**call.forms, **call.gradients} for call in made):
            return False
        have, want = sum(call.gradient(parameter) for call in made), torch.stack(expected).flatten(1)
        if have.shape != want.shape:
            return False
        tolerance = _PROBE_TOLERANCE[dtype]
        return bool(((have - want).abs() <= tolerance * (want.abs().amax(1, keepdim=True) + tolerance)).all())

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

    def _calls(self, x: torch.Tensor, wanted: list[int]) -> tuple[dict[nn.Module, list], torch.Tensor]:
        """Per structured layer, its calls; per call, one `layers.Call` for every output wanted."""
        seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []

        def record(layer, arguments, result):
            kept = result if result.requires_grad else result.requires_grad_()
            seen.append((layer, arguments[0].detach(), kept))
            return kept.clone()  # an in-place activation after this layer must not change what was kept

        used = {layer for layer, _ in self.structured.values()}
        handles = [layer.register_forward_hook(record) for layer in used]
        try:
            with torch.enable_grad():
                f = outputs(self.module, x)
        finally:
            for handle in handles:
                handle.remove()
        calls: dict[nn.Module, list] = defaultdict(list)
        gradients = []
        for c in wanted:
            # Inputs do not interact, so the gradient of the summed output holds every input's own gradient.
            gradients.append(
                torch.autograd.grad(
                    f[:, c].sum(), [result for _, _, result in seen], retain_graph=True, allow_unused=True
                )
                if seen
                else []
            )
        for k, (layer, a, result) in enumerate(seen):
            made = []
            for found in gradients:
                d = torch.zeros_like(result) if found[k] is None else found[k]
                if result.shape[0] != x.shape[0]:
                    made.append(None)
                    continue
                try:
                    made.append(layers.contraction(layer)(layer, a, d.detach()))
                except (RuntimeError, IndexError):  # a layout that the contraction does not know
                    made.append(None)
            calls[layer].append(made)
        return calls, f.detach()

    def factors(self, x: torch.Tensor, wanted: list[int], budget: int) -> _Tile:
        """What a tile keeps of its inputs, made from as many inputs at once as `budget` bytes allow."""
        step = max(1, int(budget / (self.raw * len(wanted) * self._itemsize)))
        parts = [self._factors(x[low : low + step], wanted) for low in range(0, x.shape[0], step)]
        joined = [
            [layers.join(list(column)) for column in zip(*rows, strict=True)]
            for rows in zip(*(f for f, _ in parts), strict=True)
        ]
        rest = [torch.cat(rows) for rows in zip(*(r for _, r in parts), strict=True)]
        return _Tile(x.shape[0], joined, rest)

    def _factors(self, x: torch.Tensor, wanted: list[int]) -> tuple[list[list[layers.Factor]], list[torch.Tensor]]:
        calls = self._calls(x, wanted)[0] if self.structured else {}
        factors = [self._reduced(calls, c, x.shape[0]) for c in range(len(wanted))]
        return factors, self._jacobian(x, wanted) if self.rest else []

    def _reduced(self, calls: dict[nn.Module, list], c: int, n: int) -> list[layers.Factor]:
        """The factor of each structured parameter: calls that share a weight add up in its gradient."""
        out: list[layers.Factor] = []
        for name, (layer, parameter) in self.structured.items():
            made = [call[c] for call in calls[layer]]
            if not made:  # a layer that is called for some inputs only
                out.append(self.trainable[name].new_zeros(n, self.trainable[name].numel()))
                continue
            form = made[0].forms.get(parameter)
            single = len(made) == 1 and form is not None and form.by_gram
            out.append(form if single else sum(call.gradient(parameter) for call in made))
        return out

    def _jacobian(self, x: torch.Tensor, wanted: list[int]) -> list[torch.Tensor]:
        """∂f_c/∂w of the parameters without structure, for each output c wanted, (n, p)."""
        fixed = dict([*self.module.named_parameters(), *self.module.named_buffers()])
        for name in self.rest:
            del fixed[name]
        found = []
        for c in wanted:

            def single(rest, sample, c=c):
                return functional_call(self.module, {**rest, **fixed}, (sample[None],)).reshape(-1)[c]

            try:
                with plain_attention():
                    parts = vmap(grad(single), (None, 0))(self.rest, x)
                rows = torch.cat([part.detach().reshape(x.shape[0], -1) for part in parts.values()], dim=1)
            except RuntimeError:  # something that torch.func does not know: one backward pass for each input
                rows = torch.stack([self._gradient(sample, c) for sample in x])
            found.append(rows)
        return found

    def _gradient(self, sample: torch.Tensor, c: int) -> torch.Tensor:
        chosen = [self.trainable[name] for name in self.rest]
        parts = torch.autograd.grad(outputs(self.module, sample[None])[0, c], chosen, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).ravel() for g, p in zip(parts, chosen, strict=True)]
        )

    def block(self, first: _Tile, second: _Tile, count: int, full: bool, budget: int) -> torch.Tensor:
        """The kernel between two tiles: (n1, n2, C, C) for all pairs of outputs, else (n1, n2) summed over them."""
        some = next(iter(self.trainable.values()))
        shape = (first.n, second.n, *([count] * 2 if full else []))
        out = torch.zeros(shape, dtype=some.dtype, device=some.device)
        for c, e in itertools.product(range(count), repeat=2) if full else ((c, c) for c in range(count)):
            part = out[:, :, c, e] if full else out
            for one, two in zip(first.factors[c], second.factors[e], strict=True):
                part += layers.share(one, two, budget // 4)
            if self.rest:
                part += first.rest[c] @ second.rest[e].T
        return out


def _tensors(call: layers.Call | None) -> list[torch.Tensor]:
    if call is None:
        return []
    forms = [t for form in call.forms.values() for t in (form.a, form.d, form.tokens) if t is not None]
    return [*forms, *call.gradients.values()]
