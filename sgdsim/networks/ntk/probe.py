"""Which parameters of a module go by the structure of their layers: found out on random inputs, and all outputs."""

from __future__ import annotations

from collections import defaultdict
from functools import reduce

import torch
from torch import nn

from sgdsim.common.checks import InputError
from sgdsim.networks.ntk import layers
from sgdsim.networks.ntk.calls import recorded
from sgdsim.networks.ntk.modules import differentiated, outputs

_ROWS = 16
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # relative difference of two ways to the same gradient


class Sample:
    """Random inputs `x` (m, ...) of many, and random weights: `own` (m, C) of their outputs, `shares` (m,) of them."""

    def __init__(self, module: nn.Module, x: torch.Tensor, rows: int = _ROWS) -> None:
        random = torch.Generator().manual_seed(0)
        self.x = x[torch.randperm(x.shape[0], generator=random)[:rows].to(x.device)]
        f = outputs(module, self.x)
        self.own, self.shares = (
            (torch.rand(shape, generator=random, dtype=torch.float64) + 0.5).to(f) for shape in (f.shape, (len(f), 1))
        )
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        found = differentiated((f * self.own * self.shares).sum(), list(self._trained.values()))
        if not all(g is None or torch.isfinite(g).all() for g in found):
            raise InputError("network: its gradient has NaN or infinite entries; check the parameters and the inputs")
        self.gradient = dict(zip(self._trained, found, strict=True))

    def agrees(self, name: str, total: torch.Tensor, tolerance: float | None = None) -> bool:
        """Whether `total` is the gradient of the weighted sum of the outputs by this parameter, as autograd has it."""
        expected, parameter = self.gradient[name], self._trained[name]
        if total.numel() != parameter.numel():
            return False
        want = torch.zeros_like(parameter) if expected is None else expected
        return self.close(total.reshape(parameter.shape), want, tolerance)

    def agree(self, totals: dict[str, torch.Tensor], tolerance: float | None = None) -> bool:
        """`agrees` for each of these parameters."""
        return all(self.agrees(name, total, tolerance) for name, total in totals.items())

    def check_sum(self, totals: dict[str, torch.Tensor]) -> None:
        """InputError unless `totals`, the sum of the inputs' own gradients, is that of all: up to rounding to float32,
        which a module may do inside."""
        if not self.agree(totals, max(1e-5, 10 * _TOLERANCE[self.own.dtype])):
            raise InputError("network: expected gradients of a batch that are the sum of its inputs' own, got others")

    @staticmethod
    def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None) -> bool:
        """Whether they are equal up to rounding."""
        tolerance = tolerance or _TOLERANCE[expected.dtype]
        return _largest(found - expected) <= tolerance * (_largest(expected) + tolerance)


def _largest(t: torch.Tensor) -> float:
    """The largest absolute value; NaN where there is one."""
    low, high = torch.aminmax(t)
    return max(-low.item(), high.item())


class Structure:
    """What goes by structure: `places`, parameter → (layer, its name there), with the layers' `calls` on a few inputs.

    Such a parameter belongs to one layer of a known kind; every use that the outputs make of it is a call of that
    layer; and the layer's gradients, weighted input by input and output by output with random numbers, add up to those
    of autograd. `n_inputs`: how many there were; `n_outputs`: C; `numbers`: that the layers took and gave.
    """

    def __init__(self, module: nn.Module, x: torch.Tensor, without: set[str]) -> None:
        names = {id(p): name for name, p in module.named_parameters() if p.requires_grad and name not in without}
        homes: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
        for layer in module.modules():
            for short, parameter in layer.named_parameters(recurse=False):
                if id(parameter) in names:
                    homes[names[id(parameter)]].append((layer, short))
        # Tied weights have several homes and go by their Jacobian.
        self.places = {
            name: places[0]
            for name, places in homes.items()
            if len(places) == 1 and layers.contraction(places[0][0]) is not None
        }
        sample = Sample(module, x)
        used = [layer for layer, _ in self.places.values()]
        seen = recorded(module, used, sample.x, lambda f: [(f * sample.own).sum()])
        odd = seen.unlike(self.places)
        self.calls = {layer: [call for (call,) in made if call is not None] for layer, made in seen.calls.items()}
        for name, (layer, short) in list(self.places.items()):
            made = self.calls.get(layer, [])
            known = made and name not in odd and all(short in {**call.forms, **call.gradients} for call in made)
            if not known or not sample.agrees(name, self._total(made, short, sample.shares)):
                del self.places[name]
        self.n_inputs, self.n_outputs, self.numbers = len(sample.x), seen.n_outputs, seen.numbers

    @staticmethod
    def _total(made: list[layers.Call], parameter: str, shares: torch.Tensor) -> torch.Tensor:
        return reduce(torch.add, (call.total(parameter, shares) for call in made))
