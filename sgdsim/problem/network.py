"""A real network on real data, and the quadratic problem that linearises it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from sgdsim.common.checks import InputError, choice, freeze
from sgdsim.common.identity import digest, made_once
from sgdsim.problem import cross_entropy
from sgdsim.problem.base import Problem
from sgdsim.problem.cross_entropy import Expansion
from sgdsim.problem.quadratic import QuadraticProblem

if TYPE_CHECKING:
    from torch import nn

    from sgdsim.algorithm.sgd import SGD
    from sgdsim.datasets import Dataset

LOSSES = ("squared", "cross-entropy")


class NetworkProblem(Problem):
    """A real network on real data, with the quadratic problem that linearises it at its present parameters.

    Parameters
    ----------
    network : any `torch.nn.Module` with as many outputs per input as the data have targets. It is copied; what happens
        to the original later does not matter. A lazy one gets its parameters here, by torch's seed as it is now.
    data : training (and test) inputs and targets. The network gets inputs in the shape of `data.x`.
    loss : "squared", or "cross-entropy" for targets that are one-hot (of a softmax) or ±1 (logistic): `quadratic` is
        then its quadratic model at the start (module `cross_entropy`), and α in units of that one's curvature.
    output : of a network that gives a dict, a tuple or the like: the key or the index of the outputs.
    dtype : "float64" or "float32", in which the network's outputs and its kernel are computed; all that follows is
        float64. For modules that compute in float32 throughout; the kernel then has 6 to 7 digits.
    device : where kernel and training run: "cpu", "cuda" or "auto".

    Raises
    ------
    InputError : no module, no trainable parameters, dropout or batch norm in training mode, a network that is random or
        mixes the inputs of a batch (see `sgdsim.networks.ntk.functions.function_of`), inputs or targets that do not
        fit, or are no classes for cross-entropy.
    """

    has_network: ClassVar[bool] = True
    has_every_eigenvalue: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        data: Dataset,
        *,
        output: str | int | None = None,
        dtype: str = "float64",
        device: str = "auto",
        loss: str = "squared",
    ) -> None:
        from sgdsim.common import devices
        from sgdsim.networks.ntk.functions import settled

        self.dtype = choice("dtype", dtype, ("float64", "float32"))
        self.device, self.data, self.output = devices.resolve(device), data, output
        self.network, n_outputs = settled(network, data.x, output, self.dtype)
        if n_outputs != self.n_outputs:
            wanted = "one output" if self.n_outputs == 1 else f"{self.n_outputs} outputs"
            raise InputError(f"network: expected {wanted} per input, as many as targets, got {n_outputs}")
        self._loss = choice("loss", loss, LOSSES)
        if self._loss != "squared":
            cross_entropy.check_classes(f"loss: {loss}", data.y)
        self._given = self._digest()

    def facts(self) -> dict[str, object]:
        """Title and sizes, the network's class, and where it is computed."""
        test = {} if self.data.x_test is None else {"n_test": len(self.data.x_test)}
        return {
            **super().facts(),
            **test,
            "n_parameters": self.n_parameters,
            "network": type(self.network).__name__,
            "device": self.device,
        }

    def _digest(self) -> str:
        return digest(self.network) if self.output is None else digest(self.network, self.output)

    def check_unchanged(self) -> None:
        """InputError where `network` is not what was given any more: its linearisation would be another's."""
        if self._digest() != self._given:
            raise InputError(
                "network: expected the parameters and attributes that it had when this NetworkProblem was made, got "
                "others; make a new NetworkProblem of the changed network"
            )

    @property
    def n(self) -> int:
        """Number of training points N."""
        return self.data.n

    @property
    def n_modes(self) -> int:
        """Number of modes of the kernel over all outputs, NC; N(C − 1) with cross-entropy of a softmax."""
        return self.n * (self.n_outputs - (self.loss != "squared" and self.n_outputs > 1))

    @property
    def loss(self) -> str:
        """ "squared" or "cross-entropy"."""
        return self._loss

    @property
    def has_test(self) -> bool:
        """Whether the data have test points."""
        return self.data.x_test is not None

    @property
    def targets(self) -> np.ndarray:
        """The data's targets, (n,) or (n, C)."""
        return self.data.y

    @property
    def test_targets(self) -> np.ndarray | None:
        """The same of the test points, (m,) or (m, C); None without any."""
        return self.data.y_test

    @property
    def n_outputs(self) -> int:
        """Number of outputs C."""
        return 1 if self.data.y.ndim == 1 else self.data.y.shape[1]

    @property
    def kernel_output(self) -> Literal["trace", "full"]:
        """What `networks.ntk.empirical_ntk` is asked for: the kernel over all outputs, (N, N, C, C), of several."""
        return "full" if self.data.y.ndim == 2 else "trace"

    @property
    def n_parameters(self) -> int:
        """Number of the network's trainable parameters."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)

    @property
    def description(self) -> dict[str, Any]:
        """JSON-able facts: the network and the data."""
        from sgdsim.networks import described

        network = described(self.network)
        title = f"{self.data.name}, N = {self.n}"
        if "width" in network:
            title += f", width {network['width']}"
        facts = {"kind": "network", "title": title, "network": network, "data": self.data.info}
        return facts if self.loss == "squared" else facts | {"title": f"{title}, {self.loss}", "loss": self.loss}

    @made_once
    def quadratic(self) -> QuadraticProblem:
        """The linearised problem: empirical NTK, residual at the start, test points where the data have some; of
        cross-entropy its quadratic model at the start."""
        from sgdsim.networks import ntk

        f, f_test = self.initial_outputs
        kernel = functools.partial(
            ntk.empirical_ntk, self.network, output=self.kernel_output, device=self.device, dtype=self.dtype
        )
        theta, cross = kernel(self.data.x), None
        if f_test is not None and self.data.x_test is not None:
            cross = kernel(self.data.x_test, self.data.x)
        train, test = self.expansions
        if train is not None:
            description = self.description
            return cross_entropy.quadratic(theta, train, cross_kernel=cross, test=test, description=description)
        return QuadraticProblem.from_kernel(
            theta,
            f - self.data.y,
            cross_kernel=cross,
            test_residual=None if f_test is None else f_test - self.data.y_test,
            description=self.description,
        )

    def quadratic_for(self, sgd: SGD) -> QuadraticProblem:
        """`quadratic`; with weight decay, which pulls parameters to 0, knowing the linearised network there."""
        return self.quadratic_at_zero if sgd.weight_decay else self.quadratic

    @made_once
    def quadratic_at_zero(self) -> QuadraticProblem:
        """`quadratic` with its `origin`, the residual `f_0 − J w_0 − y` of the linearised network at parameters 0."""
        from sgdsim.networks import ntk

        if self.loss != "squared":
            raise InputError(
                f"weight_decay: expected 0 with {self.loss} in the linearised regimes, whose model is at the start; "
                "take the network regime alone"
            )
        (f, f_test), data = self.initial_outputs, self.data
        along = functools.partial(ntk.along_parameters, self.network, device=self.device, dtype=self.dtype)
        origin, test_origin = f - along(data.x) - data.y, None
        if f_test is not None and data.x_test is not None:
            test_origin = f_test - along(data.x_test) - data.y_test
        return self.quadratic.with_origin(origin, test_origin)

    @made_once
    def initial_outputs(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Outputs of the network before training, in float64, on training and test inputs (None without): (n,) and (m,)
        of one output, (n, C) and (m, C) of several."""
        from sgdsim.networks import ntk

        test = self.data.x_test
        return freeze(ntk.evaluate(self.network, self.data.x, self.device, self.dtype)), (
            None if test is None else freeze(ntk.evaluate(self.network, test, self.device, self.dtype))
        )

    @made_once
    def expansions(self) -> tuple[Expansion | None, Expansion | None]:
        """Cross-entropy to second order in the outputs, on training and test points (None without); None of squares."""
        if self.loss == "squared":
            return None, None
        f, f_test = self.initial_outputs
        test = None if f_test is None or self.data.y_test is None else Expansion(f_test, self.data.y_test)
        return Expansion(f, self.data.y), test

    @made_once
    def fingerprint(self) -> str:
        """SHA-256 over the network (its code as far as Python shows it, parameters, buffers, outputs), the data and the
        linearised problem."""
        data = self.data
        return digest(
            "network", self._given, data.x, data.y, data.x_test, data.y_test, *self.initial_outputs,
            self.quadratic.fingerprint, *(() if self.loss == "squared" else ("loss", self.loss)),
        )  # fmt: skip
