"""Networks in NTK parametrisation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn

from sgdsim.checks import InputError, choice, integer, number

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "linear": lambda x: x,
}


class MLP(nn.Module):
    """Fully connected network with one output, in NTK parametrisation (Jacot, Gabriel & Hongler, arXiv:1806.07572).

    `h_1 = (σ_w/√d) W_1 x + σ_b b_1`, `h_{l+1} = (σ_w/√width) W_{l+1} φ(h_l) + σ_b b_{l+1}`, and a linear read-out
    `f = (σ_w/√width) W φ(h_depth)` without bias; all parameters start as independent standard normals.

    Parameters
    ----------
    width : units in each hidden layer.
    depth : number of hidden layers; 0 is a linear model `f = (σ_w/√d) W x`.
    activation : one of `ACTIVATIONS`.
    weight_std, bias_std : σ_w > 0 and σ_b ≥ 0 (0: no biases).
    seed : decides the parameters (together with the sizes).
    n_inputs : input dimension d; None: taken from the first data seen (see `build`).

    `forward` maps (n, d) to (n,). Raises InputError for values out of range.
    """

    def __init__(
        self,
        width: int = 1000,
        depth: int = 1,
        activation: str = "relu",
        *,
        weight_std: float = 1.0,
        bias_std: float = 1.0,
        seed: int = 0,
        n_inputs: int | None = None,
    ) -> None:
        super().__init__()
        self.width = integer("width", width, minimum=1)
        self.depth = integer("depth", depth)
        self.activation = choice("activation", activation, ACTIVATIONS)
        self.weight_std = number("weight_std", weight_std)
        if self.weight_std <= 0:
            raise InputError(f"weight_std: expected a number > 0, got {weight_std}")
        self.bias_std = number("bias_std", bias_std, minimum=0.0)
        self.seed = integer("seed", seed, maximum=2**63 - 1)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        if n_inputs is not None:
            self.build(n_inputs)

    def build(self, n_inputs: int) -> MLP:
        """Create the parameters (float64) for inputs of dimension `n_inputs`; does nothing if that is done already."""
        if len(self.weights):
            if self.weights[0].shape[1] != n_inputs:
                raise InputError(f"inputs: expected {self.weights[0].shape[1]} columns, got {n_inputs}")
            return self
        generator = torch.Generator().manual_seed(self.seed)
        sizes = [integer("n_inputs", n_inputs, minimum=1), *[self.width] * self.depth, 1]
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            weight = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64)
            self.weights.append(nn.Parameter(weight))
            if layer < self.depth and self.bias_std > 0:
                self.biases.append(nn.Parameter(torch.randn(fan_out, generator=generator, dtype=torch.float64)))
        return self

    def weight_scale(self, layer: int) -> float:
        """The factor σ_w/√fan_in in front of layer `layer`'s weights."""
        return self.weight_std / self.weights[layer].shape[1] ** 0.5

    def layers(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Inputs of every layer, and its outputs before the activation (the last is the network's, (n, 1))."""
        self.build(x.shape[-1])
        activation = ACTIVATIONS[self.activation]
        inputs, outputs = [x], []
        for layer, weight in enumerate(self.weights):
            h = self.weight_scale(layer) * (inputs[-1] @ weight.T)
            if layer < len(self.biases):
                h = h + self.bias_std * self.biases[layer]
            outputs.append(h)
            if layer < self.depth:
                inputs.append(activation(h))
        return inputs, outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)[1][-1].squeeze(-1)

    def describe(self) -> dict[str, str | int | float]:
        """What is needed to make this network again, as JSON-able values."""
        names = ("width", "depth", "activation", "weight_std", "bias_std", "seed")
        return {"kind": "MLP", **{name: getattr(self, name) for name in names}}
