"""The network's step compiled: the same numbers, and one line where there is no compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sgdsim as ss

STEP = """
import sgdsim as ss
problem = ss.NetworkProblem(ss.networks.MLP(width=30, seed=0), ss.datasets.load("digits", n=40, seed=0))
try:
    ss.simulate(problem, ss.SGD(0.5, 0.5, 4), ss.RealNetwork(compile=True), 3)
except ss.InputError as error:
    print(error)
"""
WITHOUT_COMPILER = "import torch._inductor.config\ntorch._inductor.config.cpp.cxx = ('no-such-compiler',)"


def compiled(code: str, folder: Path, without: str = "") -> subprocess.CompletedProcess:
    """`code` in a process of its own, without what torch has compiled before, and `without` one variable."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder)}
    environment.pop(without, None)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, cwd=folder, env=environment
    )


def skip_where_only_the_emulation_fails(error: ss.InputError, folder: Path) -> None:
    """Code for another CPU than the compiler builds for may not be C++ that it takes: torch's matter, not ours."""
    name = "ATEN_CPU_CAPABILITY"
    if name in os.environ:
        alone = compiled(STEP, folder, without=name)
        if alone.returncode == 0 and not alone.stdout:
            pytest.skip(f"the C++ that torch makes for {name}={os.environ[name]} is not compiled here: {error}")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, there is none")
def test_a_compiled_step_gives_the_same_numbers(tmp_path):
    problem = ss.NetworkProblem(ss.networks.MLP(width=30, seed=0), ss.datasets.load("digits", n=40, seed=0))
    for momentum in (0.0, 0.5):
        sgd = ss.SGD(ss.schedules.Power(0.8, 0.2), momentum, 4)
        plain = ss.simulate(problem, sgd, ss.RealNetwork(), 60, replicates=3)["loss"].values
        try:
            fast = ss.simulate(problem, sgd, ss.RealNetwork(compile=True), 60, replicates=3)["loss"].values
        except ss.InputError as error:
            skip_where_only_the_emulation_fails(error, tmp_path)
            raise
        np.testing.assert_allclose(fast, plain, rtol=1e-10)


def test_without_a_compiler_it_says_so(tmp_path):
    found = compiled(WITHOUT_COMPILER + STEP, tmp_path)
    assert "compile: expected a step that torch.compile takes, and on a CPU a C++ compiler" in found.stdout, (
        found.stderr
    )
    assert len(found.stdout.strip().splitlines()) == 1
