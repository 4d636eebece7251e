"""The undamaged files that command lines name and that the file fuzzer damages, all small."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
from pathlib import Path

import numpy as np
import scipy.io
import torch

import sgdsim as ss
from sgdsim import cli
from sgdsim.datasets import formats

POWER = "--dataset power_law --nu 1.5 --kappa 3 --n 12"
SWEEP = f"compare {POWER} --lr 0.5 1 --momentum 0 0.5 --batch-size 3 --n-steps 20 --replicates 2"
VALIDATE = "validate --n 20 --widths 5 --batch-size 5 --n-steps 40 --threshold-steps 40 --replicates 2 --only training"
MODEL = "from torch import nn\ndef small():\n    return nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 1))\n"


def write(folder: Path) -> Path:
    """All of them, in `folder`: its path."""
    arrays(folder)
    data_sets(folder / "data")
    (folder / "cells.csv").write_text("lr,momentum,batch_size\n0.5,0,4\n1,0.5,2\n")
    rows = np.random.default_rng(5).integers(1, 100, (40, 3))
    (folder / "table.csv").write_text("a,b,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    np.savez(folder / "arrays.npz", x=rows[:, :2], y=rows[:, 2])
    (folder / "models.py").write_text(MODEL)
    (folder / "notes.txt").write_text("no table, no kernel\n")
    (folder / "a_folder").mkdir()
    for line in (
        f"{SWEEP} --out result.nc",
        f"landscape {POWER} --lr 0:4:5 --momentum 0:1:5 --batch-size 2 --n-steps 10 --out map.nc",
        f"budget {POWER} --batch-size 1 2 --n-steps 40 --out budget.nc",
        f"spectrum {POWER} --out spectrum.nc",
        f"{SWEEP} --out whole.nc --shard 1/2",
        f"{SWEEP} --out whole.nc --shard 2/2",
        f"{SWEEP} --out half.nc --shard 1/2",
        f"{VALIDATE} --out validated.json",
    ):
        call(line, folder)
    return folder


def call(line: str, folder: Path) -> None:
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(line.split()) == 0, line


def arrays(folder: Path) -> None:
    """Kernels with test points as .npz and .pt, and kernel and residual as .npy."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((10, 12))
    joint = features @ features.T
    both = {
        "kernel": joint[:8, :8], "residual": rng.standard_normal(8),
        "cross_kernel": joint[8:, :8], "test_residual": rng.standard_normal(2),
    }  # fmt: skip
    np.savez(folder / "kernel.npz", **both)
    torch.save({name: torch.tensor(value) for name, value in both.items()}, folder / "kernel.pt")
    np.save(folder / "kernel.npy", both["kernel"])
    np.save(folder / "residual.npy", both["residual"])


def data_sets(folder: Path) -> None:
    """Each data set in its own format, as small as it may be, with values that follow from nothing but the seed."""
    rng = np.random.default_rng(4)
    for name, n in (("train", 40), ("t10k", 30)):
        for kind, values in (
            ("images-idx3", rng.integers(0, 256, (n, 3, 2))),
            ("labels-idx1", np.arange(n) % 10),
        ):
            header = struct.pack(f">{1 + values.ndim}I", 2048 + values.ndim, *values.shape)
            packed(folder / f"mnist/{name}-{kind}-ubyte.gz", header + values.astype(np.uint8).tobytes())
    for batch in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (8, formats.CIFAR_RECORD), dtype=np.uint8)
        records[:, 0] = np.arange(8)
        packed(folder / f"cifar10/{batch}.bin.gz", records.tobytes())
    for path, columns in (
        ("Bike-Sharing/hour.csv", (*formats.BIKE_FEATURES, "cnt")),
        ("sgemm_product/sgemm_product.csv", (*formats.SGEMM_FEATURES, *formats.SGEMM_RUNS)),
    ):
        (folder / path).parent.mkdir(parents=True)
        lines = [",".join(map(str, row)) for row in rng.integers(1, 100, (50, len(columns)))]
        (folder / path).write_text("\n".join([",".join(columns), *lines]) + "\n")
    (folder / "olivetti").mkdir()
    faces = np.repeat(rng.integers(0, 256, (64, 400), dtype=np.uint8), 64, axis=0)
    scipy.io.savemat(folder / "olivetti/olivettifaces.mat", {"faces": faces}, do_compression=True)


def packed(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0))


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file below `folder`, and of every folder nothing, by relative path."""
    found = {}
    for home, _, names in os.walk(folder):
        if home != str(folder):
            found[os.path.relpath(home, folder) + "/"] = b""
        for name in names:
            path = os.path.join(home, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def quadratic(folder: Path) -> ss.QuadraticProblem:
    from sgdsim.runs.results import load_problem

    return load_problem(folder / "spectrum.nc")
