"""Plain arrays by name, read from a user's .npz, .npy or torch files, damaged ones refused."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from sgdsim.common.checks import InputError

_ZIP_END = b"PK\x05\x06"  # begins the record at the end of a zip file; its number of members stands 10 bytes on
_IN_ZIP64 = 0xFFFF  # that number where there are more


def read_arrays(path: Path, kind: str = "kernel") -> dict[str, np.ndarray]:
    """The arrays of a file by name, a `kind` of file; the one array of a .npy file is called "kernel"."""
    if not path.is_file():
        raise InputError(f"{path}: expected a {kind} file, found none")
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
    raise InputError(f"{path}: expected a .npz, .npy, .csv, .pt or .pth file, got {path.suffix or 'no ending'}")


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


def _read_torch(path: Path) -> dict[str, np.ndarray]:
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
