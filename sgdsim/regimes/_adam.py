"""Adam on the parameters of the linearised network `f(x) = f_0(x) + J(x)δ`, on sampled batches."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.func import functional_call, grad, vmap

from sgdsim.algorithm.batches import batch_blocks, label_errors
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.networks.ntk import with_gradients
from sgdsim.problem import NetworkProblem, Problem

_LARGEST = 4 << 30  # bytes of the Jacobian


def check(problem: Problem, sgd: SGD) -> None:
    """InputError where there are no parameters, or where their Jacobian does not fit."""
    if not problem.has_network:
        raise InputError("method: adam needs the parameters of a network, got a problem without one")
    if sgd.average is not None or sgd.sampling == "one-pass":
        raise InputError("method: adam is followed on the data set's batches, without averages; got another algorithm")
    if 8 * problem.n_parameters * problem.n > _LARGEST:
        raise InputError(
            f"method: adam needs the Jacobian, {problem.n} points × {problem.n_parameters} parameters, of at most "
            "4 GB; use fewer points or a narrower network"
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


class State:
    """δ and Adam's two moments of each replicate, (R, parameters) each."""

    def __init__(self, problem: NetworkProblem, sgd: SGD, keys: np.ndarray, test: bool) -> None:
        self.problem, self.sgd, self.keys = problem, sgd, keys
        self.jacobian = jacobian(problem, problem.data.x)
        self.test = jacobian(problem, problem.data.x_test) if test else None
        self.residual = torch.tensor(problem.quadratic.residual)
        size = (len(keys), self.jacobian.shape[1])
        self.moved, self.first, self.second = (torch.zeros(size, dtype=torch.float64) for _ in range(3))

    def advance(self, start: int, stop: int) -> None:
        """Take the steps; the gradient is that of ½·mean((f − y)²) over the batch."""
        method, now = self.sgd.method, start
        for values, batches in batch_blocks(self.sgd, self.problem.n, self.keys, start, stop):
            errors = torch.as_tensor(label_errors(self.sgd, batches, now, self.keys))
            indices = torch.as_tensor(batches, dtype=torch.int64)
            for t, (lr, size) in enumerate(zip(values.lr, values.batch_size, strict=True)):
                now += 1
                batch = indices[:, t, :size]
                rows = self.jacobian[batch]  # (R, b, parameters)
                seen = self.residual[batch] + torch.einsum("rbp,rp->rb", rows, self.moved)
                if errors.shape[2]:
                    seen = seen - errors[:, t, :size]
                gradient = torch.einsum("rbp,rb->rp", rows, seen) / int(size)
                self.first.lerp_(gradient, 1 - method.beta1)
                self.second.mul_(method.beta2).addcmul_(gradient, gradient, value=1 - method.beta2)
                scale = (self.second / (1 - method.beta2**now)).sqrt_().add_(method.eps)
                self.moved.addcdiv_(self.first, scale, value=-float(lr) / (1 - method.beta1**now))

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        """As a regime's `observe`."""
        r = (self.residual + self.moved @ self.jacobian.T).numpy()
        out = {"loss": (r**2).mean(1) / 2}
        if "test_loss" in what:
            e = self.problem.quadratic.test.residual + (self.moved @ self.test.T).numpy()
            out["test_loss"] = (e**2).mean(1) / 2
        if "moments" in what:
            out["moments"] = (r @ self.problem.quadratic.eigenvectors) ** 2
        return out
