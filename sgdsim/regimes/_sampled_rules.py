"""Gradient rules on the parameters of the linearised network `f(x) = f_0(x) + J(x)δ`, on sampled batches."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.func import functional_call, grad, vmap

from sgdsim.algorithm.batches import batch_blocks, label_errors
from sgdsim.algorithm.rules import GradientRule
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.networks.ntk import with_gradients
from sgdsim.problem import NetworkProblem, Problem
from sgdsim.regimes.base import Run, diagonal

_LARGEST = 4 << 30  # bytes of the Jacobian


def check(problem: Problem, rule: GradientRule) -> None:
    """InputError where the parameters' Jacobian does not fit."""
    if 8 * problem.n_parameters * problem.n > _LARGEST:
        raise InputError(
            f"method: {rule.name} needs the Jacobian, {problem.n} points × {problem.n_parameters} parameters, of at "
            "most 4 GB; use fewer points or a narrower network, or the network regime"
        )


@with_gradients
def jacobian(problem: NetworkProblem, x: np.ndarray) -> torch.Tensor:
    """The outputs' derivatives by every trainable parameter at the start, (points, parameters) float64."""
    network = copy.deepcopy(problem.network)  # functional calls swap its parameters: not those of other threads
    frozen = {name: p.detach().double() for name, p in network.named_parameters() if not p.requires_grad}
    frozen |= {name: b.detach().double() if b.is_floating_point() else b for name, b in network.named_buffers()}
    trained = {name: p.detach().double() for name, p in network.named_parameters() if p.requires_grad}

    def output(parameters: dict[str, torch.Tensor], point: torch.Tensor) -> torch.Tensor:
        return functional_call(network, {**parameters, **frozen}, (point[None],)).reshape(())

    rows = vmap(grad(output), (None, 0))
    points = torch.tensor(x, dtype=torch.float64)
    parts = [rows(trained, part) for part in points.split(64)]
    return torch.cat([torch.cat([p.reshape(len(p), -1) for p in part.values()], 1) for part in parts])


class State(Run):
    """δ of each replicate, (R, parameters), and what the rule keeps beside it."""

    def __init__(self, problem: NetworkProblem, sgd: SGD, rule: GradientRule, keys: np.ndarray, test: bool) -> None:
        self.problem, self.sgd, self.rule, self.keys = problem, sgd, rule, keys
        self.jacobian = jacobian(problem, problem.data.x)
        self.test = jacobian(problem, problem.data.x_test) if test and problem.data.x_test is not None else None
        self.residual = torch.tensor(problem.quadratic.residual)
        self.moved = torch.zeros((len(keys), self.jacobian.shape[1]), dtype=torch.float64)
        self.kept = rule.init(self.moved)

    def advance(self, start: int, stop: int) -> None:
        """Take the steps; gradient and loss are those of ½·mean((f − y)²) over the batch."""
        now = start
        for values, batches, weights in batch_blocks(
            self.sgd, self.problem.n, self.keys, start, stop, diagonal(self.problem, self.sgd)
        ):
            errors = torch.as_tensor(label_errors(self.sgd, batches, now, self.keys))
            indices = torch.as_tensor(batches, dtype=torch.int64)
            for t, (lr, size) in enumerate(zip(values.lr, values.batch_size, strict=True)):
                batch = indices[:, t, :size]
                rows = self.jacobian[batch]  # (R, b, parameters)
                seen = self.residual[batch] + torch.einsum("rbp,rp->rb", rows, self.moved)
                if errors.shape[2]:
                    seen = seen - errors[:, t, :size]
                counted = seen if weights is None else seen * torch.as_tensor(weights[:, t, :size])
                gradient = torch.einsum("rbp,rb->rp", rows, counted) / int(size)
                loss = 0.5 * (seen * counted).mean(1)
                self.moved, self.kept = self.rule.update(self.moved, self.kept, gradient, loss, now, float(lr))
                now += 1

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        r = (self.residual + self.moved @ self.jacobian.T).numpy()
        out = {"loss": (r**2).mean(1) / 2, "residual": r}
        points = self.problem.quadratic.test
        if self.test is not None and points is not None:
            out["test_residual"] = e = points.residual + (self.moved @ self.test.T).numpy()
            out["test_loss"] = (e**2).mean(1) / 2
        if "moments" in what:
            out["moments"] = (r @ self.problem.quadratic.eigenvectors) ** 2
        return out
