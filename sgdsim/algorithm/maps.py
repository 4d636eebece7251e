"""What a linear method is: the steps of its components, where they begin, and what of them is read.

A method keeps, beside the point w at which gradients are taken, some memory vectors, `ψ = (w, u_1, …, u_M)`, and takes
a step that is linear in them and in one mini-batch gradient g at w (Yarotsky & Velikanov, arXiv:2410.04228, eq. 3):
`ψ' = Aψ + k g`. Its iterate, whose losses are reported, is a fixed combination of the components. An average of the
iterates is one more component, `ω' = κω + (1 − κ)w'`, so that every regime follows it as it follows the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from sgdsim.common.checks import InputError, array

if TYPE_CHECKING:
    import torch

_Array = TypeVar("_Array", np.ndarray, "torch.Tensor")


class Maps(NamedTuple):
    """Steps of all components: `transition` A (T, m, m) and `kick` k (T, m). The gradient is taken at component 0."""

    transition: np.ndarray
    kick: np.ndarray


@runtime_checkable
class Method(Protocol):
    """What `SGD` needs of a method; any object of this form will do.

    It may also have, as tuples of M + 1 numbers, one for each component:

    - `begins`, by default (1, 0, …, 0): the multiple of the initial parameters w_0 that each begins at. A component
      that begins at w_0 and stays is a drift: `w' = (1 − αμ)w + αμ u − αg`, `u' = u` is weight decay towards the start.
      Component 0 begins at w_0, and without gradients nothing moves: `A·begins = begins`. (`SGD.weight_decay`, which
      pulls towards 0, is added to what the method says.)
    - `readout`, by default (1, 0, …, 0): the combination of the components that is the iterate; w_0 at the start.
    - `constant_lr`, by default False: whether it refuses learning rates that change in time.
    """

    @property
    def memory(self) -> int:
        """Number M of memory vectors."""

    @property
    def uses_momentum(self) -> bool:
        """Whether `SGD.momentum` means something to it."""

    @property
    def is_stationary(self) -> bool:
        """Whether A and k depend on lr and momentum alone."""

    @property
    def spec(self) -> str:
        """Its text form."""

    def maps(self, steps: np.ndarray, lr: np.ndarray, momentum: np.ndarray) -> Maps:
        """A and k at `steps`; all arguments (T,)."""
        ...


def begins(method: Method) -> np.ndarray:
    """The multiple of w_0 that each component begins at, (M + 1,). InputError unless component 0 begins at w_0."""
    multiples = _of_components(method, "begins")
    if multiples[0] != 1:
        raise InputError(f"method: expected component 0 to begin at 1 times w_0, got {multiples[0]:g}")
    return multiples


def readout(method: Method) -> np.ndarray:
    """The weights of the components in the iterate, (M + 1,). InputError unless it begins at w_0."""
    weights = _of_components(method, "readout")
    if not np.isclose(weights @ begins(method), 1.0, rtol=1e-12):
        raise InputError(f"method: expected a readout that is w_0 at the start, got {weights.tolist()}")
    return weights


def check_still(maps: Maps, multiples: np.ndarray) -> None:
    """InputError unless `maps` leave what `begins` says, (m,), where it is as long as no gradients come."""
    moved = (maps.transition.reshape(-1, multiples.size) @ multiples).reshape(-1, multiples.size) - multiples
    if not (np.abs(moved) <= 1e-9).all():
        raise InputError("method: expected maps that move nothing without gradients (A·begins = begins), got others")


def _of_components(method: Method, name: str) -> np.ndarray:
    values = getattr(method, name, None)
    return (
        np.eye(1 + method.memory)[0]
        if values is None
        else array(f"method: {name}", values, ndim=1, shape=(1 + method.memory,))
    )


def is_first(weights: np.ndarray) -> bool:
    """Whether these weights of components are those of component 0 alone."""
    return bool(weights[0] == 1 and not weights[1:].any())


def read(weights: np.ndarray, components: _Array) -> _Array:
    """`Σ_i weights_i components[i]` of an array or tensor (m, …); a component that is all is handed out itself."""
    first, *others = np.flatnonzero(weights).tolist()
    total = components[first] if weights[first] == 1 else float(weights[first]) * components[first]
    for at in others:
        total = total + float(weights[at]) * components[at]
    return total


def read_second(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """`Σ_ij weights_i weights_j moments[…, i, j]` of second moments (…, m, m)."""
    rows = read(weights, np.moveaxis(moments, -1, 0))
    return read(weights, np.moveaxis(rows, -1, 0))


def pull(weight_decay: float, torch_lr: float | None) -> float:
    """Weight decay in units of the curvature; InputError where there is some and no scale to measure it by."""
    if weight_decay and torch_lr is None:
        raise InputError(
            f"weight_decay: expected 0, as this is not known with it, got {weight_decay:g}; the regimes follow it, and "
            "sgdsim.theory.weight_decay says what is known"
        )
    return weight_decay * (torch_lr or 0.0)


def with_weight_decay(maps: Maps, pull: float) -> Maps:
    """`maps` where gradients have `pull` times the point at which they are taken added to them, before all else."""
    transition = maps.transition.copy()
    transition[:, :, 0] += pull * maps.kick
    return Maps(transition, maps.kick)


def with_origin(maps: Maps, multiples: np.ndarray) -> Maps:
    """`maps` of what components are as functions, J times them and `multiples` (m,) of the residual r_o of the model
    with all parameters at 0, from those of the parameters: with r_o as one more component, which stays.

    Where parameters move by A, functions move by A and (multiples − A·multiples) r_o: none without weight decay.
    """
    steps, m = maps.kick.shape
    transition, kick = np.zeros((steps, m + 1, m + 1)), np.zeros((steps, m + 1))
    transition[:, :m, :m], kick[:, :m] = maps.transition, maps.kick
    transition[:, :m, m] = multiples - maps.transition @ multiples
    transition[:, m, m] = 1.0
    return Maps(transition, kick)


def with_average(maps: Maps, seen: np.ndarray, weights: np.ndarray) -> Maps:
    """`maps` with one more component, the average of the iterates, which `seen` (m,) reads from the others; `weights`
    (T,) of the old average in each step."""
    steps, m = maps.kick.shape
    transition, kick = np.zeros((steps, m + 1, m + 1)), np.zeros((steps, m + 1))
    transition[:, :m, :m], kick[:, :m] = maps.transition, maps.kick
    share = 1 - weights
    transition[:, m, :m] = share[:, None] * read(seen, maps.transition.swapaxes(0, 1))
    transition[:, m, m] = weights
    kick[:, m] = share * read(seen, maps.kick.T)
    return Maps(transition, kick)
