"""The network as a function of each replicate's parameters: all together, or one by one where torch cannot batch it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from sgdsim.common.checks import InputError

Tensors = dict[str, torch.Tensor]
#: y (R, b) or (R, b, C) of the batches, with the points' weights (R, b) where they have some.
Targets = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
#: The loss of each point from outputs and targets (…, b), or (…, b, C) where `several`.
PointLoss = Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]
Found = tuple[Tensors, torch.Tensor]

_listening = threading.Lock()  # to warnings: their filters are the whole process's

# Relative difference of what is computed together and alone that is not rounding.
_WRONG = {torch.float64: 1e-6, torch.float32: 1e-2}


def squared(f: torch.Tensor, y: torch.Tensor, several: bool) -> torch.Tensor:
    """½(f − y)², summed over outputs."""
    squares = 0.5 * (f - y) ** 2
    return squares.sum(-1) if several else squares


def cross_entropy(f: torch.Tensor, y: torch.Tensor, several: bool) -> torch.Tensor:
    """−log of the softmax at one-hot targets; of targets ±1 log(1 + e^(−yf))."""
    return -(y * f.log_softmax(-1)).sum(-1) if several else nn.functional.softplus(-y * f)


class Replicates:
    """`slopes` and `outputs` of copies of a network that differ in `parameters` and `buffers`, (R, …) each, by name.

    One batched call for all replicates where torch has batching rules for what the module does, and this gives what
    plain autograd does for the first of them, tried once; else a loop over them by plain autograd.
    """

    def __init__(self, network: nn.Module, loss: PointLoss, n_outputs: int) -> None:
        self.network, self.several = network, n_outputs > 1
        self._own = dict([*network.named_parameters(), *network.named_buffers()])
        self._alone: dict[bool, bool] = {}  # whether one by one: slopes (True), outputs (False)

        def shaped(f: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return f.reshape(x.shape[0], n_outputs) if self.several else f.reshape(x.shape[0])

        def single(params: Tensors, fixed: Tensors, x: torch.Tensor) -> torch.Tensor:
            return shaped(functional_call(network, {**params, **fixed}, (x,)), x)

        def objective(f: torch.Tensor, y: Targets) -> torch.Tensor:
            targets, weights = y if isinstance(y, tuple) else (y, None)
            losses = loss(f, targets, self.several)
            return (losses if weights is None else weights * losses).mean()

        def both(params: Tensors, fixed: Tensors, x: torch.Tensor, y: Targets) -> torch.Tensor:
            return objective(single(params, fixed, x), y)

        self._shaped, self._objective = shaped, objective
        self._outputs_together = vmap(single, (0, 0, None))
        #: `slopes` by one batched call, come what may (see `check_together`): for `torch.compile`.
        self.together: Callable[..., Found] = vmap(grad_and_value(both))

    def slopes(self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, y: Targets) -> Found:
        """Gradients (R, …) by name, and losses (R,), each replicate's on its own batch: x (R, b, …)."""
        return self._found(parameters, buffers, x, y)

    def outputs(self, parameters: Tensors, buffers: Tensors, x: torch.Tensor) -> torch.Tensor:
        """(R, m), or (R, m, C), of all replicates on the same inputs x (m, …), which are left as they are."""
        return self._found(parameters, buffers, x, None)[1]

    def check_together(self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, y: torch.Tensor) -> None:
        """InputError where `together` would not do."""
        count = len(next(iter(parameters.values())))
        each = (held[:2].expand(count, *held[:2].shape).clone() for held in (x, y))
        if not self._agrees(parameters, buffers, *each):
            raise InputError("compile: expected a module that torch.func.vmap takes, got another; use compile=False")

    def _found(self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, y: Targets | None) -> Found:
        given, slopes = (parameters, buffers, x, y), y is not None
        if slopes not in self._alone:
            self._alone[slopes] = not self._agrees(*given)
        if not self._alone[slopes]:
            try:
                return self._batched(*given)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # what a module does may depend on the data
                self._alone[slopes] = True
        count = range(len(next(iter(parameters.values()))))
        each = [self._one(place, *given) for place in count]
        return (
            {name: torch.stack([gradients[name] for gradients, _ in each]) for name in each[0][0]},
            torch.stack([value for _, value in each]),
        )

    def _batched(self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, y: Targets | None) -> Found:
        if y is None:  # a copy: a module may change its input
            return {}, self._outputs_together(parameters, buffers, x.clone())
        return self.together(parameters, buffers, x, y)

    def _agrees(self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, y: Targets | None) -> bool:
        """Whether the batched call works, is one, and gives for the first replicate what that gives alone."""
        gradients, value = self._one(0, parameters, buffers, x, y)
        for own in self._own.values():  # seen where a module holds them by other names than functional calls exchange
            own.data = torch.full_like(own, torch.nan if own.is_floating_point() else 0)
        try:
            with _listening, warnings.catch_warnings(record=True, action="always") as said:
                batched, values = self._batched(parameters, buffers, x.clone(), y)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return False
        slow = [one for one in said if "performance drop" in str(one.message)]  # torch's own loop over replicates
        for one in said:
            if one not in slow:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if slow:
            return False
        pairs = [(values[0], value), *((batched[name][0], gradients[name]) for name in gradients)]
        scale = max(float(one.abs().nan_to_num().max()) for _, one in pairs)
        close = _WRONG[value.dtype] * scale
        return all(torch.allclose(many, one, rtol=0.0, atol=close, equal_nan=True) for many, one in pairs)

    def _one(
        self, place: int, parameters: Tensors, buffers: Tensors, x: torch.Tensor, y: Targets | None
    ) -> tuple[Tensors, torch.Tensor]:
        """`slopes` or `outputs` of one replicate, by the module itself with the replicate's parameters in it."""
        for name, held in (parameters | buffers).items():
            self._own[name].data, self._own[name].grad = held[place], None
        points = x if y is None else x[place]
        try:
            f = self._shaped(self.network(points.clone()), points)
            if y is None:
                return {}, f
            loss = self._objective(f, (y[0][place], y[1][place]) if isinstance(y, tuple) else y[place])
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # it is the user's code: anything can happen in it
            first = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"network: expected a module that trains on batches of shape {tuple(points.shape)}, got: "
                f"{type(error).__name__}: {first}"
            ) from error
        return {name: _gradient(self._own[name]) for name in parameters}, loss.detach()


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Its `.grad`, dense; 0 where the loss does not depend on it."""
    found = parameter.grad
    if found is None:
        return torch.zeros_like(parameter)
    return found.to_dense() if found.is_sparse else found


def at(tensors: Mapping[str, torch.Tensor], places: slice | torch.Tensor) -> Tensors:
    """These replicates of each tensor (R, …): views of a slice."""
    return {name: held[places] for name, held in tensors.items()}
