"""Gradients of single inputs by parameters whose layers have no known structure."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from sgdsim.networks.ntk.bags import LookedUp
from sgdsim.networks.ntk.modules import differentiated, outputs, plain_attention
from sgdsim.networks.ntk.probe import Sample

_PROBED = 10**7  # numbers in the Jacobian of a probe, of 3 to 16 inputs


class Jacobian:
    """∂(own·f)/∂w for each input x and its own weights of the C outputs, by the parameters `names` side by side.

    By torch.func where that agrees with autograd on a few random inputs; else by one backward pass for each input.
    InputError where those do not add up to the gradient of a batch either. `width`: the number of columns.
    """

    def __init__(self, module: nn.Module, x: torch.Tensor, names: list[str]) -> None:
        trained = dict(module.named_parameters())
        self._module, self._parameters = module, {name: trained[name] for name in names}
        self.width = sum(p.numel() for p in self._parameters.values())
        self._mapped = False
        if names:
            sample = Sample(module, x, min(16, max(3, _PROBED // self.width)))
            self._mapped = self._maps(sample)
            if not self._mapped:
                sample.check_sum(self._totals(sample, self._one_by_one(sample.x, sample.own)))

    def _maps(self, sample: Sample) -> bool:
        try:
            return sample.agree(self._totals(sample, self._by_vmap(sample.x, sample.own)))
        except Exception:  # it is the user's code: what torch.func makes of it can be anything
            return False

    def _totals(self, sample: Sample, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        totals = (sample.shares[:, 0] @ rows).split([p.numel() for p in self._parameters.values()])
        return dict(zip(self._parameters, totals, strict=True))

    def rows(self, x: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """(n, width) for inputs x (n, ...) and weights (n, C)."""
        if self._mapped:
            try:
                return self._by_vmap(x, own)
            except RuntimeError:  # these inputs, and not those of the probe, go a way that torch.func does not know
                self._mapped = False
        return self._one_by_one(x, own)

    def _by_vmap(self, x: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        held = dict([*self._module.named_parameters(), *self._module.named_buffers()])
        fixed = {name: t for name, t in held.items() if name not in self._parameters}

        def single(moving: dict[str, torch.Tensor], sample: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return functional_call(self._module, {**moving, **fixed}, (sample[None],)).reshape(-1) @ weights

        with plain_attention(), LookedUp():
            parts = vmap(grad(single), (None, 0, 0))({n: p.detach() for n, p in self._parameters.items()}, x, own)
        return torch.cat([part.detach().reshape(x.shape[0], -1) for part in parts.values()], dim=1)

    def _one_by_one(self, x: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        chosen, rows = list(self._parameters.values()), []
        for sample, weights in zip(x, own, strict=True):
            f = outputs(self._module, sample[None])[0]
            parts = differentiated(f @ weights, chosen) if f.requires_grad else [None] * len(chosen)
            row = [torch.zeros_like(p) if g is None else g for g, p in zip(parts, chosen, strict=True)]
            rows.append(torch.cat([part.ravel() for part in row]))
        return torch.stack(rows)
