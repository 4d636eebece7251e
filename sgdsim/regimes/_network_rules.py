"""Gradient rules on the real network: its parameters as one row for each replicate."""

from __future__ import annotations

from typing import Any

import torch

from sgdsim.algorithm.rules import GradientRule
from sgdsim.algorithm.sgd import StepValues
from sgdsim.regimes._replicates import Targets, Tensors, at
from sgdsim.regimes._training import Training


class Rows(Training):
    """All parameters of each replicate side by side, `rows` (R, P), and what the rule keeps beside them, `kept`; the
    parameters are views of the rows."""

    def __init__(self, rule: GradientRule, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rule = rule
        self.shapes = {name: p.shape[1:] for name, p in self.parameters.items()}
        self.rows = torch.cat([p.reshape(len(p), -1) for p in self.parameters.values()], 1)
        self.kept = rule.init(self.rows)
        self.parameters, self.step = self._views_of_rows(), self._step

    def _views_of_rows(self) -> Tensors:
        parts = self.rows.split([shape.numel() for shape in self.shapes.values()], 1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(len(part), *shape) for (name, shape), part in named}

    def views(self, group: slice) -> tuple[slice, Tensors, Tensors]:
        return group, at(self.parameters, group), at(self.buffers, group)

    def coefficients(self, start: int, values: StepValues) -> tuple[range, list[float]]:
        return range(start, start + values.lr.size), values.lr.tolist()

    def _step(
        self, group: slice, parameters: Tensors, buffers: Tensors, x: torch.Tensor, y: Targets, step: int, lr: float
    ) -> None:
        """One step of the replicates in `group`, in place; parameters and buffers are theirs, x and y their batches."""
        gradients, loss = self.slopes(parameters, buffers, x, y)
        gradient = torch.cat([gradients[name].reshape(len(loss), -1) for name in self.shapes], 1)
        kept = tuple(held[group] for held in self.kept)
        rows = self.rows[group] * (1 - lr * self.rule.weight_decay) if self.rule.weight_decay else self.rows[group]
        moved, new = self.rule.update(rows, kept, gradient, loss, step, lr)
        self.rows[group] = moved
        for held, value in zip(kept, new, strict=True):
            held.copy_(value)

    def keep_parameters(self, places: torch.Tensor) -> None:
        self.rows, self.kept = self.rows[places], tuple(held[places] for held in self.kept)
        self.parameters = self._views_of_rows()
