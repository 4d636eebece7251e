"""Kernel files that are damaged where neither NumPy nor torch looks."""

import numpy as np
import pytest
import torch

from sgdsim.common.checks import InputError
from sgdsim.problem.kernel_files import load_kernel

ARRAYS = {
    "kernel": np.eye(3) + 0.5, "residual": np.ones(3), "cross_kernel": np.ones((2, 3)), "test_residual": np.ones(2),
}  # fmt: skip


def changed(path, at, value):
    content = bytearray(path.read_bytes())
    content[at] = value
    path.write_bytes(content)


@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_no_array_is_lost_to_a_damaged_directory(tmp_path, ending):
    path = tmp_path / f"k{ending}"
    if ending == ".npz":
        np.savez(path, **ARRAYS)
    else:
        torch.save({name: torch.tensor(value) for name, value in ARRAYS.items()}, path)
    assert load_kernel(path).has_test
    content = path.read_bytes()
    second = content.find(b"PK\x01\x02", content.find(b"PK\x01\x02") + 1)
    changed(path, second + 33, 4)  # 1024 characters of comment, which are the entries after it
    with pytest.raises(InputError, match="damaged"):
        load_kernel(path)


def test_an_array_that_begins_too_early_is_refused(tmp_path):
    np.save(tmp_path / "k.npy", ARRAYS["kernel"])
    np.save(tmp_path / "r.npy", ARRAYS["residual"])
    load_kernel(tmp_path / "k.npy", residual=tmp_path / "r.npy")
    changed(tmp_path / "r.npy", 8, 0x66)  # the header's length: 16 blanks of it become two numbers
    with pytest.raises(InputError, match=r"r\.npy: expected a \.npy file that ends with its array"):
        load_kernel(tmp_path / "k.npy", residual=tmp_path / "r.npy")
