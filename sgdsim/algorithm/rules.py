"""Gradient rules: methods that are not linear in the gradient, and so step on parameters instead of on moments.

A rule is written once, as pure functions of tensors: the real network follows it on its own parameters, the sampled
regime on those of the linearised network. There are no closed moments and no theory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sgdsim.common.checks import InputError, number
from sgdsim.common.specs import Spec

if TYPE_CHECKING:
    import torch


class GradientRule(Spec, ABC):
    """What a rule says of itself, and its step. A row holds all parameters of a replicate; there are R replicates."""

    memory: ClassVar[int]
    """How many vectors of the parameters' size it keeps."""
    lr_means: ClassVar[str]
    """What `SGD.lr` is to it, after "The lr of … is"."""
    torch_lr_per_alpha: ClassVar[float | None]
    """The learning rate of torch's optimizer that lr 1 stands for; None: torch has no such optimizer."""
    uses_momentum: ClassVar[bool] = False
    is_stationary: ClassVar[bool] = False
    weight_decay: float = 0.0
    """Decoupled: the parameters are multiplied by `1 − lr·weight_decay` before each step."""

    def init(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What it keeps before the first step, `memory` tensors like parameters (R, P): zeros by default."""
        return tuple(parameters.new_zeros(parameters.shape) for _ in range(self.memory))

    @abstractmethod
    def update(
        self,
        parameters: torch.Tensor,
        kept: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        loss: torch.Tensor,
        step: int,
        lr: float,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Parameters (R, P) and what is kept after a step; the arguments stay as they are.

        gradient (R, P) and loss (R,) are those of the mini-batch loss `½·mean((f − y)²)`; step = 0, 1, ….
        """


@dataclass(frozen=True)
class Adam(GradientRule):
    """Adam (Kingma & Ba, arXiv:1412.6980), as `torch.optim.Adam`; `SGD.lr` is then its own learning rate, a step of
    each parameter, not in units of 1/λ_max. Its steps depend on the coordinates in which the parameters are written.
    """

    name: ClassVar[str] = "adam"
    memory: ClassVar[int] = 2
    lr_means: ClassVar[str] = "torch.optim.Adam's"
    torch_lr_per_alpha: ClassVar[float | None] = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for field in ("beta1", "beta2"):
            value = number(f"{self.name}: {field}", getattr(self, field), minimum=0.0)
            if value >= 1:
                raise InputError(f"{self.name}: {field}: expected a number below 1, got {value:g}")
        if number(f"{self.name}: eps", self.eps) <= 0:
            raise InputError(f"{self.name}: eps: expected a number > 0, got {self.eps}")

    def update(
        self,
        parameters: torch.Tensor,
        kept: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        loss: torch.Tensor,
        step: int,
        lr: float,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        first = kept[0].lerp(gradient, 1 - self.beta1)
        second = (kept[1] * self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        scale = (second / (1 - self.beta2 ** (step + 1))).sqrt_().add_(self.eps)
        return parameters.addcdiv(first, scale, value=-lr / (1 - self.beta1 ** (step + 1))), (first, second)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101), as `torch.optim.AdamW`: parameters
    shrink by `1 − lr·weight_decay` before each of Adam's steps, towards 0 also in the linearised network.

    Parameters
    ----------
    weight_decay : ≥ 0, torch's default otherwise.
    """

    name: ClassVar[str] = "adamw"
    lr_means: ClassVar[str] = "torch.optim.AdamW's"
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        number("adamw: weight_decay", self.weight_decay, minimum=0.0)


@dataclass(frozen=True)
class Polyak(GradientRule):
    """Stochastic Polyak steps (Loizou et al., arXiv:2002.10542): `w ← w − η∇f_B` with `η = lr·(f_B − floor)/‖∇f_B‖²`,
    where f_B = ½·mean((f − y)²) over the batch. `SGD.lr` is the factor: 1 is Polyak's step, 2 is best for the distance
    to the optimum where the problem is quadratic and the batch can be fitted (η = 2f_B/‖∇f_B‖² there).

    Parameters
    ----------
    floor : f*, a lower bound of the batch losses ≥ 0. A batch at or below it, or without gradient, takes no step.
    maximum : of η, > 0: for batches that cannot be fitted, where η grows without bound as ∇f_B vanishes.
    """

    name: ClassVar[str] = "polyak"
    memory: ClassVar[int] = 0
    lr_means: ClassVar[str] = "the factor of Polyak's step"
    torch_lr_per_alpha: ClassVar[float | None] = None
    floor: float = 0.0
    maximum: float = 1e15

    def __post_init__(self) -> None:
        number("polyak: floor", self.floor, minimum=0.0)
        if number("polyak: maximum", self.maximum) <= 0:
            raise InputError(f"polyak: maximum: expected a number > 0, got {self.maximum}")

    def update(
        self,
        parameters: torch.Tensor,
        kept: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        loss: torch.Tensor,
        step: int,
        lr: float,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        excess, square = (loss - self.floor).clamp_min(0.0), gradient.square().sum(1)
        eta = (lr * excess / square).clamp_max(self.maximum)
        eta[square == 0] = 0.0  # also where the square of a tiny gradient is no float
        return parameters.addcmul(gradient, eta[:, None], value=-1.0), kept


RULES: dict[str, type[GradientRule]] = {kind.name: kind for kind in (Adam, AdamW, Polyak)}
