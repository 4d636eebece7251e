"""A real network on real data, and the quadratic problem that linearises it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sgdsim.common.checks import InputError, freeze
from sgdsim.common.identity import digest, made_once
from sgdsim.problem.base import Problem
from sgdsim.problem.quadratic import QuadraticProblem

if TYPE_CHECKING:
    from torch import nn

    from sgdsim.algorithm.sgd import SGD
    from sgdsim.datasets import Dataset


class NetworkProblem(Problem):
    """A real network on real data, with the quadratic problem that linearises it at its present parameters.

    Parameters
    ----------
    network : any `torch.nn.Module` with as many outputs per input as the data have targets. It is copied; what happens
        to the original later does not matter. A lazy one gets its parameters here, by torch's seed as it is now.
    data : training (and test) inputs and targets. The network gets inputs in the shape of `data.x`.
    output : of a network that gives a dict, a tuple or the like: the key or the index of the outputs.
    device : where kernel and training run: "cpu", "cuda" or "auto".

    Raises
    ------
    InputError : no module, no trainable parameters, dropout or batch norm in training mode, a network that is random or
        mixes the inputs of a batch (see `sgdsim.networks.ntk.functions.function_of`), inputs or targets that do not
        fit.
    """

    has_network: ClassVar[bool] = True
    has_every_eigenvalue: ClassVar[bool] = True

    def __init__(
        self, network: nn.Module, data: Dataset, *, output: str | int | None = None, device: str = "auto"
    ) -> None:
        from sgdsim.common import devices
        from sgdsim.networks.ntk.functions import settled

        self.device, self.data, self.output = devices.resolve(device), data, output
        self.network, n_outputs = settled(network, data.x, output)
        if n_outputs != self.n_outputs:
            wanted = "one output" if self.n_outputs == 1 else f"{self.n_outputs} outputs"
            raise InputError(f"network: expected {wanted} per input, as many as targets, got {n_outputs}")
        self._given = self._digest()

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
        """Number of modes of the kernel over all outputs, NC."""
        return self.n * self.n_outputs

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
        return {"kind": "network", "title": title, "network": network, "data": self.data.info}

    @made_once
    def quadratic(self) -> QuadraticProblem:
        """The linearised problem: empirical NTK, residual at the start, test points where the data have some."""
        from sgdsim.networks import ntk

        f, f_test = self.initial_outputs
        which = "full" if self.data.y.ndim == 2 else "trace"
        theta = ntk.empirical_ntk(self.network, self.data.x, output=which, device=self.device)
        cross = None
        if f_test is not None and self.data.x_test is not None:
            cross = ntk.empirical_ntk(self.network, self.data.x_test, self.data.x, output=which, device=self.device)
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

        (f, f_test), data = self.initial_outputs, self.data
        origin, test_origin = f - ntk.along_parameters(self.network, data.x, device=self.device) - data.y, None
        if f_test is not None and data.x_test is not None:
            test_origin = f_test - ntk.along_parameters(self.network, data.x_test, device=self.device) - data.y_test
        return self.quadratic.with_origin(origin, test_origin)

    @made_once
    def initial_outputs(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Outputs of the network before training, in float64, on training and test inputs (None without): (n,) and (m,)
        of one output, (n, C) and (m, C) of several."""
        from sgdsim.networks import ntk

        test = self.data.x_test
        return freeze(ntk.evaluate(self.network, self.data.x, self.device)), (
            None if test is None else freeze(ntk.evaluate(self.network, test, self.device))
        )

    @made_once
    def fingerprint(self) -> str:
        """SHA-256 over the network (its code as far as Python shows it, parameters, buffers, outputs), the data and the
        linearised problem."""
        data = self.data
        return digest(
            "network", self._given, data.x, data.y, data.x_test, data.y_test, *self.initial_outputs,
            self.quadratic.fingerprint,
        )  # fmt: skip
