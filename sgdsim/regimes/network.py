"""Real network regime: mini-batch SGD on the network itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.func import functional_call, grad, grad_and_value, stack_module_state, vmap

from sgdsim.algorithm import draws
from sgdsim.algorithm.batches import batch_blocks, label_errors
from sgdsim.algorithm.maps import read
from sgdsim.algorithm.sgd import SGD, StepValues, has_momentum
from sgdsim.common.checks import InputError, choice
from sgdsim.networks.ntk import with_gradients
from sgdsim.problem import NetworkProblem, Problem
from sgdsim.regimes._network_rules import Rows
from sgdsim.regimes.base import Regime, diagonal, training_seconds

DTYPES = {"float64": torch.float64, "float32": torch.float32}
# Inputs, over all replicates, in one piece of a full-loss evaluation: few enough that hidden layers stay in cache, and
# enough for each of tens of replicates that its matrix products run at full speed.
_EVALUATED = 2048

# Bytes of one parameter, over the replicates trained together on a CPU. glibc hands blocks beyond 32 MB back to the
# system at once, and fetching fresh pages for every step's gradients then costs more than the step.
_TOGETHER = 24_000_000


@dataclass
class _State:
    problem: NetworkProblem
    sgd: SGD
    keys: np.ndarray
    parameters: dict[str, torch.Tensor]  # each (R, ...)
    velocities: dict[str, torch.Tensor]  # none without momentum
    components: dict[str, torch.Tensor]  # (m, R, ...) each, of linear methods but plain heavy ball; gradients at 0
    rows: Rows | None  # of a gradient rule: what the parameters are views of
    buffers: dict[str, torch.Tensor]
    update: Any  # a step in place, over replicates
    outputs: Any  # (parameters, buffers, x) -> (R, m)
    data: tuple[torch.Tensor, ...]  # x, y, and x_test, y_test where there are some
    groups: list[slice]  # replicates that are trained together


@dataclass(frozen=True)
class RealNetwork(Regime):
    """The network itself, trained on `½·mean((f − y)²)` of each batch at the torch learning rate that equals α, or by a
    gradient rule.

    All replicates start from the problem's network and differ in their batches only; they are trained together in one
    batched computation.

    Parameters
    ----------
    dtype : "float64" (default) or "float32".
    compile : compile the step with `torch.compile`: about 30% faster after 5 to 20 s, the same numbers up to rounding;
        on a CPU it needs a C++ compiler. InputError, at the first step, where that fails. Not with gradient rules.
    """

    dtype: str = "float64"
    compile: bool = False
    stochastic: ClassVar[bool] = True
    uses_all_cores: ClassVar[bool] = True
    follows_rules: ClassVar[bool] = True
    follows_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice("dtype", self.dtype, DTYPES)

    @property
    def name(self) -> str:
        return "network"

    def check(self, problem: Problem, sgd: SGD) -> None:
        super().check(problem, sgd)
        if not problem.has_network:
            raise InputError(
                "regime: network needs a NetworkProblem (a network and data), got a problem without a network"
            )
        if sgd.rule is not None and self.compile:
            raise InputError(f"compile: expected False with {sgd.rule.name}, whose steps are not compiled; got True")

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        return 8.0 * parameters * replicates * (sgd.components if not sgd.is_plain else 1)

    def seconds(
        self, n: float, parameters: float, sgd: SGD, steps: np.ndarray, replicates: int, observe: tuple[str, ...]
    ) -> float:
        return training_seconds(n, parameters, sgd, steps, replicates)

    @with_gradients
    def init(self, problem: NetworkProblem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> _State:
        dtype = DTYPES[self.dtype]
        network = copy.deepcopy(problem.network)  # functional calls swap its parameters: not those of other threads
        parameters, buffers = stack_module_state([network] * replicates)
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}

        def place(tensor):
            return (
                tensor.detach().to(device=problem.device, dtype=dtype if tensor.is_floating_point() else None).clone()
            )

        parameters = {name: place(p) for name, p in parameters.items()}
        buffers = {name: place(b) for name, b in buffers.items()} | {name: parameters.pop(name) for name in frozen}

        def single(params, fixed, x):
            return functional_call(network, {**params, **fixed}, (x,)).reshape(x.shape[0])

        def objective(params, fixed, x, y):
            targets, weights = y if isinstance(y, tuple) else (y, None)
            squares = (single(params, fixed, x) - targets) ** 2
            return 0.5 * (squares if weights is None else weights * squares).mean()

        gradient = vmap(grad(objective))

        def update(params, velocities, fixed, x, y, lr, momentum):
            gradients = gradient(params, fixed, x, y)
            for name, parameter in params.items():
                if velocities:
                    velocity = velocities[name].mul_(momentum)
                    parameter.add_(velocity.sub_(gradients[name].mul_(lr)))
                else:
                    parameter.sub_(gradients[name].mul_(lr))

        def move(components, fixed, x, y, transition, kick):
            gradients = gradient({name: held[0] for name, held in components.items()}, fixed, x, y)
            for name, held in components.items():
                moved = torch.tensordot(transition, held, 1)
                moved += kick.reshape(-1, *[1] * gradients[name].ndim) * gradients[name]
                held.copy_(moved)

        step = update if sgd.is_plain else move
        step = _compiled(step) if self.compile else step
        components, rows = {}, None
        if sgd.rule is not None:
            rows = Rows(sgd.rule, parameters, vmap(grad_and_value(objective)))
            parameters = rows.tensors
        elif not sgd.is_plain:
            components = {name: torch.stack([float(a) * p for a in sgd.begins]) for name, p in parameters.items()}
            parameters = _read_out(sgd, components)
        arrays = [problem.data.x, problem.data.y, *([problem.data.x_test, problem.data.y_test] if test else [])]
        return _State(
            problem, sgd, draws.replicate_keys(seed, replicates), parameters,
            {name: torch.zeros_like(p) for name, p in parameters.items()} if sgd.is_plain and has_momentum(sgd) else {},
            components, rows, buffers, step, vmap(single, (0, 0, None)),
            tuple(torch.tensor(a, dtype=dtype, device=problem.device) for a in arrays),
            _groups(parameters, problem.device),
        )  # fmt: skip

    @with_gradients
    def advance(self, state: _State, start: int, stop: int) -> None:
        x, y = state.data[:2]
        if state.rows is not None:
            _advance_rows(state, start, stop)
            return
        if state.components:
            _advance_components(state, start, stop)
            state.parameters = _read_out(state.sgd, state.components)
            return
        for values, batches, _ in batch_blocks(state.sgd, state.problem.n, state.keys, start, stop):
            indices = torch.as_tensor(batches, dtype=torch.int64, device=x.device)
            # Tensors: plain numbers would be compiled in; all steps' at once: a GPU would wait for each.
            rates, momenta = (
                torch.as_tensor(a, dtype=x.dtype, device=x.device)
                for a in (state.problem.quadratic.torch_lr(values.lr), values.momentum)
            )
            for group in state.groups:
                parameters, velocities, buffers = (
                    {name: held[group] for name, held in kept.items()}
                    for kept in (state.parameters, state.velocities, state.buffers)
                )
                for t in range(values.lr.size):
                    batch = indices[group, t, : values.batch_size[t]]
                    state.update(parameters, velocities, buffers, x[batch], y[batch], rates[t], momenta[t])

    def keep(self, state: _State, replicates: np.ndarray) -> bool:
        places = torch.as_tensor(replicates, device=state.data[0].device)
        state.keys = state.keys[replicates]
        state.velocities, state.buffers, parameters = (
            {name: held[places] for name, held in kept.items()}
            for kept in (state.velocities, state.buffers, state.parameters)
        )
        if state.components:
            state.components = {name: held[:, places] for name, held in state.components.items()}
            parameters = _read_out(state.sgd, state.components)
        if state.rows is not None:
            state.rows.keep(places)
            parameters = state.rows.tensors
        state.parameters, state.groups = parameters, _groups(parameters, state.problem.device)
        return True

    def observe(self, state: _State, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        residual = self._residuals(state, *state.data[:2])
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
            out = {"loss": (residual**2).mean(1) / 2}
            if "test_loss" in what:
                out["test_loss"] = (self._residuals(state, *state.data[2:]) ** 2).mean(1) / 2
            if "moments" in what:
                out["moments"] = (residual @ state.problem.quadratic.eigenvectors) ** 2
        return out

    def _residuals(self, state: _State, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
        """f − y on all of `x`, (R, m) float64, in chunks."""
        chunk = max(1, _EVALUATED // state.keys.shape[0])
        with torch.no_grad():
            parts = [
                state.outputs(state.parameters, state.buffers, x[i : i + chunk]) - y[i : i + chunk]
                for i in range(0, x.shape[0], chunk)
            ]
        return torch.cat(parts, dim=1).to(torch.float64).cpu().numpy()


def _groups(parameters: dict[str, torch.Tensor], device: str) -> list[slice]:
    """Which replicates to train together: all on a GPU, else as many as `_TOGETHER` says."""
    replicates = len(next(iter(parameters.values())))
    largest = max(p[0].numel() * p.element_size() for p in parameters.values())
    together, threads = max(1, _TOGETHER // largest), torch.get_num_threads()
    if device != "cpu":
        together = replicates
    elif together > threads:  # threads share a group's replicates out whole: let none wait for another's last one
        together -= together % threads
    return [slice(low, min(low + together, replicates)) for low in range(0, replicates, together)]


def _read_out(sgd: SGD, components: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The parameters whose losses are reported, (R, ...) each; a view where they are a component."""
    return {name: read(sgd.readout, held) for name, held in components.items()}


def _blocks(state: _State, start: int, stop: int) -> Iterator[tuple[StepValues, np.ndarray, torch.Tensor | None]]:
    """`batch_blocks`, the weights where the data are."""
    x, own = state.data[0], diagonal(state.problem, state.sgd)
    for values, batches, weights in batch_blocks(state.sgd, state.problem.n, state.keys, start, stop, own):
        held = None if weights is None else torch.as_tensor(weights, dtype=x.dtype, device=x.device)
        yield values, batches, held


def _advance_components(state: _State, start: int, stop: int) -> None:
    """`advance` of any linear method, averages and noisy labels; learning rates come in by the kick alone."""
    x, y = state.data[:2]
    unit = state.problem.quadratic.torch_lr(1.0)
    at = start
    for values, batches, weights in _blocks(state, start, stop):
        maps = state.sgd.maps(at, at + values.lr.size)
        transition, kick = (
            torch.as_tensor(a, dtype=x.dtype, device=x.device) for a in (maps.transition, unit * maps.kick)
        )
        errors = torch.as_tensor(label_errors(state.sgd, batches, at, state.keys), dtype=x.dtype, device=x.device)
        indices = torch.as_tensor(batches, dtype=torch.int64, device=x.device)
        at += values.lr.size
        for group in state.groups:
            components = {name: held[:, group] for name, held in state.components.items()}
            buffers = {name: held[group] for name, held in state.buffers.items()}
            for t in range(values.lr.size):
                size = int(values.batch_size[t])
                batch = indices[group, t, :size]
                targets = y[batch] + errors[group, t, :size] if errors.shape[2] else y[batch]
                if weights is not None:
                    targets = (targets, weights[group, t, :size])
                state.update(components, buffers, x[batch], targets, transition[t], kick[t])


def _advance_rows(state: _State, start: int, stop: int) -> None:
    """`advance` of a gradient rule."""
    x, y = state.data[:2]
    at = start
    for values, batches, weights in _blocks(state, start, stop):
        errors = torch.as_tensor(label_errors(state.sgd, batches, at, state.keys), dtype=x.dtype, device=x.device)
        indices = torch.as_tensor(batches, dtype=torch.int64, device=x.device)
        for group in state.groups:
            parameters, buffers = (
                {name: held[group] for name, held in kept.items()} for kept in (state.parameters, state.buffers)
            )
            for t, (lr, size) in enumerate(zip(values.lr, values.batch_size, strict=True)):
                batch = indices[group, t, :size]
                targets = y[batch] + errors[group, t, :size] if errors.shape[2] else y[batch]
                if weights is not None:
                    targets = (targets, weights[group, t, :size])
                state.rows.step(group, parameters, buffers, x[batch], targets, at + t, float(lr))
        at += values.lr.size


def _compiled(update: Any) -> Any:
    """`update` by `torch.compile`; InputError where it cannot be compiled."""
    made = torch.compile(update, dynamic=False)

    def call(*arguments: Any) -> None:
        try:
            made(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"compile: expected a step that torch.compile takes, and on a CPU a C++ compiler; got {reason}"
            ) from error

    return call
