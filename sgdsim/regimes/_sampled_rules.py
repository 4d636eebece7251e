"""Gradient rules on the parameters of the linearised network `f(x) = f_0(x) + J(x)δ`, on sampled batches."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.func import functional_call, grad, jacrev, vmap

from sgdsim.algorithm.batches import batch_blocks, label_errors
from sgdsim.algorithm.rules import GradientRule
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.networks.ntk import with_gradients
from sgdsim.networks.ntk.modules import inputs
from sgdsim.problem import NetworkProblem, Problem
from sgdsim.regimes._sampled_plain import observed
from sgdsim.regimes.base import Run, diagonal

_LARGEST = 4 << 30  # bytes of the Jacobian


def check(problem: Problem, rule: GradientRule) -> None:
    """InputError where the parameters' Jacobian does not fit."""
    several = "" if problem.n_outputs == 1 else f" × {problem.n_outputs} outputs"
    if 8 * problem.n_parameters * problem.n * problem.n_outputs > _LARGEST:
        raise InputError(
            f"method: {rule.name} needs the Jacobian, {problem.n} points{several} × {problem.n_parameters} parameters, "
            "of at most 4 GB; use fewer points or a narrower network, or the network regime"
        )


@with_gradients
def jacobian(problem: NetworkProblem, x: np.ndarray) -> torch.Tensor:
    """The outputs' derivatives by every trainable parameter at the start, (points, parameters) float64; of C outputs
    (points · C, parameters), those of a point adjacent."""
    network = copy.deepcopy(problem.network)  # functional calls swap its parameters: not those of other threads
    frozen = {name: p.detach().double() for name, p in network.named_parameters() if not p.requires_grad}
    frozen |= {name: b.detach().double() if b.is_floating_point() else b for name, b in network.named_buffers()}
    trained = {name: p.detach().double() for name, p in network.named_parameters() if p.requires_grad}

    def output(parameters: dict[str, torch.Tensor], point: torch.Tensor) -> torch.Tensor:
        return functional_call(network, {**parameters, **frozen}, (point[None],)).reshape(each)

    each, slopes = ((), grad) if problem.n_outputs == 1 else ((problem.n_outputs,), jacrev)
    rows = vmap(slopes(output), (None, 0))
    points = inputs("x", x, "cpu", torch.float64)  # integers are tokens
    parts = [rows(trained, part) for part in points.split(64)]
    found = torch.cat(
        [torch.cat([p.reshape(*p.shape[: 1 + len(each)], -1) for p in part.values()], -1) for part in parts]
    )
    return found.reshape(-1, found.shape[-1])


class State(Run):
    """δ of each replicate, (R, parameters), and what the rule keeps beside it."""

    def __init__(self, problem: NetworkProblem, sgd: SGD, rule: GradientRule, keys: np.ndarray, test: bool) -> None:
        self.problem, self.sgd, self.rule, self.keys = problem, sgd, rule, keys
        self.jacobian = jacobian(problem, problem.data.x)
        self.test = jacobian(problem, problem.data.x_test) if test and problem.data.x_test is not None else None
        self.residual, self.outputs = torch.tensor(problem.quadratic.residual.ravel()), problem.n_outputs
        trained = [p.detach().double().flatten() for p in problem.network.parameters() if p.requires_grad]
        self.start = torch.cat(trained).cpu()  # w_0, in the order of the Jacobian's columns
        self.moved = torch.zeros((len(keys), self.jacobian.shape[1]), dtype=torch.float64)
        self.kept = rule.init(self.moved)

    def advance(self, start: int, stop: int) -> None:
        """Take the steps; gradient and loss are those of ½·mean((f − y)²) over the batch, summed over outputs."""
        now, each = start, torch.arange(self.outputs)
        for values, batches, weights in batch_blocks(
            self.sgd, self.problem.n, self.keys, start, stop, diagonal(self.problem, self.sgd)
        ):
            errors = torch.as_tensor(label_errors(self.sgd, batches, now, self.keys, self.outputs))
            indices = torch.as_tensor(batches, dtype=torch.int64)
            for t, (lr, size) in enumerate(zip(values.lr, values.batch_size, strict=True)):
                batch = (indices[:, t, :size, None] * self.outputs + each).flatten(1)
                rows = self.jacobian[batch]  # (R, bC, parameters)
                seen = self.residual[batch] + torch.einsum("rbp,rp->rb", rows, self.moved)
                if errors.shape[2]:
                    seen = seen - errors[:, t, :size].flatten(1)
                counted = seen if weights is None else seen * self._of_outputs(weights[:, t, :size])
                gradient = torch.einsum("rbp,rb->rp", rows, counted) / int(size)
                loss = 0.5 * self.outputs * (seen * counted).mean(1)
                if self.rule.weight_decay:
                    self.moved = self.moved - float(lr) * self.rule.weight_decay * (self.start + self.moved)
                self.moved, self.kept = self.rule.update(self.moved, self.kept, gradient, loss, now, float(lr))
                now += 1

    def _of_outputs(self, weights: np.ndarray) -> torch.Tensor:
        """The points' weights (R, b), each for all outputs of its point."""
        return torch.as_tensor(weights).repeat_interleave(self.outputs, 1)

    def _points(self, values: np.ndarray) -> np.ndarray:
        """(R, points, C) of several outputs, as they are of one."""
        return values if self.outputs == 1 else values.reshape(len(values), -1, self.outputs)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        r = self._points((self.residual + self.moved @ self.jacobian.T).numpy())
        # Linear in the parameters, but no linear method: test points are not where the kernel would take them.
        of_train = tuple(name for name in what if not name.startswith("test"))
        out = observed(self.problem.quadratic, r, of_train)
        points = self.problem.quadratic.test
        if self.test is not None and points is not None:
            e = points.residual.ravel() + (self.moved @ self.test.T).numpy()
            out |= {"test_residual": self._points(e), "test_loss": (e**2).mean(1) * self.outputs / 2}
        return out
