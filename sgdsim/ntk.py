"""Empirical neural tangent kernel `Θ(x, x') = ⟨∂f(x)/∂w, ∂f(x')/∂w⟩` of networks with one output."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from sgdsim.checks import InputError, array
from sgdsim.networks import MLP

# Jacobian rows held at once, in numbers: two tiles of this size are in memory (2 × 256 MB in float64).
_TILE = 32_000_000


def outputs(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The network's outputs on `x` as a vector (n,); InputError if it has not one output for each input."""
    try:
        f = module(x)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"network: expected a module that takes inputs of shape {tuple(x.shape)}, got: {first}"
        ) from error
    if f.shape not in ((x.shape[0],), (x.shape[0], 1)):
        raise InputError(
            f"network: expected one output per input, shape ({x.shape[0]},) or ({x.shape[0]}, 1); got {tuple(f.shape)}"
        )
    return f.reshape(x.shape[0])


def check_module(module: nn.Module) -> None:
    """InputError unless `module` has trainable parameters and is a deterministic function of each input by itself."""
    if not isinstance(module, nn.Module):
        raise InputError(f"network: expected a torch.nn.Module, got {type(module).__name__}")
    if not any(p.requires_grad for p in module.parameters()) and not isinstance(module, MLP):
        raise InputError("network: expected a module with trainable parameters, got none with requires_grad")
    for name, part in module.named_modules():
        random = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
        if part.training and (random or isinstance(part, nn.modules.batchnorm._BatchNorm)):
            kind = type(part).__name__
            raise InputError(
                f"network: {name or kind}: {kind} in training mode makes f(x) random or batch-dependent; call .eval()"
            )


def evaluate(module: nn.Module, x: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The network's outputs on `x` (n, ...) in float64, (n,)."""
    with torch.no_grad():
        inputs = torch.as_tensor(x, dtype=torch.float64, device=device)
        return outputs(_float64_copy(module, inputs.device), inputs).cpu().numpy()


def empirical_ntk(
    module: nn.Module, x1: np.ndarray, x2: np.ndarray | None = None, *, device: str = "cpu"
) -> np.ndarray:
    """The empirical NTK at the module's present parameters, computed in float64.

    Parameters
    ----------
    module : network with one output; `MLP` is contracted layer by layer (activations ⊗ output gradients, which never
        forms a Jacobian), any other by tiles of its Jacobian over the parameters with `requires_grad`.
    x1, x2 : inputs (n1, ...) and (n2, ...); `x2=None` means `x1`.

    Returns
    -------
    (n1, n2) float64. Raises InputError for modules that `check_module` refuses or that do not take these inputs.
    """
    check_module(module)
    tensors = [
        torch.as_tensor(array("x", x, ndim=np.ndim(x)), device=device) for x in ([x1] if x2 is None else [x1, x2])
    ]
    kernel = _mlp_ntk if isinstance(module, MLP) else _jacobian_ntk
    theta = kernel(module, tensors[0], tensors[-1])
    if not torch.isfinite(theta).all():
        raise InputError("network: its tangent kernel has NaN or infinite entries; check the parameters and the inputs")
    return theta.cpu().numpy()


def _layer_gradients(network: MLP, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Each layer's inputs, and the gradient of the output with respect to each layer's pre-activations, per sample."""
    with torch.enable_grad():
        inputs, pre = network.layers(x)
        # Samples do not interact, so the gradient of the summed output holds every sample's own gradient.
        gradients = torch.autograd.grad(pre[-1].sum(), pre)
    return [a.detach() for a in inputs], [g.detach() for g in gradients]


def _mlp_ntk(network: MLP, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    network.build(x1.shape[-1])
    network = _float64_copy(network, x1.device)
    a1, d1 = _layer_gradients(network, x1)
    a2, d2 = (a1, d1) if x2 is x1 else _layer_gradients(network, x2)
    theta = torch.zeros(x1.shape[0], x2.shape[0], dtype=torch.float64, device=x1.device)
    for layer in range(len(a1)):
        factor = network.weight_scale(layer) ** 2 * (a1[layer] @ a2[layer].T)
        if layer < len(network.biases):
            factor += network.bias_std**2
        theta += factor * (d1[layer] @ d2[layer].T)
    return theta


def _jacobian_ntk(module: nn.Module, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    module = _float64_copy(module, x1.device)
    with torch.no_grad():
        outputs(module, x1[:1])
    fixed = dict([*module.named_parameters(), *module.named_buffers()])
    params = {k: fixed.pop(k) for k, v in module.named_parameters() if v.requires_grad}

    def single(parameters, x):
        return functional_call(module, {**parameters, **fixed}, (x[None],)).reshape(())

    rows = vmap(jacrev(single), (None, 0))

    def tile(x):
        jacobian = rows(params, x)
        return torch.cat([j.reshape(x.shape[0], -1) for j in jacobian.values()], dim=1).detach()

    chunk = max(1, _TILE // sum(p.numel() for p in params.values()))
    theta = torch.empty(x1.shape[0], x2.shape[0], dtype=torch.float64, device=x1.device)
    for i in range(0, x1.shape[0], chunk):
        left = tile(x1[i : i + chunk])
        # On the diagonal of a symmetric kernel the tile is at hand; above it, the transpose is.
        for j in range(i if x2 is x1 else 0, x2.shape[0], chunk):
            right = left if x2 is x1 and i == j else tile(x2[j : j + chunk])
            block = left @ right.T
            theta[i : i + chunk, j : j + chunk] = block
            if x2 is x1 and i != j:
                theta[j : j + chunk, i : i + chunk] = block.T
    return theta


def _float64_copy(module: nn.Module, device: torch.device) -> nn.Module:
    return copy.deepcopy(module).to(device=device, dtype=torch.float64)
