"""Parallel loops leave the threads of other libraries alone."""

import os
import subprocess
import sys

import pytest

RUN = "ss.simulate(ss.QuadraticProblem.power_law(30, 1.5, 1.0), ss.SGD(0.5, 0.0, 3), ss.SampledLinearized(), 3)"


@pytest.mark.parametrize("torch_first", [True, False])
def test_torch_keeps_the_threads_it_was_given(torch_first):
    """numba's OpenMP layer sets those of the process: a network's steps took ten times as long beside other work."""
    lines = ["import sgdsim as ss", RUN]
    lines.insert(0 if torch_first else 2, "import torch")
    lines.append("print(torch.get_num_threads())")
    asked = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=asked)
    assert done.stdout.split() == ["1"], done.stderr
