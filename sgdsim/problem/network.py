"""A real network on real data, and the quadratic problem that linearises it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sgdsim.common.checks import InputError, freeze
from sgdsim.common.identity import digest, made_once
from sgdsim.problem.base import Problem
from sgdsim.problem.quadratic import QuadraticProblem

if TYPE_CHECKING:
    from torch import nn

    from sgdsim.datasets import Dataset


class NetworkProblem(Problem):
    """A real network on real data, with the quadratic problem that linearises it at its present parameters.

    Parameters
    ----------
    network : any `torch.nn.Module` with one output per input. It is copied; what happens to the original later does
        not matter.
    data : training (and test) inputs and targets. The network gets inputs as (n, d); one that wants images reshapes
        them itself (`torch.nn.Unflatten`).
    device : where kernel and training run: "cpu", "cuda" or "auto".

    Raises
    ------
    InputError : no module, no trainable parameters, dropout or batch norm in training mode, inputs that do not fit.
    """

    has_network: ClassVar[bool] = True
    has_every_eigenvalue: ClassVar[bool] = True

    def __init__(self, network: nn.Module, data: Dataset, *, device: str = "auto") -> None:
        from sgdsim import networks
        from sgdsim.common import devices
        from sgdsim.networks import ntk

        ntk.check_module(network)
        self.device = devices.resolve(device)
        self.network = copy.deepcopy(network)
        self.data = data
        if isinstance(self.network, networks.MLP):
            self.network.build(data.d)
        self._given = digest(self.network)

    def check_unchanged(self) -> None:
        """InputError where `network` is not what was given any more: its linearisation would be another's."""
        if digest(self.network) != self._given:
            raise InputError(
                "network: expected the parameters and attributes that it had when this NetworkProblem was made, got "
                "others; make a new NetworkProblem of the changed network"
            )

    @property
    def n(self) -> int:
        """Number of training points N."""
        return self.data.n

    n_modes = n

    @property
    def has_test(self) -> bool:
        """Whether the data have test points."""
        return self.data.x_test is not None

    @property
    def targets(self) -> np.ndarray:
        """The data's targets, (n,)."""
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
        describe = getattr(self.network, "describe", None)
        network = describe() if describe else {"kind": type(self.network).__name__}
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

    @made_once
    def initial_outputs(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Outputs of the network before training, in float64, on training and test inputs: (n,), and (m,) or None."""
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
