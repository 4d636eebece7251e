"""Bags of embeddings by operations that torch differentiates twice, forward and under its batching rules.

Of its own `embedding_bag` torch knows one backward derivative alone. Here each bag is a row of tokens, looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class LookedUp(TorchFunctionMode):
    """Within it `F.embedding_bag`, which `nn.EmbeddingBag` calls, is computed by `looked_up`."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        called: Callable[..., object] = looked_up if func is F.embedding_bag else func
        return called(*args, **(kwargs or {}))


def looked_up(
    tokens: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> torch.Tensor:
    """As `torch.nn.functional.embedding_bag`, (bags, width), with the true derivative whatever `scale_grad_by_freq`."""
    given = (offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset)
    odd = tokens.ndim > 2 or tokens.is_floating_point() or tokens.is_nested or (tokens.ndim == 2) != (offsets is None)
    if odd or mode not in ("sum", "mean", "max") or (per_sample_weights is not None and mode != "sum"):
        return F.embedding_bag(tokens, weight, *given, padding_idx)  # which says what is wrong
    kept, counts = torch.ones_like(tokens, dtype=torch.bool), per_sample_weights
    if padding_idx is not None:
        kept = tokens != padding_idx % len(weight)
    if offsets is not None:
        place = _places(offsets, len(tokens), include_last_offset)
        kept = kept[place.clamp(min=0)] & (place >= 0)
        tokens = tokens[place.clamp(min=0)]
        counts = None if counts is None else counts[place.clamp(min=0)]
    rows = F.embedding(tokens, weight, None, max_norm, norm_type)
    if mode == "max":
        return _largest(rows, kept)
    shares = kept.to(weight.dtype) if counts is None else kept * counts
    total = (rows * shares[..., None]).sum(1)
    return total if mode == "sum" else total / shares.sum(1, keepdim=True).clamp(min=1)


def _places(offsets: torch.Tensor, count: int, include_last: bool) -> torch.Tensor:
    """Of the tokens of each bag among `count`, (bags, of the longest); −1 behind the last of a bag."""
    ends = offsets[1:] if include_last else torch.cat([offsets[1:], offsets.new_full((1,), count)])
    begins = offsets[: len(ends)]
    along = torch.arange(int((ends - begins).max()) if len(ends) else 0, device=offsets.device)
    place = begins[:, None] + along
    return torch.where(place < ends[:, None], place, -1)


def _largest(rows: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The largest of each column among the tokens kept, the first of equal ones; 0 of an empty bag."""
    if rows.shape[1] == 0:
        return rows.new_zeros(rows.shape[0], rows.shape[2])
    low = torch.finfo(rows.dtype).min
    best = torch.where(kept[..., None], rows, low).argmax(1, keepdim=True)
    return torch.where(kept.any(1, keepdim=True), rows.gather(1, best)[:, 0], 0.0)
