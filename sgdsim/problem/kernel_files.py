"""A user's own kernel and residual, read from .npz, .npy or torch files."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sgdsim.common.checks import InputError, array
from sgdsim.problem import QuadraticProblem

_ZIP_END = b"PK\x05\x06"  # begins the record at the end of a zip file; its number of members stands 10 bytes on
_IN_ZIP64 = 0xFFFF  # that number where there are more


def load_kernel(
    path: str | os.PathLike, *, residual: str | os.PathLike | None = None, targets: str | os.PathLike | None = None
) -> QuadraticProblem:
    """The problem of a kernel Θ (n, n) with an initial residual `r_0`, or targets y (then `r_0 = −y`).

    Parameters
    ----------
    path : `.npz` or a torch file (`.pt`, `.pth`; read with `weights_only=True`) holding `kernel` and `residual` or
        `targets`, and, for test losses, `cross_kernel` (m, n) with `test_residual` or `test_targets` (m,); or `.npy`
        holding the kernel alone.
    residual, targets : `.npy` files (n,), instead of what `path` holds.

    Raises
    ------
    InputError : unreadable files, missing arrays, wrong shapes, or what `QuadraticProblem.from_kernel` refuses.
    """
    path = Path(path)
    arrays = _read(path)
    if residual is not None and targets is not None:
        raise InputError("kernel: expected either a residual or targets, got both")
    if residual is not None or targets is not None:
        arrays = {k: v for k, v in arrays.items() if k not in ("residual", "targets")}
        given = (("residual", residual), ("targets", targets))
        key, file = next((key, file) for key, file in given if file is not None)
        if Path(file).suffix != ".npy":
            raise InputError(f"{file}: expected a .npy file for the {key}, got {Path(file).suffix or 'no ending'}")
        arrays[key] = _read(Path(file))["kernel"]
    if "kernel" not in arrays or not arrays.keys() & {"residual", "targets"}:
        raise InputError(
            f"{path}: expected arrays 'kernel' and 'residual' (or 'targets'; for .npy, --residual or --targets FILE), "
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
            arrays["test_residual"] if "test_residual" in arrays else -array("targets", arrays["test_targets"], ndim=1)
        )
    start = arrays["residual"] if "residual" in arrays else -array("targets", arrays["targets"], ndim=1)
    n = np.size(start)
    description = {"kind": "kernel", "title": f"{path.name}, N = {n}", "n": n, "file": path.name}
    return QuadraticProblem.from_kernel(arrays["kernel"], start, description=description, **extra)


def _read(path: Path) -> dict[str, Any]:
    """The arrays of a file by name; the one array of a .npy file is called "kernel"."""
    if not path.is_file():
        raise InputError(f"{path}: expected a kernel file, found none")
    try:
        if path.suffix == ".npz":
            _check_archive(path)  # NumPy itself would take a .npy file of that name
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if path.suffix == ".npy":
            with open(path, "rb") as stream:
                kernel = np.lib.format.read_array(stream, allow_pickle=False)
                if stream.read(1):  # a header that ends too early moves all numbers
                    raise InputError(f"{path}: expected a .npy file that ends with its array, got more after it")
                return {"kernel": kernel}
        if path.suffix in (".pt", ".pth"):
            return _read_torch(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes NumPy, zlib and torch raise almost anything
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise InputError(f"{path}: expected a readable {path.suffix} file of plain arrays, got: {reason}") from error
    raise InputError(f"{path}: expected a .npz, .npy, .pt or .pth file, got {path.suffix or 'no ending'}")


def _check_archive(path: Path) -> None:
    """Refuse a zip archive with a member that does not fit its checksum, or with fewer of them than its end says."""
    with zipfile.ZipFile(path) as packed:
        damaged, n_members = packed.testzip(), len(packed.infolist())
    if damaged is not None:
        raise InputError(f"{path}: expected an intact file, got one whose {damaged} is damaged")
    content = path.read_bytes()
    (promised,) = struct.unpack_from("<H", content, content.rfind(_ZIP_END) + 10)
    if n_members != promised and promised != _IN_ZIP64:  # a damaged length of a comment swallows the next members
        raise InputError(f"{path}: expected {promised} arrays, as its end says, got {n_members}: it is damaged")


def _read_torch(path: Path) -> dict[str, Any]:
    import torch

    if zipfile.is_zipfile(path):
        _check_archive(path)  # torch itself does not look at the checksums
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: expected a torch file of tensors only, got one with other objects, or a damaged one"
        ) from error
    if not isinstance(stored, dict):
        raise InputError(f"{path}: expected a dict of tensors, got {type(stored).__name__}")
    tensors = {str(name): value.detach() for name, value in stored.items() if isinstance(value, torch.Tensor)}
    return {name: (value if value.is_complex() else value.double()).numpy() for name, value in tensors.items()}
