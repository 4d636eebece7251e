"""What the tangent kernel asks of a module."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.autograd.graph import GradientEdge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm

from sgdsim.common.checks import InputError, array
from sgdsim.networks.mlp import MLP, StandardMLP

OWN = (MLP, StandardMLP)
DTYPES = {"float64": torch.float64, "float32": torch.float32}
_P = ParamSpec("_P")
_R = TypeVar("_R")
_attention = threading.RLock()


def with_gradients(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, taking gradients whether or not its caller is inside `torch.no_grad()` or `inference_mode()`."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return wrapped


def check_module(module: nn.Module, *, batch_norm: bool = False) -> None:
    """InputError unless `module` has real trainable parameters and no layer makes outputs random or of their batch.

    What its own code does is for `sgdsim.networks.ntk.functions` to see. `batch_norm`: allow batch norms
    that go by the batch (in training mode, or without running statistics).
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"network: expected a torch.nn.Module, got {type(module).__name__}")
    if any(nn.parameter.is_lazy(t) for t in (*module.parameters(), *module.buffers())):
        raise InputError("network: expected parameters that are there, got lazy ones; call the network once on inputs")
    # A network of ours builds its parameters from the first data and may have none yet.
    if not any(p.requires_grad for p in module.parameters()) and not isinstance(module, OWN):
        raise InputError("network: expected a module with trainable parameters, got none with requires_grad")
    for name, p in module.named_parameters():
        if p.requires_grad and p.is_complex():
            raise InputError(
                f"network: {name}: expected real parameters, got {p.dtype}; train real and imaginary part as one real "
                "parameter and take torch.view_as_complex of it"
            )
    for name, part in module.named_modules():
        _check_part(name or type(part).__name__, part, batch_norm)


def _check_part(name: str, part: nn.Module, batch_norm: bool) -> None:
    kind = type(part).__name__
    random = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
    random = random or (isinstance(part, (nn.MultiheadAttention, nn.RNNBase)) and part.dropout > 0)
    norm = isinstance(part, nn.modules.batchnorm._BatchNorm) and not batch_norm
    if part.training and random:
        raise InputError(
            f"network: {name}: {kind} in training mode makes f(x) random: no tangent kernel; it has one after .eval(), "
            "but the limits found there are not those of training with the noise"
        )
    if part.training and norm:
        raise InputError(
            f"network: {name}: {kind} in training mode makes f(x) depend on the batch: no tangent kernel; it has one "
            "after .eval(), but the limits found there are not those of training with batch statistics: measure those "
            "by sgdsim hessian (sgdsim.hessians.hessian_spectra)"
        )
    if norm and part.running_mean is None:
        raise InputError(
            f"network: {name}: {kind} without running statistics makes f(x) depend on the batch; "
            "expected track_running_stats=True"
        )
    hooks = [*part._forward_pre_hooks.values(), *part.children()]
    if part.training and any(isinstance(hook, (SpectralNorm, parametrizations._SpectralNorm)) for hook in hooks):
        raise InputError(
            f"network: {name}: spectral_norm in training mode changes f at each call, by a step of its iteration; call "
            "the network a few times on inputs and then .eval(), which keeps the vectors it has found"
        )


def outputs(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The module's outputs on `x`, (n, C); InputError if it does not take `x` or give C ≥ 1 numbers per input."""
    try:
        f = module(x)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # it is the user's code: anything can happen in it
        raise not_taken(x, error) from error
    n = x.shape[0]
    if not isinstance(f, torch.Tensor):
        raise InputError(f"network: expected a tensor of outputs, got {_found(f)}")
    if f.ndim not in (1, 2) or f.shape[0] != n or f.numel() == 0:
        hint = "; does it end in squeeze()? squeeze(-1) keeps a batch of one" if n == 1 and f.ndim < 2 else ""
        raise InputError(f"network: expected outputs of shape ({n},) or ({n}, C), got {tuple(f.shape)}{hint}")
    wanted = x.dtype if x.is_floating_point() else next((p.dtype for p in module.parameters() if p.requires_grad), None)
    if f.dtype != (wanted or f.dtype):
        raise InputError(f"network: expected outputs in {wanted}, as it was asked for, got {f.dtype}; drop the cast")
    return f.reshape(n, -1)


def entries(result: object) -> dict[str | int, object]:
    """What a module gave, by key, name or place, where it is no tensor but holds several things."""
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, (tuple, list)):
        return {**getattr(result, "_asdict", dict)(), **dict(enumerate(result))}
    return {} if isinstance(result, torch.Tensor) else dict(getattr(result, "__dict__", {}))


def _found(result: object) -> str:
    """`entries` in words."""
    names = list(entries(result))
    listed = f" of {', '.join(map(repr, names))}; name one by NetworkProblem's output= (--output)" if names else ""
    return f"{type(result).__name__}{listed}"


def not_taken(x: torch.Tensor, error: Exception) -> InputError:
    """What to say of a module that failed on `x`."""
    first = (str(error).splitlines() or [""])[0] or type(error).__name__
    if x.dtype == torch.float64 and re.search(r"dtype|scalar type\b|float\b.*double|double.*float\b", first, re.I):
        return InputError(
            f"network: expected a module that computes in float64 throughout, got: {first}; make its constants like "
            "its input (dtype=x.dtype) and drop casts to float32; sgdsim.ntk.empirical_ntk takes dtype='float32' too"
        )
    if x.is_floating_point() and "indices" in first:
        return InputError(
            f"network: expected integers for a module of tokens, got {x.dtype} (take x.long() in forward): {first}"
        )
    kind = "" if isinstance(error, (RuntimeError, IndexError, ValueError, TypeError)) else f"{type(error).__name__}: "
    return InputError(f"network: expected a module that takes inputs of shape {tuple(x.shape)}, got: {kind}{first}")


def differentiated(
    scalar: torch.Tensor,
    by: Sequence[torch.Tensor] | Sequence[GradientEdge],
    *,
    keep: bool = False,
    again: bool = False,
) -> tuple[torch.Tensor | None, ...]:
    """The gradient of a module's `scalar`, None where it does not depend.

    `keep`: the graph, for the gradient of another scalar; `again`: this one will be differentiated itself.

    Raises InputError where it depends on no parameter, or autograd does not know the way.
    """
    if not scalar.requires_grad:
        raise InputError("network: expected outputs that depend on its trainable parameters, got constant ones")
    try:
        found = torch.autograd.grad(scalar, by, retain_graph=keep or again, create_graph=again, allow_unused=True)
    except MemoryError:
        raise
    except Exception as error:  # as in `outputs`
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"network: expected a module that torch.autograd.grad takes, got: {first}") from error
    return tuple(g.to_dense() if g is not None and g.is_sparse else g for g in found)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by its plain formula: torch's fused kernels have no forward derivative and no batching rule.

    The switch is the whole process's: one thread at a time, so that each finds it as it was.
    """
    with _attention:
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(before)


def copied(module: nn.Module) -> nn.Module:
    """A copy of `module` as a function: it works on a copy of its inputs, and its gradients are derivatives."""
    # What old-style weight norms make of their parameters before each call: torch does not copy it.
    made_anew = {
        id(t): t.detach().clone()
        for part in module.modules()
        for t in vars(part).values()
        if isinstance(t, torch.Tensor) and not t.is_leaf
    }
    try:
        module = copy.deepcopy(module, made_anew)
    except Exception as error:  # as in `outputs`
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"network: expected a module that copy.deepcopy copies, got: {first}") from error
    if isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
        module = nn.Sequential(module)
    if own_inputs not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(own_inputs, prepend=True)
    for part in module.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            part.sparse = part.scale_grad_by_freq = False
    return module


def own_inputs(module: nn.Module, given: tuple[object, ...]) -> tuple[object, ...]:
    """Copies of the tensors that a module is called with, which it may change in place."""
    return tuple(t.clone() if isinstance(t, torch.Tensor) else t for t in given)


def prepared(module: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> nn.Module:
    """A copy of `module` (see `copied`) on the device of `x`, in `dtype`, with its parameters built."""
    module = copied(module)
    if isinstance(module, OWN):
        module.build(math.prod(x.shape[1:]))
    kinds = {True: {torch.float64: torch.complex128, torch.float32: torch.complex64}[dtype], False: dtype}

    def placed(t: torch.Tensor) -> torch.Tensor:
        return t.to(device=x.device, dtype=kinds[t.is_complex()] if t.is_complex() or t.is_floating_point() else None)

    return module._apply(placed)  # `Module.to` would make complex buffers real


def inputs(name: str, x: ArrayLike | torch.Tensor, device: str, dtype: torch.dtype) -> torch.Tensor:
    """`x` as a tensor of its own: integers (tokens) stay such, the rest become `dtype`; InputError unless finite."""
    if isinstance(x, torch.Tensor):
        x = x.detach().to_dense().cpu().resolve_conj().resolve_neg()
        x = (x.double() if x.is_floating_point() else x).numpy()
    if np.ma.is_masked(x):
        raise InputError(f"{name}: expected values for all entries, got masked ones")
    values = np.asarray(x)
    if values.ndim < 1 or values.shape[0] == 0:
        raise InputError(f"{name}: expected at least one input, got shape {values.shape}")
    if np.issubdtype(values.dtype, np.integer):
        return torch.tensor(values.astype(np.int64), device=device)
    return torch.tensor(array(name, values, ndim=values.ndim), device=device).to(dtype)


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised tensor; in main memory through numpy, which asks for large pages: the first write is faster."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, dtype={kind: name for name, kind in DTYPES.items()}[dtype]))
