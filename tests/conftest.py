"""Shared fixtures: small problems, and the folder of real data where there is one."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

import numpy as np
import pytest
from scipy.linalg import hadamard

import sgdsim as ss
from sgdsim.cli import main
from sgdsim.common import progress


def pytest_configure() -> None:
    """Give the session, and the programs it starts, a font cache of their own, built before any output is looked at:
    one left behind by an environment that is gone makes matplotlib print warnings."""
    os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="sgdsim-fonts-")
    atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
    import matplotlib.font_manager  # noqa: F401

    # A job in the background of a script ignores Ctrl-C, and so would all that it starts.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes do not name a test: packed ones hold the time, and parallel workers must agree on the names."""
    return "bytes" if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def no_progress(monkeypatch) -> None:
    """What commands say of how far they are depends on how long they take: nothing in tests that do not ask for it."""
    for name in ("FIRST", "LONG"):
        monkeypatch.setattr(progress, name, float("inf"))


@pytest.fixture
def tiny() -> ss.QuadraticProblem:
    """Five points with a random positive kernel, a residual and two test points."""
    rng = np.random.default_rng(7)
    features = rng.standard_normal((7, 9))
    joint = features @ features.T
    return ss.QuadraticProblem.from_kernel(
        joint[:5, :5], rng.standard_normal(5), cross_kernel=joint[5:, :5], test_residual=rng.standard_normal(2)
    )


@pytest.fixture
def hadamard_problem() -> ss.QuadraticProblem:
    """Eigenvectors with u_ki² = 1/N, where the spectral-diagonal regime with τ = 1 is exact."""
    n = 16
    eigenvalues = np.arange(1, n + 1) ** -1.5
    coefficients = np.random.default_rng(3).standard_normal(n)
    return ss.QuadraticProblem(ss.Spectrum(eigenvalues, hadamard(n) / np.sqrt(n)), coefficients)


@pytest.fixture(scope="session")
def digits_network() -> ss.NetworkProblem:
    """A narrow network on 60 digits with 30 test points."""
    return ss.NetworkProblem(
        ss.networks.MLP(width=40, seed=1), ss.datasets.load("digits", 60, 0, n_test=30), device="cpu"
    )


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder: its standard output, or its one line on standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words, code=0):
        assert main(list(words)) == code
        out, err = capsys.readouterr()
        if code == 2:
            assert (out, err.count("\n")) == ("", 1)
            return err
        assert err == "" or code == 130
        return out

    return call
