"""What every problem offers, whatever its kind: others ask for this, never for its class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT, noise_factor
from sgdsim.common.checks import InputError, number
from sgdsim.common.identity import made_once
from sgdsim.common.shown import Shown

if TYPE_CHECKING:
    import numpy as np

    from sgdsim.algorithm.maps import Maps
    from sgdsim.algorithm.sgd import SGD, StepValues
    from sgdsim.problem.cross_entropy import Expansion
    from sgdsim.problem.quadratic import QuadraticProblem

_LARGEST_RISK = 1e140  # its square root, and that of twice as much, are floats, and so is what gradients make of them


@dataclass(frozen=True)
class Population:
    """What no training removes where SGD draws new points of a population at every step, in units of the targets.

    `residual_risk`: the risk ½E e² of what no linear function of the features explains; `label_noise`: σ of the labels'
    errors. For Gaussian features both are in every gradient as independent noise of variance 2·residual_risk + σ².
    """

    residual_risk: float = 0.0
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("residual_risk", "label_noise"):
            object.__setattr__(self, name, number(name, getattr(self, name), minimum=0.0, maximum=_LARGEST_RISK))

    @property
    def floor(self) -> float:
        """The risk that is left at the optimum, `residual_risk + σ²/2`; losses are those above it."""
        return self.residual_risk + self.label_noise**2 / 2


@dataclass(frozen=True)
class Kind:
    """A kind of problem: how the command line asks for it, and how files give it back. `problem.kinds` lists all.

    `name`: the "kind" in its description, by which files know it: it stays. `source`: what asks for it, an option with
    a file, such as "--kernel", or a name for --dataset. `help`: of that option. `takes`: further options, by their
    names in the parsed arguments. `load`: the problem from these, and from "seed". `restored`: what a description says
    of a problem beside its arrays, as arguments of `QuadraticProblem` ("size": of its `Spectrum`).
    """

    name: str
    source: str
    takes: tuple[str, ...]
    load: Callable[[Mapping[str, Any]], Problem]
    help: str = ""
    restored: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda description: {}

    @property
    def option(self) -> str | None:
        """The name of its file's option in the parsed arguments; None where --dataset asks for it."""
        return self.source[2:].replace("-", "_") if self.source.startswith("--") else None


class Problem(Shown):
    """What SGD solves. A kind of problem is a subclass with `quadratic` at least: all else is by default what that has.

    Where `quadratic` takes long to make, as for a network, a kind answers the other questions without it.
    """

    quadratic: QuadraticProblem
    """The problem itself where it is quadratic, else the one that linearises it at its start."""
    device: str = "cpu"
    """Where its kernel is computed."""
    has_network: ClassVar[bool] = False
    """Whether it has a `network` to train, on `data`."""

    def facts(self) -> dict[str, object]:
        """What is shown of it in one line or a small table; nothing that takes time to make."""
        sizes = {"n": self.n, "n_outputs": self.n_outputs}
        return {"title": self.description.get("title")} | {k: v for k, v in sizes.items() if k == "n" or v != 1}

    @made_once
    def n(self) -> int:
        """Number of training points N; `math.inf`, which is no int, where there is no end of them."""
        return self.quadratic.n

    @property
    def normaliser(self) -> int:
        """N in `L = ‖r‖²/(2N)`: n, or 1 where that is infinite; the c_k are means over all points there."""
        return self.n if math.isfinite(self.n) else 1

    @property
    def n_modes(self) -> int:
        """Number of modes: N, but for a spectrum whose modes have a multiplicity."""
        return self.quadratic.spectrum.n_modes

    @property
    def has_every_eigenvalue(self) -> bool:
        """Whether each mode is one of the kernel's, with an eigenvector; no where Lanczos quadrature made them."""
        return self.quadratic.multiplicity is None

    @property
    def has_test(self) -> bool:
        """Whether it has test points."""
        return self.quadratic.test is not None

    @property
    def population(self) -> Population | None:
        """What a population has, of which every step draws new points; None: there is a fixed set of points."""
        return None

    @property
    def n_outputs(self) -> int:
        """Number of outputs C, each with a target for every point; a mini-batch takes points with all of them."""
        return self.quadratic.n_outputs

    @property
    def share(self) -> float:
        """Of a point's noise, what a mode gets of it: 1, or 1/C where each of NC modes is of all outputs together."""
        return self.quadratic.share

    def values(self, sgd: SGD, start: int, stop: int, checked: bool = True) -> StepValues:
        """`sgd.values` for this problem's points, with γ as its modes see it."""
        found = sgd.values(self.n, start, stop, checked)
        return found if self.share == 1 else found._replace(noise=found.noise * self.share)

    def maps(self, sgd: SGD, start: int, stop: int) -> Maps:
        """`sgd.maps` for this problem, by whose largest curvature weight decay is measured."""
        return sgd.maps(start, stop, self.quadratic.torch_lr(1.0))

    def pull(self, sgd: SGD) -> float:
        """Weight decay in units of the largest curvature, `ωN/λ_max(Θ)`."""
        return sgd.pull(self.quadratic.torch_lr(1.0))

    def quadratic_for(self, sgd: SGD) -> QuadraticProblem:
        """`quadratic` with all that `sgd` needs of it: with weight decay its `origin`, where one is known."""
        return self.quadratic

    def noise(self, sgd: SGD) -> float:
        """γ of the first step, as the modes see it: `sgd.noise(N)` times `share`."""
        return sgd.noise(self.n) * self.share

    def noise_factor(self, batch_size: np.ndarray | int, sampling: str = WITHOUT_REPLACEMENT) -> np.ndarray:
        """`algorithm.samplers.noise_factor` of N points, as the modes see it."""
        return noise_factor(self.n, batch_size, sampling) * self.share

    def label_source(self, sgd: SGD, batch_size: np.ndarray) -> np.ndarray:
        """What noisy labels add to the noise of a gradient, over λ_k² in mode k: of a kernel that outputs share, that
        of all of them."""
        return sgd.label_source(self.normaliser, batch_size) * self.quadratic.n_outputs * self.quadratic.share

    def with_errors(self, sgd: SGD) -> SGD:
        """`sgd` as it sees this problem's labels: with the noise that a population has beside its own."""
        if self.population is None or not self.population.floor:
            return sgd
        return replace(sgd, label_noise=math.hypot(sgd.label_noise, math.sqrt(2 * self.population.floor)))

    def check_without_errors(self, what: str) -> None:
        """InputError where a population's noise is in every gradient, for `what` knows of none."""
        if self.population is not None and self.population.floor:
            raise InputError(
                f"{what}: expected a problem without noise of its own, got a population with residual risk or label "
                "noise; follow it in the diagonal or the sampled regime"
            )

    @made_once
    def description(self) -> dict[str, Any]:
        """JSON-able facts that say how it was made."""
        return self.quadratic.description

    @made_once
    def fingerprint(self) -> str:
        """SHA-256 over all that a result depends on."""
        return self.quadratic.fingerprint

    @property
    def targets(self) -> np.ndarray | None:
        """What the network learns, (n,) or (n, C); None without a network."""
        return None

    @property
    def test_targets(self) -> np.ndarray | None:
        """The same of the test points; None without any."""
        return None

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters; 0 without a network."""
        return 0

    @property
    def loss(self) -> str:
        """The loss that SGD descends: "squared", or "cross-entropy", of which `quadratic` is the model at the start."""
        return self.quadratic.loss

    @property
    def expansions(self) -> tuple[Expansion | None, Expansion | None]:
        """Of cross-entropy, each training and test point's to second order in its outputs; None where not known."""
        return None, None

    @property
    def loss_offset(self) -> float:
        """What the losses that runs show have beside `‖r‖²/(2N)`: that of a quadratic model, else 0."""
        return 0.0 if self.loss == "squared" else self.quadratic.loss_offset

    def check_squared(self, what: str) -> None:
        """InputError where its losses are those of a quadratic model of another loss, for `what` takes logarithms or
        ratios of them, and the model's may be negative."""
        if self.loss != "squared":
            raise InputError(
                f"{what}: expected a problem of the squared loss, got the quadratic model of {self.loss}, whose losses "
                f"count from {self.loss_offset:.4g} and hold for a while only; use compare or recommend"
            )

    def check_unchanged(self) -> None:
        """InputError where it is not what it was when it was made."""
