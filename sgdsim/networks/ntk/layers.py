"""Layers whose share of the tangent kernel is contracted by their structure, without a Jacobian.

A linear layer's gradient with respect to its weight is `Σ_t d_t a_tᵀ`: inputs a ⊗ output gradients d, summed over the
positions t that share the weight (tokens, pixels). So with Gram matrices of a and of d, or with the summed outer
product itself where that is smaller, its share of `Θ(x, x')` needs no backward pass per sample. Convolutions are linear
layers on patches, embeddings on one-hot inputs; a bias is the weight of one more input, a constant; the affine part of
a norm is a product per feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from sgdsim.networks import NTKLinear

# So many bytes of patches are copied out at once, on a CPU what its caches hold.
_PATCH_BYTES = {"cpu": 10_000_000, "cuda": 64_000_000}


@dataclass
class LinearForm:
    """One call of a layer that is linear in its weight: a (n, groups, T, q), d (n, groups, T, o), T positions.

    With `tokens` (n, T) instead of `a`, the inputs are one-hot (an embedding); -1 marks padding. A `constant` is one
    more input, the same at every position: with it the form stands for the weight and the bias.
    """

    a: torch.Tensor | None
    d: torch.Tensor
    tokens: torch.Tensor | None = None
    vocabulary: int = 0
    constant: float = 0.0

    @property
    def dense(self) -> torch.Tensor:
        """`a`, of a form whose inputs are no tokens."""
        assert self.a is not None
        return self.a

    @property
    def by_gram(self) -> bool:
        """Whether two Gram matrices cost less than the gradients and their product."""
        positions, width = self.d.shape[2:]
        if self.tokens is not None:
            return positions**2 <= self.vocabulary
        return _by_gram(positions, self.dense.shape[3], width)

    def numbers(self) -> int:
        """How many numbers it holds."""
        return sum(t.numel() for t in (self.a, self.d, self.tokens) if t is not None)

    def rows(self, low: int, high: int | None) -> LinearForm:
        """The form of the samples from `low` to `high`."""
        return self._each(lambda t: t[low:high])

    def zeros(self, n: int) -> LinearForm:
        """A form of n samples like this, of no gradient."""
        return self._each(lambda t: t.new_zeros(n, *t.shape[1:]))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> LinearForm:
        a, tokens = (None if t is None else change(t) for t in (self.a, self.tokens))
        return replace(self, a=a, d=change(self.d), tokens=tokens)

    def gradient(self) -> torch.Tensor:
        """∂f/∂W of every sample, (n, groups·o·q) in the order of the stored weight, without the constant."""
        if self.tokens is not None:
            n, width = self.d.shape[0], self.d.shape[-1]
            out = self.d.new_zeros(n, self.vocabulary + 1, width)  # row 0 collects padding
            index = (self.tokens + 1)[..., None].expand(-1, -1, width)
            return out.scatter_add_(1, index, self.d[:, 0])[:, 1:].reshape(n, -1)
        return (self.d.transpose(-1, -2) @ self.dense).flatten(1)

    def total(self, shares: torch.Tensor) -> torch.Tensor:
        """The gradients of the samples, weighted by `shares` (n, 1), summed: the same order, without the constant."""
        d = self.d * shares[:, :, None, None]
        if self.tokens is not None:
            out = d.new_zeros(self.vocabulary + 1, d.shape[-1])
            return out.index_add_(0, self.tokens.flatten() + 1, d[:, 0].flatten(0, 1))[1:].flatten()
        across = d.permute(1, 3, 0, 2).flatten(2)  # (groups, o, n·T)
        return (across @ self.dense.transpose(0, 1).flatten(1, 2)).flatten()


def _by_gram(positions: int, fan_in: int, width: int) -> bool:
    return positions**2 * (fan_in + width) <= width * fan_in


def join(parts: list[LinearForm]) -> LinearForm:
    """The forms of several groups of samples as one."""
    if len(parts) == 1:
        return parts[0]
    a = [part.a for part in parts if part.a is not None]
    tokens = [part.tokens for part in parts if part.tokens is not None]
    d = torch.cat([part.d for part in parts])
    return replace(parts[0], a=torch.cat(a) if a else None, d=d, tokens=torch.cat(tokens) if tokens else None)


def share(left: LinearForm, right: LinearForm, chunk_bytes: int) -> torch.Tensor:
    """⟨∂f/∂W, ∂f'/∂W⟩ = Σ_ts (a_t·a'_s)(d_t·d'_s) for all pairs of samples, (n1, n2): two Gram matrices per group."""
    n1, groups, positions, _ = left.d.shape
    n2, many = right.d.shape[0], right.d.shape[2]
    out = left.d.new_zeros(n1, n2)
    rows = max(1, chunk_bytes // max(1, 2 * positions * many * n2 * left.d.element_size()))
    for group in range(groups):
        d2 = right.d[:, group].reshape(n2 * many, -1)
        for low in range(0, n1, rows):
            d1 = left.d[low : low + rows, group]
            gram = d1.reshape(-1, d1.shape[-1]) @ d2.T
            if left.tokens is not None and right.tokens is not None:
                t1, t2 = left.tokens[low : low + rows].reshape(-1, 1), right.tokens.reshape(1, -1)
                gram *= (t1 == t2) & (t1 >= 0)
            else:
                a1 = left.dense[low : low + rows, group]
                inputs = a1.reshape(-1, a1.shape[-1]) @ right.dense[:, group].reshape(n2 * many, -1).T
                gram *= inputs.add_(left.constant * right.constant)
            if positions * many > 1:
                gram = gram.view(d1.shape[0], positions, n2, many).sum((1, 3))
            out[low : low + rows] += gram
    return out


@dataclass
class Call:
    """What one call of a layer contributes: linear forms, or functions that give gradients (n, ...).

    `bias`: the constant input whose weight the parameter "bias" is, beside the form of "weight"; None: it is no such.
    """

    forms: dict[str, LinearForm]
    gradients: dict[str, Callable[[], torch.Tensor]]
    bias: float | None = None

    def gradient(self, parameter: str) -> torch.Tensor:
        """∂f/∂parameter of every sample, (n, size of the parameter)."""
        return (self.forms[parameter].gradient if parameter in self.forms else self.gradients[parameter])().flatten(1)

    def total(self, parameter: str, shares: torch.Tensor) -> torch.Tensor:
        """These gradients weighted by `shares` (n, 1) and summed over the samples."""
        if parameter in self.forms:
            return self.forms[parameter].total(shares)
        return shares[:, 0] @ self.gradient(parameter)


def _linear(layer: nn.Linear | NTKLinear, x: torch.Tensor, d: torch.Tensor) -> Call:
    a = x.reshape(x.shape[0], 1, -1, x.shape[-1])
    d = d.reshape(d.shape[0], 1, -1, d.shape[-1])
    bias = 1.0
    if isinstance(layer, NTKLinear):
        a, bias = a * layer.weight_scale, layer.bias_std
    return Call({"weight": LinearForm(a, d)}, {"bias": lambda: d.sum((1, 2)) * bias}, bias)


def _convolution(layer: nn.Conv1d | nn.Conv2d, x: torch.Tensor, d: torch.Tensor) -> Call:
    flat = d.flatten(2).unflatten(1, (layer.groups, -1))  # (n, groups, o, T)
    patches = _patches(layer, x, d.shape[2:])
    fan_in, positions = math.prod(patches.shape[2:5]), flat.shape[3]
    gradients = {"bias": lambda: d.flatten(2).sum(2)}
    if not _by_gram(positions, fan_in, flat.shape[2]):
        return Call({}, {"weight": lambda: _patch_gradient(patches, flat), **gradients})
    a = patches.reshape(x.shape[0], layer.groups, fan_in, positions)
    return Call({"weight": LinearForm(a.transpose(2, 3), flat.transpose(2, 3))}, gradients, 1.0)


def _patches(layer: nn.Conv1d | nn.Conv2d, x: torch.Tensor, outputs: tuple[int, ...]) -> torch.Tensor:
    """What each output position sees, (n, groups, channels, height, width of the kernel, *outputs): a view, no copy."""
    assert not isinstance(layer.padding, str)  # `contraction` refuses those
    options: list[tuple[int, ...]] = [layer.kernel_size, layer.stride, layer.dilation, layer.padding]
    if isinstance(layer, nn.Conv1d):  # as a two-dimensional one of height 1
        x, outputs = x[:, :, None], (1, *outputs)
        options = [(fill, *option) for fill, option in zip((1, 1, 1, 0), options, strict=True)]
    size, (down, right), (dilated, wide), (above, beside) = options
    if above or beside:
        x = F.pad(x, (beside, beside, above, above))
    n, channel, row, column = x.stride()
    inner = x.shape[1] // layer.groups
    return x.as_strided(
        (x.shape[0], layer.groups, inner, *size, *outputs),
        (n, inner * channel, channel, dilated * row, wide * column, down * row, right * column),
    )


def _patch_gradient(patches: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Σ_t d_t a_tᵀ, (n, groups, o, q), of patches (n, groups, ..., positions) and d (n, groups, o, T)."""
    n, groups, width, positions = d.shape
    fan_in = math.prod(patches.shape[2:5])
    out = d.new_empty(n, groups, width, fan_in)
    step = max(1, _PATCH_BYTES[d.device.type] // (groups * fan_in * positions * d.element_size()))
    for low in range(0, n, step):
        a = patches[low : low + step].reshape(-1, groups, fan_in, positions)
        torch.matmul(d[low : low + step], a.transpose(2, 3), out=out[low : low + step])
    return out


def _norm(
    layer: nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d, x: torch.Tensor, d: torch.Tensor
) -> Call:
    if isinstance(layer, nn.LayerNorm):
        normal = F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
        kept = len(layer.normalized_shape)
        over = tuple(range(1, x.ndim - kept))
    elif isinstance(layer, nn.GroupNorm):
        normal = F.group_norm(x, layer.num_groups, None, None, layer.eps)
        over = tuple(range(2, x.ndim))
    else:  # batch norm in eval mode
        normal = F.batch_norm(x, layer.running_mean, layer.running_var, None, None, False, 0.0, layer.eps)
        over = tuple(range(2, x.ndim))

    def summed(t: torch.Tensor) -> torch.Tensor:
        return t.sum(over) if over else t

    return Call({}, {"weight": lambda: summed(d * normal), "bias": lambda: summed(d)})


def _embedding(layer: nn.Embedding, x: torch.Tensor, d: torch.Tensor) -> Call:
    tokens = x.reshape(x.shape[0], -1)
    if layer.padding_idx is not None:
        tokens = torch.where(tokens == layer.padding_idx, -1, tokens)
    d = d.reshape(d.shape[0], 1, -1, d.shape[-1])
    return Call({"weight": LinearForm(None, d, tokens, layer.num_embeddings)}, {})


# Each is called with a layer of the kinds that stand before it, its inputs and its outputs' gradients.
_CONTRACTIONS: dict[type[nn.Module], Callable[..., Call]] = {
    nn.Linear: _linear,
    NTKLinear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.LayerNorm: _norm,
    nn.GroupNorm: _norm,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.Embedding: _embedding,
}


def contraction(layer: nn.Module) -> Callable[[nn.Module, torch.Tensor, torch.Tensor], Call] | None:
    """How `layer` is contracted by its structure, or None where it is not."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return None
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_mean is None:
        return None
    return _CONTRACTIONS.get(type(layer))  # by the type itself: a subclass may compute something else
