"""The network's step compiled: the same numbers, and one line where there is no compiler."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import sgdsim as ss

NETWORK = """
import sgdsim as ss
import torch._inductor.config
torch._inductor.config.cpp.cxx = ("no-such-compiler",)
problem = ss.NetworkProblem(ss.networks.MLP(width=30, seed=0), ss.datasets.load("digits", n=40, seed=0))
try:
    ss.simulate(problem, ss.SGD(0.5, 0.5, 4), ss.RealNetwork(compile=True), 3)
except ss.InputError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def nothing_compiled_before(tmp_path, monkeypatch):
    """A cache of its own: torch's does not know for which CPU its code was made, and C++ for another is refused."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, there is none")
def test_a_compiled_step_gives_the_same_numbers():
    problem = ss.NetworkProblem(ss.networks.MLP(width=30, seed=0), ss.datasets.load("digits", n=40, seed=0))
    for momentum in (0.0, 0.5):
        sgd = ss.SGD(ss.schedules.Power(0.8, 0.2), momentum, 4)
        plain, compiled = (
            ss.simulate(problem, sgd, ss.RealNetwork(compile=choice), 60, replicates=3)["loss"].values
            for choice in (False, True)
        )
        np.testing.assert_allclose(compiled, plain, rtol=1e-10)


def test_without_a_compiler_it_says_so(tmp_path):
    """In a process of its own, without a compiler to be found."""
    found = subprocess.run([sys.executable, "-c", NETWORK], capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert "compile: expected a step that torch.compile takes, and on a CPU a C++ compiler" in found.stdout, (
        found.stderr
    )
    assert len(found.stdout.strip().splitlines()) == 1
