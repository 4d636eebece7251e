"""What the tangent kernel asks of a module."""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sgdsim.common.checks import InputError, array, choice

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
    """InputError unless `module` has trainable parameters and is a deterministic function of each input by itself.

    `batch_norm`: allow batch norms that go by the batch (in training mode, or without running statistics).
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"network: expected a torch.nn.Module, got {type(module).__name__}")
    # A network that builds its parameters from the first data (`build`) may have none yet.
    if not any(p.requires_grad for p in module.parameters()) and not hasattr(module, "build"):
        raise InputError("network: expected a module with trainable parameters, got none with requires_grad")
    if any(nn.parameter.is_lazy(p) for p in module.parameters()):
        raise InputError("network: expected parameters that are there, got lazy ones; call the network once on inputs")
    for name, part in module.named_modules():
        random = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
        random = random or (isinstance(part, nn.MultiheadAttention) and part.dropout > 0)
        kind = type(part).__name__
        norm = isinstance(part, nn.modules.batchnorm._BatchNorm) and not batch_norm
        if part.training and (random or norm):
            raise InputError(
                f"network: {name or kind}: {kind} in training mode makes f(x) random or batch-dependent; call .eval()"
            )
        if norm and part.running_mean is None:
            raise InputError(
                f"network: {name or kind}: {kind} without running statistics makes f(x) depend on the batch; "
                "expected track_running_stats=True"
            )


def outputs(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The module's outputs on `x`, (n, C); InputError if it does not take `x` or give C ≥ 1 numbers per input."""
    try:
        f = module(x)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"network: expected a module that takes inputs of shape {tuple(x.shape)}, got: {first}"
        ) from error
    if not isinstance(f, torch.Tensor) or f.ndim not in (1, 2) or f.shape[0] != x.shape[0] or f.numel() == 0:
        shape = tuple(f.shape) if isinstance(f, torch.Tensor) else type(f).__name__
        raise InputError(f"network: expected outputs of shape ({x.shape[0]},) or ({x.shape[0]}, C), got {shape}")
    return f.reshape(x.shape[0], -1)


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


def prepared(module: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> nn.Module:
    """A copy of `module` on the device of `x`, in `dtype`, with its parameters built."""
    build = getattr(module, "build", None)
    if callable(build):
        build(x.shape[-1])
    return copy.deepcopy(module).to(device=x.device, dtype=dtype)


def inputs(name: str, x: np.ndarray | torch.Tensor, device: str, dtype: torch.dtype) -> torch.Tensor:
    """`x` as a tensor: integers (tokens) stay integers, the rest become `dtype`; InputError unless finite."""
    values = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    if values.ndim < 1 or values.shape[0] == 0:
        raise InputError(f"{name}: expected at least one input, got shape {values.shape}")
    if np.issubdtype(values.dtype, np.integer):
        return torch.tensor(values, dtype=torch.int64, device=device)
    # A copy: a module may change its input in place.
    return torch.tensor(array(name, values, ndim=values.ndim), device=device).to(dtype)


@with_gradients
def evaluate(module: nn.Module, x: np.ndarray, device: str = "cpu", dtype: str = "float64") -> np.ndarray:
    """Outputs of a network with one output on `x` (n, ...), (n,) float64; InputError for several outputs."""
    tensor = inputs("x", x, device, DTYPES[choice("dtype", dtype, DTYPES)])
    with torch.no_grad():
        f = outputs(prepared(module, tensor, DTYPES[dtype]), tensor)
    if f.shape[1] != 1:
        raise InputError(
            f"network: expected one output per input, shape ({len(x)},) or ({len(x)}, 1); got {tuple(f.shape)}"
        )
    return f[:, 0].double().cpu().numpy()


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised tensor; in main memory through numpy, which asks for large pages: the first write is faster."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, dtype={kind: name for name, kind in DTYPES.items()}[dtype]))
