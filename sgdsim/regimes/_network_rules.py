"""Gradient rules on the real network: its parameters as one row for each replicate."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sgdsim.algorithm.rules import GradientRule


class Rows:
    """All parameters of each replicate side by side, (R, P), and what the rule keeps; `tensors` are views of them.

    `slopes`: (parameters, buffers, x, y) -> gradients by name and losses (R,) of the mini-batch loss.
    """

    def __init__(self, rule: GradientRule, parameters: dict[str, torch.Tensor], slopes: Callable) -> None:
        self.rule, self.slopes = rule, slopes
        self.shapes = {name: p.shape[1:] for name, p in parameters.items()}
        self.values = torch.cat([p.reshape(len(p), -1) for p in parameters.values()], 1)
        self.kept = rule.init(self.values)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The network's parameters, (R, …) each; they change with the rows."""
        parts = self.values.split([shape.numel() for shape in self.shapes.values()], 1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(len(part), *shape) for (name, shape), part in named}

    def step(
        self,
        group: slice,
        parameters: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        x: torch.Tensor,
        y: torch.Tensor,
        step: int,
        lr: float,
    ) -> None:
        """One step of the replicates in `group`, in place; parameters and buffers are theirs, x and y their batches."""
        gradients, loss = self.slopes(parameters, buffers, x, y)
        gradient = torch.cat([gradients[name].reshape(len(loss), -1) for name in self.shapes], 1)
        kept = tuple(held[group] for held in self.kept)
        moved, new = self.rule.update(self.values[group], kept, gradient, loss, step, lr)
        self.values[group] = moved
        for held, value in zip(kept, new, strict=True):
            held.copy_(value)

    def keep(self, places: torch.Tensor) -> None:
        """Only these replicates from now on."""
        self.values, self.kept = self.values[places], tuple(held[places] for held in self.kept)
