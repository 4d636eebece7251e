"""The tangent kernel: layer structure against a plain `vmap(jacrev)` contraction of two full Jacobians.

Every job runs in a process of its own, so that its peak memory is its own; both versions run the same inputs, and their
kernels are compared.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np


def mlp():
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(784, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 1))


def resnet():
    """A small residual CNN for 3 × 32 × 32 images, about 260,000 parameters."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inner: int) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(inner, inner, 3, padding=1), nn.Conv2d(inner, inner, 3, padding=1)
            self.norm = nn.BatchNorm2d(inner)

        def forward(self, x):
            return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (3, 32, 32)), nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), Block(32), nn.AvgPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), Block(64), nn.AvgPool2d(2), Block(64), Block(64), nn.AvgPool2d(4),
        nn.Flatten(), nn.Linear(256, 1),
    ).eval()  # fmt: skip


def inputs(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)


def plain(module, x: np.ndarray) -> np.ndarray:
    """The kernel as tutorials write it: the Jacobians of both arguments by vmap(jacrev), contracted."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    parameters = {name: p.detach() for name, p in module.named_parameters()}
    buffers = dict(module.named_buffers())

    def single(params, sample):
        return functional_call(module, {**params, **buffers}, (sample[None],)).squeeze(0)

    def jacobian(x):
        return [j.flatten(2) for j in vmap(jacrev(single), (None, 0))(parameters, x).values()]

    x = torch.as_tensor(x)
    one, two = jacobian(x), jacobian(x)
    return sum(torch.einsum("naf,maf->nm", a, b) for a, b in zip(one, two, strict=True)).numpy()


JOBS = {
    "mlp 784-1000-1, N = 1000, float32": {"make": mlp, "n": 1000, "d": 784, "plain": True},
    "mlp 784-1000-1, N = 3000, float32": {"make": mlp, "n": 3000, "d": 784, "plain": False},
    "mlp 784-1000-1, N = 3000, float64": {"make": mlp, "n": 3000, "d": 784, "plain": False, "dtype": "float64"},
    "resnet, CIFAR-sized images, N = 500, float32": {"make": resnet, "n": 500, "d": 3072, "plain": True},
}


def work(name: str, version: str, path: str) -> dict[str, Any]:
    """One job in this process: seconds (best of several), and peak memory beyond that of the imports and the model."""
    from sgdsim import ntk

    job = JOBS[name]
    module, x = job["make"](), inputs(job["n"], job["d"])
    run = plain if version == "plain" else lambda m, x: ntk.empirical_ntk(m, x, dtype=job.get("dtype", "float32"))
    run(module, x[:4])  # threads start, code is loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(2 if version == "plain" else 7):
        since = time.perf_counter()
        theta = run(module, x)
        times.append(time.perf_counter() - since)
    np.save(path, theta)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": min(times), "peak_gb": peak / 1e6}


def rows() -> Iterator[dict[str, Any]]:
    """One row per job: seconds and peak memory of both versions, their ratio and largest difference."""
    for name, job in JOBS.items():
        found, kernels = {}, {}
        for version in ("structured", *(["plain"] if job["plain"] else [])):
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "theta.npy")
                command = [sys.executable, "-m", "benchmarks.ntk", name, version, path]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    found[version] = {
                        "failed": done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode
                    }
                    continue
                found[version], kernels[version] = json.loads(done.stdout), np.load(path)
        row: dict[str, Any] = {"job": name}
        for version, numbers in found.items():
            row |= {f"{version} {key}": round(v, 3) if isinstance(v, float) else v for key, v in numbers.items()}
        if len(kernels) == 2:
            row["ratio"] = round(found["plain"]["seconds"] / found["structured"]["seconds"], 1)
            difference = np.abs(kernels["plain"] - kernels["structured"]).max() / np.abs(kernels["plain"]).max()
            row["largest difference"] = float(f"{difference:.1e}")
        yield row


if __name__ == "__main__":
    print(json.dumps(work(*sys.argv[1:])))
