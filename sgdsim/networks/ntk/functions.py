"""Whether a module is a function of each input by itself, and its values."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import nn

from sgdsim.common.checks import InputError, choice
from sgdsim.networks.ntk.calls import parameter_uses
from sgdsim.networks.ntk.modules import (
    DTYPES,
    OWN,
    check_module,
    copied,
    differentiated,
    entries,
    inputs,
    not_taken,
    outputs,
    prepared,
    with_gradients,
)

_ROWS, _ALONE = 8, 3
_AGAIN = 50  # evaluations of a module that draws random numbers: what does so now and then is seen too
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of rounding, relative to the largest output


def function_of(module: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> nn.Module:
    """`prepared(module, x, dtype)`; InputError where it is no function of each input by itself as far as a few show.

    Tried: a batch of 8 random inputs twice, and 3 of them by themselves, at parameters that are moved a little (behind
    a read-out of zeros nothing is seen). A module that draws random numbers is called 50 times.
    """
    check_module(module)
    module = prepared(module, x, dtype)
    rows = x[torch.randperm(x.shape[0], generator=torch.Generator().manual_seed(0))[:_ROWS].to(x.device)]
    with _moved(module):
        if _check_alike(module, rows):
            return module
    _check_alike(module, rows)
    return module


def _check_alike(module: nn.Module, x: torch.Tensor) -> bool:
    """Whether the outputs are finite and can be compared; InputError where they, or the parameters, change."""
    drawn, before = _random_state(x.device), {name for name, _ in module.named_parameters()}
    f = outputs(module, x)
    if late := sorted({name for name, _ in module.named_parameters()} - before):
        raise InputError(f"network: {late[0]}: made in the first forward; call the network once on inputs before")
    if not f.requires_grad:
        raise InputError("network: expected outputs that depend on its trainable parameters, got constant ones")
    again = 1 if torch.equal(drawn, _random_state(x.device)) else _AGAIN
    if any(_differ(outputs(module, x), f) for _ in range(again)):
        raise InputError(
            "network: gives other outputs when it is called again on the same inputs: it is random (F.dropout needs "
            "training=self.training) or keeps a state; expected a function of the inputs"
        )
    if any(_differ(outputs(module, x[k : k + 1]), f[k : k + 1]) for k in range(min(_ALONE, len(x)))):
        raise InputError(
            "network: gives an input another output by itself than in its batch: it mixes inputs (a mean or a norm "
            "over dimension 0, attention without batch_first) or rounds to float32; expected a function of each input"
        )
    return bool(torch.isfinite(f).all())


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _differ(f: torch.Tensor, g: torch.Tensor) -> bool:
    if f.shape != g.shape:
        return True
    same = (f == g) | (f.isnan() & g.isnan())
    scale = torch.where(g.isfinite(), g.abs(), 0).max()
    return bool((~same & ~((f - g).abs() <= _TOLERANCE[f.dtype] * scale)).any())


@contextlib.contextmanager
def _moved(module: nn.Module) -> Iterator[None]:
    """With each trainable parameter a little larger."""
    trained = [p for p in module.parameters() if p.requires_grad]
    with torch.no_grad():
        before = [p.clone() for p in trained]
        for k, p in enumerate(trained):
            p.add_(0.01 * (p.abs().mean() + 0.1) * (1 + 0.1 * (k % 7)))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(trained, before, strict=True):
                p.copy_(value)


class _Entry:
    """A forward hook: one entry of what a module gives."""

    def __init__(self, key: str | int) -> None:
        self.key = key

    def __call__(self, module: nn.Module, given: object, result: object) -> object:
        found = entries(result)
        if not found:
            raise InputError(f"output: expected none, as the network gives a {type(result).__name__}, got {self.key!r}")
        places = dict(enumerate(found.values()))
        if self.key not in found and self.key not in places:
            raise InputError(f"output: expected one of {', '.join(map(repr, found))}; got {self.key!r}")
        return found[self.key] if self.key in found else places[cast(int, self.key)]


def entry_of(module: nn.Module, output: str | int) -> nn.Module:
    """A copy of `module` that gives one entry of what `module` does: a key or name, or a place in it."""
    module = copied(module)
    module.register_forward_hook(_Entry(output))
    return module


@with_gradients
def settled(
    module: nn.Module, x: np.ndarray, output: str | int | None = None, dtype: str = "float64"
) -> tuple[nn.Module, int]:
    """A copy of `module` for inputs like x, with all its parameters, that gives one entry of its outputs; their number.

    A lazy one is called once, so that copies of the copy have the same parameters: those that torch's seed gives now.
    InputError as of `function_of`.
    """
    if not isinstance(module, nn.Module):
        check_module(module)
    some = np.random.default_rng(0).permutation(len(x))[:_ROWS]
    kind = DTYPES[dtype]
    module, tensor = copied(module), inputs("x", x[some], "cpu", kind)
    if isinstance(module, OWN):
        module.build(math.prod(x.shape[1:]))
    if any(nn.parameter.is_lazy(t) for t in (*module.parameters(), *module.buffers())):
        given = next(t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())
        with torch.no_grad():
            try:
                module(tensor[:2].to(given) if tensor.is_floating_point() else tensor[:2])
            except Exception as error:  # it is the user's code: anything can happen in it
                raise not_taken(tensor[:2], error) from error
    if output is not None:
        module = entry_of(module, output)
    f = outputs(checked := function_of(module, tensor, kind), tensor[:1])
    trained = {name: p for name, p in checked.named_parameters() if p.requires_grad}
    differentiated(f.sum(), list(trained.values()))
    _check_names(checked, trained, tensor[:1])
    return module, f.shape[1]


def _check_names(module: nn.Module, trained: dict[str, nn.Parameter], x: torch.Tensor) -> None:
    """InputError where a parameter is used by another name than its own: training that puts others there would not
    move it."""
    others = {name: p.detach().clone().requires_grad_() for name, p in trained.items()}
    try:
        used = parameter_uses(torch.func.functional_call(module, others, (x,)).grad_fn)
    except Exception:  # it is the user's code, and whoever calls it in this way will see
        return
    for name, p in trained.items():
        if used[id(p)]:
            raise InputError(
                f"network: {name}: expected to be used by that name only, got it by another (from a list, a closure or "
                f"the like), by which training would not move it; write self.{name}"
            )


@with_gradients
def evaluate(module: nn.Module, x: np.ndarray, device: str = "cpu", dtype: str = "float64") -> np.ndarray:
    """Outputs of a network on `x` (n, ...), float64: (n,) of one output, (n, C) of several.

    Raises InputError as `empirical_ntk` does.
    """
    kind = DTYPES[choice("dtype", dtype, DTYPES)]
    tensor = inputs("x", x, device, kind)
    module = function_of(module, tensor, kind)
    try:
        with torch.no_grad():
            f = outputs(module, tensor)
    except InputError:  # it takes gradients itself, and on a few inputs it could
        f = outputs(module, tensor)
    values = f.detach().double().cpu().numpy()
    return values[:, 0] if values.shape[1] == 1 else values
