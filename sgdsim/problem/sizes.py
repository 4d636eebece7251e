"""What a network and a kernel take in memory, refused before they are made.

The multiples are those of the process's measured peak, at widths 3000 to 100 000 of one or two layers, N = 20 to 4000.
"""

from __future__ import annotations

from sgdsim.common import memory

_NETWORK = 5.5  # times its parameters, with its copies and one pass for the kernel; 4 to make the problem alone
_KERNEL = 5.0  # matrices of N × N: it, its eigenvectors, and what LAPACK works in
_MODULE = 2000.0  # bytes of a layer beside its parameters
_NO_WIDTH = 2**31  # the network itself says which widths there are


def require_mlp(n_inputs: int, width: int, depth: int, n_outputs: int) -> None:
    """InputError if there is no memory for the problem of a `networks.MLP` with its kernel's working space."""
    if width >= _NO_WIDTH:
        return
    into = width if depth else n_inputs
    parameters = float(n_outputs) * into + (width * (n_inputs + 1.0) + (depth - 1) * width * (width + 1.0)) * (
        depth > 0
    )
    needed = 8.0 * _NETWORK * parameters + depth * _MODULE
    what = f"a network of {parameters:.3g} parameters and work on it"
    memory.require(what, needed, "take a smaller --width or --depth")


def require_kernel(n_modes: float, n_test: float = 0.0) -> None:
    """InputError if there is no memory for the kernel of so many modes, and of as many test points, and its
    decomposition."""
    needed = 8.0 * n_modes * (_KERNEL * n_modes + n_test)
    memory.require("a kernel and its eigenvectors", needed, "take a smaller --n")
