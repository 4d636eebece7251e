"""The real network under way: all replicates trained together, by linear methods; gradient rules: `_network_rules`."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from sgdsim.algorithm.batches import batch_blocks, label_errors
from sgdsim.algorithm.maps import read
from sgdsim.algorithm.sgd import SGD, StepValues, has_momentum
from sgdsim.common.checks import InputError
from sgdsim.networks.ntk import with_gradients
from sgdsim.problem import NetworkProblem
from sgdsim.regimes.base import Run, diagonal

Tensors = dict[str, torch.Tensor]
#: y (R, b) of the batches, with the points' weights where they have some.
Targets = torch.Tensor | tuple[torch.Tensor, torch.Tensor]

# Inputs, over all replicates, in one piece of a full-loss evaluation: few enough that hidden layers stay in cache, and
# enough for each of tens of replicates that its matrix products run at full speed.
_EVALUATED = 2048

# Bytes of one parameter, over the replicates trained together on a CPU. glibc hands blocks beyond 32 MB back to the
# system at once, and fetching fresh pages for every step's gradients then costs more than the step.
_TOGETHER = 24_000_000


class Training(Run):
    """A copy of the network for each replicate, and the data; a subclass keeps what its steps need and takes them.

    `parameters` and `buffers`: (R, …) each, by name. `groups`: the replicates that are trained together. `step`: one
    step in place, of what `views` and `coefficients` give: (*views, x, targets, *coefficients of the step).
    """

    step: Callable[..., None]

    def __init__(self, problem: NetworkProblem, sgd: SGD, keys: np.ndarray, dtype: torch.dtype, test: bool) -> None:
        self.problem, self.sgd, self.keys = problem, sgd, keys
        network = copy.deepcopy(problem.network)  # functional calls swap its parameters: not those of other threads
        parameters, buffers = (
            _placed(held, problem.device, dtype) for held in stack_module_state([network] * len(keys))
        )
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        self.buffers = buffers | {name: parameters.pop(name) for name in frozen}
        self.parameters = parameters

        def single(params: Tensors, fixed: Tensors, x: torch.Tensor) -> torch.Tensor:
            return functional_call(network, {**params, **fixed}, (x,)).reshape(x.shape[0])

        def objective(params: Tensors, fixed: Tensors, x: torch.Tensor, y: Targets) -> torch.Tensor:
            targets, weights = y if isinstance(y, tuple) else (y, None)
            squares = (single(params, fixed, x) - targets) ** 2
            return 0.5 * (squares if weights is None else weights * squares).mean()

        self.outputs, self.objective = vmap(single, (0, 0, None)), objective
        data = problem.data
        arrays = [data.x, data.y, *([data.x_test, data.y_test] if test else [])]
        self.data = tuple(torch.tensor(a, dtype=dtype, device=problem.device) for a in arrays)
        self.groups = _groups(parameters, problem.device)

    @abstractmethod
    def views(self, group: slice) -> tuple[Any, ...]:
        """What a step of these replicates changes and needs."""

    @abstractmethod
    def coefficients(self, start: int, values: StepValues) -> tuple[Sequence[Any] | torch.Tensor, ...]:
        """What differs from step to step, an entry for each step from `start` on."""

    @abstractmethod
    def keep_parameters(self, places: torch.Tensor) -> None:
        """Only these replicates' parameters, and what goes with them."""

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """In the precision of the network, where that is."""
        return torch.as_tensor(array, dtype=self.data[0].dtype, device=self.data[0].device)

    @with_gradients
    def advance(self, start: int, stop: int) -> None:
        x, y = self.data[:2]
        own = diagonal(self.problem, self.sgd)
        for values, batches, drawn in batch_blocks(self.sgd, self.problem.n, self.keys, start, stop, own):
            errors = self.tensor(label_errors(self.sgd, batches, start, self.keys))
            weights = None if drawn is None else self.tensor(drawn)
            indices = torch.as_tensor(batches, dtype=torch.int64, device=x.device)
            coefficients = self.coefficients(start, values)  # all steps' at once: a GPU would wait for each
            for group in self.groups:
                views = self.views(group)
                for t, size in enumerate(values.batch_size.tolist()):
                    batch = indices[group, t, :size]
                    targets = y[batch] + errors[group, t, :size] if errors.shape[2] else y[batch]
                    weighted: Targets = targets if weights is None else (targets, weights[group, t, :size])
                    self.step(*views, x[batch], weighted, *(each[t] for each in coefficients))
            start += values.lr.size

    def keep(self, replicates: np.ndarray) -> bool:
        places = torch.as_tensor(replicates, device=self.data[0].device)
        self.keys, self.buffers = self.keys[replicates], at(self.buffers, places)
        self.keep_parameters(places)
        self.groups = _groups(self.parameters, self.problem.device)
        return True

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        residual = self.residuals(*self.data[:2])
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
            out = {"loss": (residual**2).mean(1) / 2}
            if "test_loss" in what:
                out["test_loss"] = (self.residuals(*self.data[2:]) ** 2).mean(1) / 2
            if "moments" in what:
                out["moments"] = (residual @ self.problem.quadratic.eigenvectors) ** 2
        return out

    def network(self, replicate: int) -> torch.nn.Module:
        """A copy of the network as this replicate has it now."""
        network = copy.deepcopy(self.problem.network)
        own = {name: held[replicate] for name, held in (self.parameters | self.buffers).items()}
        network.load_state_dict(own, strict=False)
        return network

    def residuals(self, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
        """f − y on all of `x`, (R, m) float64, in chunks."""
        chunk = max(1, _EVALUATED // self.keys.shape[0])
        with torch.no_grad():
            parts = [
                self.outputs(self.parameters, self.buffers, x[i : i + chunk]) - y[i : i + chunk]
                for i in range(0, x.shape[0], chunk)
            ]
        return torch.cat(parts, dim=1).to(torch.float64).cpu().numpy()


class HeavyBall(Training):
    """Plain heavy ball: `velocities` beside the parameters, none without momentum."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        kept = self.parameters if has_momentum(self.sgd) else {}
        self.velocities = {name: torch.zeros_like(p) for name, p in kept.items()}
        gradient = vmap(grad(self.objective))

        def step(
            params: Tensors,
            velocities: Tensors,
            fixed: Tensors,
            x: torch.Tensor,
            y: Targets,
            lr: torch.Tensor,
            momentum: torch.Tensor,
        ) -> None:
            gradients = gradient(params, fixed, x, y)
            for name, parameter in params.items():
                if velocities:
                    velocity = velocities[name].mul_(momentum)
                    parameter.add_(velocity.sub_(gradients[name].mul_(lr)))
                else:
                    parameter.sub_(gradients[name].mul_(lr))

        self.step = step

    def views(self, group: slice) -> tuple[Tensors, ...]:
        return at(self.parameters, group), at(self.velocities, group), at(self.buffers, group)

    def coefficients(self, start: int, values: StepValues) -> tuple[torch.Tensor, ...]:
        """Tensors: plain numbers would be compiled in."""
        return self.tensor(self.problem.quadratic.torch_lr(values.lr)), self.tensor(values.momentum)

    def keep_parameters(self, places: torch.Tensor) -> None:
        self.parameters, self.velocities = at(self.parameters, places), at(self.velocities, places)


class Linear(Training):
    """Any linear method, averages and noisy labels: `components` (m, R, …) of each parameter, the iterate at 0."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        begins = [float(a) for a in self.sgd.begins]
        self.components = {name: torch.stack([a * p for a in begins]) for name, p in self.parameters.items()}
        self._read_out()
        gradient = vmap(grad(self.objective))

        def step(
            components: Tensors,
            fixed: Tensors,
            x: torch.Tensor,
            y: Targets,
            transition: torch.Tensor,
            kick: torch.Tensor,
        ) -> None:
            gradients = gradient({name: held[0] for name, held in components.items()}, fixed, x, y)
            for name, held in components.items():
                moved = torch.tensordot(transition, held, 1)
                moved += kick.reshape(-1, *[1] * gradients[name].ndim) * gradients[name]
                held.copy_(moved)

        self.step = step

    def _read_out(self) -> None:
        """The parameters whose losses are reported; views where they are a component."""
        self.parameters = {name: read(self.sgd.readout, held) for name, held in self.components.items()}

    @with_gradients
    def advance(self, start: int, stop: int) -> None:
        super().advance(start, stop)
        self._read_out()

    def views(self, group: slice) -> tuple[Tensors, ...]:
        return {name: held[:, group] for name, held in self.components.items()}, at(self.buffers, group)

    def coefficients(self, start: int, values: StepValues) -> tuple[torch.Tensor, ...]:
        """Learning rates come in by the kick alone."""
        maps = self.sgd.maps(start, start + values.lr.size)
        return self.tensor(maps.transition), self.tensor(self.problem.quadratic.torch_lr(1.0) * maps.kick)

    def keep_parameters(self, places: torch.Tensor) -> None:
        self.components = {name: held[:, places] for name, held in self.components.items()}
        self._read_out()


def at(tensors: Mapping[str, torch.Tensor], places: slice | torch.Tensor) -> Tensors:
    """These replicates of each tensor (R, …): views of a slice."""
    return {name: held[places] for name, held in tensors.items()}


def _placed(tensors: Mapping[str, torch.Tensor], device: str, dtype: torch.dtype) -> Tensors:
    """Copies of their own there, floating point in `dtype`."""
    return {
        name: t.detach().to(device=device, dtype=dtype if t.is_floating_point() else None).clone()
        for name, t in tensors.items()
    }


def _groups(parameters: Tensors, device: str) -> list[slice]:
    """Which replicates to train together: all on a GPU, else as many as `_TOGETHER` says."""
    replicates = len(next(iter(parameters.values())))
    largest = max(p[0].numel() * p.element_size() for p in parameters.values())
    together, threads = max(1, _TOGETHER // largest), torch.get_num_threads()
    if device != "cpu":
        together = replicates
    elif together > threads:  # threads share a group's replicates out whole: let none wait for another's last one
        together -= together % threads
    return [slice(low, min(low + together, replicates)) for low in range(0, replicates, together)]


def compiled(step: Callable[..., None]) -> Callable[..., None]:
    """`step` by `torch.compile`; InputError where it cannot be compiled."""
    made = torch.compile(step, dynamic=False)

    def call(*arguments: object) -> None:
        try:
            made(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"compile: expected a step that torch.compile takes, and on a CPU a C++ compiler; got {reason}"
            ) from error

    return call
