"""The real network under way: all replicates trained together, by linear methods; gradient rules: `_network_rules`."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.func import stack_module_state

from sgdsim.algorithm.batches import batch_blocks, label_errors
from sgdsim.algorithm.maps import read
from sgdsim.algorithm.sgd import SGD, StepValues, has_momentum
from sgdsim.common.checks import InputError
from sgdsim.networks.ntk import with_gradients
from sgdsim.problem import NetworkProblem
from sgdsim.regimes._replicates import PointLoss, Replicates, Targets, Tensors, at, squared
from sgdsim.regimes._sampled_plain import observed
from sgdsim.regimes.base import Run, diagonal

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

    def __init__(
        self,
        problem: NetworkProblem,
        sgd: SGD,
        keys: np.ndarray,
        dtype: torch.dtype,
        test: bool,
        loss: PointLoss,
        compiled: bool,
    ) -> None:
        self.problem, self.sgd, self.keys, self.loss = problem, sgd, keys, loss
        # A copy: calls change its parameters, and they are not those of other threads.
        network = copy.deepcopy(problem.network)._apply(lambda t: _placed(t, problem.device, dtype))
        parameters, buffers = (
            {name: held.detach() for name, held in stacked.items()}
            for stacked in stack_module_state([network] * len(keys))
        )
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        self.buffers = buffers | {name: parameters.pop(name) for name in frozen}
        self.parameters = parameters
        self.replicates = Replicates(network, loss, problem.n_outputs)
        self.slopes = self.replicates.together if compiled else self.replicates.slopes
        data = problem.data
        self.data = tuple(
            torch.tensor(a, dtype=torch.int64 if np.issubdtype(a.dtype, np.integer) else dtype, device=problem.device)
            for a in (data.x, data.y, data.x_test, data.y_test)[: 4 if test else 2]
            if a is not None
        )
        if compiled:
            self.replicates.check_together(parameters, self.buffers, *self.data[:2])
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
        return torch.as_tensor(array, dtype=self.data[1].dtype, device=self.data[1].device)

    @with_gradients
    def advance(self, start: int, stop: int) -> None:
        x, y = self.data[:2]
        own = diagonal(self.problem, self.sgd)
        for values, batches, drawn in batch_blocks(self.sgd, self.problem.n, self.keys, start, stop, own):
            errors = self.tensor(label_errors(self.sgd, batches, start, self.keys, self.problem.n_outputs))
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
        out = observed(self.problem.quadratic, self.modelled(residual), ("moments",)) if "moments" in what else {}
        out |= {"loss": self.losses(residual, self.data[1]), "residual": residual}
        if "test_loss" in what or "test_residual" in what:
            out["test_residual"] = self.residuals(*self.data[2:])
            out["test_loss"] = self.losses(out["test_residual"], self.data[3])
        return out

    def modelled(self, residual: np.ndarray) -> np.ndarray:
        """f − y on the training points as residuals of the quadratic problem, which are others for cross-entropy."""
        known = self.problem.expansions[0]
        if known is None:
            return residual
        r = known.residuals(residual + self.problem.data.y)
        return r[..., 0] if known.outputs == 1 else r

    @np.errstate(over="ignore", invalid="ignore")  # a diverged replicate is a result
    def losses(self, residual: np.ndarray, y: torch.Tensor) -> np.ndarray:
        """Of each replicate, (R,), from its residual (R, m) or (R, m, C) on points with targets y."""
        if self.loss is squared:
            return (residual**2).sum(2).mean(1) / 2 if residual.ndim == 3 else (residual**2).mean(1) / 2
        targets = y.double().cpu()
        return self.loss(torch.from_numpy(residual) + targets, targets, residual.ndim == 3).mean(1).numpy()

    def network(self, replicate: int) -> torch.nn.Module:
        """A copy of the network as this replicate has it now."""
        network = copy.deepcopy(self.problem.network)
        own = {name: held[replicate] for name, held in (self.parameters | self.buffers).items()}
        network.load_state_dict(own, strict=False)
        return network

    def residuals(self, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
        """f − y on all of `x`, (R, m) or (R, m, C) float64, in chunks."""
        chunk = max(1, _EVALUATED // self.keys.shape[0])
        with torch.no_grad():
            parts = [
                self.replicates.outputs(self.parameters, self.buffers, x[i : i + chunk]) - y[i : i + chunk]
                for i in range(0, x.shape[0], chunk)
            ]
        return torch.cat(parts, dim=1).to(torch.float64).cpu().numpy()


class HeavyBall(Training):
    """Plain heavy ball: `velocities` beside the parameters, none without momentum."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        kept = self.parameters if has_momentum(self.sgd) else {}
        self.velocities = {name: torch.zeros_like(p) for name, p in kept.items()}
        slopes = self.slopes

        def step(
            params: Tensors,
            velocities: Tensors,
            fixed: Tensors,
            x: torch.Tensor,
            y: Targets,
            lr: torch.Tensor,
            momentum: torch.Tensor,
        ) -> None:
            gradients, _ = slopes(params, fixed, x, y)
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
        slopes = self.slopes

        def step(
            components: Tensors,
            fixed: Tensors,
            x: torch.Tensor,
            y: Targets,
            transition: torch.Tensor,
            kick: torch.Tensor,
        ) -> None:
            gradients, _ = slopes({name: held[0] for name, held in components.items()}, fixed, x, y)
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
        maps = self.problem.maps(self.sgd, start, start + values.lr.size)
        return self.tensor(maps.transition), self.tensor(self.problem.quadratic.torch_lr(1.0) * maps.kick)

    def keep_parameters(self, places: torch.Tensor) -> None:
        self.components = {name: held[:, places] for name, held in self.components.items()}
        self._read_out()


def _placed(t: torch.Tensor, device: str, dtype: torch.dtype) -> torch.Tensor:
    """`t` there, in `dtype` where it is floating point, and in its complex counterpart where complex."""
    if t.is_complex():
        return t.to(device=device, dtype=dtype.to_complex())
    return t.to(device=device, dtype=dtype if t.is_floating_point() else None)


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
