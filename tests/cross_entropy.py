"""Small networks on classes, and the quadratic model of cross-entropy by autograd, for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, jacrev

import sgdsim as ss

N, C = 4, 3


def mlp(outputs: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def classes(outputs: int, n: int = N, m: int = 3) -> ss.Dataset:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, max(outputs, 2), n + m)
    labels[:2] = 0, 1
    y = 2.0 * labels - 1 if outputs == 1 else np.eye(outputs)[labels]
    x = rng.standard_normal((n + m, 5))
    return ss.Dataset(x[:n], y[:n], "classes", x[n:], y[n:])


def problem(outputs: int = C, **options) -> ss.NetworkProblem:
    return ss.NetworkProblem(mlp(outputs), classes(outputs), device="cpu", loss="cross-entropy", **options)


def losses(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each point, as torch has it."""
    if f.shape[1] == 1:
        return nn.functional.binary_cross_entropy_with_logits(f[:, 0], (y + 1) / 2, reduction="none")
    return nn.functional.cross_entropy(f, y.argmax(1), reduction="none")


def taylor(f0: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each point's loss (n,), gradient (n, C) and Hessian (n, C, C) at its outputs, by autograd."""
    parts = []
    for f, target in zip(f0, y, strict=True):
        loss = lambda f, target=target: losses(f[None], target[None])[0]  # noqa: E731
        parts.append((loss(f), torch.func.grad(loss)(f), torch.func.hessian(loss)(f)))
    return tuple(map(torch.stack, zip(*parts, strict=True)))


def model(parts: tuple[torch.Tensor, ...], d: torch.Tensor) -> torch.Tensor:
    """The mean of each point's Taylor polynomial of degree 2, in d (n, C)."""
    loss, gradient, hessian = parts
    return (loss + (gradient * d).sum(1) + torch.einsum("nc,ncd,nd->n", d, hessian, d) / 2).mean()


def linearised(of: ss.NetworkProblem, x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """f_0 (n, C) and J (n, C, parameters)."""
    parameters = {name: p.detach() for name, p in of.network.named_parameters()}
    apply = lambda p: functional_call(of.network, p, (torch.tensor(x),))  # noqa: E731
    found = jacrev(apply)(parameters)
    return apply(parameters), torch.cat([j.reshape(*j.shape[:2], -1) for j in found.values()], 2)
