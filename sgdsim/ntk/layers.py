"""Layers whose share of the tangent kernel is contracted by their structure, without a Jacobian.

A linear layer's gradient with respect to its weight is `Σ_t d_t a_tᵀ`: inputs a ⊗ output gradients d, summed over the
positions t that share the weight (tokens, pixels). So with Gram matrices of a and of d, or with the summed outer
product itself where that is smaller, its share of `Θ(x, x')` needs no backward pass per sample. Convolutions are linear
layers on unfolded patches, embeddings on one-hot inputs; the affine part of a norm is a product per feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from sgdsim.networks import NTKLinear


@dataclass
class LinearForm:
    """One call of a layer that is linear in its weight: a (n, groups, T, q), d (n, groups, T, o), T positions.

    With `tokens` (n, T) instead of `a`, the inputs are one-hot (an embedding); -1 marks padding.
    """

    a: torch.Tensor | None
    d: torch.Tensor
    tokens: torch.Tensor | None = None
    vocabulary: int = 0

    @property
    def by_gram(self) -> bool:
        """Whether two Gram matrices cost less than the gradients and their product."""
        positions, width = self.d.shape[2:]
        fan_in = self.vocabulary or self.a.shape[3]
        return positions**2 * ((0 if self.tokens is not None else fan_in) + width) <= width * fan_in

    def numbers(self) -> int:
        """How many numbers it holds."""
        return sum(t.numel() for t in (self.a, self.d, self.tokens) if t is not None)

    def gradient(self) -> torch.Tensor:
        """∂f/∂W of every sample, (n, groups·o·q) in the order of the stored weight."""
        if self.tokens is not None:
            n, width = self.d.shape[0], self.d.shape[-1]
            out = self.d.new_zeros(n, self.vocabulary + 1, width)  # row 0 collects padding
            index = (self.tokens + 1)[..., None].expand(-1, -1, width)
            return out.scatter_add_(1, index, self.d[:, 0])[:, 1:].reshape(n, -1)
        return (self.d.transpose(-1, -2) @ self.a).flatten(1)


# What a tile keeps of one parameter: a linear form, or the gradient of every sample, (n, size of the parameter).
Factor = LinearForm | torch.Tensor


def share(left: Factor, right: Factor, chunk_bytes: int) -> torch.Tensor:
    """⟨∂f/∂W, ∂f'/∂W⟩ for all pairs of samples, (n1, n2)."""
    if isinstance(left, LinearForm):
        return _gram_share(left, right, chunk_bytes)
    return left @ right.T


def join(parts: list[Factor]) -> Factor:
    """The factors of several groups of samples as one."""
    if len(parts) == 1 or not isinstance(parts[0], LinearForm):
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    one = parts[0]
    return LinearForm(
        None if one.a is None else torch.cat([part.a for part in parts]),
        torch.cat([part.d for part in parts]),
        None if one.tokens is None else torch.cat([part.tokens for part in parts]),
        one.vocabulary,
    )


def _gram_share(left: LinearForm, right: LinearForm, chunk_bytes: int) -> torch.Tensor:
    """Σ_ts (a_t·a'_s)(d_t·d'_s) by two Gram matrices per group."""
    n1, groups, positions, _ = left.d.shape
    n2, many = right.d.shape[0], right.d.shape[2]
    out = left.d.new_zeros(n1, n2)
    rows = max(1, chunk_bytes // max(1, 2 * positions * many * n2 * left.d.element_size()))
    for group in range(groups):
        d2 = right.d[:, group].reshape(n2 * many, -1)
        for low in range(0, n1, rows):
            d1 = left.d[low : low + rows, group]
            gram = d1.reshape(-1, d1.shape[-1]) @ d2.T
            if left.tokens is not None:
                t1, t2 = left.tokens[low : low + rows].reshape(-1, 1), right.tokens.reshape(1, -1)
                gram *= (t1 == t2) & (t1 >= 0)
            else:
                a1 = left.a[low : low + rows, group]
                gram *= a1.reshape(-1, a1.shape[-1]) @ right.a[:, group].reshape(n2 * many, -1).T
            if positions * many > 1:
                gram = gram.view(d1.shape[0], positions, n2, many).sum((1, 3))
            out[low : low + rows] += gram
    return out


@dataclass
class Call:
    """What one call of a layer contributes: a linear form for its weight, (n, p) gradients for smaller parameters."""

    forms: dict[str, LinearForm]
    gradients: dict[str, torch.Tensor]

    def gradient(self, parameter: str) -> torch.Tensor:
        """∂f/∂parameter of every sample, (n, size of the parameter)."""
        return self.forms[parameter].gradient() if parameter in self.forms else self.gradients[parameter].flatten(1)


def _linear(layer: nn.Module, x: torch.Tensor, d: torch.Tensor) -> Call:
    a = x.reshape(x.shape[0], 1, -1, x.shape[-1])
    d = d.reshape(d.shape[0], 1, -1, d.shape[-1])
    weight, bias = (layer.weight_scale, layer.bias_std) if isinstance(layer, NTKLinear) else (1.0, 1.0)
    return Call({"weight": LinearForm(a, d * weight)}, {"bias": d.sum((1, 2)) * bias})


def _convolution(layer: nn.Module, x: torch.Tensor, d: torch.Tensor) -> Call:
    if isinstance(layer, nn.Conv1d):  # as a two-dimensional one of height 1
        x, d = x[:, :, None], d[:, :, None]
        size, padding = (1, layer.kernel_size[0]), (0, layer.padding[0])
        stride, dilation = (1, layer.stride[0]), (1, layer.dilation[0])
    else:
        size, padding, stride, dilation = layer.kernel_size, layer.padding, layer.stride, layer.dilation
    patches = F.unfold(x, size, dilation=dilation, padding=padding, stride=stride)  # (n, channels·k, T)
    n, groups = x.shape[0], layer.groups
    a = patches.reshape(n, groups, -1, patches.shape[-1]).transpose(2, 3)
    flat = d.reshape(n, groups, d.shape[1] // groups, -1).transpose(2, 3)
    return Call({"weight": LinearForm(a, flat)}, {"bias": d.sum((2, 3))})


def _norm(layer: nn.Module, x: torch.Tensor, d: torch.Tensor) -> Call:
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
    scaled = d * normal
    return Call({}, {"weight": scaled.sum(over) if over else scaled, "bias": d.sum(over) if over else d})


def _embedding(layer: nn.Embedding, x: torch.Tensor, d: torch.Tensor) -> Call:
    tokens = x.reshape(x.shape[0], -1)
    if layer.padding_idx is not None:
        tokens = torch.where(tokens == layer.padding_idx, -1, tokens)
    d = d.reshape(d.shape[0], 1, -1, d.shape[-1])
    return Call({"weight": LinearForm(None, d, tokens, layer.num_embeddings)}, {})


_CONTRACTIONS: dict[type, Callable[[nn.Module, torch.Tensor, torch.Tensor], Call]] = {
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
    found = _CONTRACTIONS.get(type(layer))  # a subclass may compute something else
    if found is _convolution and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return None
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_mean is None:
        return None
    return found
