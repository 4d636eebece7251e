"""A user's own kernel and residual, read from .npz, .npy, .csv or torch files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sgdsim.common.array_files import read_arrays
from sgdsim.common.checks import InputError, array
from sgdsim.datasets import tables
from sgdsim.problem.quadratic import QuadraticProblem

_TEXT = (".csv", ".gz")


def load_kernel(
    path: str | os.PathLike, *, residual: str | os.PathLike | None = None, targets: str | os.PathLike | None = None
) -> QuadraticProblem:
    """The problem of a kernel Θ (n, n) with an initial residual `r_0`, or targets y (then `r_0 = −y`); of C outputs
    with residuals (n, C) and kernels as `QuadraticProblem.from_kernel` takes them.

    Parameters
    ----------
    path : `.npz` or a torch file (`.pt`, `.pth`; read with `weights_only=True`) holding `kernel` and `residual` or
        `targets`, and, for test losses, `cross_kernel` (m, n) with `test_residual` or `test_targets` (m,); or `.npy`
        or `.csv` holding the kernel alone.
    residual, targets : `.npy` or `.csv` files (n,) or (n, C), instead of what `path` holds.

    Raises
    ------
    InputError : unreadable files, missing arrays, wrong shapes, or what `QuadraticProblem.from_kernel` refuses.
    """
    path = Path(path)
    arrays = _read(path)
    if residual is not None and targets is not None:
        raise InputError("kernel: expected either a residual or targets, got both")
    if path in (Path(given) for given in (residual, targets) if given is not None):
        raise InputError(f"{path}: expected another file for the residual or targets than that of the kernel")
    if residual is not None or targets is not None:
        arrays = {k: v for k, v in arrays.items() if k not in ("residual", "targets")}
        given = (("residual", residual), ("targets", targets))
        key, file = next((key, file) for key, file in given if file is not None)
        if Path(file).suffix not in (".npy", *_TEXT):
            raise InputError(
                f"{file}: expected a .npy or .csv file of the {key}, got {Path(file).suffix or 'no ending'}"
            )
        arrays[key] = _read(Path(file))["kernel"]
    if "kernel" not in arrays or not arrays.keys() & {"residual", "targets"}:
        raise InputError(
            f"{path}: expected arrays 'kernel' and 'residual' (or 'targets'; else --residual or --targets FILE), "
            f"got {', '.join(sorted(arrays)) or 'none'}"
        )
    for prefix in ("", "test_"):
        if {f"{prefix}residual", f"{prefix}targets"} <= arrays.keys():
            raise InputError(f"{path}: expected either {prefix}residual or {prefix}targets, got both")
    extra = {}
    if "cross_kernel" in arrays:
        extra["cross_kernel"] = arrays["cross_kernel"]
    if "test_residual" in arrays or "test_targets" in arrays:
        extra["test_residual"] = (
            arrays["test_residual"] if "test_residual" in arrays else -_numbers("targets", arrays["test_targets"])
        )
    start = arrays["residual"] if "residual" in arrays else -_numbers("targets", arrays["targets"])
    n = len(np.atleast_1d(start))  # a single number is refused next
    description = {"kind": "kernel", "title": f"{path.name}, N = {n}", "n": n, "file": path.name}
    return QuadraticProblem.from_kernel(arrays["kernel"], start, description=description, **extra)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; of one without names it is "kernel"."""
    if path.suffix in _TEXT and path.is_file():
        return {"kernel": tables.read_matrix(path)}
    return read_arrays(path)


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    """Finite numbers, (n,) or (n, C)."""
    return array(name, values, ndim=2 if np.ndim(values) == 2 else 1)
