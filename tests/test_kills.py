"""A few cases of the kill harness (`tests/kills`); `make kills` runs as many as one likes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="who handles SIGTERM is read from /proc")


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("injected", 6),  # a kill after each operation of a sweep that goes on
        ("injected", 11),  # Ctrl-C before each operation of one that begins anew over another's parts
        ("commands", 0),
        ("together", 0),  # different ones, one is killed
    ],
)
def test_a_stopped_sweep_is_finished_to_the_last_bit(kind, seed):
    home = Path(__file__).parent
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]))
    case = [sys.executable, "-m", "kills", kind, "--seed", str(seed)]
    done = subprocess.run(case, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": right after " in done.stdout
