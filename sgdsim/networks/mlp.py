"""Networks in NTK parametrisation, and one in standard parametrisation with or without batch norm."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn

from sgdsim.common.checks import InputError, choice, integer, number
from sgdsim.common.shown import Shown

_WIDEST, _DEEPEST = 2**31 - 1, 10_000  # beyond, sizes are no sizes of arrays, or no memory holds the layers

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "linear": lambda x: x,
}


class NTKLinear(nn.Module):
    """`h = (σ_w/√n_inputs) W x + σ_b b` with standard normal W, (n_outputs, n_inputs), and b, (n_outputs,); float64.

    No `bias` parameter where `bias_std` is 0.
    """

    def __init__(self, n_inputs: int, n_outputs: int, weight_std: float, bias_std: float, generator: torch.Generator):
        super().__init__()
        self.weight_scale = weight_std / n_inputs**0.5
        self.bias_std = bias_std
        self.weight = nn.Parameter(torch.randn(n_outputs, n_inputs, generator=generator, dtype=torch.float64))
        bias = torch.randn(n_outputs, generator=generator, dtype=torch.float64) if bias_std > 0 else None
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.linear(x, self.weight) * self.weight_scale
        return h if self.bias is None else h + self.bias_std * self.bias


class _Described(Shown, nn.Module):
    """A network that shows what it was made of: torch's own repr knows layers alone, and these come with the inputs."""

    def describe(self) -> dict[str, str | int | float]:
        raise NotImplementedError

    def facts(self) -> dict[str, object]:
        return {name: value for name, value in self.describe().items() if name != "kind"}


class MLP(_Described):
    """Fully connected network in NTK parametrisation (Jacot, Gabriel & Hongler, arXiv:1806.07572).

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
    n_outputs : C; each output has a read-out of its own from the same hidden layers.

    `forward` maps (n, d) to (n,), or (n, C) of several outputs; images (n, ...) as rows. Raises InputError for values
    out of range.
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
        n_outputs: int = 1,
    ) -> None:
        super().__init__()
        self.width = integer("width", width, minimum=1, maximum=_WIDEST)
        self.depth = integer("depth", depth, maximum=_DEEPEST)
        self.n_outputs = integer("n_outputs", n_outputs, minimum=1, maximum=_WIDEST)
        self.activation = choice("activation", activation, ACTIVATIONS)
        self.weight_std = number("weight_std", weight_std)
        if self.weight_std <= 0:
            raise InputError(f"weight_std: expected a number > 0, got {weight_std}")
        self.bias_std = number("bias_std", bias_std, minimum=0.0)
        self.seed = integer("seed", seed, maximum=2**63 - 1)
        self.layers = nn.ModuleList()
        if n_inputs is not None:
            self.build(n_inputs)

    def build(self, n_inputs: int) -> MLP:
        """Create the parameters (float64) for inputs of dimension `n_inputs`; does nothing if that is done already."""
        if len(self.layers):
            first = self.layers[0]
            assert isinstance(first, NTKLinear)
            have = first.weight.shape[1]
            if have != n_inputs:
                raise InputError(f"inputs: expected {have} columns, got {n_inputs}")
            return self
        generator = torch.Generator().manual_seed(self.seed)
        sizes = [integer("n_inputs", n_inputs, minimum=1), *[self.width] * self.depth, self.n_outputs]
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            bias_std = self.bias_std if layer < self.depth else 0.0
            self.layers.append(NTKLinear(fan_in, fan_out, self.weight_std, bias_std, generator))
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        self.build(x.shape[1])
        activation = ACTIVATIONS[self.activation]
        for layer in self.layers[:-1]:
            x = activation(layer(x))
        out = self.layers[-1](x)
        return out if self.n_outputs > 1 else out.squeeze(-1)

    def describe(self) -> dict[str, str | int | float]:
        """What is needed to make this network again, as JSON-able values."""
        names = ["width", "depth", "activation", "weight_std", "bias_std", "seed"]
        names += ["n_outputs"] if self.n_outputs > 1 else []
        return {"kind": "MLP", **{name: getattr(self, name) for name in names}}


class StandardMLP(_Described):
    """Fully connected network in standard parametrisation, with or without batch norm.

    `h_l = W_l x_{l−1} + b_l`, `x_l = φ(BN(h_l))` for each hidden layer, and `f = W x_depth + b`. Weights start as
    independent normals of variance 2/fan-in in hidden layers (He et al., ICCV 2015) and 1/fan-in in the read-out,
    biases at 0. With batch norm the hidden layers have no b_l (the norm's shift does its work), and the network starts
    in training mode: normalised by each batch's own statistics. Networks with the same seed have the same weights at
    the start, with batch norm or without.

    Parameters
    ----------
    width, depth, activation, seed, n_inputs, n_outputs : as for `MLP`.
    batch_norm : a `torch.nn.BatchNorm1d` (affine) before each activation.

    `forward` maps (n, d) to (n,), or (n, C) of several outputs, float64; images (n, ...) as rows. Raises InputError for
    values out of range.
    """

    def __init__(
        self,
        width: int = 32,
        depth: int = 3,
        activation: str = "relu",
        *,
        batch_norm: bool = False,
        seed: int = 0,
        n_inputs: int | None = None,
        n_outputs: int = 1,
    ) -> None:
        super().__init__()
        self.width = integer("width", width, minimum=1, maximum=_WIDEST)
        self.depth = integer("depth", depth, maximum=_DEEPEST)
        self.n_outputs = integer("n_outputs", n_outputs, minimum=1, maximum=_WIDEST)
        self.activation = choice("activation", activation, ACTIVATIONS)
        self.batch_norm = bool(batch_norm)
        self.seed = integer("seed", seed, maximum=2**63 - 1)
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        if n_inputs is not None:
            self.build(n_inputs)

    def build(self, n_inputs: int) -> StandardMLP:
        """Create the parameters for inputs of dimension `n_inputs`; does nothing if that is done already."""
        if len(self.layers):
            have = self.layers[0].in_features
            if have != n_inputs:
                raise InputError(f"inputs: expected {have} columns, got {n_inputs}")
            return self
        generator = torch.Generator().manual_seed(self.seed)
        sizes = [integer("n_inputs", n_inputs, minimum=1), *[self.width] * self.depth, self.n_outputs]
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            hidden = index < self.depth
            layer = nn.Linear(fan_in, fan_out, bias=not (hidden and self.batch_norm), dtype=torch.float64)
            nn.init.normal_(layer.weight, 0.0, ((2.0 if hidden else 1.0) / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            self.layers.append(layer)
            if hidden and self.batch_norm:
                self.norms.append(nn.BatchNorm1d(fan_out, dtype=torch.float64))
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        self.build(x.shape[1])
        activation = ACTIVATIONS[self.activation]
        for index, layer in enumerate(self.layers[:-1]):
            h = layer(x)
            x = activation(self.norms[index](h) if self.batch_norm else h)
        out = self.layers[-1](x)
        return out if self.n_outputs > 1 else out.squeeze(-1)

    def describe(self) -> dict[str, str | int | float]:
        """What is needed to make this network again, as JSON-able values."""
        names = ["width", "depth", "activation", "batch_norm", "seed"]
        names += ["n_outputs"] if self.n_outputs > 1 else []
        return {"kind": "StandardMLP", **{name: getattr(self, name) for name in names}}


def described(network: nn.Module) -> dict[str, str | int | float]:
    """What says which network it is: all of it of one of ours, of others the name of their class."""
    return network.describe() if isinstance(network, (MLP, StandardMLP)) else {"kind": type(network).__name__}
