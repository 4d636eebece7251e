"""What every problem offers, whatever its kind: others ask for this, never for its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sgdsim.common.identity import made_once

if TYPE_CHECKING:
    import numpy as np

    from sgdsim.problem.quadratic import QuadraticProblem


class Problem:
    """What SGD solves. A kind of problem is a subclass with `quadratic` at least: all else is by default what that has.

    Where `quadratic` takes long to make, as for a network, a kind answers the other questions without it.
    """

    quadratic: QuadraticProblem
    """The problem itself where it is quadratic, else the one that linearises it at its start."""
    device: str = "cpu"
    """Where its kernel is computed."""
    has_network: ClassVar[bool] = False
    """Whether it has a `network` to train, on `data`."""

    @made_once
    def n(self) -> int:
        """Number of training points N."""
        return self.quadratic.n

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
        """What the network learns, (n,); None without a network."""
        return None

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters; 0 without a network."""
        return 0

    def check_unchanged(self) -> None:
        """InputError where it is not what it was when it was made."""
